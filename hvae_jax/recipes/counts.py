"""The article's top-down VAE on a table of counts: one example a row, one kind of event a column.

    hvae train counts                          # a made table; two cores: 25 s
    hvae train counts --data.name genes.npz    # your own table
    hvae train counts --preset zeros           # with additional zeros
    hvae train counts --preset poisson         # variance = mean, to see what that costs

A table is a NumPy file with whole numbers `x_train` `[N, columns]`, raw counts, neither normalised nor as logarithms:
`np.savez("genes.npz", x_train=counts)`. `x_validation`, `x_test` and labels `y_train` are optional; without
`x_validation` a tenth of the rows is held out. The networks see log(1 + x); p(x | z) is of the counts themselves.

`table`: 2 latents at the top (z2) and 8 below (z1), p(x | z1) negative binomial, whose mean and dispersion are outputs
for each column, so that the variance of a count is m + m^2/r. Readout biases start at the columns' own means and
variances (Glorot's initialisation).

`zeros` adds the probability of a zero that says nothing of the mean, as a detector has that misses events. `poisson`
has the variance m. Compare the test ELBOs: all three are probabilities of the same counts.

The made table, `hv.data.count_table()`, has 24 columns and a hierarchy that is known: 4 groups, 3 factors, and counts
that are negative binomial with r = 4. The highest count is 14,326. Expected there, `--over seed 0 1 2` of `hvae sweep`,
mean and standard deviation over the seeds, nats (250 test rows, whose own standard error is 1.0, of `poisson` 3.3):

    preset    test -ELBO      -log p(x) <= (K=500)  KL of z2 and z1 together
    table      73.21 ± 0.25         72.62 ± 0.12          4.7
    zeros      73.12 ± 0.09         72.58 ± 0.09          4.8
    poisson   105.85 ± 2.49         93.55 ± 1.16         17.2

These counts have no additional zeros, and modelling some costs nothing. A variance of m costs 21 nats: the latents have
to explain the noise as well. How the 4.7 nats are shared between the levels depends on the seed (z2: 0.02 to 2.5).
"""

import dataclasses

from hvae_jax.experiment import Data, Experiment, Training
from hvae_jax.likelihoods import NegativeBinomial, Poisson
from hvae_jax.models import TopDownVAE
from hvae_jax.training import Adamax

table = Experiment(
    name="counts_table",
    data=Data("count_table"),
    model=TopDownVAE(latents=(2, 8), hidden=64, likelihood=NegativeBinomial(), initialisation="glorot"),
    optimiser=Adamax(learning_rate=2e-3),
    training=Training(batch_size=64, epochs=300, patience=20, init_examples=1000),
)

presets = {
    "table": table,
    "zeros": dataclasses.replace(
        table, name="counts_zeros", model=table.model.clone(likelihood=NegativeBinomial(zeros=True))
    ),
    "poisson": dataclasses.replace(table, name="counts_poisson", model=table.model.clone(likelihood=Poisson())),
}
