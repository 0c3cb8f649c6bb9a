"""The recipe `ladder` of the package as a script: `hvae train ladder`, with the same flags."""

from hvae_jax.cli.script import main
from hvae_jax.recipes import ladder as recipe

if __name__ == "__main__":
    main(recipe.presets, description=recipe.__doc__)
