"""What importing does and may not do, and which file may import which."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "hvae_jax"

# Imported where they are used: a module that is not there must not keep models, the step and the maths from importing.
HEAVY = ("grain", "tensorflow_datasets", "tensorflow", "tyro", "tensorboardX", "tqdm", "matplotlib", "orbax", "sklearn")

# What each part may import of the others. A part is a folder or a file of the package; importing itself is allowed.
MATHS = {"distributions", "likelihoods", "trace", "descent"}
ALLOWED: dict[str, set[str]] = {
    "distributions": set(),
    "likelihoods": {"distributions"},
    "trace": {"distributions", "likelihoods"},
    "descent": {"distributions", "trace"},
    "networks": set(),
    "data": set(),
    "compilation": set(),
    "doctor": set(),
    "models": MATHS | {"networks"},
    "objectives": {"trace"},
    "diagnostics": {"trace", "objectives"},
    "training": {"trace", "objectives", "diagnostics", "compilation"},
    "evaluation": {"trace", "objectives", "diagnostics", "data", "compilation"},
    "plots": {"trace"},
    "settings": set(),
    "run_folder": {"settings", "training"},
}
FREE = {"__init__", "experiment", "cli", "results"}  # these stand above all, and may import any but experiments


def part(path: Path) -> str:
    """networks/mlp.py -> networks, trace.py -> trace."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imported(path: Path) -> set[str]:
    """Parts of hvae_jax, and other packages' names as they are, that a file imports anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            names = [node.module or ""]
            if node.module == "hvae_jax":
                names = [f"hvae_jax.{alias.name}" for alias in node.names]
        found |= {name.split(".")[1] if name.startswith("hvae_jax.") else name for name in names}
    return found


FILES = sorted(PACKAGE.rglob("*.py"))
PARTS = {part(path) for path in FILES}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_one_way(path: Path) -> None:
    """The diagram above; a new part has to be added to it."""
    names = imported(path)
    assert "experiments" not in {name.split(".")[0] for name in names}
    own = part(path)
    if own in FREE:
        return
    assert own in ALLOWED, f"say in ALLOWED what {own} may import"
    assert (names & PARTS) - {own} <= ALLOWED[own]


def in_a_fresh_process(code: str) -> str:
    """Runs Python without pytest's settings."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_touches_no_device_and_nothing_heavy() -> None:
    out = in_a_fresh_process(
        "import sys, hvae_jax, hvae_jax.training\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])\n"
        "from jax._src import xla_bridge\n"
        "print(xla_bridge._backends)\n"
    )
    assert out.split("\n")[:2] == ["[]", "{}"]


def test_models_step_and_maths_import_without_the_heavy_ones() -> None:
    """And work: a step is taken where none of them can be imported."""
    out = in_a_fresh_process(
        "import sys\n"
        "class Missing:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name.split('.')[0] in {HEAVY!r}:\n"
        "            raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, Missing())\n"
        "import jax, jax.numpy as jnp, hvae_jax as hv\n"
        "from hvae_jax.training import Adamax, init_state, make_step\n"
        "model, x = hv.models.TopDownVAE((2, 3), hidden=4, likelihood=hv.Bernoulli()), jnp.ones((4, 5))\n"
        "key, optimiser = jax.random.key(0), Adamax().build()\n"
        "state = init_state(model, hv.NegativeELBO(), optimiser, key, x)\n"
        "step = make_step(model, hv.NegativeELBO(), optimiser)\n"
        "state, metrics = jax.jit(step)(state, hv.Batch(x), key)\n"
        "print(int(state.step), bool(jnp.isfinite(metrics['loss'])))\n"
    )
    assert out.split() == ["1", "True"]
