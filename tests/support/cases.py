"""One row per model, for the contract of tests/support/contract.py. A new model adds its row here."""

import dataclasses
import itertools
import math
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import Array

from hvae_jax.likelihoods import (
    Bernoulli,
    Categorical,
    ContinuousBernoulli,
    Gaussian,
    NegativeBinomial,
    PixelCNN,
    StudentT,
)
from hvae_jax.models import (
    BIVA,
    HVAE,
    NVAE,
    VAE,
    VDVAE,
    AveragePool,
    BottomUpVAE,
    CaGeM,
    ConvLadderVAE,
    DenselyConnectedNetworks,
    DenseNetworks,
    Down,
    EfficientVDVAE,
    GatedLadderVAE,
    GreedyVAE,
    LadderVAE,
    LeadingBits,
    LinearVAE,
    MixturePrior,
    RealNVPPrior,
    ResNetVAE,
    SelfSupervisedVAE,
    Smoothing,
    TopDownVAE,
    Up,
    VampPrior,
    down_stages,
    up_stages,
)
from hvae_jax.models.biva import Stage
from hvae_jax.networks.activations import identity, leaky_relu, sigmoid_gelu
from hvae_jax.networks.mlp import MLP
from hvae_jax.networks.residual import BlockStyle
from hvae_jax.networks.scale_head import ScaleHead
from support.toys import BottomUp, CategoricalTop, Flow, NoisyPrior, Observed, Scanned

BATCH = 8


@dataclasses.dataclass(frozen=True, eq=False)
class Case:
    """A model on tiny data.

    Attributes:
      name: name of the row.
      model: the model, as small as possible.
      x, y: data, `[BATCH, *event]`, and labels, `[BATCH]` or None.
      every_x: all values of x, `[M, *event]`, or the nodes of a quadrature; None if there are too many.
      log_volume: log volume of one value in `every_x`: 0 for discrete data, the log spacing for a quadrature.
      cancelled: parameters without gradient in training, such as "a/b/bias": biases that a normaliser cancels.
      top_down: whether no prior depends on its level's own sample: E_q[p/q] = 1 then holds for each level, and the
        levels that keep_top keeps do not depend on it.
      known: names of the levels that are a function of x, whose samples are not weighed against the prior.
      noisy: whether some network draws random numbers, so that the latents alone do not determine the trace.
      exact: whether q is the true posterior, so that every log weight is log p(x).
      jitter: standard deviation of the noise added to every parameter. Larger if chains of tiny layers would hide their
        input; smaller if a data-dependent initialisation starts with large gains (ten, in a residual block whose
        outputs are a tenth of its inputs).
    """

    name: str
    model: HVAE
    x: Array
    y: Array | None = None
    every_x: Array | None = None
    log_volume: float = 0.0
    cancelled: tuple[str, ...] = ()
    top_down: bool = True
    known: tuple[str, ...] = ()
    noisy: bool = False
    exact: bool = False
    jitter: float = 0.05


def integers(values: int, *event: int) -> Array:
    """A batch of uint8 in 0..values-1."""
    return jnp.asarray(np.random.default_rng(0).integers(0, values, (BATCH, *event)), jnp.uint8)


def reals(*event: int) -> Array:
    """A batch of standard normal numbers."""
    return jnp.asarray(np.random.default_rng(0).normal(size=(BATCH, *event)), jnp.float32)


def every(values: int, *event: int) -> Array:
    """All x with elements in 0..values-1."""
    return jnp.asarray(list(itertools.product(range(values), repeat=math.prod(event))), jnp.uint8).reshape(-1, *event)


def grid(low: float, high: float, count: int) -> tuple[Array, float]:
    """Nodes `[count, 1]` of the trapezoid rule for one real pixel, and the logarithm of their spacing."""
    nodes = np.linspace(low, high, count)
    return jnp.asarray(nodes, jnp.float32)[:, None], math.log(nodes[1] - nodes[0])


