"""The whole ensemble in a real server, over gRPC and HTTP: what is asked and what comes back."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import tritonclient.grpc as grpcclient
import tritonclient.http as httpclient
from PIL import Image, ImageOps

from backdrop_client.triton import MODEL, OUTPUTS, Replaced, infer_inputs, replace
from backdrop_server.contract import (
    MAX_SEED,
    SCHEDULER_ALIASES,
    SCHEDULERS,
    ReplaceOptions,
)
from backdrop_server.triton.launcher import TritonServer
from tests import pictures
from tests.pictures import Pixels

pytestmark = pytest.mark.triton

ALL_OUTPUTS = (*OUTPUTS, "matte", "edge_map")
SAME_DB = 60.0
"""What fp32 arithmetic in another batch may change."""
DIFFERENT_DB = 40.0
PROTOCOLS: dict[str, ModuleType] = {"grpc": grpcclient, "http": httpclient}

PHOTO = pictures.png(pictures.product())
REFERENCE = pictures.png(pictures.scene())
FIELDS: dict[str, Any] = {
    "image": PHOTO,
    "ref_image": REFERENCE,
    "prompt": "a wooden table in a forest",
    "scheduler": "DDIM",
    "num_inference_steps": 20,
    "seed": 7,
    "output_format": "png",
}
RAW = FIELDS | {"preserve_subject": False}

Ask = Callable[..., Replaced]


def open_client(server: TritonServer, protocol: str) -> Any:
    if protocol == "grpc":
        return grpcclient.InferenceServerClient(server.grpc_url)
    return httpclient.InferenceServerClient(server.http_url, network_timeout=120)


def ask_by(server: TritonServer, protocol: str, fields: dict[str, Any]) -> Replaced:
    """One request over a connection of its own."""
    with open_client(server, protocol) as client:
        return replace(client, PROTOCOLS[protocol], outputs=ALL_OUTPUTS, **fields)


@pytest.fixture(scope="module")
def ask(server: TritonServer) -> Iterator[Ask]:
    """Sends a request over gRPC with all outputs."""
    with grpcclient.InferenceServerClient(server.grpc_url) as client:

        def send(fields: dict[str, Any], **more: Any) -> Replaced:
            return replace(client, grpcclient, outputs=ALL_OUTPUTS, **(fields | more))

        yield send


@pytest.fixture(scope="module")
def raw_base(ask: Ask) -> Pixels:
    """The raw output that changed inputs are compared with."""
    return pictures.decode(ask(RAW, negative_prompt="snow").images[0])


def open_image(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


# --- both protocols -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"scheduler": "DPM2 Karras", "num_inference_steps": 25},
        {"scheduler": "Euler a", "samples": 2, "strength": 0.7},
    ],
    ids=["deterministic sampler", "stochastic sampler, two samples"],
)
def test_grpc_and_http_give_the_same_bytes(server: TritonServer, options: dict[str, Any]) -> None:
    grpc, http = (ask_by(server, protocol, FIELDS | options) for protocol in PROTOCOLS)
    assert grpc.images == http.images
    assert grpc.seeds == http.seeds
    assert grpc.matte == http.matte
    assert grpc.edge_map == http.edge_map


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("wanted", [OUTPUTS, ("matte",), ("edge_map", "seeds"), ALL_OUTPUTS])
def test_only_the_outputs_asked_for_come_back(
    server: TritonServer, protocol: str, wanted: tuple[str, ...]
) -> None:
    module = PROTOCOLS[protocol]
    with open_client(server, protocol) as client:
        outputs = [module.InferRequestedOutput(name) for name in wanted]
        result = client.infer(MODEL, infer_inputs(module, FIELDS), outputs=outputs)
        names = {name for name in ALL_OUTPUTS if result.as_numpy(name) is not None}
        shapes = {name: result.as_numpy(name).shape for name in names}
    assert names == set(wanted)
    assert set(shapes.values()) == {(1, 1)}


@pytest.mark.parametrize("photo_size", [(300, 200), (203, 701), (64, 64), (500, 90)])
def test_matte_and_edge_map_have_the_working_size(ask: Ask, photo_size: tuple[int, int]) -> None:
    answer = ask(FIELDS, image=pictures.png(pictures.product(*photo_size)))
    width, height = answer.report["working_size"]
    matte, edges = pictures.decode(answer.matte), pictures.decode(answer.edge_map)
    assert matte.shape == edges.shape == (height, width)
    assert set(np.unique(edges)) == {0, 255}
    assert matte.max() == 255 and matte.min() == 0
    assert width % 64 == 0 and height % 64 == 0


def test_the_report_says_how_the_picture_was_made(server: TritonServer) -> None:
    with grpcclient.InferenceServerClient(server.grpc_url) as client:
        report = replace(client, grpcclient, request_id="my-id", samples=2, **FIELDS).report
    seconds = report["seconds"]
    assert set(report) == {
        *("request_id", "working_size", "photo_size", "matte", "sampler", "num_inference_steps"),
        *("unet_evaluations", "rows", "engine_calls", "mean_rows_together", "engine_seconds"),
        *("seconds", "seconds_billed", "matte_sureness", "matting_seconds", "product"),
        "edge_encoder_seconds",
    }
    assert report["request_id"] == "my-id"
    assert report["photo_size"] == [300, 200]
    assert report["matte"] == "uniform background"
    assert report["matte_sureness"] > 0.9
    assert (report["sampler"], report["num_inference_steps"]) == ("DDIM", 20)
    assert (report["unet_evaluations"], report["rows"]) == (20, 4)
    assert (report["engine_calls"], report["mean_rows_together"]) == (20, 4)
    stages = ["preprocess", "encode", "denoise", "decode", "postprocess"]
    assert set(seconds) == {*stages, "total"}
    assert all(value >= 0 for value in seconds.values())
    assert sum(seconds[name] for name in stages) == pytest.approx(seconds["total"], abs=1e-4)
    assert 0 < report["engine_seconds"] <= seconds["denoise"]
    assert 0 < report["edge_encoder_seconds"] <= seconds["denoise"] - report["engine_seconds"]
    assert 0 < report["matting_seconds"] < seconds["preprocess"]


def test_every_request_without_an_id_gets_its_own(ask: Ask) -> None:
    ids = {ask(FIELDS, strength=0.0).report["request_id"] for _ in range(3)}
    assert len(ids) == 3 and "" not in ids


def test_explicit_defaults_equal_absent_ones(ask: Ask) -> None:
    required = {name: FIELDS[name] for name in ("image", "ref_image", "prompt")}
    defaults = dataclasses.asdict(ReplaceOptions(prompt=FIELDS["prompt"], seed=3))
    del defaults["negative_prompt"]  # absent is not the same as empty
    assert ask(required, seed=3).images == ask(required | defaults).images


def test_defaults_are_those_of_the_api(ask: Ask) -> None:
    answer = ask({name: FIELDS[name] for name in ("image", "ref_image", "prompt")})
    assert len(answer.images) == 1
    assert open_image(answer.images[0]).format == "JPEG"
    assert answer.report["sampler"] == "DPM2 Karras"
    assert answer.report["unet_evaluations"] == 2 * 25 - 1
    assert open_image(answer.images[0]).size == (300, 200)


# --- the product's own pixels ---------------------------------------------------------------------


def saved(image: Image.Image, file_format: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, file_format, **options)
    return file.getvalue()


def core(width: int = 300, height: int = 200) -> npt.NDArray[np.bool_]:
    """Well inside the product, whatever the matte's soft edge."""
    y, x = np.mgrid[:height, :width]
    shape = ((x - width / 2) / (width * 0.3)) ** 2 + ((y - height / 2) / (height * 0.35)) ** 2
    inside: npt.NDArray[np.bool_] = shape < 0.7
    return inside


