"""The recipe `self_supervised` of the package as a script: `hvae train self_supervised`, with the same flags."""

from hvae_jax.cli.script import main
from hvae_jax.recipes import self_supervised as recipe

if __name__ == "__main__":
    main(recipe.presets, description=recipe.__doc__)
