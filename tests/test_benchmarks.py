"""Benchmarks of accelerators: rows that are appended, resumed and tabulated; nothing large is measured."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from support.places import ROOT, script

BENCHMARKS = ROOT / "experiments" / "benchmarks"


@pytest.fixture(scope="module")
def accelerator() -> Any:
    # its records are found by the name of their module
    module = script(BENCHMARKS / "accelerator.py")
    sys.modules[module.__name__] = module
    return module


def row(task: str, dtype: str = "float32", **fields: Any) -> dict[str, Any]:
    return {"subject": "digits", "dtype": dtype, "task": task, "batch": 64, "small": True, **fields}


def test_rows_stay_and_a_torn_one_does_not_count(accelerator: Any, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    assert accelerator.known(path) == {}
    accelerator.append(path, row("step", seconds=[1.0, 2.0, 3.0]))
    accelerator.append(path, row("elbo", seconds=[1.0, 2.0, 3.0]))
    path.write_text(path.read_text() + '{"subject": "digits", "dty')
    assert set(accelerator.known(path)) == {("digits", "float32", task, 64, True) for task in ("step", "elbo")}


def test_the_table_has_shares_of_the_measured_rate(accelerator: Any) -> None:
    product = {"subject": "products", "dtype": "float32", "task": "product", "batch": 0, "small": True, "rate": 1e12}
    step = row("step", seconds=[0.001, 0.002, 0.003], flops=1e9, peak_bytes=2**30, compile_seconds=7.0)
    other = row("step", "PyTorch", seconds=[0.001, 0.004, 0.005], peak_bytes=2**30)
    lines = accelerator.markdown({accelerator.key_of(one): one for one in (product, step, other)}).splitlines()
    assert lines[0] == "matrix product, float32: 1 TFLOP/s"
    assert lines[-2] == "| digits | step | 64 | float32 | 2.00 | 1.00 to 3.00 | 50.0% | 1.00 GiB | 7 s |"
    assert lines[-1] == "| digits | step | 64 | PyTorch | 4.00 | 1.00 to 5.00 | - | 1.00 GiB | - |"


def test_what_is_measured_is_not_measured_again(accelerator: Any, tmp_path: Path) -> None:
    """Of a subject whose rows are all there nothing is even built."""
    path = tmp_path / "rows.jsonl"
    for task in ("step", "elbo", "sample"):
        accelerator.append(path, row(task, seconds=[1.0, 1.0, 1.0]))
    settings = accelerator.Settings(rows=path, small=True)
    assert list(accelerator.measured(settings, "digits", "float32")) == []


def test_a_subject_that_does_not_exist(accelerator: Any) -> None:
    with pytest.raises(SystemExit, match=r"There is no subject 'vdave'. Did you mean vdvae\?"):
        accelerator.main(accelerator.Settings(subjects=("vdave",)))


@pytest.mark.slow
def test_a_subject_is_measured(accelerator: Any, tmp_path: Path) -> None:
    """A bound of a few images: its rows have all that the table needs."""
    settings = accelerator.Settings(rows=tmp_path / "rows.jsonl", small=True, seconds=0.01)
    (found,) = accelerator.measured(settings, "importance", "float32")
    assert found["task"] == "bound" and found["flops"] > 0 and found["peak_bytes"] > 0
    assert found["seconds"] == sorted(found["seconds"]) and json.loads(json.dumps(found)) == found


def test_presets_fit_keeps_a_compiled_row(tmp_path: Path) -> None:
    """An estimate that was made later does not take its place; the table says which is which."""
    table = script(BENCHMARKS / "presets_fit.py")
    path = tmp_path / "rows.jsonl"
    plain = {
        "program": "training",
        "memory": 2.0**30,
        "flops": {"float32": 1e12},
        "bytes": 1e9,
        "aliased": 0,
        "collective_bytes": 0.0,
        "collectives": {},
        "counts": {},
        "trace_seconds": 1.0,
    }
    of = {"recipe": "vae", "preset": "digits", "device": "v5e", "batch": 64, "change": ""}
    compiled = {**of, "verdict": {**plain, "by": "libtpu 1", "compile_seconds": 61.0}, "note": ""}
    guessed = {**of, "verdict": {**plain, "by": "", "compile_seconds": None}, "note": "estimate"}
    large = {**guessed, "preset": "large", "change": "--model.remat"}
    large["verdict"] = {**guessed["verdict"], "memory": 2.0**40}
    path.write_text("".join(json.dumps(one) + "\n" for one in (guessed, compiled, guessed, large)))
    rows = table.known(path)
    assert rows["vae", "digits", "v5e"] == compiled
    lines = table.markdown(rows).splitlines()
    assert lines[-2].startswith("| vae digits | 64 | 1.00 GiB | yes | 1 TFLOP | 1 GB |") and lines[-2].endswith(
        "61 s |"
    )
    assert "with --model.remat" in lines[-1] and lines[-1].endswith("estimate |")
