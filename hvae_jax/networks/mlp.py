"""Dense networks: linear layers and their initialisers, batch normalisation, the MLP, the readout to data."""

import math
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import Array
from jaxtyping import Float, Num

from hvae_jax.networks.activations import identity, sigmoid_gelu
from hvae_jax.networks.computing import ComputeDtype, prepend_axes, product, widen
from hvae_jax.records import check_fields


def uniform_fan_in(fan_in: int) -> Callable[..., Array]:
    """Initialiser U(-1/sqrt(fan_in), 1/sqrt(fan_in)): PyTorch's default for weights and biases of linear layers."""
    bound = fan_in**-0.5
    return lambda key, shape, dtype=jnp.float32: jax.random.uniform(key, shape, dtype, -bound, bound)


# Initialiser of kernels and biases: "pytorch", U(-1/sqrt(fan_in), 1/sqrt(fan_in)) for both, or "glorot", U(-a, a) with
# a = sqrt(6/(fan_in + fan_out)) and biases of 0 (Glorot & Bengio, 2010, equation 16).
Initialisation = Literal["pytorch", "glorot"]


def kernel_init(initialisation: Initialisation, fan_in: int, shape: tuple[int, ...]) -> Callable[..., Array]:
    """Initialiser of a kernel `[fan_in, *outputs]`."""
    if initialisation == "pytorch":
        return uniform_fan_in(fan_in)
    bound = math.sqrt(6 / (fan_in + math.prod(shape[1:])))
    return lambda key, shape, dtype=jnp.float32: jax.random.uniform(key, shape, dtype, -bound, bound)


def bias_init(initialisation: Initialisation, fan_in: int) -> Callable[..., Array]:
    """Initialiser of the biases of a kernel with this fan_in."""
    return uniform_fan_in(fan_in) if initialisation == "pytorch" else nn.initializers.zeros


class Dense(nn.Module):
    """A linear layer, x @ kernel + bias; integer inputs are promoted to the kernel's dtype.

    Attributes:
      features: width of the output.
      dtype: dtype of the product and the output; None is what x and the kernel promote to. The bias is added in float32
        either way, so that its gradient, a sum over the batch, is summed in float32.
      initialisation: initialiser of kernel and bias.

    Example:
        >>> y, variables = hv.networks.Dense(2).init_with_output(jax.random.key(0), jnp.ones((3, 4)))
        >>> y.shape, variables["params"]["kernel"].shape
        ((3, 2), (4, 2))
    """

    features: int
    dtype: ComputeDtype = None
    initialisation: Initialisation = "pytorch"

    @nn.compact
    def __call__(self, x: Num[Array, "... inputs"]) -> Float[Array, "... features"]:
        shape = (x.shape[-1], self.features)
        kernel = self.param("kernel", kernel_init(self.initialisation, x.shape[-1], shape), shape, jnp.float32)
        bias = self.param("bias", bias_init(self.initialisation, x.shape[-1]), (self.features,), jnp.float32)
        if self.dtype is not None:
            product = x.astype(self.dtype) @ kernel.astype(self.dtype)
            return (widen(product) + prepend_axes(bias, x.ndim)).astype(self.dtype)
        return x @ kernel + prepend_axes(bias, x.ndim)


@jax.custom_jvp
def moments(x: Float[Array, "... features"]) -> tuple[Float[Array, " features"], Float[Array, " features"]]:
    """Mean and biased variance over all axes but the last.

    The variance is that of centred values: E x^2 - (E x)^2, Flax's default, loses digits in float32. By the mean it has
    no derivative, for sum(x - mean) = 0. Without this rule the backward pass sums zeros to find that out, and only once
    it has the gradient of the variance: over several devices that is an all-reduce more, and one to wait for.
    """
    axes = tuple(range(x.ndim - 1))
    mean = x.mean(axes)
    return mean, jnp.square(x - prepend_axes(mean, x.ndim)).mean(axes)


@moments.defjvp
def _moments_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    """d mean = E dx; d var = 2 E (x - mean) dx."""
    (x,), (dx,) = primals, tangents
    mean, var = (product(moment) for moment in moments(x))
    axes = tuple(range(x.ndim - 1))
    return (mean, var), (dx.mean(axes), 2.0 * ((x - prepend_axes(mean, x.ndim)) * dx).mean(axes))


LARGEST_BATCH = 1024
"""Examples in a batch, see `BatchNorm`: no normalised value of evaluation is larger than one in such a batch can be."""


