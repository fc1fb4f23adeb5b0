"""Draw what the weights of a request do, a row for each, from a running server.

    python docs/render_parameters.py --out docs/pictures/parameters.jpg

The gateway's address and key are those of the client: BACKDROP_URL and BACKDROP_KEY.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont
from rich.progress import track

from backdrop_client import Backdrop, examples

PROMPT = "a bottle on a sandy beach by the sea"
SEED = 6
CELL, LABEL, MARGIN = 220, 34, 12  # pixels
GROUND, INK = "#ffffff", "#222222"


@dataclasses.dataclass(frozen=True)
class Row:
    """A field, its values, and what else is set in that row."""

    field: str
    values: tuple[float, ...]
    others: dict[str, Any] = dataclasses.field(default_factory=dict)


ROWS = (
    # The raw output: after paste-back the product is the photo's, whatever the ControlNet did.
    Row("cn_weight", (0, 0.25, 0.5, 0.75, 1), {"preserve_subject": False}),
    Row("ip_adapter_weight", (0, 0.25, 0.5, 0.75, 1)),
    Row("strength", (0.2, 0.4, 0.6, 0.8, 1)),
    Row("guidance_scale", (1, 3, 7.5, 15, 25)),
)


def draw(client: Backdrop) -> Image.Image:
    """The grid, one labelled picture for each value."""
    columns = max(len(row.values) for row in ROWS)
    step = CELL + MARGIN, CELL + LABEL + MARGIN
    grid = Image.new("RGB", (columns * step[0] + MARGIN, len(ROWS) * step[1] + MARGIN), GROUND)
    cells = [
        (row, down, across) for down, row in enumerate(ROWS) for across in range(len(row.values))
    ]
    for row, down, across in track(cells, "pictures"):
        value = row.values[across]
        place = MARGIN + across * step[0], MARGIN + down * step[1]
        _write(grid, place, f"{row.field} {value:g}")
        picture = _picture(client, row, value)
        grid.paste(
            picture.resize((CELL, CELL), Image.Resampling.LANCZOS), (place[0], place[1] + LABEL)
        )
    return grid


def _picture(client: Backdrop, row: Row, value: float) -> Image.Image:
    fields: dict[str, Any] = {"prompt": PROMPT, "seed": SEED, "output_format": "png"}
    result = client.replace(
        image=examples.path("product.jpg"),
        ref_image=examples.path("reference.jpg"),
        **(fields | row.others | {row.field: value}),
    )
    return result.images[0].convert("RGB")


def _write(grid: Image.Image, place: tuple[int, int], text: str) -> None:
    font = ImageFont.load_default(size=18)
    ImageDraw.Draw(grid).text((place[0], place[1] + 6), text, fill=INK, font=font)


def main() -> None:
    """Draw the grid and write it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("docs/pictures/parameters.jpg"))
    out = parser.parse_args().out
    with Backdrop() as client:
        grid = draw(client)
    out.parent.mkdir(parents=True, exist_ok=True)
    grid.save(out, optimize=True, quality=90)


if __name__ == "__main__":
    main()
