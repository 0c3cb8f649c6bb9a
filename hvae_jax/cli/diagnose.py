"""`hvae diagnose`: a report on what each level does, as a page, as JSON and in words."""

import dataclasses
import sys
import time
from pathlib import Path

import jax

from hvae_jax.cli.arguments import Import, Run, check_out
from hvae_jax.experiment import settings
from hvae_jax.experiment.checks import check_fits
from hvae_jax.experiment.reopen import open_run, outputs
from hvae_jax.report.budget import fit_effort
from hvae_jax.report.diagnosis import Effort, diagnose
from hvae_jax.report.page import page
from hvae_jax.report.walks import walk_pictures
from hvae_jax.runtime.compilation import give_back_freed_memory
from hvae_jax.runtime.errors import first_line
from hvae_jax.runtime.files import write_whole
from hvae_jax.runtime.texts import say


@dataclasses.dataclass(frozen=True)
class Diagnose:
    """Reports what the levels of a run do, in words, as JSON and as one HTML page.

    Attributes:
      run: the run folder, or the name of a model in the box.
      split: split that is measured; the last one (test, if there is one) by default.
      effort: how much is computed at most.
      seconds: seconds that the model's passes may take on two cores: the effort is halved until they do. None takes
        the effort as it is.
      pictures: whether the page has charts and images; without them there is only the JSON and the words.
      other: a data set that the model was not made for, to test whether it is detected; a name or a path.
      other_directory: its directory, as --data.directory.
      seed: seed of the draws.
      out: file of the page, with the JSON beside it; report.html in the run folder by default.
      import_: modules beside hvae_jax that settings.json may name.
    """

    run: Run
    split: str | None = None
    effort: Effort = Effort()
    seconds: float | None = 25.0
    pictures: bool = True
    other: str | None = None
    other_directory: str | None = None
    seed: int = 0
    out: Path | None = None
    import_: Import = ()

    def __call__(self) -> None:
        """Runs the command."""
        check_out(self.out)
        if self.pictures and self.out is not None and self.out.suffix == ".json":
            raise ValueError(f"--out {self.out} is the page, whose JSON lies beside it: name it .html.")
        run = open_run(self.run, self.import_)
        variables, dataset = run.variables, run.dataset
        model = run.experiment.model.rolled
        other = None
        if self.other is not None:
            other = run.experiment.data.of_other(self.other, self.other_directory)
            check_fits(model, other)
            if other.event != dataset.event:
                raise ValueError(
                    f"{other.name} has examples of shape {other.event}, but the run's have {dataset.event}."
                )
        key = jax.random.key(self.seed)
        effort, seconds = fit_effort(self.effort, self.seconds, model, variables, dataset, self.split)
        numbers = ", ".join(f"{name} {number:,}" for name, number in dataclasses.asdict(effort).items())
        how = "as asked for" if effort == self.effort else "--seconds and --effort.* change it"
        tell = Progress()
        tell(f"about {seconds:.0f} s of passes on two cores, and compilation ({numbers}: {how})")
        report = diagnose(model, variables, dataset, key, self.split, effort, other, tell)
        report |= {"run": run.experiment.name, "best_step": run.progress.best_step, "seed": self.seed}
        report["training_seed"] = run.experiment.seed
        out = self.out or outputs(self.run, "report.html")
        # Numbers and words first: whatever becomes of the pictures, they are there.
        write_whole(out.with_suffix(".json"), settings.dumps(report))
        say("\n".join(f"- {sentence}" for sentence in report["words"]))
        if not self.pictures:
            say(out.with_suffix(".json"))
            return
        tell("pictures")
        try:
            pictures = walk_pictures(model, variables, dataset, report, jax.random.fold_in(key, 1))
        except Exception as error:
            what = f"{type(error).__name__}: {first_line(error)}"
            say(f"warning: the pictures failed ({what}), so that there is no page; {out.with_suffix('.json')}")
            return
        write_whole(out, page(f"{run.experiment.name}: what its levels do", report, pictures))
        say(f"{out} and {out.with_suffix('.json')}")


class Progress:
    """Prints lines with the seconds gone, where errors go, so that the output proper can be piped.

    Between the parts of a report memory is given back: every part compiles programs of its own, and runs them once.
    """

    def __init__(self) -> None:
        self._start = time.perf_counter()

    def __call__(self, line: str) -> None:
        """Gives memory back, and prints the line."""
        give_back_freed_memory()
        print(f"[{time.perf_counter() - self._start:4.0f} s] {line}", file=sys.stderr, flush=True)
