"""Processes that train one model together, a thread each, on this machine alone.

Two processes on two cores are faster than two threads of one where other work shares the cores:
threads meet after every layer, processes once a step.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import cv2
import torch
import torch.distributed as dist
import torch.multiprocessing


def together(work: Callable[[], None], count: int) -> None:
    """Run ``work`` in ``count`` forked processes that average their gradients.

    ``count`` is part of what a seed gives. Raises what a process raises.
    """
    if count == 1:
        work()
        return
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.start_processes(  # type: ignore[attr-defined, no-untyped-call]
            _join, (count, Path(folder) / "meeting", work), nprocs=count, start_method="fork"
        )


def _join(rank: int, count: int, meeting: Path, work: Callable[[], None]) -> None:
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=count)
    try:
        work()
    finally:
        dist.destroy_process_group()