class Convolutions(nn.Module):
    """A custom first network: two convolutions over x, `[B, side, side]`, without batch statistics."""

    @nn.compact
    def __call__(self, x: Array, *, train: bool = False) -> Array:
        h = nn.Conv(3, (2, 2), name="first")(x[..., None].astype(jnp.float32))
        return nn.Conv(2, (2, 2), name="second")(jnp.tanh(h)).reshape(x.shape[0], -1)


class Half(nn.Module):
    """A custom network for mean and log variance: half of v, `[B, D]`, so that a level depends on the one above."""

    @nn.compact
    def __call__(self, v: Array, *, train: bool = False) -> Array:
        more = MLP((5,), 2 * v.shape[-1], activation=jnp.tanh, normalise=False, name="more")(v)
        return jnp.concatenate([0.5 * v, jnp.zeros_like(v)], axis=-1) + 0.3 * more


def plain(*widths: int) -> MLP:
    """Tanh layers, the last one linear, without batch norm, beside whose large gradients small ones look like 0."""
    return MLP(widths[:-1], widths[-1], activation=jnp.tanh, normalise=False)


LINE, LOG_STEP = grid(-12.0, 12.0, 121)
UNIT, LOG_UNIT_STEP = grid(0.0, 1.0, 201)
FAR, LOG_FAR_STEP = grid(-150.0, 150.0, 1501)  # tails of StudentT(5) beyond it: 1e-8

SMALL_NVAE: dict[str, Any] = {
    "image": (2, 2, 1),
    "groups": (1, 1),
    "latents": 1,
    "width": 2,
    "halvings": 0,
    "pre_cells": 1,
    "post_cells": 1,
    "up_cells": 1,
    "down_cells": 1,
    "likelihood": Bernoulli(),
}
# Biases before a batch norm: of the first convolution in each encoder cell, and of the first norm in decoder cells.
NVAE_CANCELLED = (
    *("up2/cell_0/conv_0/bias", "shrink2/conv_0/bias", "up1/cell_0/conv_0/bias"),
    *("grow2/norm_0/bias", "down2/cell_0/norm_0/bias"),
)
NVAE_HALVED = (*("pre_0_0/conv_0/bias", "up1/cell_0/conv_0/bias", "down1/cell_0/norm_0/bias", "post_0_0/norm_0/bias"),)

