"""What runs before and beside the loop gives way to it."""

from __future__ import annotations

import re

import psutil
import pytest

from backdrop_server.contract import MODELS, REPLACE_BACKGROUND
from backdrop_server.triton.launcher import TritonServer
from backdrop_server.triton.priority import NICENESS

pytestmark = pytest.mark.triton

NAMES = {model.name for model in MODELS} - {REPLACE_BACKGROUND.name}
OF_NAME = re.compile(rf"\b({'|'.join(NAMES)})_\d")
FIRST = {"denoise", "postprocess", "control"}


def test_only_the_loop_and_those_who_answer_go_first(server: TritonServer) -> None:
    own = psutil.Process(server.pid)
    niceness: dict[str, int] = {}
    for child in own.children(recursive=True):
        if found := OF_NAME.search(str(child.cmdline())):
            niceness[found[1]] = child.nice()
    usual = own.nice()
    assert set(niceness) == NAMES
    for name, nice in niceness.items():
        assert nice == (usual if name in FIRST else min(19, usual + NICENESS)), name