RGB = pictures.product()
GREY = np.asarray(Image.fromarray(RGB).convert("L"))
RGBA = np.dstack([RGB, 255 - pictures.product_mask()])
IMAGE = Image.fromarray(RGB)


def rotated_jpeg(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    turned = {1: 0, 3: 180, 6: 90, 8: 270}[orientation]
    return saved(IMAGE.rotate(turned, expand=True), "JPEG", exif=exif, quality=95)


def lossy(data: bytes) -> tuple[bytes, Pixels]:
    """A file and the pixels that any decoder finds in it, upright."""
    return data, np.asarray(ImageOps.exif_transpose(open_image(data)).convert("RGB"))


FORMATS: dict[str, tuple[bytes, Pixels]] = {
    "PNG": (PHOTO, RGB),
    "PNG, grey": (pictures.png(GREY), np.repeat(GREY[..., None], 3, 2)),
    "PNG, palette": lossy(saved(IMAGE.quantize(200), "PNG")),
    "PNG, 16-bit grey": (
        saved(Image.fromarray(GREY.astype(np.uint16) * 257), "PNG"),
        np.repeat(GREY[..., None], 3, 2),
    ),
    "PNG, 16-bit colour": (
        cv2.imencode(".png", RGB[..., ::-1].astype(np.uint16) * 257)[1].tobytes(),
        RGB,
    ),
    "RGBA": (pictures.png(RGBA), RGB),
    "JPEG": lossy(saved(IMAGE, "JPEG", quality=90)),
    "JPEG, CMYK": lossy(saved(IMAGE.convert("CMYK"), "JPEG", quality=95)),
    "JPEG, progressive": lossy(saved(IMAGE, "JPEG", progressive=True)),
    **{f"JPEG, orientation {o}": lossy(rotated_jpeg(o)) for o in (1, 3, 6, 8)},
    "WebP": lossy(saved(IMAGE, "WEBP", quality=90)),
    "WebP, lossless": (saved(IMAGE, "WEBP", lossless=True), RGB),
    "GIF": lossy(saved(IMAGE, "GIF")),
    "GIF, animated": lossy(
        saved(IMAGE, "GIF", save_all=True, append_images=[IMAGE.rotate(9), IMAGE.rotate(18)])
    ),
}


@pytest.mark.parametrize("name", FORMATS)
def test_the_product_is_the_photos_own_bit_for_bit(ask: Ask, name: str) -> None:
    data, expected = FORMATS[name]
    answer = ask(FIELDS, image=data)
    image = open_image(answer.images[0])
    assert (image.format, image.mode, image.size) == ("PNG", "RGB", (300, 200))
    result = np.asarray(image)
    np.testing.assert_array_equal(result[core()], expected[core()])
    background = pictures.product_mask() == 255
    assert pictures.psnr(result[background], expected[background]) < 20  # painted, not the photo
    assert answer.report["matte"] == ("alpha" if name == "RGBA" else "uniform background")


def test_the_whole_opaque_matte_is_kept_at_full_size(ask: Ask) -> None:
    """With the mask given the core is known to the pixel: every kept one comes back."""
    photo, mask = pictures.product(1231, 857), pictures.product_mask(1231, 857)
    answer = ask(FIELDS, image=pictures.png(photo), mask_image=pictures.png(mask), samples=2)
    for data in answer.images:
        result = pictures.decode(data)
        np.testing.assert_array_equal(result[mask == 0], photo[mask == 0])
        assert pictures.psnr(result[mask == 255], photo[mask == 255]) < 20


@pytest.mark.parametrize("photo_size", [(300, 200), (333, 517)])
def test_the_raw_output_has_the_working_size(ask: Ask, photo_size: tuple[int, int]) -> None:
    answer = ask(RAW, image=pictures.png(pictures.product(*photo_size)))
    assert list(open_image(answer.images[0]).size) == answer.report["working_size"]
    assert answer.report["photo_size"] == list(photo_size)


@pytest.mark.parametrize(
    ("asked", "expected"),
    [("png", "PNG"), ("jpeg", "JPEG"), ("webp", "WEBP"), ("JPG", "JPEG"), (" Png ", "PNG")],
)
@pytest.mark.parametrize("preserve_subject", [True, False])
def test_output_formats_are_what_was_asked(
    ask: Ask, asked: str, expected: str, preserve_subject: bool
) -> None:
    options = {"output_format": asked, "preserve_subject": preserve_subject}
    image = open_image(ask(FIELDS, **options).images[0])
    image.load()
    assert (image.format, image.mode) == (expected, "RGB")


# --- seeds and samples ----------------------------------------------------------------------------


def test_a_random_seed_is_reported_and_repeats(ask: Ask) -> None:
    first, second = (ask(FIELDS, seed=-1, samples=2) for _ in range(2))
    assert first.seeds != second.seeds
    assert all(0 <= seed <= MAX_SEED for seed in first.seeds + second.seeds)
    assert first.images != second.images
    assert ask(FIELDS, seed=first.seeds[0], samples=2).images == first.images


@pytest.mark.parametrize(
    ("seed", "expected"),
    [
        (0, (0, 1, 2, 3)),
        (41, (41, 42, 43, 44)),
        (MAX_SEED - 1, (MAX_SEED - 1, MAX_SEED, 0, 1)),
        (MAX_SEED, (MAX_SEED, 0, 1, 2)),
    ],
)
def test_samples_have_consecutive_seeds(ask: Ask, seed: int, expected: tuple[int, ...]) -> None:
    answer = ask(RAW, seed=seed, samples=4, guidance_scale=1.0)
    assert answer.seeds == expected
    assert len(set(answer.images)) == 4


@pytest.mark.parametrize(
    "options",
    [
        {"scheduler": "DDIM", "seed": MAX_SEED - 1},
        {"scheduler": "Euler a", "strength": 0.7},
        {"scheduler": "DPM2 a Karras", "guidance_scale": 1.0},
    ],
    ids=lambda options: options["scheduler"],
)
def test_a_sample_equals_a_solo_request_with_its_seed(ask: Ask, options: dict[str, Any]) -> None:
    together = ask(RAW | options, samples=4)
    for image, seed in zip(together.images, together.seeds, strict=True):
        alone = ask(RAW | options, seed=seed)
        assert alone.seeds == (seed,)
        score = pictures.psnr(pictures.decode(image), pictures.decode(alone.images[0]))
        assert score >= SAME_DB, f"seed {seed}: {score:.1f} dB"


# --- strength and samplers ------------------------------------------------------------------------


@pytest.mark.parametrize("strength", [0.0, 0.04])
@pytest.mark.parametrize("preserve_subject", [True, False])
def test_too_little_strength_returns_the_photo(
    ask: Ask, strength: float, preserve_subject: bool
) -> None:
    options = {"strength": strength, "preserve_subject": preserve_subject}
    answer = ask(FIELDS, samples=2, **options)
    assert answer.report["unet_evaluations"] == 0
    for image in answer.images:
        np.testing.assert_array_equal(pictures.decode(image), RGB)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    ("strength", "steps", "evaluations"), [(0.7, 20, 14), (0.05, 20, 1), (0.35, 20, 7)]
)
def test_strength_counts_as_the_decimal_that_was_sent(
    server: TritonServer, protocol: str, strength: float, steps: int, evaluations: int
) -> None:
    """FP32 0.7 is 0.699999988: 20 steps of it are still 14, as in diffusers."""
    fields = RAW | {"strength": strength, "num_inference_steps": steps, "guidance_scale": 1.0}
    assert ask_by(server, protocol, fields).report["unet_evaluations"] == evaluations


