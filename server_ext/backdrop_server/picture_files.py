"""What a picture file says of itself, read without decoding a pixel and without a library's help.

A reader for pixels parses every side chunk it knows, and hostile files live there: text that
inflates without end, animation tables, half-written EXIF. So a file is walked here first and only
what the pixels need is handed on.
"""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Callable, Iterator

MAX_BLOCKS = 65_536
"""Chunks, segments or sub-blocks walked before a file counts as damaged."""
MAX_JPEG_SCANS = 200
"""Each scan of a progressive JPEG costs a pass over the whole picture, however few bytes it has."""

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_JPEG_PIXELS_NEED = frozenset({0xC4, 0xCC, 0xDA, 0xDB, 0xDD, 0xE0, 0xEE}) | _JPEG_FRAMES
_JPEG_BARE = frozenset(range(0xD0, 0xD9)) | {0x01}


class DamagedFileError(ValueError):
    """The file breaks its own format, or ends early."""


@dataclasses.dataclass(frozen=True)
class PictureFile:
    """A picture file reduced to what its pixels need.

    ``width`` and ``height`` are stored pixels, before ``orientation`` (EXIF, 1 to 8) is applied.
    ``transparent`` is the one colour that a PNG declares transparent, on the scale of the decoded
    pixels: 0..255, or 0..65535 for 16-bit greyscale.
    """

    format: str
    width: int
    height: int
    data: bytes
    orientation: int = 1
    transparent: tuple[int, ...] | None = None


def read_picture_file(data: bytes) -> PictureFile | None:
    """Read the header of a PNG, JPEG, GIF or WebP file; None for anything else.

    Raises DamagedFileError where the file is cut short or contradicts itself.
    """
    for signature, read in _READERS.items():
        if data.startswith(signature):
            try:
                return read(data)
            except (IndexError, struct.error) as error:
                raise DamagedFileError("it ends early") from error
    return None


def exif_orientation(exif: bytes) -> int:
    """The orientation, 1 to 8, in an EXIF block with or without its prefix; 1 if unclear."""
    tiff = exif.removeprefix(b"Exif\x00\x00")
    order = {b"II*\x00": "<", b"MM\x00*": ">"}.get(tiff[:4])
    if order is None:
        return 1
    try:
        return _orientation_tag(tiff, order)
    except struct.error:
        return 1


def _orientation_tag(tiff: bytes, order: str) -> int:
    (start,) = struct.unpack_from(order + "I", tiff, 4)
    (count,) = struct.unpack_from(order + "H", tiff, start)
    for entry in range(start + 2, start + 2 + 12 * count, 12):
        tag, kind, _, value = struct.unpack_from(order + "HHIH", tiff, entry)
        if tag == 0x0112 and kind == 3:
            return value if 1 <= value <= 8 else 1
    return 1


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Kind, start and end of each chunk's frame (length, kind, body, checksum) up to IEND."""
    start = len(_PNG_SIGNATURE)
    for _ in range(MAX_BLOCKS):
        length, kind = struct.unpack_from(">I4s", data, start)
        end = start + 12 + length
        if end > len(data):
            break
        yield kind, start, end
        if kind == b"IEND":
            return
        start = end
    raise DamagedFileError("its last chunk is missing")


