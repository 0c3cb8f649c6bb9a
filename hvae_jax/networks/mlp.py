"""Dense networks: linear layers and how they begin, batch normalisation, the MLP, the readout to data."""

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
from hvae_jax.networks.computing import ComputeDtype, widen
from hvae_jax.records import check_choices


def uniform_fan_in(fan_in: int) -> Callable[..., Array]:
    """Initialiser U(-1/sqrt(fan_in), 1/sqrt(fan_in)): what PyTorch's Linear uses for weights and biases alike."""
    bound = fan_in**-0.5
    return lambda key, shape, dtype=jnp.float32: jax.random.uniform(key, shape, dtype, -bound, bound)


# How kernels and biases of dense networks begin: "pytorch", U(-1/sqrt(fan_in), 1/sqrt(fan_in)) for both, or "glorot",
# U(-a, a) with a = sqrt(6/(fan_in + fan_out)) and biases of 0 (Glorot & Bengio, 2010, equation 16).
Initialisation = Literal["pytorch", "glorot"]


def kernel_init(initialisation: Initialisation, fan_in: int, shape: tuple[int, ...]) -> Callable[..., Array]:
    """Of a kernel `[fan_in, *outputs]`."""
    if initialisation == "pytorch":
        return uniform_fan_in(fan_in)
    bound = math.sqrt(6 / (fan_in + math.prod(shape[1:])))
    return lambda key, shape, dtype=jnp.float32: jax.random.uniform(key, shape, dtype, -bound, bound)


def bias_init(initialisation: Initialisation, fan_in: int) -> Callable[..., Array]:
    """Of the biases beside it."""
    return uniform_fan_in(fan_in) if initialisation == "pytorch" else nn.initializers.zeros


def _per_feature(v: Float[Array, " features"], ndim: int) -> Float[Array, "... features"]:
    """v with leading axes of size 1, so that no operation promotes ranks silently."""
    return v.reshape((1,) * (ndim - 1) + v.shape)


