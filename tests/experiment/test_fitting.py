"""Whether an experiment fits a chip: verdicts from shapes, what is tried where it does not fit, and how it reads."""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hvae_jax import recipes
from hvae_jax.experiment import Data, Devices, Evaluation, Experiment, Training
from hvae_jax.experiment.fitting import changes, words
from hvae_jax.experiment.fitting.asked import Question, compiler_of
from hvae_jax.experiment.fitting.examples import Example, example_of
from hvae_jax.experiment.fitting.judge import judged
from hvae_jax.experiment.fitting.verdict import Verdict, from_json, to_json
from hvae_jax.models import VAE, LinearVAE, TopDownVAE, vdvae_mnist
from hvae_jax.runtime import ahead
from hvae_jax.runtime.chips import GIB, chip_named, own_chip

TINY = Experiment(
    "tiny", VAE(2, hidden=8), Data("digits"), training=Training(batch_size=8), evaluation=Evaluation(4, 2, 2, 16)
)
V5E = chip_named("v5e")


def verdict(memory: float, program: str = "training", **fields: Any) -> Verdict:
    """A verdict that says so much memory, 197 TFLOP in bfloat16 and 0.819 TB: a second each on a v5e, at best."""
    plain = Verdict(
        program, "libtpu 1", memory, {"bfloat16": 197e12}, 0.819e12, 0.0, {}, {"host transfers": 0}, 0, 1.0, 90.0
    )
    return dataclasses.replace(plain, **fields)


class Fake(Question):
    """A chip on which bfloat16 and remat take half the memory each, and microbatches their part of it."""

    whole: float = 40 * GIB

    def ask(self, programs: Sequence[str], experiment: Experiment) -> Iterator[Verdict]:
        assert programs == ["training"]
        memory = self.whole
        memory /= 1 + (getattr(experiment.model, "dtype", None) is not None)
        memory /= 1 + getattr(experiment.model, "remat", False)
        memory *= (experiment.training.microbatch or experiment.training.batch_size) / experiment.training.batch_size
        yield verdict(memory)


@pytest.mark.parametrize(
    ("experiment", "event", "dtype", "labelled"),
    [
        (TINY, (8, 8, 1), "uint8", False),
        (Experiment("mnist", vdvae_mnist(), Data("binarized_mnist")), (28, 28, 1), "uint8", False),
        (Experiment("clips", VAE(2), Data("moving_digits:3", size=12)), (12, 36, 1), "uint8", False),
        (Experiment("table", VAE(2), Data("count_table")), (24,), "int32", False),
        (Experiment("folder", VAE(2), Data("no/such/folder", size=32)), (32, 32, 3), "uint8", False),
        (Experiment("hidden", VAE(2), Data("mnist", hidden=0.5)), (28, 28, 1), "float32", False),
        (Experiment("labels", TopDownVAE((2,), classes=10), Data("mnist")), (28, 28, 1), "uint8", True),
    ],
    ids=lambda value: value.name if isinstance(value, Experiment) else "",
)
def test_examples_without_the_data(experiment: Experiment, event: tuple[int, ...], dtype: str, labelled: bool) -> None:
    assert example_of(experiment) == Example(event, dtype, labelled)


def test_examples_of_an_npz(tmp_path: Path) -> None:
    """Its header is read where it is there; where neither is, the error says what to give."""
    path = tmp_path / "own.npz"
    experiment = Experiment("own", VAE(2), Data(str(path)))
    with pytest.raises(ValueError, match="says what an image looks like: give the path of a file that exists"):
        example_of(experiment)
    np.savez(path, x_train=np.zeros((3, 6, 5), np.float32))
    assert example_of(experiment) == Example((6, 5), "float32", False)


def test_named_data_that_does_not_exist() -> None:
    with pytest.raises(ValueError, match=r"Unknown data set 'mnits'\. Did you mean 'mnist'\?"):
        example_of(Experiment("wrong", VAE(2), Data("mnits")))


@pytest.mark.leg
def test_an_estimate() -> None:
    """Products of a VAE of one hidden layer; four devices share the batch, and reduce the gradients of every weight."""
    example = example_of(TINY)
    one = judged("training", TINY, example, V5E, 1, compiles=False)
    four = judged("training", TINY, example, V5E, 4, compiles=False)
    assert one.by == "" and one.fits(V5E) and math.isnan(one.compile_seconds) and one.collectives == {}
    assert four.flops["float32"] == one.flops["float32"] / 4
    assert four.collectives == {"all-reduce": 1} and four.collective_bytes > 4 * 64 * 8
    again = from_json(to_json(one))
    assert math.isnan(again.compile_seconds)
    assert dataclasses.replace(again, compile_seconds=0.0) == dataclasses.replace(one, compile_seconds=0.0)
    with pytest.raises(ValueError, match="A batch of 8 cannot be split evenly over 3 devices; 6 or 9 would do"):
        judged("training", TINY, example, chip_named("h100"), 3, compiles=False)
    drawn = judged("sampling", TINY, example, V5E, 1, compiles=False)
    assert 0 < drawn.flops["float32"] < one.flops["float32"] * 64 / 8


def test_the_bound_is_the_slowest_of_the_three() -> None:
    assert verdict(GIB).bound(V5E, 1) == (1.0, "products")
    assert verdict(GIB, bytes=2 * 0.819e12).bound(V5E, 1) == (2.0, "memory")
    ring = verdict(GIB, collective_bytes=4 * 0.2e12).bound(V5E, 4)
    assert ring == (pytest.approx(6.0), "links")  # 2 (n - 1) / n of the bytes
    assert verdict(math.nan).fits(V5E) is False
    unknown = dataclasses.replace(V5E, bandwidth=math.nan, bfloat16=math.nan, link=math.nan)
    seconds, reason = verdict(GIB).bound(unknown, 1)
    assert math.isnan(seconds) and reason == ""


