"""What a program needs on a chip, and how fast it can be at best."""

import dataclasses
import math
from typing import Any

from hvae_jax.runtime.chips import Chip


@dataclasses.dataclass(frozen=True)
class Verdict:
    """One program on one chip of several; all numbers are a chip's own.

    Attributes:
      program: "training", "evaluation" or "sampling".
      by: the compiler and its version; "" if everything is an estimate from shapes.
      memory: bytes of the program: arguments, results, intermediate values, code and, in training, the copy of the
        best variables.
      flops: floating-point operations of products and convolutions by dtype, loops in full.
      bytes: bytes moved between chip and memory, loops in full; NaN if the program does not fit.
      collective_bytes: bytes of the results of collectives.
      collectives: number of collectives by kind.
      counts: number of fusions, convolutions, copies, transposes, loops, custom calls and transfers to the host; {} for
        an estimate.
      aliased: number of arguments whose memory the results take over.
      trace_seconds, compile_seconds: seconds of tracing, and of compilation; NaN for an estimate.
    """

    program: str
    by: str
    memory: float
    flops: dict[str, float]
    bytes: float
    collective_bytes: float
    collectives: dict[str, int]
    counts: dict[str, int]
    aliased: int
    trace_seconds: float
    compile_seconds: float

    def fits(self, chip: Chip) -> bool:
        """Whether the chip has the memory; a need that is not known does not fit."""
        return self.memory <= chip.usable

    def times(self, chip: Chip, devices: int) -> dict[str, float]:
        """Seconds that products, memory and links would take by themselves at the published rates.

        An all-reduce over n chips in a ring moves 2 (n - 1) / n of its bytes over a chip's links.
        """
        rates = {"bfloat16": chip.bfloat16}
        products = math.fsum(count / rates.get(dtype, chip.float32) for dtype, count in self.flops.items())
        ring = 2.0 * (devices - 1) / devices
        return {
            "products": products,
            "memory": self.bytes / chip.bandwidth,
            "links": ring * self.collective_bytes / chip.link,
        }

    def bound(self, chip: Chip, devices: int) -> tuple[float, str]:
        """A lower bound of the program's time in seconds, and what it comes from; NaN and "" where no rate is known."""
        known = {name: seconds for name, seconds in self.times(chip, devices).items() if math.isfinite(seconds)}
        if not known:
            return math.nan, ""
        slowest = max(known, key=lambda name: known[name])
        return known[slowest], slowest


def to_json(verdict: Verdict) -> dict[str, Any]:
    """The fields of a verdict; numbers that are not known are None."""
    found = dataclasses.asdict(verdict)
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in found.items()
    }


def from_json(fields: dict[str, Any]) -> Verdict:
    """The verdict that `to_json` wrote."""
    known: dict[str, Any] = {name: math.nan if value is None else value for name, value in fields.items()}
    return Verdict(**known)
