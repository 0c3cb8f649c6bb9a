"""The usefulness plane: how well models fit, how useful their latents are, and what a strong decoder does to both.

    python experiments/usefulness_plane.py                                     # digits
    python experiments/usefulness_plane.py --data.name mnist --data.binarise threshold --steps 5000 --fields 0 2 5

Figures 1 to 3 of the article, drawn from runs. Four families (one level; two levels inferred bottom-up, with the right
estimator and with the one the article prints; two levels top-down), each with decoders that see none, some and all of
the pixels before, each over seeds, for the same number of steps; and free bits as a remedy where the decoder sees all.
Fit is the importance-weighted bound on the test split; usefulness is the total rate, the top level's rate, or what a
linear probe of all levels reads of the labels. Error bars are one standard error over test examples.

Leaves plane.png, rate_distortion.png (and .svg), and plane.json with every number, in the folder. It goes on where it
was interrupted: plane.json is written after each run.
"""

import dataclasses
import json
import math
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tyro

import hvae_jax as hv
from hvae_jax import doctor, settings
from hvae_jax.compilation import use_compilation_cache
from hvae_jax.data import Dataset
from hvae_jax.diagnostics import Usage, information, linear_probe, standard_error, usage
from hvae_jax.experiment import Data, errors_said
from hvae_jax.likelihoods import for_data
from hvae_jax.models import HVAE, VAE, TopDownVAE, TwoLevelVAE
from hvae_jax.objectives import FreeBits, NegativeELBO, Objective, Regularised
from hvae_jax.training import Adamax, Plan, data_mesh, init_state, make_dispatch, make_step
from hvae_jax.training.feeds import Resident

COLOURS = {"one level": "#2a78d6", "bottom-up": "#1baf7a", "bottom-up, printed": "#e34948", "top-down": "#4a3aa7"}
MARKERS = ("o", "s", "^", "D", "v")


@dataclasses.dataclass(frozen=True)
class Settings:
    """What is trained, and how much of it.

    Attributes:
      data: which data set.
      fields: receptive fields of the decoders; -1 stands for all pixels before.
      seeds: of each model, one run each.
      steps: of training, the same for all; batch_size: examples of each.
      hidden: width of the dense networks; width and layers: of the PixelCNN.
      remedy: free bits, nats a level, of the runs with a remedy; 0 makes none.
      draws: K of the importance-weighted bound.
      examples: of the test split that are measured.
      folder: where everything goes.
    """

    data: Data = Data("digits")
    fields: tuple[int, ...] = (0, 2, -1)
    seeds: tuple[int, ...] = (0, 1, 2)
    steps: int = 1000
    batch_size: int = 64
    hidden: int = 128
    width: int = 16
    layers: int = 3
    remedy: float = 2.0
    draws: int = 100
    examples: int = 1000
    folder: Path = Path("runs/usefulness_plane")


def families(likelihood: hv.likelihoods.Likelihood, hidden: int) -> dict[str, HVAE]:
    """The four, by the name they have in the figure."""
    two = TwoLevelVAE(latents=(8, 16), hidden=hidden, likelihood=likelihood)
    return {
        "one level": VAE(latents=16, hidden=hidden, likelihood=likelihood),
        "bottom-up": two,
        "bottom-up, printed": two.clone(estimator="printed_not_the_elbo"),
        "top-down": TopDownVAE(latents=(8, 16), hidden=hidden, likelihood=likelihood),
    }


@dataclasses.dataclass(frozen=True)
class Kind:
    """A point of the plane but for its seed."""

    family: str
    field: int
    remedy: bool
    model: HVAE
    objective: Objective


def kinds(chosen: Settings, dataset: Dataset) -> list[Kind]:
    """Every family with every decoder; where it sees all, with a remedy too."""
    found = []
    for field in chosen.fields:
        head = hv.PixelCNN(for_data(dataset), None if field < 0 else field, chosen.layers, chosen.width)
        for family, model in families(head, chosen.hidden).items():
            found.append(Kind(family, field, False, model, NegativeELBO()))
            if field < 0 and chosen.remedy:
                remedy = Regularised(free_bits=FreeBits(chosen.remedy, "level", "batch"))
                found.append(Kind(family, field, True, model, remedy))
    return found


def train(kind: Kind, chosen: Settings, dataset: Dataset, programs: dict[str, Any], seed: int) -> Any:
    """Variables after the last step."""
    split, optimiser, mesh = dataset.train, Adamax(learning_rate=1e-3).build(), data_mesh(1)
    key = jax.random.key(seed)
    if "dispatch" not in programs:
        programs["dispatch"] = make_dispatch(make_step(kind.model, kind.objective, optimiser), mesh, dataset.augment)
    state = init_state(kind.model, kind.objective, optimiser, key, split.take(slice(chosen.batch_size)).x)
    plan = Plan(len(split), chosen.batch_size, 1, chosen.steps, (seed,))
    feed = Resident(split.x, None, plan, mesh)
    for portion in feed.portions(0):
        state, _ = programs["dispatch"](state, feed.data, portion, jax.random.fold_in(key, 1))
    return state.variables


