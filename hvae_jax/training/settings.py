"""How long to train, in what portions: the settings of the loop."""

import dataclasses
from typing import Literal

from hvae_jax.training.gradients import Gradients
from hvae_jax.training.plan import Plan


@dataclasses.dataclass(frozen=True)
class Training:
    """How long to train, in what portions.

    Attributes:
      batch_size: examples a step, over all devices; the last batch of an epoch has what is left.
      epochs: passes over the train split at most.
      steps: steps at most; None leaves it to `epochs`.
      patience: validations in a row without a better ELBO that are borne; one more ends training.
      select: whose variables are kept and measured: those of the best validation ELBO, or the last ones, for objectives
        that the ELBO does not rank (importance weights, constraints); then patience has no say.
      init_examples: how many examples the model is initialised on, which matters where its initialisation looks at
        them; None takes a batch.
      ema: decay of averaged parameters, used in evaluation; None keeps none.
      gradients: limits on their norm: what is clipped, and which steps are skipped.
      microbatch: examples whose gradients are computed at once; a batch is cut into that many at a time and their
        gradients are averaged. None takes the whole batch.
      per_dispatch: steps sent to the device at once, at most.
      unroll: of these, so many are written out in one turn of the loop: for convolutions on CPUs, see `make_dispatch`.
      validate_every: steps from one validation to the next, rounded up to the end of a dispatch; None: every epoch.
      validation_size: examples validated at once.
      save_seconds: from one checkpoint to the next, rounded up to the end of a dispatch.
      save_every: steps likewise, if that is sooner; None leaves it to `save_seconds`.
      keep: the latest checkpoints, so many, stay.
      pictures_every: steps from one grid of samples and reconstructions to the next, likewise; None draws them at the
        end alone.
      max_streak: skipped steps in a row that end the run: all but the first few had no finite loss or gradient.
    """

    batch_size: int = 64
    epochs: int = 1000
    steps: int | None = None
    patience: int = 20
    select: Literal["best", "last"] = "best"
    init_examples: int | None = None
    ema: float | None = None
    gradients: Gradients = Gradients()
    microbatch: int | None = None
    per_dispatch: int = 100
    unroll: int = 1
    validate_every: int | None = None
    validation_size: int = 512
    save_seconds: float = 60.0
    save_every: int | None = None
    keep: int = 2
    pictures_every: int | None = 5000
    max_streak: int = 100

    def __post_init__(self) -> None:
        for name in ("batch_size", "epochs", "per_dispatch", "unroll", "keep", "max_streak", "validation_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, but it has to be 1 or more.")
        for name in ("steps", "init_examples", "microbatch", "validate_every", "save_every", "pictures_every"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, but it has to be 1 or more, or None.")
        if self.select not in ("best", "last"):
            raise ValueError(f"select is {self.select!r}, but it has to be 'best' or 'last'.")
        if self.patience < 0:
            raise ValueError(f"patience is {self.patience}, but it has to be 0 or more.")
        if not self.save_seconds >= 0:
            raise ValueError(f"save_seconds is {self.save_seconds}, but it has to be 0 or more.")
        if self.gradients.skips and self.gradients.skip_streak >= self.max_streak:
            raise ValueError(
                f"gradients.skip_streak is {self.gradients.skip_streak}, but it has to be less than max_streak, "
                f"{self.max_streak}, which ends the run."
            )
        if self.ema is not None and not 0 < self.ema < 1:
            raise ValueError(f"ema is {self.ema}, but a decay lies between 0 and 1, such as 0.999 (or None).")

    def plan(self, examples: int, seed: tuple[int, ...] = (0,)) -> Plan:
        """Which batches each dispatch takes."""
        last = self.epochs * -(-examples // self.batch_size)
        last = last if self.steps is None else min(self.steps, last)
        return Plan(examples, self.batch_size, self.per_dispatch, last, seed)


def crossed(first: int, step: int, every: int | None) -> bool:
    """Whether a multiple of `every` lies above `first` and not above `step`."""
    return every is not None and step // every > first // every
