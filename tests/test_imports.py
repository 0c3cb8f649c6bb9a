"""Effects of importing, the direction of imports between rooms, and rules that every source file keeps."""

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.leg

PACKAGE = Path(__file__).parents[1] / "hvae_jax"

# Rooms that know nothing of VAEs. Every other room may import them.
GROUND = {"records", "runtime"}
# The rooms that each room of hvae_jax may import beside GROUND. A room is a file at the root, or a folder whose files
# may import each other. A new room needs a row here.
MAY_IMPORT: dict[str, set[str]] = {
    "records": set(),
    "runtime": set(),
    "distributions": set(),
    "networks": set(),
    "data": set(),
    "likelihoods": {"distributions", "networks"},
    "trace": {"distributions", "likelihoods"},
    "descent": {"distributions", "trace"},
    "flows": {"descent", "distributions", "networks"},
    "models": {"descent", "distributions", "flows", "likelihoods", "networks", "trace"},
    "objectives": {"distributions", "networks", "trace"},
    "diagnostics": {"distributions", "objectives", "trace"},
    "metrics": set(),
    "codec": {"distributions", "likelihoods", "trace"},
    "filling": {"likelihoods", "objectives", "trace"},
    "training": {"objectives", "trace"},
    "convert": {"distributions", "likelihoods", "models", "networks"},
    "report": {"data", "diagnostics", "objectives", "trace", "training"},
    "__init__": {
        *("codec", "data", "descent", "diagnostics", "distributions", "filling", "likelihoods"),
        *("metrics", "models", "networks", "objectives", "trace"),
    },
    "experiment": {
        *("__init__", "convert", "data", "diagnostics", "filling", "likelihoods"),
        *("models", "objectives", "report", "trace", "training"),
    },
    "recipes": {"experiment", "likelihoods", "models", "networks", "objectives", "training"},
    # objectives: a flag that this run does not have may be a setting of another objective; likelihoods: --likelihood
    "cli": {
        *("codec", "convert", "descent", "diagnostics", "experiment", "filling", "likelihoods"),
        *("metrics", "models", "objectives", "recipes", "report", "trace", "training"),
    },
    "sklearn": {"diagnostics", "experiment"},
}
# Only the maths lies at the root.
ROOT_MODULES = {"__init__", "distributions", "trace", "descent", "flows"}
MOST_ROOMS = 23

