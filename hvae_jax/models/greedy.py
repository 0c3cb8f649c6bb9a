"""The Greedy Hierarchical VAE: modules of encoder, posterior, prior and decoder that are trained one after the other.

With k modules there is one latent, the deepest module's; all encoders lead up to it and all decoders down from it:

    p(x' | x) = int p(x' | g_1(z_k)) p(z_k | x) dz_k        x' the next frame, x the frames before it
    log p(x' | x) >= E_q[log p(x' | z_k, x)] - KL(q(z_k | x') || p(z_k | x))

    h_l = encoder_l(h_{l-1}), h_0 = x'                      c_l: the same of each frame of x, side by side
    g_{l-1} = decoder_l(g_l, c_l), g_k = z_k                g_0: the parameters of p(x' | z_k, x)

In stage k module k is inserted at the deepest point and trained alone, modules 1..k-1 are frozen (`Training.stages`).
Without frames before it, x' is an image, and p(z_k) = N(0, I).

A new module starts as the identity, so that the bound does not fall. With U moving 2x2 pixels into the channels and R,
Q, P networks whose last layer starts at zero,

    (mean, log var) of q_k = U(those of q_{k-1}) + Q(h_k)      likewise p_k, with P(c_k)
    decoder_k(g, c_k) = U^-1(g + R(g, c_k))

so that at first z_k is U(z_{k-1}) in distribution, under q and p alike, and gives the same g_{k-1}.

Source: Wu et al. (2021), "Greedy Hierarchical Variational Autoencoders for Large-Scale Video Prediction", section 3,
whose objective is this one with a weight on the KL (`Regularised`); there is no public code. Departs from it in the
identity at the start: the paper's modules start at random, and the heads of frozen modules are not used.
"""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from flax import struct
from jax import Array

from hvae_jax.descent import Pick, draw
from hvae_jax.distributions import Known, Normal
from hvae_jax.likelihoods import Categorical, Likelihood, LikelihoodRecord
from hvae_jax.models.base import HVAE
from hvae_jax.models.pieces import check_image, gaussian
from hvae_jax.networks.computing import ComputeDtype, widen
from hvae_jax.networks.maps import Head, Maps
from hvae_jax.networks.mlp import one_hot
from hvae_jax.networks.resample import depth_to_space, enlarge, space_to_depth
from hvae_jax.records import check_sizes
from hvae_jax.runtime.annotations import ArrayLike
from hvae_jax.runtime.prng import split
from hvae_jax.trace import Level, Trace


