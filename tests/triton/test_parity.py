"""The raw output of the server against diffusers' own pipeline, sample by sample."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import tritonclient.grpc as grpcclient
from rich.console import Console
from rich.table import Table

from backdrop_client.triton import Replaced, replace
from backdrop_server.contract import SCHEDULERS
from backdrop_server.triton.launcher import TritonServer
from tests import pictures
from tests.triton.reference import Reference

pytestmark = [pytest.mark.triton, pytest.mark.parity, pytest.mark.timeout(7200)]

PARITY_DB = 45.0
SENSITIVITY_DB = 30.0
OUTPUTS = ("images", "seeds", "report", "matte", "edge_map")
STRENGTHS = (0.35, 0.7, 1.0)
GUIDANCE = (7.5, 1.0)
PROMPT = "a wooden table in a forest at sunset"
NEGATIVE = "snow, city"


def fields_of(
    photo: tuple[int, int] = (300, 200), ref: tuple[int, int] = (240, 160), **options: Any
) -> dict[str, Any]:
    """One request as both sides get it; ``photo`` and ``ref`` are width and height."""
    return {
        "image": pictures.png(pictures.product(*photo)),
        "mask_image": pictures.png(pictures.product_mask(*photo)),
        "ref_image": pictures.png(pictures.scene(*ref)),
        "prompt": PROMPT,
        "negative_prompt": NEGATIVE,
        "num_inference_steps": 20,
        "seed": 11,
        "preserve_subject": False,
        "output_format": "png",
    } | options


@pytest.fixture(scope="module")
def reference(bundle: Path) -> Reference:
    return Reference(bundle)


@pytest.fixture(scope="module")
def client(server: TritonServer) -> Iterator[grpcclient.InferenceServerClient]:
    with grpcclient.InferenceServerClient(server.grpc_url) as opened:
        yield opened


@pytest.fixture(scope="module")
def table(request: pytest.FixtureRequest) -> Iterator[Table]:
    """Collects rows; printed when the module ends."""
    made = Table("case", "PSNR of each sample, dB", title="Server against diffusers")
    yield made
    capture = request.config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():
        print()
        Console(width=120).print(made)


def ask(client: grpcclient.InferenceServerClient, fields: Mapping[str, Any]) -> Replaced:
    return replace(client, grpcclient, outputs=OUTPUTS, **fields)


def compare(reference: Reference, fields: Mapping[str, Any], answer: Replaced) -> list[float]:
    """PSNR of each sample against diffusers with one sample and that sample's seed."""
    return [
        pictures.psnr(pictures.decode(image), reference.picture(fields, answer, seed))
        for image, seed in zip(answer.images, answer.seeds, strict=True)
    ]


def check(
    client: grpcclient.InferenceServerClient,
    reference: Reference,
    table: Table,
    name: str,
    fields: Mapping[str, Any],
) -> None:
    scores = compare(reference, fields, ask(client, fields))
    table.add_row(name, ", ".join(f"{score:.1f}" for score in scores))
    assert min(scores) >= PARITY_DB, f"{name}: {scores}"


@pytest.mark.parametrize(
    ("scheduler", "strength", "guidance_scale"),
    list(itertools.product(SCHEDULERS, STRENGTHS, GUIDANCE)),
)
def test_every_sampler_equals_diffusers(
    client: grpcclient.InferenceServerClient,
    reference: Reference,
    table: Table,
    scheduler: str,
    strength: float,
    guidance_scale: float,
) -> None:
    options = {
        "scheduler": scheduler,
        "strength": strength,
        "guidance_scale": guidance_scale,
        "samples": 2,
    }
    name = f"{scheduler}, strength {strength}, guidance {guidance_scale}"
    check(client, reference, table, name, fields_of() | options)


LONG_PROMPT = " ".join(["a red bottle on a marble table beside a window with flowers"] * 12)
SPECIAL = {
    "prompt over 77 tokens": fields_of(prompt=LONG_PROMPT),
    "empty prompt": fields_of(prompt=""),
    "empty negative prompt": fields_of(negative_prompt=""),
    "odd photo size, upright": fields_of(photo=(333, 517)),
    "odd photo size, wide": fields_of(photo=(701, 203)),
    "tall reference": fields_of(ref=(97, 411)),
    "wide reference": fields_of(ref=(633, 120)),
    "small reference": fields_of(ref=(31, 47)),
    "three samples": fields_of(samples=3, scheduler="Euler a"),
    "weights at 0": fields_of(cn_weight=0.0, ip_adapter_weight=0.0),
    "weights at 1": fields_of(cn_weight=1.0, ip_adapter_weight=1.0),
    "25 steps at strength 0.99": fields_of(num_inference_steps=25, strength=0.99),
}


@pytest.mark.parametrize("name", SPECIAL)
def test_special_requests_equal_diffusers(
    client: grpcclient.InferenceServerClient, reference: Reference, table: Table, name: str
) -> None:
    check(client, reference, table, name, SPECIAL[name])


def test_no_negative_prompt_equals_diffusers(
    client: grpcclient.InferenceServerClient, reference: Reference, table: Table
) -> None:
    fields = fields_of()
    del fields["negative_prompt"]
    check(client, reference, table, "no negative prompt", fields)


WITHOUT: Mapping[str, Mapping[str, Any]] = {
    "prompt": {"prompt": ""},
    "negative prompt": {"negative_prompt": None},
    "reference": {"ip_adapter_weight": 0.0},
    "other reference": {"ref_image": pictures.png(255 - pictures.scene())},
    "edges": {"cn_weight": 0.0},
    "mask": {"mask_image": pictures.png(255 - pictures.product_mask())},
}


# Without guidance a negative prompt has no part in the picture.
LEFT_OUT = [
    case for case in itertools.product(WITHOUT, GUIDANCE) if case != ("negative prompt", 1.0)
]


@pytest.mark.parametrize(("left_out", "guidance_scale"), LEFT_OUT)
def test_leaving_out_any_input_breaks_parity(
    client: grpcclient.InferenceServerClient,
    reference: Reference,
    table: Table,
    left_out: str,
    guidance_scale: float,
) -> None:
    """The reference gets everything, the server all but one input: they must differ."""
    fields = fields_of() | {"guidance_scale": guidance_scale}
    whole = ask(client, fields)
    changed = {**fields, **WITHOUT[left_out]}
    lacking = ask(client, {name: value for name, value in changed.items() if value is not None})
    expected = reference.picture(fields, whole, whole.seeds[0])
    score = pictures.psnr(pictures.decode(lacking.images[0]), expected)
    table.add_row(f"without {left_out}, guidance {guidance_scale}", f"{score:.1f}")
    assert score < SENSITIVITY_DB


def test_without_guidance_a_negative_prompt_has_no_part(
    client: grpcclient.InferenceServerClient,
) -> None:
    fields = fields_of() | {"guidance_scale": 1.0}
    other = fields | {"negative_prompt": "something else"}
    assert ask(client, fields).images == ask(client, other).images
