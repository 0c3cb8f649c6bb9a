"""RealNVP: an invertible network of affine couplings, from a latent z to a variable e, and back in one pass.

A coupling leaves one part of z as it is, and shifts and scales the other by a network of the first:

    e = (z + t) exp(s),  log |de/dz| = sum s                z = e exp(-s) - t              s = gain tanh(.)

Maps are split by a checkerboard of pixels, three times, alternately; then three times by halves of the channels of z
squeezed to half its resolution. Half of the channels of another squeeze goes on to the next scale. The last scale has
four checkerboards and nothing else. Vectors are split into even and odd units, four times in each scale.

Source: Dinh et al. (2017), "Density estimation using Real NVP", section 3; the form of the coupling, the order of the
squeezes and the densely connected networks are those of ioangatop/srVAE.
"""

from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import Array

from hvae_jax.networks.densely_connected import DenseBlocks
from hvae_jax.networks.weight_norm import WeightNormConv, WeightNormDense

Part = Literal["alternate", "channels"]  # pixels of a checkerboard or every other unit; half of the channels


class Coupling(nn.Module):
    """One affine coupling; z is `[B, H, W, C]`, or `[B, D]` with parts that alternate.

    Attributes:
      part: the part that stays as it is.
      reverse: whether it is the other one of the two: without, the pixels whose row and column add up to an odd number,
        and the second half of the channels.
      growth, steps: of the network; for vectors it has `steps` layers of 4 * growth units.
    """

    part: Part
    reverse: bool
    growth: int
    steps: int

    @nn.compact
    def __call__(self, z: Array, *, inverse: bool = False) -> tuple[Array, Array]:
        if self.part == "channels":
            halves = jnp.split(z, 2, axis=-1)
            seen, moved = halves if self.reverse else halves[::-1]
            s, t = self._terms(seen)
        else:
            mask = jnp.asarray(self._mask(z.shape), z.dtype)  # 1 where z stays
            seen, moved = z * mask, z
            s, t = ((1.0 - mask) * term for term in self._terms(seen))
        log_det = s.reshape(len(s), -1).sum(1)
        moved = moved * jnp.exp(-s) - t if inverse else (moved + t) * jnp.exp(s)
        if self.part == "channels":
            moved = jnp.concatenate([seen, moved] if self.reverse else [moved, seen], axis=-1)
        return moved, -log_det if inverse else log_det

    def _mask(self, shape: tuple[int, ...]) -> np.ndarray:
        """`[1, H, W, 1]`, or `[1, D]`."""
        places = shape[1:-1] or shape[1:]
        odd = np.indices(places).sum(0) % 2
        mask = 1 - odd if self.reverse else odd
        return mask[None, ..., None] if len(shape) == 4 else mask[None]

    def _terms(self, seen: Array) -> tuple[Array, Array]:
        """s and t, in the shape of `seen`."""
        channels, h = seen.shape[-1], seen
        if seen.ndim == 4:
            h = DenseBlocks(self.growth, self.steps, name="dense")(h)
            h = WeightNormConv(2 * channels, name="last")(h)
        else:
            for i in range(self.steps):
                h = jax.nn.elu(WeightNormDense(4 * self.growth, 1.0, name=f"dense_{i}")(h))
            h = WeightNormDense(2 * channels, name="last")(h)
        s, t = jnp.split(h, 2, axis=-1)
        gain = self.param("gain", nn.initializers.ones, (channels,), jnp.float32)
        return gain.reshape((1,) * (s.ndim - 1) + (channels,)) * jnp.tanh(s), t


class RealNVPNetwork(nn.Module):
    """`[B, H, W, C]` or `[B, D]` to the same shape, and the log-determinant `[B]`; with `inverse`, back.

    Attributes:
      scales: number of scales; a scale below the last one takes half of the channels of z squeezed once more.
      growth, steps: of the networks in the couplings.

    Raises ValueError for maps whose height or width cannot be halved once for each scale but the last.
    """

    scales: int = 2
    growth: int = 64
    steps: int = 5

    @nn.compact
    def __call__(self, z: Array, *, inverse: bool = False) -> tuple[Array, Array]:
        last = z.ndim == 2 or self.scales == 1
        count = 3 if not last else 4 * (self.scales if z.ndim == 2 else 1)
        outer = [self._coupling("alternate", i, f"in_{i}") for i in range(count)]
        if last:
            return _through(outer, z, inverse)
        if z.shape[1] % 2 or z.shape[2] % 2:
            raise ValueError(
                f"RealNVP with {self.scales} more scales cannot halve maps of {z.shape[1]}x{z.shape[2]}: lower "
                "`scales`."
            )
        inner = [self._coupling("channels", i, f"out_{i}") for i in range(3)]
        rest = RealNVPNetwork(self.scales - 1, self.growth, self.steps, name="next")

        def by_channels(z: Array) -> tuple[Array, Array]:
            squeezed, log_det = _through(inner, squeeze(z), inverse)
            return unsqueeze(squeezed), log_det

        def by_scale(z: Array) -> tuple[Array, Array]:
            on, kept = jnp.split(_alternately(squeeze(z)), 2, axis=-1)
            on, log_det = rest(on, inverse=inverse)
            return unsqueeze(_alternately(jnp.concatenate([on, kept], axis=-1), back=True)), log_det

        def by_pixels(z: Array) -> tuple[Array, Array]:
            return _through(outer, z, inverse)

        total = jnp.zeros(z.shape[:1], z.dtype)
        order = (by_pixels, by_channels, by_scale)
        for part in reversed(order) if inverse else order:
            z, log_det = part(z)
            total += log_det
        return z, total

    def _coupling(self, part: Part, i: int, name: str) -> Coupling:
        return Coupling(part, i % 2 == 1, self.growth, self.steps, name=name)


def _through(couplings: list[Coupling], z: Array, inverse: bool) -> tuple[Array, Array]:
    """The couplings one after the other, from the last one if inverse, and the sum of their log-determinants."""
    total = jnp.zeros(z.shape[:1], z.dtype)
    for coupling in reversed(couplings) if inverse else couplings:
        z, log_det = coupling(z, inverse=inverse)
        total += log_det
    return z, total


def squeeze(z: Array) -> Array:
    """`[B, H, W, C]` to `[B, H/2, W/2, 4 C]`, channel 4 c + 2 (row offset) + column offset."""
    b, rows, columns, channels = z.shape
    blocks = z.reshape(b, rows // 2, 2, columns // 2, 2, channels)
    return blocks.transpose(0, 1, 3, 5, 2, 4).reshape(b, rows // 2, columns // 2, 4 * channels)


def unsqueeze(z: Array) -> Array:
    """The inverse of `squeeze`."""
    b, rows, columns, channels = z.shape
    blocks = z.reshape(b, rows, columns, channels // 4, 2, 2)
    return blocks.transpose(0, 1, 4, 2, 5, 3).reshape(b, 2 * rows, 2 * columns, channels // 4)


# Offsets (row, column) in the order of the other squeeze, as 2 row + column: (0, 0), (1, 1), (0, 1), (1, 0). The first
# half of its channels are the pixels of one colour of the checkerboard.
_DIAGONAL = np.array([0, 3, 1, 2])


def _alternately(z: Array, back: bool = False) -> Array:
    """Squeezed channels `4 c + offset` in blocks by offset, `_DIAGONAL` first to last, each with all c; or back."""
    channels = z.shape[-1] // 4
    order = (4 * np.arange(channels)[None] + _DIAGONAL[:, None]).ravel()
    return z[..., np.argsort(order) if back else order]