@pytest.mark.parametrize("name", SCHEDULERS)
def test_scheduler_names_are_case_insensitive(ask: Ask, name: str) -> None:
    for spelling in (name, name.upper(), name.lower(), f" {name} "):
        answer = ask(FIELDS, scheduler=spelling, strength=0.0)  # names are read before any step
        assert answer.report["sampler"] == name


@pytest.mark.parametrize("alias", SCHEDULER_ALIASES)
def test_scheduler_aliases(ask: Ask, alias: str) -> None:
    for spelling in (alias, alias.upper()):
        answer = ask(FIELDS, scheduler=spelling, strength=0.0)
        assert answer.report["sampler"] == SCHEDULER_ALIASES[alias]


# --- every input counts ---------------------------------------------------------------------------

CHANGES: dict[str, dict[str, Any]] = {
    "prompt": {"prompt": "a beach under palm trees"},
    "negative prompt": {"negative_prompt": "leaves, dark, people"},
    "empty negative prompt": {"negative_prompt": ""},
    "no negative prompt": {"negative_prompt": None},
    "reference": {"ref_image": pictures.png(pictures.scene(seed=5))},
    "edges": {"cn_weight": 0.0},
    "cn_weight": {"cn_weight": 0.3},
    "ip_adapter_weight": {"ip_adapter_weight": 1.0},
    "no ip_adapter": {"ip_adapter_weight": 0.0},
    "mask": {"mask_image": pictures.png(255 - pictures.product_mask())},
    "photo": {"image": pictures.png(pictures.product(seed=3))},
    "seed": {"seed": 8},
    "guidance_scale": {"guidance_scale": 3.0},
    "strength": {"strength": 0.6},
    "scheduler": {"scheduler": "Euler a"},
}


