"""`hvae compress`: images as a file of as many bits as the bound says, without loss."""

import dataclasses
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

from hvae_jax.cli.arguments import Import, Run, check_out
from hvae_jax.codec import Codec, Encoded
from hvae_jax.experiment.reopen import open_variables
from hvae_jax.experiment.sources import read_source
from hvae_jax.runtime.files import replacing
from hvae_jax.runtime.memory import memory_for
from hvae_jax.runtime.texts import say


@dataclasses.dataclass(frozen=True)
class Compress:
    """Compresses images without loss, by the run's model: bits back with asymmetric numeral systems.

    Attributes:
      run: the run folder, or the name of a model in the box.
      sources: files of pictures, a folder of them, an .npz, or the name of a data set; the run's own data by default.
      out: the file to write, NAME.hvae.
      split: split of a data set, or of an .npz with arrays x_SPLIT; the last one (test, if there is one) by default.
      examples: number of images, the first ones; None takes all.
      data_directory: directory of prepared TFDS data.
      streams: most images that are coded at once; a smaller number takes less memory.
      initial: number of images in the first batch, whose bits back come from a reservoir: fewer make a smaller file,
        more a faster start.
      prior_bits: bits of the bins of a latent.
      precision: bits of the frequencies of decisions.
      seed: seed of the reservoir.
      unverified: leave out decoding what was encoded before the file is written.
      import_: modules beside hvae_jax that settings.json may name.
    """

    run: Run
    sources: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    out: Path = Path("images.hvae")
    split: str | None = None
    examples: int | None = None
    data_directory: str | None = None
    streams: int = 64
    initial: int = 4
    prior_bits: int = 12
    precision: int = 24
    seed: int = 0
    unverified: bool = False
    import_: Import = ()

    def __call__(self) -> None:
        """Runs the command."""
        check_out(self.out)
        experiment, variables, _ = open_variables(self.run, self.import_)
        codec = Codec(
            experiment.model.rolled,
            variables,
            streams=self.streams,
            initial=self.initial,
            prior_bits=self.prior_bits,
            precision=self.precision,
            seed=self.seed,
        )
        source = read_source(
            experiment, self.sources, split=self.split, examples=self.examples, directory=self.data_directory
        )
        image = experiment.model.image
        if image is not None and source.x.shape[1:] != tuple(image):
            raise ValueError(f"The {source.described} are {source.x.shape[1:]}, but the model's images are {image}.")
        with memory_for("compressing", "Lower --streams."):
            coded = codec.encode(source.x, source.names)
            data = coded.to_bytes()
            if not self.unverified and not np.array_equal(codec.decode(data, str(self.out)), source.x):
                raise ValueError("What was decoded is not what was encoded, so that nothing is written.")
        with replacing(self.out) as partial:
            partial.write_bytes(data)
        say(f"{self.out}: {_summary(coded, len(data), source.described)}")


def _summary(coded: Encoded, size: int, described: str) -> str:
    """What the file took, in bits per dimension."""
    per_dim = coded.dimensions
    first = coded.container.counts[0]
    mostly = first > 1 and coded.initial_bits > coded.net_bits
    advice = f"\nmost of the file is initial bits, those of its first {first} images: --initial 1 makes it smaller"
    return (
        f"{described}, {coded.container.shape[0]:,} images in {size:,} bytes\n"
        f"bits per dimension: {8 * size / per_dim:.4f} gross (the file), {coded.net_bits / per_dim:.4f} net, "
        f"{coded.bound_bits / per_dim:.4f} by the ELBO of the same draws; "
        f"{coded.initial_bits / per_dim:.4f} initial bits{advice if mostly else ''}"
    )
