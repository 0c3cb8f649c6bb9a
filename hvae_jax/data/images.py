"""Image files to arrays: which are refused and why, conversions, resizing and cropping."""

import dataclasses
import io
from pathlib import Path
from typing import Any

import numpy as np

from hvae_jax.records import checked
from hvae_jax.runtime.errors import first_line

GREY_MODES = frozenset({"1", "L", "LA", "La"})
_REFUSED_MODES = {
    "CMYK": "is CMYK, whose colours depend on a printing profile; convert it to RGB",
    "YCbCr": "is YCbCr, not RGB; convert it to RGB",
    "LAB": "is in the LAB colour space; convert it to RGB",
    "HSV": "is HSV; convert it to RGB",
    "I": "has 32 bits a channel, where 8 are needed; rescale it as you see fit",
    "F": "has floating point pixels, where 8 bits a channel are needed; rescale it as you see fit",
}
_ORIENTATION = 0x0112  # EXIF
_TURNED = frozenset({5, 6, 7, 8})
_MOST_SIDE = 8_192
"""Largest side that images are resized to: its square is about the number of pixels that Pillow opens."""
_LONGEST = 8
"""Largest ratio of the sides of an image that is resized whole, before the centre is cropped."""


class BadImageError(ValueError):
    """A file is no image of 8 bits per channel; the message says what it is instead."""


@dataclasses.dataclass(frozen=True)
class Header:
    """The header of an image file.

    Attributes:
      height, width: of the image once it is rotated as its metadata say.
      grey: whether it is stored as grey.
    """

    height: int
    width: int
    grey: bool


def read_header(source: str | bytes) -> Header:
    """Reads an image's header, from a path or from bytes. Raises BadImageError.

    Pixels are decoded only of a PNG with metadata behind them.
    """
    with _open(source) as image:
        try:
            turned = _orientation(image, source) in _TURNED
        except Exception as error:
            raise BadImageError(f"cannot be read ({first_line(error)})") from error
        width, height = _stored_size(image)
        return Header(*((width, height) if turned else (height, width)), image.mode in GREY_MODES)


def read_image(source: str | bytes, channels: int, fit: Any = None) -> np.ndarray:
    """An image as uint8 `[H, W, channels]`, from a path or from bytes.

    It is rotated as `PIL.ImageOps.exif_transpose` does, palettes become their colours, and transparent pixels are laid
    on white unless `channels` is 4.

    Args:
      channels: 1, 3 or 4.
      fit: applied to the PIL image before it becomes an array; None leaves it.
    Raises BadImageError, also for an image that is cut short.
    """
    from PIL import ImageOps

    with _open(source) as image:
        try:
            image.load()
            image = ImageOps.exif_transpose(image)
            image = converted(image, {1: "L", 3: "RGB", 4: "RGBA"}[channels])
            image = image if fit is None else fit(image)
        except Exception as error:  # Pillow's decoders raise whatever they trip over
            raise BadImageError(f"cannot be decoded ({first_line(error)})") from error
        return np.asarray(image).reshape(image.height, image.width, channels)


