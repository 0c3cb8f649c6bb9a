"""The contract that every model keeps (design: "Tests, in order of worth"), one function per promise.

Each takes a `Row`: a model with jittered parameters, and the compiled functions and draws that the promises share.
Statistical promises allow 4 standard errors of `DRAWS` draws, and require a standard error small enough to notice a
mistake.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from hvae_jax.distributions import Normal, NormalMixture
from hvae_jax.models import HVAE
from hvae_jax.objectives import Batch, NegativeELBO, elbo, log_weight
from hvae_jax.runtime.trees import path_name
from hvae_jax.trace import Level, Trace
from support.cases import Case, jitter

DRAWS = 4000
GROUP = 25
KEY, OTHER_KEY = jax.random.key(10), jax.random.key(11)


class Row:
    """A case, its variables at jittered parameters, and the compiled functions and draws that the promises share."""

    def __init__(self, case: Case) -> None:
        self.case, self.model = case, case.model
        self.x, self.y, self.levels = case.x, case.y, case.model.num_levels
        variables = jax.jit(self.model.init)(jax.random.key(1), self.x, KEY, y=self.y)
        self.variables = {**variables, "params": jitter(variables["params"], scale=case.jitter)}
        self.statistics = {name: value for name, value in self.variables.items() if name != "params"}

    def apply(self, *args: Any, **choices: Any) -> Any:
        """model.apply, not compiled."""
        return self.model.apply(self.variables, *args, **choices)

    @functools.cached_property
    def infer(self) -> Callable[..., Trace]:
        """The plain pass, compiled: (x, y, key) -> Trace."""
        return jax.jit(lambda x, y, key: self.apply(x, key, y=y))

    @functools.cached_property
    def choose(self) -> Callable[..., Trace]:
        """The pass with traced choices, compiled: (key, temperature, keep_top) -> Trace."""
        return jax.jit(lambda key, t, k: self.apply(self.x, key, y=self.y, temperature=t, keep_top=k))

    @functools.cached_property
    def decode(self) -> Callable[..., tuple[Trace, Array]]:
        """The prior's pass, compiled: (key, temperature [L]) -> (Trace, drawn x)."""

        def decoded(key: Array, temperature: Array) -> tuple[Trace, Array]:
            trace = self.apply(key, len(self.x), y=self.y, temperature=temperature, method="decode")
            return trace, trace.x_dist.sample(key)

        return jax.jit(decoded)

    @functools.cached_property
    def train_gradient(self) -> Callable[..., Any]:
        """Compiled: (params, x, y) -> ((loss, updates), gradient), in training mode at a fixed key."""

        def loss(params: Any, x: Array, y: Array | None) -> tuple[Array, Any]:
            def forward(variables: Any, x: Array, key: Array, **choices: Any) -> tuple[Trace, Any]:
                return self.model.apply(variables, x, key, train=True, mutable=list(self.statistics), **choices)

            variables = {"params": params, **self.statistics}
            value, _, _, updates = NegativeELBO()(forward, variables, Batch(x, y), KEY, jnp.int32(0), ())
            return value, updates

        return jax.jit(jax.value_and_grad(loss, has_aux=True))

    @functools.cached_property
    def trace(self) -> Trace:
        """The plain pass with KEY."""
        return self.infer(self.x, self.y, KEY)

    @functools.cached_property
    def draws(self) -> dict[str, np.ndarray]:
        """DRAWS passes, in float64: `elbo`, `log_weight` [S, B]; `rates`, `ratios` [S, L, B]."""

        def one(key: Array) -> dict[str, Array]:
            trace = self.apply(self.x, key, y=self.y)
            return {
                "elbo": elbo(trace),
                "log_weight": log_weight(trace),
                "rates": trace.rates,
                "ratios": trace.ratios,
            }

        drawn = jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(2), DRAWS))
        return jax.tree.map(lambda a: np.asarray(a, np.float64), drawn)


