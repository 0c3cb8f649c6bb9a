"""A target for the mutual information of x and a level, under the model's own joint distribution.

The rate bounds the information that the *data* and the latents share, E_q[log q(z | x) - log p(z)]. The mutual
auto-encoder asks for information in the model itself: sample z from its prior and x from p(x | z), and see how well
another network, r, finds z again. By the bound of Barber & Agakov,

    I(x; z) >= I_r = H(p(z)) + E_{p(z) p(x | z)} log r(z | x) = E log r(z | x) - E log p(z),

with equality where r is the model's posterior p(z | x). Nothing limits I_r but r itself: unlike bounds that compare the
examples of a batch, it may exceed the logarithm of their number.

In a hierarchy the information of several levels is the sum of what each adds to those above it,

    I(x; z_L, ..., z_k) = sum_l I(x; z_l | z_above)
                       >= sum_l E [H(p(z_l | z_above)) + log r(z_l | x, z_above)].

Source: Phuong et al. (2018), "The Mutual Autoencoder: Controlling Information in Latent Code Representations",
submission HkbmWqxCZ to ICLR; Barber & Agakov (2003) for the bound.
"""

import dataclasses
import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.lax import stop_gradient
from jaxtyping import Float

from hvae_jax.distributions import BernoulliLatent, FromNoise, Normal, OneHotCategorical, hard_clamp, sum_event
from hvae_jax.networks.computing import widen
from hvae_jax.networks.mlp import MLP
from hvae_jax.objectives.around import Around
from hvae_jax.objectives.per_level import check_numbers
from hvae_jax.objectives.protocol import Batch, Forward, NegativeELBO, Objective, generated, own_of, refuse_missing
from hvae_jax.records import check_sizes, checked
from hvae_jax.runtime.prng import fold_in, split
from hvae_jax.trace import Level, Model

NAME = "mutual_information"
CLAMP = (-7.0, 7.0)
"""Bounds of the log standard deviation of r, in units of the prior's."""
_OWN_KEY = 2**31 - 1  # far from the small numbers that the base folds its key with


@runtime_checkable
class _Autoregressive(Protocol):
    """A record of p(x | z) whose elements depend on those before them, such as a PixelCNN's."""

    def conditionals(self, x: Array) -> Any:
        """p(x_i | x_before_i, z) of all i at once."""
        ...


