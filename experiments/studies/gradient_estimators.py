"""How much the three gradients of the importance-weighted bound vary, and whether they agree, on a trained model.

    python experiments/studies/gradient_estimators.py  # digits; two cores: three minutes

The one-level VAE is trained on the ELBO for a while; then, at these parameters and 64 images, many gradients of
`ImportanceWeighted(k)` are drawn with each estimator. Three numbers describe the inference network's gradient:

- its total variance, relative to the plain estimator's;
- its signal-to-noise ratio over all parameters, |mean| / root of the mean variance;
- its bias against the plain estimator: the difference of the two, projected on the mean plain gradient of the other
  half of the draws. It is 0 within its standard error if both are unbiased.

Source: Rainforth et al. (2018) for the ratio that falls with K; Roeder et al. (2017), STL; Tucker et al. (2019),
DReG.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from sweep import Effort, train

from hvae_jax.experiment import Data
from hvae_jax.likelihoods import Categorical
from hvae_jax.models import VAE
from hvae_jax.objectives import Batch, ImportanceWeighted, NegativeELBO
from hvae_jax.runtime.compilation import keep_freed_memory, use_compilation_cache
from hvae_jax.runtime.doctor import line


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of the measurement.

    Attributes:
      steps: number of training steps before the measurement.
      ks: values of K, the number of draws in the bound.
      draws: number of gradients drawn with each estimator.
      hidden: width of the model's networks.
    """

    steps: int = 2000
    ks: tuple[int, ...] = (1, 4, 16, 64)
    draws: int = 400
    hidden: int = 64


def gradients(model: VAE, variables: Any, x: Any, objective: ImportanceWeighted, draws: int) -> np.ndarray:
    """Draws gradients of the inference network, `[draws, parameters]`."""

    def loss(params: Any, key: jax.Array) -> jax.Array:
        def forward(variables: Any, x: Any, key: jax.Array, **choices: Any) -> tuple[Any, Any]:
            return model.apply(variables, x, key, **choices), {}

        return objective(forward, {"params": params}, Batch(x), key, jnp.int32(0), ())[0]

    def one(key: jax.Array) -> jax.Array:
        slope = jax.grad(loss)(variables["params"], key)["q1"]
        return jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(slope)])

    return np.asarray(jax.jit(lambda keys: jax.lax.map(one, keys))(jax.random.split(jax.random.key(1), draws)))


def main(settings: Settings) -> None:
    """Trains the model, draws the gradients, and prints the table."""
    use_compilation_cache()
    keep_freed_memory()
    print(line())
    dataset = Data("digits").load()
    model = VAE(latents=8, hidden=settings.hidden, likelihood=Categorical(17))
    variables = train(model, NegativeELBO(), Effort(steps=settings.steps), dataset, {}, 0)
    x = dataset.train.take(slice(64)).x
    print("\n| K | gradient | variance to plain | signal to noise | bias along the plain mean |\n|" + " --- |" * 5)
    for k in settings.ks:
        plain = None
        for name in ("plain", "stl", "dreg"):
            drawn = gradients(model, variables, x, ImportanceWeighted(k, name), settings.draws)
            plain = drawn if plain is None else plain
            variance, mean = drawn.var(0, ddof=1).sum(), drawn.mean(0)
            # variance / draws is subtracted, the bias of |mean|^2 when the mean is estimated from these draws
            ratio = np.sqrt(((mean**2).sum() - variance / len(drawn)).clip(0) / variance)
            # the direction comes from odd draws and even ones are projected on it, so that the two are independent
            direction = plain[1::2].mean(0) / np.linalg.norm(plain[1::2].mean(0))
            apart = (drawn[::2] - plain[::2]) @ direction
            size = np.linalg.norm(plain.mean(0))
            bias, error = apart.mean() / size, apart.std(ddof=1) / np.sqrt(len(apart)) / size
            relative = variance / plain.var(0, ddof=1).sum()
            shown = "" if name == "plain" else f"{bias:+.3f} ± {error:.3f}"
            print(f"| {k} | {name} | {relative:.3f} | {ratio:.2f} | {shown} |", flush=True)


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
