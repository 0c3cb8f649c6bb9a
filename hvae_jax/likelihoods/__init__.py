"""Likelihoods p(x | z), one family per file; `base` has their base class, `published` the scores of public codes."""

from typing import Any

from hvae_jax.likelihoods.base import Likelihood as Likelihood
from hvae_jax.likelihoods.base import LikelihoodRecord as LikelihoodRecord
from hvae_jax.likelihoods.bernoulli import Bernoulli as Bernoulli
from hvae_jax.likelihoods.bernoulli import BernoulliRecord as BernoulliRecord
from hvae_jax.likelihoods.beta import Beta as Beta
from hvae_jax.likelihoods.beta import BetaRecord as BetaRecord
from hvae_jax.likelihoods.categorical import Categorical as Categorical
from hvae_jax.likelihoods.categorical import CategoricalRecord as CategoricalRecord
from hvae_jax.likelihoods.continuous_bernoulli import ContinuousBernoulli as ContinuousBernoulli
from hvae_jax.likelihoods.continuous_bernoulli import ContinuousBernoulliRecord as ContinuousBernoulliRecord
from hvae_jax.likelihoods.discretised_logistic import DiscretisedLogistic as DiscretisedLogistic
from hvae_jax.likelihoods.discretised_logistic import DiscretisedLogisticRecord as DiscretisedLogisticRecord
from hvae_jax.likelihoods.gaussian import Gaussian as Gaussian
from hvae_jax.likelihoods.gaussian import GaussianRecord as GaussianRecord
from hvae_jax.likelihoods.laplace import Laplace as Laplace
from hvae_jax.likelihoods.laplace import LaplaceRecord as LaplaceRecord
from hvae_jax.likelihoods.logistic_mixture import LogisticMixture as LogisticMixture
from hvae_jax.likelihoods.logistic_mixture import LogisticMixtureRecord as LogisticMixtureRecord
from hvae_jax.likelihoods.missing import Missing as Missing
from hvae_jax.likelihoods.missing import MissingRecord as MissingRecord
from hvae_jax.likelihoods.negative_binomial import NegativeBinomial as NegativeBinomial
from hvae_jax.likelihoods.negative_binomial import NegativeBinomialRecord as NegativeBinomialRecord
from hvae_jax.likelihoods.pixelcnn import PixelCNN as PixelCNN
from hvae_jax.likelihoods.pixelcnn import PixelCNNRecord as PixelCNNRecord
from hvae_jax.likelihoods.poisson import Poisson as Poisson
from hvae_jax.likelihoods.poisson import PoissonRecord as PoissonRecord
from hvae_jax.likelihoods.quantised import Quantised as Quantised
from hvae_jax.likelihoods.quantised import QuantisedRecord as QuantisedRecord
from hvae_jax.likelihoods.seen import Partial as Partial
from hvae_jax.likelihoods.student_t import StudentT as StudentT
from hvae_jax.likelihoods.student_t import StudentTRecord as StudentTRecord

_MOST_CLASSES = 256  # a softmax of more values is slow, and sees few examples of each


def for_data(dataset: Any) -> Likelihood:
    """Suggest a likelihood for a `data.Dataset` by its kind of value: Bernoulli, Categorical(K) or Gaussian.

    Whole numbers of more than 256 values are taken for counts: NegativeBinomial.

    Raises ValueError for another kind.

    Example:
        >>> hv.likelihoods.for_data(hv.data.digits())
        Categorical(num_values=17, min_probability=0.0)
    """
    match dataset.kind.name:
        case "binary":
            return Bernoulli()
        case "integer" if dataset.kind.num_values > _MOST_CLASSES:
            return NegativeBinomial()
        case "integer":
            return Categorical(dataset.kind.num_values)
        case "real":
            return Gaussian()
    raise ValueError(f"Unknown kind of value {dataset.kind!r}: binary, integer and real are known.")
