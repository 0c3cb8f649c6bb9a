"""The RealNVP prior: a Gaussian through an invertible network."""

import dataclasses

import jax

from hvae_jax.distributions import Normal
from hvae_jax.flows import FlowNormal
from hvae_jax.models.top_priors.base import Ground, TopPrior
from hvae_jax.networks.real_nvp import RealNVPNetwork
from hvae_jax.records import check_sizes, checked


@dataclasses.dataclass(frozen=True)
@checked
class RealNVPPrior(TopPrior):
    """log p(z_L) = log N(f(z_L); 0, I) + log |det df/dz_L|, f a RealNVP.

    The KL has no closed form: the level's rate is log q - log p at the sample. The map starts close to the identity.

    Attributes:
      scales: number of scales, for latents that are maps; their height and width are halved once for each but the last.
      growth, steps: sizes of the couplings' densely connected networks, as in `DenselyConnectedNetworks`; for vectors,
        `steps` layers of 4 * growth units.

    Source: Dinh et al. (2017); as the prior of a VAE, Gatopoulos & Tomczak (2021), whose numbers are the defaults.
    Raises ValueError for a size below 1.

    Example:
        >>> model = hv.models.TopDownVAE((2,), hidden=4, top_prior=hv.models.RealNVPPrior(growth=2, steps=1))
        >>> model.top_prior.scales
        2
    """

    scales: int = 2
    growth: int = 64
    steps: int = 5

    def __post_init__(self) -> None:
        check_sizes(self, "scales", "growth", "steps")

    def __call__(self, ground: Ground) -> FlowNormal:
        """Return the distribution; parameters under `top_prior`."""
        settings = self.scales, self.growth, self.steps
        network = RealNVPNetwork(*settings, name="top_prior")  # a part of the model that calls this
        base = Normal.standard((ground.n, *ground.shape))
        if ground.module.is_initializing():
            # gains of weight norm start from the statistics of noise
            network(base.sample(jax.random.key(0)))
        return FlowNormal(base, network.variables["params"], RealNVPNetwork(*settings, parent=None))
