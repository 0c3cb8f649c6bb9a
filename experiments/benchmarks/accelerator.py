"""Everything that is to be measured on an accelerator, by one command that loses nothing when its time is over.

    python experiments/benchmarks/accelerator.py                                 nine minutes; again to go on
    python experiments/benchmarks/accelerator.py --subjects vdvae --batches 32 64 128
    python experiments/benchmarks/accelerator.py --torch-python PYTHON --codes vdvae=CLONE biva=CLONE
    python experiments/benchmarks/accelerator.py --table                         the rows so far, as Markdown
    python experiments/benchmarks/accelerator.py --small --minutes 2             tiny sizes, for a try on a CPU

Subjects, in the order of what matters most: VDVAE's published CIFAR-10 model, the article's digits, NVAE's cells (five
groups at 8x8 and at 16x16), BIVA's and the Ladder VAE's published MNIST models, samples of a PixelCNN, and IW-5000 of
1,000 images. Each in float32 and in bfloat16: training step, ELBO of a batch, samples, seconds of compilation, and peak
memory. First comes the rate of a large matrix product, of which the step's operations (products and convolutions,
counted on the jaxpr) are a share. With `--codes` the public PyTorch codes are timed too, eager and compiled.

Every subject and dtype is a process of its own, so that its peak is its own. Each row is appended to `--rows` when it
is measured, and what is there is not measured again. When the minutes are over the process under way is ended.
"""

import dataclasses
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro

import hvae_jax as hv
from hvae_jax import recipes
from hvae_jax.experiment import Data, Evaluation, Experiment, Training
from hvae_jax.experiment.fitting import words
from hvae_jax.experiment.fitting.examples import example_of
from hvae_jax.models import NVAE, VAE
from hvae_jax.objectives import Constant, NVAEBalance, Regularised, SpectralRegularised
from hvae_jax.runtime import estimate
from hvae_jax.runtime.compilation import keep_freed_memory
from hvae_jax.runtime.meters import peak_memory
from hvae_jax.training import Adamax, init_state, make_step

DTYPES = ("bfloat16", "float32")
TORCH = {"vdvae": "vdvae_cifar10", "nvae": "nvae", "biva": "biva", "ladder": "ladder"}
"""The public codes' names of subjects."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of the measurement.

    Attributes:
      subjects: what to measure; all by default, in order.
      batches: batch sizes; each subject's own by default.
      minutes: minutes after which nothing is started any more, and what runs is ended.
      seconds: seconds that a task is repeated.
      rows: file of the rows, a line of JSON each.
      small: tiny models and few repeats.
      table: print the table of the rows that there are, and do nothing else.
      torch_python: an interpreter whose environment has torch.
      codes: folders of the clones of public codes, as SUBJECT=FOLDER.
      only: measure this subject and dtype in this process, and print the rows; for the process that the command starts.
    """

    subjects: tuple[str, ...] = ()
    batches: tuple[int, ...] = ()
    minutes: float = 9.0
    seconds: float = 3.0
    rows: Path = Path("runs/accelerator.jsonl")
    small: bool = False
    table: bool = False
    torch_python: str | None = None
    codes: tuple[str, ...] = ()
    only: tuple[str, str] | None = None


def cells() -> Experiment:
    """NVAE's cells, as `public_codes.py --model nvae` times them."""
    base = Regularised(warm_up=Constant(0.5), balance=NVAEBalance())
    model = NVAE((32, 32, 3), groups=(5, 5), width=32, up_cells=1, down_cells=1, unroll=5)
    optimiser = Adamax(1e-3, eps=1e-3, weight_decay=3e-4)
    return Experiment("nvae_cells", model, Data("cifar10"), SpectralRegularised(base), optimiser, Training(16))


def pixels(small: bool) -> Experiment:
    """A VAE with a PixelCNN behind it."""
    family = hv.PixelCNN(receptive_field=4, layers=4, width=16)
    return Experiment(
        "pixelcnn",
        VAE(4, hidden=32, likelihood=family),
        Data("digits" if small else "binarized_mnist"),
        training=Training(16),
    )


def importance(small: bool) -> Experiment:
    """The IWAE paper's network of one stochastic layer, and its IW-5000."""
    model = VAE(50, hidden=200, depth=2, activation=jnp.tanh, likelihood=hv.Bernoulli())
    draws, images = (20, 10) if small else (5000, 1000)
    return Experiment(
        "importance",
        model,
        Data("binarized_mnist"),
        training=Training(20),
        evaluation=Evaluation(draws=draws, size=images),
    )


SUBJECTS: dict[str, Callable[[bool], Experiment]] = {
    "vdvae": lambda small: recipes.experiment_of("vdvae", "digits" if small else "cifar10"),
    "digits": lambda small: recipes.experiment_of("top_down", "digits"),
    "nvae": lambda small: recipes.experiment_of("nvae", "digits") if small else cells(),
    "biva": lambda small: recipes.experiment_of("biva", "mnist_small" if small else "mnist_paper"),
    "ladder": lambda small: recipes.experiment_of("ladder", "mnist_small" if small else "mnist_published"),
    "pixelcnn": pixels,
    "importance": importance,
}


