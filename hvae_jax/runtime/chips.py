"""Accelerators by name: memory and published rates of one chip, and how many of them hang together."""

import dataclasses
import difflib
import math
import os
import shutil
import subprocess
from typing import NoReturn


@dataclasses.dataclass(frozen=True)
class Chip:
    """One chip, as its vendor describes it.

    Attributes:
      name: what `--device` takes.
      title: name for a reader.
      platform: JAX's name of the platform, "tpu" or "cuda".
      memory: bytes of the chip.
      usable: bytes that a program may take. Of a TPU, what its compiler leaves; of a GPU, the three quarters that JAX
        reserves unless XLA_PYTHON_CLIENT_MEM_FRACTION says otherwise.
      bandwidth: bytes a second between chip and memory.
      bfloat16, float32: floating-point operations a second of matrix products of these dtypes, at JAX's default
        precision: on a TPU float32 is multiplied as bfloat16, on a GPU as TF32.
      link: bytes a second from one chip to the others.
      kinds: beginnings of `jax.Device.device_kind`.
      layouts: the TPU compiler's name of each number of chips that can be had; () where any number will do.
      megacore: whether the two cores of a chip are one device.
    """

    name: str
    title: str
    platform: str
    memory: float
    usable: float
    bandwidth: float
    bfloat16: float
    float32: float
    link: float
    kinds: tuple[str, ...]
    layouts: tuple[tuple[int, str], ...] = ()
    megacore: bool = False

    def layout(self, count: int) -> str:
        """The TPU compiler's name of so many chips, such as "v5e:2x2"; "" for GPUs, which hang together in any number.

        Raises ValueError, naming the numbers that exist, for a topology that does not.
        """
        known = dict(self.layouts)
        if not known and count >= 1:
            return ""
        if count not in known:
            numbers = ", ".join(str(number) for number in known) or "1 or more"
            raise ValueError(f"There is no {self.name} of {count} chips: --devices can be {numbers}.")
        return known[count]


_FLAT = tuple(
    (count, sides)
    # one chip is compiled for as one of a host of four
    for count, sides in ((1, "2x2"), (4, "2x2"), (8, "2x4"), (16, "4x4"), (32, "4x8"), (64, "8x8"))
)
_CUBE = ((1, "2x2x1"), (4, "2x2x1"), (8, "2x2x2"), (16, "2x2x4"), (32, "2x4x4"), (64, "4x4x4"))


def _layouts(name: str, sides: tuple[tuple[int, str], ...]) -> tuple[tuple[int, str], ...]:
    return tuple((count, f"{name}:{side}") for count, side in sides)


GIB, TERA = 2.0**30, 1e12
RESERVED = 0.75  # the fraction of a GPU's memory that JAX takes by default

# Rates of TPUs: cloud.google.com/tpu/docs/v4, /v5e, /v5p and /v6e. Usable memory of v5e: what its compiler says.
# GPUs are the SXM modules: NVIDIA's data sheets of H100 and H200, dense rates without sparsity.
CHIPS: dict[str, Chip] = {
    chip.name: chip
    for chip in (
        Chip(
            *("v5e", "TPU v5e", "tpu", 16 * GIB, 15.75 * GIB, 0.819 * TERA, 197 * TERA, 197 * TERA, 0.2 * TERA),
            kinds=("TPU v5 lite", "TPU v5e"),
            layouts=_layouts("v5e", _FLAT),
        ),
        Chip(
            *("v4", "TPU v4", "tpu", 32 * GIB, 31.75 * GIB, 1.228 * TERA, 275 * TERA, 275 * TERA, 0.3 * TERA),
            kinds=("TPU v4",),
            layouts=_layouts("v4", _CUBE),
            megacore=True,
        ),
        Chip(
            *("v5p", "TPU v5p", "tpu", 95 * GIB, 94.75 * GIB, 2.765 * TERA, 459 * TERA, 459 * TERA, 0.6 * TERA),
            kinds=("TPU v5p", "TPU v5"),
            layouts=_layouts("v5p", _CUBE),
        ),
        Chip(
            *("v6e", "TPU v6e", "tpu", 32 * GIB, 31.75 * GIB, 1.638 * TERA, 918 * TERA, 918 * TERA, 0.4 * TERA),
            kinds=("TPU v6 lite", "TPU v6e"),
            layouts=_layouts("v6e", _FLAT),
        ),
        Chip(
            *("h100", "NVIDIA H100", "cuda", 80e9, RESERVED * 80e9, 3.35 * TERA, 989 * TERA, 495 * TERA, 0.45 * TERA),
            kinds=("NVIDIA H100",),
        ),
        Chip(
            *("h200", "NVIDIA H200", "cuda", 141e9, RESERVED * 141e9, 4.8 * TERA, 989 * TERA, 495 * TERA, 0.45 * TERA),
            kinds=("NVIDIA H200",),
        ),
    )
}
HERE = "here"
"""The device name for whatever this machine has."""


def chip_named(name: str) -> Chip:
    """The chip of that name. Raises ValueError, with the nearest name, if there is none."""
    if name not in CHIPS:
        near = difflib.get_close_matches(name.lower(), CHIPS, n=1, cutoff=0.4)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise ValueError(f"There is no device {name!r}.{hint} There are {', '.join((*CHIPS, HERE))}.")
    return CHIPS[name]


def chip_of_kind(kind: str) -> Chip | None:
    """The chip with that `jax.Device.device_kind`; None for a device that is not in the table, such as a CPU."""
    # the longest beginning wins: "TPU v5 lite" is no "TPU v5"
    fits = [(len(start), chip.name) for chip in CHIPS.values() for start in chip.kinds if kind.startswith(start)]
    return CHIPS[max(fits)[1]] if fits else None


def _not_known(kind: str) -> NoReturn:
    raise ValueError(f"This machine has a {kind}, which is not in the table: give one of {', '.join(CHIPS)} instead.")


def own_chip(memory: float) -> Chip:
    """The chip of this machine, found without opening it, so that a program that uses it is not disturbed; or its CPU.

    Args:
      memory: bytes of the machine, of which a CPU's programs may take all; its rates are unknown, NaN.
    Raises ValueError for a TPU or a GPU that is not in the table.
    """
    if kind := os.environ.get("TPU_ACCELERATOR_TYPE"):  # set on Cloud TPU and Colab: v5litepod-4, v6e-1, v4-8
        family = kind.partition("-")[0]
        name = {"v5litepod": "v5e", "v5lite": "v5e"}.get(family, family)
        return CHIPS[name] if name in CHIPS else _not_known(f"TPU {name}")
    if shutil.which("nvidia-smi"):
        asked = subprocess.run(
            ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"], capture_output=True, text=True, check=False
        )
        kind = asked.stdout.partition("\n")[0].strip()
        if kind and not asked.returncode:  # without its driver it prints why not
            return chip_of_kind(kind) or _not_known(kind)
    unknown = math.nan
    return Chip("cpu", "this machine's CPU", "cpu", memory, memory, unknown, unknown, unknown, unknown, ("cpu",))
