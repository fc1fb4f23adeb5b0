"""Every block of docs/operations.md, run as it stands there but for paths and the port."""

from __future__ import annotations

import configparser
import json
import os
import re
import shlex
import subprocess
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from backdrop_server.gateway.links import webhook_signature
from backdrop_server.settings import load_settings
from backdrop_server.triton.launcher import TritonServer
from tests.client.commands import BACKDROP
from tests.gateway.servers import GatewayProcess

pytestmark = pytest.mark.triton
ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "operations.md").read_text()
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)
SETTINGS, UNIT, KEYS, HEALTH, BACKUP, WEBHOOK = (text for _, text in BLOCKS)


def bash(script: str, folder: Path, **variables: str) -> str:
    """What the script prints; commands and Python are those of this environment."""
    path = f"{Path(BACKDROP).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=folder,
        env=os.environ | variables | {"PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_all_blocks_are_run() -> None:
    assert [language for language, _ in BLOCKS] == ["toml", "ini", "bash", "bash", "bash", "python"]
    assert TEXT.count("```") == 2 * len(BLOCKS)


def test_the_settings_are_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "backdrop.toml").write_text(SETTINGS)
    monkeypatch.chdir(tmp_path)
    assert load_settings({}).max_waiting == 64
    assert str(load_settings({}).public_url) == "https://backdrop.example.com/"


def test_the_unit_starts_what_can_be_started() -> None:
    unit = configparser.RawConfigParser()
    unit.optionxform = str  # type: ignore[assignment, method-assign]
    unit.read_string(UNIT)
    program, *arguments = shlex.split(unit["Service"]["ExecStart"])
    assert Path(program).name == "backdrop"
    done = subprocess.run(
        [BACKDROP, *arguments, "--no-such-option"], capture_output=True, text=True, check=False
    )
    assert "No such option: --no-such-option" in done.stderr  # and all before it exist
    missing = subprocess.run([BACKDROP, *arguments], capture_output=True, text=True, check=False)
    assert missing.returncode == 1
    assert "/opt/backdrop/models/demo-openvino-fp32" in missing.stderr


def test_keys_and_a_backup_of_them(tmp_path: Path) -> None:
    said = bash(KEYS, tmp_path)
    (key,) = json.loads(said[said.index("[\n") :])
    assert (key["name"], key["balance"], key["requests_per_minute"]) == ("Shop Ltd", "25", 60)
    bash(BACKUP, tmp_path)
    bash("rm backdrop-data/backdrop.db*; mv backup.db backdrop-data/backdrop.db", tmp_path)
    assert json.loads(bash("backdrop keys list --json", tmp_path)) == [key]


def test_health_and_every_metric_of_the_page(
    gateway: GatewayProcess, client: httpx.Client, server: TritonServer, tmp_path: Path
) -> None:
    client.get("/v2/requests/none")  # an error, so that its metric is there
    said = bash(HEALTH.replace("http://127.0.0.1:8080", gateway.url), tmp_path)
    assert '{"alive":true}' in said
    assert '"ready":true' in said
    page = client.get("/metrics").text + httpx.get(f"http://{server.metrics_url}/metrics").text
    there = {family.name for family in text_string_to_metric_families(page)}
    named = {name.removesuffix("_total") for name in re.findall(r"`(backdrop_[a-z_]+)`", TEXT)}
    assert named >= {"backdrop_requests", "backdrop_requests_in_loop"}
    assert named <= there
    ours = {name for name in there if name.startswith("backdrop_")}
    assert {name for name in ours if not name.endswith("_created")} <= named


def test_the_receiver_knows_a_genuine_webhook(client: httpx.Client) -> None:
    scope: dict[str, Any] = {}
    exec(compile(WEBHOOK, "operations.md", "exec"), scope)  # noqa: S102
    secret, body, now = client.get("/v2/webhook-secret").json()["secret"], b'{"a": 1}', time.time()

    def headers(at: float) -> dict[str, str]:
        signature = webhook_signature(secret, int(at), body)
        return {"x-backdrop-timestamp": str(int(at)), "x-backdrop-signature": signature}

    assert scope["is_genuine"](secret, headers(now), body)
    assert not scope["is_genuine"](secret, headers(now), body + b" ")
    assert not scope["is_genuine"](secret, headers(now - 900), body)
    assert not scope["is_genuine"]("another", headers(now), body)
