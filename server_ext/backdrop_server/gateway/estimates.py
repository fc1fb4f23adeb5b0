"""What a request will cost: from the built repository's figures, corrected by what is seen."""

from __future__ import annotations

import collections
import dataclasses
import statistics
from decimal import Decimal

from backdrop_server.contract import ReplaceOptions, unet_evaluations
from backdrop_server.costs import Costs
from backdrop_server.gateway.money import price
from backdrop_server.working_sizes import working_size

_REMEMBERED = 5
"""Requests whose median is believed: more outlast a change in the machine's speed, fewer a hiccup."""
_FARTHEST = 20.0
"""Most by which measured and built figures are believed to differ, either way."""


@dataclasses.dataclass(frozen=True)
class Estimate:
    """Seconds of engine time of one request, and what of them is expected of the loop."""

    evaluations: int
    loop_seconds: float
    """By the built repository's figures, not corrected."""
    seconds: float
    """Corrected, with encoders and decoder."""
    credits: Decimal
    reservation: Decimal


class Correction:
    """Measured by built seconds: the median of the last requests, so that one hiccup says nothing."""

    def __init__(self) -> None:
        self._ratios: collections.deque[float] = collections.deque(maxlen=_REMEMBERED)

    @property
    def factor(self) -> float:
        """By which built seconds are to be multiplied; 1 before anything was seen."""
        return statistics.median(self._ratios) if self._ratios else 1.0

    def learn(self, ratio: float) -> None:
        """Take in one more."""
        self._ratios.append(ratio)


class Estimator:
    """Learns from each finished request how fast the loop really is on this machine now."""

    def __init__(self, per_second: Decimal, headroom: float) -> None:
        """``per_second``: credits; ``headroom``: the reservation as a multiple of the estimate."""
        self._per_second = per_second
        self._headroom = headroom
        self._all = Correction()
        self._by_rows: dict[int, Correction] = {}
        """Rows of one call share its fixed costs: the more there are, the less each takes."""

    def estimate(self, options: ReplaceOptions, photo: tuple[int, int], costs: Costs) -> Estimate:
        """The estimate of a request; ``photo`` is width and height in pixels."""
        width, height = working_size(*photo, costs.native_pixels)
        evaluations = unet_evaluations(
            options.scheduler, options.num_inference_steps, options.strength
        )
        rows = rows_of(options)
        loop = costs.loop_seconds(evaluations, rows, width, height)
        fixed = costs.encoding_seconds(width, height, options.samples)
        seconds = loop * self._by_rows.get(rows, self._all).factor + fixed
        return Estimate(
            evaluations,
            loop,
            seconds,
            price(seconds, self._per_second),
            # The built figures bound it too: a lucky quiet hour must not make reservations small.
            price(self._headroom * max(seconds, loop + fixed), self._per_second),
        )

    def learn(self, rows: int, expected_loop_seconds: float, loop_seconds: float) -> None:
        """Take in a finished request: its rows, what the built figures said, and what it took."""
        if expected_loop_seconds <= 0 or loop_seconds <= 0:
            return
        ratio = min(max(loop_seconds / expected_loop_seconds, 1 / _FARTHEST), _FARTHEST)
        for correction in (self._all, self._by_rows.setdefault(rows, Correction())):
            correction.learn(ratio)


def rows_of(options: ReplaceOptions) -> int:
    """Rows of one UNet evaluation: samples, twice with guidance."""
    return options.samples * (2 if options.guidance_scale > 1 else 1)
