"""The Ladder VAEs: sizes, merges, errors, dropout and data-dependent initialisation."""

import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from support.cases import integers

from hvae_jax.distributions import Normal, precision_weighted, residual
from hvae_jax.likelihoods import Bernoulli, Categorical, LogisticMixture
from hvae_jax.models import ConvLadderVAE, LadderVAE
from hvae_jax.models.conv_ladder import addtt_cifar10, addtt_mnist
from hvae_jax.models.ladder import casperkaae_mnist
from hvae_jax.networks.conv import Conv
from hvae_jax.networks.resample import TransposedConv
from hvae_jax.networks.residual import BlockStyle, ResidualBlock, drop_channels
from hvae_jax.networks.scale_head import ScaleHead

KEY, OTHER_KEY = jax.random.split(jax.random.key(0))
TINY = ConvLadderVAE(
    image=(6, 4, 1), latents=(2, 3), downsample=(1, 0), channels=4, blocks=1, block=BlockStyle(dropout=0.5)
)
X = integers(2, 6, 4, 1)


def shapes(model: Any, image: tuple[int, ...]) -> dict[str, Any]:
    """Shapes of the model's variables."""
    return jax.eval_shape(model.init, KEY, jnp.zeros((2, *image), jnp.uint8), KEY)


def size(tree: Any) -> int:
    """Number of elements in a tree."""
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


@functools.cache
def variables() -> dict[str, Any]:
    """Variables of TINY, initialised on X."""
    return jax.jit(TINY.init)(KEY, X, KEY)


# ---- sizes


@pytest.mark.parametrize(
    ("model", "parameters"),
    [
        (addtt_mnist(), 3_209_153),
        (
            addtt_mnist().clone(blocks=2, skip=False, learn_top_prior=False, block=BlockStyle(gated=False)),
            1_756_993,
        ),
        (addtt_cifar10(), 3_269_476),
        pytest.param(addtt_cifar10(15), 14_467_684, marks=pytest.mark.slow),
    ],
    ids=["mnist", "mnist_program_defaults", "cifar10", "cifar10_15"],
)
def test_published_sizes(model: ConvLadderVAE, parameters: int) -> None:
    """The number of parameters is that of the public code's modules."""
    assert size(shapes(model, model.image)["params"]) == parameters


def test_the_papers_size() -> None:
    """Each path has two linear layers with scale and shift; heads are twice as wide as latents; then the readout."""
    widths, latents = (784, 512, 256, 128, 64, 32), (64, 32, 16, 8, 4)

    def path(inputs: int, width: int) -> int:
        return inputs * width + width * width + 4 * width

    up = sum(path(a, b) for a, b in itertools.pairwise(widths))
    down = sum(path(z, h) for z, h in zip(latents, widths[1:], strict=True))
    q = sum(h * 2 * z + 4 * z for h, z in zip(widths[1:], latents, strict=True))
    p = sum(h * 2 * z + 4 * z for h, z in zip(widths[2:], latents[:-1], strict=True))
    assert size(shapes(LadderVAE(), (28, 28, 1))["params"]) == up + down + q + p + 513 * 784


def test_separate_networks_have_their_own_parameters() -> None:
    """share=False adds a copy of the top-down path but for its last network, and decoding does not need it."""
    model = LadderVAE((2, 3, 4), (5, 6, 7), share=False)
    params = shapes(model, (9,))["params"]
    copies = {name for name in params if name.startswith("q_")}
    assert copies == {"q_down3", "q_down2", "q_p2", "q_p1"}
    for name in copies:
        assert jax.tree.structure(params[name]) == jax.tree.structure(params[name.removeprefix("q_")])
    assert not any(name.startswith("q_") for name in shapes(LadderVAE((2, 3, 4), (5, 6, 7)), (9,))["params"])


def test_only_the_mean_goes_up() -> None:
    """With only_mu_up the second network reads a vector of z1's size instead of the first one's width."""
    params = shapes(LadderVAE((2, 3), (5, 6), only_mu_up=True), (9,))["params"]
    assert params["up2"]["first"]["linear"]["kernel"].shape == (3, 5)
    assert casperkaae_mnist().only_mu_up and not casperkaae_mnist().share