def plausible_variables(model: HVAE, x: Array, y: Array | None) -> dict[str, Any]:
    """Variables in the shapes of the model's own, drawn by NumPy, so that no program is compiled for them.

    Kernels are U(-1/sqrt(fan_in), 1/sqrt(fan_in)), scales and variances are near 1, everything else is near 0. Gains of
    weight norm are near 0.2, because with larger ones q and p lie too far apart for a test of mean weights.
    """
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(model.init, jax.random.key(1), x, KEY, y=y)

    def one(path: str, shape: tuple[int, ...]) -> np.ndarray:
        noise, name = 0.05 * rng.normal(size=shape), path.rpartition("/")[2]
        if name == "pseudo_inputs":
            return np.resize(np.asarray(x, np.float64), shape) + noise
        if name in ("scale", "gain", "var"):
            return (0.2 if name == "gain" else 1.0) + noise
        inputs = shape[int(path.partition("/")[2].startswith(model.stacked or "/")) : -1]
        return rng.uniform(-1.0, 1.0, shape) / np.sqrt(np.prod(inputs)) if "kernel" in name else noise

    leaves, tree = jax.tree_util.tree_flatten_with_path(shapes)
    return tree.unflatten([one(path_name(path), leaf.shape).astype(leaf.dtype) for path, leaf in leaves])


def every_row(case: Case, draws: int = 1000) -> None:
    """Checks what is quick for all rows by one compiled program: shapes, finite numbers, mean rates and mean weights.

    Models of the library get `plausible_variables`; toys are initialised, because their parameters are no kernels.
    """
    model, x, y = case.model, case.x, case.y
    toy = not type(model).__module__.startswith("hvae_jax.")
    variables = Row(case).variables if toy else plausible_variables(model, x, y)
    names: list[tuple[str, ...]] = []  # of the levels, while the program is traced

    def one(variables: Any, key: Array) -> dict[str, Array]:
        trace = model.apply(variables, x, key, y=y)
        check_shapes(case, trace)
        finite = jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(trace)]).all()
        names.append(trace.names)
        return {"rates": trace.rates, "ratios": trace.ratios, "finite": finite}

    def program(variables: Any, keys: Array) -> tuple[dict[str, Array], Array]:
        drawn = model.apply(variables, KEY, len(x), y=y, method="generate")
        return jax.vmap(lambda key: one(variables, key))(keys), drawn

    numbers, drawn = jax.jit(program)(variables, jax.random.split(jax.random.key(2), draws))
    assert numbers["finite"].all()
    check_drawn(case, np.asarray(drawn))
    found = {name: np.asarray(numbers[name], np.float64) for name in ("rates", "ratios")}
    check_rates(found["rates"] - found["ratios"])
    check_weights(case, names[-1], found["ratios"], most=0.06)


