"""State dicts in the format of the public codes, with random numbers in the shapes of small models."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from hvae_jax.convert import addtt, biva, efficient_trees, nvae, srvae, vdvae
from hvae_jax.convert import efficient_vdvae as efficient
from hvae_jax.convert.efficient_trees import TREES
from hvae_jax.convert.state_dict import CONV, Entry, template_of
from hvae_jax.likelihoods import Bernoulli, LogisticMixture
from hvae_jax.models import (
    BIVA,
    NVAE,
    VDVAE,
    ConvLadderVAE,
    Down,
    EfficientVDVAE,
    GatedLadderVAE,
    MixturePrior,
    RealNVPPrior,
    SelfSupervisedVAE,
    Up,
    down_stages,
    up_stages,
)
from hvae_jax.networks.scale_head import ScaleHead
from hvae_jax.runtime.trees import leaves_by_path

NVAE_SMALL = NVAE(
    (4, 4, 3),
    groups=(1, 1),
    latents=1,
    width=4,
    pre_cells=1,
    post_cells=1,
    up_cells=1,
    down_cells=1,
    flows=1,
    likelihood=LogisticMixture(1, form="nvae"),
    published=True,
)

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
    """The arrays of a model by their public names; zeros that take no memory if they are not real."""
    ours = {path: tuple(leaf.shape) for path, leaf in leaves_by_path(template_of(model)).items()}
    rng = np.random.default_rng(0)

    def one(entry: Entry) -> np.ndarray:
        shape = entry.expected(ours[entry.path])
        return rng.normal(size=shape).astype(np.float32) if real else np.broadcast_to(np.float32(0), shape)

    return {name: one(entry) for name, entry in entries}


def of_vdvae(model: VDVAE, real: bool = True) -> dict[str, np.ndarray]:
    """A state dict of VDVAE's code."""
    return arrays(model, vdvae.entries(model), real)


def of_efficient(name: str, tree: str) -> dict[str, np.ndarray]:
    """A state dict of one of Efficient-VDVAE's trees."""
    return arrays(EFFICIENT[name], efficient_trees.entries(EFFICIENT[name], TREES[tree]({})))


def of_biva(model: BIVA | GatedLadderVAE, real: bool = True) -> dict[str, np.ndarray]:
    """A state dict of BIVA's code, after its data-dependent initialisation."""
    return arrays(model, biva.entries(model), real) | {"projection.1.initialized": np.array(True)}


def of_addtt(model: ConvLadderVAE, drops: bool = True, real: bool = True) -> dict[str, np.ndarray]:
    """A state dict of addtt's Ladder VAE.

    Args:
      drops: whether its blocks have dropout, which shifts the numbers of their layers.
    """
    made = arrays(model, addtt.entries(model, drops, model.likelihood.parameters), real)
    for name in [name for name in made if name.endswith("running_mean")]:
        made[name.replace("running_mean", "num_batches_tracked")] = np.int64(7)
    prior, shape = f"top_down_layers.{model.num_levels - 1}.top_prior_params", (2 * model.latents[0], *model.top_shape)
    if not model.learn_top_prior:
        made[prior] = np.zeros((1, *shape), np.float32)
    elif not real:
        made[prior] = np.ones((1, *shape), np.float32)  # zeros would stand for a prior that is not learned
    return made


def nested(flat: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Nested mappings of names with dots: {"a": {"b": v}} of {"a.b": v}."""
    tree: dict[str, Any] = {}
    for name, value in flat.items():
        place = tree
        *parts, last = name.split(".")
        for part in parts:
            place = place.setdefault(part, {})
        place[last] = value
    return tree


def of_nvae(model: NVAE, real: bool = True) -> dict[str, np.ndarray]:
    """The state dict of an NVAE without flows, or with flows under names of our own."""
    entries = dict(nvae.entries(model))
    for level in range(model.num_levels if model.flows else 0):
        owner, at = nvae.flow_owner(model, level)
        for step in range(2 * model.flows):
            for kind in ("first", "middle", "out"):
                name, ours = f"nf_cells.{level}.{step}.{kind}", f"params/{owner}flow/step_{step}/{kind}"
                entries[f"{name}.weight"] = Entry(f"{ours}_kernel", CONV, at=at)
                entries[f"{name}.log_weight_norm"] = Entry(f"{ours}_log_norm", at=at, ones=3)
            entries[f"nf_cells.{level}.{step}.out.bias"] = Entry(f"params/{owner}flow/step_{step}/out_bias", at=at)
    return arrays(model, iter(entries.items()), real)


def of_srvae(model: SelfSupervisedVAE, real: bool = True) -> dict[str, np.ndarray]:
    """A state dict of srVAE's code, with its own layout of the priors of u."""
    made = arrays(model, srvae.entries(model), real)
    if isinstance(model.top_prior, MixturePrior):
        parts = [made.pop(f"p_u.z_pre.{name}") for name in ("mean", "log_var", "logits")]
        made["p_u.z_pre"] = np.concatenate([part.reshape(len(part), -1) for part in parts[:2]])[None]
        made["p_u.pi"] = np.full_like(parts[2], 1.0 / len(parts[2]))
    if isinstance(model.top_prior, RealNVPPrior):
        gains = [name for name in made if name.endswith(".rescale.weight_g")]
        made |= {f"{name.removesuffix('g')}v": np.ones_like(made[name]) for name in gains}
    return made
