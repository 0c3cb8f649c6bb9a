"""Everything a run needs to go on, as one pytree of arrays."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax import Array
from jax.typing import ArrayLike

from hvae_jax.objectives import Objective
from hvae_jax.runtime.compilation import jit_once
from hvae_jax.trace import Model
from hvae_jax.training.gradients import NOTHING_USUAL


@struct.dataclass
class TrainState:
    """The state of a run.

    Attributes:
      step: int32 `[]`, steps taken, skipped ones included: it also names the step's random key and batch.
      params: what is trained.
      statistics: the model's other collections, such as {"batch_stats": ...}; {} where there are none.
      opt_state: the optimiser's.
      objective_state: the objective's, () where it has none.
      ema: exponential moving average of `params`, or None.
      skipped: int32 `[]`, steps whose update was left out because the loss or a gradient was not finite or, where
        `Gradients` has such a limit, too large.
      streak: int32 `[]`, how many of the last steps in a row were skipped.
      usual_norm: float32 `[3]`, what `Gradients.remember` has of the norms so far.
    """

    step: Array
    params: Any
    statistics: Any
    opt_state: Any
    objective_state: Any
    ema: Any
    skipped: Array
    streak: Array
    usual_norm: Array

    @property
    def variables(self) -> dict[str, Any]:
        """What `model.apply` takes in evaluation: the averaged parameters where there are any, and statistics."""
        return {"params": self.params if self.ema is None else self.ema, **self.statistics}


def initial_state(
    model: Model,
    objective: Objective,
    optimiser: optax.GradientTransformation,
    key: Array,
    x: ArrayLike,
    y: ArrayLike | None = None,
    ema: bool = False,
) -> TrainState:
    """A fresh state, as a pure function: what `init_state` jits, and `jax.eval_shape` takes.

    Args:
      key: of the initialisation.
      x, y: examples; only shapes and dtypes count, unless the model's initialisation looks at them.
      ema: whether to keep an average of the parameters.
    """
    init_key, sample_key = jax.random.split(key)
    return state_from(model.init(init_key, x, sample_key, y=y), objective, optimiser, ema)


def state_from(
    variables: Mapping[str, Any], objective: Objective, optimiser: optax.GradientTransformation, ema: bool = False
) -> TrainState:
    """A state at step 0 with these variables, a model's fresh ones or others."""
    statistics = dict(variables)
    params = statistics.pop("params")
    return TrainState(
        step=jnp.int32(0),
        params=params,
        statistics=statistics,
        opt_state=optimiser.init(params),
        objective_state=objective.init(variables),
        ema=jax.tree.map(jnp.copy, params) if ema else None,
        skipped=jnp.int32(0),
        streak=jnp.int32(0),
        usual_norm=jnp.float32(NOTHING_USUAL),
    )


def init_state(
    model: Model,
    objective: Objective,
    optimiser: optax.GradientTransformation,
    key: Array,
    x: ArrayLike,
    y: ArrayLike | None = None,
    ema: bool = False,
    shardings: Any = None,
) -> TrainState:
    """`initial_state`, jitted: eager initialisation is several times slower.

    Args:
      shardings: how the state is to lie on the devices, such as `state_sharding` gives; it never lies whole on one
        where it is split.
    """
    make = jit_once(
        lambda key, x, y: initial_state(model, objective, optimiser, key, x, y, ema), out_shardings=shardings
    )
    return make(key, x, y)
