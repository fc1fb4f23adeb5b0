"""What a picture cost and how it was made: the report that goes back with it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from backdrop_server.costs import Costs
from backdrop_server.plan import Plan
from backdrop_server.stages.fidelity import Fidelity

if TYPE_CHECKING:  # `postprocess` must not load torch for a report
    from backdrop_server.stages.denoise import State


def denoise_report(
    state: State | None, edge_encoder_seconds: float, started_at: float, ended_at: float
) -> bytes:
    """JSON of what the loop did; ``state`` None: there was no step to take. Times: monotonic s."""
    values: dict[str, float] = {"started_at": started_at, "ended_at": ended_at}
    values["edge_encoder_seconds"] = edge_encoder_seconds
    for name in ("evaluations", "rows", "engine_calls", "engine_seconds", "shared_rows"):
        values[name] = 0 if state is None else getattr(state, name)
    return json.dumps(values).encode()


def final_report(
    plan: Plan,
    loop: dict[str, Any],
    costs: Costs,
    photo_size: tuple[int, int],
    postprocess: tuple[float, float],
    product: Sequence[Fidelity],
) -> bytes:
    """JSON for the caller. ``loop``: the denoise report; ``photo_size``: width, height;
    ``postprocess``: when it began and ended, monotonic s; ``product``: each picture against the
    photo, before its file is encoded.

    ``seconds``: ``preprocess``; ``encode`` with the wait for a place in the loop; ``denoise``;
    ``decode``, with the wait for `cutout` where that is not done yet; ``postprocess``; ``total``. On a
    CPU all but ``postprocess`` have their engines' waits for the cores.
    ``engine_calls`` and ``engine_seconds``: the request's share, by rows, of the UNet calls that it
    was part of; ``matting_seconds``: of its ``preprocess``, what the matting network's engine took;
    ``edge_encoder_seconds``: of its ``denoise``, what ControlNet's edge encoder took;
    ``mean_rows_together``: rows evaluated together with it and of its size, on average over its
    evaluations.

    ``seconds_billed``: ``engine_seconds``, and for encoders and decoder what ``costs`` says of the
    working size and the samples. They run also where ``strength`` leaves no step.
    """
    began_at, ended_at = postprocess
    encoding_seconds = costs.encoding_seconds(plan.width, plan.height, plan.samples)
    seconds = {
        "preprocess": plan.prepared_at - plan.received_at,
        "encode": loop["started_at"] - plan.prepared_at,
        "denoise": loop["ended_at"] - loop["started_at"],
        "decode": began_at - loop["ended_at"],
        "postprocess": ended_at - began_at,
        "total": ended_at - plan.received_at,
    }
    values = {
        "request_id": plan.request_id,
        "working_size": [plan.width, plan.height],
        "photo_size": list(photo_size),
        "matte": plan.matte_source,
        "matte_sureness": plan.matte_sureness,
        "product": [dataclasses.asdict(one) for one in product],
        "sampler": plan.scheduler,
        "num_inference_steps": plan.num_inference_steps,
        "unet_evaluations": loop["evaluations"],
        "rows": loop["rows"],
        "mean_rows_together": round(loop["shared_rows"] / max(1, loop["evaluations"]), 3),
        "engine_calls": round(loop["engine_calls"], 6),
        "engine_seconds": round(loop["engine_seconds"], 6),
        "matting_seconds": round(plan.matting_seconds, 6),
        "edge_encoder_seconds": round(loop["edge_encoder_seconds"], 6),
        "seconds_billed": round(loop["engine_seconds"] + encoding_seconds, 6),
        "seconds": {name: round(value, 6) for name, value in seconds.items()},
    }
    return json.dumps(values).encode()
