"""The board's table in shared memory: a column after another, and room for the previews.

What is looked at in every row lies together: a step of the loop reads two columns, which are two
kilobytes, and not the thousand cache lines that its rows would touch.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from backdrop_server.contract import MAX_IN_FLIGHT

CAPACITY = 1024
PREVIEW_BYTES = 3 * 160 * 160
"""Largest preview kept: a latent picture of 1280 x 1280 px; a larger one is thinned out."""
PREVIEW_SLOTS = 2 * MAX_IN_FLIGHT

_COLUMNS: dict[str, tuple[str, tuple[int, ...]]] = {
    "engine_seconds": ("<f8", ()),
    "updated": ("<f8", ()),
    "step": ("<i4", ()),
    "total": ("<i4", ()),
    "preview_slot": ("<i4", ()),
    "preview_shape": ("<u2", (2,)),
    "key": ("S32", ()),
    "state": ("u1", ()),
    "cancelled": ("u1", ()),
}
"""Type and shape of one row's value, the widest first, so that each column is aligned."""


class Table:
    """CAPACITY rows of the file ``path``, and ``previews`` uint8 [PREVIEW_SLOTS, PREVIEW_BYTES].

    A column by its name is a plain array that writes through; a memmap's own views would cost a
    microsecond each.
    """

    def __init__(self, path: Path) -> None:
        """``path``: a file of SIZE bytes."""
        whole = np.asarray(np.memmap(path, np.uint8, "r+", shape=(SIZE,)))
        self._columns: dict[str, npt.NDArray[Any]] = {}
        at = 0
        for name, (dtype, shape) in _COLUMNS.items():
            end = at + _width(dtype, shape)
            self._columns[name] = whole[at:end].view(dtype).reshape(CAPACITY, *shape)
            at = end
        self.previews = whole[at:].reshape(PREVIEW_SLOTS, PREVIEW_BYTES)

    def __getitem__(self, column: str) -> npt.NDArray[Any]:
        return self._columns[column]

    def row(self, index: int) -> Row:
        """One row, to read and to write."""
        return Row(self, index)


class Row:
    """The values of one row by the names of their columns."""

    __slots__ = ("_index", "_table")

    def __init__(self, table: Table, index: int) -> None:
        self._table = table
        self._index = index

    def __getitem__(self, column: str) -> Any:
        return self._table[column][self._index]

    def __setitem__(self, column: str, value: Any) -> None:
        self._table[column][self._index] = value


def _width(dtype: str, shape: tuple[int, ...]) -> int:
    return CAPACITY * math.prod(shape) * np.dtype(dtype).itemsize


SIZE = sum(_width(*column) for column in _COLUMNS.values()) + PREVIEW_SLOTS * PREVIEW_BYTES
"""Bytes of the file. Zeroes read as rows that are free."""
