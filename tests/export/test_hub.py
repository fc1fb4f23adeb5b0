"""Hub ids against a server that speaks as much of the hub's protocol as a download needs."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from backdrop_export.bundles import IP_ADAPTER, Bundle
from tests.export.published import write_recipe

COMMIT = "c0ffee" + "0" * 34
ADAPTER_REPO = "h94/small-adapter"
BASE_REPO = "diffusers/small-inpainting"


@dataclasses.dataclass
class Hub:
    """Repositories by id, each a folder; ``served`` are the files that were sent."""

    repositories: dict[str, Path]
    endpoint: str = ""
    served: list[str] = dataclasses.field(default_factory=list)

    def files(self, repo: str) -> dict[str, Path]:
        folder = self.repositories[repo]
        return {
            file.relative_to(folder).as_posix(): file
            for file in folder.rglob("*")
            if file.is_file()
        }

    def answer(self, repo: str, rest: str) -> object:
        files = self.files(repo)
        if rest.startswith("tree/"):
            return [
                {"type": "file", "path": name, "size": file.stat().st_size, "oid": oid(file)}
                for name, file in files.items()
            ]
        siblings = [
            {"rfilename": name, "size": file.stat().st_size} for name, file in files.items()
        ]
        return {"_id": "0", "id": repo, "sha": COMMIT, "siblings": siblings, "tags": []}


def oid(file: Path) -> str:
    return hashlib.sha1(file.read_bytes(), usedforsecurity=False).hexdigest()


@contextlib.contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.respond(with_body=False)

        def do_GET(self) -> None:
            self.respond(with_body=True)

        def respond(self, with_body: bool) -> None:
            parts = self.path.partition("?")[0].strip("/").split("/")
            if parts[0] == "api":
                body = json.dumps(hub.answer("/".join(parts[2:4]), "/".join(parts[4:]))).encode()
                self.send(body, with_body, {"Content-Type": "application/json"})
                return
            name = "/".join(parts[4:])
            file = hub.files("/".join(parts[:2]))[name]
            if with_body:
                hub.served.append(name)
            self.send(
                file.read_bytes(), with_body, {"ETag": f'"{oid(file)}"', "X-Repo-Commit": COMMIT}
            )

        def send(self, body: bytes, with_body: bool, headers: dict[str, str]) -> None:
            self.send_response(200)
            for key, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(key, value)
            self.end_headers()
            if with_body:
                self.wfile.write(body)

        def log_message(self, format: str, *values: object) -> None:  # noqa: A002
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def hub(tiny: Bundle, tmp_path: Path) -> Iterator[Hub]:
    base, other = tmp_path / "hub" / "base", tmp_path / "hub" / "other"
    for folder in tiny.path.iterdir():
        if folder.is_dir() and folder.name != "ip_adapter":
            (base / folder.name).mkdir(parents=True)
            for file in folder.iterdir():
                (base / folder.name / file.name).hardlink_to(file)
    (base / "model_index.json").hardlink_to(tiny.path / "model_index.json")
    (base / "unet" / "diffusion_pytorch_model.onnx").write_bytes(b"not wanted")
    (base / "sd_xl.safetensors").write_bytes(b"not wanted either")
    (other / "sdxl_models").mkdir(parents=True)
    (other / "sdxl_models" / "adapter.safetensors").hardlink_to(tiny.path / IP_ADAPTER)
    (other / "sdxl_models" / "another.safetensors").write_bytes(b"not wanted")
    with serving(Hub({BASE_REPO: base, ADAPTER_REPO: other})) as served:
        yield served


def command(hub: Hub, home: Path, *arguments: object, offline: bool = False) -> tuple[int, str]:
    environment = {k: v for k, v in os.environ.items() if "proxy" not in k.lower()}
    environment |= {
        "HF_ENDPOINT": hub.endpoint,
        "HF_HOME": str(home),
        "HF_HUB_OFFLINE": "1" if offline else "0",
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "COLUMNS": "200",
    }
    entry = "from backdrop_export.cli import main; main()"
    finished = subprocess.run(
        [sys.executable, "-c", entry, *map(str, arguments)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    return finished.returncode, finished.stdout + finished.stderr


def test_hub_ids_are_downloaded_once_and_nothing_more_than_is_needed(
    hub: Hub, tiny: Bundle, tmp_path: Path
) -> None:
    recipe = write_recipe(
        tmp_path / "small.toml",
        base=BASE_REPO,
        ip_adapter=f"{ADAPTER_REPO}:sdxl_models/adapter.safetensors",
    )
    home, out = tmp_path / "home", tmp_path / "small"
    code, said = command(hub, home, "plan", recipe, "--out", tmp_path, "--json")
    assert code == 0, said
    plan = json.loads(said)
    assert all(row["download"] == row["size"] > 0 for row in plan["sources"])
    assert hub.served == []
    code, said = command(hub, home, "assemble", recipe, "--out", out)
    assert code == 0, said
    assert f"{BASE_REPO} (2 files" in said and "downloading" in said
    assert "%" in said  # the hub's own progress
    assert not [name for name in hub.served if "onnx" in name or "sd_xl" in name or "ano" in name]
    assert sorted(hub.served) == sorted(set(hub.served))
    assert Bundle.open(out).facts().clip_image_size == 64
    weights = "unet/diffusion_pytorch_model.safetensors"
    assert (out / weights).read_bytes() == (tiny.path / weights).read_bytes()
    code, said = command(hub, home, "assemble", recipe, "--out", out, offline=True)
    assert code == 0 and "up to date" in said, said


def test_what_was_never_downloaded_is_one_sentence(hub: Hub, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path / "small.toml", base=BASE_REPO)
    code, said = command(
        hub, tmp_path / "home", "assemble", recipe, "--out", tmp_path / "small", offline=True
    )
    assert code == 1 and said.count("\n") == 1
    assert f"cannot download {BASE_REPO}" in said and "`base` in the recipe" in said
