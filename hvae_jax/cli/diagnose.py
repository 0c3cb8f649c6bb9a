"""`hvae diagnose`: a report on what each level does, as a page, as JSON and in words."""

import dataclasses
from pathlib import Path

import jax

from hvae_jax.cli.arguments import Import, Run, check_out
from hvae_jax.experiment import settings
from hvae_jax.experiment.checks import check_fits
from hvae_jax.experiment.reopen import open_run
from hvae_jax.report import charts
from hvae_jax.report.diagnosis import Effort, diagnose
from hvae_jax.report.page import page
from hvae_jax.report.sketch import walk_pictures
from hvae_jax.runtime.files import write_whole
from hvae_jax.runtime.texts import say


@dataclasses.dataclass(frozen=True)
class Diagnose:
    """Reports what the levels of a run do, as one HTML page, as JSON and in words.

    Attributes:
      run: the run folder.
      split: split that is measured; the last one (test, if there is one) by default.
      effort: how much is computed.
      other: a data set that the model was not made for, to test whether it is detected; a name or a path.
      other_directory: its directory, as --data.directory.
      seed: seed of the draws.
      out: file of the page, with the JSON beside it; report.html in the run folder by default.
      import_: modules beside hvae_jax that settings.json may name.
    """

    run: Run
    split: str | None = None
    effort: Effort = Effort()
    other: str | None = None
    other_directory: str | None = None
    seed: int = 0
    out: Path | None = None
    import_: Import = ()

    def __call__(self) -> None:
        """Runs the command."""
        check_out(self.out)
        run = open_run(self.run, self.import_)
        variables, dataset = run.variables, run.dataset
        model = run.experiment.model
        other = None
        if self.other is not None:
            other = run.experiment.data.of_other(self.other, self.other_directory)
            check_fits(model, other)
            if other.event != dataset.event:
                raise ValueError(
                    f"{other.name} has examples of shape {other.event}, but the run's have {dataset.event}."
                )
        key = jax.random.key(self.seed)
        report = diagnose(model, variables, dataset, key, self.split, self.effort, other)
        report |= {"run": run.experiment.name, "best_step": run.progress.best_step, "seed": self.seed}
        out = self.out or self.run / "report.html"
        figures = {
            "Rate of each level and all above it, and how much of it is information on x": charts.information_chart(
                report
            ),
            "KL of each unit; below the dotted line it says next to nothing": charts.units_chart(report),
            "Rate and distortion": charts.plane_chart(report),
        }
        images = walk_pictures(model, variables, dataset, report, jax.random.fold_in(key, 1))
        title = f"{run.experiment.name}: what its levels do"
        write_whole(out, page(title, report, figures, images))
        write_whole(out.with_suffix(".json"), settings.dumps(report))
        say("\n".join(f"- {sentence}" for sentence in report["words"]))
        say(f"{out} and {out.with_suffix('.json')}")
