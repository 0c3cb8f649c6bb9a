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
      step: int32 `[]`, steps taken, skipped ones included; also the number of the next step's random key and batch.
      params: trainable parameters.
      statistics: the model's other collections, such as {"batch_stats": ...}; {} if it has none.
      opt_state: the optimiser's state.
      objective_state: the objective's state; () where it has none.
      ema: exponential moving average of `params`; None where none is kept.
      skipped: int32 `[]`, steps whose update was skipped because the loss or a gradient was not finite or, where
        `Gradients` sets such a limit, too large.
      streak: int32 `[]`, number of the latest steps in a row that were skipped.
      usual_norm: float32 `[3]`, what `Gradients.remember` keeps of the gradient norms so far.
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
        """The variables that evaluation uses: the averaged parameters, if an average is kept, and statistics."""
        return {"params": self.params if self.ema is None else self.ema, **self.statistics}


@jax.jit
def copied(tree: Any) -> Any:
    """A copy of every leaf in a buffer of its own: a dispatch donates the state's, and would free them."""
    return jax.tree.map(jnp.copy, tree)


def initial_state(
    model: Model,
    objective: Objective,
    optimiser: optax.GradientTransformation,
    key: Array,
    x: ArrayLike,
    y: ArrayLike | None = None,
    ema: bool = False,
) -> TrainState:
    """A fresh state, as a pure function: `init_state` jits it, `jax.eval_shape` takes its shapes.

    Args:
      key: of the initialisation.
      x, y: examples; shapes and dtypes alone count, unless the model's initialisation looks at them.
      ema: whether an average of the parameters is kept.
    """
    # The model runs once to find its shapes, and draws its latents while it does.
    init_key, sample_key = jax.random.split(key)
    return state_from(model.init(init_key, x, sample_key, y=y), objective, optimiser, ema)


def state_from(
    variables: Mapping[str, Any], objective: Objective, optimiser: optax.GradientTransformation, ema: bool = False
) -> TrainState:
    """A state at step 0 with the given variables, freshly initialised or imported."""
    # Flax has both in one dict of collections; here they are apart, since only parameters have gradients.
    statistics = dict(variables)
    params = statistics.pop("params")
    # 0-dimensional arrays rather than Python numbers: one compiled step takes every state
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
      shardings: layout of the state on the devices, as `state_sharding` gives it; None leaves it to JAX. A state that
        is split is never whole on one device, not even while it is made.
    """
    make = jit_once(
        lambda key, x, y: initial_state(model, objective, optimiser, key, x, y, ema), out_shardings=shardings
    )
    return make(key, x, y)
