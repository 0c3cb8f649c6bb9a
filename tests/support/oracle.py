"""The closed forms of toys.LinearGaussian, from the joint covariance of all its variables, in NumPy float64."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy import stats

from support.toys import LinearGaussian, orthonormal


@dataclasses.dataclass(frozen=True)
class Gaussian:
    """N(mean, cov) of one vector, or of a batch of vectors with means `[B, d]` and one covariance."""

    mean: np.ndarray
    cov: np.ndarray

    def kl(self, other: "Gaussian") -> np.ndarray:
        """KL(self || other), nats, one for each mean."""
        precision = np.linalg.inv(other.cov)
        offset = np.atleast_2d(other.mean - self.mean)
        log_det = np.linalg.slogdet(other.cov)[1] - np.linalg.slogdet(self.cov)[1]
        trace = np.trace(precision @ self.cov)
        return 0.5 * (trace - len(self.cov) + log_det + np.einsum("bi,ij,bj->b", offset, precision, offset))


class Oracle:
    """p(z_L, ..., z_1, x) of a LinearGaussian as one Gaussian, and its posterior q.

    Attributes:
      joint: joint distribution of (z_L, ..., z_1, x), top first.
    """

    def __init__(self, model: LinearGaussian, params: Mapping[str, Any]) -> None:
        self.model = model
        self.params = {name: np.asarray(value, np.float64) for name, value in params.items()}
        d, levels = model.size, model.levels
        mean, cov = np.zeros(d), np.eye(d)
        for level in range(levels - 1, -1, -1):
            # Slope on all variables so far, of which the last d are the level above: `[d or pixels, len(mean)]`.
            above = np.zeros((d if level else model.pixels, len(mean)))
            slope, shift, noise = self.link(level)
            above[:, -d:] = slope
            cross = above @ cov
            mean = np.concatenate([mean, above @ mean + shift])
            cov = np.block([[cov, cross.T], [cross, cross @ above.T + noise]])
        self.joint = Gaussian(mean, cov)

    def link(self, level: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Slope, shift and noise covariance of z_level given the level above, or of x given z_1 for level 0."""
        p = self.params
        if level:
            return np.diag(p[f"a{level}"]), p[f"b{level}"], np.diag(np.exp(2 * p[f"log_std{level}"]))
        slope = orthonormal(self.model.pixels, self.model.size) * p["c"]
        return slope, p["d"], np.exp(2 * p["log_std_x"]) * np.eye(self.model.pixels)

    def block(self, level: int) -> np.ndarray:
        """Indices of z_level (x for level 0) in the joint vector."""
        d, first = self.model.size, (self.model.levels - level) * self.model.size
        return np.arange(first, first + (d if level else self.model.pixels))

    def conditional(self, level: int, given: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(A, b, C): z_level given the blocks v is N(A v + b, C), by the Schur complement."""
        i, j = self.block(level), np.concatenate([self.block(other) for other in given])
        cov = self.joint.cov
        slope = np.linalg.solve(cov[np.ix_(j, j)], cov[np.ix_(j, i)]).T
        noise = cov[np.ix_(i, i)] - slope @ cov[np.ix_(j, i)]
        return slope, self.joint.mean[i] - slope @ self.joint.mean[j], noise

    def log_px(self, x: np.ndarray) -> np.ndarray:
        """log p(x), `[B]`."""
        i = self.block(0)
        return stats.multivariate_normal(self.joint.mean[i], self.joint.cov[np.ix_(i, i)]).logpdf(x)

    def posterior(self, x: np.ndarray) -> Gaussian:
        """p(z_L, ..., z_1 | x)."""
        latents = tuple(range(self.model.levels, 0, -1))
        i, j = np.concatenate([self.block(level) for level in latents]), self.block(0)
        cov = self.joint.cov
        slope = np.linalg.solve(cov[np.ix_(j, j)], cov[np.ix_(j, i)]).T
        mean = self.joint.mean[i] + (x - self.joint.mean[j]) @ slope.T
        return Gaussian(mean, cov[np.ix_(i, i)] - slope @ cov[np.ix_(j, i)])

    def level_posterior(self, level: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """(A, B, b, C): q(z_level | z above, x) = N(A z + B x + b, C), with its offsets if it is not exact."""
        above = (level + 1,) if level < self.model.levels else ()
        slope, shift, noise = self.conditional(level, (*above, 0))
        width = self.model.size * len(above)
        if not self.model.exact:
            shift = shift + self.params[f"off_mean{level}"]
            scale = np.diag(np.exp(self.params[f"off_log_std{level}"]))
            noise = scale @ noise @ scale
        return slope[:, :width], slope[:, width:], shift, noise

    def inference(self, x: np.ndarray) -> Gaussian:
        """q(z_L, ..., z_1 | x), jointly."""
        d = self.model.size
        mean, cov = np.zeros((len(x), 0)), np.zeros((0, 0))
        for level in range(self.model.levels, 0, -1):
            from_z, from_x, shift, noise = self.level_posterior(level)
            above = np.zeros((d, len(cov)))
            above[:, len(cov) - from_z.shape[1] :] = from_z
            cross = above @ cov
            mean = np.concatenate([mean, mean @ above.T + x @ from_x.T + shift], 1)
            cov = np.block([[cov, cross.T], [cross, cross @ above.T + noise]])
        return Gaussian(mean, cov)

    def elbo(self, x: np.ndarray) -> np.ndarray:
        """E_q[log w] = log p(x) - KL(q(z | x) || p(z | x)), `[B]`."""
        return self.log_px(x) - self.inference(x).kl(self.posterior(x))

    def rates(self, x: np.ndarray) -> np.ndarray:
        """E_q[KL(q(z_l | z above, x) || p(z_l | z above))], `[L, B]`, top first."""
        d, rates, q = self.model.size, [], self.inference(x)
        for index, level in enumerate(range(self.model.levels, 0, -1)):
            from_z, from_x, shift, noise = self.level_posterior(level)
            q_mean, own = x @ from_x.T + shift, Gaussian(np.zeros(d), noise)
            if level == self.model.levels:
                rates.append(Gaussian(q_mean, noise).kl(Gaussian(np.zeros(d), np.eye(d))))
                continue
            slope, p_shift, p_noise = self.link(level)
            above = slice((index - 1) * d, index * d)
            turn = from_z - slope
            offset = q.mean[:, above] @ turn.T + q_mean - p_shift
            spread = np.trace(np.linalg.solve(p_noise, turn @ q.cov[above, above] @ turn.T))
            rates.append(Gaussian(offset, own.cov).kl(Gaussian(np.zeros(d), p_noise)) + 0.5 * spread)
        return np.stack(rates)
