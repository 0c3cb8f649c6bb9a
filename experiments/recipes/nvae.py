"""The recipe `nvae` of the package as a script: `hvae train nvae`, with the same flags."""

from hvae_jax.cli.script import main
from hvae_jax.recipes import nvae as recipe

if __name__ == "__main__":
    main(recipe.presets, description=recipe.__doc__)