class GreedyVAE(HVAE):
    """The Greedy Hierarchical VAE of images, or of the next frame of a clip. Module k is "modulek" in paths.

        log p(x' | x) >= E_q[log p(x' | z_k, x)] - KL(q(z_k | x') || p(z_k | x))

    with x' the next frame and x the frames before it.

    Source: Wu et al. (2021), section 3.

    A clip is a strip: its frames side by side in one image, `[B, H, frames * W, C]`, so that data, pictures and
    likelihoods are those of images. The frames before the last are the observed level "past", whose prior is a table of
    learned marginals, so that the ELBO bounds log p of the whole strip; ELBO + rate of "past" bounds the last frame's
    log p given the others. `keep_top=1` predicts the last frame, and so does `decode(latents=(past, None))`.
    Labels y, if there are any, are actions, which the prior of z reads.

    The latent of k modules has 4^(k-1) times `latents` channels at 1/2^k of the resolution: as many numbers for any k.

    Attributes:
      image: `(H, frames * W, C)`, shape of one x; H and W are multiples of 2^modules.
      frames: frames in x; 1 for images.
      modules: number of modules K.
      latents: channels of the latent of the first module.
      width: channels of all other feature maps.
      blocks: number of residual blocks in each encoder and decoder.
      likelihood: p(x' | z, x), a family from `hvae_jax.likelihoods`; a 3x3 convolution gives its parameters.
      clamp, prior_clamp: bounds of the log variance of posterior and prior; None for none.
      classes: number of actions (class labels) that the prior is conditioned on; 0 for none.
      dtype: precision of products and activations, "bfloat16" or None for that of the parameters; parameters, latents,
        KLs and likelihoods are float32 either way.
      remat: whether the backward pass recomputes each residual block instead of storing it.

    Raises ValueError if a size is below 1, the image's sides are no multiples, or the likelihood does not take the
    image's channels.

    Example:
        >>> model = hv.models.GreedyVAE(image=(8, 16, 1), frames=2, modules=3)
        >>> model.num_levels, model.truncated(1).modules  # "past" and z
        (2, 1)
    """

    image: tuple[int, int, int] = (8, 8, 1)
    frames: int = 1
    modules: int = 2
    latents: int = 4
    width: int = 32
    blocks: int = 1
    likelihood: Likelihood = Categorical(17)
    clamp: tuple[float, float] | None = (-7.0, 2.0)
    prior_clamp: tuple[float, float] | None = (-7.0, 7.0)
    classes: int = 0
    dtype: ComputeDtype = None
    remat: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_sizes(self, "image", "frames", "modules", "latents", "width", "blocks")
        factor = 2**self.modules
        if self.image[0] % factor or self.image[1] % (factor * self.frames):
            raise ValueError(
                f"GreedyVAE(image={self.image}, frames={self.frames}, modules={self.modules}): each module halves the "
                f"resolution, so that the height has to be a multiple of {factor} and the width, of {self.frames} "
                f"frame{'s side by side' if self.frames > 1 else ''}, of {factor * self.frames}. Take fewer modules, "
                "or resize x."
            )
        self.likelihood.outputs(self.image[-1])

    @property
    def num_levels(self) -> int:
        """The deepest module's latent, below the observed past of a clip."""
        return 1 + (self.frames > 1)

    @property
    def observed(self) -> Mapping[str, Likelihood]:
        """The family of "past", the frames before the last of a clip; none for images."""
        return {"past": self.likelihood} if self.frames > 1 else {}

    @property
    def frame(self) -> int:
        """W, the width of a frame."""
        return self.image[1] // self.frames

    @nn.nowrap
    def truncated(self, modules: int) -> "GreedyVAE":
        """The model of the first modules, over the same variables. Raises ValueError for more than there are."""
        if not 1 <= modules <= self.modules:
            raise ValueError(
                f"GreedyVAE(modules={self.modules}) cannot run with modules={modules}: 1 to {self.modules}."
            )
        return self.clone(modules=modules)

    @nn.compact
    def descend(
        self, x: Array | None, n: int, key: Array, *, y: Array | None, picks: tuple[Pick, ...], train: bool
    ) -> Trace:
        label = one_hot(y, self.classes, n)  # [n, classes], or None
        if x is not None:
            check_image(self, x)
        keys, levels = split(key, self.num_levels), []
        past = None
        if self.frames > 1:
            levels.append(self._past(x, n, keys[0], picks[0]))
            past = levels[0].z  # [n, H, (frames - 1) W, C], given or known
        modules = [self._module(k) for k in range(1, self.modules + 1)]
        ups, contexts = self._ascend(modules, past, None if x is None else x[:, :, -self.frame :])

        # from the first module down to the deepest: each head adds to what the one before it gave
        rows, columns = self.image[0], self.frame
        q = p = None
        for module, up, context in zip(modules, ups, contexts, strict=True):
            rows, columns = rows // 2, columns // 2
            seen = _with_planes(context, label, rows, columns)
            q = None if up is None else module.posterior_of(up, q)
            p = None if seen is None else module.prior_of(seen, p)
        shape = (n, rows, columns, self.latents * 4 ** (self.modules - 1))
        prior = Normal.standard(shape) if p is None else gaussian(p, clamp=self.prior_clamp)
        posterior = None if q is None else gaussian(q, clamp=self.clamp)
        levels.append(draw(keys[-1], prior, posterior, picks[-1], name="z", side=rows))

        g = levels[-1].z
        for module, context in zip(reversed(modules), reversed(contexts), strict=True):
            g = module.decode(g, context)
        x_dist: Any = self.likelihood.from_map(widen(g))
        if past is not None:
            x_dist = NextFrame(past, x_dist)
        return Trace(None if x is None else x_dist.log_prob(x), tuple(levels), x_dist)

    def _module(self, k: int) -> "GreedyModule":
        """Module k, counted from x."""
        outputs = self.likelihood.outputs(self.image[-1]) if k == 1 else None
        sizes = (self.latents * 4 ** (k - 1), self.width, self.blocks)
        return GreedyModule(*sizes, outputs, self.dtype, self.remat, name=f"module{k}")

    def _past(self, x: Array | None, n: int, key: Array, pick: Pick) -> Level:
        """The level of the frames before the last: known with x; its prior has learned marginals, pixel by pixel."""
        rows, columns, channels = self.image
        shape = (rows, columns - self.frame, self.likelihood.outputs(channels))
        table = self.param("past", nn.initializers.zeros, shape, jnp.float32)
        prior: Any = self.likelihood.from_map(jnp.broadcast_to(table[None], (n, *shape)))
        known = None if x is None else Known(x[:, :, : -self.frame])
        return draw(key, prior, known, pick, name="past", side=rows)

    def _ascend(
        self, modules: "list[GreedyModule]", past: Array | None, following: Array | None
    ) -> tuple[list[Array | None], list[Array | None]]:
        """h_k of the next frame and c_k of the frames before it for each module, `[n, h, w, ...]`; None without them.

        All frames pass through the encoders as one batch, since they share them.
        """
        none: list[Array | None] = [None] * self.modules
        strip = [part for part in (past, following) if part is not None]
        if not strip:
            return none, none
        # [n, H, F W, C] to [F n, H, W, C], the next frame last
        h = jnp.concatenate([self.likelihood.as_input(part).astype(jnp.float32) for part in strip], axis=2)
        n, count = h.shape[0], h.shape[2] // self.frame
        h = h.reshape(n, h.shape[1], count, self.frame, -1)
        h = jnp.moveaxis(h, 2, 0).reshape(count * n, h.shape[1], self.frame, -1)
        before = (0 if past is None else self.frames - 1) * n
        ups, contexts = list(none), list(none)
        for i, module in enumerate(modules):
            h = module.encode(h)
            if following is not None:
                ups[i] = h[before:]
            if past is not None:
                maps = h[:before].reshape(self.frames - 1, n, *h.shape[1:])
                contexts[i] = jnp.moveaxis(maps, 0, -2).reshape(n, *h.shape[1:3], -1)
        return ups, contexts


