"""How close the bytes of a file come to the bound: lossless compression by three small models, beside other codecs.

    python experiments/studies/lossless.py
    python experiments/studies/lossless.py --tasks mnist --mnist.directory DIRECTORY_OF_TFDS
    python experiments/studies/lossless.py --tasks cifar10 --cifar10.name cifar10_subset.npz

Tasks: all 447 test digits by the article's top-down VAE; the first 1,000 test images of static MNIST by the same model
with 16 and 32 latents; the first 500 test images of CIFAR-10 by its convolutional form. Each is trained if
its folder has no result yet. Every image is decoded and compared.

Also: how the excess over the bound falls with the number of bins and with the bits of the frequencies, on digits.

Writes compression.json with every number, a table, codec_precision.png, and a run folder for each task. An interrupted
study resumes its training.
"""

import dataclasses
import gzip
import io
import json
import lzma
import math
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from seeds import experiment_of
from sweep import save, tidy

from hvae_jax.codec import Codec
from hvae_jax.experiment import Data, Evaluation, Experiment, Training, run
from hvae_jax.experiment.exits import errors_said
from hvae_jax.experiment.reopen import OpenedRun, open_run
from hvae_jax.experiment.settings import dumps
from hvae_jax.likelihoods import Bernoulli, LogisticMixture
from hvae_jax.models import TopDownVAE
from hvae_jax.runtime.compilation import keep_freed_memory, use_compilation_cache
from hvae_jax.runtime.files import write_whole

EXAMPLES = {"digits": 447, "mnist": 1000, "cifar10": 500}


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of the study.

    Attributes:
      tasks: digits, mnist, cifar10.
      mnist: static MNIST.
      cifar10: CIFAR-10, or a part of it.
      mnist_steps, cifar10_steps: training steps of their models.
      streams: images that are coded at once.
      prior_bits: bits of the bins in the table.
      bins: bits of the bins in the figure.
      frequencies: bits of the frequencies in the figure.
      seeds: seeds of the reservoir behind each point of the figure.
      folder: folder of the runs, the figure and the numbers.
    """

    tasks: tuple[str, ...] = ("digits", "mnist", "cifar10")
    mnist: Data = Data("binarized_mnist")
    cifar10: Data = Data("cifar10")
    mnist_steps: int = 1200
    cifar10_steps: int = 400
    streams: int = 64
    prior_bits: int = 12
    bins: tuple[int, ...] = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16)
    frequencies: tuple[int, ...] = (8, 10, 12, 14, 16, 18, 20, 24)
    seeds: tuple[int, ...] = (0, 1, 2)
    folder: Path = Path("runs/lossless")


def experiments(chosen: Settings) -> dict[str, Experiment]:
    """The training of each task's model."""
    digits = experiment_of("top_down", "digits")
    return {
        "digits": digits,
        "mnist": Experiment(
            name="mnist",
            data=chosen.mnist,
            model=TopDownVAE(latents=(16, 32), hidden=256, likelihood=Bernoulli()),
            optimiser=digits.optimiser,
            training=Training(batch_size=128, steps=chosen.mnist_steps, per_dispatch=50, pictures_every=None),
            evaluation=Evaluation(draws=10, other_draws=1, train_examples=1000),
        ),
        "cifar10": Experiment(
            name="cifar10",
            data=chosen.cifar10,
            model=TopDownVAE(latents=(32, 64), hidden=256, network="conv", width=32, likelihood=LogisticMixture(5)),
            optimiser=digits.optimiser,
            training=Training(
                batch_size=32,
                steps=chosen.cifar10_steps,
                per_dispatch=20,
                validate_every=chosen.cifar10_steps,
                validation_size=100,
                pictures_every=None,
            ),
            evaluation=Evaluation(draws=1, other_draws=1, chunk=1, size=100, train_examples=100),
        ),
    }


def measured(opened: OpenedRun, examples: int, chosen: Settings) -> dict[str, Any]:
    """Bits and seconds of one task, after a round trip of every image."""
    x = np.asarray(opened.dataset.splits["test"].x[:examples])
    codec = Codec(
        opened.experiment.model.rolled, opened.variables, streams=chosen.streams, prior_bits=chosen.prior_bits
    )
    codec.encode(x[:1])  # compiles
    start = time.perf_counter()
    coded = codec.encode(x)
    data = coded.to_bytes()
    middle = time.perf_counter()
    decoded = codec.decode(data)
    end = time.perf_counter()
    assert decoded.dtype == x.dtype
    np.testing.assert_array_equal(decoded, x)
    per_dim = coded.dimensions
    return {
        "images": len(x),
        "bound": coded.bound_bits / per_dim,
        "net": coded.net_bits / per_dim,
        "excess": coded.net_bits / coded.bound_bits - 1.0,
        "initial": coded.initial_bits / per_dim,
        "header": 8 * (len(data) - 4 * len(coded.container.words)) / per_dim,
        "gross": 8 * len(data) / per_dim,
        "bytes": len(data),
        "batches": len(coded.container.counts),
        "encoded_per_second": len(x) / (middle - start),
        "decoded_per_second": len(x) / (end - middle),
        "others": {name: 8 * size / per_dim for name, size in others(x).items()},
    }


