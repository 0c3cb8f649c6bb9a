"""Image files to arrays: which are refused and why, conversions, resizing and cropping."""

import dataclasses
import io
from pathlib import Path
from typing import Any

import numpy as np

from hvae_jax.records import checked

GREY_MODES = frozenset({"1", "L", "LA", "La"})
_REFUSED_MODES = {
    "CMYK": "is CMYK, whose colours depend on a printing profile; convert it to RGB",
    "YCbCr": "is YCbCr, not RGB; convert it to RGB",
    "LAB": "is in the LAB colour space; convert it to RGB",
    "HSV": "is HSV; convert it to RGB",
    "I": "has 32 bits a pixel, where 8 a channel are needed; rescale it as you see fit",
    "F": "has floating point pixels, where 8 bits a channel are needed; rescale it as you see fit",
}
_ORIENTATION = 0x0112  # EXIF
_TURNED = frozenset({5, 6, 7, 8})


class BadImageError(ValueError):
    """A file is no image of 8 bits per channel; the message says what it is instead."""


@dataclasses.dataclass(frozen=True)
class Header:
    """The header of an image file.

    Attributes:
      height, width: of the image once it is rotated as its EXIF says.
      grey: whether it is stored as grey.
    """

    height: int
    width: int
    grey: bool


def read_header(source: str | bytes) -> Header:
    """Reads an image's header, from a path or from bytes, and no pixel. Raises BadImageError."""
    with _open(source) as image:
        # Pillow would decode a whole PNG in search of EXIF behind its pixels.
        has_exif = image.format != "PNG" or "exif" in image.info
        turned = has_exif and image.getexif().get(_ORIENTATION) in _TURNED
        width, height = reversed(image.size) if turned else image.size
        return Header(height, width, image.mode in GREY_MODES)


def read_image(source: str | bytes, channels: int, fit: Any = None) -> np.ndarray:
    """An image as uint8 `[H, W, channels]`, from a path or from bytes.

    It is rotated as its EXIF says, palettes become their colours, and transparent pixels are laid on white unless
    `channels` is 4.

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
            image = _converted(image, {1: "L", 3: "RGB", 4: "RGBA"}[channels])
            image = image if fit is None else fit(image)
        except (OSError, SyntaxError, EOFError, ValueError, IndexError) as error:
            raise BadImageError(f"cannot be decoded ({error})") from error
        return np.asarray(image).reshape(image.height, image.width, channels)


@dataclasses.dataclass(frozen=True)
@checked
class CentreSquare:
    """Resizes the shorter side to `size` by PIL's antialiased bicubic filter, then crops the centre square."""

    size: int

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"size={self.size}: it is the side of a square in pixels, 1 or more.")

    def __call__(self, image: Any) -> Any:
        """The square of a PIL image."""
        from PIL import Image

        scale = self.size / min(image.size)
        resized = tuple(max(self.size, round(side * scale)) for side in image.size)
        if resized != image.size:
            image = image.resize(resized, Image.Resampling.BICUBIC)
        left, top = ((side - self.size) // 2 for side in image.size)
        return image.crop((left, top, left + self.size, top + self.size))


def _open(source: str | bytes) -> Any:
    """A PIL image that has passed every check of its header. Raises BadImageError."""
    from PIL import Image, UnidentifiedImageError

    if (len(source) if isinstance(source, bytes) else Path(source).stat().st_size) == 0:
        raise BadImageError("is empty (0 bytes)")
    try:
        image = Image.open(io.BytesIO(source) if isinstance(source, bytes) else source)
    except Image.DecompressionBombError as error:
        raise BadImageError(f"is too large to be opened safely ({error})") from error
    except UnidentifiedImageError as error:
        raise BadImageError("is no image that Pillow can read") from error
    except (OSError, SyntaxError, EOFError, ValueError) as error:
        raise BadImageError(f"cannot be read ({error})") from error
    reason = _objection(image)
    if reason:
        image.close()
        raise BadImageError(reason)
    return image


def _objection(image: Any) -> str:
    from PIL import Image

    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and image.width * image.height > limit:
        return f"has {image.width} x {image.height} pixels, and more than {limit:,} are not opened"
    deep = any(";16" in str(tile[3]) or str(tile[3]).endswith("65535)") for tile in image.tile)
    if image.mode.startswith("I;16") or deep:
        return "has 16 bits a channel, where 8 are needed; rescale it as you see fit"
    if image.mode in _REFUSED_MODES:
        return _REFUSED_MODES[image.mode]
    # An MPO is a camera's JPEG with a preview behind it: its first frame is the image.
    if image.format != "MPO" and getattr(image, "is_animated", False):
        return f"holds {image.n_frames} frames, where one is needed"
    return ""


def _converted(image: Any, mode: str) -> Any:
    from PIL import Image

    if mode != "RGBA" and (image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info):
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image if image.mode == mode else image.convert(mode)
