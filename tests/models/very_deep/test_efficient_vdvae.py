"""Efficient-VDVAE: parameter counts, levels as stages, scales and errors. The contract and parity tests do the rest."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.shapes import size
from support.tiers import tiers

from hvae_jax import models
from hvae_jax.likelihoods import Bernoulli, LogisticMixture, Quantised
from hvae_jax.models import Down, EfficientVDVAE, Up
from hvae_jax.models.very_deep.efficient_levels import down_stages_of_levels, up_stages_of_levels
from hvae_jax.networks.scale_head import ScaleHead, log_softplus


@pytest.mark.parametrize(
    ("preset", "count", "levels"),
    tiers(
        [
            (models.efficient_vdvae_mnist(), 69_919_585, 23),
            (models.efficient_vdvae_cifar10("C1"), 18_124_020, 47),
            (models.efficient_vdvae_celeba64("compact"), 25_426_788, 62),
            (models.efficient_vdvae_cifar10(), 56_598_692, 47),
            (models.efficient_vdvae_imagenet32(), 145_068_388, 73),
            (models.efficient_vdvae_imagenet32("C1"), 52_289_316, 73),
            (models.efficient_vdvae_imagenet32("compact"), 19_561_188, 73),
            (models.efficient_vdvae_imagenet64(), 168_367_588, 84),
            (models.efficient_vdvae_imagenet64("C1"), 57_000_740, 84),
            (models.efficient_vdvae_imagenet64("compact"), 42_550_340, 84),
            (models.efficient_vdvae_celeba64(), 131_402_212, 62),
            (models.efficient_vdvae_faces256(), 208_873_444, 69),
            (models.efficient_vdvae_faces256("compact"), 71_233_284, 69),
            (models.efficient_vdvae_faces256_5_bits(), 197_677_156, 66),
            (models.efficient_vdvae_faces256_5_bits("C1"), 67_032_644, 66),
            (models.efficient_vdvae_faces1024(), 75_869_284, 72),
        ],
        quick=3,
        slow=13,
    ),
    ids=lambda value: f"{value:,}" if isinstance(value, int) else None,
)
def test_presets(preset: EfficientVDVAE, count: int, levels: int) -> None:
    """Four counts are of models that the published code built, the others follow from its shapes."""
    assert size(preset) == count
    assert preset.num_levels == levels == len(preset.sides)


def test_unknown_size() -> None:
    """The error names the sizes that the preset has."""
    with pytest.raises(ValueError, match=r"size='compact'\): 'baseline' or 'C1'"):
        models.efficient_vdvae_cifar10("compact")


def test_levels_as_stages() -> None:
    """Equal levels of one block become one stage, with a tap for each block; others stay stages of their own."""
    tapped = Up(8, 1, 4, skip=4)
    assert up_stages_of_levels((tapped, tapped, Up(8, 3, 4, 2, skip=4), Up(4, 1, 4, skip=4))) == (
        *(Up(8, 2, 4, skip=4), Up(8, 2, 4), Up(8, 1, 4, 2, skip=4), Up(4, 1, 4, skip=4)),
    )
    levels = (Down(4, 1, 4), Down(4, 1, 4), Down(4, 3, 4), Down(8, 1, 4, 4), Down(8, 1, 4), Down(8, 1, 4, latents=2))
    assert down_stages_of_levels(levels) == (
        *(Down(4, 2, 4, shared=False), Down(4, 3, 4)),
        *(Down(8, 2, 4, 4, shared=False), Down(8, 1, 4, latents=2)),
    )


def test_smooth_scales() -> None:
    """log log(1 + e^a) and its derivative agree with float64, also far from 0, where e^a overflows float32."""
    a = np.concatenate([np.linspace(-200.0, 50.0, 501), [-15.0, -14.999, -15.001, 88.7, 88.8, 1e4, 1e30, -1e30]])
    with np.errstate(over="ignore", under="ignore"):
        near = np.log(np.log1p(np.exp(np.clip(a, -30.0, 50.0))))
        expected = np.where(
            a < -30, a - 0.5 * np.exp(np.minimum(a, 0.0)), np.where(a > 50, np.log(np.maximum(a, 1.0)), near)
        )
    got = jax.jit(log_softplus)(jnp.asarray(a, jnp.float32))
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)
    slope = jax.jit(jax.vmap(jax.grad(log_softplus)))(jnp.asarray(a, jnp.float32))
    # for a below -30 the derivative is 1, the quotient of two numbers that underflow
    quotient = 1 / (1 + np.exp(-np.maximum(a, -30.0))) / np.exp(np.where(a < -30, -30.0, expected))
    np.testing.assert_allclose(slope, quotient, rtol=1e-4)


def test_mixture_with_smooth_scales_sums_to_one() -> None:
    """The probabilities of all values of the exact form sum to 1."""
    family = LogisticMixture(2, 32, 1, -14.0, head=ScaleHead("softplus_std", 0.6931472))
    every = jnp.arange(32)[:, None]
    for seed in range(3):
        h = jnp.asarray(3.0 * np.random.default_rng(seed).normal(size=(1, 1, family.parameters)), jnp.float32)
        log_p = family(jnp.broadcast_to(h, (32, 1, family.parameters))).log_prob(every)
        np.testing.assert_allclose(jnp.exp(log_p).sum(), 1.0, rtol=1e-4)


def test_quantised() -> None:
    """Only the leading bits are scored; samples lie on their grid; values with more bits are errors."""
    family = Quantised(LogisticMixture(2, 4, 1), 8)
    x = jnp.arange(32, dtype=jnp.uint8)[:, None]
    record = family(jnp.broadcast_to(jnp.linspace(-1.0, 1.0, 6)[None, None], (32, 1, 6)))
    np.testing.assert_allclose(jnp.exp(record.log_prob(x)).sum(), 8.0, rtol=1e-5)
    assert set(np.unique(record.sample(jax.random.key(0)))) <= {0, 8, 16, 24}
    assert record.mean.shape == record.mode.shape == x.shape
    assert (record.mode % 8 == 0).all()
    family.check(np.asarray(x))
    np.testing.assert_allclose(family.as_input(x).min(), -1.0)
    with pytest.raises(ValueError, match="32"):
        family.check(np.array([[32]]))
    with pytest.raises(ValueError, match="step=0"):
        Quantised(step=0)


UPS = (Up(4, 1, 4, 2, skip=4), Up(2, 1, 6, skip=6))
DOWNS = (Down(2, 1, 6), Down(4, 1, 4, 2))
SPLIT = Down(4, 2, 4, 2, shared=False)


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"ups": (UPS[0], Up(2, 1, 6, 2, skip=6))}, "pools by 2, but no stage reads that"),
        ({"ups": (Up(4, 1, 4, 2), UPS[1])}, r"at sides \[2\], but the top-down path reads them at \[2, 4\]"),
        ({"downs": (DOWNS[0], SPLIT)}, r"reads them at \[2, 4, 4\]"),
        ({"downs": (Down(2, 1, 6), Down(4, 1, 4))}, "comes after side 2"),
        ({"downs": (Down(2, 1, 6, 1), Down(4, 1, 4, 1))}, "comes after side 2"),
        ({"downs": (Down(2, 1, 6, 2), Down(4, 1, 4, 2))}, "mixes in side 2: that has to be a smaller side"),
        ({"downs": (Down(2, 1, 6, 0), Down(4, 1, 4, 2))}, "has a size below 1"),
        ({"ups": (Up(4, 1, 4, skip=4), Up(4, 1, 5, 2), UPS[1])}, "width 5 after 4: widths change only where"),
        (
            {"ups": (Up(4, 1, 4, skip=4), Up(4, 1, 4, 2, skip=5), UPS[1]), "downs": (DOWNS[0], SPLIT)},
            r"reads taps of \[5, 4\] channels",
        ),
        ({"downs": (Down(2, 1, 6), Down(4, 1, 4, 4))}, "mixes in side 4, which is not built yet"),
        ({"pad": 1}, "should be at side 6"),
        ({"pad": -1}, "0 or more"),
        ({"edge": 0}, "1 or more"),
    ],
)
def test_errors(settings: dict[str, Any], error: str) -> None:
    """Errors say what was given, what is allowed and what to do."""
    given: dict[str, Any] = {"image": (4, 4, 1), "ups": UPS, "downs": DOWNS, "pad": 0, "likelihood": Bernoulli()}
    EfficientVDVAE(**given)
    with pytest.raises(ValueError, match=error):
        EfficientVDVAE(**(given | settings))


@pytest.mark.parametrize("settings", [{"head": ScaleHead("log_var")}, {"form": "efficient_vdvae_5_bits"}])
def test_mixture_errors(settings: dict[str, Any]) -> None:
    """A head of variances, and a form of five bits with 256 values, are errors."""
    with pytest.raises(ValueError, match="LogisticMixture"):
        LogisticMixture(**settings)
