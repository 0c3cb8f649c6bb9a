"""The article's top-down VAE: z2 and z1 inferred from the top down, each posterior an offset from its prior.

    hvae train top_down                                # two cores: 25 s the first time, then 17 s
    hvae train top_down --steps 500 --model.hidden 64  # any setting; --help lists them
    hvae train top_down --preset digits_vamp           # a VampPrior at the top
    hvae train top_down --preset digits_mixture        # a mixture of Gaussians at the top
    hvae train top_down --preset digits_bernoulli      # 16 bits at the top
    hvae train top_down --preset digits_bernoulli_free_bits  # and 4 nats of their rate for nothing
    hvae train top_down --preset digits_categorical    # 4 variables of 10 classes at the top
    hvae train top_down --model.levels bernoulli bernoulli --model.latents 16 32  # bits everywhere
    hvae train top_down --preset digits_consistency    # posteriors of moved digits kept together
    hvae train top_down --preset digits_decorrelated   # units that do not repeat each other
    hvae train top_down --preset mnist                 # fetches MNIST (11 MB) the first time
    hvae train top_down --preset mnist --feed.kind streamed  # reads batches while it trains

`digits`: the article's experiment as its code has it. 8 latents at the top (z2) and 16 below (z1), 721,808
parameters, Adamax, batches of 64, early stopping on the validation ELBO. Expected over seeds: best validation -ELBO
100.4 ± 1.0, test -ELBO 96.5 ± 1.0 (500 draws), IW-500 bound 92.7 ± 0.7 nats, KL of z2 above 4 nats.

`digits_vamp` and `digits_mixture` replace N(0, I) at the top and nothing else: by the mixture of the posteriors of 100
learned pseudo-inputs, initialised with the first 100 digits, and by a learned mixture of 100 Gaussians.

`digits_bernoulli` and `digits_categorical` replace z2 by discrete variables, which hold 11.1 and 9.2 nats, with learned
logits as their prior and straight-through gradients; in `digits_bernoulli_free_bits` the rate of the bits is not
minimised below 4 nats. docs/results/families.md has the numbers to expect.

`digits_consistency` and `digits_decorrelated` are the same model under other objectives; --objective.weight.value sets
the weight of their terms, and docs/results/consistency.md says what they do.

`mnist`: 50,000 train, 10,000 validation and 10,000 test images; x ~ Bernoulli(grey / 255) drawn anew at each training
step, one fixed draw in evaluation. 16 and 32 latents, networks of width 512, ten epochs: what two cores train in
minutes, not the best that this model reaches. docs/results has the numbers to expect.
"""

import dataclasses

from hvae_jax.experiment import Data, Evaluation, Experiment, Training
from hvae_jax.likelihoods import Bernoulli, Categorical
from hvae_jax.models import MixturePrior, TopDownVAE, VampPrior
from hvae_jax.objectives import Consistency, Constant, Decorrelated, FreeBits, Regularised
from hvae_jax.training import Adamax

COMPONENTS = 100  # components, or pseudo-inputs, of a learned top prior

digits = Experiment(
    name="top_down_digits",
    data=Data("digits"),
    model=TopDownVAE(latents=(8, 16), hidden=256, likelihood=Categorical(17)),
    optimiser=Adamax(learning_rate=1e-3),
    training=Training(batch_size=64, epochs=1000, patience=20),
)

presets = {
    "digits": digits,
    "digits_vamp": dataclasses.replace(
        digits,
        name="top_down_digits_vamp",
        model=digits.model.clone(top_prior=VampPrior(COMPONENTS)),
        training=dataclasses.replace(digits.training, init_examples=COMPONENTS),  # one digit per pseudo-input
    ),
    "digits_mixture": dataclasses.replace(
        digits, name="top_down_digits_mixture", model=digits.model.clone(top_prior=MixturePrior(COMPONENTS))
    ),
    "digits_bernoulli": dataclasses.replace(
        digits,
        name="top_down_digits_bernoulli",
        model=digits.model.clone(latents=(16, 16), levels=("bernoulli", "normal")),
    ),
    "digits_bernoulli_free_bits": dataclasses.replace(
        digits,
        name="top_down_digits_bernoulli_free_bits",
        model=digits.model.clone(latents=(16, 16), levels=("bernoulli", "normal")),
        objective=Regularised(free_bits=FreeBits((4.0, 0.0))),
    ),
    "digits_categorical": dataclasses.replace(
        digits,
        name="top_down_digits_categorical",
        model=digits.model.clone(latents=(4, 16), levels=("categorical", "normal"), categories=10),
    ),
    "digits_consistency": dataclasses.replace(
        digits, name="top_down_digits_consistency", objective=Consistency(weight=Constant(0.1))
    ),
    "digits_decorrelated": dataclasses.replace(
        digits, name="top_down_digits_decorrelated", objective=Decorrelated(weight=Constant(1e-3))
    ),
    "mnist": Experiment(
        name="top_down_mnist",
        data=Data("mnist", binarise="dynamic"),
        model=TopDownVAE(latents=(16, 32), hidden=512, likelihood=Bernoulli()),
        optimiser=Adamax(learning_rate=1e-3),
        training=Training(batch_size=128, epochs=10),
        evaluation=Evaluation(draws=100, other_draws=10),
    ),
}
