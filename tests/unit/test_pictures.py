from __future__ import annotations

import base64
import io
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

from backdrop_server.contract import OUTPUT_FORMATS
from backdrop_server.errors import InvalidInputError
from backdrop_server.stages.pictures import Picture, decode, decode_mask, encode

Pixels = npt.NDArray[np.uint8]

RNG = np.random.default_rng(7)
RGB: Pixels = RNG.integers(0, 256, (20, 30, 3), dtype=np.uint8)
GREY: Pixels = RNG.integers(0, 256, (20, 30), dtype=np.uint8)
ALPHA: Pixels = RNG.integers(0, 256, (20, 30), dtype=np.uint8)
SMOOTH: Pixels = np.dstack(
    np.broadcast_arrays(np.arange(40)[:, None] * 6, np.arange(60)[None] * 4, np.uint8(90))
).astype(np.uint8)


def save(picture: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def palette_picture() -> Image.Image:
    picture = Image.fromarray(RNG.integers(0, 4, (20, 30), dtype=np.uint8)).convert("P")
    picture.putpalette([10, 20, 30, 200, 0, 0, 0, 200, 0, 0, 0, 200])
    return picture


# --- formats --------------------------------------------------------------------------------------

GREY_RGB = np.repeat(GREY[..., None], 3, axis=2)

LOSSLESS: dict[str, tuple[bytes, Pixels, Pixels | None]] = {
    "png rgb": (save(Image.fromarray(RGB), "PNG"), RGB, None),
    "png grey": (save(Image.fromarray(GREY), "PNG"), GREY_RGB, None),
    "png rgba": (save(Image.fromarray(np.dstack([RGB, ALPHA])), "PNG"), RGB, ALPHA),
    "png grey alpha": (save(Image.fromarray(np.dstack([GREY, ALPHA])), "PNG"), GREY_RGB, ALPHA),
    "png opaque rgba": (
        save(Image.fromarray(np.dstack([RGB, np.full_like(ALPHA, 255)])), "PNG"),
        RGB,
        None,
    ),
    "webp rgb": (save(Image.fromarray(RGB), "WEBP", lossless=True), RGB, None),
    "webp rgba": (
        save(Image.fromarray(np.dstack([RGB, ALPHA])), "WEBP", lossless=True, exact=True),
        RGB,
        ALPHA,
    ),
    "gif grey": (save(Image.fromarray(GREY), "GIF"), GREY_RGB, None),
}


@pytest.mark.parametrize("name", LOSSLESS)
def test_lossless_files_come_out_exactly(name: str) -> None:
    data, rgb, alpha = LOSSLESS[name]
    picture = decode(data, "image")
    assert picture.rgb.dtype == np.uint8
    assert picture.rgb.flags.c_contiguous
    np.testing.assert_array_equal(picture.rgb, rgb)
    if alpha is None:
        assert picture.alpha is None
    else:
        assert picture.alpha is not None
        np.testing.assert_array_equal(picture.alpha, alpha)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("progressive", [False, True])
def test_jpeg_modes(mode: str, progressive: bool) -> None:
    source = Image.fromarray(SMOOTH).convert(mode)
    data = save(source, "JPEG", quality=95, subsampling=0, progressive=progressive)
    expected = np.asarray(source.convert("RGB")).astype(int)
    picture = decode(data, "image")
    assert np.abs(picture.rgb - expected).mean() < 3
    assert picture.alpha is None


def test_jpeg_side_segments_change_nothing() -> None:
    plain = save(Image.fromarray(SMOOTH), "JPEG")
    dressed = save(Image.fromarray(SMOOTH), "JPEG", comment=b"c" * 999, icc_profile=b"p" * 70_000)
    np.testing.assert_array_equal(decode(dressed, "image").rgb, decode(plain, "image").rgb)


@pytest.mark.parametrize("kind", ["PNG", "GIF"])
def test_palette_with_and_without_transparency(kind: str) -> None:
    source = palette_picture()
    rgb = np.asarray(source.convert("RGB"))
    opaque = decode(save(source, kind), "image")
    assert opaque.alpha is None
    np.testing.assert_array_equal(opaque.rgb, rgb)
    keyed = decode(save(source, kind, transparency=2), "image")
    assert keyed.alpha is not None
    np.testing.assert_array_equal(keyed.alpha, np.where(np.asarray(source) == 2, 0, 255))
    np.testing.assert_array_equal(keyed.rgb[keyed.alpha > 0], rgb[keyed.alpha > 0])


def test_palette_with_partial_transparency() -> None:
    source = palette_picture()
    picture = decode(save(source, "PNG", transparency=bytes([0, 100, 200, 255])), "image")
    assert picture.alpha is not None
    np.testing.assert_array_equal(picture.alpha, np.array([0, 100, 200, 255])[np.asarray(source)])
    np.testing.assert_array_equal(picture.rgb, np.asarray(source.convert("RGB")))


def test_one_bit_png() -> None:
    bits = GREY > 127
    picture = decode(save(Image.fromarray(bits), "PNG"), "image")
    np.testing.assert_array_equal(picture.rgb[..., 0], bits * 255)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_an_animation_gives_its_first_frame(kind: str) -> None:
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("#ff0000", "#00ff00", "#0000ff")]
    options: dict[str, Any] = {"lossless": True} if kind == "WEBP" else {}
    data = save(frames[0], kind, save_all=True, append_images=frames[1:], duration=50, **options)
    picture = decode(data, "image")
    assert picture.size == (16, 16)
    assert (picture.rgb == [255, 0, 0]).all()


