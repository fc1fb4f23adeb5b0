"""The light client in a clean environment: what it brings, how fast it loads, what its command says."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCE = ("pyproject.toml", "README.md", "LICENSE", "client", "export", "server_ext")
LOADING = """
import sys, time
begun = time.perf_counter()
import backdrop_client
print(time.perf_counter() - begun, *sorted({name.partition(".")[0] for name in sys.modules}))
"""


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of a new environment with `pip install .` in it; built away from the checkout."""
    folder = tmp_path_factory.mktemp("clean")
    source = folder / "source"
    source.mkdir()
    for name in SOURCE:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, source / name)
    venv.create(folder / "venv", with_pip=True)
    bin_folder = folder / "venv" / "bin"
    pip = [bin_folder / "pip", "install", "--quiet", "--disable-pip-version-check"]
    done = run(*pip, "-c", ROOT / "constraints.txt", source, cwd=folder)
    assert done.returncode == 0, done.stderr
    return bin_folder


def run(*command: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run it without this test's own environment."""
    kept = {name: text for name, text in os.environ.items() if not name.startswith("PYTHON")}
    return subprocess.run(
        list(map(str, command)),
        cwd=cwd,
        env=kept | {"COLUMNS": "200", "NO_COLOR": "1", "BACKDROP_KEY": "bd_key"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_it_is_light(clean: Path, tmp_path: Path) -> None:
    listed = run(clean / "pip", "list", "--format=freeze", cwd=tmp_path).stdout.lower()
    names = {line.partition("==")[0] for line in listed.split()}
    assert {"backdrop", "httpx", "pillow", "rich", "typer"} <= names
    assert not names & {"torch", "numpy", "tritonclient", "fastapi", "onnxruntime", "diffusers"}
    assert len(names) <= 25, names


def test_it_loads_fast_and_nothing_that_is_not_needed(clean: Path, tmp_path: Path) -> None:
    seconds = []
    for _ in range(5):
        first, *modules = run(clean / "python", "-c", LOADING, cwd=tmp_path).stdout.split()
        seconds.append(float(first))
        assert not set(modules) & {"httpx", "PIL", "numpy", "torch", "typer", "tritonclient"}
    assert min(seconds) < 0.3


def test_the_command_is_whole(clean: Path, tmp_path: Path) -> None:
    shown = run(clean / "backdrop", "--help", cwd=tmp_path)
    assert shown.returncode == 0, shown.stderr
    assert "replace" in shown.stdout
    commands = {line.strip("│ ").partition(" ")[0] for line in shown.stdout.splitlines()}
    assert {"replace", "credits", "bench"} <= commands
    assert "serve" not in commands  # its extra is not there
    assert run(clean / "backdrop", "replace", "--help", cwd=tmp_path).returncode == 0
    call = ("replace", "no.png", "--ref", "no.png", "-p", "a beach")
    done = run(clean / "backdrop", *call, cwd=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    done = run(clean / "backdrop", *call, "--triton", "127.0.0.1:1", cwd=tmp_path)
    assert done.returncode == 2
    assert "pip install 'backdrop[triton]'" in done.stderr


def test_loading_here_brings_no_torch_either(tmp_path: Path) -> None:
    done = run(sys.executable, "-c", LOADING, cwd=tmp_path)
    assert not set(done.stdout.split()) & {"torch", "numpy", "PIL", "httpx"}, done.stderr
