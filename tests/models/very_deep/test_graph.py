"""The graph with the parts of a third family: batch norm, residual posteriors, flows, and blocks of another order."""

import dataclasses
import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax import Array
from support import contract
from support.cases import Case, every, integers
from support.contract import Row

from hvae_jax.descent import Pick, draw, propose
from hvae_jax.distributions import Normal, residual
from hvae_jax.flows import InverseAutoregressive
from hvae_jax.likelihoods import Bernoulli
from hvae_jax.models.base import HVAE
from hvae_jax.models.pieces import gaussian
from hvae_jax.models.very_deep.blocks import ConvProjection, LearnedStart, UpBlock
from hvae_jax.models.very_deep.graph import ascend, descend
from hvae_jax.models.very_deep.parts import Ascent, Parts, Reading
from hvae_jax.models.very_deep.stages import Down, Up, count_levels, stacked_paths
from hvae_jax.models.very_deep.vdvae import mean_pool, nearest_unpool
from hvae_jax.networks.bottleneck import BottleneckConv, BottleneckStyle
from hvae_jax.networks.mlp import BatchNorm
from hvae_jax.trace import Level, Trace

STYLE = BottleneckStyle()


@dataclasses.dataclass(frozen=True)
class NormalisedCell:
    """Batch norm, swish, convolution."""

    train: bool

    def __call__(self, stage: Up | Down, h: Array, name: str) -> Array:
        h = BatchNorm(name=f"norm_{name}")(h, train=self.train)
        return BottleneckConv(stage.width, name=name)(nn.swish(h))


class OwnMaps:
    """Each bottom-up block's output is its tap, and each top-down block reads one, the latest first."""

    def tap(self, stage: Up, h: Array) -> Array:
        return h

    def read(self, found: Ascent, downs: Sequence[Down]) -> list[Reading]:
        latest = list(found.taps)
        return [Reading(jnp.stack([latest.pop() for _ in range(stage.blocks)]), 0) for stage in downs]


def conv_prior(stage: Down, h: Array) -> tuple[Normal, Array]:
    """A prior from a 1x1 convolution, and no shift of h."""
    return gaussian(BottleneckConv(2 * stage.latents, name="prior")(nn.elu(h))), jnp.zeros_like(h)


def residual_posterior(stage: Down, h: Array, tap: Array, prior: Normal) -> Normal:
    """A posterior as an offset from the prior."""
    return residual(prior, gaussian(BottleneckConv(2 * stage.latents, name="posterior")(h, tap)))


class CellFirst(nn.Module):
    """A top-down block with its cell before its level, and a flow on the posterior."""

    stage: Down
    parts: Parts

    @nn.compact
    def __call__(self, h: Array, tap: Array | None, key: Array, pick: Pick) -> tuple[Array, Level]:
        stage, parts = self.stage, self.parts
        h = h + parts.down_cell(stage, h, "cell")
        prior, _ = parts.prior(stage, h)
        posterior = None
        key, propose_key = jax.random.split(key)
        if tap is not None:
            base = parts.posterior(stage, h, tap, prior)
            flow = InverseAutoregressive(1, (2,), name="flow")(base.sample(propose_key), None)
            posterior = propose(propose_key, base, pick, flow)
        level = draw(key, prior, posterior, pick, side=stage.side)
        return h + parts.projection(stage, level.z), level


class Third(HVAE):
    """A model of binary images of 2x2 with three levels."""

    ups: tuple[Up, ...] = (Up(2, 2, 3, 2), Up(1, 1, 3))
    downs: tuple[Down, ...] = (Down(1, 1, 3, None, 1), Down(2, 2, 3, 1, 1))
    likelihood: Bernoulli = Bernoulli()

    @property
    def num_levels(self) -> int:
        return count_levels(self.downs)

    @property
    def stacked(self) -> tuple[str, ...]:
        return stacked_paths(self.ups, self.downs)

    @nn.compact
    def descend(
        self, x: Array | None, n: int, key: Array, *, y: Array | None, picks: tuple[Pick, ...], train: bool
    ) -> Trace:
        cell = NormalisedCell(train)
        parts = Parts(
            up_block=UpBlock,
            down_block=CellFirst,
            up_cell=cell,
            down_cell=cell,
            taps=OwnMaps(),
            pool=mean_pool,
            unpool=nearest_unpool,
            start=LearnedStart(),
            prior=conv_prior,
            posterior=residual_posterior,
            projection=ConvProjection(STYLE, 1.0),
            unroll=1,
            remat=False,
        )
        readings = None
        if x is not None:
            stem = BottleneckConv(3, name="stem")
            readings = ascend(self, parts, self.ups, self.downs, stem(self.likelihood.as_input(x)))
        levels, states = descend(self, parts, self.downs, readings, n, key, picks, None)
        x_dist = self.likelihood.from_map(BottleneckConv(1, name="readout")(states[2]))
        return Trace(None if x is None else x_dist.log_prob(x), levels, x_dist)


@functools.cache
def row() -> Row:
    """The third family on binary images of 2x2."""
    return Row(Case("third", Third(), integers(2, 2, 2, 1), every_x=every(2, 2, 2, 1)))


@pytest.mark.slow
@pytest.mark.parametrize(
    "promise", [contract.mean_weight_is_one, contract.given_latents_reproduce, contract.weights_sum_to_one]
)
def test_contract(promise: Callable[[Row], None]) -> None:
    """Traces are bounds: residual posteriors and the density of the flow are accounted for."""
    promise(row())


def test_levels() -> None:
    """A stage is one stacked level, named by its side."""
    assert row().trace.names == ("z1.0", "z2.0", "z2.1")
    assert row().trace.sides == (1, 2, 2)


def test_batch_statistics_are_stacked_and_updated() -> None:
    """Each block of a stage has statistics of its own, which training changes and evaluation reads."""
    before = contract.paths(row().statistics)
    assert before["batch_stats/down2/norm_cell/mean"].shape == (2, 3)
    assert before["batch_stats/up2/norm_bottleneck_0/mean"].shape == (2, 3)
    updates = contract.paths(row().train_gradient(row().variables["params"], row().x, None)[0][1])
    assert updates.keys() == before.keys()
    for path, statistics in updates.items():
        assert (np.asarray(statistics) != before[path]).any(), path