class BatchNorm(nn.Module):
    """Batch normalisation over all axes but the last, with PyTorch's running statistics.

    (x - mean)/sqrt(var + epsilon) * scale + bias, with mean and biased variance of the batch when `train`, and the
    running ones otherwise. The running variance averages the *unbiased* variances of the batches, as PyTorch's does and
    Flax's does not: at 64 examples they differ by 1.6%, which would show in parity with weights trained in PyTorch.
    Statistics and normalisation are computed in float32 at least; the output has the dtype of x.

    Outside training x is clipped to mean +- sqrt(n - 1) sqrt(var + epsilon), with n = 1024 times the positions of an
    example: 32 standard deviations for vectors, 1024 for 32x32 maps. Nothing in a batch of n values lies further from
    its mean (Samuelson, 1968), so that the layers above never saw more in training. Without it, a unit that is silent
    on all training examples and active on another one gives hundreds of standard deviations, and nonsense behind them.
    Values within these bounds are normalised as published.

    Attributes:
      momentum: fraction of the old running statistics that is kept at each step.
      epsilon: number added to the variance.

    Source: Ioffe & Szegedy (2015), algorithms 1 and 2. Departs from them in the clipping.

    Example:
        >>> x = jnp.array([[1.0], [3.0]])
        >>> normalised, _ = hv.networks.BatchNorm().init_with_output(jax.random.key(0), x, train=True)
        >>> print(normalised.round(3).ravel())  # (x - 2)/1
        [-1.  1.]
    """

    momentum: float = 0.9
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x: Float[Array, "... features"], *, train: bool) -> Float[Array, "... features"]:
        shape = (x.shape[-1],)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, shape, jnp.float32)
        running_var = self.variable("batch_stats", "var", jnp.ones, shape, jnp.float32)
        scale = self.param("scale", nn.initializers.ones, shape, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, shape, jnp.float32)
        dtype, x = x.dtype, widen(x)
        if not train:
            positions = math.prod(x.shape[1:-1])
            most = math.sqrt(LARGEST_BATCH * positions - 1) * jnp.sqrt(running_var.value + self.epsilon)
            low, high = (prepend_axes(running_mean.value + sign * most, x.ndim) for sign in (-1.0, 1.0))
            x = jnp.clip(x, low, high)
            # running statistics are constants here: one product and one sum per element
            gain = scale * jax.lax.rsqrt(running_var.value + self.epsilon)
            y = x * prepend_axes(gain, x.ndim) + prepend_axes(bias - running_mean.value * gain, x.ndim)
            return y.astype(dtype)
        count = x.size // x.shape[-1]
        mean, var = moments(x)
        if not self.is_initializing():  # else `init` would return the statistics of its batch
            unbiased = var * (count / max(count - 1, 1))
            keep = self.momentum
            running_mean.value = keep * running_mean.value + (1.0 - keep) * jax.lax.stop_gradient(mean)
            running_var.value = keep * running_var.value + (1.0 - keep) * jax.lax.stop_gradient(unbiased)
        gain = scale * jax.lax.rsqrt(var + self.epsilon)
        centred = x - prepend_axes(mean, x.ndim)
        return (centred * prepend_axes(gain, x.ndim) + prepend_axes(bias, x.ndim)).astype(dtype)


class MLP(nn.Module):
    """Hidden layers of linear, activation, normalisation (in that order), then one linear layer.

    Every axis of the input except the first is flattened.

    Attributes:
      hidden: widths of the hidden layers.
      features: width of the last linear layer; None ends with the last hidden layer.
      activation: activation after each hidden linear layer.
      last_activation: activation after the last linear layer.
      normalise: whether a `BatchNorm` follows each hidden activation.
      dtype: dtype of products, activations and the output; None is the dtype of the parameters.
      initialisation: initialiser of every kernel and bias.

    Raises ValueError for a setting of another type than its annotation.

    Example:
        >>> network = hv.networks.MLP(hidden=(8, 8), features=2)
        >>> run = lambda x: network.init_with_output(jax.random.key(0), x, train=False)[0]
        >>> jax.eval_shape(run, jnp.ones((3, 4, 4))).shape
        (3, 2)
    """

    hidden: tuple[int, ...]
    features: int | None = None
    activation: Callable[[Array], Array] = sigmoid_gelu
    last_activation: Callable[[Array], Array] = identity
    normalise: bool = True
    dtype: ComputeDtype = None
    initialisation: Initialisation = "pytorch"

    def __post_init__(self) -> None:
        check_fields(self)
        super().__post_init__()

    @nn.compact
    def __call__(self, x: Num[Array, "batch ..."], *, train: bool = False) -> Float[Array, "batch features"]:
        x = x.reshape(x.shape[0], -1)
        for i, width in enumerate(self.hidden):
            x = self.activation(Dense(width, self.dtype, self.initialisation, name=f"linear_{i}")(x))
            if self.normalise:
                x = BatchNorm(name=f"norm_{i}")(x, train=train)
        if self.features is None:
            return x
        return self.last_activation(Dense(self.features, self.dtype, self.initialisation, name="last")(x))


def join(v: Num[Array, "batch ..."], label: Float[Array, "batch classes"] | None) -> Num[Array, "batch ..."]:
    """v, flattened, with a one-hot label appended; v itself if there is no label."""
    return v if label is None else jnp.concatenate([v.reshape(v.shape[0], -1), label], axis=-1)


