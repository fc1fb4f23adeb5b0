"""Between host and device without waiting: what would make the host wait is kept away or pinned."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
from torch.overrides import TorchFunctionMode


def upload(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """``tensor`` of the host on ``device``, queued on the current stream; itself if it is there."""
    if tensor.device.type == device.type:
        return tensor
    if device.type == "cuda":
        tensor = tensor.pin_memory()  # from pageable memory the copy would not be asynchronous
    return tensor.to(device, non_blocking=True)


def download(tensor: torch.Tensor) -> torch.Tensor:
    """``tensor`` on the host; from a device, valid only when the current stream has got so far."""
    if tensor.device.type == "cpu":
        return tensor
    pinned = tensor.device.type == "cuda"
    host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=pinned)
    return host.copy_(tensor, non_blocking=True)


def host_tables(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Keeps diffusers' schedulers from waiting for ``device`` within a step; nothing on the CPU.

    They read their tables on the host, where arithmetic with a device's tensors takes a number of
    no dimensions as it is. Three things would wait all the same: Euler a, DPM2 a Karras and DDPM
    upload what their host generators drew; UniPC uploads single sigmas, makes small constants on the
    device and solves a 2x2 system there. Uploads become asynchronous, single numbers stay here.
    """
    if device.type == "cpu":
        return contextlib.nullcontext()
    return cast(contextlib.AbstractContextManager[Any], _HostTables(device))


class _HostTables(TorchFunctionMode):
    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self._device = device

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.Tensor.to and self._goes_up(args, kwargs):
            return args[0] if args[0].ndim == 0 else upload(args[0], self._device)
        if func in {torch.ones, torch.tensor} and "device" in kwargs:
            made = func(*args, **{**kwargs, "device": "cpu"})
            return made if made.ndim == 0 else upload(made, self._device)
        return func(*args, **kwargs)

    def _goes_up(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
        """Whether this is ``tensor.to(device)`` of a tensor of the host, and nothing besides."""
        targets = [*args[1:], *kwargs.values()]
        if args[0].device.type != "cpu" or len(targets) != 1:
            return False
        return isinstance(targets[0], (torch.device, str)) and (
            torch.device(targets[0]).type == self._device.type
        )
