"""Natural images from TFDS, at the sizes and with the splits on which hierarchical VAEs are compared."""

import dataclasses
from typing import Any

from hvae_jax.data.dataset import Dataset, Split, integer
from hvae_jax.data.prepare import split_off
from hvae_jax.data.rows import in_memory
from hvae_jax.data.tfds import TfdsRows, open_tfds, read_split
from hvae_jax.records import checked

_NOT_THE_SAME = "box-filtered (imagenet_resized) and van den Oord's (downsampled_imagenet) files do not compare"


def svhn_cropped(directory: str | None = None, *, in_memory_bytes: int = 2**30) -> Dataset:
    """House numbers (Netzer et al. 2011), `[N, 32, 32, 3]` uint8 0..255, labels 0..9.

    66,000 train, 7,257 validation, 26,032 test: the last 7,257 of the 73,257 train images, in TFDS's order, are the
    validation split. The 531,131 images of "extra" are not used; papers that train on them say so.

    Raises what `from_tfds` raises.
    """
    rows = open_tfds("svhn_cropped", directory, ("train", "test"))
    return _held_out("svhn_cropped", rows, 7_257, "extra unused", in_memory_bytes)


def imagenet_resized(size: int, directory: str | None = None, *, in_memory_bytes: int = 2**30) -> Dataset:
    """ImageNet downsampled by a box filter (Chrabaszcz et al. 2017), `[N, size, size, 3]` uint8 0..255; size 32 or 64.

    1,276,167 train, 5,000 validation (the last train images in TFDS's order), 50,000 test. The test split is the
    official validation split, on which the literature reports and by which nothing is selected here. Labels 0..999.

    NOT the data of PixelRNN, VDVAE and NVAE, which is `downsampled_imagenet`. The filter changes the cost of an image
    by tenths of a bit per dimension (Efficient-VDVAE's 3.58 and 3.30 are on this data, VDVAE's 3.80 and 3.52 on the
    other: issue 6 of Efficient-VDVAE), so that numbers of the two do not compare.

    Raises what `from_tfds` raises.
    """
    rows = _official("imagenet_resized", size, directory)
    said = f"official validation as test; Chrabaszcz et al. 2017: {_NOT_THE_SAME}"
    return _held_out(f"imagenet{size}", rows, 5_000, said, in_memory_bytes)


def downsampled_imagenet(size: int, directory: str | None = None, *, in_memory_bytes: int = 2**30) -> Dataset:
    """ImageNet as downsampled by van den Oord et al. (2016), `[N, size, size, 3]` uint8 0..255; size 32 or 64.

    1,276,149 train, 5,000 validation (the last train images in TFDS's order; VDVAE holds out 5,000 others), 49,999
    test: the official validation images. No labels. PixelRNN, Glow, VDVAE and NVAE report on this data; numbers on
    `imagenet_resized`, which was made by another filter, do NOT compare.

    The archives are no longer at image-net.org/small, from which TFDS would fetch them. If you have train_32x32.tar
    and valid_32x32.tar, extract them as train/ and test/ of one folder, and give that folder as the data set.

    Raises what `from_tfds` raises.
    """
    try:
        rows = _official("downsampled_imagenet", size, directory)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{error}\nBut the archives are no longer where TFDS would fetch them. If you have train_{size}x{size}.tar "
            f"and valid_{size}x{size}.tar, extract them as train/ and test/ of one folder: that folder is the data set."
        ) from error
    said = f"official validation as test; van den Oord et al. 2016: {_NOT_THE_SAME}"
    return _held_out(f"downsampled_imagenet{size}", rows, 5_000, said, in_memory_bytes)


def celeb_a64(directory: str | None = None, *, in_memory_bytes: int = 2**30) -> Dataset:
    """Faces (Liu et al. 2015) at 64x64, prepared as for NVAE, `[N, 64, 64, 3]` uint8 0..255.

    162,770 train, 19,867 validation, 19,962 test: the official partition, by person. Each aligned image of 218x178 is
    cropped to the 148x148 pixels from row 40 and column 15 on (datasets.py of NVlabs/NVAE, after Larsen et al. 2016)
    and resized to 64x64 by PIL's antialiased bilinear filter. No labels. Published numbers are bits per dimension of
    8-bit pixels, with flips in training.

    Raises what `from_tfds` raises.
    """
    rows = open_tfds("celeb_a", directory, ("train", "validation", "test"), AlignedFace(64), (64, 64))
    splits = {part: read_split(source, in_memory_bytes) for part, source in rows.items()}
    said = f"TFDS {rows['train'].full_name}, official splits, rows 40-187 and columns 15-162 resized to 64x64 as NVAE"
    return Dataset("celeb_a64", splits, integer(256), said)


@dataclasses.dataclass(frozen=True)
@checked
class AlignedFace:
    """Crops the face of an aligned image of CelebA and resizes it to `size` x `size`."""

    size: int

    def __call__(self, image: Any) -> Any:
        """The face in a PIL image."""
        from PIL import Image

        return image.crop((15, 40, 163, 188)).resize((self.size, self.size), Image.Resampling.BILINEAR)


def _official(name: str, size: int, directory: str | None) -> dict[str, TfdsRows]:
    """The train split, and the official validation split as test."""
    rows = open_tfds(f"{name}/{size}x{size}", directory, ("train", "validation"), None, (size, size))
    return {"train": rows["train"], "test": rows["validation"]}


def _held_out(name: str, rows: dict[str, TfdsRows], held_out: int, said: str, limit: int) -> Dataset:
    """The data set with the last `held_out` train examples, or the last sixth if that is fewer, as validation."""
    splits = {part: read_split(source, limit) for part, source in rows.items()}
    count = min(held_out, max(1, len(splits["train"]) // 6))
    splits = {part: Split(in_memory(s.x, limit), s.y) for part, s in split_off(splits, count).items()}
    protocol = f"TFDS {rows['train'].full_name}, validation = last {count:,} train examples, {said}"
    return Dataset(name, splits, integer(256), protocol)
