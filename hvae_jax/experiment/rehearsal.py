"""A rehearsal of what follows training, before it: nobody's run should train to its end and then fail in a picture."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from hvae_jax.data.dataset import Dataset
from hvae_jax.diagnostics import UnitCounts, usage
from hvae_jax.report.sketch import Sketch
from hvae_jax.runtime.errors import first_line
from hvae_jax.trace import Model


def rehearse(model: Model, variables: Any, dataset: Dataset, sketch: Sketch) -> None:
    """Traces the units and the pictures on two examples, and counts and draws what comes out of them, blank.

    Tracing finds what a record lacks and what fails in a sampler, without the seconds of compilation; only code that
    runs outside the program (a callback) is not tried. Bounds need nothing that the first steps of training do not.

    Args:
      variables: the model's variables, or their shapes and dtypes.
    Raises ValueError, naming the part that fails and its error.
    """
    some = dataset.splits["validation"].take(slice(2)).for_classes(model.classes)
    x, y, key = np.asarray(some.x), some.y, jax.random.key(0)

    def count() -> None:
        found = jax.eval_shape(lambda v: usage(model, v, x, key, 2, y), variables)
        counts = UnitCounts()
        counts.add(jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), found))
        counts.active(), counts.used(), counts.moving()

    parts: dict[str, Callable[[], Any]] = {
        "Measuring rates and units": count,
        "Drawing samples and reconstructions": lambda: sketch.rehearse(variables),
    }
    for part, action in parts.items():
        try:
            action()
        except Exception as error:
            raise ValueError(
                f"{part} fails for this model, so that a run would train and then end without it "
                f"({type(error).__name__}: {first_line(error)}). Nothing was trained."
            ) from error
