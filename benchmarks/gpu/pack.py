"""Everything that a bare machine needs for the GPU bench, in one folder of at most 64 MiB.

    python -m benchmarks.gpu.pack --out build/gpu-bench

The folder holds the sources, the wheels that such a machine lacks, the commit, and the commands.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path

from backdrop_server.errors import BackdropError, SetupError
from benchmarks.conditions import conditions

ROOT = Path(__file__).parents[2]
SOURCES = (
    "benchmarks",
    "client/backdrop_client",
    "export/backdrop_export",
    "server_ext/backdrop_server",
)
WHEELS = ("diffusers", "importlib_metadata", "zipp")
"""What diffusers needs beside torch's and transformers' own needs."""
PYTHON = "3.12"
LARGEST = 64 * 2**20
COMMANDS = """\
# On the machine with the GPU, in this folder: Python 3.12 with torch and transformers.
python3 -m pip install --no-index --no-deps --target site wheels/*.whl
export PYTHONPATH="$PWD/site:$PWD:$PWD/client:$PWD/export:$PWD/server_ext"
python3 -m benchmarks.gpu all --out results --minutes 9   # again until it says that all are there
python3 -m benchmarks.gpu report --out results
"""


def pack(out: Path, with_wheels: bool = True) -> Path:
    """Write the folder ``out``, which must not exist; raises SetupError if it grows too large."""
    if out.exists():
        raise SetupError(f"{out} exists already; give a folder that does not")
    out.mkdir(parents=True)
    _copy_sources(out)
    stated = conditions()
    facts = {"commit": stated["commit"], "date": stated["date"]}
    (out / "PACKED.json").write_text(json.dumps(facts, indent=2) + "\n")
    (out / "commands.sh").write_text(COMMANDS)
    if with_wheels:
        _fetch_wheels(out / "wheels")
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    if size > LARGEST:
        raise SetupError(f"{out} holds {size / 2**20:.1f} MiB; at most {LARGEST >> 20} may travel")
    return out


def _copy_sources(out: Path) -> None:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", *SOURCES],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    names = listed.stdout.split("\n")[:-1]
    if listed.returncode != 0 or not names:
        raise SetupError("the sources can be packed only from a git checkout of the project")
    for name in names:
        if (ROOT / name).is_file():  # one may be deleted and not yet committed
            (out / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, out / name)


def _fetch_wheels(folder: Path) -> None:
    pins = dict(
        line.split("==") for line in (ROOT / "constraints.txt").read_text().split() if "==" in line
    )
    folder.mkdir()
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += ["--python-version", PYTHON, "-d", str(folder)]
    done = subprocess.run(
        [*command, *(f"{name}=={pins[name]}" for name in WHEELS)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        reason = done.stderr.strip().rpartition("\n")[2]
        raise SetupError(f"the wheels {', '.join(WHEELS)} could not be fetched: {reason}")


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu.pack")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "gpu-bench")
    parser.add_argument("--no-wheels", action="store_true", help="sources only")
    given = parser.parse_args()
    try:
        folder = pack(given.out, with_wheels=not given.no_wheels)
    except BackdropError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"written: {folder}\n\n{COMMANDS}", end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
