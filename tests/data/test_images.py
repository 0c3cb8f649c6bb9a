"""Single image files: orientation wherever it is stored, bits, limits of sizes, and headers that trip Pillow."""

import io
import struct
import tracemalloc
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image, ImageOps

from hvae_jax.data.images import BadImageError, CentreSquare, read_header, read_image

X = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)


def encoded(kind: str, x: np.ndarray = X, **settings: object) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(x).save(stream, kind, **settings)
    return stream.getvalue()


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def with_chunk(where: bytes, kind: bytes, content: bytes) -> bytes:
    """A PNG with one more chunk before its chunk `where`."""
    png = encoded("PNG")
    at = png.index(where) - 4
    return png[:at] + chunk(kind, content) + png[at:]


def exif(way: int) -> Image.Exif:
    made = Image.Exif()
    made[0x0112] = way
    return made


def xmp(way: int) -> bytes:
    return f'<x:xmpmeta><rdf:Description tiff:Orientation="{way}"/></x:xmpmeta>'.encode()


def raw_profile(way: int) -> bytes:
    content = exif(way).tobytes()
    return b"Raw profile type exif\0\0" + zlib.compress(f"\nexif\n{len(content):8}\n{content.hex()}\n".encode())


ORIENTED: dict[str, Callable[[int], bytes]] = {
    "EXIF of a JPEG": lambda way: encoded("JPEG", exif=exif(way)),
    "XMP of a JPEG": lambda way: encoded("JPEG", xmp=xmp(way)),
    "EXIF of a WebP": lambda way: encoded("WEBP", exif=exif(way), lossless=True),
    "tags of a TIFF": lambda way: encoded("TIFF", tiffinfo={0x0112: way}),
    "tags of a compressed TIFF": lambda way: encoded("TIFF", tiffinfo={0x0112: way}, compression="tiff_lzw"),
    "XMP of a TIFF": lambda way: encoded("TIFF", tiffinfo={700: xmp(way)}),
    "eXIf of a PNG": lambda way: encoded("PNG", exif=exif(way)),
    "late eXIf": lambda way: with_chunk(b"IEND", b"eXIf", exif(way).tobytes()[6:]),
    "raw profile": lambda way: with_chunk(b"IDAT", b"zTXt", raw_profile(way)),
    "late raw profile": lambda way: with_chunk(b"IEND", b"zTXt", raw_profile(way)),
    "XMP of a PNG": lambda way: with_chunk(b"IDAT", b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp(way)),
    "late XMP": lambda way: with_chunk(b"IEND", b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp(way)),
}


@pytest.mark.parametrize("kind", ORIENTED)
def test_orientation_is_read_as_pillow_shows_it(kind: str) -> None:
    turned = 0
    for way in range(1, 9):
        content = ORIENTED[kind](way)
        wanted = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(content))))
        header = read_header(content)
        np.testing.assert_array_equal(read_image(content, 3), wanted)
        assert (header.height, header.width) == wanted.shape[:2] and not header.grey
        turned += wanted.shape == (6, 4, 3)
    assert turned == 4


def test_a_header_is_read_without_pixels() -> None:
    content = encoded("PNG", np.zeros((3000, 3000), np.uint8))
    tracemalloc.start()
    header = read_header(content)
    assert (header.height, header.width, header.grey) == (3000, 3000, True)
    assert tracemalloc.get_traced_memory()[1] < 10**6
    tracemalloc.stop()


def jpeg2000(bits: int) -> bytes:
    content = bytearray(encoded("JPEG2000"))
    sizes = content.index(b"\xff\x4f\xff\x51") + 42
    content[sizes : sizes + 9 : 3] = bytes([bits - 1] * 3)
    return bytes(content)


def avif(flags: int) -> bytes:
    content = bytearray(encoded("AVIF", np.zeros((16, 16, 3), np.uint8)))
    content[content.index(b"av1C") + 6] |= flags
    bits = content.index(b"pixi") + 9
    content[bits : bits + 3] = bytes([{0: 8, 0x40: 10, 0x60: 12}[flags]] * 3)
    return bytes(content)


