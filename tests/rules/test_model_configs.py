"""Each committed config.pbtxt parses with Triton's own protobuf and equals contract.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from backdrop_server import contract

REPOSITORY = Path(__file__).parents[2] / "model_repository"
TYPES = {"BYTES": "TYPE_STRING"}


def load(name: str) -> Any:
    text = (REPOSITORY / name / "config.pbtxt").read_text()
    return text_format.Parse(text, model_config_pb2.ModelConfig())


def as_contract(entry: Any, *, is_input: bool) -> contract.Tensor:
    datatype = model_config_pb2.DataType.Name(entry.data_type)
    dtype = {"TYPE_STRING": "BYTES"}.get(datatype, datatype.removeprefix("TYPE_"))
    optional = is_input and entry.optional
    ragged = is_input and entry.allow_ragged_batch
    return contract.Tensor(entry.name, dtype, tuple(entry.dims), optional, ragged)


def declared(tensors: tuple[contract.Tensor, ...], model: str) -> list[contract.Tensor]:
    """The contract's tensors as a model may declare them: only `denoise` batches mixed shapes."""
    keep = model == contract.DENOISE.name
    return [
        contract.Tensor(t.name, t.dtype, t.dims, t.optional, t.ragged and keep) for t in tensors
    ]


def test_every_model_is_declared() -> None:
    folders = {path.name for path in REPOSITORY.iterdir() if path.is_dir()}
    assert folders == {model.name for model in contract.MODELS}


@pytest.mark.parametrize("model", contract.MODELS, ids=lambda model: model.name)
def test_config_equals_contract(model: contract.Model) -> None:
    config = load(model.name)
    assert config.name == model.name
    assert config.max_batch_size == model.max_batch_size
    inputs = [as_contract(entry, is_input=True) for entry in config.input]
    outputs = [as_contract(entry, is_input=False) for entry in config.output]
    assert inputs == declared(model.inputs, model.name)
    no_flags = [contract.Tensor(t.name, t.dtype, t.dims) for t in model.outputs]
    assert outputs == no_flags


def test_denoise_takes_as_many_as_the_contract_says() -> None:
    batching = load("denoise").sequence_batching
    assert batching.iterative_sequence
    assert batching.oldest.max_candidate_sequences == contract.MAX_IN_FLIGHT


@pytest.mark.parametrize(
    ("model", "count"),
    [("preprocess", contract.PREPROCESS_INSTANCES), ("cutout", contract.CUTOUT_INSTANCES)],
)
def test_there_are_as_many_instances_as_the_contract_says(model: str, count: int) -> None:
    (group,) = load(model).instance_group
    assert group.count == count


def test_compiled_models_leave_backend_and_devices_to_the_export() -> None:
    for name in ("text_encoder", "image_encoder", "vae_encoder", "vae_decoder"):
        config = load(name)
        assert not config.backend
        assert not config.instance_group


def test_ensemble_maps_every_tensor_once_and_completely() -> None:
    steps = load("replace_background").ensemble_scheduling.step
    members = [m for m in contract.MODELS if m.name not in ("replace_background", "control")]
    assert {step.model_name for step in steps} == {model.name for model in members}
    for model in members:
        own = [step for step in steps if step.model_name == model.name]
        assert all({t.name for t in model.inputs} == set(step.input_map) for step in own)
        given = [name for step in own for name in step.output_map]
        assert sorted(given) == sorted({t.name for t in model.outputs} - by_itself(model))
    produced = [value for step in steps for value in step.output_map.values()]
    assert len(produced) == len(set(produced))
    available = {tensor.name for tensor in contract.PUBLIC_INPUTS} | set(produced)
    assert all(set(step.input_map.values()) <= available for step in steps)
    assert {t.name for t in contract.PUBLIC_OUTPUTS} <= set(produced)


def by_itself(model: contract.Model) -> set[str]:
    """Outputs that a model gives only where it is called alone."""
    return {contract.ALPHA.name} if model == contract.PREPROCESS else set()


def test_nothing_but_the_last_stage_waits_for_the_cutout() -> None:
    steps = load("replace_background").ensemble_scheduling.step
    given = {t.name for t in contract.CUTOUT.outputs}
    waiting = {step.model_name for step in steps if given & set(step.input_map.values())}
    assert waiting == {contract.POSTPROCESS.name}
    needed = {t.name for t in contract.CUTOUT.inputs}
    assert needed <= {t.name for t in contract.PREPROCESS.outputs}