def measure(kind: Kind, chosen: Settings, dataset: Dataset, programs: dict[str, Any], variables: Any) -> dict[str, Any]:
    """The numbers of one run, each with its standard error; rates are right whatever estimator was trained on."""
    model = kind.model
    if isinstance(model, TwoLevelVAE):
        model = model.clone(estimator="log_ratio")
    test, train = dataset.splits["test"].take(slice(chosen.examples)), dataset.splits["train"].take(slice(2000))
    if "usage" not in programs:
        programs["usage"] = jax.jit(lambda v, x, k: usage(model, v, x, k, draws=8))
    keys = jax.random.split(jax.random.key(100), 4)
    bounds = jax.device_get(hv.importance(model, variables, test.x, keys[0], chosen.draws, 10))
    used: Usage = jax.device_get(programs["usage"](variables, test.x, keys[1]))
    seen = information(model, variables, test.x, keys[2], min(100, len(test)))
    numbers: dict[str, Any] = {
        "iw_bound": _number(bounds.bound),
        "elbo": _number(bounds.elbo),
        "rate": _number(used.rates.sum(0)),
        "top_rate": _number(used.rates[0]),
        "distortion": _number(-used.log_px),
        "information": {"lower": float(seen.lower[-1]), "upper": float(seen.upper[-1]), "ceiling": seen.ceiling},
    }
    if train.y is not None and test.y is not None:
        learned: Usage = jax.device_get(programs["usage"](variables, train.x, keys[3]))
        together = [np.concatenate(u.posterior_means, axis=1) for u in (learned, used)]
        numbers["probe"] = dataclasses.asdict(linear_probe(together[0], train.y, together[1], test.y))
    return numbers


def _number(values: Any) -> dict[str, float]:
    return {"value": float(np.mean(values)), "error": float(standard_error(values))}


# ---- figures


def _style(rows: list[dict[str, Any]], row: dict[str, Any]) -> dict[str, Any]:
    fields = list(dict.fromkeys(one["field"] for one in rows))
    colour = COLOURS[row["family"]]
    return {
        "color": colour,
        "marker": MARKERS[fields.index(row["field"]) % len(MARKERS)],
        "markerfacecolor": "white" if row["remedy"] else colour,
        "markersize": 6,
        "linestyle": "none",
        "elinewidth": 0.8,
    }


def _legend(figure: Any, rows: list[dict[str, Any]]) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=colour, marker="o", linestyle="none", label=name) for name, colour in COLOURS.items()
    ]
    for i, field in enumerate(dict.fromkeys(row["field"] for row in rows)):
        seen = "no other pixel" if field == 0 else ("all pixels before" if field < 0 else f"{field} pixels back")
        label = f"decoder sees {seen}"
        handles.append(Line2D([], [], color="#52514e", marker=MARKERS[i % len(MARKERS)], linestyle="none", label=label))
    if any(row["remedy"] for row in rows):
        label = "with free bits (hollow)"
        handles.append(
            Line2D([], [], color="#52514e", marker="^", markerfacecolor="white", linestyle="none", label=label)
        )
    figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False, fontsize=9)


def _tidy(axis: Any) -> None:
    axis.grid(color="#e6e5e0", linewidth=0.6)
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(colors="#52514e", labelsize=8)


