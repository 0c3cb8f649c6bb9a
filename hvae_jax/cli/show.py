"""`hvae show`: a run's numbers."""

import dataclasses

from hvae_jax.cli.arguments import Import, Run
from hvae_jax.experiment import exchange, tables
from hvae_jax.experiment.reopen import no_run
from hvae_jax.runtime.texts import say


@dataclasses.dataclass(frozen=True)
class Show:
    """Prints a run's numbers, with a table of its levels.

    Attributes:
      run: the run folder.
      import_: modules beside hvae_jax that settings.json may name; numbers need none, but every command on a run
        folder takes the same.
    """

    run: Run
    import_: Import = ()

    def __call__(self) -> None:
        """Runs the command."""
        path = self.run / "result.json"
        if not path.exists():
            if not (self.run / "settings.json").exists():
                raise no_run(self.run)
            raise FileNotFoundError(
                f"{self.run} holds an unfinished run: there is no result.json in it. Run its script again to go on, or "
                "`hvae evaluate` it as it is."
            )
        result = tables.read(path)
        if "imported" in result:
            say(exchange.import_summary(result, self.run))
        if "elbo" in result:
            say(tables.summary(result, self.run))
            say("")
            say(tables.level_table(result))
