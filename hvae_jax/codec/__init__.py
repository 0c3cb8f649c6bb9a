"""Lossless compression by bits back: the bytes of a file prove the bound.

    codec = hv.codec.Codec(model, variables)
    coded = codec.encode(x)          # integers [N, *event]; coded.net_bits, coded.initial_bits, coded.bound
    x = codec.decode(coded.to_bytes())

The latents of an image are popped from the stack of bits that already holds other images, by q(z | x); then x is pushed
by p(x | z) and z by p(z). In expectation the stack grows by -(log p(x | z) + log p(z) - log q(z | x)), the negative
ELBO in bits, and the decoder gets the popped bits back.

Source: Townsend et al. (2019), "Practical Lossless Compression with Latent Variables using Bits Back Coding"; Kingma et
al. (2019), "Bit-Swap", for bottom-up inference; Townsend et al. (2020), "HiLLoC", for the bins of latents.
"""

from hvae_jax.codec.codec import Codec as Codec
from hvae_jax.codec.codec import Encoded as Encoded
from hvae_jax.codec.container import Container as Container
from hvae_jax.codec.container import read_container as read_container
