"""The recipe `bottom_up` of the package as a script: `hvae train bottom_up`, with the same flags."""

from hvae_jax.cli.script import main
from hvae_jax.recipes import bottom_up as recipe

if __name__ == "__main__":
    main(recipe.presets, description=recipe.__doc__)
