from __future__ import annotations

import io
import itertools
import random
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from backdrop_server.contract import MAX_PICTURE_BYTES
from backdrop_server.errors import InvalidInputError
from backdrop_server.stages import pictures
from backdrop_server.stages.pictures import Picture, decode

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


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, depth: int, colour: int, rows: bytes, *extra: bytes) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    middle = b"".join(extra) + chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + middle + chunk(b"IEND", b"")


def palette_picture() -> Image.Image:
    picture = Image.fromarray(RNG.integers(0, 4, (20, 30), dtype=np.uint8)).convert("P")
    picture.putpalette([10, 20, 30, 200, 0, 0, 0, 200, 0, 0, 0, 200])
    return picture


def refusal(data: bytes) -> InvalidInputError:
    with pytest.raises(InvalidInputError) as caught:
        decode(data, "image")
    assert caught.value.field == "image"
    return caught.value


# --- PNGs made by hand ----------------------------------------------------------------------------


@pytest.mark.parametrize(("depth", "factor"), [(1, 255), (2, 85), (4, 17), (8, 1)])
def test_transparent_grey_of_every_depth(depth: int, factor: int) -> None:
    values = [0, 1, (1 << depth) - 1, 0, 1, 1, 0, 1]
    packed = sum(v << (depth * (7 - i)) for i, v in enumerate(values)).to_bytes(depth, "big")
    data = png(8, 1, depth, 0, b"\0" + packed, chunk(b"tRNS", struct.pack(">H", 1)))
    picture = decode(data, "image")
    np.testing.assert_array_equal(picture.rgb[0, :, 0], np.array(values) * factor)
    assert picture.alpha is not None
    np.testing.assert_array_equal(picture.alpha[0], np.where(np.array(values) == 1, 0, 255))


@pytest.mark.parametrize("depth", [8, 16])
def test_transparent_rgb_colour(depth: int) -> None:
    scale, kind = (1, "B") if depth == 8 else (257, "H")
    pixels = [(1, 2, 3), (4, 5, 6), (1, 2, 4)]
    row = b"\0" + b"".join(struct.pack(f">3{kind}", *(v * scale for v in p)) for p in pixels)
    key = struct.pack(">3H", *(v * scale for v in pixels[0]))
    picture = decode(png(3, 1, depth, 2, row, chunk(b"tRNS", key)), "image")
    np.testing.assert_array_equal(picture.rgb[0], pixels)
    assert picture.alpha is not None
    assert picture.alpha[0].tolist() == [0, 255, 255]


def test_sixteen_bit_grey_is_scaled_and_keyed_at_full_depth() -> None:
    values = [0, 257, 128 * 257, 65535, 300, 301]
    row = b"\0" + struct.pack(">6H", *values)
    plain = decode(png(6, 1, 16, 0, row), "image")
    assert plain.rgb[0, :, 0].tolist() == [0, 1, 128, 255, 1, 1]
    keyed = decode(png(6, 1, 16, 0, row, chunk(b"tRNS", struct.pack(">H", 300))), "image")
    assert keyed.alpha is not None
    assert keyed.alpha[0].tolist() == [255, 255, 255, 255, 0, 255]


@pytest.mark.parametrize(("colour", "channels"), [(2, 3), (4, 2), (6, 4)])
def test_other_sixteen_bit_pngs(colour: int, channels: int) -> None:
    values = RNG.integers(0, 255, (5, channels), dtype=np.uint8)
    row = b"\0" + (values.astype(">u2") * 257).tobytes()
    picture = decode(png(5, 1, 16, colour, row), "image")
    expected = values[:, :3] if channels > 2 else np.repeat(values[:, :1], 3, axis=1)
    np.testing.assert_array_equal(picture.rgb[0], expected)
    assert (picture.alpha is None) == (colour == 2)
    if picture.alpha is not None:
        np.testing.assert_array_equal(picture.alpha[0], values[:, -1])


# --- hostile bytes --------------------------------------------------------------------------------

VALID: dict[str, bytes] = {
    "png": save(Image.fromarray(np.dstack([RGB, ALPHA])), "PNG"),
    "jpeg": save(Image.fromarray(SMOOTH), "JPEG", quality=90),
    "progressive jpeg": save(Image.fromarray(SMOOTH), "JPEG", progressive=True),
    "gif": save(palette_picture(), "GIF", transparency=1, comment=b"hello"),
    "webp": save(Image.fromarray(RGB), "WEBP", quality=80),
    "lossless webp": save(Image.fromarray(RGB), "WEBP", lossless=True),
    "webp alpha": save(Image.fromarray(np.dstack([RGB, ALPHA])), "WEBP", quality=80),
}


def survives(data: bytes) -> Picture | None:
    try:
        return decode(data, "image")
    except InvalidInputError:
        return None