@dataclasses.dataclass(frozen=True)
@checked
class CentreSquare:
    """Resizes the shorter side to `size` by PIL's antialiased bicubic filter, then crops the centre square.

    Of an image whose sides differ by a factor above 8 only the square is resized, by the same filter: an image of
    1 x 65,000 pixels would become one of billions.
    """

    size: int

    def __post_init__(self) -> None:
        if not 1 <= self.size <= _MOST_SIDE:
            raise ValueError(f"size={self.size}: it is the side of a square in pixels, 1 or more up to {_MOST_SIDE:,}.")

    def __call__(self, image: Any) -> Any:
        """The square of a PIL image."""
        from PIL import Image

        scale = self.size / min(image.size)
        resized = tuple(max(self.size, round(side * scale)) for side in image.size)
        left, top = ((side - self.size) // 2 for side in resized)
        if max(image.size) > _LONGEST * min(image.size):
            across, down = (old / new for old, new in zip(image.size, resized, strict=True))
            box = (left * across, top * down, (left + self.size) * across, (top + self.size) * down)
            return image.resize((self.size, self.size), Image.Resampling.BICUBIC, box)
        if resized != image.size:
            image = image.resize(resized, Image.Resampling.BICUBIC)
        return image.crop((left, top, left + self.size, top + self.size))


def _orientation(image: Any, source: str | bytes) -> int | None:
    """The EXIF orientation, wherever Pillow finds it: EXIF, tags of a TIFF, a raw profile, XMP."""
    from PIL import Image

    if image.format != "PNG":
        return image.getexif().get(_ORIENTATION)
    with _stream(source) as stream:
        if _metadata_behind_pixels(stream):
            image.load()
    # That of PNGs decodes the pixels of every file without EXIF, in search of some behind them.
    return Image.Image.getexif(image).get(_ORIENTATION)


def _stream(source: str | bytes) -> io.BufferedIOBase:
    return io.BytesIO(source) if isinstance(source, bytes) else Path(source).open("rb")


def _metadata_behind_pixels(stream: io.BufferedIOBase) -> bool:
    """Whether a PNG has chunks of metadata behind its first chunk of pixels."""
    stream.seek(8)
    behind = False
    while len(head := stream.read(8)) == 8:
        length, kind = int.from_bytes(head[:4], "big"), head[4:]
        behind = behind or kind == b"IDAT"
        if behind and kind in (b"eXIf", b"iTXt", b"tEXt", b"zTXt"):
            return True
        stream.seek(length + 4, io.SEEK_CUR)
    return False


def _stored_size(image: Any) -> tuple[int, int]:
    """(width, height) before it is rotated: from Pillow 11.1 on, `size` of a TIFF is that after it."""
    return (image.tag_v2[256], image.tag_v2[257]) if image.format == "TIFF" else image.size


def _open(source: str | bytes) -> Any:
    """A PIL image that has passed every check of its header. Raises BadImageError, and OSError for no file."""
    from PIL import Image, UnidentifiedImageError

    if (len(source) if isinstance(source, bytes) else Path(source).stat().st_size) == 0:
        raise BadImageError("is empty (0 bytes)")
    try:
        image = Image.open(io.BytesIO(source) if isinstance(source, bytes) else source)
        reason = _objection(image, source)
    except Image.DecompressionBombError as error:
        raise BadImageError(f"is too large to be opened safely ({error})") from error
    except UnidentifiedImageError as error:
        raise BadImageError("is no image that Pillow can read") from error
    except Exception as error:  # Pillow's parsers of headers raise whatever they trip over
        raise BadImageError(f"cannot be read ({first_line(error)})") from error
    if reason:
        image.close()
        raise BadImageError(reason)
    return image


def _objection(image: Any, source: str | bytes) -> str:
    from PIL import Image

    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and image.width * image.height > limit:
        return f"has {image.width} x {image.height} pixels, and more than {limit:,} are not opened"
    if (bits := _bits(image, source)) > 8:
        return f"has {bits} bits a channel, where 8 are needed; rescale it as you see fit"
    if image.mode in _REFUSED_MODES:
        return _REFUSED_MODES[image.mode]
    # An MPO is a camera's JPEG with a preview behind it: its first frame is the image.
    if image.format != "MPO" and getattr(image, "is_animated", False):
        return f"holds {image.n_frames} frames, where one is needed"
    return ""


def _bits(image: Any, source: str | bytes) -> int:
    """Bits a channel, where Pillow would cut them to 8 and its mode does not say so; 8 or fewer otherwise."""
    if image.mode.startswith("I;16") or any(";16" in str(tile[3]) for tile in image.tile):
        return 16
    if image.format == "PPM" and isinstance(image.tile[0][3], tuple):
        return int(image.tile[0][3][-1]).bit_length()  # the largest value, such as 1023
    if image.format not in ("JPEG2000", "AVIF"):
        return 8
    with _stream(source) as stream:
        content = stream.read()
    if image.format == "AVIF":  # AV1-ISOBMFF, section 2.3.3: flags high_bitdepth and twelve_bit
        flags = content[content.index(b"av1C") + 6]
        return (12 if flags & 0x20 else 10) if flags & 0x40 else 8
    sizes = content.index(b"\xff\x4f\xff\x51") + 42  # JPEG 2000, annex A.5.1: Ssiz of each component, bits - 1
    channels = int.from_bytes(content[sizes - 2 : sizes], "big")
    return max(1 + (size & 0x7F) for size in content[sizes : sizes + 3 * channels : 3])


def converted(image: Any, mode: str) -> Any:
    """A PIL image in a mode; transparent pixels are laid on white unless the mode is RGBA."""
    from PIL import Image

    if mode != "RGBA" and (image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info):
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image if image.mode == mode else image.convert(mode)