def mean_and_error(draws: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean over the first axis, and its standard error."""
    return draws.mean(0), draws.std(0, ddof=1) / np.sqrt(len(draws))


def assert_close(got: Any, expected: Any, rtol: float = 1e-5, atol: float = 1e-5) -> None:
    """Asserts that two trees agree, leaf by leaf."""
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=atol), got, expected)


def without_kinds(trace: Trace) -> Trace:
    """The trace without what a traced keep_top adds: a mask, and an `Either` for each q of another kind than p."""
    levels = tuple(level.replace(q=None if mixed(level) else level.q, inferred=None) for level in trace.levels)
    return trace.replace(levels=levels)


def mixed(level: Level) -> bool:
    """Whether q and p are records of different kinds."""
    return type(level.q) is not type(level.p)


def paths(tree: Any) -> dict[str, np.ndarray]:
    """Leaves by their path, "a/b/bias"."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(leaf) for path, leaf in leaves}


def continuous(level: Level) -> bool:
    """Whether two draws of the level are never the same."""
    return isinstance(level.p, Normal | NormalMixture)


def check_shapes(case: Case, trace: Trace) -> None:
    """A trace, of arrays or their shapes, has the documented ones."""
    b, levels = len(case.x), case.model.num_levels
    assert trace.log_px.shape == (b,)
    singles = [level for level in trace.levels if not level.stacked]
    assert len(trace.names) == len(set(trace.names)) == levels == sum(case.model.levels_per_stage)
    for level in singles:
        assert level.z.shape == level.q.mean.shape == level.p.mean.shape
        assert level.kl.shape == level.z.shape[: level.kl.ndim]  # elementwise, or of a joint density
        assert level.log_q.shape == level.log_p.shape == (b,)


def check_drawn(case: Case, drawn: np.ndarray) -> None:
    """Asserts that generated x are allowed data."""
    assert drawn.shape == case.x.shape
    assert np.isfinite(drawn).all()
    if case.model.likelihood is not None:
        case.model.likelihood.check(drawn)


def check_rates(gaps: np.ndarray) -> None:
    """Differences of rates and ratios `[S, L, B]` have mean 0: for each level and example, and over the batch."""
    for gap in (gaps, gaps.mean(-1)):
        mean, error = mean_and_error(gap)
        assert (np.abs(mean) < 4 * error + 1e-5).all(), np.round(mean / error, 1)


def check_weights(case: Case, names: tuple[str, ...], ratios: np.ndarray, most: float) -> None:
    """E_q[exp(log p - log q)] = 1 of ratios `[S, L, B]`, for all levels but the known ones and, top-down, for each.

    Args:
      most: largest standard error with which a mistake would still be noticed.
    """
    ratios = ratios[:, [name not in case.known for name in names]]
    joint = np.exp(-ratios.sum(1)).mean(-1)
    each = np.exp(-ratios).mean(-1)
    for weights in (joint, *(each.T if case.top_down else ())):
        mean, error = mean_and_error(weights)
        assert error < most, "too few draws to notice anything"
        assert abs(mean - 1) < 4 * error + 1e-5, (mean, error)


def shapes_and_finite(row: Row) -> None:
    """A trace has the documented shapes and no NaN; drawn x are allowed data; so are reconstructions and codes."""
    trace, b = row.trace, len(row.x)
    assert trace.rates.shape == trace.ratios.shape == (row.levels, b)
    assert len(trace.latents) == len(trace.unstack()) == row.levels
    check_shapes(row.case, trace)
    check_shapes(row.case, trace.replace(levels=trace.unstack()))
    for leaf in jax.tree.leaves(jax.device_get(trace)):
        assert np.isfinite(leaf).all()
    drawn = np.asarray(row.decode(KEY, jnp.ones(row.levels))[1])
    check_drawn(row.case, drawn)
    generated = jax.eval_shape(lambda: row.apply(KEY, b, y=row.y, method="generate"))
    assert (generated.shape, generated.dtype) == (drawn.shape, drawn.dtype)
    means = jax.eval_shape(lambda: row.apply(row.x, KEY, y=row.y, method="reconstruct"))
    assert means.shape == row.x.shape
    codes = jax.eval_shape(lambda: row.apply(row.x, KEY, y=row.y, method="encode"))
    assert [code.shape for code in codes] == [z.shape for z in trace.latents]


def jit_equals_eager(row: Row) -> None:
    """Compilation changes rounding alone."""
    assert_close(row.trace, row.apply(row.x, KEY, y=row.y), rtol=1e-4)


def same_key_same_trace(row: Row) -> None:
    """The key determines the trace; another key gives other latents."""
    again, other = row.infer(row.x, row.y, KEY), row.infer(row.x, row.y, OTHER_KEY)
    jax.tree.map(np.testing.assert_array_equal, row.trace, again)
    for level, w in zip(row.trace.unstack(), other.latents, strict=True):
        if level.name not in row.case.known:
            differ = np.asarray(level.z) != np.asarray(w)
            assert differ.all() if continuous(level) else differ.any()


def each_parameter_learns(row: Row) -> None:
    """Every parameter's gradient, in each block of a run, is above 1e-4 of the tree's rms, but for cancelled ones."""
    gradient = paths(row.train_gradient(row.variables["params"], row.x, row.y)[1])
    threshold = 1e-4 * np.sqrt(np.mean(np.concatenate([g.ravel() for g in gradient.values()]) ** 2))
    assert set(row.case.cancelled) <= set(gradient)
    for path, g in gradient.items():
        blocks = g if path.startswith(row.model.stacked or "/") else [g]
        for block in blocks:
            assert (np.sqrt(np.mean(block**2)) > threshold) == (path not in row.case.cancelled), path


def no_batch_mates(row: Row) -> None:
    """In evaluation the first example's trace does not depend on the other examples."""
    x = jnp.concatenate([row.x[:1], jnp.roll(row.x[1:], 1, axis=0)])
    y = None if row.y is None else jnp.concatenate([row.y[:1], jnp.roll(row.y[1:], 1)])
    other = row.infer(x, y, KEY)
    assert (other.log_px[1:] != row.trace.log_px[1:]).any()

    def first(trace: Trace) -> Any:
        return jax.tree.map(lambda leaf: leaf[0], (trace.log_px, trace.unstack(), trace.x_dist))

    assert_close(first(other), first(row.trace), rtol=1e-6, atol=1e-6)


def mean_rate_is_mean_ratio(row: Row) -> None:
    """E[kl] = E[log q - log p] for each level, for each example and for the mean of the batch."""
    check_rates(row.draws["rates"] - row.draws["ratios"])


def mean_weight_is_one(row: Row) -> None:
    """E_q[exp(log p - log q)] = 1 for all levels together and, top-down, for each; levels that are known left out."""
    check_weights(row.case, row.trace.names, row.draws["ratios"], most=0.03)


def weights_sum_to_one(row: Row) -> None:
    """Over all x, sum_x E_q[w(x)] = sum_x p(x) = 1, for every keep_top: each is a bound of the same p(x)."""
    x, classes = row.case.every_x, 1
    y = None
    if row.y is not None:
        classes = int(row.y.max()) + 1
        y = jnp.repeat(jnp.arange(classes), len(x))
        x = jnp.concatenate([x] * classes)

    def total(key: Array, keep_top: Array) -> Array:
        log_w = log_weight(row.apply(x, key, y=y, keep_top=keep_top))
        return jnp.exp(log_w + row.case.log_volume).sum() / classes

    totals = jax.jit(jax.vmap(total, (0, None)))
    keys = jax.random.split(jax.random.key(3), DRAWS // 2)
    # a level that is a part of x, as the past of a clip is, has to be inferred: drawn, it would not be that of x
    first = next(i for i, name in enumerate(row.trace.names) if name not in row.case.known)
    for keep_top in range(first, len(row.model.levels_per_stage) + 1):
        mean, error = mean_and_error(np.asarray(totals(keys, keep_top), np.float64))
        assert error < 0.03, "too few draws to notice anything"
        assert abs(mean - 1) < 4 * error + 1e-4, (keep_top, mean, error)


def iwae_rises(row: Row) -> None:
    """E[IWAE-K] does not fall from K = 1 to 5 to 25, and rises where the posterior is not exact."""
    groups = row.draws["log_weight"].reshape(DRAWS // GROUP, GROUP, -1)

    def bound(k: int) -> np.ndarray:
        fives = groups.reshape(len(groups), GROUP // k, k, -1)
        return np.log(np.exp(fives).mean(2)).mean((1, 2))

    bounds = {k: bound(k) for k in (1, 5, GROUP)}
    for fewer, more in ((1, 5), (5, GROUP), (1, GROUP)):
        mean, error = mean_and_error(bounds[more] - bounds[fewer])
        assert mean > -3 * error - 1e-5, (fewer, more, mean, error)
    assert (abs(mean) < 1e-5) if row.case.exact else (mean > 3 * error)


def given_latents_reproduce(row: Row) -> None:
    """With all latents given another key gives the same trace, and decoding them gives the same p(x | z).

    If networks draw random numbers the key stays the same, since their noise is no latent.
    """
    given, other_key = row.trace.latents, KEY if row.case.noisy else OTHER_KEY
    again = jax.jit(lambda key, z: row.apply(row.x, key, y=row.y, latents=z))(other_key, given)
    assert_close(again, row.trace)
    decode = jax.jit(lambda key, z: row.apply(key, len(row.x), y=row.y, latents=z, method="decode"))
    decoded = decode(KEY, given)
    assert decoded.log_px is None
    assert_close(decoded.x_dist, row.trace.x_dist)
    assert_close(decoded.latents, given, rtol=0, atol=0)
    assert_close([level.p for level in decoded.unstack()], [level.p for level in row.trace.unstack()])
    assert (decoded.rates == 0).all()
    assert (decoded.ratios == 0).all()
    jax.tree.map(np.testing.assert_array_equal, decode(other_key, given), decoded)


def keep_top_mixes(row: Row) -> None:
    """keep_top = L is the plain pass; levels below keep_top have rate 0; one compilation serves all values."""
    for keep_top, k in enumerate(np.cumsum([0, *row.model.levels_per_stage])):
        trace = row.choose(KEY, jnp.float32(1.0), jnp.int32(keep_top))
        # in NumPy, which compiles nothing for the shapes of each k
        rates, ratios, latents, inferred = jax.device_get((trace.rates, trace.ratios, trace.latents, row.trace.latents))
        assert (rates[k:] == 0).all()
        assert (ratios[k:] == 0).all()
        assert (rates[:k] != 0).all()
        if row.case.top_down:
            assert_close(latents[:k], inferred[:k])
        # prior and posterior share the level's key: close ones give a discrete level the same values
        below = zip(trace.unstack()[k:], latents[k:], inferred[k:], strict=True)
        assert all((z != w).any() for level, z, w in below if continuous(level))
    assert_close(without_kinds(trace), without_kinds(row.trace))
    assert row.choose._cache_size() == 1


def temperature_scales_the_prior(row: Row) -> None:
    """Temperature 0 gives the prior's mode at that level for any key; inferred levels do not depend on it."""
    zeros = jnp.zeros(row.levels)
    cold = row.decode(KEY, zeros)[0]
    if not row.case.noisy:
        jax.tree.map(np.testing.assert_array_equal, cold, row.decode(OTHER_KEY, zeros)[0])
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(jax.device_get(cold)))
    for level in range(row.levels):
        trace = row.decode(KEY, jnp.ones(row.levels).at[level].set(0.0))[0].unstack()
        for i, one in enumerate(trace):
            z, mode = jax.device_get((one.z, one.p.mode))
            if i == level:
                assert_close(z, mode)  # a program may compute the mode twice, and round it differently
            elif continuous(one):
                assert (z != mode).all()
    kept = row.choose(KEY, jnp.float32(0.0), jnp.int32(row.levels))
    assert_close(without_kinds(kept), without_kinds(row.trace))
    assert_close(row.choose(KEY, jnp.float32(0.0), jnp.int32(0)).latents, cold.latents)


def loss_falls(row: Row) -> None:
    """Eighty steps against the gradient, on one batch at a fixed key, lower the loss by 0.05 nats or more."""
    params, losses = row.variables["params"], []
    for _ in range(80):
        (loss, _), gradient = row.train_gradient(params, row.x, row.y)
        norm = np.sqrt(sum(np.sum(np.square(leaf)) for leaf in jax.tree.leaves(gradient)))
        params = jax.tree.map(lambda p, g, norm=norm: np.asarray(p) - 0.03 * np.asarray(g) / norm, params, gradient)
        losses.append(float(loss))
    assert np.isfinite(losses).all()
    assert losses[-1] < losses[0] - 0.05


def sharded_is_the_same(row: Row) -> None:
    """With the batch split over eight devices: the same loss, gradient and statistics.

    Each tree to 1e-4 of its largest element: in "top_down_3" units vary so little over the batch (variances of 1e-4)
    that normalising them amplifies rounding a hundredfold; one device differs from float64 as much as eight do.
    """
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    split, whole = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in (("data",), ()))
    batch = jax.device_put((row.x, row.y), split)
    params = jax.device_put(row.variables["params"], whole)
    (loss, updates), gradient = row.train_gradient(row.variables["params"], row.x, row.y)
    (sharded_loss, sharded_updates), sharded_gradient = row.train_gradient(params, *batch)
    assert_close(sharded_loss, loss, rtol=2e-5)
    for got, expected in ((sharded_updates, updates), (sharded_gradient, gradient)):
        largest = max((np.abs(leaf).max() for leaf in jax.tree.leaves(expected)), default=1.0)
        assert_close(got, expected, rtol=0, atol=1e-4 * largest)


PROMISES = (
    shapes_and_finite,
    jit_equals_eager,
    same_key_same_trace,
    each_parameter_learns,
    no_batch_mates,
    mean_rate_is_mean_ratio,
    mean_weight_is_one,
    weights_sum_to_one,
    iwae_rises,
    given_latents_reproduce,
    keep_top_mixes,
    temperature_scales_the_prior,
    loss_falls,
    sharded_is_the_same,
)