@pytest.mark.parametrize("name", VALID)
def test_truncated_files_are_refused(name: str) -> None:
    data = VALID[name]
    whole = decode(data, "image").rgb
    cuts = sorted({*range(1, min(64, len(data))), *range(64, len(data), max(1, len(data) // 150))})
    for cut in cuts:
        picture = survives(data[:cut])
        # A few formats end in bytes that carry no pixels.
        assert picture is None or (picture.rgb == whole).all(), cut
    assert survives(data[: len(data) // 2]) is None


@pytest.mark.parametrize("name", VALID)
def test_flipped_bits_raise_nothing_else(name: str) -> None:
    source = random.Random(name)
    for _ in range(300):
        data = bytearray(VALID[name])
        for _ in range(source.choice([1, 2, 8])):
            data[source.randrange(len(data))] ^= 1 << source.randrange(8)
        survives(bytes(data))


def test_random_bytes_are_refused() -> None:
    source = random.Random(3)
    starts = [
        b"",
        b"\x89PNG\r\n\x1a\n",
        b"\xff\xd8\xff",
        b"GIF89a",
        b"RIFF\0\0\0\0WEBPVP8X",
        b"RIFF",
    ]
    for start, length in itertools.product(starts, (0, 1, 7, 30, 500, 5000)):
        for _ in range(5):
            assert survives(start + source.randbytes(length)) is None


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "it is empty"),
        (b"hello", "not a picture"),
        (save(Image.fromarray(RGB), "BMP"), "not a picture"),
        (save(Image.fromarray(RGB), "TIFF"), "not a picture"),
        (b"RIFF\0\0\0\0WAVEfmt ", "not a picture"),
        (bytes(MAX_PICTURE_BYTES + 1), f"it has {MAX_PICTURE_BYTES + 1} bytes"),
        (VALID["png"][:100], "damaged or cut short"),
        (png(0, 5, 8, 2, b""), "damaged"),
    ],
)
def test_refusals_say_why(data: bytes, problem: str) -> None:
    assert problem in refusal(data).problem


def huge_headers() -> dict[str, bytes]:
    jpeg = bytearray(VALID["jpeg"])
    frame = jpeg.index(b"\xff\xc0")
    jpeg[frame + 5 : frame + 9] = struct.pack(">HH", 60000, 60000)
    gif = VALID["gif"][:6] + struct.pack("<HH", 60000, 60000) + VALID["gif"][10:]
    extended = b"\0\0\0\0" + (59999).to_bytes(3, "little") * 2
    return {
        "png": png(60000, 60000, 8, 2, b""),
        "jpeg": bytes(jpeg),
        "gif": gif,
        "webp": b"RIFF\x16\0\0\0WEBPVP8X\x0a\0\0\0" + extended,
    }


@pytest.mark.parametrize("name", ["png", "jpeg", "gif", "webp"])
def test_a_huge_header_is_refused_before_decoding(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pictures, "_decode_pixels", None)
    error = refusal(huge_headers()[name])
    assert error.problem == "it is 60000x60000 px"
    assert error.allowed == "at most 2048x2048 px"


@pytest.mark.parametrize("size", [(2049, 1), (1, 2049), (12000, 9000)])
def test_one_pixel_too_many(size: tuple[int, int]) -> None:
    data = save(Image.new("1", size), "PNG")
    assert refusal(data).problem == "it is {}x{} px".format(*size)


def test_the_largest_size_is_fine() -> None:
    assert decode(save(Image.new("L", (2048, 2048)), "PNG"), "image").size == (2048, 2048)


def test_a_gif_frame_outside_its_screen_counts() -> None:
    data = VALID["gif"]
    frame = data.index(b",\0\0\0\0\x1e\0\x14\0")
    wide = data[: frame + 5] + struct.pack("<HH", 12000, 9000) + data[frame + 9 :]
    assert refusal(wide).problem == "it is 12000x9000 px"


def test_text_bombs_are_never_inflated() -> None:
    bomb = chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(64_000_000)))
    profile = chunk(b"iCCP", b"k\0\0" + zlib.compress(bytes(64_000_000)))
    rows = b"".join(b"\0" + row.tobytes() for row in RGB)
    picture = decode(png(30, 20, 8, 2, rows, bomb, profile, bomb), "image")
    np.testing.assert_array_equal(picture.rgb, RGB)


def test_a_broken_animation_table_is_ignored() -> None:
    rows = b"".join(b"\0" + row.tobytes() for row in RGB)
    picture = decode(png(30, 20, 8, 2, rows, chunk(b"acTL", bytes(8))), "image")
    np.testing.assert_array_equal(picture.rgb, RGB)


def test_a_second_png_header_is_refused() -> None:
    second = chunk(b"IHDR", struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0))
    assert "damaged" in refusal(png(30, 20, 8, 2, b"", second)).problem


def test_a_jpeg_of_endless_scans_is_refused() -> None:
    data = VALID["progressive jpeg"]
    last = data.rindex(b"\xff\xda")
    assert "damaged" in refusal(data[:-2] + data[last:-2] * 300 + data[-2:]).problem


def test_endless_blocks_are_refused() -> None:
    gif = VALID["gif"][:6] + struct.pack("<HHBBB", 4, 4, 0, 0, 0)
    assert "damaged" in refusal(gif + b"!\xfe" + b"\x01a" * 100_000).problem
    many = (b"!\xfe" + b"\x01a" * 60_000 + b"\0") * 2
    assert "damaged" in refusal(gif + many + b"," + bytes(4) + b"\4\0\4\0" + bytes(99)).problem
    assert "damaged" in refusal(png(4, 4, 8, 2, b"", chunk(b"tEXt", b"") * 100_000)).problem


def test_threads_do_not_disturb_each_other() -> None:
    expected = {name: decode(data, "image").rgb for name, data in VALID.items()}
    jobs = [*VALID.items()] * 20
    with ThreadPoolExecutor(4) as pool:
        results = pool.map(lambda job: (job[0], decode(job[1], "image").rgb), jobs)
        for name, rgb in results:
            np.testing.assert_array_equal(rgb, expected[name])
