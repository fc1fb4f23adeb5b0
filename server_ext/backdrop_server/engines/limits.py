"""Whether an engine file fits this program, this machine and the requests that may come."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from backdrop_server.engines.engine import Precision
from backdrop_server.errors import EngineError
from backdrop_server.plan import EngineLimits


def read_limits(path: Path) -> EngineLimits | None:
    """The limits in ``<stem>.json`` beside the engine file ``path``; None where there is none."""
    file = path.with_suffix(".json")
    if not file.is_file():
        return None
    try:
        return EngineLimits.from_json(file.read_text(encoding="utf-8"))
    except (ValueError, TypeError, AttributeError) as error:
        raise EngineError(f"{file.name} is not the limits of an engine: {error}") from error


def check_kind(limits: EngineLimits, kind: str, precision: Precision) -> None:
    """Raise EngineError unless the file was built for the engine ``kind`` in ``precision``."""
    built, wanted = f"{limits.engine}-{limits.precision.value}", f"{kind}-{precision.value}"
    if built != wanted:
        raise EngineError(f"the engine file was built for {built}; the configuration says {wanted}")


def check_builder(limits: EngineLimits, builder: str) -> None:
    """Raise EngineError unless ``builder``, what is installed here, built the file."""
    if limits.builder != builder:
        raise EngineError(
            f"the engine file was built with {limits.builder}; here is {builder}: export it again"
        )


def check_gpu(limits: EngineLimits, name: str, capability: tuple[int, int]) -> None:
    """Raise EngineError unless the file was built for the device called ``name``."""
    found = f"{name} of compute capability {capability[0]}.{capability[1]}"
    if limits.gpu is None and limits.compute_capability is None:
        return
    same_chip = limits.compute_capability in (None, f"{capability[0]}.{capability[1]}")
    if limits.gpu not in (None, name) or not same_chip:
        raise EngineError(
            f"the engine file was built for {limits.gpu} of compute capability "
            f"{limits.compute_capability}; here is {found}: export it again"
        )


def check_fits(
    limits: EngineLimits | None, row_limit: int, sizes: Iterable[tuple[int, int]]
) -> None:
    """Raise EngineError unless the engine takes ``row_limit`` rows of each of ``sizes``.

    ``row_limit``: the most that the caller gives it at once. ``sizes``: latent height and width of
    every picture size that a request may have.
    """
    if limits is None:
        return
    if row_limit > limits.max_rows:
        raise EngineError(
            f"up to {row_limit} rows come in one call; "
            f"the engine was built for at most {limits.max_rows}"
        )
    refused = [size for size in sizes if not limits.allows_size(*size)]
    if refused:
        height, width = refused[0]
        more = f" and {len(refused) - 1} more sizes" if len(refused) > 1 else ""
        raise EngineError(
            f"requests may have latents of {height}x{width} (height x width){more}; "
            f"the engine was built for {_sizes(limits)}"
        )


def _sizes(limits: EngineLimits) -> str:
    if limits.sizes:
        first = ", ".join(f"{height}x{width}" for height, width in limits.sizes[:3])
        more = len(limits.sizes) - 3
        return f"{first} and {more} more" if more > 0 else first
    sides = (("heights", limits.heights), ("widths", limits.widths))
    return " and ".join(f"{name} {low} to {high}" for name, (low, high) in _given(sides))


def _given(
    sides: Iterable[tuple[str, tuple[int, int] | None]],
) -> list[tuple[str, tuple[int, int]]]:
    return [(name, limit) for name, limit in sides if limit is not None]
