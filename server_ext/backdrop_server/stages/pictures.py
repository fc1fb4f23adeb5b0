"""Picture files to arrays and back, and the sizes that pictures take on the way."""

from __future__ import annotations

import base64
import binascii
import dataclasses
import io
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image
from PIL.GifImagePlugin import GifImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from backdrop_server.contract import MAX_PICTURE_BYTES, MAX_PICTURE_SIDE, PICTURE_FORMATS
from backdrop_server.errors import InvalidInputError
from backdrop_server.picture_files import (
    DamagedFileError,
    PictureFile,
    read_picture_file,
)

Pixels = npt.NDArray[np.uint8]

CLIP_MAX_ASPECT = 16
MASK_SLACK = 8

# The classes themselves, not `Image.open`: that one warns of large pictures before we can refuse.
_DECODERS: dict[str, type[ImageFile]] = {
    "PNG": PngImageFile,
    "JPEG": JpegImageFile,
    "GIF": GifImageFile,
    "WEBP": WebPImageFile,
}
_JPEG_OPTIONS = (
    *(cv2.IMWRITE_JPEG_QUALITY, 95),
    *(cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444),
)
_ENCODER_OPTIONS: dict[str, dict[str, Any]] = {
    "png": {"compress_level": 4},
    "webp": {"quality": 95, "method": 2},
}


@dataclasses.dataclass(frozen=True, eq=False)
class Picture:
    """A decoded picture: ``rgb`` uint8 [H, W, 3]; ``alpha`` uint8 [H, W], None if all is opaque."""

    rgb: Pixels
    alpha: Pixels | None = None

    def __post_init__(self) -> None:
        if self.alpha is not None and self.alpha.shape != self.rgb.shape[:2]:
            raise ValueError("a picture's alpha must have the size of its pixels")

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self.rgb.shape[1], self.rgb.shape[0]


def decode(data: bytes, field: str) -> Picture:
    """Decode a PNG, JPEG, GIF or WebP file, upright, the first frame of an animation.

    ``data`` may also be a base64 data URI of such a file, for clients that can send only text.

    The size is checked before any pixel is decoded. Colours under full transparency are kept as
    stored. Raises InvalidInputError, naming ``field``, for bytes that are no such picture, are
    damaged, or are larger than the contract allows; raises nothing else, whatever the bytes.
    """
    file = _read_header(_without_data_uri(data, field), field)
    try:
        rgb, alpha = _decode_pixels(file)
    except Exception as error:  # a decoder's failures are many, and all mean the same
        raise _damaged(field) from error
    if alpha is not None and alpha.min() == 255:
        alpha = None
    upright = None if alpha is None else _orient(alpha, file.orientation)
    return Picture(_orient(rgb, file.orientation), upright)


def decode_mask(data: bytes, field: str, size: tuple[int, int]) -> Pixels:
    """Decode a mask for a photo of ``size`` (width, height) to uint8 [H, W]; 255 = repaint.

    Colours become luminance; transparent parts count as black. Raises InvalidInputError as
    ``decode`` does, and where the mask has another size.
    """
    picture = decode(data, field)
    if picture.size != size:
        problem = "it is {}x{} px, the photo {}x{} px".format(*picture.size, *size)
        raise InvalidInputError(field, problem, "a mask of the photo's size")
    mask = np.array(Image.fromarray(picture.rgb).convert("L"))
    if picture.alpha is not None:
        mask = ((mask.astype(np.uint16) * picture.alpha + 127) // 255).astype(np.uint8)
    # A JPEG's black is 3 and its white is 252; what is meant to be kept must be kept exactly.
    mask[mask <= MASK_SLACK] = 0
    mask[mask >= 255 - MASK_SLACK] = 255
    return mask


def _without_data_uri(data: bytes, field: str) -> bytes:
    if not data.startswith(b"data:"):
        return data
    head, _, text = data.partition(b",")
    if not head.endswith(b";base64"):
        raise InvalidInputError(field, "its data URI is not base64", "data:image/...;base64,...")
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise InvalidInputError(field, "its data URI is damaged", "valid base64") from error


def encode(rgb: Pixels, output_format: str) -> bytes:
    """Encode uint8 [H, W, 3] or [H, W] as one of the contract's output formats; [H, W, 4] as png.

    ``png`` is lossless; ``jpeg`` has quality 95 and full-size colour; ``webp`` has quality 95.
    """
    if output_format == "jpeg":
        return _jpeg(rgb)
    options = _ENCODER_OPTIONS[output_format]
    file = io.BytesIO()
    Image.fromarray(rgb).save(file, output_format, **options)
    return file.getvalue()


def _jpeg(rgb: Pixels) -> bytes:
    # The same bytes as Pillow's, which lets no other thread run meanwhile.
    pixels = cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR) if rgb.ndim == 3 else rgb
    done, file = cv2.imencode(".jpg", pixels, _JPEG_OPTIONS)
    if not done:
        raise ValueError(f"no JPEG file can hold {rgb.shape[1]}x{rgb.shape[0]} px")
    return file.tobytes()


