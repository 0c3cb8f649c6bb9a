"""The one compiled program of a model that both directions run, and what its numbers depend on.

All latents are given, zeros for those that are not known yet, and x likewise. A level's q and p are then functions of
the variables that they depend on, bit for bit, whatever the others hold: the same operations on the same numbers.
"""

import hashlib
import importlib.metadata
import platform
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from scipy.special import expit, ndtr, ndtri

from hvae_jax.codec.bins import Gaussians
from hvae_jax.codec.order import Dependencies, X
from hvae_jax.codec.symbols import check_discrete
from hvae_jax.distributions import Normal, sum_event
from hvae_jax.likelihoods import PixelCNNRecord
from hvae_jax.runtime.compilation import jit
from hvae_jax.runtime.trees import leaves_by_path
from hvae_jax.trace import Level, Model, Trace

_LIBRARIES = ("hvae-jax", "jax", "jaxlib", "numpy", "scipy", "constriction")
_FLOW_ERROR = 1e-3
"""Largest relative difference between log q of a level and that of its record, beyond which there is a flow."""


class Program:
    """A model's distributions of one batch, compiled for a number of images.

    Attributes:
      names: of the levels, top first.
      shapes: of one latent of each level.
      dependencies: which variables each distribution reads.
      made_by: what the numbers depend on, by name.

    Raises ValueError, naming the level, for levels that are not Gaussian or have a flow; for a model of labels and
    numbers that are not finite.
    """

    def __init__(self, model: Model, variables: Any, event: tuple[int, ...], size: int) -> None:
        """Compile the program.

        Args:
          event: shape of one x.
          size: number of images in a batch.
        """
        if model.classes:
            raise ValueError("The model is conditioned on labels, which a file of images does not hold.")
        check_discrete(model.likelihood)
        self._variables, self.size, self.event = variables, size, event
        x = jax.ShapeDtypeStruct((size, *event), np.float32)
        key = jax.random.key(0)

        def infer(variables: Any, x: Array, latents: tuple[Array, ...] | None) -> Trace:
            return model.apply(variables, x, key, latents=latents)

        levels = jax.eval_shape(lambda variables, x: infer(variables, x, None).unstack(), variables, x)
        self.names = tuple(level.name for level in levels)
        _check_gaussian(levels)
        self.shapes = tuple(level.z.shape[1:] for level in levels)

        def run(variables: Any, x: Array, latents: tuple[Array, ...]) -> dict[str, Any]:
            trace = infer(variables, x, latents)
            levels, record = trace.unstack(), trace.x_dist
            if isinstance(record, PixelCNNRecord) and record.family.receptive_field == 0:
                record = record.conditionals(jnp.zeros(x.shape, x.dtype))
            return {
                "q": tuple((level.q.mean, level.q.log_std) for level in levels),
                "p": tuple(_whole(level.p, level.z) for level in levels),
                "x": record,
                "log_q": jnp.stack([level.log_q for level in levels]),
                "log_p": jnp.stack([level.log_p for level in levels]),
                "log_px": trace.log_px,
                "own_log_q": jnp.stack([sum_event(level.q.log_prob(level.z)) for level in levels]),
            }

        latents = tuple(jax.ShapeDtypeStruct((size, *shape), np.float32) for shape in self.shapes)
        lowered = jit(run).lower(variables, x, latents)
        self._compiled = lowered.compile()
        self._conditional = jit(_conditional)
        probe = self._probe(model)
        self.dependencies = self._dependencies()
        self.made_by: Mapping[str, str] = {
            **{name: _version(name) for name in _LIBRARIES},
            "backend": jax.default_backend(),
            "device": jax.devices()[0].device_kind,
            "machine": platform.machine(),
            "parameters": _hashed(leaves_by_path(variables)),
            "program": hashlib.sha256(lowered.as_text().encode()).hexdigest()[:16],
            "arithmetic": probe,
        }

    def __call__(self, x: np.ndarray, latents: Sequence[np.ndarray]) -> dict[str, Any]:
        """The distributions given x `[size, *event]` and all latents, as arrays on the device."""
        return self._compiled(self._variables, x, tuple(latents))

    def conditional(self, record: PixelCNNRecord, x: np.ndarray, element: int) -> Any:
        """A PixelCNN's record of one element given those before it in x, NumPy arrays `[size, 1, ...]`."""
        return jax.device_get(self._conditional(record, x, element))

    def zeros(self) -> tuple[np.ndarray, list[np.ndarray]]:
        """x and latents of nothing but zeros."""
        x = np.zeros((self.size, *self.event), np.float32)
        return x, [np.zeros((self.size, *shape), np.float32) for shape in self.shapes]

    def _probe(self, model: Model) -> str:
        """A hash of the numbers that this machine computes for made-up x and latents, and of the functions on the host.

        Raises ValueError for a level with a flow, and for numbers that are not finite.
        """
        rng = np.random.Generator(np.random.PCG64(0))
        x, latents = self.zeros()
        x = rng.integers(0, 2, x.shape).astype(np.float32)
        latents = [rng.standard_normal(z.shape).astype(np.float32) for z in latents]
        found = jax.device_get(self(x, latents))
        for name, log_q, own in zip(self.names, found["log_q"], found["own_log_q"], strict=True):
            if not np.isfinite(log_q).all():
                raise ValueError(f"Level {name!r}: its numbers are not finite, so that nothing can be coded by it.")
            if (np.abs(log_q - own) > _FLOW_ERROR * (1.0 + np.abs(own))).any():
                raise ValueError(
                    f"Level {name!r} has a flow in its posterior, whose mass of a bin is no difference of Gaussian "
                    "distribution functions: code with a model without flows."
                )
        points = np.linspace(-9.0, 9.0, 4099)
        on_host = {
            "ndtr": ndtr(points),
            "ndtri": ndtri(expit(points)),
            "exp": np.exp(points),
            "log": np.log(points**2 + 1.0),
        }
        return _hashed({**leaves_by_path({name: found[name] for name in ("q", "p", "x")}), **on_host})

    def _dependencies(self) -> Dependencies:
        """What each distribution depends on: those that become NaN when a variable is."""
        count = len(self.names)
        posteriors, priors, likelihood = [set() for _ in range(count)], [set() for _ in range(count)], set()
        for variable in (X, *range(count)):
            x, latents = self.zeros()
            (x if variable == X else latents[variable])[:] = np.nan
            found = jax.device_get(self(x, latents))
            for level in range(count):
                for sets, kind in ((posteriors, "q"), (priors, "p")):
                    if any(np.isnan(leaf).any() for leaf in found[kind][level]):
                        sets[level].add(variable)
            if variable != X and any(np.isnan(leaf).any() for leaf in jax.tree.leaves(found["x"])):
                likelihood.add(variable)
        for level, (name, parents) in enumerate(zip(self.names, priors, strict=True)):
            if X in parents or level in parents or level in posteriors[level]:
                raise ValueError(f"Level {name!r} reads itself, or its prior reads x: it cannot be decoded.")
        freeze = tuple(frozenset(reads) for reads in posteriors), tuple(frozenset(reads) for reads in priors)
        return Dependencies(*freeze, frozenset(likelihood))


