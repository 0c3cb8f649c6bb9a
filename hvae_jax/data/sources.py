"""Where `load` was; `hvae_jax.data.catalogue` has it now."""

from hvae_jax.data.catalogue import load as load
