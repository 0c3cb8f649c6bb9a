"""The stage `tpu` of .ci/run: programs of the contract's rows, compiled by the TPU's compiler for v5e without a TPU.

    python .ci/tpu.py              a row of each kind of model
    python .ci/tpu.py --rows all   every row, which takes some minutes
    python .ci/tpu.py --rows nvae biva

Of each row a training step over four chips and `generate` on one. Fails if a program moves data between chip and host,
calls back into Python, copies the state that it was given, or reduces gradients more than once a step.
"""

import argparse
import os
import re
import sys
import time
from typing import Any

from hvae_jax.runtime import ahead

os.environ.update(ahead.ENVIRONMENT)

import jax  # after its environment
from support.cases import BATCH, CASES, Case

import hvae_jax as hv
from hvae_jax.models import TopDownVAE
from hvae_jax.runtime.chips import CHIPS
from hvae_jax.runtime.hlo import Traffic
from hvae_jax.training import Adamax, initial_state, make_step
from hvae_jax.training.mesh import replicated, rows_sharding, state_sharding

ROWS = (
    *("vae", "top_down_2", "bottom_up_vae", "ladder_conv", "resnet_vae", "gated_ladder", "vdvae", "nvae"),
    *("linear", "cagem", "self_supervised"),
)
FOREIGN = re.compile("callback|python|ffi|infeed|outfeed", re.IGNORECASE)
NORMED = 3
"""Most all-reduces of a normaliser over the batch: its mean, then its variance, and one on the way back."""
GATHERS = 4
"""Most gathers of a parameter that is split over the chips: forward, backward, and what the compiler repeats."""


def step_over(case: Case, chips: int, fsdp: bool = False) -> tuple[Traffic, Any]:
    """What a training step of a row moves, and its state."""
    mesh = ahead.chips_mesh(CHIPS["v5e"], chips)
    optimiser, key = Adamax().build(), jax.eval_shape(lambda: jax.random.key(0))
    state = jax.eval_shape(
        lambda key: initial_state(case.model, hv.NegativeELBO(), optimiser, key, case.x, case.y), key
    )
    layout, everywhere = state_sharding(state, mesh, fsdp), replicated(mesh)
    step = jax.jit(
        make_step(case.model, hv.NegativeELBO(), optimiser),
        in_shardings=(layout, rows_sharding(BATCH, mesh), everywhere),
        out_shardings=(layout, everywhere),
        donate_argnums=0,
    )
    batch = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), hv.Batch(case.x, case.y))
    return moved(step.trace(state, batch, key)), state


def generated(case: Case) -> Traffic:
    """What drawing samples of a row moves."""
    mesh = ahead.chips_mesh(CHIPS["v5e"], 1)
    key = jax.eval_shape(lambda: jax.random.key(0))
    variables = jax.eval_shape(lambda key: case.model.init(key, case.x, key, y=case.y), key)
    drawn = jax.jit(
        lambda variables, key: case.model.apply(variables, key, BATCH, y=case.y, method="generate"),
        in_shardings=replicated(mesh),
    )
    return moved(drawn.trace(variables, key))


def moved(traced: Any) -> Traffic:
    """The traffic of a program; a program that does not fit a chip is none of these rows'."""
    found = ahead.compiled_for("tpu", traced)
    assert found.traffic is not None, "it does not fit"
    return found.traffic


def check_row(case: Case) -> str:
    """Compiles a row's two programs; returns a line on them. Raises AssertionError for what they should not do."""
    step, state = step_over(case, 4)
    drawn = generated(case)
    for name, program in (("step", step), ("generate", drawn)):
        assert not program.host_transfers, f"{name}: {program.host_transfers} transfers to the host"
        strange = [target for target in program.custom_calls if FOREIGN.search(target)]
        assert not strange, f"{name} calls {strange}"
    leaves = len(jax.tree.leaves(state))
    assert step.aliased >= leaves, f"{step.aliased} of the state's {leaves} arrays are donated"
    normalisers = len(jax.tree.leaves(state.statistics)) // 2
    reductions, most = step.collectives.get("all-reduce", 0), 1 + NORMED * normalisers
    assert reductions <= most, f"{reductions} all-reduces a step of {normalisers} normalisers; {most} at most"
    others = {name: count for name, count in step.collectives.items() if name != "all-reduce"}
    assert not others, f"a replicated state needs no {others}"
    normed = f" ({normalisers} normalisers)" if normalisers else ""
    return f"{reductions} all-reduces{normed}, {step.loops} loops, {leaves} arrays donated"


def check_fsdp() -> str:
    """A state that is split over the chips: each parameter is gathered, and no oftener than it is used."""
    model = TopDownVAE((64, 64), hidden=256, depth=2, likelihood=hv.Bernoulli())
    x = CASES[0].x[:, :1].repeat(128, axis=1).reshape(BATCH, 128)
    step, state = step_over(Case("fsdp", model, x), 4, fsdp=True)
    split = sum(leaf.size >= 2**14 for leaf in jax.tree.leaves(state.params))
    gathers = step.collectives.get("all-gather", 0)
    assert split, "no parameter is large enough to be split"
    assert 1 <= gathers <= GATHERS * split, f"{gathers} gathers of {split} parameters"
    return f"{gathers} gathers of {split} parameters that are split, {step.collectives}"


def main() -> None:
    """Checks the rows; exit code 1 if one fails, after all of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", nargs="+", default=[])
    wanted = parser.parse_args().rows
    names = [case.name for case in CASES]
    rows = names if wanted == ["all"] else wanted or ROWS
    print(f"jax {jax.__version__}, libtpu {ahead.check_libtpu()}, v5e", flush=True)
    failed = 0
    for name, check in (*((row, None) for row in rows), ("fsdp", check_fsdp)):
        start = time.perf_counter()
        try:
            line = check_row(next(case for case in CASES if case.name == name)) if check is None else check()
        except AssertionError as error:
            failed, line = failed + 1, f"FAILED: {error}"
        print(f"{name:24} {time.perf_counter() - start:5.0f} s  {line}", flush=True)
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
