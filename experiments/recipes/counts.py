"""The recipe `counts` of the package as a script: `hvae train counts`, with the same flags."""

from hvae_jax.cli.script import main
from hvae_jax.recipes import counts as recipe

if __name__ == "__main__":
    main(recipe.presets, description=recipe.__doc__)
