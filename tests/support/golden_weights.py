"""The article's PyTorch state dict as variables of TopDownVAE, and the recorded arrays."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

GOLDEN = Path(__file__).parents[1] / "golden"

# Net of the article -> module here; position in its nn.Sequential -> layer here. Activations (position 1) have no
# parameters.
_MODULES = {"nn_r_1": "r1", "nn_r_2": "r2", "nn_delta_1": "delta1", "nn_delta_2": "delta2", "nn_z_1": "prior1"}
_LAYERS = {"0": "linear_0", "2": "norm_0", "3": "last"}
_DECODER_LAYERS = {"0": "linear_0", "2": "norm_0", "3": "linear_1", "5": "norm_1"}
_LEAVES = {
    "linear": {"weight": ("params", "kernel"), "bias": ("params", "bias")},
    "norm": {
        "weight": ("params", "scale"),
        "bias": ("params", "bias"),
        "running_mean": ("batch_stats", "mean"),
        "running_var": ("batch_stats", "var"),
    },
}


def recorded(name: str, prefix: str = "") -> dict[str, np.ndarray]:
    """The arrays of tests/golden/NAME.npz whose names start with the prefix, without it."""
    with np.load(GOLDEN / f"{name}.npz") as arrays:
        return {key.removeprefix(prefix): arrays[key] for key in arrays if key.startswith(prefix)}


def to_variables(state_dict: Mapping[str, np.ndarray], pixels: int, parameters: int) -> dict[str, Any]:
    """{"params": ..., "batch_stats": ...} of the arrays in a state dict: weights, gradients or buffers.

    A PyTorch weight `[out, in]` is a kernel `[in, out]`; the decoder's last layer, whose output is viewed as
    `[pixels, parameters]`, is the readout `[in, pixels, parameters]`.
    """
    variables: dict[str, Any] = {}
    for name, value in state_dict.items():
        net, position, leaf = name.split(".")
        if leaf == "num_batches_tracked":
            continue
        if (net, position) == ("nn_x", "6"):
            shape = (pixels, parameters)
            value = value.T.reshape(-1, *shape) if leaf == "weight" else value.reshape(shape)
            path = ("params", "readout", "kernel" if leaf == "weight" else "bias")
        else:
            module, layers = ("px", _DECODER_LAYERS) if net == "nn_x" else (_MODULES[net], _LAYERS)
            layer = layers[position]
            collection, ours = _LEAVES["norm" if layer.startswith("norm") else "linear"][leaf]
            path = (collection, module, layer, ours)
            value = value.T
        place = variables
        for part in path[:-1]:
            place = place.setdefault(part, {})
        place[path[-1]] = value
    return variables
