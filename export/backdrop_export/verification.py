"""Comparing a graph or an engine with the torch module that it was made from."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from diffusers.models.controlnets.controlnet import ControlNetConditioningEmbedding
from torch import nn

from backdrop_export.bundles import Bundle
from backdrop_export.edge_encoder import load_weights
from backdrop_export.engines import Arrays, EngineKind, Network
from backdrop_export.published_keys import empty_model
from backdrop_export.samples import CHECKS, Size, graph_inputs, graph_outputs, sample_inputs
from backdrop_server.errors import EngineError
from backdrop_server.stages.edge_encoder import EdgeEncoder


@dataclasses.dataclass(frozen=True)
class Difference:
    """How far one output is from the original's at one size: torch's, of the matting network FP32's.

    ``absolute`` is the largest difference (in levels for 8-bit outputs), ``relative`` the same as a
    share of the largest value in the original's output.
    """

    graph: str
    engine: str
    size: str
    output: str
    absolute: float
    relative: float
    levels: bool

    def within(self, kind: EngineKind) -> bool:
        """Whether the engine kind's tolerance allows it; false for NaN."""
        if self.levels:
            return self.absolute <= kind.level_tolerance
        return self.relative <= kind.relative_tolerance


def run_torch(module: nn.Module, graph: str, inputs: Arrays) -> Arrays:
    """Run ``module`` on arrays by the contract's names."""
    tensors = [torch.from_numpy(inputs[tensor.name]) for tensor in graph_inputs(graph)]
    with torch.inference_mode():
        results = module(*tensors)
    results = results if isinstance(results, tuple) else (results,)
    names = [tensor.name for tensor in graph_outputs(graph)]
    return {name: value.numpy() for name, value in zip(names, results, strict=True)}


Expected = list[tuple[str, Arrays, Arrays]]
"""Size, inputs, and torch's outputs for them."""


def expected_answers(
    bundle: Bundle, graph: str, module: nn.Module, sizes: Sequence[Size] | None = None
) -> Expected:
    """What ``module`` answers at ``sizes``; those of ``CHECKS`` when None."""
    cases = [(str(size), sample_inputs(bundle, graph, size)) for size in sizes or CHECKS]
    return [(size, inputs, run_torch(module, graph, inputs)) for size, inputs in cases]


def compare(graph: str, expected: Expected, network: Network, kind: EngineKind) -> list[Difference]:
    """Compare with torch's answers; raises EngineError when one is over the tolerance."""
    differences: list[Difference] = []
    for size, inputs, answers in expected:
        found = network(inputs)
        differences += [
            difference_of(graph, kind.name, size, name, found[name], answers[name])
            for name in answers
        ]
    check(differences, kind)
    return differences


def difference_of(
    graph: str,
    engine: str,
    size: str,
    output: str,
    found: npt.NDArray[Any],
    expected: npt.NDArray[Any],
) -> Difference:
    """The difference between two arrays; a wrong shape or type is an EngineError."""
    if found.shape != expected.shape or found.dtype != expected.dtype:
        raise EngineError(
            f"{graph} ({engine}) gives {output} as {found.dtype} {found.shape} at {size}, "
            f"the original gives {expected.dtype} {expected.shape}"
        )
    exact = expected.astype(np.float64)
    absolute = float(np.abs(found.astype(np.float64) - exact).max())
    relative = absolute / max(float(np.abs(exact).max()), 1e-12)
    levels = expected.dtype == np.uint8
    return Difference(graph, engine, size, output, absolute, relative, levels)


def check(differences: Sequence[Difference], kind: EngineKind) -> None:
    """Raise EngineError naming the first difference that is over the tolerance."""
    for difference in differences:
        if not difference.within(kind):
            raise EngineError(
                f"{difference.graph} ({kind.name}) differs from the original at {difference.size}: "
                f"{difference.output} by {difference.absolute:.3g} absolute, "
                f"{difference.relative:.3g} relative; allowed: "
                f"{kind.relative_tolerance:g} relative, {kind.level_tolerance} levels of 8-bit"
            )


def compare_edge_encoder(bundle: Bundle, path: Path, kind: EngineKind) -> list[Difference]:
    """Compare the server's edge encoder, with the weights in ``path``, with diffusers' own module.

    Raises EngineError when it is over the tolerance.
    """
    with np.load(path) as stored:
        encode = EdgeEncoder(dict(stored), torch.device("cpu"))
    file = "controlnet/config.json"
    config = empty_model("controlnet", bundle.config(file), bundle.path / file).config
    module = ControlNetConditioningEmbedding(
        config["block_out_channels"][0],
        block_out_channels=tuple(config["conditioning_embedding_out_channels"]),
    )
    module.load_state_dict({n: torch.from_numpy(a) for n, a in load_weights(bundle).items()})
    differences: list[Difference] = []
    for size in CHECKS:
        drawn = np.random.default_rng(size.batch).random((size.height, size.width))
        edges = torch.from_numpy(np.where(drawn < 0.1, 255, 0).astype(np.uint8))
        with torch.inference_mode():
            expected = module((edges.float() / 255).expand(1, 3, -1, -1))[0].numpy()
        found = encode(edges).numpy()
        differences.append(
            difference_of("edge_encoder", "torch", str(size), "edge_embeds", found, expected)
        )
    check(differences, kind)
    return differences
