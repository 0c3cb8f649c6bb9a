"""The recipe `efficient_vdvae` of the package as a script: `hvae train efficient_vdvae`, with the same flags."""

from hvae_jax.cli.script import main
from hvae_jax.recipes import efficient_vdvae as recipe

if __name__ == "__main__":
    main(recipe.presets, description=recipe.__doc__)