def test_depth_names_and_maps() -> None:
    """Levels of any depth come top first; a level's side is the height of its maps, after padding and halvings."""
    for levels in (1, 5):
        model = LadderVAE((2,) * levels, (3,) * levels)
        trace = jax.eval_shape(lambda model=model: model.init_with_output(KEY, jnp.zeros((2, 4)), KEY)[0])
        assert trace.names == tuple(f"z{i}" for i in range(levels, 0, -1))
    model = TINY.clone(image=(12, 9, 1), latents=(2, 2, 3), downsample=(1, 0, 1))
    trace = jax.eval_shape(lambda: model.init_with_output(KEY, jnp.zeros((2, 12, 9, 1)), KEY)[0])
    assert trace.names == ("z3", "z2", "z1")
    assert [level.z.shape[1:] for level in trace.levels] == [(2, 2, 2), (4, 4, 2), (4, 4, 3)]
    assert [level.side for level in trace.levels] == [2, 4, 4]
    assert trace.x_dist.logits.shape == (2, 12, 9, 1)


# ---- merges


@pytest.mark.parametrize("merge", ["precision", "residual"])
@pytest.mark.parametrize("share", [True, False])
def test_dense_merges(merge: Any, share: bool) -> None:
    """Below the top the posterior is the named merge of the evidence with p's prior, or with q's own."""
    model = LadderVAE((2, 3), (4, 5), merge=merge, share=share, clamp=None)
    x = integers(2, 6)

    @jax.jit
    def both(key: jax.Array) -> Any:
        variables = model.init(key, x, key)
        return model.apply(variables, x, key, capture_intermediates=True, mutable=["intermediates"])

    trace, seen = both(KEY)

    def gaussian(name: str) -> Any:
        mean, raw = jnp.split(seen["intermediates"][name]["__call__"][0], 2, axis=-1)
        return Normal.from_log_var(mean, jnp.log(jnp.log1p(jnp.exp(1 + raw)) + 1e-5))

    function = precision_weighted if merge == "precision" else residual
    expected = function(gaussian("p1" if share else "q_p1"), gaussian("q1"))
    for got, wanted in ((trace.levels[1].q, expected), (trace.levels[0].q, gaussian("q2"))):
        np.testing.assert_allclose(got.mean, wanted.mean, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(got.log_var, wanted.log_var, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(trace.levels[1].p.mean, gaussian("p1").mean, rtol=1e-4, atol=1e-5)


def test_exponential_variances_are_clamped() -> None:
    """With "log_var" the output of the last layer is the log variance itself, clamped."""
    model = LadderVAE((2,), (4,), head=ScaleHead("log_var"), clamp=(-0.1, 0.1), normalise=False)
    trace = jax.jit(lambda: model.init_with_output(KEY, 9.0 * jnp.ones((2, 6)), KEY)[0])()
    assert jnp.abs(trace.levels[0].q.log_var).max() <= 0.1 + 1e-6


def test_heads_that_cannot_be() -> None:
    """An unknown form, whose error names the known ones, and a slope of 0 are errors."""
    with pytest.raises(ValueError, match=r"form='exp'.*'log_var'.*'softplus_var'"):
        ScaleHead("exp")
    with pytest.raises(ValueError, match=r"beta=0\.0.*positive"):
        ScaleHead("log_std", beta=0.0)


def test_convolutional_merges() -> None:
    """Each merge has the networks that it needs, and no more."""

    def names(merge: str) -> set[str]:
        return {"/".join(path) for path in flat(shapes(TINY.clone(merge=merge), TINY.image)["params"])}

    def flat(tree: Any) -> list[tuple[str, ...]]:
        return [tuple(str(part.key) for part in path[:2]) for path, _ in jax.tree_util.tree_leaves_with_path(tree)]

    assert names("concat") - names("concat_linear") == {"merge1/block"}
    assert names("concat_linear") - names("precision") == {"merge1/join"}
    assert names("precision") == names("residual")


# ---- errors


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"latents": (2, 3), "hidden": (4,)}, r"latents=\(2, 3\), hidden=\(4,\).*2 levels but 1 widths"),
        ({"latents": (), "hidden": ()}, r"latents=\(\).*at least one"),
        ({"latents": (2, 0), "hidden": (3, 3)}, r"latents=\(2, 0\).*1 or more"),
        ({"merge": "concat"}, "merge='concat'.*'precision' or 'residual'"),
        ({"dtype": "float16"}, "float16"),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, Any], message: str) -> None:
    """Errors come at construction, with what was given and what is allowed."""
    with pytest.raises(ValueError, match=message):
        LadderVAE(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"latents": (2, 3)}, r"latents=\(2, 3\), downsample=\(1, 1, 1\).*2 levels but 3 numbers"),
        ({"downsample": (1, 5, 1)}, r"downsample=\(1, 5, 1\), blocks=4.*from 0 to blocks"),
        ({"downsample": (1, -1, 1)}, r"downsample=\(1, -1, 1\).*from 0 to blocks"),
        ({"downsample": (3, 2, 1)}, r"image of 28x28 cannot be halved 7 times"),
        ({"image": (4, 28, 1)}, r"image of 4x28 cannot be halved 4 times"),
        ({"image": (28, 28)}, r"image=\(28, 28\).*a tuple of 3"),
        ({"image": (28, 0, 1)}, r"image=\(28, 0, 1\).*1 or more"),
        ({"channels": 0}, "channels=0.*1 or more"),
        ({"latents": 3}, r"latents=3\): it has to be a tuple.* For one item: \(3,\)"),
        ({"latents": (2.5, 3)}, r"latents=\(2.5, 3\).*whole number"),
        ({"clamp": (7.0, -7.0)}, r"clamp=\(7.0, -7.0\).*a lower bound and then a higher"),
        ({"merge": "sum"}, "merge='sum'.*'concat', 'concat_linear', 'precision' or 'residual'"),
        ({"scale": 0.0}, r"scale=0\.0"),
        ({"likelihood": LogisticMixture()}, "3 channels together, but x has 1"),
    ],
)
def test_convolutional_settings_that_cannot_be(settings: dict[str, Any], message: str) -> None:
    """Likewise for lengths, halvings, shapes and names."""
    with pytest.raises(ValueError, match=message):
        ConvLadderVAE(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"order": "bacx"}, "order='bacx'"),
        ({"order": "ba"}, "at least one convolution"),
        ({"dropout": 1.0}, r"dropout=1\.0.*below 1"),
    ],
)
def test_blocks_that_cannot_be(settings: dict[str, Any], message: str) -> None:
    """Unknown letters and probabilities outside [0, 1) are errors."""
    with pytest.raises(ValueError, match=message):
        BlockStyle(**settings)


