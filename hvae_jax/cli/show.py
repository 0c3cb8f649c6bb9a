"""`hvae show`: a run's numbers."""

import dataclasses

from hvae_jax.cli.arguments import Import, Run
from hvae_jax.experiment import box, exchange, tables
from hvae_jax.experiment.reopen import no_run, open_stored
from hvae_jax.runtime.texts import say


@dataclasses.dataclass(frozen=True)
class Show:
    """Prints a run's numbers, with a table of its levels.

    Attributes:
      run: the run folder, or the name of a model in the box.
      import_: modules beside hvae_jax that settings.json may name; numbers need none, but every command on a run
        folder takes the same.
    """

    run: Run
    import_: Import = ()

    def __call__(self) -> None:
        """Runs the command."""
        folder = box.resolved(self.run)
        if box.is_packed(folder) or (folder.suffix == ".safetensors" and folder.is_file()):
            _say_card(box.read_card(folder) if folder.is_dir() else open_stored(self.run, self.import_).card)
            return
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


def _say_card(card: box.Card) -> None:
    """Prints a card, and the tables of the run that it is of."""
    say(card)
    if "elbo" in card.result:
        if card.weights != "float32":
            say(f"The run before its weights were stored as {card.weights}:\n")
        say(tables.table(card.result))
        say("")
        say(tables.level_table(card.result))
