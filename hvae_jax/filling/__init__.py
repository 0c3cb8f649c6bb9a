"""What is missing of x, drawn from p(x_missing | x_seen) of a trained model; and the masks that say what is seen."""

from hvae_jax.filling.impute import Imputed as Imputed
from hvae_jax.filling.impute import impute as impute
from hvae_jax.filling.masks import as_seen as as_seen
from hvae_jax.filling.masks import box as box
from hvae_jax.filling.masks import half as half
