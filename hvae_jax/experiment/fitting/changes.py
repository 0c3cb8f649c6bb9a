"""Changes that make a training step fit: bfloat16, products kept, remat, microbatches, FSDP; alone, then together."""

import dataclasses
from collections.abc import Iterator
from typing import Any, NamedTuple

from hvae_jax.experiment.fitting.asked import Question
from hvae_jax.experiment.fitting.verdict import Verdict
from hvae_jax.experiment.records import Experiment


class Change(NamedTuple):
    """An experiment that takes less memory.

    Attributes:
      flags: the flags that make it, "--model.dtype bfloat16".
      experiment: the experiment with them.
    """

    flags: str
    experiment: Experiment


class Tried(NamedTuple):
    """A change, and the verdict on its training step."""

    change: Change
    verdict: Verdict


def smallest(experiment: Experiment, question: Question, needed: float) -> Iterator[Tried]:
    """Tries changes in order until one fits, which is the last that comes out; none if nothing can be changed.

    bfloat16, products alone kept, remat, microbatches and FSDP, each alone; then bfloat16 with products kept, bfloat16
    with remat, these with microbatches, and with FSDP.

    Args:
      needed: bytes that the experiment takes as it is, for the first size of microbatches that is tried.
    """
    for base, halves in _bases(experiment, question.devices):
        for change in _halved(base, question, needed) if halves else (base,):
            found = Tried(change, next(question.ask(["training"], change.experiment)))
            yield found
            if found.verdict.fits(question.chip):
                return


def _bases(experiment: Experiment, devices: int) -> Iterator[tuple[Change, bool]]:
    """Changes, each with whether its batch is to be cut into microbatches as well."""
    plain = Change("", experiment)
    narrow, again, split = _with_dtype(plain), _with_remat(plain), _with_fsdp(plain, devices)
    yield from ((one, False) for one in (narrow, _with_products(plain), again) if one is not None)
    yield plain, True
    if split is not None:
        yield split, False
    together = _with_remat(narrow) if narrow is not None else None
    most = together or narrow or again
    if narrow is not None and (kept := _with_products(narrow)) is not None:
        yield kept, False
    if together is not None:
        yield together, False
    if most is not None:
        yield most, True
    if (all_of_them := _with_fsdp(most or plain, devices)) is not None:
        yield all_of_them, True


def _with_dtype(change: Change) -> Change | None:
    return _with_setting(change, "dtype", None, "bfloat16", "--model.dtype bfloat16")


def _with_products(change: Change) -> Change | None:
    return _with_setting(change, "kept", "all", "products", "--model.kept products")


def _with_remat(change: Change) -> Change | None:
    return _with_setting(change, "remat", False, True, "--model.remat")


def _with_setting(change: Change, name: str, old: Any, new: Any, flag: str) -> Change | None:
    """The change with another value of a setting of the model; None for a model that lacks it, or has changed it."""
    record = change.experiment.model
    values = {field.name: getattr(record, field.name) for field in dataclasses.fields(record)}
    if name not in values or values[name] != old:
        return None
    changed = dataclasses.replace(change.experiment, model=record.clone(**{name: new}))
    return Change(f"{change.flags} {flag}".strip(), changed)


def _with_fsdp(change: Change, devices: int) -> Change | None:
    if devices == 1 or change.experiment.devices.fsdp:
        return None
    record = dataclasses.replace(change.experiment.devices, fsdp=True)
    return Change(f"{change.flags} --devices.fsdp".strip(), dataclasses.replace(change.experiment, devices=record))


def _halved(change: Change, question: Question, needed: float) -> Iterator[Change]:
    """The change with microbatches: halves of the batch that the devices divide, from the first that may fit on."""
    training = change.experiment.training
    size = training.microbatch or training.batch_size
    while size % 2 == 0 and (size // 2) % question.devices == 0 and training.batch_size % (size // 2) == 0:
        size //= 2
        # memory grows at most with the microbatch
        if needed * size / training.batch_size > question.chip.usable:
            continue
        settings = dataclasses.replace(training, microbatch=size)
        changed = dataclasses.replace(change.experiment, training=settings)
        yield Change(f"{change.flags} --microbatch {size}".strip(), changed)
