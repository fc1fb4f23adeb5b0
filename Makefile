# Each target sets up what it needs. Settings: PYTHON, BUNDLE (demo, tiny), ENGINE.
PYTHON ?= python3.11
BUNDLE ?= demo
ENGINE ?= openvino-fp32
VENV := .venv
BIN := $(VENV)/bin
REPOSITORY = build/$(BUNDLE)-$(ENGINE)
export HF_HUB_OFFLINE := 1
export HF_HUB_DISABLE_TELEMETRY := 1

.PHONY: demo serve test check bench bench-parts bench-weights bench-gpu soak storm fuzz repository clean

demo: repository
	$(BIN)/backdrop demo --repository $(REPOSITORY) --out build/pictures --log-file build/triton.log

serve: repository
	$(BIN)/backdrop serve --repository $(REPOSITORY) --data-dir build/data --log-file build/triton.log

repository: $(VENV)/.installed
	$(BIN)/backdrop-export bundle $(BUNDLE) --out build/bundles/$(BUNDLE)
	$(BIN)/backdrop-export repository build/bundles/$(BUNDLE) --engine $(ENGINE) --out build

test: $(VENV)/.installed
	$(BIN)/pytest -m "not soak and not photos"

fuzz: $(VENV)/.installed
	$(BIN)/pytest -m soak -s tests/gateway/test_fuzz.py

storm: $(VENV)/.installed
	$(BIN)/pytest -m soak -s tests/gateway/test_storm.py

soak: $(VENV)/.installed
	$(BIN)/pytest -m soak -s

check: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest tests/rules

# Under load, what the processor does fastest; by itself, the exact engine too.
bench: ENGINE = openvino-bf16
bench: repository
	$(MAKE) repository ENGINE=openvino-fp32
	$(BIN)/python -m benchmarks.load --repository $(REPOSITORY) --bundle build/bundles/$(BUNDLE)
	$(BIN)/python -m benchmarks.load.overload --repository $(REPOSITORY)
	$(BIN)/python -m benchmarks.load.growth --repository $(REPOSITORY) --bundle build/bundles/$(BUNDLE)
	$(BIN)/python -m benchmarks.solo --repository $(REPOSITORY)
	$(BIN)/python -m benchmarks.solo --repository build/$(BUNDLE)-openvino-fp32
	$(BIN)/python -m benchmarks.paper
	$(BIN)/python -m benchmarks.readme

bench-parts: repository
	$(MAKE) repository BUNDLE=tiny
	$(MAKE) repository ENGINE=openvino-bf16
	$(BIN)/python -m benchmarks.load --repository $(REPOSITORY) --pictures build
	$(BIN)/python -m benchmarks.engines --bundle build/bundles/demo
	$(BIN)/python -m benchmarks.gateway --repository build/tiny-$(ENGINE)
	$(BIN)/python -m benchmarks.precision --bundle build/bundles/demo \
		--engine openvino-fp32 --engine openvino-bf16 --engine onnxruntime-fp16 --engine onnxruntime-int8
	$(BIN)/python -m benchmarks.quality.mattes
	$(BIN)/python -m benchmarks.readme

bench-weights: repository
	$(BIN)/python -m benchmarks.quality.prompts --repository build/demo-$(ENGINE)
	$(BIN)/python -m benchmarks.readme

bench-gpu: $(VENV)/.installed
	$(BIN)/python -m benchmarks.gpu all --out build/gpu-bench-results --minutes 120

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/pip install --disable-pip-version-check --progress-bar on -c constraints.txt -e ".[dev]"
	touch $@

clean:
	rm -rf build $(VENV)
