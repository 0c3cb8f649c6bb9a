"""State dicts of VDVAE's and Efficient-VDVAE's codes, with random numbers in the shapes that small models ask for."""

from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hvae_jax.convert import efficient_vdvae as efficient
from hvae_jax.convert import vdvae as deep
from hvae_jax.convert.efficient_trees import TREES
from hvae_jax.convert.state_dict import Entry
from hvae_jax.distributions import ScaleHead
from hvae_jax.likelihoods import Bernoulli, LogisticMixture
from hvae_jax.models import VDVAE, Down, EfficientVDVAE, Up, down_stages, up_stages

KEY = jax.random.key(0)
ENC, DEC = "8x1,8d2,4x2,4d4,1x1", "1x2,4m1,4x1,8m4"
MODEL = VDVAE(
    image=(8, 8, 3),
    ups=up_stages(ENC, 8, "4:12,1:16"),
    downs=down_stages(DEC, 8, "4:12,1:16", latents=3),
    likelihood=LogisticMixture(2, form="published"),
    no_bias_above=4,
    clamp=None,
)
UPS = (Up(8, 1, 6, middle=2), Up(8, 2, 6, 2, middle=2, skip=5), Up(4, 1, 8, cells=2, layers=1, size=1, skip=8))
DOWNS = (Down(4, 1, 8, None, 3, cells=2, layers=1, size=1), Down(8, 2, 5, 4, 2, 2, shared=False))
PUBLISHED: dict[str, Any] = {"ups": UPS, "downs": DOWNS, "head": ScaleHead("softplus_std", efficient.BETA)}
MIXTURE = LogisticMixture(2, 256, 3, -250.0, "published", ScaleHead("softplus_std", efficient.BETA))
EFFICIENT = {
    "colour": EfficientVDVAE(image=(8, 8, 3), pad=0, likelihood=MIXTURE, stem_size=3, readout_size=3, **PUBLISHED),
    "binary": EfficientVDVAE(image=(4, 4, 1), pad=2, likelihood=Bernoulli(), edge=3, **PUBLISHED),
    "own_kernels": EfficientVDVAE(image=(8, 8, 3), pad=0, likelihood=MIXTURE, edge=None, **PUBLISHED),
    "shared": EfficientVDVAE(
        image=(8, 8, 3),
        pad=0,
        likelihood=MIXTURE,
        ups=(Up(8, 1, 6, 2, 2, skip=6), Up(4, 2, 8, skip=8)),
        downs=(Down(4, 3, 8, 2, 3), Down(4, 1, 8, None, 3), Down(8, 1, 6, 4, 2, 2)),
        head=ScaleHead("softplus_std", efficient.BETA),
    ),
}


def arrays(model: Any, entries: Iterator[tuple[str, Entry]], real: bool = True) -> dict[str, np.ndarray]:
    """A state dict of that code; not real ones take no memory."""
    shapes = jax.eval_shape(model.init, KEY, jnp.zeros((1, *model.image)), KEY)
    leaves = jax.tree_util.tree_leaves_with_path(shapes)
    ours = {jax.tree_util.keystr(path, simple=True, separator="/"): tuple(leaf.shape) for path, leaf in leaves}
    rng = np.random.default_rng(0)

    def one(entry: Entry) -> np.ndarray:
        shape = entry.expected(ours[entry.path])
        return rng.normal(size=shape).astype(np.float32) if real else np.broadcast_to(np.float32(0), shape)

    return {name: one(entry) for name, entry in entries}


def of_vdvae(model: VDVAE, real: bool = True) -> dict[str, np.ndarray]:
    """A state dict of VDVAE's code."""
    return arrays(model, deep._entries(model), real)


def of_efficient(name: str, tree: str) -> dict[str, np.ndarray]:
    """One of Efficient-VDVAE's."""
    return arrays(EFFICIENT[name], entries(EFFICIENT[name], TREES[tree]({})))


def nested(flat: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """{"a.b": v} as {"a": {"b": v}}."""
    tree: dict[str, Any] = {}
    for name, value in flat.items():
        place = tree
        *parts, last = name.split(".")
        for part in parts:
            place = place.setdefault(part, {})
        place[last] = value
    return tree
