"""Our forms of operations for XLA's CPU backend beside XLA's own: whether each still gains on the installed JAX.

    python experiments/benchmarks/cpu_forms.py
    python experiments/benchmarks/cpu_forms.py --rounds 15 --only 3x3

Both sides have the same values. They take turns; the table has medians and quartiles over rounds, and the median of the
ratios taken round by round: above 1 our form gains. Convolutions are timed with both gradients. Then the article's
training step by level of LLVM's optimisation: `hvae_jax.runtime.compilation.jit` takes the second, JAX the third.
"""

import dataclasses
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jax import Array

import hvae_jax as hv
from hvae_jax.models import TopDownVAE
from hvae_jax.networks import cpu_conv, resample
from hvae_jax.objectives import Batch, NegativeELBO
from hvae_jax.runtime import compilation
from hvae_jax.runtime.doctor import line
from hvae_jax.runtime.prng import fused
from hvae_jax.training import Adamax, init_state, make_step


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of the measurement.

    Attributes:
      rounds: number of rounds.
      only: measure the rows whose name has this in it.
    """

    rounds: int = 9
    only: str = ""


@dataclasses.dataclass(frozen=True)
class Form:
    """An operation in our form and in XLA's, both of the same arguments."""

    name: str
    ours: Callable[..., Any]
    xlas: Callable[..., Any]
    arguments: tuple[Array, ...]


Convolution = Callable[[Array, Array], Array]


def with_gradients(convolution: Convolution) -> Convolution:
    """The output of a convolution and the gradients of its sum of squares."""

    def both(x: Array, kernel: Array) -> Any:
        return jax.value_and_grad(lambda x, k: jnp.square(convolution(x, k)).sum(), (0, 1))(x, kernel)

    return both


def four_times(convolution: Convolution) -> Convolution:
    """Four convolutions with kernels of their own, in a loop."""

    def looped(x: Array, kernels: Array) -> Array:
        return jax.lax.scan(lambda h, k: (convolution(h, k), None), x, kernels)[0]

    return looped


def compose(outer: Callable[..., Any], inner: Callable[..., Any]) -> Callable[..., Any]:
    """outer(inner(x))."""
    return lambda x: outer(inner(x))