def one_hot(y: Num[Array, "..."] | None, classes: int, n: int) -> Float[Array, "batch classes"] | None:
    """Labels `[n]` as one-hot rows, or None in a model without classes.

    Raises ValueError if labels are missing or unexpected, y has another shape or, unless y is traced, a label is not a
    whole number from 0 to classes - 1.
    """
    if (y is None) != (classes == 0):
        was, wants = ("no y", f"y of shape [{n}]") if y is None else ("a y", "classes=K to use labels")
        raise ValueError(f"The model has classes={classes} and was given {was}; it needs {wants}.")
    if y is None:
        return None
    if y.shape != (n,):
        raise ValueError(f"y has shape {y.shape}, but there are {n} examples: one whole number each, shape [{n}].")
    if not isinstance(y, jax.core.Tracer):
        for label in np.asarray(y).tolist():
            if not (0 <= label < classes and label == int(label)):
                raise ValueError(f"y holds the label {label}, but the model's {classes} classes are 0..{classes - 1}.")
    return jax.nn.one_hot(y, classes, dtype=jnp.float32)


class Readout(nn.Module):
    """The linear layer from hidden features to the parameters of p(x | z), one set for each element of x.

    The kernel has the shape `[inputs, *event, parameters]`, so that the variables themselves record the shape of the
    data, which generation needs. Where neighbouring elements share a set, the last axis of the event is shorter.

    Attributes:
      parameters: `Likelihood.parameters`, numbers in a set.
      dtype: dtype of the product; None is the dtype of the parameters. The bias is added in float32 either way, and the
        output is float32 at least.
      channels: number of neighbours on the last axis of x that share one set.
      initialisation: initialiser of kernel and bias.

    Raises ValueError if the last axis of x is not a multiple of `channels`, or its shape is not known yet.

    Example:
        >>> readout = hv.networks.Readout(parameters=17)
        >>> run = lambda h: readout.init_with_output(jax.random.key(0), h, event=(8, 8, 1))[0]
        >>> jax.eval_shape(run, jnp.ones((3, 32))).shape
        (3, 8, 8, 1, 17)
    """

    parameters: int
    dtype: ComputeDtype = None
    channels: int = 1
    initialisation: Initialisation = "pytorch"

    @nn.compact
    def __call__(
        self,
        h: Float[Array, "batch inputs"],
        event: tuple[int, ...] | None,
        start: Callable[[], Array | None] = lambda: None,
    ) -> Float[Array, "batch ..."]:
        """Map `h` to `[batch, *event, parameters]`; `event` may be None once there are variables.

        Args:
          start: returns the initial biases `[*event, parameters]`, or None for the initialiser's; called at
            initialisation.
        """
        event = self.event() or event
        if event is None:
            raise ValueError("The shape of the data is not known yet: initialise the model with an x first.")
        event = sets(event, self.channels)
        shape = (h.shape[-1], *event, self.parameters)
        kernel = self.param("kernel", kernel_init(self.initialisation, h.shape[-1], shape), shape, jnp.float32)

        def first(key: Array, shape: tuple[int, ...], dtype: Any) -> Array:
            given = start()
            if given is None:
                return bias_init(self.initialisation, h.shape[-1])(key, shape, dtype)
            return given.astype(dtype)

        bias = self.param("bias", first, shape[1:], jnp.float32)
        if self.dtype is not None:
            product = jnp.tensordot(h.astype(self.dtype), kernel.astype(self.dtype), 1)
            return widen(product) + bias[None]
        # The bias is one more row of the kernel: added afterwards, its broadcast would be fused into the likelihood by
        # XLA's CPU backend, which takes twice as long for the two together.
        ones = jnp.ones((h.shape[0], 1), h.dtype)
        weights = jnp.concatenate([kernel.reshape(h.shape[-1], -1), bias.reshape(1, -1)])
        flat = jnp.concatenate([h, ones], axis=1) @ weights
        return flat.reshape(h.shape[0], *event, self.parameters)

    def event(self) -> tuple[int, ...] | None:
        """The shape of one x according to the variables; None before there are variables."""
        if not self.has_variable("params", "bias"):
            return None
        event = self.get_variable("params", "bias").shape[:-1]
        return tuple(event) if self.channels == 1 else (*event[:-1], event[-1] * self.channels)


def sets(event: tuple[int, ...], channels: int) -> tuple[int, ...]:
    """Number of sets of parameters along each axis of one x; `channels` neighbours on the last axis share a set.

    Raises ValueError if the last axis is not a multiple of `channels`.
    """
    if channels == 1:
        return event
    if not event or event[-1] % channels:
        raise ValueError(
            f"The likelihood takes {channels} channels of a pixel together, but x has examples of shape "
            f"{tuple(event)}. Give images in colour, or set the likelihood's channels to 1."
        )
    return (*event[:-1], event[-1] // channels)


def check_event(event: tuple[int, ...] | None, x: Array) -> None:
    """Raise ValueError if x does not have the shape that the variables were initialised for."""
    if event is not None and x.shape[1:] != event:
        remedy = "Reshape or resize x, or initialise a model on it."
        if x.shape == event:
            remedy = "Give x[None], a batch of one."
        raise ValueError(
            f"x has shape {tuple(x.shape)}, that is examples of {tuple(x.shape[1:])}, but these variables were "
            f"initialised for examples of {event}. {remedy}"
        )