CASES = (
    Case(
        "top_down_1",
        TopDownVAE(latents=(2,), hidden=6, likelihood=Bernoulli()),
        integers(2, 4),
        every_x=every(2, 4),
    ),
    Case(
        "top_down_2",
        TopDownVAE(latents=(2, 3), hidden=6, likelihood=Categorical(3)),
        integers(3, 2, 1),
        every_x=every(3, 2, 1),
    ),
    Case(
        "top_down_3",
        TopDownVAE(latents=(2, 2, 3), hidden=6, depth=2, likelihood=Gaussian()),
        reals(1),
        every_x=LINE,
        log_volume=LOG_STEP,
    ),
    Case(
        "negative_binomial",
        TopDownVAE(latents=(2, 2), hidden=6, likelihood=NegativeBinomial(zeros=True)),
        integers(40, 3),
    ),
    Case(
        "continuous_bernoulli",
        VAE(latents=2, hidden=6, likelihood=ContinuousBernoulli()),
        jnp.linspace(0.0, 1.0, BATCH)[:, None],
        every_x=UNIT,
        log_volume=LOG_UNIT_STEP,
    ),
    Case(
        "student_t",
        VAE(latents=2, hidden=6, likelihood=StudentT()),
        reals(1),
        every_x=FAR,
        log_volume=LOG_FAR_STEP,
    ),
    Case(
        "classes",
        TopDownVAE(latents=(2, 2), hidden=6, likelihood=Bernoulli(), classes=3),
        integers(2, 3),
        y=jnp.arange(BATCH) % 3,
        every_x=every(2, 3),
    ),
    Case(
        "replaced",
        TopDownVAE(
            latents=(2, 2),
            hidden=6,
            likelihood=Bernoulli(),
            bottom_up=(None, Convolutions()),
            delta=(MLP((), 4), None),
            prior=(MLP((5,), 4, activation=jnp.tanh, normalise=False),),
            decoder=MLP((7,), activation=leaky_relu, normalise=False),
        ),
        integers(2, 2, 2),
        every_x=every(2, 2, 2),
    ),
    Case(
        "cancelled_biases",
        TopDownVAE(
            latents=(2, 2),
            hidden=6,
            likelihood=Bernoulli(),
            bottom_up=(None, MLP((5,), 4, activation=identity)),
            decoder=MLP((7,), activation=identity),
        ),
        integers(2, 4),
        every_x=every(2, 4),
        cancelled=("bottom_up_1/linear_0/bias", "decoder/linear_0/bias"),
    ),
    Case("vae", VAE(latents=2, hidden=6, likelihood=Bernoulli()), integers(2, 4), every_x=every(2, 4)),
    Case(
        "vae_classes",
        VAE(latents=2, hidden=6, depth=1, activation=sigmoid_gelu, normalise=True, likelihood=Bernoulli(), classes=3),
        integers(2, 3),
        y=jnp.arange(BATCH) % 3,
        every_x=every(2, 3),
    ),
    Case(
        "vae_conv",
        VAE(latents=2, hidden=5, network="conv", width=2, likelihood=Categorical(3)),
        integers(3, 4, 8, 1),
    ),
    Case(
        "bottom_up_vae",
        BottomUpVAE(
            latents=(2, 2),
            hidden=6,
            likelihood=Bernoulli(),
            bottom_up=(MLP(()), None),
            posterior=(Half(), None),
            prior=(Half(),),
        ),
        integers(2, 4),
        every_x=every(2, 4),
        top_down=False,
    ),
    Case(
        "three_levels_see_x",
        BottomUpVAE(latents=(2, 2, 2), hidden=6, posteriors_see_x=True, likelihood=Bernoulli(), classes=3),
        integers(2, 3),
        y=jnp.arange(BATCH) % 3,
        every_x=every(2, 3),
        top_down=False,
    ),
    Case(
        "bottom_up_vae_conv",
        BottomUpVAE(latents=(2, 2), hidden=5, network="conv", width=2, likelihood=Bernoulli()),
        integers(2, 4, 4, 2),
        top_down=False,
    ),
    Case(
        "pixelcnn",
        VAE(latents=2, hidden=5, likelihood=PixelCNN(Bernoulli(), layers=2, width=4, context=2)),
        integers(2, 2, 2, 1),
        every_x=every(2, 2, 2, 1),
    ),
    Case(
        "ladder",
        LadderVAE(latents=(2, 2, 2), hidden=(4, 4, 5), likelihood=Bernoulli()),
        integers(2, 4),
        every_x=every(2, 4),
    ),
    Case(
        "ladder_separate",
        LadderVAE(
            latents=(2, 2), hidden=(4, 5), merge="residual", share=False, only_mu_up=True, head=ScaleHead("log_var")
        ),
        integers(2, 3),
        every_x=every(2, 3),
    ),
    Case(
        "ladder_conv",
        ConvLadderVAE(
            image=(2, 2, 1),
            latents=(1, 2),
            downsample=(0, 1),
            channels=3,
            blocks=1,
            block=BlockStyle(dropout=0.5),
            halve_first=False,
        ),
        integers(2, 2, 2, 1),
        every_x=every(2, 2, 2, 1),
    ),
    Case(
        "resnet_vae",
        ResNetVAE(image=(4, 4, 1), blocks=(1, 1), latents=(2, 1), width=4, flow=None),
        integers(2, 4, 4, 1),
        jitter=0.01,
    ),
    Case(
        "resnet_vae_flow",
        ResNetVAE(image=(2, 4, 1), blocks=(2,), latents=(2,), width=4, flow_hidden=(4,)),
        integers(2, 2, 4, 1),
        jitter=0.01,
    ),
    Case(
        "biva",
        BIVA(
            image=(2, 2, 1),
            stages=(Stage(2, ((3, 3, 1),)), Stage(2, ((3, 3, 1),)), Stage(2, ((3, 3, 1), (3, 3, 2)))),
            q_dropout=0.1,
            p_dropout=0.1,
        ),
        integers(2, 2, 2, 1),
        every_x=every(2, 2, 2, 1),
        top_down=False,
        jitter=0.02,
    ),
    Case(
        "biva_conv",
        BIVA(
            image=(4, 4, 2),
            stages=(Stage(2, ((3, 3, 2),), 2), Stage(2, ((3, 3, 2),), 3)),
            conditional_bu=True,
            learn_top_prior=True,
            head=ScaleHead("softplus_log_var"),
            clamp=None,
        ),
        integers(2, 4, 4, 2),
        top_down=False,
        jitter=0.02,
    ),
    Case(
        "gated_ladder",
        GatedLadderVAE(image=(4, 4, 1), stages=(Stage(2, ((3, 3, 2),), 2), Stage(2, ((3, 3, 2),)))),
        integers(2, 4, 4, 1),
    ),
    Case(
        "gated_vae",
        GatedLadderVAE(
            image=(2, 2, 1),
            stages=(Stage(2, ((3, 3, 1),)), Stage(2, ((3, 3, 2),))),
            inference="bottom_up",
        ),
        integers(2, 2, 2, 1),
        every_x=every(2, 2, 2, 1),
        top_down=False,
    ),
    Case(
        "vdvae",
        VDVAE(
            image=(2, 2, 1),
            ups=up_stages("2d2,1x1", 3, middle=3, layers=0),
            downs=down_stages("1x1,2m1", 3, latents=1, middle=3, layers=0),
        ),
        integers(2, 2, 2, 1),
        every_x=every(2, 2, 2, 1),
        jitter=0.1,
    ),
    Case(
        "vdvae_classes",
        VDVAE(
            image=(2, 2, 2),
            ups=up_stages("2x2,2d2,1x1", 3, "2:2", middle=3, layers=0),
            downs=down_stages("1x1,2m1,2x1", 3, "2:2", latents=1, middle=3, layers=0),
            likelihood=Categorical(3),
            classes=2,
            standardise=(1.0, 0.8),
            no_bias_above=1,
        ),
        integers(3, 2, 2, 2),
        y=jnp.arange(BATCH) % 2,
        jitter=0.1,
    ),
    Case(
        "efficient_vdvae",
        EfficientVDVAE(
            image=(2, 2, 1),
            ups=(
                Up(2, 1, 2, middle=3, layers=0),
                Up(2, 2, 2, 2, middle=3, layers=0, skip=2),
                Up(1, 1, 3, layers=0, middle=3, skip=3),
            ),
            downs=(Down(1, 1, 3, None, 1, 3, layers=0), Down(2, 2, 2, 1, 1, 3, layers=0, shared=False)),
            pad=0,
        ),
        integers(2, 2, 2, 1),
        every_x=every(2, 2, 2, 1),
    ),
    Case("nvae", NVAE(**SMALL_NVAE), integers(2, 2, 2, 1), every_x=every(2, 2, 2, 1), cancelled=NVAE_CANCELLED),
    Case(
        "nvae_flow",
        NVAE(**SMALL_NVAE, flows=1),
        integers(2, 2, 2, 1),
        every_x=every(2, 2, 2, 1),
        cancelled=NVAE_CANCELLED,
    ),
    Case(
        "nvae_conditional_flow",
        NVAE(**SMALL_NVAE | {"image": (2, 4, 1), "groups": (2,), "halvings": 1}, flows=1, flow_context=True),
        integers(2, 2, 4, 1),
        cancelled=NVAE_HALVED,
    ),
    Case(
        "nvae_classes",
        NVAE(**SMALL_NVAE | {"groups": (2,), "halvings": 1, "likelihood": Categorical(3)}, residual=False, classes=2),
        integers(3, 2, 2, 1),
        y=jnp.arange(BATCH) % 2,
        cancelled=NVAE_HALVED,
    ),
    Case(
        "nvae_one_group",
        NVAE(**SMALL_NVAE | {"groups": (1,), "halvings": 1}),
        integers(2, 2, 2, 1),
        every_x=every(2, 2, 2, 1),
        cancelled=("pre_0_0/conv_0/bias", "up1/cell_0/conv_0/bias", "post_0_0/norm_0/bias"),
    ),
    Case("linear_gaussian", LinearVAE((1, 1), "shifted"), reals(1), every_x=LINE, log_volume=LOG_STEP),
    Case("linear_gaussian_exact", LinearVAE((2, 2, 2), "exact"), reals(3), exact=True),
    Case(
        "linear",
        LinearVAE((1, 2, 2), noise=1.2, scales=(0.8, 1.0), isometric=True),
        reals(3),
    ),
    Case(
        "cagem",
        CaGeM(clusters=3, latents=(2, 2), hidden=6, likelihood=Bernoulli()),
        integers(2, 4),
        every_x=every(2, 4),
        top_down=False,
    ),
    Case(
        "cagem_conv",
        CaGeM(clusters=2, latents=(2, 2), hidden=5, network="conv", width=2, posterior_sees_x=False, normalise=False),
        integers(17, 4, 4, 1),
        top_down=False,
    ),
    Case("bottom_up", BottomUp(), integers(2, 4), every_x=every(2, 4), top_down=False),
    Case("scanned", Scanned(), integers(2, 4), every_x=every(2, 4)),
    Case(
        "scanned_normalised",
        Scanned(normalise=True),
        integers(2, 4),
        every_x=every(2, 4),
        cancelled=("run/merge/bias",),
    ),
    Case("categorical_top", CategoricalTop(), integers(2, 4), every_x=every(2, 4)),
    Case(
        "bernoulli_levels",
        TopDownVAE(latents=(2, 3), levels=("bernoulli", "bernoulli"), hidden=6, likelihood=Bernoulli()),
        integers(2, 4),
        every_x=every(2, 4),
    ),
    Case(
        "categorical_levels",
        TopDownVAE(
            latents=(2, 2, 2),
            levels=("categorical", "normal", "categorical"),
            categories=3,
            estimator="gumbel",
            hidden=6,
            likelihood=Bernoulli(),
        ),
        integers(2, 4),
        every_x=every(2, 4),
    ),
    Case(
        "bernoulli_classes",
        TopDownVAE(latents=(2, 2), levels=("bernoulli", "normal"), hidden=6, likelihood=Bernoulli(), classes=3),
        integers(2, 3),
        y=jnp.arange(BATCH) % 3,
        every_x=every(2, 3),
    ),
    Case("observed", Observed(), integers(2, 4), known=("y",)),
    Case(
        "self_supervised",
        SelfSupervisedVAE(
            image=(2, 2, 1),
            latents=(2, 2),
            networks=DenseNetworks(5, activation=jnp.tanh, normalise=False),
            likelihood=Bernoulli(),
        ),
        integers(2, 2, 2, 1),
        known=("y",),
    ),
    Case(
        "self_supervised_levels",
        SelfSupervisedVAE(
            image=(4, 4, 1),
            reductions=(AveragePool(2), LeadingBits(1, of=2)),
            latents=(2, 2, 2),
            networks=DenseNetworks(4, activation=jnp.tanh, normalise=False),
            posterior_sees_y=False,
            likelihood=Categorical(3),
            top_prior=RealNVPPrior(1, 1, 1),
        ),
        integers(3, 4, 4, 1),
        known=("y1", "y2"),
    ),
    Case(
        "self_supervised_conv",
        SelfSupervisedVAE(
            image=(4, 4, 1),
            latents=(1, 1),
            networks=DenselyConnectedNetworks.small(1, 1, 1),
            likelihood=Categorical(3),
            top_prior=MixturePrior(2, spread=0.3),
        ),
        integers(3, 4, 4, 1),
        known=("y",),
        jitter=0.02,
    ),
    Case(
        "mixture_prior",
        TopDownVAE(latents=(2, 2), hidden=6, likelihood=Bernoulli(), top_prior=MixturePrior(3, spread=0.3)),
        integers(2, 4),
        every_x=every(2, 4),
    ),
    Case(
        "vamp_top_down",
        TopDownVAE(latents=(2, 2), hidden=6, likelihood=Bernoulli(), top_prior=VampPrior(5)),
        integers(2, 4),
        every_x=every(2, 4),
    ),
    Case(
        "vamp_bottom_up",
        BottomUpVAE(
            latents=(2, 2),
            hidden=6,
            likelihood=Bernoulli(),
            top_prior=VampPrior(5),
            bottom_up=(MLP(()), plain(6, 6)),
            posterior=(Half(), plain(4)),
        ),
        integers(2, 4),
        every_x=every(2, 4),
        top_down=False,
    ),
    Case(
        "prior_that_draws",
        TopDownVAE(latents=(2, 2), hidden=6, likelihood=Bernoulli(), prior=(NoisyPrior(),)),
        integers(2, 4),
        every_x=every(2, 4),
        noisy=True,
    ),
    Case(
        "greedy_image",
        GreedyVAE((4, 4, 1), modules=2, latents=1, width=3, likelihood=Categorical(3)),
        integers(3, 4, 4, 1),
        jitter=0.05,
    ),
    Case(
        "greedy_clip",
        GreedyVAE((2, 4, 1), frames=2, modules=1, latents=1, width=3, likelihood=Bernoulli(), classes=2),
        integers(2, 2, 4, 1),
        jnp.arange(BATCH) % 2,
        every_x=every(2, 2, 4, 1),
        known=("past",),
        jitter=0.2,
    ),
    Case(
        "smoothed",
        TopDownVAE(latents=(2, 2), hidden=6, likelihood=Bernoulli(), smoothing=Smoothing(0.6, 2)),
        integers(2, 4),
        every_x=every(2, 4),
        noisy=True,
    ),
    Case(
        "smoothed_bottom_up",
        BottomUpVAE(
            latents=(2, 2),
            hidden=6,
            likelihood=Bernoulli(),
            bottom_up=(MLP(()), None),
            posterior=(Half(), None),
            prior=(Half(),),
            smoothing=Smoothing(0.7, 1, decoder=True),
        ),
        integers(2, 4),
        every_x=every(2, 4),
        top_down=False,
        noisy=True,
    ),
    Case("flow", Flow(), integers(2, 4), every_x=every(2, 4)),
)


def case(name: str) -> Case:
    """The row of that name."""
    return next(one for one in CASES if one.name == name)


def jitter(params: dict, seed: int = 0, scale: float = 0.05) -> dict:
    """Moves the parameters by N(0, scale^2), so that zero-initialised parts have an effect."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: leaf + np.float32(scale) * rng.normal(size=leaf.shape).astype(np.float32), params)


def equations(jaxpr: Any) -> Iterator[Any]:
    """Every equation of a jaxpr, each followed by those of the jaxprs in it, for tests of how a value is computed."""
    for equation in getattr(jaxpr, "jaxpr", jaxpr).eqns:
        yield equation
        for leaf in jax.tree.leaves(equation.params, is_leaf=lambda leaf: hasattr(leaf, "eqns")):
            if hasattr(leaf, "eqns") or hasattr(leaf, "jaxpr"):
                yield from equations(leaf)
