"""Plots of what the weights of a request do, from a result file of ``benchmarks.quality.prompts``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

INK, OURS, ASIDE = "#333333", "#1667b7", "#c4622d"


def draw_influence(result: Mapping[str, Any], path: Path) -> None:
    """Palette distance and the prompt's scene by ``ip_adapter_weight``, edges by ``cn_weight``."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.4), layout="constrained")
    palette, scene, edges = figure.subplots(1, 3)
    look, control = result["ip_adapter_weight"], result["cn_weight"]
    _curve(palette, look["weights"], look["palette_distance"], OURS)
    palette.set(xlabel="ip_adapter_weight", title="Palette distance to the reference, Lab")
    _curve(scene, look["weights"], [100 * share for share in look["scene_right"]], ASIDE)
    scene.set(xlabel="ip_adapter_weight", title="Prompt's scene recognised, %", ylim=(0, 102))
    _curve(edges, control["weights"], control["edge_agreement"], OURS)
    edges.set(xlabel="cn_weight", title="Edges inside the product, F1")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def _curve(axes: Any, across: Sequence[float], up: Sequence[float], colour: str) -> None:
    axes.plot(across, up, "o-", color=colour, linewidth=2)
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.25, color=INK)
    axes.spines[["top", "right"]].set_visible(False)