def of_level(found: dict[str, Any], kind: str, level: int, rows: int) -> Gaussians:
    """q or p of a level for the first rows of a batch."""
    mean, log_std = (np.asarray(leaf)[:rows] for leaf in found[kind][level])
    return Gaussians(mean, log_std)


def _whole(p: Normal, z: Array) -> tuple[Array, Array]:
    """Mean and log_std in the shape of z."""
    return jnp.broadcast_to(p.mean, z.shape), jnp.broadcast_to(p.log_std, z.shape)


def _check_gaussian(levels: Sequence[Level]) -> None:
    """Raises ValueError, naming the level, for one that is not Gaussian."""
    for level in levels:
        for what, dist in (("posterior", level.q), ("prior", level.p)):
            if type(dist) is not Normal:
                raise ValueError(
                    f"Level {level.name!r} has a {what} that is no diagonal Gaussian but {type(dist).__name__}: "
                    "latents are coded in bins of Gaussians alone."
                )


def _conditional(record: PixelCNNRecord, x: Array, element: Array) -> Any:
    """The record of one element given those before it, `[B, 1, ...]`."""
    event = x.shape[1:]
    everywhere = record.conditionals(x)

    def one(leaf: Array) -> Array:
        flat = leaf.reshape(leaf.shape[0], int(np.prod(event)), *leaf.shape[1 + len(event) :])
        return jax.lax.dynamic_slice_in_dim(flat, element, 1, axis=1)

    return jax.tree.map(one, everywhere)


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:  # hvae_jax in a checkout that was not installed
        return "missing"


def _hashed(arrays: Mapping[str, Any]) -> str:
    """A hash of arrays with their names, dtypes and shapes."""
    digest = hashlib.sha256()
    for name, leaf in sorted(arrays.items()):
        array = np.asarray(leaf, order="C")
        digest.update(f"{name} {array.dtype} {array.shape} ".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()[:16]
