"""Files of weights that were damaged at random: each is read, or refused in one line."""

import random
from pathlib import Path

import numpy as np
import pytest
from flax.serialization import msgpack_serialize
from safetensors.numpy import save_file
from support.small_weights import smallest, weights_of

from hvae_jax.convert.array_files import read_arrays


def damaged(raw: bytes, rng: random.Random) -> bytes:
    """The content with a cut, flipped bits, or bytes that are others, more or fewer; often in its header."""
    some = bytearray(raw)
    place = rng.randrange(min(len(raw), rng.choice((200, 3000, len(raw)))))
    place = rng.choice((place, len(raw) - 1 - place))  # a zip has its table at the end
    match rng.randrange(4):
        case 0:
            del some[place:]
        case 1:
            for _ in range(rng.choice((1, 5, 50))):
                some[(place + rng.randrange(100)) % len(some)] ^= 1 << rng.randrange(8)
        case 2:
            some[place : place + rng.randrange(1, 40)] = rng.randbytes(8)
        case _:
            some[place:place] = rng.choice((b"-1", b"99999999999999", b"nan", bytes(20), b"{", b'"', b"\n", b"\x1b[2J"))
    return bytes(some)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["npz", "compressed.npz", "safetensors", "msgpack"])
def test_damaged_files(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundred of each format."""
    monkeypatch.chdir(tmp_path)
    whole, given, rng = Path(f"whole.{kind}"), weights_of(smallest()), random.Random(0)
    match kind:
        case "npz":
            np.savez(whole, **given)
        case "compressed.npz":
            np.savez_compressed(whole, **given)
        case "safetensors":
            save_file({name: np.ascontiguousarray(value) for name, value in given.items()}, whole)
        case _:
            whole.write_bytes(msgpack_serialize({"params": given}))
    raw = whole.read_bytes()
    for i in range(100):
        path = Path(f"{i}.{kind}")
        path.write_bytes(damaged(raw, rng))
        said = ""
        try:
            read_arrays(path)
        except (ValueError, ImportError) as error:  # a damaged first byte may make it a PyTorch file
            said = str(error)
        assert not said or path.name in said
        assert "\n" not in said and len(said) < 1000
