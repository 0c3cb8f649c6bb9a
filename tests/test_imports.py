"""What importing does and may not do, and which file may import which."""

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.leg

PACKAGE = Path(__file__).parents[1] / "hvae_jax"

# What each part of hvae_jax may import of the others. A part is a file or a folder, whose files may import each other.
# A new part needs a row here.
MATHS = {"distributions", "likelihoods", "trace"}
MAY_IMPORT: dict[str, set[str]] = {
    "distributions": set(),
    "keys": set(),
    "likelihoods": {"distributions", "networks"},
    "trace": {"distributions", "likelihoods"},
    "descent": {"distributions", "trace"},
    "flows": {"descent", "networks"},
    "objectives": {"trace"},
    "diagnostics": {"trace", "objectives"},
    "networks": set(),
    "data": set(),
    "models": MATHS | {"descent", "flows", "keys", "networks"},
    "convert": MATHS | {"models", "networks"},
    "plots": {"trace"},
    "compilation": set(),
    "settings": set(),
    "meters": set(),
    "cluster": set(),
    "doctor": set(),
    "training": {"trace", "objectives", "compilation"},
    "evaluation": {"trace", "objectives", "diagnostics", "data", "compilation", "training"},
    "diagnosis": {"trace", "objectives", "diagnostics", "data", "compilation"},
    "page": set(),
    "run_folder": {"settings", "training"},
    "ending": {"training"},
}
# These stand above all, and may import any but the experiments.
FREE = {"__init__", "results", "experiment", "finished", "exchange", "commands", "cli"}

# Imported where they are used: a module that is not there must not keep models, the step and the maths from importing.
HEAVY = (
    "grain",
    "matplotlib",
    "orbax",
    "PIL",
    "safetensors",
    "sklearn",
    "tensorboardX",
    "tensorflow",
    "tensorflow_datasets",
    "torch",
    "tqdm",
    "trackio",
    "tyro",
    "wandb",
)
LIGHT_MODULES = (
    "hvae_jax",
    *(f"hvae_jax.{part}" for part in ("distributions", "likelihoods", "trace", "descent", "flows")),
    *(f"hvae_jax.{part}" for part in ("objectives", "diagnostics")),
    *(f"hvae_jax.{part}" for part in ("networks", "models", "data", "settings", "compilation", "plots", "training")),
    *(f"hvae_jax.convert.{part}" for part in ("addtt", "files", "published", "state_dict")),
    *(f"hvae_jax.{part}" for part in ("cluster", "evaluation", "meters", "run_folder")),
    *(
        f"hvae_jax.training.{part}"
        for part in ("checkpoint", "dispatch", "feeds", "loop", "mesh", "optimisers", "plan")
    ),
    *(f"hvae_jax.training.{part}" for part in ("report", "signals", "state", "step", "validate", "watch")),
)


def part_of(file: Path) -> str:
    """networks/mlp.py -> networks, trace.py -> trace."""
    return file.relative_to(PACKAGE).with_suffix("").parts[0]


def imports(file: Path) -> Iterator[tuple[int, str]]:
    """Line and dotted name of everything a file imports, in functions too."""
    for node in ast.walk(ast.parse(file.read_text(), str(file))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno}: imports are absolute here"
            assert node.module is not None
            # `from hvae_jax.report import charts` imports the part, `from hvae_jax.trace import Level` its module
            names = [f"hvae_jax.{alias.name}" for alias in node.names] if node.module == "hvae_jax" else [node.module]
            yield from ((node.lineno, name) for name in names)


FILES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_imports_go_one_way(file: Path) -> None:
    """A file imports its own part and what its row allows; never the experiments, the notebooks or the tests."""
    own = part_of(file)
    assert own in MAY_IMPORT or own in FREE, f"{own} is new: say in MAY_IMPORT what it may import."
    for line, name in imports(file):
        package, _, rest = name.partition(".")
        assert package not in ("experiments", "notebooks", "tests"), f"{file}:{line} imports {name}"
        if package == "hvae_jax" and own not in FREE:
            assert rest.partition(".")[0] in MAY_IMPORT[own] | {own}, f"{file}:{line}: {own} may not import {name}"


def test_the_table_has_no_circle() -> None:
    """Parts can be put in an order in which each imports earlier ones only."""
    left = dict(MAY_IMPORT)
    while left:
        ready = [part for part, needs in left.items() if not needs & set(left)]
        assert ready, f"a circle among {sorted(left)}"
        for part in ready:
            del left[part]


def run_python(program: str, **environment: str) -> str:
    """What a program prints in a fresh process without pytest's settings; its error, if any, is the test's."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    command = [sys.executable, "-c", program]
    done = subprocess.run(
        command, env=inherited | environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_touches_no_device() -> None:
    """On a platform that does not exist everything imports, and the first array fails."""
    program = f"""
import importlib
for module in {LIGHT_MODULES}:
    importlib.import_module(module)
import jax.numpy
try:
    jax.numpy.zeros(1)
except RuntimeError:
    print("no device")
"""
    assert run_python(program, JAX_PLATFORMS="no_such_platform") == "no device\n"


def test_importing_loads_nothing_heavy() -> None:
    """`import hvae_jax` leaves the libraries that only some parts want unloaded; so does the training step."""
    program = f"import sys, hvae_jax, hvae_jax.training; print([name for name in {HEAVY} if name in sys.modules])"
    assert run_python(program) == "[]\n"


def test_models_step_and_maths_do_without_the_heavy_ones() -> None:
    """They import, and a step is taken, where none of those libraries is installed."""
    program = f"""
import importlib, sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {HEAVY}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Missing())
for module in {LIGHT_MODULES}:
    importlib.import_module(module)

import jax, jax.numpy as jnp, hvae_jax as hv
from hvae_jax.training import Adamax, init_state, make_step

model, x = hv.models.TopDownVAE((2,), hidden=4, likelihood=hv.Bernoulli()), jnp.ones((4, 5))
key, optimiser = jax.random.key(0), Adamax().build()
state = init_state(model, hv.NegativeELBO(), optimiser, key, x)
state, metrics = jax.jit(make_step(model, hv.NegativeELBO(), optimiser))(state, hv.Batch(x), key)
print(int(state.step), bool(jnp.isfinite(metrics["loss"])))
"""
    assert run_python(program, JAX_DISABLE_MOST_OPTIMIZATIONS="1") == "1 True\n"