def others(x: np.ndarray) -> dict[str, int]:
    """Bytes of other codecs: an image a file, all images in one picture, and the array as bytes."""
    binary = int(x.max()) == 1
    pictures = [one[..., 0] if one.shape[-1] == 1 else one for one in x]
    columns = int(np.ceil(np.sqrt(len(x))))
    filled = np.zeros((columns * columns, *pictures[0].shape), np.uint8)
    filled[: len(x)] = pictures
    rows = filled.reshape(columns, columns, *pictures[0].shape)
    sheet = np.concatenate([np.concatenate(list(row), axis=1) for row in rows], axis=0)
    raw = np.packbits(x.astype(bool)).tobytes() if binary else x.tobytes()
    return {
        "PNG, an image a file": sum(stored([one], "PNG", binary) for one in pictures),
        "PNG, one file": stored([sheet], "PNG", binary),
        "WebP lossless, an image a file": sum(stored([one], "WEBP", binary) for one in pictures),
        "WebP lossless, one file": stored([sheet], "WEBP", binary),
        "gzip": len(gzip.compress(raw, 9, mtime=0)),
        "lzma": len(lzma.compress(raw, preset=9 | lzma.PRESET_EXTREME)),
    }


def stored(pictures: Sequence[np.ndarray], form: str, binary: bool) -> int:
    """Bytes of pictures as files of this form; binary ones have one bit a pixel, where the form has it."""
    from PIL import Image

    total = 0
    for picture in pictures:
        image = Image.fromarray(picture * np.uint8(255) if binary else picture)
        image = image.convert("1") if binary and form == "PNG" else image
        stream = io.BytesIO()
        image.save(stream, form, **({"optimize": True} if form == "PNG" else {"lossless": True, "quality": 100}))
        total += len(stream.getvalue())
    return total


def precision(opened: OpenedRun, chosen: Settings) -> dict[str, dict[int, dict[str, float]]]:
    """Excess of the net bits over bounds by the bits of bins and of frequencies.

    "same": over the ELBO of the draws that were coded. "exact": over the ELBO of exact draws, by result.json.
    """
    x = np.asarray(opened.dataset.splits["test"].x)
    codec = Codec(opened.experiment.model, opened.variables, streams=chosen.streams)
    found: dict[str, dict[int, dict[str, float]]] = {"bins": {}, "frequencies": {}}
    for what, values in (("bins", chosen.bins), ("frequencies", chosen.frequencies)):
        for bits in values:
            setting = {"prior_bits" if what == "bins" else "precision": bits}
            runs = [codec.replace(seed=seed, **setting).encode(x) for seed in chosen.seeds]
            found[what][bits] = {
                "net": float(np.mean([one.net_bits for one in runs])) / len(x),
                "bound": float(np.mean([one.bound_bits for one in runs])) / len(x),
            }
    return found


def draw(found: dict[str, dict[int, dict[str, float]]], exact: float, path: Path) -> None:
    """Draws the excess by precision.

    Args:
      exact: -ELBO of exact draws, bits an image.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.0, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    titles = {"bins": "bits of a latent's bins", "frequencies": "bits of the frequencies (12 of the bins)"}
    for axis, (what, title) in zip(figure.subplots(1, 2, sharey=True), titles.items(), strict=True):
        bits = list(found[what])
        net, bound = (np.array([found[what][b][name] for b in bits]) for name in ("net", "bound"))
        # in size, since noise makes either sign; a thousandth of a percent is what whole bits leave
        axis.plot(bits, np.maximum(1e-3, 100 * np.abs(net / exact - 1)), "o:", color="0.6", label="of exact draws")
        axis.plot(bits, np.maximum(1e-3, 100 * np.abs(net / bound - 1)), "s-", label="of the draws that were coded")
        axis.axhline(1.0, color="0.8", linewidth=0.8)
        axis.set_xlabel(title)
        axis.set_yscale("log")
        tidy(axis)
    figure.axes[0].set_ylabel("|net bits / ELBO - 1|, %")
    figure.axes[1].legend(frameon=False, fontsize=8, title="ELBO")
    save(figure, path)


def print_table(numbers: dict[str, dict[str, Any]]) -> None:
    """Prints bits per dimension, a row for each number and codec and a column for each task."""

    def row(name: str, values: Iterable[str]) -> None:
        print(f"| {name} | {' | '.join(values)} |")

    every = numbers.values()
    row("bits per dimension", numbers)
    row("---", ["---"] * len(numbers))
    for name in ("bound", "net", "initial", "header", "gross"):
        row(name, (f"{each[name]:.4f}" for each in every))
    for name in next(iter(every))["others"]:
        row(name, (f"{each['others'][name]:.4f}" for each in every))
    row("net over bound", (f"{100 * each['excess']:+.2f}%" for each in every))
    for name in ("encoded_per_second", "decoded_per_second"):
        row(f"images {name.replace('_', ' ')}", (f"{each[name]:.1f}" for each in every))


def main(chosen: Settings) -> None:
    """Trains what has no result yet, codes, and prints a table in bits per dimension."""
    use_compilation_cache()
    keep_freed_memory()
    numbers: dict[str, Any] = {}
    for task, experiment in experiments(chosen).items():
        if task not in chosen.tasks:
            continue
        folder = chosen.folder / task
        if run(experiment, folder).interrupted:
            sys.exit(f"Interrupted in {folder}. The same command goes on from there.")
        opened = open_run(folder)
        numbers[task] = measured(opened, EXAMPLES[task], chosen)
        print(task, numbers[task], flush=True)
        write_whole(chosen.folder / f"{task}.json", dumps(numbers[task]))
        if task == "digits":
            result = json.loads((folder / "result.json").read_text())
            exact = -result["elbo"]["test"] / math.log(2.0)
            numbers["precision"] = found = {"exact": exact, **precision(opened, chosen)}
            write_whole(chosen.folder / "precision.json", dumps(found))
            draw({name: found[name] for name in ("bins", "frequencies")}, exact, chosen.folder / "codec_precision.png")
    write_whole(chosen.folder / "compression.json", dumps(numbers))
    print_table({task: numbers[task] for task in chosen.tasks})


if __name__ == "__main__":
    with errors_said():
        main(tyro.cli(Settings, description=__doc__))