def shape_of(experiment: Experiment) -> tuple[int, ...]:
    """Shape of one x."""
    return example_of(experiment).event


class Subject:
    """A model on this device, with its tasks; each is compiled when it is first asked for."""

    def __init__(self, experiment: Experiment, dtype: str, batch: int) -> None:
        model: Any = experiment.model
        if dtype != "float32":
            model = model.clone(dtype=dtype)
        self._experiment, self._model, self._batch = experiment, model, batch
        values = np.random.default_rng(0).integers(0, 2, (batch, *shape_of(experiment)))
        self._x, self._key = jax.device_put(values.astype(np.uint8)), jax.random.key(0)
        settings = experiment.training
        self._optimiser = experiment.optimiser.build()
        self._state = init_state(
            model, experiment.objective, self._optimiser, self._key, self._x, ema=settings.ema is not None
        )
        self.flops = 0.0

    def compiled(self, task: str) -> Callable[[], Any]:
        """A task as a function that runs it once."""
        model, x, key, experiment = self._model, self._x, self._key, self._experiment
        if task == "step":
            settings = experiment.training
            step = make_step(
                model, experiment.objective, self._optimiser, ema_decay=settings.ema, gradients=settings.gradients
            )
            program = self._ahead(jax.jit(step, donate_argnums=0), self._state, hv.Batch(x), key)

            def run() -> Any:
                self._state, metrics = program(self._state, hv.Batch(x), key)
                return metrics

            return run
        variables = self._state.variables
        if task == "elbo":
            program = self._ahead(jax.jit(lambda v, x, key: hv.elbo(model.apply(v, x, key))), variables, x, key)
            return lambda: program(variables, x, key)
        if task == "sample":
            drawn = jax.jit(lambda v, key: model.apply(v, key, self._batch, method="generate"))
            program = self._ahead(drawn, variables, key)
            return lambda: program(variables, key)
        wanted = experiment.evaluation
        images = jax.numpy.resize(x, (wanted.size, *x.shape[1:]))
        bound = jax.jit(lambda v, x, key: hv.iwae(model, v, x, key, wanted.draws, wanted.chunk))
        program = self._ahead(bound, variables, images, key)
        return lambda: program(variables, images, key)

    def _ahead(self, jitted: Any, *arguments: Any) -> Any:
        traced = jitted.trace(*arguments)
        self.flops = sum(estimate.flops(traced.jaxpr, jax.default_backend()).values())
        return traced.lower().compile()


def timed(run: Callable[[], Any], seconds: float) -> list[float]:
    """Seconds of each run, twice at least, for so many seconds in all, after two that do not count."""
    for _ in range(2):
        jax.block_until_ready(run())
    taken: list[float] = []
    while len(taken) < 2 or sum(taken) < seconds:
        start = time.perf_counter()
        jax.block_until_ready(run())
        taken.append(time.perf_counter() - start)
    return taken


def rate_of_products(dtype: str, small: bool, seconds: float) -> float:
    """Floating-point operations a second of a large matrix product."""
    n = 256 if small else 8192
    a = jnp.ones((n, n), dtype)
    product = jax.jit(jnp.matmul)
    return 2.0 * n**3 / float(np.median(timed(lambda: product(a, a), seconds)))


def measured(settings: Settings, subject: str, dtype: str) -> Iterator[dict[str, Any]]:
    """Rows of a subject in a dtype, as they come; "products" measures the rate of a matrix product."""
    keep_freed_memory()
    head = {"subject": subject, "dtype": dtype, "device": jax.devices()[0].device_kind, "small": settings.small}
    if subject == "products":
        yield {**head, "task": "product", "batch": 0, "rate": rate_of_products(dtype, settings.small, settings.seconds)}
        return
    experiment = SUBJECTS[subject](settings.small)
    there = known(settings.rows)
    for batch in settings.batches or (experiment.training.batch_size,):
        made: Subject | None = None
        for task in ("bound",) if subject == "importance" else ("step", "elbo", "sample"):
            row = {**head, "task": task, "batch": batch}
            if key_of(row) in there:
                continue
            made = made or Subject(experiment, dtype, batch)
            start = time.perf_counter()
            run = made.compiled(task)
            compiled = time.perf_counter() - start
            low, middle, high = np.percentile(timed(run, settings.seconds), [25, 50, 75])
            memory = peak_memory()
            peak = memory["peak_device_bytes"] or memory["peak_process_bytes"]
            yield {
                **row,
                "seconds": [float(low), float(middle), float(high)],
                "compile_seconds": compiled,
                "flops": made.flops,
                "peak_bytes": peak,
            }


