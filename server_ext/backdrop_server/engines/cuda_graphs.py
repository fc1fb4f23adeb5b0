"""CUDA graphs of an engine's calls: one for each fixed set of input shapes, a bounded number.

A replay launches a whole network at once; without it the host launches thousands of kernels. The
policy is tested with a recorder of its own; ``record`` is built, not run: no GPU was at hand.
"""

from __future__ import annotations

import collections
import weakref
from collections.abc import Callable, Mapping
from typing import Protocol

import torch

from backdrop_server.errors import EngineError

Tensors = Mapping[str, torch.Tensor]
Call = Callable[[Tensors], dict[str, torch.Tensor]]
Key = tuple[tuple[int, ...], ...]


class Recording(Protocol):
    """A call that was recorded at fixed shapes."""

    def replay(self, inputs: Tensors) -> dict[str, torch.Tensor]:
        """The call's outputs for ``inputs`` of the recorded shapes; the caller's own."""
        ...

    def close(self) -> None:
        """Wait for what is queued; the recording is not used again."""


Record = Callable[[Call, Tensors], Recording]


class CudaGraphs:
    """``call``, replayed from a recording where its shapes come again.

    The first call of a set of shapes runs as it is, which also warms it up; the second is recorded.
    With ``limit`` recordings held, the one that was not used for longest goes; its shapes begin anew,
    since what warming them up made may be gone too. A call that cannot be recorded runs as it is from
    then on.
    """

    def __init__(self, call: Call, record: Record, limit: int) -> None:
        self._call = call
        self._record = record
        self._limit = limit
        self._warm: set[Key] = set()
        self._unfit: set[Key] = set()
        self._recordings: collections.OrderedDict[Key, Recording] = collections.OrderedDict()

    def __call__(self, inputs: Tensors) -> dict[str, torch.Tensor]:
        """As ``call``."""
        key = tuple(tuple(tensor.shape) for tensor in inputs.values())
        if not self._limit or key in self._unfit:
            return self._call(inputs)
        if key not in self._warm:
            self._warm.add(key)
            return self._call(inputs)
        if key not in self._recordings and not self._try_to_record(key, inputs):
            return self._call(inputs)
        self._recordings.move_to_end(key)
        return self._recordings[key].replay(inputs)

    def _try_to_record(self, key: Key, inputs: Tensors) -> bool:
        while len(self._recordings) >= self._limit:
            self._forget_oldest()
        try:
            self._recordings[key] = self._record(self._call, inputs)
        except (RuntimeError, EngineError):  # an operation that a graph cannot hold
            self._unfit.add(key)
        return key in self._recordings

    def _forget_oldest(self) -> None:
        key, oldest = self._recordings.popitem(last=False)
        oldest.close()
        self._warm.discard(key)


class _Pool:
    """Device memory for what graphs compute; recordings that hold the same one share it."""

    def __init__(self) -> None:
        self.handle = torch.cuda.graph_pool_handle()


_pools: weakref.WeakValueDictionary[int, _Pool] = weakref.WeakValueDictionary()
"""By CUDA stream. Torch drops a pool with its last graph, and its handle is not to be used again."""


def _shared_pool() -> _Pool:
    """The pool of the current stream's recordings.

    Replays on one stream follow each other and outputs are copied out at once, so that one graph may
    compute where another has.
    """
    stream = torch.cuda.current_stream().cuda_stream
    pool = _pools.get(stream)
    if pool is None:
        _pools[stream] = pool = _Pool()
    return pool


class _CudaRecording:
    """Input buffers of its own, the graph over them, and its output buffers."""

    def __init__(self, call: Call, inputs: Tensors, keeps: object) -> None:
        self._keeps = keeps
        self._inputs = {
            name: tensor.clone(memory_format=torch.contiguous_format)
            for name, tensor in inputs.items()
        }
        self._pool = _shared_pool()
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph, pool=self._pool.handle):
            self._outputs = call(self._inputs)

    def replay(self, inputs: Tensors) -> dict[str, torch.Tensor]:
        """Copy in, launch, copy out, all queued on the current stream."""
        for name, tensor in inputs.items():
            self._inputs[name].copy_(tensor, non_blocking=True)
        self._graph.replay()
        return {name: tensor.clone() for name, tensor in self._outputs.items()}

    def close(self) -> None:
        """A graph must not be destroyed with what it keeps while the device runs it."""
        torch.cuda.synchronize()


def record(call: Call, inputs: Tensors, keeps: object = None) -> Recording:
    """Record ``call`` at the shapes of ``inputs`` on a CUDA device.

    ``keeps``: what must live as long as the recording.
    """
    return _CudaRecording(call, inputs, keeps)
