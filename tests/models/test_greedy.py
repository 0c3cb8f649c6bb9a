"""GreedyVAE: a new module is the identity, truncated models, clips and their predictions, settings that do not fit."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.cases import integers, jitter

from hvae_jax.distributions import Known
from hvae_jax.likelihoods import Bernoulli, Categorical, LogisticMixture
from hvae_jax.models import GreedyVAE, roll_out
from hvae_jax.models.greedy import NextFrame
from hvae_jax.networks.resample import depth_to_space, space_to_depth
from hvae_jax.objectives import elbo
from hvae_jax.runtime.trees import leaves_by_path
from hvae_jax.training.stages import parted

KEY = jax.random.key(0)
SMALL: dict[str, Any] = {"latents": 2, "width": 4, "blocks": 1}
IMAGE = GreedyVAE((8, 8, 1), modules=3, likelihood=Categorical(3), **SMALL)
CLIP = GreedyVAE((4, 12, 1), frames=3, modules=2, likelihood=Bernoulli(), classes=2, **SMALL)
Y = jnp.arange(8) % 2


def first_module_trained(model: GreedyVAE, x: Any, y: Any = None) -> dict[str, Any]:
    """Variables whose first module, and p(past), are anywhere, while the other modules are as they begin."""
    params = jax.jit(lambda: model.init(KEY, x, KEY, y=y))()["params"]
    return {"params": {name: jitter(part) if name == "module1" else part for name, part in params.items()}}


def test_pixels_into_channels() -> None:
    """Channel 4 c + 2 i + j is channel c of pixel (i, j); the inverse brings all back."""
    x = jnp.arange(2 * 4 * 6 * 3).reshape(2, 4, 6, 3)
    moved = space_to_depth(x)
    assert moved.shape == (2, 2, 3, 12)
    for c, i, j in ((0, 0, 0), (1, 0, 1), (2, 1, 0), (2, 1, 1)):
        np.testing.assert_array_equal(moved[..., 4 * c + 2 * i + j], x[:, i::2, j::2, c])
    np.testing.assert_array_equal(depth_to_space(moved), x)


@pytest.mark.parametrize(
    ("model", "x", "y"),
    [pytest.param(IMAGE, integers(3, 8, 8, 1), None, marks=pytest.mark.slow), (CLIP, integers(2, 4, 12, 1), Y)],
)
def test_a_new_module_is_the_identity(model: GreedyVAE, x: Any, y: Any) -> None:
    """With the noise moved as the latent is, the model of k modules has the terms of the first one."""
    variables = first_module_trained(model, x, y)
    one, none = model.truncated(1), (None,) * (model.num_levels - 1)
    eps = jax.random.normal(KEY, jax.jit(lambda v: one.apply(v, x, KEY, y=y))(variables).latents[-1].shape)
    wanted = jax.jit(lambda v, e: one.apply(v, x, KEY, y=y, noise=(*none, e)))(variables, eps)
    assert float(wanted.rates[-1].mean()) > 1e-3
    for k in range(2, model.modules + 1):
        eps = space_to_depth(eps)
        trace = jax.jit(lambda v, e, k=k: model.truncated(k).apply(v, x, KEY, y=y, noise=(*none, e)))(variables, eps)
        np.testing.assert_array_equal(trace.levels[-1].z.shape, eps.shape)
        np.testing.assert_allclose(trace.log_px, wanted.log_px, rtol=1e-6)
        np.testing.assert_allclose(trace.rates, wanted.rates, rtol=1e-5)
        np.testing.assert_allclose(elbo(trace), elbo(wanted), rtol=1e-6)


def test_the_truncated_models_parameters_are_among_the_whole_models() -> None:
    x = integers(3, 8, 8, 1)
    whole, two = (
        leaves_by_path(jax.eval_shape(lambda m=m: m.init(KEY, x, KEY))["params"]) for m in (IMAGE, IMAGE.truncated(2))
    )
    assert {path for path in whole if not path.startswith("module3/")} == set(two)
    assert all(whole[path].shape == leaf.shape for path, leaf in two.items())


def test_only_the_new_modules_gradient() -> None:
    """At its start a new module has a gradient in every part: its zeros do not keep it where it is."""
    x = integers(3, 8, 8, 1)
    variables = first_module_trained(IMAGE, x)
    new, others = parted(variables["params"], lambda path: path.startswith("module2/"))

    def loss(new: Any) -> jax.Array:
        return -elbo(IMAGE.truncated(2).apply({"params": {**others, **new}}, x, KEY)).mean()

    grads = leaves_by_path(jax.jit(jax.grad(loss))(new))
    parts = {path.split("/")[1] for path, grad in grads.items() if np.abs(grad).max() > 1e-5}
    assert parts == {"posterior", "readout"}  # the last layers, which begin at zero; those behind them follow


def test_a_clip() -> None:
    """The past is known, and is the image's left part; with it given there is nothing left of x but the last frame."""
    x = integers(2, 4, 12, 1)
    variables = {"params": jitter(jax.jit(lambda: CLIP.init(KEY, x, KEY, y=Y))()["params"], scale=0.3)}
    trace = jax.jit(lambda v: CLIP.apply(v, x, KEY, y=Y))(variables)
    assert trace.names == ("past", "z") and isinstance(trace.levels[0].q, Known)
    np.testing.assert_array_equal(trace.latents[0], x[:, :, :8])
    logits = variables["params"]["past"][None]
    expected = (x[:, :, :8] * logits - jnp.logaddexp(0.0, logits)).sum((1, 2, 3))
    np.testing.assert_allclose(trace.rates[0], -expected, rtol=1e-5)
    assert isinstance(trace.x_dist, NextFrame)
    np.testing.assert_array_equal(trace.x_dist.mode[:, :, :8], x[:, :, :8])
    np.testing.assert_allclose(trace.log_px, trace.x_dist.following.log_prob(x[:, :, 8:]), rtol=1e-6)
    # the prediction: the past from x, z from its prior, which is what decoding from the given past draws
    top = jax.jit(lambda v: CLIP.apply(v, x, KEY, y=Y, keep_top=1))(variables)
    given = jax.jit(lambda v: CLIP.apply(v, KEY, 8, y=Y, latents=(x[:, :, :8], None), method="decode"))(variables)
    # two programs round the terms of a sum apart, which are of the size of 1: atol is for a z near 0
    np.testing.assert_allclose(top.latents[1], given.latents[1], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(top.x_dist.mean, given.x_dist.mean, rtol=1e-5)


def test_the_prior_reads_the_past_and_the_action_and_the_posterior_the_next_frame() -> None:
    x = integers(2, 4, 12, 1)
    variables = {"params": jitter(jax.jit(lambda: CLIP.init(KEY, x, KEY, y=Y))()["params"], scale=0.3)}
    run = jax.jit(lambda x, y: CLIP.apply(variables, x, KEY, y=y).levels[1])
    level = run(x, Y)
    changed = {"past": run(x.at[:, 0, 0].set(1 - x[:, 0, 0]), Y), "next": run(x.at[:, 0, 9].set(1 - x[:, 0, 9]), Y)}
    changed["action"] = run(x, 1 - Y)
    for what, other in changed.items():
        assert (np.abs(other.p.mean - level.p.mean).max() > 1e-6) == (what != "next"), what
        assert (np.abs(other.q.mean - level.q.mean).max() > 1e-6) == (what == "next"), what


def test_rolling_out() -> None:
    """The first frame is what decoding predicts; the next ones are predicted from the prediction."""
    x = integers(2, 4, 12, 1)
    variables = {"params": jitter(jax.jit(lambda: CLIP.init(KEY, x, KEY, y=Y))()["params"], scale=0.3)}
    actions, past = jnp.stack([Y, 1 - Y], axis=1), x[:, :, :8]
    frames = jax.jit(lambda past: roll_out(CLIP, variables, past, KEY, 2, y=actions, temperature=0.0))(past)
    assert frames.shape == (8, 4, 8, 1)

    @jax.jit
    def predicted(past: jax.Array, y: jax.Array) -> jax.Array:
        trace = CLIP.apply(variables, KEY, 8, y=y, latents=(past, None), temperature=0.0, method="decode")
        return trace.x_dist.mode

    for i in range(2):
        clip = predicted(past, actions[:, i])
        np.testing.assert_array_equal(frames[:, :, 4 * i : 4 * i + 4], clip[:, :, 8:])
        past = clip[:, :, 4:]
    with pytest.raises(ValueError, match=r"predicts from strips \(4, 8, 1\)"):
        roll_out(CLIP, variables, x, KEY, 3, y=actions)
    with pytest.raises(ValueError, match="predicts no frames: set frames"):
        roll_out(IMAGE, variables, x, KEY, 3)


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"image": (8, 12, 1), "modules": 3}, "multiple of 8 and the width, of 1 frame, of 8"),
        ({"image": (8, 8, 1), "frames": 3}, "frames side by side, of 12"),
        ({"modules": 0}, "1 or more"),
        ({"image": (8, 8, 1), "likelihood": LogisticMixture()}, "takes 3 channels together"),
    ],
)
def test_settings_that_do_not_fit(settings: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        GreedyVAE(**settings)
    with pytest.raises(ValueError, match="cannot run with modules=4: 1 to 3"):
        IMAGE.truncated(4)