def test_presets_of_another_depth() -> None:
    """Three halvings do not spread evenly over four levels."""
    assert addtt_mnist(6).downsample == (0, 1, 0, 1, 0, 1)
    with pytest.raises(ValueError, match="4 layers: a multiple of 3"):
        addtt_mnist(4)


def test_data_of_another_shape_and_labels() -> None:
    """x of another shape than the model's, and labels, are errors."""
    with pytest.raises(ValueError, match=r"\(4, 6, 1\).*image=\(6, 4, 1\)"):
        TINY.init(KEY, jnp.zeros((2, 4, 6, 1)), KEY)
    for model, x in ((TINY, X), (LadderVAE((2,), (3,)), X)):
        with pytest.raises(ValueError, match="classes=0 and was given a y"):
            model.init(KEY, x, KEY, y=jnp.zeros(len(x), int))


# ---- blocks


def test_channels_are_dropped_whole() -> None:
    """Channels are zero or scaled up; the mean does not change, and the rate is the one that was set."""
    dropped = np.asarray(drop_channels(jnp.ones((200, 2, 2, 50)), KEY, 0.3))
    assert np.ptp(dropped, axis=(1, 2)).max() == 0
    np.testing.assert_allclose(np.unique(dropped), [0, 1 / 0.7], rtol=1e-6)
    assert abs((dropped == 0).mean() - 0.3) < 4 * np.sqrt(0.3 * 0.7 / 10_000)


@pytest.mark.slow
def test_dropout_is_of_training_alone() -> None:
    """In evaluation the key decides the latents alone; in training also the dropout, different for each example."""
    weights = variables()

    @jax.jit
    def logits(key: jax.Array, latents: Any) -> Any:
        plain = TINY.apply(weights, X, key, latents=latents)
        training, _ = TINY.apply(weights, X, key, latents=latents, train=True, mutable=["batch_stats"])
        return plain.x_dist.logits, training.x_dist.logits

    latents = (jnp.zeros((8, 2, 1, 2)), jnp.zeros((8, 4, 2, 3)))
    first, second = logits(KEY, latents), logits(OTHER_KEY, latents)
    np.testing.assert_array_equal(first[0], second[0])
    assert (first[1] != second[1]).any()
    assert np.ptp(first[1], axis=0).max() > 1e-3  # latents are equal, so that examples differ by dropout alone


