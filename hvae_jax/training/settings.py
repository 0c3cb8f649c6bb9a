"""The settings of the training loop."""

import dataclasses
from typing import Literal

from hvae_jax.records import checked
from hvae_jax.training.gradients import Gradients
from hvae_jax.training.plan import Plan
from hvae_jax.training.stages import Stage


@dataclasses.dataclass(frozen=True)
@checked
class Training:
    """Length of training, sizes of its portions, and intervals of what happens in between.

    Attributes:
      batch_size: examples per step, over all devices; the last batch of an epoch has what is left.
      epochs: largest number of passes over the train split.
      steps: largest number of steps; None leaves the limit to `epochs` and `stages`.
      stages: stages in turn, each of which trains some of the parameters; () trains all of them throughout. On the
        command line a stage is a word such as 500:trains=module2:modules=2.
      schedule_steps: number of steps that the schedules of objective and optimiser are written for. They are stretched
        to the length of the run where that differs, so that a shorter run anneals as well; None leaves them alone.
      patience: largest number of validations in a row without a better ELBO; one more ends training, or its stage.
      select: variables that are kept and measured: "best" takes those of the best validation ELBO, "last" the last
        ones, for objectives that the ELBO does not rank (importance weights, constraints), and ignores patience.
      init_examples: number of examples the model is initialised on, which matters if its initialisation looks at them;
        None takes a batch.
      ema: decay of the averaged parameters and batch statistics, which evaluation uses; None keeps no average.
      gradients: limits on the norm of the gradient, beyond which it is clipped or its step is skipped.
      microbatch: largest number of examples whose gradients are computed at once; those of a batch's parts are
        averaged. None takes the whole batch.
      per_dispatch: largest number of steps sent to the device at once.
      unroll: number of steps written out per iteration of the scan over a dispatch; for convolutions on CPUs, see
        `make_dispatch`.
      validate_every: steps between validations, rounded up to the end of a dispatch; None validates once an epoch.
      validation_size: examples validated at once.
      save_seconds: seconds between checkpoints, rounded up to the end of a dispatch.
      save_every: steps between checkpoints, if that is sooner; None leaves them to `save_seconds`.
      keep: number of latest checkpoints kept.
      pictures_every: steps between grids of samples and reconstructions, rounded up to the end of a dispatch; None
        draws them at the end alone.
      max_streak: number of skipped steps in a row that ends the run. Of these, only the first `gradients.skip_streak`
        can have been skipped for their norm.

    Raises ValueError for a number below its least value, and for `gradients.skip_streak` from `max_streak` on.

    Example:
        >>> from hvae_jax import training
        >>> training.Training(batch_size=64, epochs=2).plan(1000).last_step  # two epochs of 16 steps
        32
    """

    batch_size: int = 64
    epochs: int = 1000
    steps: int | None = None
    stages: tuple[Stage, ...] = ()
    schedule_steps: int | None = None
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
        optional = ("steps", "schedule_steps", "init_examples", "microbatch", "validate_every", "save_every")
        for name in (*optional, "pictures_every"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, but it has to be 1 or more, or None.")
        if self.patience < 0:
            raise ValueError(f"patience is {self.patience}, but it has to be 0 or more.")
        if not self.save_seconds >= 0:
            raise ValueError(f"save_seconds is {self.save_seconds}, but it has to be 0 or more.")
        # A streak of large steps has to end by itself before the run takes it for divergence.
        if self.gradients.skips and self.gradients.skip_streak >= self.max_streak:
            raise ValueError(
                f"gradients.skip_streak is {self.gradients.skip_streak}, but it has to be less than max_streak, "
                f"{self.max_streak}, which ends the run."
            )
        if self.ema is not None and not 0 < self.ema < 1:
            raise ValueError(f"ema is {self.ema}, but a decay lies between 0 and 1, such as 0.999 (or None).")

    def stage(self, number: int) -> Stage | None:
        """The stage with this index; None if there are no stages. Raises ValueError for an index beyond the last."""
        if number >= max(1, len(self.stages)):
            raise ValueError(
                f"The run is in stage {number + 1}, but there are {len(self.stages)} stages: give the stages that it "
                "began with, and others behind them."
            )
        return self.stages[number] if self.stages else None

    def plan(self, examples: int, seed: tuple[int, ...] = (0,)) -> Plan:
        """The plan for a train split of that many examples. Raises ValueError if it ends before the last stage."""
        # In steps: an epoch's partial batch is a step as any other.
        last = self.epochs * -(-examples // self.batch_size)
        last = last if self.steps is None else min(self.steps, last)
        if self.stages:
            *earlier, final = (stage.steps for stage in self.stages)
            if sum(earlier) >= last:
                raise ValueError(
                    f"Training ends at step {last:,} at the latest (steps={self.steps}, epochs={self.epochs}), but the "
                    f"{len(earlier)} stages before the last take {sum(earlier):,} steps: raise steps or epochs, or "
                    "shorten stages."
                )
            last = min(last, sum(earlier) + final)
        return Plan(examples, self.batch_size, self.per_dispatch, last, seed)


def crossed(first: int, step: int, every: int | None) -> bool:
    """Whether the steps from `first` + 1 to `step` include a multiple of `every`; never if it is None."""
    return every is not None and step // every > first // every
