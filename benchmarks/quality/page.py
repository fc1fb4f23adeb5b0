"""The tables of docs/quality.md, from the committed result."""

from __future__ import annotations

from typing import Any

Row = dict[str, Any]


def tables(result: Row) -> str:
    """By background, by product, beside rembg's algorithms, and by sureness: Markdown."""
    parts = [
        _ways("background", result["summary"]),
        _ways("product, on plain backgrounds", result["by_product"]),
        _rembg(result["summary"]),
        _sureness(result["sureness"]),
    ]
    return "\n\n".join("\n".join(part) for part in parts) + "\n"


def _ways(head: str, rows: dict[str, Row]) -> list[str]:
    """Ours against thresholding; a ratio of 0.5 and less is half the rival's error."""
    lines = [
        f"| {head} | SAD: ours, rival, ratio | fringe dE: ours, rival, ratio "
        "| old colour left: ours, rival | seam against truth's: ours, rival | core covered to 99 % |",
        "|---|---|---|---|---|---|",
    ]
    for name, row in rows.items():
        ours, rival = row["ours"], row["threshold"]
        pairs = [
            f"{ours[key]:.2f}, {rival[key]:.2f}, {ours[key] / rival[key]:.2f}"
            for key in ("sad", "fringe")
        ]
        plain = [f"{ours[key]:.3f}, {rival[key]:.3f}" for key in ("residue", "seam")]
        covered = f"{row['core_covered_99']} of {row['pictures']}"
        lines.append(f"| {name} | {' | '.join([*pairs, *plain, covered])} |")
    return lines


def _rembg(rows: dict[str, Row]) -> list[str]:
    lines = [
        "| background | pictures | SAD: ours, rembg | fringe dE: ours, rembg | core: ours, rembg |",
        "|---|---|---|---|---|",
    ]
    for name, row in rows.items():
        if row["pictures_with_rembg"]:
            ours, rembg = row["ours_where_rembg"], row["rembg_where_rembg"]
            cells = [f"{ours[k]:.2f}, {rembg[k]:.2f}" for k in ("sad", "fringe", "coverage")]
            lines.append(f"| {name} | {row['pictures_with_rembg']} | {' | '.join(cells)} |")
    return lines


def _sureness(rows: dict[str, Row]) -> list[str]:
    lines = ["| sureness | pictures | mean SAD |", "|---|---|---|"]
    for name, row in rows.items():
        lines.append(f"| {name} | {row['pictures']} | {row['sad']:.2f} |")
    return lines
