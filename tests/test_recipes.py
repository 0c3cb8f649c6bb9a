"""Recipes and studies: presets and their sizes, command lines, and studies that resume."""

import dataclasses
import importlib.util
import json
import re
import sys
import types
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.cases import case, jitter
from support.places import RECIPES, STUDIES, script

import hvae_jax as hv
from hvae_jax import recipes
from hvae_jax.cli import script as command_line
from hvae_jax.data import Split
from hvae_jax.experiment import Data, Evaluation, Experiment, Training, abstract_state, settings
from hvae_jax.experiment.sweep import Row, Trial
from hvae_jax.models import VAE, BottomUpVAE
from hvae_jax.objectives import Batch, NegativeELBO, PrintedELBO
from hvae_jax.trace import level_names
from hvae_jax.training import Stage

# Number of parameters by recipe and preset: the published figure, or the sum of the layers' sizes.
PARAMETERS = {
    "vae": {"digits": 440_416},
    "linear": {"digits": 2_961},
    "top_down": {
        "digits": 721_808,
        "digits_vamp": 728_208,
        "digits_mixture": 723_508,
        "digits_bernoulli": 723_872,
        "digits_bernoulli_free_bits": 723_872,
        "digits_categorical": 736_208,
    },
    "bottom_up": {"digits": 660_368, "digits_printed": 660_368, "digits_vamp": 666_768, "digits_mixture": 662_068},
    "ladder": {
        "mnist_small": 109_313,
        "mnist_published": 3_209_153,
        "mnist_published6": 6_008_705,
        "mnist_paper": 1_859_424,
        "omniglot_small": 661_680,
        "omniglot_paper": 1_859_424,
    },
    "resnet_vae": {
        "mnist_small": 247_842,
        "mnist_plain": 164_066,
        "cifar10_small": 292_775,
        "cifar10_paper": 38_638_887,
        "cifar10_two_resolutions": 38_638_887,
    },
    "biva": {
        "mnist_small": 1_587_026,
        "mnist_paper": 31_550_946,
        "cifar10_small": 861_608,
        "cifar10_paper": 102_948_560,
    },
    "cagem": {"digits": 544_420, "mnist_small": 687_556, "mnist": 3_823_268},
    "vdvae": {"digits": 36_891, "mnist": 99_425, "cifar10_small": 292_648, "cifar10": 39_145_700},
    "self_supervised": {
        "digits": 547_488,
        "digits_two": 649_988,
        "mnist": 349_481,
        "cifar10_small": 478_062,
        "cifar10": 29_997_392,
    },
    "efficient_vdvae": {"digits": 57_073, "mnist": 69_919_585, "cifar10_c1": 18_124_020},
    "greedy": {"digits": 110_473, "moving_digits": 245_745, "mnist_small": 94_877},
    "nvae": {
        "digits": 138_110,
        "mnist_small": 567_734,
        "cifar10_small": 2_124_160,
        "mnist": 33_363_134,
        "cifar10": 130_852_480,
        "celeba64": 153_281_364,
        "imagenet32": 268_509_444,
        "celeba_hq256": 330_798_664,
        "ffhq256": 330_798_664,
    },
}
ALL_RECIPES = recipes.names()
ALL_STUDIES = sorted(path.stem for path in STUDIES.glob("*.py"))


def presets_of(recipe: str) -> dict[str, Experiment]:
    """The presets of a recipe, by name."""
    return recipes.presets_of(recipe)


@pytest.mark.parametrize("recipe", ALL_RECIPES)
def test_one_convention(recipe: str) -> None:
    """A dict of presets, the first one small; runs named RECIPE_PRESET; settings that JSON keeps; a script for them."""
    presets = presets_of(recipe)
    assert next(iter(presets.values())).model.num_levels < 20
    for preset, experiment in presets.items():
        assert experiment.name == f"{recipe}_{preset}"
        assert settings.from_json(settings.to_json(experiment)) == experiment
    module = script(RECIPES / f"{recipe}.py")
    assert module.recipe.presets is presets
    ending = 'if __name__ == "__main__":\n    main(recipe.presets, description=recipe.__doc__)\n'
    assert (RECIPES / f"{recipe}.py").read_text().endswith(ending)


