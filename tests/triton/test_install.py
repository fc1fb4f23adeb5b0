"""Finding a tritonserver and putting its backends folder together, on made-up installations."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import re
import shutil
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from backdrop_server.errors import SetupError
from backdrop_server.triton import install
from backdrop_server.triton.install import TritonInstall, find_tritonserver

OUR_BACKENDS = Path(install.__file__).parent / "backends"
LIBPYTHON = f"libpython3.{sys.version_info.minor}.so.1.0"


def system_install(home: Path, *backends: str) -> Path:
    """A tritonserver as in NVIDIA's container: its binary."""
    for name in backends:
        (home / "backends" / name).mkdir(parents=True)
        (home / "backends" / name / f"libtriton_{name}.so").write_text("native")
    (home / "bin").mkdir(parents=True)
    binary = home / "bin" / "tritonserver"
    binary.touch(0o755)
    return binary


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    folder = tmp_path / "scratch"
    folder.mkdir()
    return folder


def contents(folder: Path) -> dict[str, list[str]]:
    return {path.name: sorted(file.name for file in path.iterdir()) for path in folder.iterdir()}


# --- which one ------------------------------------------------------------------------------------


def test_the_given_binary_is_taken(tmp_path: Path) -> None:
    binary = system_install(tmp_path / "home", "python")
    found = find_tritonserver(binary)
    assert found == TritonInstall(binary, tmp_path / "home" / "backends")


def test_a_link_to_the_binary_finds_the_backends_beside_the_real_one(tmp_path: Path) -> None:
    binary = system_install(tmp_path / "home", "python")
    link = tmp_path / "tritonserver"
    link.symlink_to(binary)
    assert find_tritonserver(link).backends == tmp_path / "home" / "backends"


@pytest.mark.parametrize("made", ["nothing", "folder"])
def test_a_missing_binary_is_named(tmp_path: Path, made: str) -> None:
    binary = tmp_path / "tritonserver"
    if made == "folder":
        binary.mkdir()
    with pytest.raises(SetupError, match=f"^there is no tritonserver at {re.escape(str(binary))}$"):
        find_tritonserver(binary)


def test_a_tritonserver_without_the_python_backend_is_refused(tmp_path: Path) -> None:
    binary = system_install(tmp_path, "openvino")
    with pytest.raises(SetupError, match="has no python backend in"):
        find_tritonserver(binary)


def test_the_machines_own_comes_before_the_wheels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    binary = system_install(tmp_path, "python")
    monkeypatch.setenv("PATH", str(binary.parent))
    assert find_tritonserver().binary == binary


@pytest.fixture
def nothing_on_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    monkeypatch.setattr(install, "_SYSTEM_HOME", tmp_path / "none")


@pytest.mark.usefixtures("nothing_on_path")
def test_the_wheels_server_is_complete() -> None:
    found = find_tritonserver()
    assert os.access(found.binary, os.X_OK)
    assert found.stub is not None and found.stub.is_file()
    assert (found.backends / "python").is_dir()
    assert all(folder.is_dir() for folder in found.libraries)


@pytest.mark.usefixtures("nothing_on_path")
def test_no_server_at_all_says_how_to_get_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SetupError, match=r"pip install 'backdrop\[server\]'"):
        find_tritonserver()


@pytest.mark.usefixtures("nothing_on_path")
def test_a_wheel_without_a_stub_for_this_python_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class Spec:
        origin = str(tmp_path / "pytriton" / "__init__.py")

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: Spec)
    with pytest.raises(SetupError, match=rf"has no stub for Python 3\.{sys.version_info.minor}$"):
        find_tritonserver()


# --- libpython ------------------------------------------------------------------------------------


def no_library(name: str) -> Any:
    raise OSError(f"{name}: cannot open shared object file")


