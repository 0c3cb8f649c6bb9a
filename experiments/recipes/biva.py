"""The recipe `biva` of the package as a script: `hvae train biva`, with the same flags."""

from hvae_jax.cli.script import main
from hvae_jax.recipes import biva as recipe

if __name__ == "__main__":
    main(recipe.presets, description=recipe.__doc__)
