"""The self-supervised VAE (Gatopoulos & Tomczak, 2021): u, a smaller picture y = d(x), z, and x.

    hvae train self_supervised                          # digits: a minute on two cores
    hvae train self_supervised --preset digits_two      # y1 of 4x4 and y2 of 2x2
    hvae train self_supervised --preset mnist           # minutes on two cores
    hvae train self_supervised --preset cifar10_small   # minutes on two cores
    hvae train self_supervised --preset cifar10         # the published sizes, 30 million parameters
    hvae sample runs/self_supervised_digits             # u, y, z, x
    hvae sample runs/self_supervised_digits --given y=small.npz            # super-resolution

`digits`: 8x8 digits, y their rounded 4x4 means; dense networks of width 256, vectors of 8 and 16 as u and z, otherwise
the article's experiment (`top_down`). `digits_two` has two levels of y, 4x4 means and the 2x2 means of these.
docs/results/self_supervised.md has the results of both.

`mnist`: static MNIST, y the majority of each 2x2 pixels; densely connected convolutions of growth 8, maps of 7x7 as u
and z. `cifar10_small`: y the rounded 16x16 means; growth 8, maps of 8x8, a mixture of 64 components at the top.

`cifar10`: the published sizes, 45,000 / 5,000 / 10,000 images, Adamax at 2e-3 as in BIVA's code, batches of 32, 2000
epochs; it was not run here. Departures from the public code: q(z | x, y) as in the paper instead of q(z | x), y by
rounded means instead of Pillow's filter, the exact likelihood, no augmentation, 5,000 images to validate instead of
15%. The public code's table has 3.65 bits per dimension, by 500 draws and an estimator that is slightly high.
"""

from hvae_jax.experiment import Data, Evaluation, Experiment, Training
from hvae_jax.likelihoods import Bernoulli, Categorical, LogisticMixture
from hvae_jax.models import AveragePool, DenselyConnectedNetworks, MixturePrior, SelfSupervisedVAE, srvae_cifar10
from hvae_jax.objectives import Exponential
from hvae_jax.training import Adamax

OPTIMISER = Adamax(learning_rate=2e-3, schedule=Exponential(0.999999, floor=0.05))

presets = {
    "digits": Experiment(
        name="self_supervised_digits",
        data=Data("digits"),
        model=SelfSupervisedVAE(image=(8, 8, 1), latents=(8, 16), likelihood=Categorical(17)),
        optimiser=Adamax(learning_rate=1e-3),
        training=Training(batch_size=64, epochs=1000, patience=20),
    ),
    "digits_two": Experiment(
        name="self_supervised_digits_two",
        data=Data("digits"),
        model=SelfSupervisedVAE(
            image=(8, 8, 1),
            reductions=(AveragePool(2), AveragePool(2)),
            latents=(8, 8, 16),
            likelihood=Categorical(17),
        ),
        optimiser=Adamax(learning_rate=1e-3),
        training=Training(batch_size=64, epochs=1000, patience=20),
    ),
    "mnist": Experiment(
        name="self_supervised_mnist",
        data=Data("binarized_mnist"),
        model=SelfSupervisedVAE(
            image=(28, 28, 1),
            latents=(2, 2),
            networks=DenselyConnectedNetworks.small(8, 2, blocks=1),
            likelihood=Bernoulli(),
        ),
        optimiser=OPTIMISER,
        training=Training(batch_size=64, epochs=4, per_dispatch=5, unroll=5),
        evaluation=Evaluation(draws=10, other_draws=2, chunk=1, size=500, train_examples=1000),
    ),
    "cifar10_small": Experiment(
        name="self_supervised_cifar10_small",
        data=Data("cifar10"),
        model=SelfSupervisedVAE(
            image=(32, 32, 3),
            latents=(8, 8),
            networks=DenselyConnectedNetworks.small(8, 2, blocks=1),
            likelihood=LogisticMixture(5),
            top_prior=MixturePrior(64, spread=0.3),
        ),
        optimiser=OPTIMISER,
        training=Training(batch_size=32, epochs=2, per_dispatch=5, unroll=5),
        evaluation=Evaluation(draws=10, other_draws=2, chunk=1, size=200, train_examples=500),
    ),
    "cifar10": Experiment(
        name="self_supervised_cifar10",
        data=Data("cifar10"),
        model=srvae_cifar10().clone(
            reductions=(AveragePool(2),), posterior_sees_y=True, likelihood=LogisticMixture(), scale=None
        ),
        optimiser=OPTIMISER,
        training=Training(batch_size=32, epochs=2000, per_dispatch=1),
        evaluation=Evaluation(draws=512, other_draws=10, chunk=1, size=100, train_examples=1000),
    ),
}