@pytest.mark.parametrize(("order", "gated"), [("bacdbacd", True), ("cabdcabd", False), ("bacdbac", True)])
def test_a_block_is_its_letters(order: str, gated: bool) -> None:
    """A block computes its layers in the order of the letters, in evaluation."""
    style = BlockStyle(order, gated, activation=jnp.tanh)
    x = jax.random.normal(KEY, (2, 3, 3, 4))
    got, variables = ResidualBlock(style).init_with_output(KEY, x, KEY, train=False)
    assert ("gate" in variables["params"]) == gated
    h, counts = x, dict.fromkeys("bacd", 0)
    for letter in order:
        i, counts[letter] = counts[letter], counts[letter] + 1
        if letter == "a":
            h = jnp.tanh(h)
        elif letter == "b":
            h = h / np.sqrt(1 + 1e-5)  # fresh statistics, scale and shift
        elif letter == "c":
            h = Conv(4).apply({"params": variables["params"][f"conv_{i}"]}, h)
    if gated:
        both = Conv(8, size=1).apply({"params": variables["params"]["gate"]}, h)
        h = jnp.tanh(both[..., :4]) * jax.nn.sigmoid(both[..., 4:])
    np.testing.assert_allclose(got, x + h, rtol=1e-4, atol=1e-5)


def test_padding_is_seen_as_zeros() -> None:
    """Whole numbers are scaled to [-1, 1], or divided by `scale`; the padding is 0."""
    model = TINY.clone(likelihood=Categorical(5), image=(5, 5, 1), downsample=(0, 1), data_dependent_init=False)
    x = jnp.full((1, 5, 5, 1), 4, jnp.uint8)

    @functools.partial(jax.jit, static_argnums=0)
    def stem_of(scale: float | None) -> jax.Array:
        seen: list[jax.Array] = []

        def look(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
            if context.module.name == "stem" and context.method_name == "__call__":
                seen.append(args[0])
            return call(*args, **kwargs)

        with nn.intercept_methods(look):
            model.clone(scale=scale).init(KEY, x, KEY)
        return seen[0]

    for scale, value in ((None, 1.0), (8.0, 0.5)):
        expected = np.zeros((1, 8, 8, 1), np.float32)
        expected[:, 1:6, 1:6] = value
        np.testing.assert_allclose(stem_of(scale), expected, rtol=1e-6)


# ---- initialisation


@pytest.mark.slow
def test_data_dependent_initialisation() -> None:
    """On the batch a model is initialised with, every convolution's output has mean 0 and standard deviation 0.1."""
    outputs: dict[str, Any] = {}

    def look(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        y = call(*args, **kwargs)
        if isinstance(context.module, Conv | TransposedConv):
            outputs["/".join(context.module.path)] = y
        return y

    def apply(variables: Any) -> dict[str, Any]:
        with nn.intercept_methods(look):
            TINY.apply(variables, X, KEY, train=True, mutable=["batch_stats"])
        return dict(outputs)

    scaled = jax.jit(apply)(variables())
    assert {"stem", "z2", "p1", "q1", "readout", "down2/up_0", "up2/down_0", "merge1/join"} <= set(scaled)
    assert len(scaled) == sum(path[-1].key == "kernel" for path, _ in jax.tree_util.tree_leaves_with_path(variables()))
    for name, y in scaled.items():
        mean, std = y.mean((0, 1, 2)), y.std((0, 1, 2))
        constant = std < 1e-3  # a unit whose inputs are all zero
        np.testing.assert_allclose(mean, 0, atol=1e-3, err_msg=name)
        np.testing.assert_allclose(std[~constant], 0.1, rtol=0.02, err_msg=name)
    fresh = variables()["batch_stats"]
    assert all((leaf == (path[-1].key == "var")).all() for path, leaf in jax.tree_util.tree_leaves_with_path(fresh))


def test_initialising_shapes_alone() -> None:
    """Variables have the same shapes with data-dependent initialisation, without it, and with remat."""
    plain = shapes(TINY.clone(data_dependent_init=False), TINY.image)
    for model in (TINY, TINY.clone(remat=True)):
        assert shapes(model, TINY.image) == plain
    assert shapes(TINY.clone(learn_top_prior=False), TINY.image)["params"].keys() == plain["params"].keys() - {
        "top_prior"
    }


def test_bfloat16_keeps_what_is_kept_in_float32() -> None:
    """Every array of a trace and every parameter is float32."""
    for model, x in (
        (TINY.clone(dtype="bfloat16"), X),
        (LadderVAE((2, 3), (4, 5), dtype="bfloat16", likelihood=Bernoulli()), X),
    ):
        made = jax.eval_shape(lambda model=model, x=x: model.init_with_output(KEY, x, KEY))
        assert {str(leaf.dtype) for leaf in jax.tree.leaves(made)} == {"float32"}
