"""All result files as one table, one picture, and the few ratios that matter."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from benchmarks.gpu.engines import SERVED
from benchmarks.gpu.results import read_result, write_whole
from benchmarks.gpu.rows import Row

HEADINGS = (
    "way",
    "sampler",
    "in flight",
    "s a picture (min to max)",
    "pictures/s",
    "TFLOP/s",
    "of ceiling",
    "peak GiB",
    "$ per 1000",
    "error",
)


def read_results(out: Path) -> dict[str, dict[str, Any]]:
    """Every step's result that is there, in the order of the steps."""
    from benchmarks.gpu.steps import STEPS

    found = {name: read_result(out, name) for name in STEPS}
    return {name: result for name, result in found.items() if result is not None}


def cells(row: Row) -> list[str]:
    """One row of the table; one without figures says why."""
    begin = [row["way"], str(row.get("sampler", "")), str(row.get("in_flight", ""))]
    if row["status"] != "ok":
        return [*begin, f"{row['status']}: {row['reason']}"] + [""] * (len(HEADINGS) - 4)
    if "seconds_per_picture" not in row:
        return [*begin, _other(row)] + [""] * (len(HEADINGS) - 4)
    each, memory, dollars = row["seconds_per_picture"], row["memory"], row["dollars_per_1000"]
    return [
        *begin,
        f"{each['median']:.3f} ({each['min']:.3f} to {each['max']:.3f})",
        f"{row['pictures_per_second']:.3f}",
        f"{row['tflop_per_second']:.3g}",
        f"{row['ceiling_share']:.1%}",
        f"{max(memory.values()):.1f}",
        "no price" if dollars is None else f"{dollars:.2f}",
        _error(row.get("error")),
    ]


def _error(error: dict[str, float | None] | None) -> str:
    if error is None:
        return "not measured"
    decibels = error["decibels"]
    return "equal" if decibels is None else f"{decibels:.1f} dB"


def _other(row: Row) -> str:
    """What a row without a time for a picture says."""
    if "build_seconds" in row:
        return f"built in {row['build_seconds']:.0f} s"
    if "shares" in row:
        return ", ".join(f"{name} {share:.0%}" for name, share in row["shares"].items())
    share = row.get("share_of_step")
    cost = f"{row['cost_seconds_a_step']['median'] * 1000:.2f} ms a step"
    return cost + (", share not measured" if share is None else f", {share:.1%} of a step")


def markdown(rows: Sequence[Row]) -> str:
    """The rows as a table."""
    lines = [list(HEADINGS), ["---"] * len(HEADINGS), *(cells(row) for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def print_rows(step: str, content: dict[str, Any]) -> None:
    """A step's rows, plainly."""
    for row in content["rows"]:
        print(f"{step}: " + "  ".join(cell for cell in cells(row) if cell))


def ratios(rows: Sequence[Row]) -> dict[str, float]:
    """How the server's engines stand, where both sides of a ratio were measured.

    Against the rivals the fastest one; in saturation each against itself.
    """
    found: dict[str, float] = {}
    for sampler in sorted({str(row.get("sampler")) for row in rows}):
        single = {"sampler": sampler, "in_flight": 1}
        alone = {engine: _fastest(rows, f"ours {engine}$", **single) for engine in SERVED}
        ours = min((seconds for seconds in alone.values() if seconds), default=None)
        for rival in ("diffusers eager", "diffusers torch.compile"):
            theirs = _fastest(rows, rival, **single)
            if ours and theirs:
                found[f"{sampler}, one in flight: ours over {rival}"] = theirs / ours
        for engine, one in alone.items():
            eight = _fastest(rows, f"ours {engine}$", sampler=sampler, in_flight=8)
            if one and eight:
                found[f"{sampler}: {engine} with 8 in flight over itself with one"] = one / eight
    return found


def _fastest(rows: Sequence[Row], way: str, **wanted: object) -> float | None:
    """Least seconds a picture of the rows whose way begins with the pattern ``way``."""
    seconds = [
        row["seconds_per_picture"]["median"]
        for row in rows
        if row["status"] == "ok"
        and re.match(way, row["way"])
        and "seconds_per_picture" in row
        and all(row.get(key) == value for key, value in wanted.items())
    ]
    return min(seconds, default=None)


def write_report(out: Path) -> Path:
    """Write report.md, report.json and report.png from the result files; returns the first."""
    results = read_results(out)
    rows = [row for result in results.values() for row in result["rows"]]
    text = _heading(results) + "\n" + markdown(rows)
    for name, ratio in ratios(rows).items():
        text += f"\n- {name}: {ratio:.2f} x"
    merged = {"ratios": ratios(rows), "steps": results}
    write_whole(out / "report.json", (json.dumps(merged, indent=2) + "\n").encode())
    write_whole(out / "report.png", chart(rows))
    write_whole(out / "report.md", (text.rstrip() + "\n").encode())
    return out / "report.md"


def _heading(results: dict[str, dict[str, Any]]) -> str:
    if not results:
        return "# GPU bench\n\nnot measured\n"
    last = list(results.values())[-1]
    stated, settings = last["conditions"], last.get("settings", {})
    gpu = stated["gpu"]
    place = f"{gpu['name']}, driver {gpu['driver']}" if gpu else f"no GPU, {stated['cpu']}"
    small = settings.get("size") != "full" or not gpu
    note = "A run of the bench's logic, not a measurement.\n\n" if small else ""
    products = results.get("ceiling", {}).get("products", [])
    ceiling = ", ".join(f"{p['dtype']} {p['tflop_per_second']:.3g} TFLOP/s" for p in products)
    return (
        f"# GPU bench\n\n{note}{place}; torch {stated['packages']['torch']}, diffusers "
        f"{stated['packages']['diffusers']}; commit {stated['commit']}; {stated['date']}; "
        f"size {settings.get('size')}, {settings.get('precision')}. "
        f"Dense product of this device: {ceiling or 'not measured'}.\n"
    )


def chart(rows: Sequence[Row]) -> bytes:
    """Bars of pictures a second, longest first, as PNG."""
    timed = [row for row in rows if row["status"] == "ok" and "pictures_per_second" in row]
    timed.sort(key=lambda row: -row["pictures_per_second"])
    line, left, width = 26, 420, 1000
    image = Image.new("RGB", (width, line * (len(timed) + 2)), "white")
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(14)
    draw.text((8, 6), "pictures per second", fill="black", font=font)
    most = max((row["pictures_per_second"] for row in timed), default=1.0)
    for number, row in enumerate(timed, start=1):
        top, rate = number * line + 6, row["pictures_per_second"]
        label = f"{row['way']}, {row['sampler']}, {row['in_flight']} in flight"
        color = (58, 110, 165) if row["way"].startswith("ours") else (160, 160, 160)
        draw.text((8, top), label, fill="black", font=font)
        end = left + (width - left - 80) * rate / most
        draw.rectangle((left, top, end, top + line - 10), fill=color)
        draw.text((end + 6, top), f"{rate:.3f}", fill="black", font=font)
    data = io.BytesIO()
    image.save(data, "PNG")
    return data.getvalue()
