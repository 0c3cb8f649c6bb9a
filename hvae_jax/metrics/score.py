"""All metrics of two sets of features, and their table."""

import dataclasses
from typing import Any

from hvae_jax.metrics.features import Extractor, as_features, check_pair
from hvae_jax.metrics.frechet import frechet_distance
from hvae_jax.metrics.kernel import KernelDistance, kernel_distance
from hvae_jax.metrics.neighbours import Neighbours, neighbours
from hvae_jax.runtime.columns import aligned


@dataclasses.dataclass(frozen=True)
class FeatureScores:
    """Sample quality on features.

    Attributes:
      frechet: squared Frechet distance.
      kernel: kernel distance, with its spread.
      neighbours: precision, recall, density and coverage.
      real, generated: numbers of examples.
      features: D, number of features of each.
    """

    frechet: float
    kernel: KernelDistance
    neighbours: Neighbours
    real: int
    generated: int
    features: int

    def to_json(self) -> dict[str, Any]:
        """The numbers, as JSON has them."""
        return dataclasses.asdict(self)

    def table(self) -> str:
        """The numbers as a text for a reader."""
        kernel, near = self.kernel, self.neighbours
        spread = "" if kernel.spread is None else f" ± {kernel.spread:.2g}"
        which = (
            f"mean ± deviation over {kernel.subsets} subsets of {kernel.size:,}"
            if kernel.subsets > 1
            else f"one estimate, of {kernel.size:,}"
        )
        rows = [
            ("Frechet distance", f"{self.frechet:.4g}", "0 is best"),
            ("kernel distance", f"{kernel.value:.4g}{spread}", f"0 is best; {which}"),
            ("precision", f"{near.precision:.3f}", f"generated examples in a ball of a real one, k = {near.k}"),
            ("recall", f"{near.recall:.3f}", "real examples in a ball of a generated one"),
            ("density", f"{near.density:.3f}", "real balls that a generated example is in, over k; 1 if alike"),
            ("coverage", f"{near.coverage:.3f}", "real examples with a generated one in their ball"),
        ]
        few = min(self.real, self.generated)
        lines = [
            *aligned(rows, left=(0, 2)),
            f"{self.real:,} real and {self.generated:,} generated examples of {self.features:,} features",
        ]
        if few <= self.features:
            lines.append(
                f"With {few:,} examples of {self.features:,} features the Frechet distance is too high, and compares "
                "with distances of as many examples only; the kernel distance does not depend on their number."
            )
        return "\n".join(lines)


def score_features(
    real: Any,
    generated: Any,
    *,
    extractor: Extractor | None = None,
    batch_size: int = 256,
    k: int = 5,
    subsets: int = 100,
    subset_size: int = 1000,
    seed: int = 0,
) -> FeatureScores:
    """Frechet and kernel distance, precision, recall, density and coverage of two sets of features.

    Args:
      real, generated: features `[N, ...]` and `[M, ...]`, or examples if there is an extractor.
      extractor, batch_size: as in `as_features`.
      k: as in `neighbours`.
      subsets, subset_size, seed: as `subsets`, `size` and `seed` in `kernel_distance`.

    Raises ValueError as these do, before anything is computed.

    Example:
        >>> real = np.arange(8.0)[:, None]
        >>> scores = hv.metrics.score_features(real, real + 2.0, k=3, subset_size=8)
        >>> round(scores.frechet, 3), scores.neighbours.coverage  # (2 - 0)^2
        (4.0, 1.0)
    """
    for name, number, least in (("k", k, 1), ("subsets", subsets, 1), ("subset_size", subset_size, 2)):
        if number < least:
            raise ValueError(f"{name} is {number}, but it has to be {least} or more.")
    real = as_features(real, extractor, batch_size, "real")
    generated = as_features(generated, extractor, batch_size, "generated")
    check_pair(real, generated, k + 1)
    return FeatureScores(
        frechet_distance(real, generated),
        kernel_distance(real, generated, subsets=subsets, size=subset_size, seed=seed),
        neighbours(real, generated, k),
        len(real),
        len(generated),
        real.shape[1],
    )