class GreedyModule(nn.Module):
    """A module: encoder, heads of posterior and prior, decoder; all but the first start as the identity.

    Attributes:
      latents: channels of its latent.
      width: channels of all other feature maps.
      blocks: number of residual blocks in encoder and decoder.
      outputs: channels of the first module's output, the parameters of p(x'); None for a deeper module.
      dtype, remat: as in `GreedyVAE`.
    """

    latents: int
    width: int
    blocks: int
    outputs: int | None
    dtype: ComputeDtype = None
    remat: bool = False

    def setup(self) -> None:
        """Names the four parts, under which the parameters lie."""
        first = self.outputs is not None
        self.encoder = Maps(self.width, self.blocks, True, self.dtype, self.remat)
        self.posterior = Head(2 * self.latents, 0, not first, self.dtype)
        self.prior = Head(2 * self.latents, self.width, not first, self.dtype)
        self.decoder = Maps(self.width, self.blocks, False, self.dtype, self.remat)
        self.readout = Head(self.latents if self.outputs is None else self.outputs, 0, not first, self.dtype)

    def encode(self, h: Array) -> Array:
        """h_k of h_{k-1}: `[B, H, W, C]` to `[B, H/2, W/2, width]`."""
        return self.encoder(h)

    def posterior_of(self, h: Array, before: Array | None) -> Array:
        """Means and log variances of q_k, `[B, h, w, 2 latents]`, from h_k and those of q_{k-1}; None if k is 1."""
        return _offset(self.posterior(h), before)

    def prior_of(self, c: Array, before: Array | None) -> Array:
        """Means and log variances of p_k, likewise, from what its prior reads and those of p_{k-1}."""
        return _offset(self.prior(c), before)

    def decode(self, g: Array, c: Array | None) -> Array:
        """g_{k-1} of g_k and c_k: `[B, h, w, latents]` to `[B, 2h, 2w, latents / 4]`, or to the parameters of p(x')."""
        seen = g if c is None else jnp.concatenate([g, c.astype(g.dtype)], axis=-1)
        h = self.decoder(seen)
        if self.outputs is not None:
            return self.readout(enlarge(h, 2))
        return depth_to_space(g + widen(self.readout(h)))