def _read_png(data: bytes) -> PictureFile:
    width, height, depth, colour = struct.unpack_from(">IIBB", data, 16)
    kept, orientation, transparent = [_PNG_SIGNATURE], 1, None
    for index, (kind, start, end) in enumerate(_png_chunks(data)):
        if (index == 0) != (kind == b"IHDR"):
            raise DamagedFileError("its header is not its first chunk")
        if kind == b"eXIf":
            orientation = exif_orientation(data[start + 8 : end - 4])
        elif kind == b"tRNS" and colour in {0, 2}:
            transparent = _png_transparent(data[start + 8 : end - 4], depth, colour)
        elif kind in {b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"}:
            kept.append(data[start:end])
    return PictureFile("PNG", width, height, b"".join(kept), orientation, transparent)


def _png_transparent(body: bytes, depth: int, colour: int) -> tuple[int, ...]:
    values = struct.unpack_from(">H" if colour == 0 else ">HHH", body)
    if depth == 16:
        # 16-bit colours are decoded to their high bytes, 16-bit greys are kept whole.
        return values if colour == 0 else tuple(value >> 8 for value in values)
    top: int = (1 << depth) - 1
    return tuple((value & top) * 255 // top for value in values)


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Marker, start and end of each segment from the start of the picture to its first scan."""
    start = 2
    for _ in range(MAX_BLOCKS):
        start = data.index(b"\xff", start)
        marker = data[start + 1]
        if marker == 0xFF:
            start += 1
        elif marker in _JPEG_BARE or marker == 0:
            start += 2
        else:
            end = start + 2 + int(struct.unpack_from(">H", data, start + 2)[0])
            yield marker, start, end
            if marker == 0xDA:
                return
            start = end
    raise DamagedFileError("it has no scan")


def _read_jpeg(data: bytes) -> PictureFile:
    kept, orientation, size, end = [data[:2]], 1, (0, 0), 2
    try:
        for marker, start, end in _jpeg_segments(data):
            if marker in _JPEG_FRAMES:
                size = struct.unpack_from(">HH", data, start + 5)
            if marker == 0xE1 and data.startswith(b"Exif\x00\x00", start + 4):
                orientation = exif_orientation(data[start + 4 : end])
            if marker in _JPEG_PIXELS_NEED:
                kept.append(data[start:end])
    except ValueError as error:
        raise DamagedFileError("it has no scan") from error
    if data.count(b"\xff\xda", end) > MAX_JPEG_SCANS:
        raise DamagedFileError("it has too many scans")
    kept.append(data[end:])
    return PictureFile("JPEG", size[1], size[0], b"".join(kept), orientation)


def _gif_table(flags: int) -> int:
    """Bytes of the colour table that a packed flag byte announces."""
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0


def _after_sub_blocks(data: bytes, start: int, most: int) -> tuple[int, int]:
    """Where they end, and how many of ``most`` are left then."""
    for left in reversed(range(most)):
        length = data[start]
        start += 1 + length
        if length == 0:
            return start, left
    raise DamagedFileError("it has too many blocks")


def _read_gif(data: bytes) -> PictureFile:
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    table_end = start = 13 + _gif_table(flags)
    control, blocks = b"", MAX_BLOCKS
    while True:
        if data[start] == 0x2C:
            left, top, frame_width, frame_height = struct.unpack_from("<HHHH", data, start + 1)
            if not frame_width or not frame_height:
                break
            size = max(width, left + frame_width), max(height, top + frame_height)
            return PictureFile("GIF", *size, data[:table_end] + control + data[start:])
        if data[start] != 0x21:
            break
        end, blocks = _after_sub_blocks(data, start + 2, blocks)
        if data[start + 1] == 0xF9:
            control = data[start:end]
        start = end
    raise DamagedFileError("it has no frame")


def _read_webp(data: bytes) -> PictureFile | None:
    kind = data[8:16]
    if not kind.startswith(b"WEBP"):
        return None
    if kind == b"WEBPVP8X":
        width = int.from_bytes(data[24:27], "little") + 1
        height = int.from_bytes(data[27:30], "little") + 1
    elif kind == b"WEBPVP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    elif kind == b"WEBPVP8 ":
        width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", data, 26))
    else:
        raise DamagedFileError("it has no picture chunk")
    return PictureFile("WEBP", width, height, data, _webp_orientation(data))


def _webp_orientation(data: bytes) -> int:
    start = 12
    for _ in range(MAX_BLOCKS):
        if start + 8 > len(data):
            break
        kind, length = struct.unpack_from("<4sI", data, start)
        if kind == b"EXIF":
            return exif_orientation(data[start + 8 : start + 8 + length])
        start += 8 + length + length % 2
    return 1


_READERS: dict[bytes, Callable[[bytes], PictureFile | None]] = {
    _PNG_SIGNATURE: _read_png,
    b"\xff\xd8": _read_jpeg,
    b"GIF87a": _read_gif,
    b"GIF89a": _read_gif,
    b"RIFF": _read_webp,
}