def theirs(settings: Settings, subject: str, folder: str, compiled: bool) -> Iterator[dict[str, Any]]:
    """Rows of a public PyTorch code."""
    script = Path(__file__).with_name("pytorch_public_codes.py")
    command = [str(settings.torch_python), str(script), "--model", TORCH[subject], "--code", folder]
    command += ["--device=cuda"] if jax_sees_a_gpu() else []
    command += ["--compile"] if compiled else []
    name = "PyTorch, compiled" if compiled else "PyTorch"
    batch = (settings.batches or (SUBJECTS[subject](settings.small).training.batch_size,))[0]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdout.readline()  # what it is
    try:
        for task in ("step", "elbo", "sample"):
            seconds: list[float] = []
            for repeats in (3, 10):  # the first ones do not count
                process.stdin.write(json.dumps({"task": task, "repeats": repeats, "batch": batch}) + "\n")
                process.stdin.flush()
                answer = json.loads(process.stdout.readline())
                seconds = answer["seconds"]
            low, middle, high = np.percentile(seconds, [25, 50, 75])
            yield {
                "subject": subject,
                "dtype": name,
                "task": task,
                "batch": batch,
                "small": settings.small,
                "seconds": [float(low), float(middle), float(high)],
                "peak_bytes": answer["peak"],
            }
    finally:
        process.kill()


def jax_sees_a_gpu() -> bool:
    """Whether there is an NVIDIA GPU, found without opening it."""
    return any(Path("/dev").glob("nvidia[0-9]*"))


def key_of(row: dict[str, Any]) -> tuple[Any, ...]:
    """What a row is of."""
    return row["subject"], row["dtype"], row["task"], row["batch"], row["small"]


def known(path: Path) -> dict[tuple[Any, ...], dict[str, Any]]:
    """Rows by what they are of; a line that was cut off when the time was over does not count."""
    found = {}
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        found[key_of(row)] = row
    return found


def markdown(rows: dict[tuple[Any, ...], dict[str, Any]]) -> str:
    """The table."""
    rates = {row["dtype"]: row["rate"] for row in rows.values() if row["task"] == "product"}
    lines = [f"matrix product, {dtype}: {words.scaled(rate, 'FLOP/s')}" for dtype, rate in rates.items()]
    lines += [
        "",
        "| subject | task | batch | | ms | quartiles | share of the products' rate | peak memory | compiled in |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows.values():
        if row["task"] == "product":
            continue
        low, middle, high = (1e3 * value for value in row["seconds"])
        share = f"{row['flops'] / row['seconds'][1] / rates[row['dtype']]:.1%}" if row["dtype"] in rates else "-"
        compiled = f"{row['compile_seconds']:,.0f} s" if "compile_seconds" in row else "-"
        lines.append(
            f"| {row['subject']} | {row['task']} | {row['batch']} | {row['dtype']} | {middle:,.2f} | {low:,.2f} to "
            f"{high:,.2f} | {share} | {words.gibibytes(float(row['peak_bytes']))} | {compiled} |"
        )
    return "\n".join(lines)


def run_all(settings: Settings) -> bool:
    """Measures what is missing, each subject and dtype in a process of its own; whether all was done in time."""
    end = time.monotonic() + 60.0 * settings.minutes
    shared = ["--rows", str(settings.rows), "--seconds", str(settings.seconds)]
    shared += ["--small"] if settings.small else []
    shared += ["--batches", *map(str, settings.batches)] if settings.batches else []
    for subject in ("products", *(settings.subjects or SUBJECTS)):
        for dtype in DTYPES:
            if subject == "products" and ("products", dtype, "product", 0, settings.small) in known(settings.rows):
                continue
            command = [sys.executable, __file__, "--only", subject, dtype, *shared]
            left = end - time.monotonic()
            if left <= 0:
                return False
            with settings.rows.open("a") as file:
                try:
                    done = subprocess.run(command, stdout=file, timeout=left, check=False)
                except subprocess.TimeoutExpired:
                    return False
            said = "done" if done.returncode == 0 else f"FAILED, exit status {done.returncode}"
            print(f"{subject} {dtype}: {said}, {left / 60:.1f} minutes were left", flush=True)
    for subject, folder in (word.split("=", 1) for word in settings.codes):
        for compiled in (False, True):
            if time.monotonic() > end:
                return False
            for row in theirs(settings, subject, folder, compiled):
                append(settings.rows, row)
    return True


def append(path: Path, row: dict[str, Any]) -> None:
    """Adds a row to the file."""
    with path.open("a") as file:
        file.write(json.dumps(row) + "\n")


def main(settings: Settings) -> None:
    """Measures what is missing, and prints the table."""
    if settings.only is not None:
        for row in measured(settings, *settings.only):
            print(json.dumps(row), flush=True)
        return
    unknown = [name for name in settings.subjects if name not in SUBJECTS]
    if unknown:
        sys.exit(f"error: {recipes.unknown('subject', unknown[0], SUBJECTS)}")
    settings.rows.parent.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # so that a peak is the program's
    if not settings.table and not run_all(settings):
        print("The time is over: the same command goes on from here.")
    print(markdown(known(settings.rows)))


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