@dataclasses.dataclass(frozen=True)
@checked
class MutualInformation(Around):
    """loss = base loss + weight |I_r - target|, nats, with I_r estimated on a sample of the model.

        I_r = E log r(z | x) - E log p(z) <= I(x; z),    z ~ p(z), x ~ p(x | z)        nats

    Each call draws as many z and x from the model as the batch has examples, in evaluation mode (`generated`). r is a
    network of the objective's own: for each level an MLP that reads x and the levels above. Of a Gaussian level it
    returns mean and log standard deviation of the noise that z was made of, which is the same information, of a
    discrete level an offset of the prior's logits. r starts as the prior, where I_r = 0. It is trained by the same
    optimiser, but always to raise E log r, whichever side of the target I_r is on: minimising the penalty over r as
    well, as the paper prints it, brings a model that has too much information to its target by spoiling r instead
    (`printed=True` does so). With a weight of 0 r is trained and nothing else changes: I_r then measures the base.

    The mean of -log p(z) over the sample stands for H(p(z)): they have the same mean, and the noise of log p(z) cancels
    most of that of log r. The gradient is that of H in closed form.

    Gradients of I_r reach the model through z, which is reparameterised where its prior is Gaussian, and through x,
    which is where p(x | z) is. Elsewhere they are estimated:

    * "straight_through": a discrete x passes the gradient of its mean, E[x | z], or E[x_i | x_before_i, z] in an
      autoregressive likelihood; a discrete z that of its record. Biased.
    * "score": d log p(x | z) and, for discrete levels, d log p(z | above), times log r - log p less its mean over the
      other examples of the batch. Unbiased, and the noisier the more elements x has. Costs a second `decode` if a level
      is discrete.

    Attributes:
      target: M, the information that is asked for; nats.
      weight: weight C of the penalty. The information stays at M only if a nat of it costs the base at most this many
        nats.
      levels: names of the levels whose information is meant; () is the top level. If the top level has M nats, all
        levels together have M or more; the other way round the top one may have none.
      base: objective that the term is added to.
      gradient: gradient estimator where samples are not reparameterised, one of the above. With few elements in x, or
        elements that each tell much of z, straight-through points elsewhere (docs/results/mutual_information.md).
      hidden: width of r's networks.
      depth: number of hidden layers of r; 0 makes it linear.
      printed: whether r is trained on the penalty itself, as printed in the paper.

    Metrics: those of the base; `mutual_information`, I_r, and `mutual_information/LEVEL` if there are several levels.
    If a batch is computed in parts, I_r in the penalty is that of a part.
    Source: Phuong et al. (2018), their equations for the constraint I = M and its penalty; C, r's architecture and the
    gradient for discrete x are not recorded from the paper, and chosen here.
    Raises ValueError for a negative target or weight or a size that is no size; at a model's first trace for names that
    are no levels, for a level with a prior that is neither a function of Gaussian noise nor discrete with its logits,
    such as an observed level, and for "straight_through" with a likelihood that has no mean. Warns of a target that
    discrete levels cannot hold.

    Example:
        >>> hv.objectives.MutualInformation(target=2.0, levels=("z2",)).trains("objective/mutual_information/z2/kernel")
        True
    """

    target: float
    weight: float = 10.0
    levels: tuple[str, ...] = ()
    base: Objective = NegativeELBO()
    gradient: Literal["straight_through", "score"] = "straight_through"
    hidden: int = 128
    depth: int = 2
    printed: bool = False

    def __post_init__(self) -> None:
        check_numbers(self, "target", "weight", low=0.0)
        check_sizes(self, "hidden")
        if self.depth < 0:
            raise ValueError(f"MutualInformation(depth={self.depth}): the number of hidden layers is 0 or more.")
        if len(set(self.levels)) < len(self.levels):
            raise ValueError(f"MutualInformation(levels={self.levels}): each level once.")

    def parameters(self, forward: Forward, variables: Any, batch: Batch, key: Array) -> dict[str, Any]:
        """Those of r, as "mutual_information", with the base's.

        Beside a network for each level there are mean and standard deviation of the elements of the first examples,
        by which r's input is standardised; they are not trained.
        """
        own = dict(self.base.parameters(forward, variables, batch, key))
        if NAME in own:
            raise ValueError("MutualInformation(base=...): the base has such a term already, and there can be one.")
        levels = jax.eval_shape(lambda: generated(forward, variables, batch, key).unstack())
        chosen = self._chosen(levels)
        self._warn_of_capacity([levels[at] for at in chosen])
        x = jnp.asarray(batch.x, float)
        std = jnp.std(x)
        networks = {}
        for i, at in enumerate(chosen):
            width = sum(math.prod(one.shape[1:]) for one in (x, *(level.z for level in levels[:at])))
            made = _network(levels[at], self.hidden, self.depth).init(fold_in(key, i), jnp.zeros((1, width)))["params"]
            # r begins as the prior: its last layer, offsets from it, is 0
            networks[levels[at].name] = {**made, "last": jax.tree.map(jnp.zeros_like, made["last"])}
        own[NAME] = {"inputs": {"mean": x.mean(), "std": jnp.where(std > 0.0, std, 1.0)}, "levels": networks}
        return own

    def check(self, model: Model, x: np.ndarray) -> None:
        """Raises ValueError for data with missing values: r is trained on whole x, and scaled by the data's."""
        refuse_missing("MutualInformation", model)
        self.base.check(model, x)

    def trains(self, path: str) -> bool:
        """As the base says, but for the scale of r's input."""
        return not path.startswith(f"objective/{NAME}/inputs/") and self.base.trains(path)

    def conclude(self, rows: Sequence[dict[str, float | int]]) -> tuple[str, ...]:
        """The base's comments, and one if the mean of the last tenth of the rows is 10% or 0.1 nats off the target."""
        said = self.base.conclude(rows)
        found = [row[NAME] for row in rows if row.get(NAME) is not None]
        if not found or not self.weight:
            return said
        last = found[-max(1, len(found) // 10) :]
        reached = math.fsum(last) / len(last)
        if abs(reached - self.target) <= max(0.1 * self.target, 0.1):
            return said
        advice = "raise objective.weight, train longer, or make objective.hidden larger"
        if reached > self.target:
            advice = "raise objective.weight, or train longer"
        return (
            *said,
            f"MutualInformation asked for {self.target:g} nats and ended at {reached:.3g}, a lower bound: {advice}.",
        )

    def __call__(
        self, forward: Forward, variables: Any, batch: Batch, key: Array, step: Array, state: Any
    ) -> tuple[Array, dict[str, Array], Any, Any]:
        """Computes the loss from the base's pass and one sample of the model for each example."""
        loss, metrics, state, updates = self.base(forward, variables, batch, key, step, state)
        sample = self.sample(forward, variables, batch, fold_in(key, _OWN_KEY))
        own = own_of(variables["params"])[NAME]
        values = self.values(own if self.printed else stop_gradient(own), sample)
        information = estimate(values, sample)
        loss += self.weight * jnp.abs(information - self.target)
        if not self.printed:
            # of value 0: the gradient by which r rises, whatever the sign of the penalty
            fit = sum(self.values(own, stop_gradient(sample)).values(), jnp.zeros(())).mean()
            loss -= fit - stop_gradient(fit)
        metrics = {**metrics, NAME: stop_gradient(information)}
        if len(values) > 1:
            metrics |= {f"{NAME}/{name}": stop_gradient(value.mean()) for name, value in values.items()}
        return loss, metrics, state, updates

    def information(
        self, forward: Forward, variables: Any, batch: Batch, key: Array
    ) -> dict[str, Float[Array, " batch"]]:
        """log r(z | x, above) - log p(z | above) of each chosen level, nats, on a sample of the model.

        Args:
          variables: with the parameters of r.
          batch: its number of examples is that of the sample; its labels are passed on to the model.
        """
        return self.values(own_of(variables["params"])[NAME], self.sample(forward, variables, batch, key))

    def sample(self, forward: Forward, variables: Any, batch: Batch, key: Array) -> "Sample":
        """z and x of the model, with the gradient that the estimator gives them."""
        key_z, key_x = split(key)
        score = self.gradient == "score"
        levels = generated(forward, variables, batch, key_z).unstack()
        self._chosen(levels)
        fixed = [score and not _reparameterised(level.p) for level in levels]
        # With the same key and the discrete latents given, everything else is drawn as before, and no gradient of a
        # straight-through sample is in it.
        given = {"latents": [stop_gradient(level.z) if fix else None for level, fix in zip(levels, fixed, strict=True)]}
        trace = generated(forward, variables, batch, key_z, **(given if any(fixed) else {}))
        x, levels = trace.x_dist.sample(key_x), trace.unstack()
        log_score = sum((level.log_p for level, fix in zip(levels, fixed, strict=True) if fix), jnp.zeros(len(x)))
        if not _reparameterised(trace.x_dist):
            if score:
                log_score = log_score + trace.x_dist.log_prob(x)
            else:
                x = _straight_through(trace.x_dist, x)
        return Sample(levels, x, log_score)

    def values(self, own: Any, sample: "Sample") -> dict[str, Array]:
        """log r - log p of each chosen level, `[B]`, by name."""
        mean, std = stop_gradient((own["inputs"]["mean"], own["inputs"]["std"]))
        x = (widen(sample.x) - mean) / std
        values = {}
        for at in self._chosen(sample.levels):
            level = sample.levels[at]
            flat = [_flat(one) for one in (x, *(above.z for above in sample.levels[:at]))]
            network = _network(level, self.hidden, self.depth)
            h: Any = network.apply({"params": own["levels"][level.name]}, jnp.concatenate(flat, axis=1))
            values[level.name] = _ratio(level, h, self.gradient == "score")
        return values

    def _chosen(self, levels: Sequence[Level]) -> list[int]:
        """Indices of the levels whose information is meant. Raises ValueError for other names, and other priors."""
        names = [level.name for level in levels]
        wanted = self.levels or tuple(names[:1])
        if unknown := [name for name in wanted if name not in names]:
            raise ValueError(
                f"MutualInformation(levels={self.levels}): the model has no level {unknown[0]!r}; its levels are "
                f"{', '.join(names)}."
            )
        chosen = sorted(names.index(name) for name in wanted)
        for at in chosen:
            p = levels[at].p
            if not isinstance(p, FromNoise) and type(p) not in (OneHotCategorical, BernoulliLatent):
                raise ValueError(
                    f"MutualInformation(levels={self.levels}): level {names[at]!r} has no density that r could be "
                    f"compared with: its prior is a {type(p).__name__}, where a function of Gaussian noise (Normal) or "
                    f"a discrete level's logits are needed. The levels are {', '.join(names)}."
                )
        return chosen

    def _warn_of_capacity(self, chosen: Sequence[Level]) -> None:
        """Warns if all these levels are discrete and have fewer states than the target takes."""
        capacity = sum(_capacity(level.p) for level in chosen)
        if self.weight and self.target > capacity:
            warnings.warn(
                f"MutualInformation(target={self.target:g}) cannot be reached: "
                f"{', '.join(level.name for level in chosen)} can hold {capacity:.3g} nats, the logarithm of the "
                "number of values.",
                stacklevel=2,
            )


class Sample(NamedTuple):
    """A sample of the model's joint distribution.

    Attributes:
      levels: the levels, top first, none of them stacked.
      x: `[B, *event]`.
      log_score: log-probability of what was drawn without a gradient of its own, `[B]`; 0 where there is none.
    """

    levels: tuple[Level, ...]
    x: Array
    log_score: Array


def estimate(values: Mapping[str, Array], sample: Sample) -> Array:
    """I_r, `[]`, nats, with the gradient of the estimator that the sample was made for.

    Score functions are weighted by the values, less their mean over the other examples.

    Args:
      values: log r - log p of each level, `[B]`.
    """
    each = sum(values.values(), jnp.zeros(()))  # [B]
    n = len(sample.log_score)
    # n/(n - 1) (v - mean of all v) is v less the mean of the others; of a single example there is no other
    advantage = stop_gradient((each - each.mean()) * n / (n - 1) if n > 1 else each)
    return each.mean() + (advantage * (sample.log_score - stop_gradient(sample.log_score))).mean()


def _ratio(level: Level, h: Array, score: bool) -> Array:
    """log r(z | x, above) - log p(z | above), `[B]`, from the network's output `[B, outputs]`.

    Args:
      score: whether the level's own log-probability has its gradient elsewhere.
    """
    p, z = level.p, level.z
    if isinstance(p, FromNoise):
        # z and its noise differ by a map that r knows as well: both densities have the same Jacobian
        noise = _flat(p.to_noise(z)).astype(h.dtype)
        mean, log_std = jnp.split(h, 2, axis=1)
        r = Normal(mean, hard_clamp(log_std, *CLAMP))
        return sum_event(r.log_prob(noise) - Normal.standard(noise.shape, noise.dtype).log_prob(noise))
    log_r = sum_event(dataclasses.replace(p, logits=p.logits + h.reshape(p.logits.shape)).log_prob(z))
    log_p = stop_gradient(sum_event(p.log_prob(z)))
    if score:
        return log_r - log_p
    entropy = _entropy(p)  # in value -log p(z), in gradient H
    return log_r - log_p + (entropy - stop_gradient(entropy))


def _entropy(p: OneHotCategorical | BernoulliLatent) -> Array:
    """H(p), `[B]`, nats."""
    if isinstance(p, OneHotCategorical):
        return -sum_event((p.mean * p.log_probabilities).sum(-1))
    return sum_event(p.mean * jax.nn.softplus(-p.logits) + (1.0 - p.mean) * jax.nn.softplus(p.logits))


def _capacity(p: Any) -> float:
    """Largest entropy of a discrete level, nats; infinite for another."""
    if isinstance(p, OneHotCategorical):
        return math.prod(p.logits.shape[1:-1]) * math.log(p.logits.shape[-1])
    return math.prod(p.logits.shape[1:]) * math.log(2.0) if isinstance(p, BernoulliLatent) else math.inf


def _network(level: Level, hidden: int, depth: int) -> MLP:
    """The network of r for a level: two numbers for an element of a Gaussian z, one for a logit."""
    per_element = 2 if isinstance(level.p, FromNoise) else 1
    return MLP((hidden,) * depth, per_element * math.prod(level.z.shape[1:]), normalise=False)


def _straight_through(x_dist: Any, x: Array) -> Array:
    """x, with the gradient of its mean given the elements before it."""
    mean = (x_dist.conditionals(x) if isinstance(x_dist, _Autoregressive) else x_dist).mean
    if mean is None:
        raise ValueError(
            f"MutualInformation(gradient='straight_through') needs the mean of p(x | z), but {type(x_dist).__name__} "
            "has none: take gradient='score'."
        )
    return x.astype(mean.dtype) + (mean - stop_gradient(mean))


def _reparameterised(record: Any) -> bool:
    return getattr(record, "reparameterised", False)


def _flat(a: Array) -> Array:
    """`[B, ...]` to `[B, elements]`, in float32 at least."""
    return widen(a).reshape(len(a), -1)