def tried(experiment: Experiment, whole: float, devices: int = 1) -> list[str]:
    question = Fake(V5E, devices)
    object.__setattr__(question, "whole", whole)
    return [one.change.flags for one in changes.smallest(experiment, question, whole)]


def test_changes_in_order_until_one_fits() -> None:
    experiment = dataclasses.replace(TINY, training=Training(batch_size=32))
    assert tried(experiment, 20 * GIB) == ["--model.dtype bfloat16"]
    narrow = dataclasses.replace(experiment, model=VAE(2, dtype="bfloat16"))
    assert tried(narrow, 20 * GIB) == ["--model.remat"]
    # a microbatch that surely is too large is not compiled
    assert tried(experiment, 40 * GIB) == ["--model.dtype bfloat16", "--model.remat", "--microbatch 8"]
    assert tried(dataclasses.replace(experiment, model=LinearVAE((2,))), 20 * GIB) == ["--microbatch 16"]
    every = tried(experiment, 2000 * GIB, devices=4)
    assert every == [
        "--model.dtype bfloat16",
        "--model.remat",
        "--devices.fsdp",
        "--model.dtype bfloat16 --model.remat",
    ]
    deep = dataclasses.replace(experiment, model=recipes.presets_of("vdvae")["digits"].model)
    assert tried(deep, 2000 * GIB)[:3] == ["--model.dtype bfloat16", "--model.kept products", "--model.remat"]
    assert "--model.dtype bfloat16 --model.kept products" in tried(deep, 2000 * GIB)
    assert tried(dataclasses.replace(experiment, devices=Devices(fsdp=True)), 2000 * GIB, devices=4) == [
        "--model.dtype bfloat16",
        "--model.remat",
        "--model.dtype bfloat16 --model.remat",
    ]


def test_words() -> None:
    fits, not_so = verdict(10 * GIB), verdict(20 * GIB, "evaluation", collectives={"all-gather": 3})
    heading = words.heading("tiny", 8, V5E, 1, "libtpu 1")
    assert heading == "tiny, batches of 8, on one TPU v5e (15.75 GiB to use): compiled by libtpu 1."
    assert "4 x NVIDIA H100" in words.heading("tiny", 8, chip_named("h100"), 4, "")
    assert "75% of its memory" in words.heading("tiny", 8, chip_named("h100"), 4, "")
    first, training, evaluation = words.table([fits, not_so], V5E, 1).splitlines()
    assert first.split()[:3] == ["fits", "memory", "flops"]
    assert training.startswith("training    yes   10.00 GiB  197 TFLOP  819 GB  1 steps/s")
    assert evaluation.split()[:2] == ["evaluation", "no"] and "90 s" in evaluation
    remarks = words.remarks([fits, not_so], V5E)
    assert remarks[0].startswith("evaluation: 3 all-gather a call") and "smaller pieces" in remarks[1]
    change = changes.Tried(changes.Change("--model.remat", TINY), fits)
    assert words.attempt(change, V5E, 1) == "  --model.remat: fits, 10.00 GiB, 1 steps/s at best"
    near = dataclasses.replace(fits, by="", memory=14 * GIB)  # an estimate; of the compiler's number there is no doubt
    assert [words.fitting(one, V5E) for one in (fits, not_so, near)] == ["yes", "no", "perhaps"]
    assert words.fitting(dataclasses.replace(near, by="libtpu 1"), V5E) == "yes"
    assert "perhaps: the compiler may need a fifth more than the estimate." in words.remarks([near], V5E)
    assert "perhaps fits" in words.attempt(change._replace(verdict=near), V5E, 1)


def test_which_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ahead, "libtpu_version", lambda: None)
    assert not compiler_of(V5E) and not compiler_of(chip_named("h100"))
    monkeypatch.setattr(ahead, "libtpu_needed", lambda: "0.0.42.*")
    monkeypatch.setattr(ahead, "libtpu_version", lambda: "0.0.40")
    with pytest.raises(ValueError, match=r"libtpu is 0\.0\.40, but jax"):
        compiler_of(V5E)


@pytest.mark.slow
def test_a_process_of_its_own() -> None:
    """It says what the same function says here; what is wrong comes back as the error."""
    question = Question(V5E, compiles=False)
    (answer,) = question.ask(["training"], TINY)
    here = judged("training", TINY, example_of(TINY), V5E, 1, compiles=False)
    assert dataclasses.replace(answer, trace_seconds=0.0) == pytest.approx(dataclasses.replace(here, trace_seconds=0.0))
    with pytest.raises(ValueError, match="A batch of 8 cannot be split"):
        list(Question(chip_named("h100"), 3, compiles=False).ask(["training"], TINY))


@pytest.mark.slow
def test_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiled for its CPU, whose rates nobody publishes."""
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("TPU_ACCELERATOR_TYPE", raising=False)
    cpu = own_chip(8e9)
    (found,) = Question(cpu).ask(["sampling"], TINY)
    assert found.by.startswith("XLA of jax") and found.fits(cpu) and found.compile_seconds > 0 and found.bytes > 0
    assert math.isnan(found.bound(cpu, 1)[0])
    assert "on this machine's CPU (7.45 GiB to use)" in words.heading("tiny", 8, cpu, 1, found.by)
