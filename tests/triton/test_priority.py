"""What is no engine gives way to the engines."""

from __future__ import annotations

import os
import re

import psutil
import pytest

from backdrop_server.contract import MODELS, PREPROCESS_INSTANCES, REPLACE_BACKGROUND
from backdrop_server.triton.launcher import TritonServer
from backdrop_server.triton.priority import NICENESS

pytestmark = pytest.mark.triton

NAMES = {model.name for model in MODELS} - {REPLACE_BACKGROUND.name}
OF_NAME = re.compile(rf"\b({'|'.join(NAMES)})_\d")
BEHIND = {"preprocess", "cutout"}


def test_keying_and_cutting_out_go_behind_the_engines(server: TritonServer) -> None:
    own = psutil.Process(server.pid)
    niceness: dict[str, int] = {}
    for child in own.children(recursive=True):
        if found := OF_NAME.search(str(child.cmdline())):
            niceness[found[1]] = child.nice()
    usual = own.nice()
    assert set(niceness) == NAMES
    for name, nice in niceness.items():
        assert nice == (min(19, usual + NICENESS) if name in BEHIND else usual), name


def test_the_matting_network_keeps_the_engines_priority(server: TritonServer) -> None:
    own = psutil.Process(server.pid)
    found = [
        child for child in own.children(recursive=True) if "preprocess_" in str(child.cmdline())
    ]
    assert len(found) == PREPROCESS_INSTANCES
    for child in found:
        threads = {os.getpriority(os.PRIO_PROCESS, thread.id) for thread in child.threads()}
        assert threads == {own.nice(), min(19, own.nice() + NICENESS)}