@pytest.mark.parametrize(
    ("content", "bits"),
    [
        (b"P6 1 1 1023 " + bytes(6), 10),
        (b"P5 1 1 1023 " + bytes(2), 10),
        (b"P5 1 1 4095 " + bytes(2), 12),
        (b"P3 1 1 4095 0 0 0\n", 12),
        (b"P2 1 1 256 0\n", 9),
        (b"P5 1 1 65535 " + bytes(2), 16),
        (b"P6 1 1 65535 " + bytes(6), 16),
        (encoded("TIFF", np.zeros((2, 2), np.uint16)), 16),
        (encoded("PNG", np.zeros((2, 2), np.uint16)), 16),
        (encoded("JPEG2000", np.zeros((2, 2), np.uint16)), 16),
        (jpeg2000(12), 12),
        (avif(0x40), 10),
        (avif(0x60), 12),
    ],
    ids=lambda value: value[:8].hex() if isinstance(value, bytes) else str(value),
)
def test_more_than_8_bits_are_refused_with_their_number(content: bytes, bits: int) -> None:
    with pytest.raises(BadImageError, match=rf"has {bits} bits a channel, where 8 are needed"):
        read_header(content)


def test_8_bits_and_fewer_are_read() -> None:
    np.testing.assert_array_equal(read_image(b"P5 3 1 15 \0\x0f\x05", 1).ravel(), [0, 255, 85])
    np.testing.assert_array_equal(read_image(b"P5 3 1 255 \0\xff\x05", 1).ravel(), [0, 255, 5])
    np.testing.assert_array_equal(read_image(b"P2 2 1 255 7 9\n", 1).ravel(), [7, 9])
    np.testing.assert_array_equal(read_image(b"P4 8 1 \xf0", 1).ravel(), [0] * 4 + [255] * 4)
    for content in (jpeg2000(8), encoded("JPEG2000", no_jp2=True)):
        assert read_header(content).height == 4
    assert read_header(avif(0)).height == 16


@pytest.mark.parametrize("shape", [(1, 65_000), (65_000, 1), (3, 1000), (1000, 3)])
def test_a_narrow_image_is_scaled_within_its_square(shape: tuple[int, int]) -> None:
    """Whole, 1 x 65,000 pixels would become 256 x 16,640,000: gigabytes."""
    x = np.broadcast_to(np.linspace(0, 255, max(shape)).astype(np.uint8), (min(shape), max(shape)))
    x = x if shape[0] < shape[1] else x.T
    fitted = np.asarray(CentreSquare(256)(Image.fromarray(np.ascontiguousarray(x))))
    assert fitted.shape == (256, 256) and abs(int(fitted.mean()) - 127) <= 1


@pytest.mark.parametrize("size", [(20, 161), (161, 20), (5, 48)])
def test_scaling_the_square_is_scaling_the_whole(size: tuple[int, int]) -> None:
    """Sides just above the factor 8, beside what the whole image would give."""
    noise = np.random.default_rng(1).integers(0, 256, (*size, 3), dtype=np.uint8)
    image, scale = Image.fromarray(noise), 7 / min(size)
    whole = image.resize((max(7, round(size[1] * scale)), max(7, round(size[0] * scale))), Image.Resampling.BICUBIC)
    left, top = (whole.width - 7) // 2, (whole.height - 7) // 2
    wanted = np.asarray(whole.crop((left, top, left + 7, top + 7))).astype(int)
    assert np.abs(np.asarray(CentreSquare(7)(image)) - wanted).max() <= 1


def test_sizes_have_limits() -> None:
    for size in (0, -1, 8_193, 10**9):
        with pytest.raises(ValueError, match="1 or more up to 8,192"):
            CentreSquare(size)


def test_whatever_pillow_trips_over_is_a_bad_image(monkeypatch: pytest.MonkeyPatch) -> None:
    broken_exif = with_chunk(b"IDAT", b"tEXt", b"Raw profile type exif\0\nexif\n  9\nnot hex")
    with pytest.raises(BadImageError, match="cannot be"):
        read_header(broken_exif)
    with pytest.raises(BadImageError, match="cannot be"):
        read_image(broken_exif, 3)

    def fit(image: Image.Image) -> Image.Image:
        raise MemoryError

    with pytest.raises(BadImageError, match=r"cannot be decoded \(MemoryError\)"):
        read_image(encoded("PNG"), 3, fit)
    with pytest.raises(OSError, match="No such file"):
        read_header("nowhere.png")