def draw_plane(rows: list[dict[str, Any]], path: Path) -> None:
    """Usefulness over fit: all runs, those with factorised decoders, those with decoders that see all."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    last = rows[-1]["field"]
    columns = {
        "Figure 1: every model": rows,
        "Figure 2: decoders that see no pixel": [row for row in rows if row["field"] == 0],
        "Figure 3: decoders that see all before": [row for row in rows if row["field"] == last],
    }
    measures = [("rate", "total rate, nats"), ("top_rate", "rate of the top level, nats")]
    if all("probe" in row for row in rows):
        measures.append(("probe", "accuracy of a linear probe"))
    figure = Figure(figsize=(11.0, 2.9 * len(measures) + 0.9), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(measures), len(columns), sharex=True, sharey="row", squeeze=False)
    for line, (name, label) in zip(grid, measures, strict=True):
        for axis, (title, some) in zip(line, columns.items(), strict=True):
            for row in some:
                fit, use = row["iw_bound"], row[name]
                axis.errorbar(-fit["value"], use["value"], use["error"], fit["error"], **_style(rows, row))
                if name == "rate":
                    seen = row["information"]["lower"]
                    axis.plot(-fit["value"], seen, "x", color=COLOURS[row["family"]], markersize=4)
            if name == "rate":
                ceiling = rows[0]["information"]["ceiling"]
                axis.axhline(ceiling, color="#52514e", linestyle="--", linewidth=0.8)
                axis.annotate(
                    f"log N = {ceiling:.1f}: the ceiling of I(x; z) (crosses)",
                    (0.98, ceiling),
                    (0, 3),
                    xycoords=("axes fraction", "data"),
                    textcoords="offset points",
                    ha="right",
                    fontsize=7,
                )
                axis.set_title(title, fontsize=10)
            if name == "probe":
                axis.axhline(rows[0]["probe"]["chance"], color="#52514e", linestyle=":", linewidth=0.8)
            _tidy(axis)
        line[0].set_ylabel(label, fontsize=9)
    for axis in grid[-1]:
        axis.set_xlabel("-log p(x) at most, nats (left is better)", fontsize=9)
    _legend(figure, rows)
    for ending in (".png", ".svg"):
        figure.savefig(path.with_suffix(ending), dpi=150)


def draw_rate_distortion(rows: list[dict[str, Any]], examples: int, path: Path) -> None:
    """Rate and distortion of every run, lines of equal -ELBO, and H - D of the training set if it is anywhere near."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.5, 6.0), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    for row in rows:
        d, r = row["distortion"], row["rate"]
        axis.errorbar(d["value"], r["value"], r["error"], d["error"], **_style(rows, row))
    low, high = axis.get_xlim()
    top = axis.get_ylim()[1]
    wholes = [row["distortion"]["value"] + row["rate"]["value"] for row in rows]
    for whole in np.linspace(min(wholes), max(wholes), 4):
        axis.plot([low, high], [whole - low, whole - high], color="#b9b7b0", linewidth=0.7, zorder=0)
        inside = max(low, whole - top)  # where the line enters the picture
        axis.annotate(f"-ELBO {whole:.0f}", (inside, whole - inside), (3, -9), textcoords="offset points", fontsize=7)
    entropy = math.log(examples)
    line = np.linspace(low, high, 2)
    axis.plot(line, np.maximum(entropy - line, 0.0), color="#e34948", linewidth=1.2)
    note = f"R >= max(H - D, 0), H = log {examples:,} = {entropy:.1f} nats: the training set's own entropy"
    axis.annotate(note, (low, 0.0), (4, 4), textcoords="offset points", fontsize=7, color="#e34948")
    axis.set(xlim=(low, high), ylim=(-0.05 * top, top))
    axis.set_xlabel("distortion D, nats")
    axis.set_ylabel("rate R, nats")
    _tidy(axis)
    _legend(figure, rows)
    for ending in (".png", ".svg"):
        figure.savefig(path.with_suffix(ending), dpi=150)


def main(chosen: Settings) -> None:
    """Trains what has not been trained, measures, draws."""
    use_compilation_cache()
    print(doctor.line(), flush=True)
    dataset = chosen.data.load()
    print(dataset.describe(), flush=True)
    chosen.folder.mkdir(parents=True, exist_ok=True)
    path = chosen.folder / "plane.json"
    wanted = {k: v for k, v in dataclasses.asdict(chosen).items() if k not in ("folder", "seeds")}
    wanted = json.loads(settings.dumps(wanted))
    saved = json.loads(path.read_text()) if path.exists() else {"settings": wanted, "rows": []}
    if saved["settings"] != wanted:
        raise ValueError(f"{path} was made with other settings: choose another --folder, or delete it.")
    rows, start = saved["rows"], time.perf_counter()
    for kind in kinds(chosen, dataset):
        programs: dict[str, Any] = {}
        for seed in chosen.seeds:
            name = {"family": kind.family, "field": kind.field, "remedy": kind.remedy, "seed": seed}
            if any(all(row[k] == v for k, v in name.items()) for row in rows):
                continue
            begun = time.perf_counter()
            variables = train(kind, chosen, dataset, programs, seed)
            numbers = measure(kind, chosen, dataset, programs, variables)
            rows.append(name | numbers | {"seconds": time.perf_counter() - begun})
            settings.write_whole(path, settings.dumps({"settings": wanted, "rows": rows}))
            print(
                f"{kind.family}, field {'all' if kind.field < 0 else kind.field}"
                f"{', free bits' if kind.remedy else ''}, seed {seed}: -IW {-numbers['iw_bound']['value']:.2f}, "
                f"rate {numbers['rate']['value']:.2f}, top {numbers['top_rate']['value']:.2f}, "
                f"probe {numbers.get('probe', {}).get('value', math.nan):.1%}, {rows[-1]['seconds']:.0f} s",
                flush=True,
            )
    draw_plane(rows, chosen.folder / "plane.png")
    draw_rate_distortion(rows, len(dataset.train), chosen.folder / "rate_distortion.png")
    print(f"{time.perf_counter() - start:.0f} s; plane.png, rate_distortion.png and plane.json are in {chosen.folder}/")


if __name__ == "__main__":
    with errors_said():
        main(tyro.cli(Settings, description=__doc__))
