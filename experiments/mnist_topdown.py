"""The article's top-down VAE, widened, on MNIST with dynamic binarisation.

    python experiments/mnist_topdown.py                                     # fetches MNIST (11 MB) the first time
    python experiments/mnist_topdown.py --data.name tfds:mnist --data.directory FOLDER   # as prepared by TFDS
    python experiments/mnist_topdown.py --feed.kind streamed                # reads batches instead of keeping the data

50,000 train, 10,000 validation and 10,000 test images; x ~ Bernoulli(grey / 255) drawn anew at each step, one draw for
good in evaluation. Two levels of 16 and 32 latents, networks of width 512, batches of 128, ten epochs: what can be
trained on two cores in minutes, not the best that this model reaches. The numbers to expect are in the README.
"""

from hvae_jax.cli.script import main
from hvae_jax.experiment import Data, Evaluation, Experiment
from hvae_jax.likelihoods import Bernoulli
from hvae_jax.models import TopDownVAE
from hvae_jax.training import Adamax, Training

experiment = Experiment(
    name="mnist_topdown",
    data=Data("mnist", binarise="dynamic"),
    model=TopDownVAE(latents=(16, 32), hidden=512, likelihood=Bernoulli()),
    optimiser=Adamax(learning_rate=1e-3),
    training=Training(batch_size=128, epochs=10),
    evaluation=Evaluation(draws=100, other_draws=10),
)

if __name__ == "__main__":
    main(experiment, description=__doc__)
