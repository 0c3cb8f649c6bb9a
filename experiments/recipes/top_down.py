"""The recipe `top_down` of the package as a script: `hvae train top_down`, with the same flags."""

from hvae_jax.cli.script import main
from hvae_jax.recipes import top_down as recipe

if __name__ == "__main__":
    main(recipe.presets, description=recipe.__doc__)
