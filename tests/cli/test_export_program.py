"""`hvae export --what`: programs that a script without hvae_jax loads, which compute what the model does."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from jax import export
from support.contract import plausible_variables

from hvae_jax.cli.export import Export
from hvae_jax.experiment import Data, Experiment, serving
from hvae_jax.likelihoods import Categorical, NegativeBinomial
from hvae_jax.models import VAE, TopDownVAE
from hvae_jax.objectives import elbo
from hvae_jax.training.checkpoint import Progress

MODEL = TopDownVAE(latents=(2, 3), hidden=5, likelihood=Categorical(4), classes=2)
X = np.random.default_rng(0).integers(0, 4, (6, 3)).astype(np.float32)
KEYS = np.random.default_rng(1).integers(0, 2**32, (6, 2), np.uint32)
Y = np.array([0, 1, 1, 0, 0, 1], np.int32)

# Arrays of an .npz in, arrays of an .npz out.
SCRIPT = """
import sys
import jax
import numpy as np
from jax import export

for what in ("generate", "encode", "elbo"):
    program = export.deserialize(open(f"{what}.stablehlo", "rb").read())
    for n in (6, 2):
        arrays = np.load("inputs.npz")
        inputs = [arrays[name][:n] for name in ("x", "keys", "y") if name != "x" or what != "generate"]
        out = jax.tree.leaves(jax.jit(program.call)(*inputs))
        np.savez(f"{what}{n}.npz", *out)
assert "hvae_jax" not in sys.modules and "flax" not in sys.modules
"""


@pytest.fixture(scope="module")
def variables() -> Any:
    """The model's variables."""
    return plausible_variables(MODEL, jnp.asarray(X), jnp.asarray(Y))


@pytest.fixture(autouse=True)
def run(variables: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that stands for that of a run; types are not checked, since a symbolic size is no int."""
    monkeypatch.chdir(tmp_path)
    np.savez("data.npz", x_train=X.astype(np.uint8), num_values=4)
    experiment = Experiment("toy", MODEL, Data("data.npz"))
    monkeypatch.setattr(serving, "open_variables", lambda *_: (experiment, variables, Progress()))
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


def expected(variables: Any) -> dict[str, list[np.ndarray]]:
    """What the model makes of each example alone, in the order of the programs' outputs."""

    def one(x: Any, words: Any, y: Any) -> dict[str, list[Any]]:
        key = jax.random.wrap_key_data(words)
        trace = MODEL.apply(variables, x[None], key, y=y[None])
        z1, z2 = trace.levels[1], trace.levels[0]
        return {
            "generate": [MODEL.apply(variables, key, 1, y=y[None], method="generate")[0]],
            "encode": [level[0] for level in (z1.q.mean, z2.q.mean, z1.z, z2.z)],
            "elbo": [elbo(trace)[0], trace.log_px[0], trace.rates[:, 0]],
        }

    each = [jax.jit(one)(X[i], KEYS[i], Y[i]) for i in range(len(X))]
    return {name: [np.stack(part) for part in zip(*(row[name] for row in each), strict=True)] for name in each[0]}


@pytest.mark.slow
def test_a_script_without_the_library(variables: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """All three programs, run for two numbers of examples in a process of its own, give what the model does."""
    for what in ("generate", "encode", "elbo"):
        Export(Path(), Path(f"{what}.stablehlo"), what)()
    said = capsys.readouterr().out
    assert "generate.stablehlo: (keys uint32[n,2], y int32[n]) -> x int32[n,3], for any n" in said
    assert "(x float32[n,3], keys uint32[n,2], y int32[n]) -> elbo float32[n], log_px float32[n], rates" in said
    assert "mean/z2 float32[n,2], sample/z1 float32[n,3]" in said and " for cpu, cuda, tpu; made in " in said
    np.savez("inputs.npz", x=X, keys=KEYS, y=Y)
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=clean, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    for what, arrays in expected(variables).items():
        for n in (6, 2):
            with np.load(f"{what}{n}.npz") as got:
                for name, array in zip(got.files, arrays, strict=True):
                    np.testing.assert_allclose(got[name], array[:n], rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_the_documents_script(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The lines of docs/guide/exports.md run as they stand."""
    model = VAE(latents=2, hidden=4, likelihood=Categorical(4))
    variables = plausible_variables(model, jnp.asarray(X), None)
    run = (Experiment("toy", model, Data("data.npz")), variables, Progress())
    monkeypatch.setattr(serving, "open_variables", lambda *_: run)
    for what in ("generate", "encode", "elbo"):
        Export(Path(), Path(f"{what}.stablehlo"), what)()
    capsys.readouterr()
    text = (Path(__file__).parents[2] / "docs" / "guide" / "exports.md").read_text()
    exec(text.partition("```python")[2].partition("```")[0], {})
    assert capsys.readouterr().out.startswith("{'z1': (16, 2)} -")


def test_other_models_and_platforms(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Counts, whose draws are loops; one platform; files in the run folder; codes are those of an example alone."""
    model = VAE(latents=2, hidden=4, likelihood=NegativeBinomial(zeros=True))
    variables = plausible_variables(model, jnp.asarray(X), None)
    experiment = Experiment("counts", model, Data("data.npz"))
    monkeypatch.setattr(serving, "open_variables", lambda *_: (experiment, variables, Progress()))
    for what in ("generate", "encode"):
        Export(Path(), what=what, platforms=("cpu",))()
    assert "-> mean/z1 float32[n,2], sample/z1 float32[n,2], for any n" in capsys.readouterr().out
    generate, encode = (
        export.deserialize(bytearray(Path(f"counts_{what}.stablehlo").read_bytes())) for what in ("generate", "encode")
    )
    assert generate.platforms == encode.platforms == ("cpu",)
    x = np.asarray(jax.jit(generate.call)(KEYS))
    assert x.shape == (6, 3) and x.dtype == np.int32 and x.min() >= 0
    codes = jax.jit(encode.call)(X, KEYS)
    key = jax.random.wrap_key_data(jnp.asarray(KEYS[4]))
    level = jax.jit(lambda x, key: model.apply(variables, x, key).levels[0])(X[4:5], key)
    np.testing.assert_allclose(codes["mean"]["z1"][4], level.q.mean[0], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(codes["sample"]["z1"][4], level.z[0], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"file": Path("a.stablehlo")}, "no --what: it has to be 'generate', 'encode' or 'elbo'"),
        ({"file": Path("a.safetensors"), "what": "elbo"}, r"ends in \.stablehlo, but a.safetensors does not"),
        ({"what": "elbo", "platforms": ("gpu",)}, "--platforms gpu: known are cpu, cuda, tpu, rocm"),
        ({"what": "elbo", "platforms": ()}, "--platforms is empty"),
        ({"what": "elbo", "file": Path("there.stablehlo")}, "is there already: --overwrite"),
        ({"what": "elbo", "file": Path("none/a.stablehlo")}, "in a folder that does not exist"),
    ],
)
def test_bad_input(arguments: dict[str, Any], said: str) -> None:
    """One line each, and nothing is written."""
    Path("there.stablehlo").write_bytes(b"")
    with pytest.raises(ValueError, match=said) as raised:
        Export(Path(), **arguments)()
    assert "\n" not in str(raised.value)
    assert [path.name for path in Path().glob("*.stablehlo")] == ["there.stablehlo"]


def test_weights_that_no_file_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "_MOST_BYTES", 100)
    with pytest.raises(ValueError, match="less than 2: serve the model from Python"):
        Export(Path(), what="elbo")()
