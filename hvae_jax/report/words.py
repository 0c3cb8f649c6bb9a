"""Conclusions from the numbers of a diagnosis, in sentences."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from hvae_jax.report.remedies import remedies

NAMED = 6
"""Largest number of levels that a sentence names one by one."""


def words(report: dict[str, Any]) -> list[str]:
    """The conclusions from a report's numbers: collapse first, what may help against it last.

    Levels that are alike share a sentence.

    Args:
      report: as `diagnosis.diagnose` makes it.
    """
    return [
        *_collapse(report),
        *_units(report),
        *_observed(report),
        *_discrete(report),
        *_classes(report),
        _information(report),
        _gap(report),
        *_training(report),
        _samples(report),
        *_labels(report),
        *_remedies(report),
    ]


def estimate(number: Mapping[str, float]) -> str:
    """A value with its standard error, such as "0.29 ± 0.01": two digits, up to four where the error is small.

    An error that would be rounded to 0 is rounded up.
    """
    error = number["error"]
    digits = min(4, max(2, -math.floor(math.log10(error)))) if 0.0 < error < 1.0 else 2
    shown = max(error, 10.0**-digits) if error > 0.0 else error
    value = round(number["value"], digits) + 0.0  # -0.0 is written as 0.0
    return f"{value:.{digits}f} ± {shown:.{digits}f}"


def accuracy(number: Mapping[str, float]) -> str:
    """An accuracy with its standard error, such as "93.1% ± 1.2%"."""
    return f"{number['value']:.1%} ± {number['error']:.1%}"


def _collapse(report: Mapping[str, Any]) -> list[str]:
    """What the verdicts on the levels are."""
    names, rates, losses = report["levels"], report["rates"], report["losses"]
    found = {kind: [i for i, one in enumerate(report["verdicts"]) if one == kind] for kind in _VERDICTS}
    # an observed level costs -log p of its own value, which no level below can spare; `_observed` has its sentence
    found["spare"] = [i for i in found["spare"] if names[i] not in report.get("observed", ())]
    said = [_VERDICTS[kind](report, levels) for kind, levels in found.items() if levels]
    if not found["collapsed"] and not found["unclear"]:
        least = min(range(len(names)), key=lambda i: rates[i]["value"])
        lost = _lost([losses[least]])
        least_rate = f"the lowest rate is that of {names[least]}, {estimate(rates[least])} nats"
        said.insert(0, f"No level has collapsed: {least_rate}{lost}.")
    return said


def _collapsed(report: Mapping[str, Any], levels: Sequence[int]) -> str:
    verb = "has" if len(levels) == 1 else "have"
    return (
        f"{_subject(report, levels)} {verb} collapsed: {_rate(report, levels)}"
        f"{_lost([report['losses'][i] for i in levels])}."
    )


def _unclear(report: Mapping[str, Any], levels: Sequence[int]) -> str:
    return (
        f"Whether {_subject(report, levels)} {'has' if len(levels) == 1 else 'have'} collapsed is not clear: "
        f"{_rate(report, levels)}{_lost([report['losses'][i] for i in levels])}. More examples would tell."
    )


def _spare(report: Mapping[str, Any], levels: Sequence[int]) -> str:
    lost = _lost([report["losses"][i] for i in levels], "but")
    return f"{_subject(report, levels)} could be spared: {_rate(report, levels)}{lost}."


_VERDICTS = {"collapsed": _collapsed, "unclear": _unclear, "spare": _spare}


def _subject(report: Mapping[str, Any], levels: Sequence[int]) -> str:
    """The levels as the subject of a sentence: the name of one, or "3 of 10 levels (a, b and c)"."""
    names = [report["levels"][i] for i in levels]
    if len(names) == 1:
        return names[0]
    listed = f"{', '.join(names[:-1])} and {names[-1]}"
    if len(names) > NAMED:
        listed = f"{', '.join(names[: NAMED - 1])} and {len(names) - NAMED + 1} more"
    return f"{len(names)} of {len(report['levels'])} levels ({listed})"


def _rate(report: Mapping[str, Any], levels: Sequence[int]) -> str:
    rates = sorted((report["rates"][i] for i in levels), key=lambda rate: rate["value"])
    if len(rates) == 1:
        return f"its rate is {estimate(rates[0])} nats"
    return f"their rates are {estimate(rates[0])} to {estimate(rates[-1])} nats"


def _lost(losses: Sequence[Mapping[str, float] | None], joined: str = "and") -> str:
    """What the ELBO loses without a level, as the end of a sentence; "" where that is not known for all of them."""
    known = [loss for loss in losses if loss is not None]
    if len(known) < len(losses):
        return ""
    most = max(known, key=lambda loss: loss["value"])
    if len(known) == 1:
        return f", {joined} the ELBO loses {estimate(most)} nats if it alone is drawn from its prior"
    return f", {joined} the ELBO loses {estimate(most)} nats at most if one of them alone is drawn from its prior"


def _remedies(report: Mapping[str, Any]) -> list[str]:
    """What may help the levels that have collapsed; nothing if none has."""
    said = []
    for one in remedies(report):
        subject = _subject(report, [i for i, kind in enumerate(report["verdicts"]) if kind == "collapsed"])
        effect = f"Measured: {one['measured']}." if one["measured"] else "Its effect was not measured here."
        said.append(f"What may help {subject}: {one['name']}, which {one['does']} ({one['how']}). {effect}")
    return said


def _units(report: Mapping[str, Any]) -> list[str]:
    """Levels most of whose units carry next to nothing, and those whose units follow the levels above."""
    units = report["units"]
    alive = [i for i, one in enumerate(report["verdicts"]) if one != "collapsed" and units[i]["carrying"] is not None]
    few = [i for i in alive if 0 < units[i]["carrying"]["value"] < units[i]["units"] / 2]
    said = []
    if len(few) == 1:
        level, count = units[few[0]], units[few[0]]["carrying"]["value"]
        said.append(
            f"{report['levels'][few[0]]} uses few of its units: {count} of {level['units']} carry 95% of its rate, "
            f"each of the others {level['rates'][count]:.2g} nats at most."
        )
    elif few:
        shares = sorted(units[i]["carrying"]["value"] / units[i]["units"] for i in few)
        said.append(
            f"{_subject(report, few)} use few of their units: {shares[0]:.0%} to {shares[-1]:.0%} of the units of a "
            "level carry 95% of its rate."
        )
    follow = [
        i
        for i, level in enumerate(units)
        if level["moving"] is not None and level["active"]["value"] > 2 * max(level["moving"]["value"], 1)
    ]
    if len(follow) == 1:
        level = units[follow[0]]
        said.append(
            f"In {report['levels'][follow[0]]} {level['active']['value']} units are active by Burda's count, but only "
            f"{level['moving']['value']} move against their prior: the others follow the levels above."
        )
    elif follow:
        said.append(
            f"In {_subject(report, follow)} more than twice as many units are active by Burda's count as move against "
            "their prior: the others follow the levels above."
        )
    return said


def _observed(report: Mapping[str, Any]) -> list[str]:
    """What each observed level costs, and what it tells about x: of the first `NAMED`."""
    said = []
    for name in report.get("observed", ())[:NAMED]:
        i = report["levels"].index(name)
        rate, loss = report["rates"][i], report["losses"][i]
        share, lost = -rate["value"] / report["elbo"]["value"], _lost([loss])
        if loss is not None and loss["value"] < 0.0:
            gain = estimate({**loss, "value": -loss["value"]})
            lost = f", more than it tells of x: the ELBO gains {gain} nats if it alone is drawn from its prior"
        said.append(
            f"{name} is observed, a function of x: its rate is -log p of its own value, {estimate(rate)} nats "
            f"({share:.0%} of -ELBO){lost}."
        )
    return said


def _discrete(report: Mapping[str, Any]) -> list[str]:
    """What each discrete level is worth: of the first `NAMED` without those of one class an example (`_classes`)."""
    said = []
    told = [one["level"] for one in report.get("classes", ())]
    for i, level in enumerate(report["discrete"]):
        if level is None or report["levels"][i] in told or len(said) == NAMED:
            continue
        count, classes = level["variables"], level["classes"]
        bits = level["kind"] == "bernoulli"
        what = f"bit{'s' * (count > 1)}" if bits else f"variable{'s' * (count > 1)} of {classes} classes"
        share = report["rates"][i]["value"] / level["capacity"]
        sentence = (
            f"{report['levels'][i]} is discrete, {count} {what}: its rate is {share:.0%} of the "
            f"{level['capacity']:.2f} nats that it can hold"
        )
        average, lost = "on average " if count > 1 else "", _lost([report["losses"][i]])
        if not level["used"]:
            # the aggregated posterior of variables that say nothing of x has as many values as their prior
            said.append(f"{sentence}, {'' if lost else 'and '}no variable has a rate above 0.01 nats{lost}.")
            continue
        said.append(
            f"{sentence}, {level['used']} of {count} have a rate above 0.01 nats, "
            f"{'' if lost else 'and '}{average}{level['perplexity']:.1f} of {classes} values are in use{lost}."
        )
    return said


def _classes(report: Mapping[str, Any]) -> list[str]:
    """What each level of one class an example tells about x, and whether its classes are the labels."""
    said = []
    for one in report.get("classes", ()):
        most = math.log(one["classes"])
        sentence = (
            f"{one['level']} is one of {one['classes']} classes, which tells {estimate(one['information'])} of at most "
            f"{most:.2f} nats about x; as many as {one['used']:.1f} equally frequent classes are in use."
        )
        if one["accuracy"] is not None:
            sentence += (
                f" Its likeliest class is the label {accuracy(one['accuracy'])} of the time, and "
                f"{accuracy(one['clustering'])} if classes are matched to labels one to one (the most frequent label: "
                f"{one['accuracy']['chance']:.1%})."
            )
        said.append(sentence)
    return said


def _information(report: Mapping[str, Any]) -> str:
    """Information on x, as far as N examples can show it."""
    seen, rate = report["information"], report["rate"]
    last = seen["lower"][-1]
    if last is None:
        return f"How much of the rate of {estimate(rate)} nats is information on x cannot be estimated for this model."
    if last["value"] > seen["ceiling"] - 0.2:
        return (
            f"The latents tell all {report['examples']:,} examples apart: the lower bound of I(x; z), "
            f"{last['value']:.2f} nats, is at its ceiling log N = {seen['ceiling']:.2f}. The information lies between "
            f"that and the rate, {estimate(rate)}."
        )
    spent = seen["to_prior_lower"][-1]
    return (
        f"Of the rate of {estimate(rate)} nats, at least {estimate(last)} are information on x, and at least "
        f"{max(spent['value'], 0.0):.2f} go into an aggregated posterior that is not the prior."
    )


def _gap(report: Mapping[str, Any]) -> str:
    return (
        f"{report['iw_bound']['k']} importance-weighted draws gain {estimate(report['gap'])} nats on the ELBO: the "
        "posterior is loose by that or more."
    )


def _training(report: Mapping[str, Any]) -> list[str]:
    """How much better training examples are fitted; nothing if they are what is measured."""
    found = report.get("training")
    if found is None:
        return []
    gap, n = found["gap"], f"{found['examples']:,}"
    if abs(gap["value"]) <= 2 * gap["error"]:
        apart = f"their ELBO minus that of the {report['split']} split is {estimate(gap)} nats"
        return [f"{n} training examples are fitted no better than unseen ones: {apart}."]
    better = "better" if gap["value"] > 0 else "worse"
    size = estimate(gap | {"value": abs(gap["value"])})
    return [f"{n} training examples are fitted {size} nats {better} than the {report['split']} split (ELBO)."]


def _samples(report: Mapping[str, Any]) -> str:
    apart = report["told_apart"]["samples"]
    verdict = "cannot be told from data" if apart["value"] < 0.5 + 3 * apart["error"] else "can be told from data"
    return f"Samples {verdict} by the nearest neighbour, right {accuracy(apart)} of the time (50% is chance)."


def _labels(report: Mapping[str, Any]) -> list[str]:
    """What a linear probe reads off samples of the levels; nothing without labels."""
    found = report["probes"]
    if found is None:
        return []
    names, levels = report["levels"], found["levels"]
    sampled = [level["sampled"] for level in levels]
    chance = f"{sampled[0]['chance']:.1%}"
    ranked = sorted(range(len(names)), key=lambda i: -sampled[i]["value"])
    top = ranked[0]
    first = f"{accuracy(sampled[top])} of the time"
    if found["best"] is not None:
        said = (
            f"Labels are read best off samples of {names[top]}: a linear probe is right {first} (the most frequent "
            f"label: {chance}), which takes {levels[top]['needs']:.2f} nats at least."
        )
    elif len(ranked) == 1 or sampled[top]["value"] - 2 * sampled[top]["error"] <= sampled[top]["chance"]:
        said = (
            f"No level's samples tell the labels: the best linear probe, of {names[top]}, is right {first} (the most "
            f"frequent label: {chance})."
        )
    else:
        second = f"{accuracy(sampled[ranked[1]])} of the time"
        said = (
            f"No level's samples tell the labels clearly better than another's: a linear probe of {names[top]} is "
            f"right {first}, one of {names[ranked[1]]} {second} (the most frequent label: {chance})."
        )
    return [said]