def test_fully_transparent_pixels_keep_their_colour() -> None:
    source = np.dstack([RGB, np.zeros_like(ALPHA)])
    for data in (
        save(Image.fromarray(source), "PNG"),
        save(Image.fromarray(source), "WEBP", lossless=True, exact=True),
    ):
        np.testing.assert_array_equal(decode(data, "image").rgb, RGB)


# --- orientation ----------------------------------------------------------------------------------

UPRIGHT: dict[int, Callable[[Pixels], Pixels]] = {
    1: lambda a: a,
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).swapaxes(0, 1),
    8: lambda a: np.rot90(a, 1),
}


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
@pytest.mark.parametrize("orientation", UPRIGHT)
def test_orientation(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    options: dict[str, Any] = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    data = save(Image.fromarray(np.dstack([RGB, ALPHA])), kind, exif=exif, **options)
    picture = decode(data, "image")
    np.testing.assert_array_equal(picture.rgb, UPRIGHT[orientation](RGB))
    assert picture.alpha is not None
    np.testing.assert_array_equal(picture.alpha, UPRIGHT[orientation](ALPHA))


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("orientation", UPRIGHT)
def test_jpeg_orientation_in_both_byte_orders(order: str, orientation: int) -> None:
    mark = b"II*\0" if order == "<" else b"MM\0*"
    tags = struct.pack(order + "IHHHIHHI", 8, 1, 0x0112, 3, 1, orientation, 0, 0)
    data = save(Image.fromarray(SMOOTH), "JPEG", exif=b"Exif\0\0" + mark + tags)
    plain = decode(save(Image.fromarray(SMOOTH), "JPEG"), "image").rgb
    np.testing.assert_array_equal(decode(data, "image").rgb, UPRIGHT[orientation](plain))


@pytest.mark.parametrize(
    "exif", [b"", b"Exif\0\0", b"II*\0", b"II*\0\xff\xff\xff\xff", b"MM\0*\0\0\0\x08\xff\xff\x01"]
)
def test_broken_exif_is_ignored(exif: bytes) -> None:
    data = save(Image.fromarray(SMOOTH), "JPEG", exif=b"Exif\0\0" + exif)
    plain = decode(save(Image.fromarray(SMOOTH), "JPEG"), "image").rgb
    np.testing.assert_array_equal(decode(data, "image").rgb, plain)


# --- masks ----------------------------------------------------------------------------------------


def snapped(mask: Pixels) -> Pixels:
    """Nearly black is black, nearly white is white."""
    low: Pixels = np.where(mask <= 8, 0, mask).astype(np.uint8)
    both: Pixels = np.where(low >= 247, 255, low).astype(np.uint8)
    return both


def test_a_grey_mask_is_itself_but_for_its_ends() -> None:
    data = save(Image.fromarray(GREY), "PNG")
    np.testing.assert_array_equal(decode_mask(data, "mask_image", (30, 20)), snapped(GREY))


def test_a_coloured_mask_becomes_luminance() -> None:
    mask = decode_mask(save(Image.new("RGB", (4, 2), "#00ff00"), "PNG"), "mask_image", (4, 2))
    assert mask.shape == (2, 4)
    assert (mask == 150).all()


def test_a_transparent_mask_lies_over_black() -> None:
    source = np.dstack([np.full_like(GREY, 255), ALPHA])
    mask = decode_mask(save(Image.fromarray(source), "PNG"), "mask_image", (30, 20))
    np.testing.assert_array_equal(mask, snapped(ALPHA))


def test_a_mask_is_measured_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = save(Image.fromarray(GREY), "PNG", exif=exif)
    np.testing.assert_array_equal(
        decode_mask(data, "mask_image", (20, 30)), np.rot90(snapped(GREY), -1)
    )


def test_a_mask_of_another_size_names_both() -> None:
    with pytest.raises(InvalidInputError, match="30x20 px, the photo 31x20 px") as caught:
        decode_mask(save(Image.fromarray(GREY), "PNG"), "mask_image", (31, 20))
    assert caught.value.field == "mask_image"


# --- encoding -------------------------------------------------------------------------------------


@pytest.mark.parametrize("output_format", OUTPUT_FORMATS)
@pytest.mark.parametrize("array", [SMOOTH, SMOOTH[..., 0]], ids=["rgb", "grey"])
def test_encode(output_format: str, array: Pixels) -> None:
    data = encode(np.ascontiguousarray(array), output_format)
    with Image.open(io.BytesIO(data)) as file:
        assert file.format == output_format.upper()
    rgb = decode(data, "image").rgb.astype(int)
    expected = array if array.ndim == 3 else np.repeat(array[..., None], 3, axis=2)
    limit = 0 if output_format == "png" else 4
    assert np.abs(rgb - expected).mean() <= limit


@pytest.mark.parametrize("shape", [(1, 1, 3), (7, 9, 3), (64, 65, 3), (31, 7)])
def test_jpeg_is_the_file_that_pillow_writes(shape: tuple[int, ...]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "jpeg", quality=95, subsampling=0)
    assert encode(pixels, "jpeg") == file.getvalue()


def test_jpeg_keeps_colour_at_full_size() -> None:
    with Image.open(io.BytesIO(encode(SMOOTH, "jpeg"))) as file:
        assert isinstance(file, JpegImageFile)
        assert {layer[1:3] for layer in file.layer} == {(1, 1)}


def test_a_picture_refuses_an_alpha_of_another_size() -> None:
    with pytest.raises(ValueError, match="alpha"):
        Picture(RGB, ALPHA[1:])


def test_a_data_uri_is_decoded_like_the_file_in_it() -> None:
    rgb = np.arange(6 * 4 * 3, dtype=np.uint8).reshape(4, 6, 3)
    data = encode(rgb, "png")
    uri = b"data:image/png;base64," + base64.b64encode(data)
    assert np.array_equal(decode(uri, "image").rgb, rgb)


@pytest.mark.parametrize(
    "uri", [b"data:", b"data:image/png,abc", b"data:image/png;base64,@@@@", b"data:;base64,"]
)
def test_a_wrong_data_uri_names_the_field(uri: bytes) -> None:
    with pytest.raises(InvalidInputError, match=r"^ref_image: "):
        decode(uri, "ref_image")


def test_a_jpeg_mask_keeps_exactly_what_is_black() -> None:
    mask = np.zeros((64, 64), np.uint8)
    mask[:, 40:] = 255
    file = io.BytesIO()
    Image.fromarray(mask).save(file, "JPEG", quality=60)
    decoded = decode_mask(file.getvalue(), "mask_image", (64, 64))
    assert not decoded[:, :32].any()
    assert (decoded[:, 48:] == 255).all()