@pytest.mark.parametrize("name", CHANGES)
def test_every_input_changes_the_raw_output(ask: Ask, raw_base: Pixels, name: str) -> None:
    changed = RAW | {"negative_prompt": "snow"} | CHANGES[name]
    answer = ask({field: value for field, value in changed.items() if value is not None})
    score = pictures.psnr(pictures.decode(answer.images[0]), raw_base)
    assert score < DIFFERENT_DB, f"{name}: {score:.1f} dB"


def test_the_mask_overrides_the_matte(ask: Ask) -> None:
    mask = np.full((200, 300), 255, np.uint8)
    mask[50:150, :120] = 0
    answer = ask(FIELDS, mask_image=pictures.png(mask))
    result = pictures.decode(answer.images[0])
    assert answer.report["matte"] == "mask"
    np.testing.assert_array_equal(result[mask == 0], RGB[mask == 0])
    repainted_product = core() & (mask == 255)
    assert pictures.psnr(result[repainted_product], RGB[repainted_product]) < 25
    matte = pictures.decode(answer.matte)
    height, width = matte.shape
    assert matte[height // 2, width // 5] == 255 and matte[height // 2, width * 4 // 5] == 0


def test_a_prompt_is_cut_at_77_tokens(ask: Ask) -> None:
    long = "red bottle on a table " * 40
    first, second = (ask(RAW, prompt=long + end) for end in ("", "in the snow"))
    assert first.images == second.images
    assert ask(RAW, prompt="red bottle on a table").images != first.images


TEXTS = (
    *("", " ", "\x00", "<|endoftext|>", 'quote " \\ \n\t'),
    *("ein schöner Wald, 森の中の木", "🌲🔥✨ 👩‍👩‍👧"),
)


@pytest.mark.parametrize("prompt", TEXTS, ids=ascii)
def test_any_text_is_a_prompt(server: TritonServer, prompt: str) -> None:
    fields = RAW | {"prompt": prompt, "negative_prompt": prompt}
    grpc, http = (ask_by(server, protocol, fields) for protocol in PROTOCOLS)
    assert grpc.images == http.images


# --- many clients ---------------------------------------------------------------------------------

CROWD: list[tuple[str, dict[str, Any]]] = [
    ("grpc", {"scheduler": "DDIM"}),
    ("http", {"scheduler": "Euler a", "seed": 1}),
    ("grpc", {"samples": 3, "guidance_scale": 1.0}),
    ("http", {"image": pictures.png(pictures.product(203, 701)), "seed": 2}),
    ("grpc", {"strength": 0.5, "prompt": "snow", "num_inference_steps": 30}),
    ("http", {"strength": 0.0, "seed": 3}),
    ("grpc", {"scheduler": "Heun", "cn_weight": 0.2}),
    ("http", {"scheduler": "UniPC", "ip_adapter_weight": 1.0}),
]


def test_concurrent_clients_get_what_they_would_get_alone(server: TritonServer) -> None:
    def run(entry: tuple[str, dict[str, Any]]) -> Replaced:
        return ask_by(server, entry[0], RAW | entry[1])

    alone = [run(entry) for entry in CROWD]
    with ThreadPoolExecutor(len(CROWD)) as pool:
        together = list(pool.map(run, CROWD))
    for (_, options), one, other in zip(CROWD, alone, together, strict=True):
        assert one.seeds == other.seeds
        for first, second in zip(one.images, other.images, strict=True):
            score = pictures.psnr(pictures.decode(first), pictures.decode(second))
            assert score >= SAME_DB, f"{options.keys()}: {score:.1f} dB"
