"""The Dockerfile: a linter finds nothing, and what it installs fits Triton."""

from __future__ import annotations

import http.server
import json
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import tomllib
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "server_ext" / "container"
DOCKERFILE = (FOLDER / "Dockerfile").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
IMAGE = {"python_version": "3.12", "sys_platform": "linux", "platform_machine": "x86_64"}


def default(argument: str) -> str:
    (value,) = re.findall(rf"^ARG {argument}=(\S+)$", DOCKERFILE, re.MULTILINE)
    return str(value)


def instruction(keyword: str) -> str:
    """The last instruction of that keyword, continued lines joined."""
    joined = DOCKERFILE.replace("\\\n", " ")
    return str(re.findall(rf"^{keyword} (.*)$", joined, re.MULTILINE)[-1])


def requirements(*extras: str) -> list[Requirement]:
    """What the package needs with ``extras``, extras of extras included."""
    found = [Requirement(text) for text in PROJECT["dependencies"]]
    for extra in extras:
        for text in PROJECT["optional-dependencies"][extra]:
            needed = Requirement(text)
            if needed.name == PROJECT["name"]:
                found += requirements(*needed.extras)
            elif needed.marker is None or needed.marker.evaluate(IMAGE):
                found.append(needed)
    return found


def test_the_linter_finds_nothing() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    done = subprocess.run(
        [hadolint, FOLDER / "Dockerfile"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_the_image_keeps_its_own_triton() -> None:
    names = {needed.name for needed in requirements(default("EXTRAS"))}
    assert "nvidia-pytriton" not in names
    assert names >= {"torch", "diffusers", "tritonclient"}
    whole = {needed.name for needed in requirements("server")}
    assert whole - names == {"nvidia-pytriton"}


def test_what_it_installs_is_pinned_and_fits_its_python() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = dict(line.lower().replace("_", "-").split("==") for line in lines)
    for needed in requirements(default("EXTRAS")):
        assert needed.specifier.contains(pins[needed.name.lower()]), needed
    assert Requirement(f"x{PROJECT['requires-python']}").specifier.contains("3.12.3")
    assert int(pins["numpy"].split(".")[0]) < 2  # Triton promises numpy 2 in no release so far


def test_everything_that_it_copies_is_in_the_context() -> None:
    kept = {
        line[1:]
        for line in (FOLDER / "Dockerfile.dockerignore").read_text().splitlines()
        if line.startswith("!")
    }
    copies = re.findall(r"^COPY (?!--from)(.*) \S+$", DOCKERFILE, re.MULTILINE)
    copied = {name for line in copies for name in line.split()}
    assert kept == copied
    assert all((ROOT / name).exists() for name in copied)


def test_it_is_not_root_and_serves_the_mounted_repository() -> None:
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", instruction("USER"))
    command = json.loads(instruction("CMD"))
    assert command[:2] == ["backdrop", "serve"]
    options = [word for word in command if word.startswith("--")]
    known = subprocess.run(
        [Path(sys.executable).with_name("backdrop"), "serve", "--help"],
        capture_output=True,
        text=True,
        check=True,
        env={"COLUMNS": "200", "NO_COLOR": "1"},
    ).stdout
    assert options and all(option in known for option in options)


class Health(http.server.BaseHTTPRequestHandler):
    status = 200

    def do_GET(self) -> None:
        self.send_response(self.status if self.path == "/v2/health/ready" else 404)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (its name there)
        """Say nothing."""


@pytest.mark.parametrize(("status", "exit_code"), [(200, 0), (400, 1), (None, 1)])
def test_the_health_check_tells_ready_from_not(status: int | None, exit_code: int) -> None:
    words = json.loads(instruction("HEALTHCHECK").partition("CMD ")[2])
    assert words[:2] == ["python", "-c"]
    assert f"'127.0.0.1', {instruction('EXPOSE').split()[0]}" in words[2]
    with http.server.HTTPServer(("127.0.0.1", 0), Health) as server:
        port = server.server_port
        Health.status = status or 0
        if status:
            threading.Thread(target=server.serve_forever, daemon=True).start()
        else:
            server.socket.close()
        code = words[2].replace("8000", str(port))
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
        if status:
            server.shutdown()
    assert done.returncode == exit_code
