"""The documents say what the code and the result files say."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import tomllib
from benchmarks.conditions import RESULTS
from benchmarks.readme import with_numbers, with_performance, with_quality

from backdrop_export.engines import ENGINE_KINDS
from backdrop_server.contract import NUMBERS, PUBLIC_INPUTS, SCHEDULERS, ReplaceOptions
from backdrop_server.settings import Settings

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def test_the_numbers_are_those_of_the_result_files() -> None:
    assert with_numbers(README) == README, "run: python -m benchmarks.readme"
    page = (ROOT / "docs" / "quality.md").read_text()
    assert with_quality(page) == page, "run: python -m benchmarks.readme"
    page = (ROOT / "docs" / "performance.md").read_text()
    assert with_performance(page) == page, "run: python -m benchmarks.readme"


def test_every_field_is_in_the_table_with_its_default_and_range() -> None:
    defaults = ReplaceOptions(prompt="")
    rows = {
        cells[0].strip(" `"): cells[1:]
        for line in README.splitlines()
        if line.startswith("| `") and len(cells := line.strip("| ").split(" | ")) == 4
    }
    assert set(rows) == {tensor.name for tensor in PUBLIC_INPUTS}
    for tensor in PUBLIC_INPUTS:
        assert rows[tensor.name][0] == tensor.dtype
    for name, number in NUMBERS.items():
        assert rows[name][1].startswith(f"{number.default:g}")
        assert f"{number.low:g} to {number.high:.15g}" in rows[name][2]
    assert rows["scheduler"][1] == defaults.scheduler
    assert rows["scheduler"][2] == ", ".join(SCHEDULERS)


def test_every_engine_is_in_the_table_with_its_precisions() -> None:
    text = (ROOT / "docs" / "engines.md").read_text()
    rows = {cells[1].strip(" `"): cells[2] for cells in map(split, text.splitlines()) if cells[1:]}
    for backend in {kind.backend for kind in ENGINE_KINDS.values()}:
        made = [kind.precision.value for kind in ENGINE_KINDS.values() if kind.backend == backend]
        assert rows[backend].strip() == ", ".join(made)
    for name in ENGINE_KINDS:
        assert f"| {name} | " in README


def test_recorded_pictures_in_half_precision_are_near_those_in_fp32() -> None:
    result = json.loads((RESULTS / "precision-demo.json").read_text())
    half = {name: psnr for name, psnr in result["psnr_db"].items() if name.endswith("16")}
    assert half.keys() >= {"openvino-bf16", "onnxruntime-fp16"}
    assert min(value for values in half.values() for value in values) >= 30


def test_every_setting_is_in_the_table_with_its_default() -> None:
    text = (ROOT / "docs" / "gateway.md").read_text()
    rows = {
        cells[1].strip(" `"): cells[2].strip()
        for cells in map(split, text.splitlines())
        if cells[1:]
    }
    for name, field in Settings.model_fields.items():
        assert rows[name] == str(field.default or "none").replace("()", "none"), name


def split(line: str) -> list[str]:
    """Cells of a table's line; the line as it is otherwise."""
    return line.split("|") if line.startswith("| `") else [line]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path) -> None:
    targets = re.findall(r"\]\(([^)#]+)\)", path.read_text())
    for target in targets:
        if not target.startswith("http"):
            assert (path.parent / target).exists(), f"{path.name} links to {target}"


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_named_paths_and_make_targets_exist(path: Path) -> None:
    text = path.read_text()
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for target in re.findall(r"\bmake ([a-z]+)", text):
        assert target in targets | {"and"}, f"{path.name} names make {target}"
    for named in re.findall(r"`((?:tests|docs|benchmarks|server_ext|export)/[\w./]+)`", text):
        assert (ROOT / named).exists(), f"{path.name} names {named}"


def test_the_readme_shows_a_picture_and_the_two_commands_first() -> None:
    screen = "\n".join(README.splitlines()[:20])
    assert re.search(r"!\[.+\]\(docs/pictures/\w+\.png\)", screen)
    assert "make demo" in screen
    assert "make test" in screen


def test_constraints_pin_every_dependency() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [item for group in project["optional-dependencies"].values() for item in group]
    named = {re.split(r"[\[<>=!; ]", item)[0].lower() for item in project["dependencies"] + extras}
    pins = (ROOT / "constraints.txt").read_text().lower().splitlines()
    pinned = {line.partition("==")[0].replace("_", "-") for line in pins}
    assert named - {"backdrop"} <= pinned
