"""The recipe `resnet_vae` of the package as a script: `hvae train resnet_vae`, with the same flags."""

from hvae_jax.cli.script import main
from hvae_jax.recipes import resnet_vae as recipe

if __name__ == "__main__":
    main(recipe.presets, description=recipe.__doc__)