@pytest.mark.usefixtures("nothing_on_path")
def test_a_missing_libpython_is_reported_with_its_package(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(ctypes, "CDLL", no_library)
    monkeypatch.setattr(sysconfig, "get_config_var", lambda name: str(tmp_path))
    with pytest.raises(SetupError) as caught:
        find_tritonserver()
    package = f"libpython3.{sys.version_info.minor}"
    assert LIBPYTHON in str(caught.value)
    assert str(caught.value).endswith(f"apt-get install {package}")


@pytest.mark.usefixtures("nothing_on_path")
def test_a_libpython_outside_the_loaders_path_is_found(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / LIBPYTHON).touch()
    monkeypatch.setattr(ctypes, "CDLL", no_library)
    monkeypatch.setattr(sysconfig, "get_config_var", lambda name: str(tmp_path))
    found = find_tritonserver()
    assert found.libraries[-1] == tmp_path
    assert str(tmp_path) in found.environment()["LD_LIBRARY_PATH"].split(":")


def test_a_system_install_brings_its_own_libpython(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(ctypes, "CDLL", no_library)
    assert find_tritonserver(system_install(tmp_path, "python")).libraries == ()


# --- environment ----------------------------------------------------------------------------------


def test_the_environment_puts_our_python_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/usr/bin")
    monkeypatch.setenv("LD_LIBRARY_PATH", "/theirs")
    libraries = (Path("/ours/libs"), Path("/ours/python"))
    made = TritonInstall(Path("/t"), Path("/b"), libraries).environment()
    assert made["PATH"] == f"{Path(sys.executable).parent}:/usr/bin"
    assert made["LD_LIBRARY_PATH"] == "/ours/libs:/ours/python:/theirs"


def test_blas_threads_do_not_spin_unless_the_operator_wants_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    install = TritonInstall(Path("/t"), Path("/b"))
    monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
    assert install.environment()["OPENBLAS_NUM_THREADS"] == "1"
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "3")
    assert install.environment()["OPENBLAS_NUM_THREADS"] == "3"


def test_the_environment_has_no_empty_library_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty entry would mean the current folder."""
    monkeypatch.delenv("LD_LIBRARY_PATH", raising=False)
    assert TritonInstall(Path("/t"), Path("/b")).environment()["LD_LIBRARY_PATH"] == ""
    made = TritonInstall(Path("/t"), Path("/b"), (Path("/ours"),)).environment()
    assert made["LD_LIBRARY_PATH"] == "/ours"


# --- the backends folder --------------------------------------------------------------------------


def test_a_complete_install_is_used_as_it_is(tmp_path: Path, scratch: Path) -> None:
    found = find_tritonserver(system_install(tmp_path / "home", "python", "openvino", "tensorrt"))
    assert found.backend_folder({"python", "openvino"}, scratch) == found.backends
    assert not list(scratch.iterdir())


def test_what_an_install_lacks_is_added_to_a_mix(tmp_path: Path, scratch: Path) -> None:
    found = find_tritonserver(system_install(tmp_path / "home", "python", "openvino", "tensorrt"))
    folder = found.backend_folder({"python", "openvino", "onnxruntime"}, scratch)
    assert folder == scratch
    assert contents(folder) == {
        "python": ["libtriton_python.so"],
        "openvino": ["libtriton_openvino.so"],  # the native one comes before ours
        "onnxruntime": ["__init__.py", "model.py"],
    }
    assert not any(path.is_symlink() for path in folder.rglob("*"))


def test_a_backend_that_nobody_has_is_named(tmp_path: Path, scratch: Path) -> None:
    found = find_tritonserver(system_install(tmp_path / "home", "python"))
    with pytest.raises(SetupError, match=r"^this tritonserver has no backend 'pytorch'$"):
        found.backend_folder({"python", "pytorch"}, scratch)


@pytest.mark.usefixtures("nothing_on_path")
@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
def test_the_wheels_mix_has_an_executable_stub(scratch: Path, engine: str) -> None:
    found = find_tritonserver()
    folder = found.backend_folder({"python", engine}, scratch)
    assert set(contents(folder)) == {"python", engine}
    stub = folder / "python" / "triton_python_backend_stub"
    assert os.access(stub, os.X_OK)
    assert (folder / engine / "model.py").read_text() == (
        OUR_BACKENDS / engine / "model.py"
    ).read_text()


def remove_binary(binary: Path) -> None:
    binary.unlink()


def remove_backends(binary: Path) -> None:
    shutil.rmtree(binary.parents[1] / "backends")


@pytest.mark.parametrize("damage", [remove_binary, remove_backends])
def test_a_half_removed_install_is_refused(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    binary = system_install(tmp_path, "python")
    damage(binary)
    with pytest.raises(SetupError):
        find_tritonserver(binary)
