"""The linear hierarchical VAE, whose bounds, rates and collapse have closed forms, on the 8x8 digits as real numbers.

    hvae train linear                       # all maps and scales learned
    hvae train linear --preset threshold    # fixed noise: 10 of 16 top latents can live
    hvae train linear --preset threshold --model.noise 8  # fewer can

`digits`: 8 latents at the top and 16 below, everything learned. Level 1 can explain all that the top can: what the top
carries is an accident of training.

`threshold`: 16 latents at each level, noise of standard deviation 4 on x and on z1, maps below the top with orthonormal
rows. The latents of z2 then have a threshold, the variance 32 of the noise below: of the digits' principal components
10 have a higher variance. `hvae_jax.models.ClosedForm(model, variables).collapse(covariance)` predicts each rate.

Grey values 0 to 16 are taken for real numbers, so that nats are those of densities: they compare with each other, and
not with the 17 values' probabilities of the other recipes.
"""

from hvae_jax.experiment import Data, Experiment, Training
from hvae_jax.models import LinearVAE
from hvae_jax.objectives import Cosine
from hvae_jax.training import AdamW

STEPS = 5000
optimiser = AdamW(learning_rate=1e-2, schedule=Cosine(0, STEPS, 1.0, 0.0))
training = Training(batch_size=250, epochs=5000, steps=STEPS, schedule_steps=STEPS, patience=5000, validate_every=100)

presets = {
    "digits": Experiment(
        name="linear_digits",
        data=Data("digits"),
        model=LinearVAE(latents=(8, 16)),
        optimiser=optimiser,
        training=training,
    ),
    "threshold": Experiment(
        name="linear_threshold",
        data=Data("digits"),
        model=LinearVAE(latents=(16, 16), noise=4.0, scales=(4.0,), isometric=True),
        optimiser=optimiser,
        training=training,
    ),
}
