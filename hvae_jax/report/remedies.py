"""What may help a level that has collapsed: one table, with the setting and the effect that was measured.

Every number in it is from a page of docs/results, which has command, budget and spread; nothing is promised of other
data. A remedy is named only for a model and a level that it serves. Smoothed priors are not among them: wherever they
were measured, they lowered the rates of upper levels (smoothing.md).
"""

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any

from hvae_jax.trace import Model


@dataclasses.dataclass(frozen=True)
class Remedy:
    """A way to make a collapsed level informative.

    Attributes:
      name: its name, a noun phrase.
      does: what it does, a clause after "which".
      how: the setting, as in a script, or the flag.
      measured: the effect that was measured, with the page of docs/results; None if none was.
      suits: whether it serves a level, from the report and the level's index.
    """

    name: str
    does: str
    how: str
    measured: str | None
    suits: Callable[[Mapping[str, Any], int], bool] = lambda report, level: True


def facts(model: Model) -> dict[str, Any]:
    """What remedies ask of a model, as plain values.

    `receptive_field` is that of its decoder, -1 for all pixels before and None for a decoder that sees no pixel;
    `observed` the names of its observed levels.
    """
    head = model.likelihood
    field = getattr(head, "receptive_field", 0)
    return {
        "receptive_field": -1 if field is None else field or None,
        "observed": list(model.observed),
    }


def _kind(report: Mapping[str, Any], level: int) -> str:
    """The kind of a level: "discrete", "gaussian" or "other"."""
    if report["discrete"][level] is not None:
        return "discrete"
    return "gaussian" if report["units"][level]["moving"] is not None else "other"


def _sees_pixels(report: Mapping[str, Any], level: int) -> bool:
    return report["model"]["receptive_field"] is not None


def _has_a_density(report: Mapping[str, Any], level: int) -> bool:
    return _kind(report, level) != "other"


REMEDIES = (
    Remedy(
        "a decoder that sees fewer pixels",
        "leaves to z what it cannot see",
        "--model.likelihood.receptive-field 2",
        "one level on digits has 5.7 nats with a PixelCNN that sees no other pixel, 2.0 with one that sees 2 back and "
        "0.9 with one that sees all, and fits 9 nats better with either of the last two (usefulness_plane.md)",
        _sees_pixels,
    ),
    Remedy(
        "free bits",
        "make the first nats of every level cost nothing",
        "objective=Regularised(free_bits=FreeBits(2.0)), then --objective.free-bits.nats",
        "2 nats a level raise the rate of one level under a PixelCNN that sees all pixels from 0.9 to 2.8 nats, with a "
        "bound 1.0 nats better (usefulness_plane.md)",
    ),
    Remedy(
        "KL warm-up",
        "lets a level find a use before its rate costs its full price",
        "objective=Regularised(warm_up=Linear(0, STEPS)), then --objective.warm-up.end",
        "over a third of training it raises the second of five bottom-up levels from 3.1 to 7.0 nats, with a bound "
        "2.3 nats better, and gains nothing in a Ladder VAE (classics.md)",
    ),
    Remedy(
        "a target for the mutual information",
        "asks the model itself for so many nats between x and the level",
        "objective=MutualInformation(2.0, levels=(LEVEL,)), then --objective.target",
        "a target of 2 nats raises the rate of one level under a PixelCNN that sees all pixels from 0.2 nats "
        "to between 0.5 and 2.5, over three seeds of 1,000 steps, with bounds 0.1 to 1.8 nats worse "
        "(mutual_information.md)",
        _has_a_density,
    ),
    Remedy(
        "GECO",
        "weighs the likelihood until a distortion is met, and pays the rate that this takes",
        "objective=GECO((Distortion(TARGET),)), a target in nats per element",
        "a distortion of 1.25 nats a pixel takes 6.8 nats of rate in two top-down levels under a PixelCNN that sees "
        "all pixels, where the ELBO alone has 2.9, with the same bound (usefulness_plane.md)",
    ),
    Remedy(
        "a smaller weight of the rate",
        "lets every nat of z cost less than a nat of p(x | z)",
        "--beta 0.5, which makes the objective Regularised(beta=0.5)",
        "a beta of 0.5 raises the rate of two top-down levels under a PixelCNN that sees all pixels from 2.9 to 8.0 "
        "nats, with the same bound (usefulness_plane.md)",
    ),
    Remedy(
        "a target for the rate",
        "penalises the distance of the rates from numbers that you choose, one a level",
        "objective=RateTarget((2.0, 4.0)), then --objective.target",
        None,
    ),
)


def remedies(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The remedies that serve a collapsed level, those with a measured effect first; none if no level has collapsed.

    Each has its name, what it does, how it is set, the effect that was measured and the page in docs/results that has
    it (None for both: not measured), and the names of the levels that it is for. Levels that are functions of x are
    left out.

    Args:
      report: as `diagnosis.diagnose` makes it.
    """
    if "model" not in report:
        return []
    names, observed = report["levels"], report["model"]["observed"]
    collapsed = [i for i, one in enumerate(report["verdicts"]) if one == "collapsed" and names[i] not in observed]
    found = []
    for one in sorted(REMEDIES, key=lambda one: one.measured is None):
        levels = [names[i] for i in collapsed if one.suits(report, i)]
        if levels:
            page = re.findall(r"\((\w+\.md)\)", one.measured or "")
            said = {"name": one.name, "does": one.does, "how": one.how, "measured": one.measured}
            found.append(said | {"page": f"docs/results/{page[0]}" if page else None, "levels": levels})
    return found
