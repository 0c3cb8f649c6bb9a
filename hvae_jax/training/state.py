"""Everything a run needs to go on, as one pytree of arrays."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax import Array

from hvae_jax.objectives import Batch, Objective
from hvae_jax.objectives.protocol import with_own, without_own
from hvae_jax.runtime.annotations import ArrayLike
from hvae_jax.runtime.compilation import jit_once
from hvae_jax.trace import Model, Trace
from hvae_jax.training.gradients import NOTHING_USUAL

EMPTY: Mapping[str, Any] = MappingProxyType({})
_OWN_KEY = 2**32 - 2  # far from the small numbers that keys are split and folded by elsewhere


@struct.dataclass
class TrainState:
    """The state of a run.

    Attributes:
      step: int32 `[]`, steps taken, skipped ones included; also the number of the next step's random key and batch.
      params: trainable parameters, with those of the objective as "objective" where it has its own.
      statistics: the model's other collections, such as {"batch_stats": ...}; {} if it has none.
      opt_state: the optimiser's state.
      objective_state: the objective's state; () where it has none.
      ema: exponential moving average of `params`; None where none is kept.
      ema_statistics: that of `statistics`, so that averaged parameters meet the statistics of their own; {} where none
        is kept.
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
    ema_statistics: Any
    skipped: Array
    streak: Array
    usual_norm: Array

    @property
    def variables(self) -> dict[str, Any]:
        """The variables that evaluation uses: parameters and statistics, both averaged if an average is kept.

        The objective's own parameters are no part of them.
        """
        if self.ema is None:
            return {"params": without_own(self.params), **self.statistics}
        return {"params": without_own(self.ema), **self.ema_statistics}


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
      key: random key of the initialisation.
      x, y: examples; shapes and dtypes alone count, unless the initialisation of model or objective looks at them.
      ema: whether an average of parameters and statistics is kept.

    Example:
        >>> from hvae_jax import training
        >>> model, x, optimiser = hv.models.LinearVAE((2,)), jnp.ones((4, 3)), training.Adamax().build()
        >>> make = lambda key: training.initial_state(model, hv.NegativeELBO(), optimiser, key, x)
        >>> jax.eval_shape(make, jax.random.key(0)).step.dtype  # nothing is computed
        dtype('int32')
    """
    # The model runs once to find its shapes, and draws its latents while it does.
    init_key, sample_key = jax.random.split(key)
    variables = model.init(init_key, x, sample_key, y=y)
    return state_from(variables, objective, optimiser, ema, own_parameters(model, objective, variables, key, x, y))


def own_parameters(
    model: Model, objective: Objective, variables: Any, key: Array, x: ArrayLike, y: ArrayLike | None
) -> dict[str, Any]:
    """Fresh parameters of the objective's own, {} if it has none; arguments as in `initial_state`."""

    def forward(variables: Any, x: Any, key: Any, **choices: Any) -> tuple[Trace, Any]:
        return model.apply(variables, x, key, **choices), {}

    batch = Batch(jnp.asarray(x), None if y is None else jnp.asarray(y))
    return objective.parameters(forward, variables, batch, jax.random.fold_in(key, _OWN_KEY))


def state_from(
    variables: Mapping[str, Any],
    objective: Objective,
    optimiser: optax.GradientTransformation,
    ema: bool = False,
    own: Mapping[str, Any] = EMPTY,
) -> TrainState:
    """A state at step 0 with the given variables, freshly initialised or imported.

    Args:
      own: parameters of the objective's own, as `own_parameters` makes them.
    """
    # Flax has both in one dict of collections; here they are apart, since only parameters have gradients.
    statistics = dict(variables)
    params = with_own(statistics.pop("params"), own)
    # 0-dimensional arrays rather than Python numbers: one compiled step takes every state
    return TrainState(
        step=jnp.int32(0),
        params=params,
        statistics=statistics,
        opt_state=optimiser.init(params),
        objective_state=objective.init(variables),
        ema=jax.tree.map(jnp.copy, params) if ema else None,
        ema_statistics=jax.tree.map(jnp.copy, statistics) if ema else {},
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

    Example:
        >>> from hvae_jax import training
        >>> model, x, optimiser = hv.models.LinearVAE((2,)), jnp.ones((4, 3)), training.Adamax().build()
        >>> state = training.init_state(model, hv.NegativeELBO(), optimiser, jax.random.key(0), x)
        >>> int(state.step), state.ema
        (0, None)
    """
    make = jit_once(
        lambda key, x, y: initial_state(model, objective, optimiser, key, x, y, ema), out_shardings=shardings
    )
    return make(key, x, y)