class Linear(nn.Module):
    """x @ kernel + bias; integer inputs are promoted to the kernel's dtype.

    Attributes:
      features: width of the output.
      dtype: what the product is computed in, and the output's; None for what x and the kernel promote to. The bias is
        added in float32 all the same, so that its gradient, a sum over the batch, is one of float32.
      initialisation: of kernel and bias.
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
            return (widen(product) + _per_feature(bias, x.ndim)).astype(self.dtype)
        return x @ kernel + _per_feature(bias, x.ndim)


class BatchNorm(nn.Module):
    """Batch normalisation over all axes but the last, with PyTorch's running statistics.

    (x - mean)/sqrt(var + epsilon) * scale + bias; mean and biased variance of the batch when `train`, running ones
    otherwise. The running variance takes the *unbiased* variance of each batch, as PyTorch's does and Flax's does
    not: at 64 examples they differ by 1.6%, which would show in parity with weights trained there. The variance is
    computed from centred values (Flax's default, E x^2 - (E x)^2, loses digits in float32). Statistics and
    normalisation are computed in float32 at least, whatever x is; the output is what x is.
    Source: Ioffe & Szegedy (2015), algorithms 1 and 2.

    Attributes:
      momentum: share of the old running statistics that is kept at a step.
      epsilon: added to the variance.
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
            gain = scale * jax.lax.rsqrt(running_var.value + self.epsilon)
            y = x * _per_feature(gain, x.ndim) + _per_feature(bias - running_mean.value * gain, x.ndim)
            return y.astype(dtype)
        axes = tuple(range(x.ndim - 1))
        count = x.size // x.shape[-1]
        mean = x.mean(axes)
        centred = x - _per_feature(mean, x.ndim)
        var = jnp.square(centred).mean(axes)
        if not self.is_initializing():
            unbiased = var * (count / max(count - 1, 1))
            keep = self.momentum
            running_mean.value = keep * running_mean.value + (1.0 - keep) * jax.lax.stop_gradient(mean)
            running_var.value = keep * running_var.value + (1.0 - keep) * jax.lax.stop_gradient(unbiased)
        gain = scale * jax.lax.rsqrt(var + self.epsilon)
        return (centred * _per_feature(gain, x.ndim) + _per_feature(bias, x.ndim)).astype(dtype)


class MLP(nn.Module):
    """Hidden layers of linear, activation, normalisation (in that order), then one linear layer.

    Every axis of the input but the first is flattened.

    Attributes:
      hidden: widths of the hidden layers.
      features: width of the last linear layer, or None to leave it out and end with the last hidden layer.
      activation: after each hidden linear layer.
      last_activation: after the last linear layer.
      normalise: whether a `BatchNorm` follows each hidden activation.
      dtype: what products and activations are computed in, and the output's; None for what the parameters are.
      initialisation: of every kernel and bias.
    """

    hidden: tuple[int, ...]
    features: int | None = None
    activation: Callable[[Array], Array] = sigmoid_gelu
    last_activation: Callable[[Array], Array] = identity
    normalise: bool = True
    dtype: ComputeDtype = None
    initialisation: Initialisation = "pytorch"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choices(self)

    @nn.compact
    def __call__(self, x: Num[Array, "batch ..."], *, train: bool = False) -> Float[Array, "batch features"]:
        x = x.reshape(x.shape[0], -1)
        for i, width in enumerate(self.hidden):
            x = self.activation(Linear(width, self.dtype, self.initialisation, name=f"linear_{i}")(x))
            if self.normalise:
                x = BatchNorm(name=f"norm_{i}")(x, train=train)
        if self.features is None:
            return x
        return self.last_activation(Linear(self.features, self.dtype, self.initialisation, name="last")(x))


def join(v: Num[Array, "batch ..."], label: Float[Array, "batch classes"] | None) -> Num[Array, "batch ..."]:
    """v with a one-hot label beside it (v flattened then), or v as it is where there is no label."""
    return v if label is None else jnp.concatenate([v.reshape(v.shape[0], -1), label], axis=-1)


def one_hot(y: Num[Array, "..."] | None, classes: int, n: int) -> Float[Array, "batch classes"] | None:
    """Labels `[n]` as one-hot rows, or None in a model without classes.

    Raises ValueError if a label is missing, not wanted, not one number an example or, unless it is traced, no whole
    number from 0 to classes - 1.
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
    """The linear layer from hidden features to the parameters of p(x | z), one set an element of x.

    Its kernel has shape `[inputs, *event, parameters]`, so the variables themselves remember the shape of the data
    and generation needs no other record of it. Where elements share a set, the last axis of the event is shorter.

    Attributes:
      parameters: how many numbers the likelihood wants for each element of x.
      dtype: what the product is computed in; the bias is added in float32 all the same, and the output is float32 at
        least.
      channels: how many neighbours on the last axis of x share one set.
      initialisation: of kernel and bias.

    Raises ValueError for an x whose last axis is no multiple of `channels`, or where its shape is not known yet.
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
        """Maps `h` to `[batch, *event, parameters]`; `event` may be None once there are variables.

        `start()` is what the biases `[*event, parameters]` begin as, in place of those of the initialisation.
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
        # The bias is a row of the product: added afterwards, XLA's CPU backend fuses its broadcast into what the
        # likelihood reads and takes twice as long for the two together.
        ones = jnp.ones((h.shape[0], 1), h.dtype)
        weights = jnp.concatenate([kernel.reshape(h.shape[-1], -1), bias.reshape(1, -1)])
        flat = jnp.concatenate([h, ones], axis=1) @ weights
        return flat.reshape(h.shape[0], *event, self.parameters)

    def event(self) -> tuple[int, ...] | None:
        """The shape of one x, as the variables remember it; None before there are variables."""
        if not self.has_variable("params", "bias"):
            return None
        event = self.get_variable("params", "bias").shape[:-1]
        return tuple(event) if self.channels == 1 else (*event[:-1], event[-1] * self.channels)


def sets(event: tuple[int, ...], channels: int) -> tuple[int, ...]:
    """How many sets of parameters one x has along each axis, where `channels` neighbours on the last one share a set.

    Raises ValueError if the last axis is no multiple of `channels`.
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
    """Raises ValueError if the x at hand has not the shape the networks were made for."""
    if event is not None and x.shape[1:] != event:
        raise ValueError(
            f"x has shape {tuple(x.shape)}, that is examples of {tuple(x.shape[1:])}, but these variables were "
            f"initialised for examples of {event}. Reshape or resize x, or initialise a model on it."
        )