def resize(array: Pixels, width: int, height: int) -> Pixels:
    """Resize uint8 [H, W, 3] or [H, W] with a Lanczos filter.

    An array that has the size already is returned as it is.
    """
    if array.shape[:2] == (height, width):
        return array
    picture = Image.fromarray(array)
    return np.array(picture.resize((width, height), Image.Resampling.LANCZOS))


def resize_matte(alpha: Pixels, width: int, height: int) -> Pixels:
    """Resize a matte uint8 [H, W]: a side that shrinks by areas, one that grows linearly."""
    if alpha.shape == (height, width):
        return alpha
    size = min(width, alpha.shape[1]), min(height, alpha.shape[0])
    small = cv2.resize(alpha, size, interpolation=cv2.INTER_AREA)
    resized: Pixels = cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)
    return resized


def clip_pixels(rgb: Pixels, size: int) -> Pixels:
    """The uint8 [size, size, 3] that a CLIP vision tower sees of uint8 [H, W, 3], not normalised.

    As transformers' ``CLIPImageProcessorPil`` up to its rescaling: shortest side to ``size``,
    bicubic, then the centre. Pictures past 16:1 are first cut to their middle 16:1, else the
    enlarged strip would fill the memory.
    """
    rgb = _middle(rgb, CLIP_MAX_ASPECT * min(rgb.shape[:2]))
    height, width = rgb.shape[:2]
    short, long = min(height, width), max(height, width)
    scaled = int(size * long / short)
    wide, high = (scaled, size) if width >= height else (size, scaled)
    picture = Image.fromarray(rgb).resize((wide, high), Image.Resampling.BICUBIC)
    left, top = (wide - size) // 2, (high - size) // 2
    return np.array(picture.crop((left, top, left + size, top + size)))


def _middle(rgb: Pixels, longest: int) -> Pixels:
    top, left = (max(0, (side - longest) // 2) for side in rgb.shape[:2])
    return np.ascontiguousarray(rgb[top : top + longest, left : left + longest])


def _damaged(field: str) -> InvalidInputError:
    return InvalidInputError(field, "it is damaged or cut short", "a complete picture file")


def _read_header(data: bytes, field: str) -> PictureFile:
    if not data:
        raise InvalidInputError(field, "it is empty", _formats())
    if len(data) > MAX_PICTURE_BYTES:
        problem = f"it has {len(data)} bytes"
        raise InvalidInputError(field, problem, f"at most {MAX_PICTURE_BYTES} bytes")
    try:
        file = read_picture_file(data)
    except DamagedFileError as error:
        raise _damaged(field) from error
    if file is None:
        raise InvalidInputError(field, "it is not a picture of a known format", _formats())
    if not file.width or not file.height:
        raise _damaged(field)
    if max(file.width, file.height) > MAX_PICTURE_SIDE:
        allowed = f"at most {MAX_PICTURE_SIDE}x{MAX_PICTURE_SIDE} px"
        raise InvalidInputError(field, f"it is {file.width}x{file.height} px", allowed)
    return file


def _formats() -> str:
    return "a " + ", ".join(PICTURE_FORMATS[:-1]) + f" or {PICTURE_FORMATS[-1]} file"


def _decode_pixels(file: PictureFile) -> tuple[Pixels, Pixels | None]:
    with _DECODERS[file.format](io.BytesIO(file.data)) as picture:
        if picture.size != (file.width, file.height):
            raise DamagedFileError("its sizes contradict each other")
        picture.load()
        if picture.mode.startswith("I"):
            return _deep_grey(np.asarray(picture), file.transparent)
        if "transparency" in picture.info or picture.mode in {"LA", "PA", "RGBA"}:
            rgba = np.array(picture.convert("RGBA"))
            return np.ascontiguousarray(rgba[..., :3]), np.ascontiguousarray(rgba[..., 3])
        rgb = np.array(picture if picture.mode == "RGB" else picture.convert("RGB"))
    return rgb, _keyed(rgb, file.transparent)


def _deep_grey(
    grey: npt.NDArray[Any], transparent: tuple[int, ...] | None
) -> tuple[Pixels, Pixels | None]:
    """16-bit greyscale to RGB; every value that 8 bits can hold exactly comes out as that value."""
    narrow = ((grey.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)
    return np.repeat(narrow[..., None], 3, axis=2), _keyed(grey[..., None], transparent)


def _keyed(pixels: npt.NDArray[Any], transparent: tuple[int, ...] | None) -> Pixels | None:
    if transparent is None:
        return None
    return np.where((pixels == np.array(transparent)).all(axis=2), 0, 255).astype(np.uint8)


def _orient(array: Pixels, orientation: int) -> Pixels:
    """Turn stored pixels upright; ``orientation`` as in EXIF, 1 to 8."""
    if orientation >= 5:
        array = array.swapaxes(0, 1)
    if orientation in {2, 3, 6, 7}:
        array = array[:, ::-1]
    if orientation in {3, 4, 7, 8}:
        array = array[::-1]
    return np.ascontiguousarray(array)
