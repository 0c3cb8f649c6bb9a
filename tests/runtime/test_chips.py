"""The table of chips: names, topologies, and the chip of this machine."""

import math
from pathlib import Path

import pytest

from hvae_jax.runtime.chips import CHIPS, chip_named, chip_of_kind, own_chip


def test_rates_are_of_the_right_size() -> None:
    """A slipped power of ten would be seen here: seconds to read the whole memory once, operations a byte."""
    for chip in CHIPS.values():
        assert 0.01 < chip.memory / chip.bandwidth < 0.04, chip.name
        assert 150 < chip.bfloat16 / chip.bandwidth < 600, chip.name
        assert 0.7 * chip.memory < chip.usable < chip.memory
        assert chip.float32 <= chip.bfloat16 and chip.link < chip.bandwidth


def test_names() -> None:
    assert chip_named("v5e").title == "TPU v5e"
    with pytest.raises(ValueError, match=r"no device 'v5'\. Did you mean v5[ep]\? There are v5e, .*h200, here\."):
        chip_named("v5")
    with pytest.raises(ValueError, match=r"no device 'H-100'\. Did you mean h100\?"):
        chip_named("H-100")


def test_kinds_of_jax() -> None:
    """The longest beginning wins."""
    kinds = {"TPU v5 lite": "v5e", "TPU v5": "v5p", "TPU v6 lite": "v6e", "NVIDIA H100 80GB HBM3": "h100"}
    assert {kind: chip.name for kind in kinds if (chip := chip_of_kind(kind))} == kinds
    assert chip_of_kind("cpu") is None


def test_topologies() -> None:
    assert chip_named("v5e").layout(1) == chip_named("v5e").layout(4) == "v5e:2x2"
    assert chip_named("v4").layout(8) == "v4:2x2x2"
    assert chip_named("h100").layout(3) == ""
    for name, layout in ((chip.name, layout) for chip in CHIPS.values() for layout in chip.layouts):
        sides = [int(side) for side in layout[1].partition(":")[2].split("x")]
        assert layout[0] in (1, math.prod(sides)) and layout[1].startswith(f"{name}:")
    with pytest.raises(ValueError, match=r"There is no v5e of 3 chips: --devices can be 1, 4, 8, 16, 32, 64\."):
        chip_named("v5e").layout(3)
    with pytest.raises(ValueError, match=r"no h100 of 0 chips: --devices can be 1 or more\."):
        chip_named("h100").layout(0)


def test_the_chip_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("TPU_ACCELERATOR_TYPE", raising=False)
    here = own_chip(8e9)
    assert here.platform == "cpu" and here.usable == 8e9 and math.isnan(here.bandwidth)
    monkeypatch.setenv("TPU_ACCELERATOR_TYPE", "v5litepod-8")
    assert own_chip(8e9).name == "v5e"
    monkeypatch.setenv("TPU_ACCELERATOR_TYPE", "v6e-1")
    assert own_chip(8e9).name == "v6e"
    monkeypatch.setenv("TPU_ACCELERATOR_TYPE", "v3-8")
    with pytest.raises(ValueError, match=r"has a TPU v3, which is not in the table: give one of v5e, "):
        own_chip(8e9)


@pytest.mark.parametrize(
    ("printed", "code", "name"),
    [("NVIDIA H200\nNVIDIA H200", 0, "h200"), ("NVIDIA-SMI has failed: no driver", 9, "cpu"), ("Tesla T4", 0, None)],
)
def test_the_gpu_of_this_machine(
    printed: str, code: int, name: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A GPU whose rates are not known is no CPU."""
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\necho '{printed}'\nexit {code}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin")
    monkeypatch.delenv("TPU_ACCELERATOR_TYPE", raising=False)
    if name is not None:
        assert own_chip(8e9).name == name
        return
    with pytest.raises(ValueError, match="This machine has a Tesla T4, which is not in the table"):
        own_chip(8e9)