# Imported inside the functions that use them, so that everything else imports where they are not installed.
HEAVY = (
    "constriction",
    "grain",
    "huggingface_hub",
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
# Rooms whose records are command lines too, and need tyro; and the one that is there for scikit-learn.
NEED_TYRO = {"experiment", "recipes", "cli", "sklearn"}

# Largest number of lines of a function. A model's forward pass may be longer, because it follows its paper: name it in
# FORWARD_PASSES as "models/file.py:function". No model needs it yet.
MOST_LINES = 80
FORWARD_PASSES: set[str] = set()

FILES = sorted(PACKAGE.rglob("*.py"))
SOURCES = {str(file.relative_to(PACKAGE)): file.read_text() for file in FILES}


def room_of(file: Path) -> str:
    """The room of a file: networks/mlp.py -> networks, trace.py -> trace."""
    return file.relative_to(PACKAGE).with_suffix("").parts[0]


def module_of(file: Path) -> str:
    """The module of a file: networks/mlp.py -> hvae_jax.networks.mlp."""
    return ".".join(("hvae_jax", *file.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")


MODULES = tuple(module_of(file) for file in FILES)
LIGHT_MODULES = tuple(module_of(file) for file in FILES if room_of(file) not in NEED_TYRO)


def imports(file: Path) -> Iterator[tuple[int, str]]:
    """Line and dotted name of everything a file imports, in functions too."""
    for node in ast.walk(ast.parse(SOURCES[str(file.relative_to(PACKAGE))], str(file))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno}: imports are absolute here"
            assert node.module is not None
            # `from hvae_jax import data` imports the room, `from hvae_jax.trace import Level` its module
            names = [f"hvae_jax.{alias.name}" for alias in node.names] if node.module == "hvae_jax" else [node.module]
            yield from ((node.lineno, name) for name in names)


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_imports_go_one_way(file: Path) -> None:
    """A file imports its own room, GROUND and the rooms in its row; never experiments, notebooks or tests."""
    own = room_of(file)
    assert own in MAY_IMPORT, f"{own} is new: say in MAY_IMPORT what it may import."
    for line, name in imports(file):
        package, _, rest = name.partition(".")
        assert package not in ("experiments", "notebooks", "tests", "support"), f"{file}:{line} imports {name}"
        if package == "hvae_jax":
            room = rest.partition(".")[0] or "__init__"
            assert room in MAY_IMPORT[own] | GROUND | {own}, f"{file}:{line}: {own} may not import {name}"


def test_the_table_has_no_circle() -> None:
    """Rooms can be put in an order in which each imports earlier ones only, GROUND first."""
    left = {room: needs | (set() if room in GROUND else GROUND) for room, needs in MAY_IMPORT.items()}
    while left:
        ready = [room for room, needs in left.items() if not needs & set(left)]
        assert ready, f"a circle among {sorted(left)}"
        for room in ready:
            del left[room]


def test_rooms() -> None:
    """The table has exactly the rooms of the package, few enough, and only the maths lies at the root."""
    assert {room_of(file) for file in FILES} == set(MAY_IMPORT)
    assert len(MAY_IMPORT) <= MOST_ROOMS
    assert {file.stem for file in PACKAGE.glob("*.py")} == ROOT_MODULES


def run_python(program: str, **environment: str) -> str:
    """Returns what a program prints in a fresh process without pytest's settings; its error fails the test."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    command = [sys.executable, "-c", program]
    done = subprocess.run(
        command, env=inherited | environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_touches_no_device() -> None:
    """With a platform that does not exist every module can be imported, and the first array fails."""
    program = f"""
import importlib
for module in {MODULES}:
    importlib.import_module(module)
import jax.numpy
try:
    jax.numpy.zeros(1)
except RuntimeError:
    print("no device")
"""
    assert run_python(program, JAX_PLATFORMS="no_such_platform") == "no device\n"


def test_importing_loads_nothing_heavy() -> None:
    """`import hvae_jax` leaves the libraries that only some rooms need unloaded; so does the training step."""
    program = f"import sys, hvae_jax, hvae_jax.training; print([name for name in {HEAVY} if name in sys.modules])"
    assert run_python(program) == "[]\n"


def test_all_but_experiments_do_without_the_heavy_ones() -> None:
    """Rooms that do without tyro can be imported, and a step is taken, where no heavy library is installed."""
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


def lines_with(pattern: str) -> list[str]:
    """Lines of the package that match, as "file:line"."""
    return [
        f"{name}:{number}"
        for name, source in SOURCES.items()
        for number, line in enumerate(source.splitlines(), 1)
        if re.search(pattern, line)
    ]


def test_models_are_asked_by_their_protocol() -> None:
    """No getattr on a model: what it is stands in `trace.Model`."""
    assert not lines_with(r"\b(get|has)attr\((self\.|experiment\.)?model\b")


def test_experiments_have_their_type() -> None:
    """No `Any` for an experiment."""
    assert not lines_with(r"\bexperiment: Any\b")


def test_choices_are_read_in_one_place() -> None:
    """Literal annotations are taken apart by `records.fields` and nowhere else."""
    assert len(lines_with(r"\bget_args\(")) <= 3


def test_functions_fit_a_screen() -> None:
    """Functions have at most MOST_LINES lines, docstring included, except the forward passes that are named."""
    long = {
        f"{name}:{node.name}": node.end_lineno - node.lineno + 1
        for name, source in SOURCES.items()
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.end_lineno is not None
        and node.end_lineno - node.lineno + 1 > MOST_LINES
    }
    assert not {name: lines for name, lines in long.items() if name not in FORWARD_PASSES}
    assert set(long) >= FORWARD_PASSES, "a name in FORWARD_PASSES is of a function that has become short, or is gone"
