"""Finding a tritonserver: the machine's own, or the one in the ``nvidia-pytriton`` wheel."""

from __future__ import annotations

import ctypes
import dataclasses
import importlib.util
import os
import shutil
import sys
import sysconfig
from collections.abc import Collection
from pathlib import Path

from backdrop_server.errors import SetupError

_SYSTEM_HOME = Path("/opt/tritonserver")
# glibc gives each thread an arena of its own, and learns to keep ever larger freed blocks: memory
# creeps up for hundreds of pictures. One arena and fixed thresholds hold it flat. The thresholds are
# above a picture's arrays: smaller ones give each back to the kernel, which then clears it anew.
_MALLOC = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": str(32 * 2**20),
    "MALLOC_TRIM_THRESHOLD_": str(64 * 2**20),
}
# numpy's linear algebra is one small fit a photo, after which OpenBLAS's threads spin for as long as
# the rest of `preprocess` takes: half of that process's time.
_THREADS = {"OPENBLAS_NUM_THREADS": "1"}
_OUR_BACKENDS = Path(__file__).parent / "backends"


@dataclasses.dataclass(frozen=True)
class TritonInstall:
    """Where a tritonserver and its parts are; ``stub`` None: it lies in the python backend."""

    binary: Path
    backends: Path
    libraries: tuple[Path, ...] = ()
    stub: Path | None = None

    @property
    def caches(self) -> Path:
        """The folder of Triton's response caches."""
        return self.binary.resolve().parent.parent / "caches"

    def environment(self) -> dict[str, str]:
        """The process environment: our Python first on PATH, where the stub looks for it."""
        environment = dict(os.environ)
        environment["PATH"] = f"{Path(sys.executable).parent}:{environment.get('PATH', '')}"
        environment = _MALLOC | _THREADS | environment
        libraries = [str(folder) for folder in self.libraries]
        libraries.append(environment.get("LD_LIBRARY_PATH", ""))
        environment["LD_LIBRARY_PATH"] = ":".join(filter(None, libraries))
        return environment

    def backend_folder(self, needed: Collection[str], scratch: Path) -> Path:
        """The folder to give to Triton: the native backends if they are all there, else a mix.

        The mix is built in ``scratch`` from the python backend and, for each of ``needed``, the
        native backend or ours on Python. Copies, since Triton refuses links that leave the folder.
        """
        native = {path.name for path in self.backends.iterdir()}
        if self.stub is None and native.issuperset(needed):
            return self.backends
        for name in {"python", *needed}:
            source = self.backends / name if name in native else _OUR_BACKENDS / name
            if not source.is_dir():
                raise SetupError(f"this tritonserver has no backend {name!r}")
            shutil.copytree(source, scratch / name, ignore=shutil.ignore_patterns("__pycache__"))
        if self.stub is not None:
            stub = scratch / "python" / self.stub.name
            shutil.copy(self.stub, stub)
            stub.chmod(0o755)  # wheels carry no executable bit
        return scratch


def find_tritonserver(binary: Path | None = None) -> TritonInstall:
    """The given tritonserver, else the machine's own, else the wheel's. Raises SetupError."""
    if binary is not None:
        if not binary.is_file():
            raise SetupError(f"there is no tritonserver at {binary}")
        return _system_install(binary)
    on_path = shutil.which("tritonserver", path=f"{os.environ.get('PATH', '')}:{_SYSTEM_HOME}/bin")
    return _system_install(Path(on_path)) if on_path else _wheel_install()


def _system_install(binary: Path) -> TritonInstall:
    backends = binary.resolve().parent.parent / "backends"
    if not (backends / "python").is_dir():
        raise SetupError(f"the tritonserver {binary} has no python backend in {backends}")
    return TritonInstall(binary, backends)


def _wheel_install() -> TritonInstall:
    spec = importlib.util.find_spec("pytriton")
    if spec is None or spec.origin is None:
        raise SetupError(
            "no tritonserver found; install one with: pip install 'backdrop[server]', "
            "or run in NVIDIA's Triton container"
        )
    package = Path(spec.origin).parent
    home = package / "tritonserver"
    binary = home / "bin" / "tritonserver"
    version = f"3.{sys.version_info.minor}"
    stub = home / "python_backend_stubs" / version / "triton_python_backend_stub"
    if not stub.is_file():
        raise SetupError(f"the nvidia-pytriton wheel has no stub for Python {version}")
    libraries = (package.parent / "nvidia_pytriton.libs", *_libpython_folders())
    return TritonInstall(_executable(binary), home / "backends", libraries, stub)


def _executable(binary: Path) -> Path:
    if not os.access(binary, os.X_OK):
        binary.chmod(binary.stat().st_mode | 0o111)
    return binary


def _libpython_folders() -> tuple[Path, ...]:
    """Folders to add so that the stub finds libpython; empty when the loader finds it unaided.

    This interpreter's own library comes first: the stub runs our standard library, and another
    patch release's libpython may not fit its extension modules.
    """
    name = f"libpython3.{sys.version_info.minor}.so.1.0"
    own = Path(str(sysconfig.get_config_var("LIBDIR")))
    if (own / name).is_file():
        return (own,)
    try:
        ctypes.CDLL(name)
    except OSError:
        package = f"libpython3.{sys.version_info.minor}"
        raise SetupError(
            f"Triton's Python stub needs {name}, which is not on this machine; "
            f"on Debian and Ubuntu: apt-get install {package}"
        ) from None
    return ()
