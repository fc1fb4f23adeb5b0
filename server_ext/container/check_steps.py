"""Runs the Dockerfile's own steps in a plain folder, without Docker, and tries what they install.

The steps of the stage ``build`` that are not NVIDIA's (COPY, RUN) are done one by one with a fresh
virtual environment's Python in place of the image's; then the installed command is tried::

    python3 server_ext/container/check_steps.py                # as the image is built: several GB
    python3 server_ext/container/check_steps.py --extras ""    # the plain client only: seconds
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = Path(__file__).with_name("Dockerfile")
STAGE = "build"
INSTALLED = "/opt/backdrop"
UNWANTED = "nvidia-pytriton"
"""The wheel with a tritonserver of its own: the image has one."""

_HELP = """
import contextlib, io, sys
from backdrop_client.cli import main
sys.argv = ["backdrop", "--help"]
with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
    main()
print(*sys.modules)
"""


@dataclasses.dataclass(frozen=True)
class Step:
    """One instruction: its keyword in capitals and the rest of its line."""

    keyword: str
    rest: str


def read_steps(text: str, stage: str = STAGE) -> Iterator[Step]:
    """The instructions of one stage, continued lines joined, comments left out."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    inside = False
    for line in filter(None, map(str.strip, joined.splitlines())):
        keyword, _, rest = line.partition(" ")
        if keyword == "FROM":
            inside = rest.endswith(f" AS {stage}")
        elif inside:
            yield Step(keyword, rest.strip())


@dataclasses.dataclass
class Runner:
    """Does steps under ``root``, where absolute paths of the image are folders of it."""

    root: Path
    python: Path
    arguments: dict[str, str]
    folder: str = "/"

    def run(self, step: Step) -> None:
        """Do one step; an instruction that is not known here is an error, not passed over."""
        say(f"{step.keyword} {step.rest}")
        if step.keyword == "ARG":
            name, _, default = step.rest.partition("=")
            self.arguments.setdefault(name, default)
        elif step.keyword == "WORKDIR":
            self.folder = step.rest
            self._here.mkdir(parents=True, exist_ok=True)
        elif step.keyword == "COPY":
            self._copy(*step.rest.split())
        elif step.keyword == "RUN":
            self._shell(step.rest)
        else:
            raise SystemExit(f"check_steps: no way to do {step.keyword} outside of a container")

    @property
    def _here(self) -> Path:
        return self.root / self.folder.lstrip("/")

    def _copy(self, *names: str) -> None:
        *sources, target = names
        for source in sources:
            found, copy = ROOT / source, self._here / target
            if found.is_dir():
                ignored = shutil.ignore_patterns("__pycache__", "*.egg-info", ".*")
                shutil.copytree(found, copy, ignore=ignored)
            else:
                shutil.copy(found, copy)

    def _shell(self, command: str) -> None:
        command = command.replace(INSTALLED, f"{self.root}{INSTALLED}")
        path = f"{self.python.parent}:{os.environ['PATH']}"
        environment = clean_environment() | self.arguments | {"PATH": path}
        done = subprocess.run(
            ["/bin/sh", "-c", command], check=False, cwd=self._here, env=environment
        )
        if done.returncode:
            raise SystemExit(f"check_steps: the step ended with {done.returncode}")


def clean_environment() -> dict[str, str]:
    """This process's environment without what would lead Python elsewhere."""
    led_by = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
    return {name: value for name, value in os.environ.items() if name not in led_by}


def plain_python(folder: Path, wanted: str) -> Path:
    """The Python of a fresh virtual environment, made by ``wanted`` or, lacking that, by our own."""
    works = [wanted, "-c", "import ensurepip, venv"]
    found = shutil.which(wanted) is not None
    if not found or subprocess.run(works, capture_output=True, check=False).returncode:
        say(f"there is no working {wanted}; {Path(sys.executable).name} is taken instead")
        wanted = sys.executable
    subprocess.run([wanted, "-m", "venv", str(folder)], check=True, env=clean_environment())
    return folder / "bin" / "python3"


def try_installed(runner: Runner) -> None:
    """Try what was installed as the image would; an error or something unwanted ends this."""
    home = Path(f"{runner.root}{INSTALLED}/bin")
    pip = [str(runner.python), "-m", "pip", "--python", str(home / "python")]
    packages = output([*pip, "list", "--format=freeze"])
    if re.search(rf"^{UNWANTED}==", packages, re.MULTILINE | re.IGNORECASE):
        raise SystemExit(f"check_steps: {UNWANTED} was installed; the image has its own Triton")
    say(output([*pip, "check"]).strip())
    output([str(home / "backdrop"), "--help"])
    imported = output([str(home / "python"), "-c", _HELP])
    if "torch" in imported.split():
        raise SystemExit("check_steps: backdrop --help imports torch")
    if runner.arguments["EXTRAS"]:
        output([str(home / "backdrop"), "serve", "--help"])
    say(f"backdrop --help: {len(packages.splitlines())} packages, torch not imported")


def output(command: list[str]) -> str:
    """What a command prints; when it fails, its words and an exit code of 1."""
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, env=clean_environment()
    )
    if done.returncode:
        raise SystemExit(f"check_steps: {' '.join(command)}: {done.stdout}{done.stderr}")
    return done.stdout


def say(line: str) -> None:
    """A line to the reader, at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> None:
    """Run the steps and the trial in a temporary folder, and remove it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--extras", help="in place of the Dockerfile's EXTRAS")
    parser.add_argument("--python", default="python3.12", help="the image's (%(default)s)")
    options = parser.parse_args()
    arguments = {} if options.extras is None else {"EXTRAS": options.extras}
    with tempfile.TemporaryDirectory(prefix="backdrop-container-") as folder:
        root = Path(folder) / "image"
        runner = Runner(root, plain_python(Path(folder) / "python", options.python), arguments)
        for step in read_steps(DOCKERFILE.read_text(encoding="utf-8")):
            runner.run(step)
        try_installed(runner)


if __name__ == "__main__":
    main()