def dilated(x: Array, kernel: Array) -> Array:
    """`convolve_transposed` of 3x3 and stride 2 as XLA has it: a convolution of x with zeros between its pixels."""
    return jax.lax.conv_general_dilated(
        x,
        kernel[::-1, ::-1],
        (1, 1),
        ((1, 2), (1, 2)),
        lhs_dilation=(2, 2),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def forms() -> Iterator[Form]:
    """Every form: convolutions at the sizes of the Ladder VAE, VDVAE and NVAE, then random numbers."""

    def normal(*shape: int) -> Array:
        return jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32)

    def padding(size: int) -> cpu_conv.Padding:
        return ((size // 2, size // 2), (size // 2, size // 2))

    def fast(size: int, stride: int, x: Array, kernel: Array) -> Array:
        return cpu_conv.convolve(x, kernel, stride, padding(size), None)

    def plain(size: int, stride: int, x: Array, kernel: Array) -> Array:
        return cpu_conv.plain(x, kernel, stride, padding(size), None)

    for size, side, images, channels, stride in (
        (3, 28, 48, 64, 1),
        (5, 28, 48, 64, 1),
        (3, 14, 48, 64, 1),
        (3, 28, 48, 64, 2),
        (3, 7, 48, 64, 1),
        (3, 32, 8, 16, 1),
    ):
        ours = partial(fast, size, stride)
        strided = f", stride {stride}" if stride > 1 else ""
        name = f"{size}x{size}{strided}, {channels} channels, {images} images of {side}x{side}"
        x, kernel = normal(images, side, side, channels), normal(size, size, channels, channels) / (size * 8)
        yield Form(name, with_gradients(ours), with_gradients(partial(plain, size, stride)), (x, kernel))
        if stride == 1 and size == 3 and side < 28:
            kernels = jnp.stack([kernel] * 4)
            looped = with_gradients(four_times(ours)), with_gradients(four_times(partial(plain, size, 1)))
            yield Form(f"four in a loop, {name}", *looped, (x, kernels))
    for size, side in ((1, 16), (3, 2)):
        x, kernel = normal(48, side, side, 64), normal(size, size, 64, 128) / (size * 8)
        name = f"{size}x{size}, 64 to 128 channels, 48 images of {side}x{side}, as a matrix product"
        yield Form(name, with_gradients(resample.convolve), with_gradients(partial(plain, size, 1)), (x, kernel))
    name = "transposed 3x3, 64 channels, 48 images of 8x8"
    transposed = with_gradients(resample.convolve_transposed), with_gradients(dilated)
    yield Form(name, *transposed, (normal(48, 8, 8, 64), normal(3, 3, 64, 64) / 24))
    grouped = with_gradients(cpu_conv._grouped)
    name = "depthwise 5x5, 192 channels, 16 images of 16x16"
    yield Form(name, with_gradients(cpu_conv.depthwise), grouped, (normal(16, 16, 16, 192), normal(5, 5, 1, 192)))
    for shape in ((8, 32, 32, 16), (64, 64)):
        xlas = partial(jax.random.normal, shape=shape)
        yield Form(f"normals, {shape}", compose(xlas, fused), xlas, (jax.random.key(0),))


def seconds(run: Callable[[], Any]) -> float:
    """Seconds of one call, until its result is computed."""
    start = time.perf_counter()
    jax.block_until_ready(run())
    return time.perf_counter() - start


def row(name: str, ours: Callable[[], Any], xlas: Callable[[], Any], rounds: int) -> str:
    """The table's row for two sides that have run once: each runs for some 0.1 s in a round."""
    repeats = max(1, round(0.1 / min(seconds(ours), seconds(xlas))))
    times = np.array(
        [[np.mean([seconds(side) for _ in range(repeats)]) for side in (ours, xlas)] for _ in range(rounds)]
    )
    cells = []
    for low, middle, high in 1e3 * np.percentile(times, [25, 50, 75], axis=0).T:
        cells.append(f"{middle:.3g} ({low:.3g} to {high:.3g})")
    return f"| {name} | {' | '.join(cells)} | {np.median(times[:, 1] / times[:, 0]):.2f} |"


def step_at(jit: Callable[..., Any]) -> tuple[Callable[[], Any], float]:
    """The article's training step, compiled by this `jit`, and the seconds that took."""
    model, optimiser, key = TopDownVAE((8, 16), likelihood=hv.Categorical(17)), Adamax().build(), jax.random.key(0)
    x = jnp.asarray(np.random.default_rng(0).integers(0, 17, (64, 8, 8, 1)), jnp.uint8)
    state = init_state(model, NegativeELBO(), optimiser, key, x)
    step = jit(make_step(model, NegativeELBO(), optimiser))
    start = time.perf_counter()
    program = step.lower(state, Batch(x, None), key).compile()
    took = time.perf_counter() - start
    return lambda: program(state, Batch(x, None), key), took


def main(settings: Settings) -> None:
    """Prints the table."""
    print(line())
    print(f"\nmilliseconds, medians (quartiles) of {settings.rounds} rounds\n")
    print("| | our form | XLA's | XLA's / ours |\n| --- | --- | --- | --- |")
    compilation.keep_freed_memory()
    for form in forms():
        if settings.only not in form.name:
            continue
        ours, xlas = (partial(jax.jit(side), *form.arguments) for side in (form.ours, form.xlas))
        for a, b in zip(jax.tree.leaves(ours()), jax.tree.leaves(xlas()), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3 * float(jnp.abs(b).max()))
        print(row(form.name, ours, xlas, settings.rounds), flush=True)
    if settings.only in "training step":
        (ours, first), (xlas, second) = step_at(compilation.jit), step_at(jax.jit)
        name = f"the article's training step at level 2 (compiled in {first:.1f} s) and 3 ({second:.1f} s)"
        print(row(name, ours, xlas, settings.rounds))


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
