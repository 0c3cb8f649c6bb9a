"""Closed forms of a `LinearVAE`, from the joint covariance of all its variables, in NumPy float64.

**Which latents live.** Let G be the map from z_l to the mean of x, and N = s_0^2 I + sum_{k<l} G_k S_k G_k^T the
covariance of x given z_l: the noise below the level. As a function of Cov(z_l) alone, the mean log p(x) over data with
covariance C is largest where, after N has been whitened away, Cov(x) keeps the eigenvalues k_i of C within the range of
G that exceed 1, and leaves the others at 1. So with everything below it held, direction i of level l

    lives, with a rate of (log k_i)/2 nats for the level and all above it, if k_i > 1,    and is dead if k_i <= 1.

The threshold is the variance of the noise below: with one level, k_i = c_i / s_0^2 for the eigenvalues c_i of C; with
isometric maps below the top, k_i = c_i / (s_0^2 + s_1^2 + ... + s_{l-1}^2). A weight beta on all rates is a noise of
variance beta s_0^2 in place of s_0^2: E log p(x | z) - beta KL equals, but for a constant, beta times the ELBO with
that noise.

**Under smoothing** (`networks.smoothed`) the top of two levels sends (rho z_2 + sqrt(1 - rho^2) e) A_1 to z_1, e ~
N(0, I/S). The maximum is over a map of any size, so that the factor rho alone would change nothing: A_1 would grow by
1/rho. But e grows with it, and is noise that neither q(z_2 | x) nor the offset of q(z_1 | z_2, x) can read. With
isometric maps below and variances n = s_0^2 + s_1^2, the mean ELBO in a direction where Cov(x)/n is k, and rho^2 A_1
A_1^T / n is t, is but for a constant

    -log(1 + t)/2 - k/(2 (1 + t)) - a t/2,        a = (1 - rho^2)/(S rho^2) n/s_0^2:

the noise e is in x with the variance (1 - rho^2)/(S rho^2) n t and costs that over 2 s_0^2, since q(z_1 | z_2, x) moves
along with its prior and passes e on. A q(z_1 | z_2, x, e) that corrected for e would have n/n in place of n/s_0^2. So

    a direction lives if k > 1 + a, with 1 + t = y = (sqrt(1 + 4 a k) - 1)/(2 a) and a rate of (log y + a (y - 1))/2.

For one draw and a posterior that could correct, the condition is rho^2 k > 1. As S grows the threshold returns to 1.

Source: Tipping & Bishop (1999), appendix A, for the eigenvalues; Lucas et al. (2019), section 4, for one level; Dang et
al. (2023), arXiv 2306.05023, for hierarchies with bottom-up inference. The form above is derived here; tests check it
against numerical derivatives and against training.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from hvae_jax.models.linear import LinearVAE
from hvae_jax.runtime.annotations import ArrayLike


@dataclasses.dataclass(frozen=True)
class GaussianVector:
    """N(mean, cov) of one vector, or of a batch of vectors with means `[B, d]` and one covariance.

    Attributes:
      mean: `[d]` or `[B, d]`.
      cov: `[d, d]`.
    """

    mean: np.ndarray
    cov: np.ndarray

    def kl(self, other: "GaussianVector") -> np.ndarray:
        """KL(self || other), nats, one for each mean."""
        precision = np.linalg.inv(other.cov)
        offset = np.atleast_2d(other.mean - self.mean)
        log_det = np.linalg.slogdet(other.cov)[1] - np.linalg.slogdet(self.cov)[1]
        trace = np.trace(precision @ self.cov)
        return 0.5 * (trace - len(self.cov) + log_det + np.einsum("bi,ij,bj->b", offset, precision, offset))


@dataclasses.dataclass(frozen=True)
class Collapse:
    """Which latents live once their level is trained, everything below held; one entry a level, top first.

    Attributes:
      ratios: variance of the data over that of the noise below, in each direction of the level, falling, `[d_l]` each;
        0 for directions that do not reach x. Under smoothing, over what the noise of smoothing raises it to, k/(1 + a).
        The threshold is 1.
      rates: nats that the level and all above it have together at the optimum, in each direction, `[d_l]` each:
        max(0, log ratio)/2, or as above under smoothing.

    Example:
        >>> model, x = hv.models.LinearVAE((1,), noise=1.0), jnp.ones((3, 2))
        >>> variables = model.init(jax.random.key(0), x, jax.random.key(1))
        >>> found = hv.models.ClosedForm(model, variables).collapse(4 * np.eye(2))
        >>> found.ratios[0].round(3), found.rates[0].round(3)  # 4/1 is above the threshold: log(4)/2 nats
        (array([4.]), array([0.693]))
    """

    ratios: tuple[np.ndarray, ...]
    rates: tuple[np.ndarray, ...]


class ClosedForm:
    """p(z_L, ..., z_1, x) of a `LinearVAE` as one Gaussian, and its posterior q. x is flattened, `[B, D]`.

    Where the model is smoothed, the noise e_l ~ N(0, I/draws) of each smoothed map is a variable of its own, which
    follows the z_l that the map reads, here and in `posterior` and `inference`. It has the same distribution under q.

    Attributes:
      model: the model.
      params: its parameters, in float64.
      joint: joint distribution of (z_L, ..., z_1, x), top first.

    Raises ValueError for another model, or variables of another one.

    Example:
        >>> model, x = hv.models.LinearVAE((2, 1)), jnp.ones((3, 4))
        >>> variables = model.init(jax.random.key(0), x, jax.random.key(1))
        >>> exact = hv.models.ClosedForm(model, variables)
        >>> bool((exact.log_px(x) >= exact.elbo(x)).all()), exact.rates(x).shape
        (True, (2, 3))
    """

    def __init__(self, model: LinearVAE, variables: Mapping[str, Any]) -> None:
        if not isinstance(model, LinearVAE):
            raise ValueError(f"ClosedForm({type(model).__name__}): only LinearVAE has closed forms.")
        if "params" not in variables or "bias_x" not in variables["params"]:
            raise ValueError("ClosedForm needs the variables of a LinearVAE, as model.init returns them.")
        self.model = model
        self.params = {name: np.asarray(value, np.float64) for name, value in variables["params"].items()}
        mean, cov = np.zeros(model.latents[0]), np.eye(model.latents[0])
        self._at = {model.num_levels: np.arange(len(mean))}  # indices of each level in the joint vector
        self._means: dict[int, tuple[np.ndarray, np.ndarray]] = {}  # of each level given all before it: slope, shift
        # of z_{level + 1} given all before it, and zeros for itself: slope, shift and standard deviations
        above = np.zeros_like(cov), mean, np.ones_like(mean)
        for level in range(model.num_levels - 1, -1, -1):
            slope, shift, noise = self.link(level)
            reads, start = np.eye(len(mean))[self._at[level + 1]], np.zeros(slope.shape[1])
            if self._smoothed(level):
                rho, spread = model.smoothing.rho, math.sqrt(1.0 - model.smoothing.rho**2)
                reads = np.concatenate([rho * reads + (1.0 - rho) * above[0], spread * np.diag(above[2])], 1)
                start = (1.0 - rho) * above[1]
                mean, cov = self._with_noise(mean, cov, slope.shape[1])
            whole, start = slope @ reads, slope @ start + shift
            self._means[level] = whole, start
            cross = whole @ cov
            self._at[level] = len(mean) + np.arange(len(shift))
            mean = np.concatenate([mean, whole @ mean + start])
            cov = np.block([[cov, cross.T], [cross, cross @ whole.T + noise]])
            above = np.pad(whole, ((0, 0), (0, len(shift)))), start, np.sqrt(np.diagonal(noise))
        self.joint = GaussianVector(mean, cov)

    def _smoothed(self, level: int) -> bool:
        """Whether the map to a level, or to x for level 0, is smoothed."""
        smoothing = self.model.smoothing
        return smoothing.rho != 1.0 and (level > 0 or smoothing.decoder)

    def _with_noise(self, mean: np.ndarray, cov: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
        """Mean `[..., n]` and covariance with the noise of a smoothed map appended."""
        none = np.zeros((len(cov), width))
        noise = np.eye(width) / self.model.smoothing.draws
        return np.concatenate([mean, np.zeros((*mean.shape[:-1], width))], -1), np.block([[cov, none], [none.T, noise]])

    def link(self, level: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Slope, shift and noise covariance of z_level given the level above, or of x given z_1 for level 0."""
        model, name = self.model, str(level) if level else "_x"
        a, b = self.params[f"kernel{name}"], self.params[f"bias{name}"].reshape(-1)
        if model.isometric and level < model.num_levels - 1:
            q, r = np.linalg.qr(a.T)
            a = (q * np.where(np.diagonal(r) < 0, -1.0, 1.0)).T
        scales = (*model.scales, model.noise) if model.scales else (None,) * level + (model.noise,)
        fixed = scales[-1 - level]
        std = np.exp(self.params[f"log_std{name}"]) if fixed is None else np.float64(fixed)
        return a.T, b, np.diag(np.broadcast_to(std**2, b.shape))

    def block(self, level: int) -> np.ndarray:
        """Indices of z_level (x for level 0) in the joint vector."""
        return self._at[level]

    def conditional(self, level: int, given: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(A, b, C): z_level given the blocks v is N(A v + b, C), by the Schur complement."""
        i, j = self.block(level), np.concatenate([self.block(other) for other in given])
        cov = self.joint.cov
        slope = np.linalg.solve(cov[np.ix_(j, j)], cov[np.ix_(j, i)]).T
        noise = cov[np.ix_(i, i)] - slope @ cov[np.ix_(j, i)]
        return slope, self.joint.mean[i] - slope @ self.joint.mean[j], noise

    @property
    def marginal(self) -> GaussianVector:
        """p(x)."""
        i = self.block(0)
        return GaussianVector(self.joint.mean[i], self.joint.cov[np.ix_(i, i)])

    def log_px(self, x: ArrayLike) -> np.ndarray:
        """log p(x), `[B]`, nats."""
        p = self.marginal
        factor = np.linalg.cholesky(p.cov)
        standardised = np.linalg.solve(factor, (_flat(x) - p.mean).T)  # [D, B]
        log_det = np.log(np.diagonal(factor)).sum()
        return -0.5 * (standardised**2).sum(0) - log_det - 0.5 * len(p.mean) * math.log(2.0 * math.pi)

    def posterior(self, x: ArrayLike) -> GaussianVector:
        """p(z_L, ..., z_1 | x), jointly."""
        j = self.block(0)
        i = np.arange(j[0])
        cov = self.joint.cov
        slope = np.linalg.solve(cov[np.ix_(j, j)], cov[np.ix_(j, i)]).T
        mean = self.joint.mean[i] + (_flat(x) - self.joint.mean[j]) @ slope.T
        return GaussianVector(mean, cov[np.ix_(i, i)] - slope @ cov[np.ix_(j, i)])

    def level_posterior(self, level: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """(A, B, b, C): q(z_level | z above, x) = N(A z + B x + b, C), as the model infers it."""
        above = (level + 1,) if level < self.model.num_levels else ()
        p = self.params
        if self.model.inference == "linear":
            from_x, bias = p[f"q{level}_from_x"].T, p[f"q{level}_bias"]
            noise, from_z = np.eye(len(bias)), np.zeros((len(bias), 0))
            if above:
                slope, shift, noise = self.link(level)
                from_z, bias = slope + p[f"q{level}_from_z"].T, shift + bias
            scale = np.diag(np.exp(p[f"q{level}_log_std"]))
            return from_z, from_x, bias, scale @ noise @ scale
        slope, shift, noise = self.conditional(level, (*above, 0))
        width = len(self.block(above[0])) if above else 0
        if self.model.inference == "shifted":
            shift = shift + p[f"off_mean{level}"]
            scale = np.diag(np.exp(p[f"off_log_std{level}"]))
            noise = scale @ noise @ scale
        return slope[:, :width], slope[:, width:], shift, noise

    def inference(self, x: ArrayLike) -> GaussianVector:
        """q(z_L, ..., z_1 | x), jointly."""
        x = _flat(x)
        mean, cov = np.zeros((len(x), 0)), np.zeros((0, 0))
        for level in range(self.model.num_levels, 0, -1):
            from_z, from_x, shift, noise = self.level_posterior(level)
            if level < self.model.num_levels and self._smoothed(level):
                mean, cov = self._with_noise(mean, cov, from_z.shape[1])
            above = np.zeros((len(shift), len(cov)))
            if level < self.model.num_levels:
                above[:, self.block(level + 1)] = from_z
                if self._smoothed(level):
                    # an offset from the prior's mean, which reads the noise too
                    slope, own, _ = self.link(level)
                    above[:, self.block(level + 1)] -= slope
                    above, shift = above + self._means[level][0], shift - own + self._means[level][1]
            cross = above @ cov
            mean = np.concatenate([mean, mean @ above.T + x @ from_x.T + shift], 1)
            cov = np.block([[cov, cross.T], [cross, cross @ above.T + noise]])
        if self._smoothed(0):
            mean, cov = self._with_noise(mean, cov, self.model.latents[-1])
        return GaussianVector(mean, cov)

    def elbo(self, x: ArrayLike) -> np.ndarray:
        """E_q[log w] = log p(x) - KL(q(z | x) || p(z | x)), `[B]`, nats."""
        return self.log_px(x) - self.inference(x).kl(self.posterior(x))

    def rates(self, x: ArrayLike) -> np.ndarray:
        """E_q[KL(q(z_l | z above, x) || p(z_l | z above))], `[L, B]`, nats, top first."""
        x = _flat(x)
        rates, q = [], self.inference(x)
        for level in range(self.model.num_levels, 0, -1):
            from_z, from_x, shift, noise = self.level_posterior(level)
            q_mean, own = x @ from_x.T + shift, np.zeros(len(shift))
            if level == self.model.num_levels:
                rates.append(GaussianVector(q_mean, noise).kl(GaussianVector(own, np.eye(len(own)))))
                continue
            slope, p_shift, p_noise = self.link(level)
            above = self.block(level + 1)
            turn = from_z - slope
            offset = q.mean[:, above] @ turn.T + q_mean - p_shift
            # the KL is quadratic in z above: its mean over q has the spread of q beside its value at q's mean
            spread = np.trace(np.linalg.solve(p_noise, turn @ q.cov[np.ix_(above, above)] @ turn.T))
            rates.append(GaussianVector(offset, noise).kl(GaussianVector(own, p_noise)) + 0.5 * spread)
        return np.stack(rates)

    def collapse(self, covariance: ArrayLike, beta: float = 1.0) -> Collapse:
        """Which latents live on data with this covariance, by the theorem at the top of this file.

        Args:
          covariance: covariance of the data, `[D, D]`.
          beta: weight of all rates in the objective.
        Raises ValueError for a covariance of another shape, a beta that is not positive and finite, and for a smoothed
        model other than two levels with isometric maps, fixed scales and a decoder that is not smoothed.
        """
        width, levels = self.params["bias_x"].size, self.model.num_levels
        if np.shape(covariance) != (width, width):
            raise ValueError(
                f"collapse(covariance of shape {np.shape(covariance)}): x has {width} numbers, so it needs "
                f"{(width, width)}."
            )
        if not 0.0 < beta < math.inf:
            raise ValueError(f"collapse(beta={beta}): it has to be positive and finite.")
        rho, model = self.model.smoothing.rho, self.model
        if rho != 1.0 and (levels != 2 or not model.isometric or not model.scales or model.smoothing.decoder):
            raise ValueError(
                f"collapse of a LinearVAE(smoothing={model.smoothing}) is known for two levels with isometric=True, "
                "fixed scales and decoder=False."
            )
        gain, below = self.link(0)[0], beta * self.link(0)[2]
        ratios: list[np.ndarray] = []
        for level in range(1, levels + 1):
            ratios.insert(0, _ratios(gain, below, np.asarray(covariance, np.float64)))
            if level < levels:
                slope, _, noise = self.link(level)
                below = below + gain @ noise @ gain.T
                gain = gain @ slope
        rates = [0.5 * np.log(np.maximum(ratio, 1.0)) for ratio in ratios]
        if rho != 1.0:
            noise = beta * self.link(0)[2][0, 0]
            cost = noise_cost(rho, model.smoothing.draws) * (noise + model.scales[0] ** 2) / noise
            ratios[0], rates[0] = ratios[0] / (1.0 + cost), _smoothed_rates(ratios[0], cost)
        return Collapse(tuple(ratios), tuple(rates))


def noise_cost(rho: float, draws: int) -> float:
    """(1 - rho^2)/(S rho^2), the variance that smoothing adds to a linear map over that which it leaves; may be inf."""
    return (1.0 - rho**2) / (draws * rho**2) if rho else math.inf


def _smoothed_rates(ratios: np.ndarray, a: float) -> np.ndarray:
    """(log y + a (y - 1))/2 where the variances k over the noise exceed 1 + a, else 0, with a y^2 + y = k."""
    if math.isinf(a):
        return np.zeros_like(ratios)
    # (sqrt(1 + 4 a k) - 1)/(2 a), without its cancellation for small a
    y = np.maximum(2.0 * ratios / (1.0 + np.sqrt(1.0 + 4.0 * a * ratios)), 1.0)
    return 0.5 * (np.log(y) + a * (y - 1.0))


def _ratios(gain: np.ndarray, noise: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    """Eigenvalues of the covariance in the range of gain `[D, d]`, with the noise whitened: falling, `[d]`."""
    factor = np.linalg.cholesky(noise)
    basis, sizes, _ = np.linalg.svd(np.linalg.solve(factor, gain), full_matrices=False)
    basis = basis[:, sizes > 1e-12 * max(sizes.max(), 1e-300)]
    white = np.linalg.solve(factor, np.linalg.solve(factor, covariance).T)
    found = np.linalg.eigvalsh(basis.T @ white @ basis)[::-1]
    return np.concatenate([found, np.zeros(gain.shape[1] - len(found))])


def _flat(x: ArrayLike) -> np.ndarray:
    x = np.asarray(x, np.float64)
    return x.reshape(len(x), -1)
