"""CaGeM: a class between two Gaussian levels, summed over where labels are missing.

    hvae train cagem                                   # digits, 10 labels a class
    hvae train cagem --data.labels 1                   # one label a class
    hvae train cagem --data.labels 0 --data.label-share None --objective.alpha 0  # no labels at all
    hvae train cagem --preset mnist_small              # fetches MNIST (11 MB) the first time
    hvae diagnose runs/cagem_digits                    # what the class is worth, and its samples
    hvae sample runs/cagem_digits --label 3

`digits`: networks as large as `top_down`'s with a class of 10 values between z2 (8) and z1 (16); 10 of the 100 labels
of each class are seen, the others are hidden, and labelled examples are repeated to be 30% of an epoch. The best
validation ELBO is kept, which needs no labels. docs/results/cagem.md has the numbers of networks half as wide after 400
steps, by experiments/studies/few_labels.py; this preset was not run to its end.

`mnist_small`: MNIST binarised once (static, but not Larochelle's file, which has no labels), 10 labels a class, those
examples repeated to be 10% of an epoch; ten epochs. The same document has its numbers half as wide, after 1,000 steps.
`mnist` is larger and longer: 64 latents either way, 200 epochs with a warm-up of the rates over the first tenth. It was
not run.

The paper reports -79.38 nats on permutation-invariant, dynamically binarised MNIST with labels, by deeper networks and
IW-5000 bounds: not a figure that these presets are made to reach.
"""

from hvae_jax.experiment import Data, Evaluation, Experiment, Training
from hvae_jax.likelihoods import Bernoulli, Categorical
from hvae_jax.models import CaGeM
from hvae_jax.objectives import Enumerated, Linear
from hvae_jax.training import Adamax

presets = {
    "digits": Experiment(
        name="cagem_digits",
        data=Data("digits", labels=10, label_share=0.3),
        model=CaGeM(clusters=10, latents=(8, 16), hidden=256, likelihood=Categorical(17)),
        objective=Enumerated(alpha=10.0),
        optimiser=Adamax(learning_rate=1e-3),
        training=Training(batch_size=64, epochs=1000, patience=20),
    ),
    "mnist_small": Experiment(
        name="cagem_mnist_small",
        data=Data("mnist", binarise="static", labels=10, label_share=0.1),
        model=CaGeM(clusters=10, latents=(16, 32), hidden=256, likelihood=Bernoulli()),
        objective=Enumerated(alpha=10.0),
        optimiser=Adamax(learning_rate=1e-3),
        training=Training(batch_size=128, epochs=10),
        evaluation=Evaluation(draws=100, other_draws=10, train_examples=1000),
    ),
    "mnist": Experiment(
        name="cagem_mnist",
        data=Data("mnist", binarise="dynamic", labels=10, label_share=0.1),
        model=CaGeM(clusters=10, latents=(64, 64), hidden=512, depth=2, likelihood=Bernoulli()),
        objective=Enumerated(alpha=10.0, warm_up=Linear(0, 8_700)),
        optimiser=Adamax(learning_rate=1e-3),
        training=Training(batch_size=128, epochs=200, schedule_steps=86_600),
        evaluation=Evaluation(draws=1000, other_draws=10, train_examples=1000),
    ),
}