@pytest.mark.parametrize(
    ("recipe", "preset"),
    [
        pytest.param(recipe, preset, marks=[pytest.mark.slow] if count > 90_000 else [])
        for recipe, presets in PARAMETERS.items()
        for preset, count in presets.items()
    ],
)
def test_sizes(recipe: str, preset: str) -> None:
    """The number of parameters is right, and the state and the levels' names follow from shapes alone."""
    experiment = presets_of(recipe)[preset]
    model, event = experiment.model, (8, 8, 1) if preset.startswith("digits") else (28, 28, 1)
    data = Split(np.zeros((2, *(model.image or event)), np.uint8))
    state = abstract_state(experiment, data)
    assert sum(leaf.size for leaf in jax.tree.leaves(state.params)) == PARAMETERS[recipe][preset]
    assert len(level_names(model, data)) == model.num_levels


@pytest.mark.parametrize("recipe", ["vae", "bottom_up"])
def test_the_iwae_papers_networks(recipe: str) -> None:
    """Parameters are those counted by hand, weights and biases; every network has Glorot's initialisation."""
    experiment = presets_of(recipe)["mnist_iwae"]
    x = jnp.zeros((2, 28, 28, 1), jnp.uint8)
    made = jax.jit(experiment.model.init)(jax.random.key(0), x, jax.random.key(1))["params"]
    one = 785 * 200 + 201 * 200 + 201 * 100 + 51 * 200 + 201 * 200 + 201 * 784
    up = 785 * 200 + 201 * 200 + 201 * 200 + 101 * 100 + 101 * 100 + 101 * 100
    down = 51 * 100 + 101 * 100 + 101 * 200 + 101 * 200 + 201 * 200 + 201 * 784
    assert sum(leaf.size for leaf in jax.tree.leaves(made)) == (one if recipe == "vae" else up + down)
    biases = [leaf for path, leaf in jax.tree.leaves_with_path(made) if "bias" in jax.tree_util.keystr(path)]
    assert sum(bool(leaf.any()) for leaf in biases) == 1  # the readout's, from the data's marginals


def test_pseudo_inputs_begin_as_different_digits() -> None:
    """There is one example for each pseudo-input: a VampPrior copies, in turn, those the model is initialised on."""
    for recipe in ("top_down", "bottom_up"):
        experiment = presets_of(recipe)["digits_vamp"]
        assert experiment.training.init_examples == experiment.model.top_prior.pseudo_inputs == 100


@pytest.mark.parametrize("recipe", ALL_RECIPES)
def test_help(recipe: str, capsys: pytest.CaptureFixture[str]) -> None:
    """--help shows the docstring and every setting; an unknown preset is refused, listing the known ones."""
    presets, text = presets_of(recipe), recipes.docstring_of(recipe)
    with pytest.raises(SystemExit) as left:
        command_line.main(presets, ["--help"], text)
    shown = capsys.readouterr().out
    assert left.value.code == 0
    assert text.split()[1] in shown and "--model." in shown and "--batch-size" in shown
    assert all(re.search(rf"\b{preset}  +\S", shown) for preset in presets)  # with what each is
    with pytest.raises(SystemExit) as left:
        command_line.main(presets, ["--preset", "none"], text)
    said = capsys.readouterr().err
    assert left.value.code == 2 and all(preset in said for preset in presets)


def test_stages_on_the_command_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Any number of words; the preset's without the flag; what is no stage is refused, with the reason."""
    chosen = []
    monkeypatch.setattr(command_line, "run", lambda experiment, *_, **__: chosen.append(experiment) or Stopped())
    presets = presets_of("greedy")
    for flags in ([], ["--stages", "7:trains=module1:modules=1", "8:frozen=*/bias"], ["--steps", "9"]):
        command_line.main(presets, flags)
    assert chosen[1].training.stages == (Stage(7, ("module1",), modules=1), Stage(8, frozen=("*/bias",)))
    assert chosen[0] == presets["digits"] and chosen[2].training.stages == chosen[0].training.stages
    for word, reason in (
        ("7:trained=module1", "after the number of steps come trains=, frozen= and modules="),
        ("0", "a stage has 1 step or more"),
        ("7:modules=0", "it has to be 1 or more, or None"),
        ("x", "'x' is no whole number"),
    ):
        with pytest.raises(SystemExit):
            command_line.main(presets, ["--stages", "8", word])
        assert reason in capsys.readouterr().err


