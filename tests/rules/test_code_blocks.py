"""Every code block of README and docs is run by a test: elsewhere, or here as far as it can be.

What takes hours, a GPU or docker is not run: its commands are read by the real command line (and
``make -n``), so that a target, a command, an option or a value that does not exist is found.
"""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import typer

from backdrop_client import cli_bench
from backdrop_export.checkpoints.recipe import read_recipe
from backdrop_export.cli import app

ROOT = Path(__file__).parents[2]
FENCE = re.compile(r"^ *```(\w*)\n(.*?)^ *```", re.DOTALL | re.MULTILINE)
WHOLE = {
    "docs/client.md": "tests/client/test_docs.py",
    "docs/operations.md": "tests/gateway/test_operations_page.py",
}
"""Pages whose every block a test file runs; it counts them too."""
ELSEWHERE = {
    ("README.md", "sh"): "tests/gateway/test_readme_request.py",
    ("README.md", "python"): "tests/gateway/test_readme_request.py",
}
"""Blocks that are the only ones of their language on the page, which the test file asserts."""
DOCKERFILE = "server_ext/container/Dockerfile"


def pages() -> list[Path]:
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks_left() -> list[tuple[str, str, str]]:
    """Page, language and text of each block that no other test runs."""
    found = []
    for page in pages():
        name = str(page.relative_to(ROOT))
        for language, text in FENCE.findall(page.read_text()):
            is_curl = name == "README.md" and "curl" in text  # tests/triton/test_readme.py
            if name not in WHOLE and (name, language) not in ELSEWHERE and not is_curl:
                found.append((name, language, text))
    return found


def commands(text: str) -> list[list[str]]:
    """The words of each command, comments left out."""
    lines = text.replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


@pytest.mark.parametrize(("page", "language", "text"), blocks_left())
def test_a_block_can_be_run(page: str, language: str, text: str, tmp_path: Path) -> None:
    if language == "toml":
        (tmp_path / "recipe.toml").write_text(text)
        assert read_recipe(tmp_path / "recipe.toml").base
        return
    assert language == "bash", f"{page}: no test runs a block in {language or 'no language'}"
    for words in commands(text):
        check(words)


def check(words: list[str]) -> None:
    """Fail unless the real command would take these words."""
    match words:
        case ["make", *targets]:
            subprocess.run(["make", "-n", *targets], cwd=ROOT, check=True, capture_output=True)
        case ["backdrop-export", *arguments]:
            group: Any = typer.main.get_command(app)
            name, command, rest = group.resolve_command(group.context_class(group), arguments)
            command.make_context(name, rest).close()
        case ["backdrop", "bench", *arguments]:  # tests/client/test_bench.py runs it
            bench: Any = typer.main.get_command(bench_app())
            bench.make_context("bench", arguments).close()
        case ["python", script, *_]:
            assert script == "docs/render_parameters.py"  # tests/client/test_parameters.py runs it
        case ["docker", "build", *arguments]:  # tests/container goes through its steps
            assert DOCKERFILE in arguments and (ROOT / DOCKERFILE).is_file()
        case ["docker", "run", *arguments]:
            assert arguments[-1] == "backdrop"
        case _:
            pytest.fail(f"no test runs {shlex.join(words)}")


def bench_app() -> typer.Typer:
    alone = typer.Typer()
    cli_bench.register(alone)
    return alone


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        ("backdrop-export train demo --fast", "No such option: --fast"),
        ("backdrop-export train cats --out x", "'cats' is not one of"),
        ("backdrop bench a.jpg --ref b.jpg -p x --pace 3", "No such option: --pace"),
        ("make nothing", "non-zero exit status 2"),
        ("rm -r x", "no test runs rm -r x"),
    ],
)
def test_a_wrong_command_is_found(bad: str, why: str) -> None:
    with pytest.raises(BaseException, match=why) as raised:  # pytest.fail raises no Exception
        check(shlex.split(bad))
    assert not isinstance(raised.value, (KeyboardInterrupt, SystemExit))


def test_the_tests_that_run_the_others_are_there() -> None:
    for file in (*WHOLE.values(), *ELSEWHERE.values()):
        assert (ROOT / file).is_file()
    for file in WHOLE.values():
        assert "def test_all_blocks_are_run" in (ROOT / file).read_text()
