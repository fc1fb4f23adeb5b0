"""Writes the numbers of the README, docs/quality.md and docs/performance.md from the result files.

python -m benchmarks.readme
"""

from __future__ import annotations

import json
from typing import Any

from backdrop_export.engines import ENGINE_KINDS
from benchmarks.conditions import RESULTS
from benchmarks.load import tables as load_tables
from benchmarks.quality.page import tables

README = RESULTS.parents[1] / "README.md"
QUALITY = RESULTS.parents[1] / "docs" / "quality.md"
PERFORMANCE = RESULTS.parents[1] / "docs" / "performance.md"
SERVED = "demo-openvino-bf16"
"""The bundle and the engine whose figures under load are shown."""
EXACT = "demo-openvino-fp32"
"""The same in the precision that everything else is compared with."""
BEGIN = "<!-- numbers: written from benchmarks/results by `python -m benchmarks.readme` -->\n"
END = "<!-- end of numbers -->\n"


def numbers() -> str:
    """The README's section between the markers, from the result files."""
    load = _read(f"load-{SERVED}")
    parts = [
        [_conditions(load)],
        load_tables.load(load),
        [load_tables.other_engine(_read(f"load-{EXACT}"))],
        [load_tables.overload(_read(f"overload-{SERVED}"))],
        _engines(_read("engines-demo")),
        [_gateway(_read("gateway"))],
        _weights(_read(f"quality-{EXACT}")),
        _support(_read("precision-demo")),
        _full_size(_read("full-size-export")),
        _quality(_read("quality-mattes")),
    ]
    return "\n\n".join("\n".join(part) for part in parts) + "\n"


def with_numbers(readme: str) -> str:
    """The README's text with its numbers section made anew."""
    return _between(readme, numbers())


def with_quality(page: str) -> str:
    """The text of docs/quality.md with its tables made anew."""
    return _between(page, tables(_read("quality-mattes")))


def with_performance(page: str) -> str:
    """The text of docs/performance.md with its tables made anew."""
    solos, growth = [_read(f"solo-{name}") for name in (EXACT, SERVED)], _read(f"growth-{SERVED}")
    paper = load_tables.paper(_read("paper-sdxl"))
    parts = [[_conditions(growth)], load_tables.solo(solos), paper, load_tables.growth(growth)]
    return _between(page, "\n\n".join("\n".join(part) for part in parts) + "\n")


def _between(text: str, section: str) -> str:
    head, _, rest = text.partition(BEGIN)
    _, _, tail = rest.partition(END)
    return f"{head}{BEGIN}{section}{END}{tail}"


def _read(name: str) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text())
    return result


def _conditions(result: dict[str, Any]) -> str:
    made = result["conditions"]
    packages = made["packages"]
    engine = result["bundle_and_engine"].partition("-")[2]
    return (
        f"Measured {made['date']} on {made['cores']} cores of {made['cpu']}, "
        f"{made['gpu'] or 'no GPU'}, demo bundle at 256x256, {engine}, "
        f"OpenVINO {packages['openvino'].split('-')[0]} and ONNX Runtime "
        f"{packages['onnxruntime']}. On shared cores only the ratios count. GPU: not measured."
    )


def _gateway(result: dict[str, Any]) -> str:
    overhead, count = result["overhead_ms"], result["requests"]
    return (
        f"The REST gateway adds {overhead['median']:.1f} ms to a request (median of {count}, 95th "
        f"percentile {overhead['p95']:.1f} ms; {result['photo']} in base64, JPEG back)."
    )


def _weights(result: dict[str, Any]) -> list[str]:
    """What the demo bundle's weights follow."""
    prompts, look, edges = (result[key] for key in ("prompts", "ip_adapter_weight", "cn_weight"))
    rows = {
        f"the prompt's scene is recognised, {prompts['results']} results": (
            f"{prompts['right']:.0%}",
            "8 %: a guess",
        ),
        "palette distance to the reference, `ip_adapter_weight` 0 and 1": (
            f"{look['palette_distance'][0]:.1f} and {look['palette_distance'][-1]:.1f}",
            f"falls by {look['fall']:.0%}, the prompt's scene in {look['scene_right'][-1]:.0%}",
        ),
        "the product's edges in the raw output (F1), `cn_weight` 0 and 0.9": (
            f"{edges['edge_agreement'][0]:.2f} and {edges['edge_agreement'][-1]:.2f}",
            f"{edges['ratio']:.1f} times",
        ),
    }
    lines = ["| the demo bundle's weights | measured | that is |", "|---|---|---|"]
    return [*lines, *(f"| {name} | {' | '.join(cells)} |" for name, cells in rows.items())]


def _engines(result: dict[str, Any]) -> list[str]:
    rows = result["milliseconds"]
    names = list(next(iter(rows.values())))
    head = " | ".join(f"{count} rows, ms" for count in rows)
    lines = [f"| one UNet evaluation | {head} |", "|---" * (len(rows) + 1) + "|"]
    for name in names:
        cells = " | ".join(f"{rows[count][name]['median']:.0f}" for count in rows)
        lines.append(f"| {name} | {cells} |")
    return lines


def _support(result: dict[str, Any]) -> list[str]:
    """What every engine kind has been through: its pictures compared, or not run and why."""
    lines = [
        "| engine | state | raw pictures against FP32, PSNR in dB |",
        "|---|---|---|",
    ]
    for name in ENGINE_KINDS:
        state, psnr = "run", ""
        if name == result["reference"]:
            psnr = "the reference"
        elif name in result["psnr_db"]:
            values = result["psnr_db"][name]
            psnr = f"{min(values):.1f} to {max(values):.1f}"
        elif name in result["absent"]:
            state = f"built, not run: {result['absent'][name]}"
        else:
            state = "present, pictures not measured"
        lines.append(f"| {name} | {state} | {psnr} |")
    return lines


def _full_size(result: dict[str, Any]) -> list[str]:
    lines = [
        "| export of a full-size graph, FP16 | seconds | peak memory, GB | file, GB |",
        "|---|---|---|---|",
    ]
    for graph, row in result["graphs"].items():
        cells = f"{row['seconds']:.0f} | {row['peak_gb']:.1f} | {row['file_gb']:.2f}"
        lines.append(f"| {graph} | {cells} |")
    return lines


def _quality(result: dict[str, Any]) -> list[str]:
    """Mattes and fringes by background, beside thresholding with hard paste."""
    lines = [
        "| synthetic photos, mean | pictures | matte SAD, thousand px: ours, thresholding "
        "| fringe dE: ours, thresholding, alpha given | core bit-exact, alpha given |",
        "|---|---|---|---|---|",
    ]
    for kind, row in result["summary"].items():
        ours, rival, count = row["ours"], row["threshold"], row["pictures"]
        name = kind if kind == "all" else f"on {kind} backgrounds"
        lines.append(
            f"| {name} | {count} | {ours['sad']:.2f}, {rival['sad']:.2f} | {ours['fringe']:.1f}, "
            f"{rival['fringe']:.1f}, {row['given']['fringe']:.1f} "
            f"| {row['core_bit_exact_if_given']} of {count} |"
        )
    return lines


def main() -> None:
    """Rewrite the three pages in place."""
    README.write_text(with_numbers(README.read_text()))
    QUALITY.write_text(with_quality(QUALITY.read_text()))
    PERFORMANCE.write_text(with_performance(PERFORMANCE.read_text()))
    print(f"written: {README.name}, {QUALITY.name}, {PERFORMANCE.name}")


if __name__ == "__main__":
    main()