@pytest.mark.parametrize("recipe", ["vae", "top_down", "bottom_up"])
def test_the_articles_models_are_the_defaults(recipe: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The preset `digits` has the defaults of the model's class, and --help shows the choices of its settings."""
    presets = presets_of(recipe)
    model = presets["digits"].model
    assert model == type(model)()
    with pytest.raises(SystemExit):
        command_line.main(presets, ["--help"])
    assert "{dense,conv}" in capsys.readouterr().out


def test_a_preset_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first preset is taken unless another is named; other flags change its settings."""
    chosen = []
    monkeypatch.setattr(command_line, "run", lambda experiment, *_, **__: chosen.append(experiment) or Stopped())
    one, two = (Experiment(name=name, model=VAE(), data=Data("digits")) for name in ("one", "two"))
    for arguments in ([], ["--preset", "b"], ["--seed", "3", "--preset=b"]):
        command_line.main({"a": one, "b": two}, arguments)
    assert [(e.name, e.seed) for e in chosen] == [("one", 0), ("two", 0), ("two", 3)]


@dataclasses.dataclass
class Stopped:
    """The outcome of a run that did nothing."""

    interrupted: int = 0
    state: Any = dataclasses.field(default_factory=lambda: types.SimpleNamespace(step=0))


@pytest.fixture
def studies(monkeypatch: pytest.MonkeyPatch) -> dict[str, types.ModuleType]:
    """Every study as a module; with its folder on the path, as when it is run, it finds `sweep`."""
    monkeypatch.syspath_prepend(STUDIES)
    return {name: script(STUDIES / f"{name}.py") for name in ALL_STUDIES}


@pytest.mark.parametrize("path", sorted((RECIPES.parent).glob("*/*.py")), ids=lambda path: path.stem)
def test_no_script_hides_a_module(path: Path) -> None:
    """A script's folder comes first on the path: a compression.py there would be what JAX imports on Python 3.14."""
    assert path.stem not in {*sys.stdlib_module_names, "compression"}
    found = importlib.util.find_spec(path.stem)
    assert found is None or found.origin == str(path)


def test_studies_make_their_models(studies: dict[str, types.ModuleType]) -> None:
    """Every study can be imported, and its default settings make the models that it compares."""
    digits = hv.data.digits()
    plane, curves = studies["usefulness_plane"], studies["rate_distortion"]
    # families by fields; free bits for three families; seven remedies of the top-down one, for two decoders
    trials = plane.trials(plane.Settings(), digits)
    assert len(trials) == 4 * 3 + 3 + 7 * 2 and len({str(trial.name) for trial in trials}) == len(trials)
    with pytest.raises(ValueError, match="no remedy 'prayer': free bits, beta"):
        plane.trials(plane.Settings(remedies=("prayer",)), digits)
    assert len(curves.trials(curves.Settings(), digits)) == 5 * 3 + 2 * 3  # fields by objectives, decoders by betas
    assert {m.num_levels for m in studies["ladder_depth"].models(hv.Bernoulli()).values()} == {5}
    assert studies["gradient_estimators"].Settings().ks == (1, 4, 16, 64)
    collapse = studies["linear_collapse"]
    assert [trial.model.num_levels for trial in collapse.trials(collapse.Settings())] == [1] * 5 + [2] * 3
    one = {"labels": 10, "seed": 0, "accuracy": 0.671, "-ELBO": 153.59}  # of one seed, which has no spread
    assert studies["few_labels"].table([one]).endswith("| 10 | 67.1 |  |  |  | 153.59 |  |  |  |")
    three = studies["greedy"].of_modules("digits", 3, 0.5)
    assert three.model.modules == len(three.training.stages) == 3 and three.training.stages[2].trains == ("module3",)


def test_the_study_of_depth_is_a_sweep(
    studies: dict[str, types.ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four runs, in folders named after them; their results in this order; a failed one is named."""
    study, ran = studies["ladder_depth"], []

    def run_all(trials: list[Trial], folder: Path) -> list[Row]:
        ran.append([trial.name for trial in trials])
        for trial in trials:
            (folder / trial.name).mkdir(exist_ok=True)
            (folder / trial.name / "result.json").write_text(json.dumps({"elbo": trial.experiment.model.num_levels}))
        return [Row(trial, None, error if trial is trials[1] else None) for trial in trials]

    error: str | None = None
    monkeypatch.setattr(study, "run_all", run_all)
    chosen = study.Settings(hv.experiment.Data("digits"), epochs=2, folder=tmp_path)
    assert study.trained(chosen) == {name: {"elbo": 5} for name in study.COLOURS}
    assert ran == [["bottom-up", "bottom-up_warm-up", "ladder", "ladder_warm-up"]]
    error = "no memory"
    with pytest.raises(ValueError, match=r"^bottom-up, warm-up failed, and the figure needs every run"):
        study.trained(chosen)


def test_any_objective_of_the_printed_formula(studies: dict[str, types.ModuleType]) -> None:
    """Printed(NegativeELBO()) equals PrintedELBO(), which differs from the ELBO of a bottom-up model."""
    row, key = case("bottom_up"), jax.random.key(0)
    model, params = row.model, jax.jit(row.model.init)(key, row.x, key)["params"]
    variables = {"params": jitter(params, scale=0.5)}

    def forward(variables: Any, x: Any, key: jax.Array, **choices: Any) -> tuple[Any, Any]:
        return model.apply(variables, x, key, **choices), {}

    wrapped = studies["usefulness_plane"].Printed(NegativeELBO())
    losses = [
        jax.jit(lambda v, o=objective: o(forward, v, Batch(row.x), key, jnp.int32(0), ())[0])(variables)
        for objective in (wrapped, PrintedELBO(), NegativeELBO())
    ]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-6)
    assert abs(losses[0] - losses[2]) > 1e-3


@pytest.mark.slow
def test_the_collapse_study(studies: dict[str, types.ModuleType], tmp_path: Path, capsys: Any) -> None:
    """Two steps of every model: rows with predicted and measured rates, a table of all models, and the figure."""
    study = studies["linear_collapse"]
    chosen = study.Settings(
        width=3,
        noises=(1.4,),
        betas=(2.0,),
        scales=(1.4,),
        examples=20,
        steps=2,
        seeds=(0, 1),
        draws=2,
        folder=tmp_path,
    )
    study.main(chosen)
    rows = json.loads((tmp_path / "linear_collapse.json").read_text())
    assert [len(row["levels"]) for row in rows] == [1, 1, 1, 1, 2, 2]
    assert all(len(row["measured"]) == len(row["predicted"]) == 3 for row in rows)
    assert capsys.readouterr().out.count("| s_") == 3
    assert (tmp_path / "linear_collapse.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.slow
def test_the_greedy_study(
    studies: dict[str, types.ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step of each stage on a few clips: what the steps cost, the numbers of the run, and the tables."""
    study, clips = studies["greedy"], hv.data.moving_digits(2).splits["train"].take(slice(24)).x
    np.savez(tmp_path / "clips.npz", x_train=clips, x_validation=clips[:4], x_test=clips[:4], num_values=17)
    plain = study.experiment_of("greedy", "moving_digits")
    small = dataclasses.replace(
        plain,
        data=Data(str(tmp_path / "clips.npz")),
        model=plain.model.clone(image=(16, 32, 1), frames=2, width=4, blocks=1),
        training=dataclasses.replace(plain.training, batch_size=8),
        evaluation=Evaluation(draws=2, other_draws=2),
    )
    monkeypatch.setattr(study, "experiment_of", lambda *_: small)
    greedy = study.of_modules("moving_digits", 2, 0.001)
    costs = study.costs(greedy, 1)
    *stages, joint = (cost["trained"] for cost in costs)
    assert sum(stages) == joint and len(stages) == 2  # each parameter is trained once
    found = study.runs_of(greedy, costs)
    assert list(found) == ["greedy", "joint, equal steps", "joint, equal time"]
    assert found["joint, equal steps"].training.steps == 2
    hv.experiment.run(found["greedy"], tmp_path / "run")
    numbers = study.numbers_of(tmp_path / "run")
    assert numbers["steps"] == 2 and numbers["error"] > 0 and numbers["-elbo"] > 0
    assert -1.0 <= numbers["predicted ssim"] <= 1.0 < numbers["unmoved psnr"]
    said = study.table([{"task": "clips", "modules": 2, "runs": {"greedy": [numbers]}, "costs": costs}])
    assert "stage 2" in said and f"{numbers['-elbo']:.2f}" in said


def test_seeds_name_what_there_is(studies: dict[str, types.ModuleType]) -> None:
    """The first preset is taken unless another is named; unknown names are refused, listing the known ones."""
    seeds = studies["seeds"]
    assert seeds.experiment_of("top_down") == presets_of("top_down")["digits"]
    assert seeds.experiment_of("bottom_up", "digits_printed").objective == PrintedELBO()
    with pytest.raises(ValueError, match=r"no recipe 'vaes'\. Did you mean vae\? There are biva, bottom_up"):
        seeds.experiment_of("vaes")
    with pytest.raises(ValueError, match=r"no preset 'mnist' of vae\. .* There are digits, mnist_iwae"):
        seeds.experiment_of("vae", "mnist")


@pytest.mark.slow
def test_seeds_show_both_formulas(
    studies: dict[str, types.ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """Table and file of a run on the printed formula have the model's rates and the printed KLs, top first."""
    seeds, x = studies["seeds"], hv.data.digits().splits["train"].x
    np.savez(tmp_path / "few.npz", x_train=x[:40], x_validation=x[40:60], x_test=x[60:80], num_values=17)
    tiny = Experiment(
        "tiny",
        BottomUpVAE(latents=(2, 3), hidden=8),
        Data(str(tmp_path / "few.npz")),
        PrintedELBO(),
        training=Training(batch_size=16, epochs=1),
        evaluation=Evaluation(draws=2, other_draws=2),
    )
    monkeypatch.setattr(seeds, "experiment_of", lambda *_: tiny)
    seeds.main(seeds.Settings(seeds=(0, 1), folder=tmp_path / "runs"))
    rows = [row["numbers"] for row in json.loads((tmp_path / "runs" / "seeds.json").read_text())["rows"]]
    assert len(rows) == 2 and {"KL z2", "KL z1"} <= set(rows[0])
    assert list(rows[0])[-3:] == ["printed test -ELBO", "printed KL z2", "printed KL z1"]
    assert rows[0]["printed KL z1"] > 0  # a KL; the rate beside it, a log-ratio, may be negative
    assert "standard deviation over seeds" in capsys.readouterr().out


def test_the_plane_prints_its_table(studies: dict[str, types.ModuleType]) -> None:
    """Mean ± deviation over seeds; a probe of samples and what it takes; no upper bound of I(x; z) above the rate."""

    def row(seed: int, **more: Any) -> dict[str, Any]:
        numbers = {"iw_bound": -85.0 - seed, "rate": 2.0 + seed, "top_rate": 1.0, "probe": 0.2, "probe_of_means": 0.8}
        made: dict[str, Any] = {name: {"value": value, "error": 0.1} for name, value in numbers.items()}
        made["probe"]["needs"] = 0.05
        return made | {"information": {"lower": 1.5, "upper": 9.0}, "seed": seed, "field": 0, **more}

    rows = [row(seed, family="one level", remedy=remedy) for remedy in ("", "free bits") for seed in (0, 1)]
    text = studies["usefulness_plane"].table(rows, 50).splitlines()
    assert len(text) == 4 and "| linear probe of samples | takes at least | probe of posterior means |" in text[0]
    assert text[2] == (
        "| one level | no other pixel | 85.50 ± 0.71 | 2.50 ± 0.71 | 1.00 ± 0.00 | 1.5 to 2.5 | 20.0 ± 0.0 % | "
        "0.05 ± 0.00 | 80.0 ± 0.0 % |"
    )
    assert "free bits" in text[3]
    for one in rows:
        del one["probe"], one["probe_of_means"]
    assert "probe" not in studies["usefulness_plane"].table(rows, 50)


@pytest.mark.slow
def test_a_sweep_resumes(studies: dict[str, types.ModuleType], tmp_path: Path, capsys: Any) -> None:
    """Every run is trained once, however often it is asked for; figures are written; other settings are refused."""
    curves = studies["rate_distortion"]
    effort = curves.Effort(steps=2, hidden=4, width=2, layers=1, draws=2, examples=20)
    chosen = curves.Settings(betas=(1.0, 2.0), fields=(0, -1), effort=effort, workers=1, folder=tmp_path)
    curves.main(chosen)
    rows = json.loads((tmp_path / "curves.json").read_text())["rows"]
    assert len(rows) == 2 * 3 + 2
    assert all(row["iw_bound"]["value"] >= row["elbo"]["value"] - 1e-3 for row in rows)
    for name in ("rate_distortion", "receptive_field"):
        assert (tmp_path / f"{name}.png").read_bytes()[:4] == b"\x89PNG" and (tmp_path / f"{name}.svg").exists()
    capsys.readouterr()
    curves.main(chosen)
    assert "seed 0" not in capsys.readouterr().out
    # Rows measured another way are not mixed with new ones.
    saved = json.loads((tmp_path / "curves.json").read_text())
    (tmp_path / "curves.json").write_text(json.dumps(saved | {"settings": saved["settings"] | {"measures": 1}}))
    with pytest.raises(ValueError, match="measured another way"):
        curves.main(chosen)
    with pytest.raises(ValueError, match="made with other settings"):
        curves.main(curves.Settings(betas=(1.0, 3.0), fields=(0, -1), effort=effort, folder=tmp_path))
