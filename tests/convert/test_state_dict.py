"""Reading of state dicts: layouts, and errors of those that do not fit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hvae_jax.convert.state_dict import CONV, LINEAR, TRANSPOSED_CONV, Entry, count, size, to_variables

TEMPLATE = {
    "params": {
        "conv": jax.ShapeDtypeStruct((3, 2, 4, 5), jnp.float32),
        "up": jax.ShapeDtypeStruct((3, 2, 4, 5), jnp.float32),
        "dense": jax.ShapeDtypeStruct((6, 2), jnp.float32),
        "map": jax.ShapeDtypeStruct((12, 2), jnp.float32),
        "gain": jax.ShapeDtypeStruct((5,), jnp.float32),
    },
    "batch_stats": {"mean": jax.ShapeDtypeStruct((5,), jnp.float32)},
}
TABLE = {
    "c.weight": Entry("params/conv", CONV),
    "u.weight": Entry("params/up", TRANSPOSED_CONV),
    "d.weight": Entry("params/dense", LINEAR),
    "m.weight": Entry("params/map", (2, 3, 1, 0), shape=(2, 12), unfold=(2, 3, 2, 2)),
    "c.weight_g": Entry("params/gain", shape=(5, 1, 1, 1)),
    "n.running_mean": Entry("batch_stats/mean"),
}
SHAPES = {
    "c.weight": (5, 4, 3, 2),
    "u.weight": (4, 5, 3, 2),
    "d.weight": (2, 6),
    "m.weight": (2, 12),
    "c.weight_g": (5, 1, 1, 1),
    "n.running_mean": (5,),
}


def state_dict() -> dict[str, np.ndarray]:
    """The arrays of the table, and a counter, which is ignored."""
    rng = np.random.default_rng(0)
    arrays = {name: rng.normal(size=shape).astype(np.float32) for name, shape in SHAPES.items()}
    return arrays | {"n.num_batches_tracked": np.int64(3)}


def read(arrays: dict) -> dict:
    """Variables read by the table."""
    return to_variables(arrays, TABLE, TEMPLATE, ignored=("num_batches_tracked",))


def test_layouts() -> None:
    """Each array lies as its entry says; a flattened map [C, H, W] is read as [H, W, C]."""
    arrays = state_dict()
    variables = read(arrays)
    params = variables["params"]
    assert jax.tree.map(lambda leaf: leaf.shape, variables) == jax.tree.map(lambda leaf: leaf.shape, TEMPLATE)
    np.testing.assert_array_equal(params["conv"], np.moveaxis(arrays["c.weight"], (2, 3), (0, 1)).swapaxes(2, 3))
    np.testing.assert_array_equal(params["up"], np.moveaxis(arrays["u.weight"], (2, 3), (0, 1)))
    np.testing.assert_array_equal(params["dense"], arrays["d.weight"].T)
    np.testing.assert_array_equal(params["gain"], arrays["c.weight_g"][:, 0, 0, 0])
    np.testing.assert_array_equal(variables["batch_stats"]["mean"], arrays["n.running_mean"])
    h = np.random.default_rng(1).normal(size=(3, 2, 2)).astype(np.float32)
    flat = h.transpose(1, 2, 0).reshape(-1)
    np.testing.assert_allclose(flat @ np.asarray(params["map"]), arrays["m.weight"] @ h.reshape(-1), rtol=1e-5)


def test_what_does_not_fit_is_named() -> None:
    """One error names arrays missing, unexpected and misshapen, with the shapes that are needed."""
    arrays = state_dict()
    del arrays["d.weight"]
    arrays["extra"] = np.zeros(3)
    arrays["c.weight"] = np.zeros((5, 4, 3, 3))
    message = (
        r"Missing: d.weight \(2, 6\); not expected: extra; of another shape: c.weight is \(5, 4, 3, 3\), "
        r"not \(5, 4, 3, 2\)"
    )
    with pytest.raises(ValueError, match=message):
        read(arrays)


def test_a_table_that_leaves_out_a_variable() -> None:
    """It is an error of the converter, which names the variable."""
    short = {name: entry for name, entry in TABLE.items() if name != "d.weight"}
    with pytest.raises(ValueError, match=r"differ in .*params/dense"):
        to_variables(state_dict(), short, TEMPLATE)


def test_what_a_state_dict_tells() -> None:
    """The number of modules of a list and their widths are read off; errors say what is missing."""
    arrays = {"a.0.weight": np.zeros((2, 3)), "a.11.weight": np.zeros(()), "a.net.weight": np.zeros(())}
    assert (count(arrays, "a"), count(arrays, "b")) == (12, 0)
    assert size(arrays, "a.0.weight", 1) == 3
    for name, message in (("b", "there is none"), ("a.11.weight", r"its shape is \(\)")):
        with pytest.raises(ValueError, match=f"should have {name}.*{message}"):
            size(arrays, name)
