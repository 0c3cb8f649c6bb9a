"""The recipe `vdvae` of the package as a script: `hvae train vdvae`, with the same flags."""

from hvae_jax.cli.script import main
from hvae_jax.recipes import vdvae as recipe

if __name__ == "__main__":
    main(recipe.presets, description=recipe.__doc__)