@struct.dataclass
class NextFrame:
    """p(x | past, z) of a clip whose last frame alone is uncertain.

    Attributes:
      past: the frames before the last as a strip, `[B, H, (F - 1) W, C]`.
      following: record of p(x' | past, z), of the last frame `[B, H, W, C]`.
    """

    past: Array
    following: LikelihoodRecord

    def log_prob(self, x: Array) -> Array:
        """log p of the last frame of the clip x `[B, H, F W, C]`: `[B]`, nats. That of the others is their level's."""
        return self.following.log_prob(x[:, :, self.past.shape[2] :])

    def sample(self, key: Array, temperature: Array | float = 1.0) -> Array:
        """The past and a sample of the last frame."""
        return self._with(self.following.sample(key, temperature))

    @property
    def mean(self) -> Array:
        """The past and the expectation of the last frame."""
        return self._with(self.following.mean)

    @property
    def mode(self) -> Array:
        """The past and the most probable value of each element of the last frame."""
        return self._with(self.following.mode)

    def _with(self, following: Array) -> Array:
        return jnp.concatenate([self.past.astype(following.dtype), following], axis=2)


def roll_out(
    model: GreedyVAE,
    variables: Any,
    past: ArrayLike,
    key: Array,
    steps: int,
    *,
    y: ArrayLike | None = None,
    temperature: ArrayLike = 1.0,
) -> Array:
    """Predict frames one after the other, each from the latest ones: z from its prior, then the mode of p(x' | z, x).

    Args:
      past: the first frames as a strip, `[B, H, (frames - 1) W, C]`.
      steps: number of frames to predict.
      y: actions, `[B, steps]`; None for a model without.
      temperature: temperature of the prior of z.
    Returns: the predicted frames as a strip, `[B, H, steps W, C]`.
    Raises ValueError for a model of images, and for a past of another shape.

    Example:
        >>> model = hv.models.GreedyVAE(image=(4, 8, 1), frames=2, width=4, latents=1)
        >>> past = jnp.zeros((1, 4, 4, 1), int)
        >>> variables = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 4, 8, 1), int), jax.random.key(1))
        >>> run = lambda variables: hv.models.roll_out(model, variables, past, jax.random.key(2), steps=3)
        >>> jax.eval_shape(run, variables).shape  # three frames side by side
        (1, 4, 12, 1)
    """
    past = jnp.asarray(past)
    wanted = (model.image[0], model.image[1] - model.frame, model.image[2])
    if model.frames < 2 or past.shape[1:] != wanted:
        raise ValueError(
            f"roll_out(past={past.shape}): GreedyVAE(image={model.image}, frames={model.frames}) predicts "
            + ("no frames: set frames." if model.frames < 2 else f"from strips {wanted}, that is [B, *{wanted}].")
        )
    actions = None if y is None else jnp.asarray(y)
    found = []
    for i, step_key in enumerate(split(key, steps)):
        action = None if actions is None else actions[:, i]
        trace = model.apply(
            variables,
            step_key,
            past.shape[0],
            y=action,
            latents=(past, None),
            temperature=temperature,
            method="decode",
        )
        clip = trace.x_dist.mode
        found.append(clip[:, :, -model.frame :])
        past = clip[:, :, model.frame :]
    return jnp.concatenate(found, axis=2)


def _offset(head: Array, before: Array | None) -> Array:
    """Means and log variances, of the module before with the pixels moved into the channels, plus the head's."""
    head = widen(head)
    if before is None:
        return head
    moved = [space_to_depth(part) for part in jnp.split(before, 2, axis=-1)]
    return head + jnp.concatenate(moved, axis=-1)


def _with_planes(context: Array | None, label: Array | None, rows: int, columns: int) -> Array | None:
    """What a prior reads: c_k, and the one-hot action `[B, classes]` at every pixel; None if there is neither."""
    if label is None:
        return context
    planes = jnp.broadcast_to(label[:, None, None, :], (label.shape[0], rows, columns, label.shape[1]))
    return planes if context is None else jnp.concatenate([context, planes.astype(context.dtype)], axis=-1)
