"""A run as a compiled program in one file, weights inside, that JAX runs without hvae_jax."""

import dataclasses
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import Array

from hvae_jax.experiment.reopen import an_example, open_variables
from hvae_jax.models import HVAE
from hvae_jax.objectives import elbo
from hvae_jax.records import checked, described, fits
from hvae_jax.runtime.files import replacing

What = Literal["generate", "encode", "elbo"]
SUFFIX = ".stablehlo"
PLATFORMS = ("cpu", "cuda", "tpu")
_KNOWN = (*PLATFORMS, "rocm")
_MOST_BYTES = 2**31 - 2**27  # a file of jax.export is one flatbuffer, of 2 GiB at most


@dataclasses.dataclass(frozen=True)
@checked
class Served:
    """What was written.

    Attributes:
      file: the file.
      inputs, outputs: dtype, shape and name of each, such as "keys uint32[n,2]".
      platforms: the platforms that it runs on.
      parameters: number of the model's parameters.
      size: bytes of the file.
      seconds: time that tracing and lowering took.
    """

    file: Path
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    platforms: tuple[str, ...]
    parameters: int
    size: int
    seconds: float

    def __str__(self) -> str:
        return (
            f"{self.file}: ({', '.join(self.inputs)}) -> {', '.join(self.outputs)}, for any n\n"
            f"{self.parameters:,} parameters inside, {self.size / 2**20:.1f} MiB, for {', '.join(self.platforms)}; "
            f"made in {self.seconds:.1f} s"
        )


def program_of(model: HVAE, variables: Any, what: What) -> Callable[..., Any]:
    """The function that is exported, of arrays whose first axis is the example.

        generate(keys)     -> x             new examples; with classes generate(keys, y)
        encode(x, keys)    -> {"mean": {level: E[q]}, "sample": {level: z}}, top first; with classes encode(x, keys, y)
        elbo(x, keys)      -> {"elbo", "log_px": [n], "rates": [n, L]}, nats; with classes elbo(x, keys, y)

    keys are uint32 `[n, 2]`, any numbers: one key for each example, whose result is a function of its own x and key and
    does not depend on the other examples. `jax.random.key_data` gives the two words of a JAX key. x is float32
    `[n, *event]`, with the values of the data; y is int32 `[n]`.
    """

    def one_generated(words: Array, y: Array | None = None) -> Array:
        key = jax.random.wrap_key_data(words, impl="threefry2x32")
        return model.apply(variables, key, 1, y=_one(y), method="generate")[0]

    def one_seen(x: Array, words: Array, y: Array | None = None) -> Any:
        key = jax.random.wrap_key_data(words, impl="threefry2x32")
        trace = model.apply(variables, x[None], key, y=_one(y))
        if what == "elbo":
            return {"elbo": elbo(trace)[0], "log_px": trace.log_px[0], "rates": trace.rates[:, 0]}
        levels = {level.name: level for level in trace.unstack()}
        return {
            "mean": {name: level.q.mean[0] for name, level in levels.items()},
            "sample": {name: level.z[0] for name, level in levels.items()},
        }

    one = one_generated if what == "generate" else one_seen
    return jax.vmap(one)


def check_serving(file: Path | None, what: str | None, platforms: Sequence[str]) -> None:
    """Raises ValueError for a path without the suffix, an unknown program and unknown platforms, before any work."""
    if not fits(what, What):
        given = "no --what" if what is None else f"--what {what}"
        raise ValueError(f"{SUFFIX} files hold a program, and there is {given}: it has to be {described(What)}.")
    if file is not None and file.suffix != SUFFIX:
        raise ValueError(f"--what {what} writes a program, whose file ends in {SUFFIX}, but {file.name} does not.")
    unknown = [name for name in platforms if name not in _KNOWN]
    if unknown or not platforms:
        raise ValueError(f"--platforms {' '.join(unknown) or 'is empty'}: known are {', '.join(_KNOWN)}.")


def serve(
    run: Path,
    file: Path | None,
    what: What,
    platforms: Sequence[str] = PLATFORMS,
    overwrite: bool = False,
    modules: Sequence[str] = (),
) -> Served:
    """Writes one program of a run's best variables (`program_of`), by `jax.export`, for any number of examples.

    Args:
      run: the run folder.
      file: the file to write; None takes NAME_WHAT.stablehlo in the run folder.
      what: "generate", "encode" or "elbo".
      platforms: platforms that the program is lowered for; none of them has to be here.
      overwrite: replace an existing file.
      modules: modules beside hvae_jax that the settings may name.

    Raises ValueError for arguments that `check_serving` refuses, a file that exists, and weights beyond the 2 GiB that
    such a file can hold; otherwise as `open_run` does.
    """
    check_serving(file, what, platforms)
    experiment, variables, _ = open_variables(run, modules)
    model = experiment.model
    file = file or run / f"{experiment.name}_{what}{SUFFIX}"
    if file.is_dir() or not file.parent.is_dir():
        raise ValueError(f"{file} is {'a folder' if file.is_dir() else 'in a folder that does not exist'}.")
    if file.exists() and not overwrite:
        raise ValueError(f"{file} is there already: --overwrite replaces it.")
    leaves = jax.tree.leaves(variables)
    if (size := sum(leaf.nbytes for leaf in leaves)) > _MOST_BYTES:
        raise ValueError(
            f"The weights take {size / 2**30:.1f} GiB, but a program's file holds less than 2: serve the model from "
            "Python, by `hvae export` without --what."
        )
    start = time.perf_counter()
    exported = _exported(model, jax.device_get(variables), tuple(an_example(experiment).x.shape[1:]), what, platforms)
    data = exported.serialize()
    with replacing(file) as partial:
        partial.write_bytes(data)
    names = ("keys",) if what == "generate" else ("x", "keys")
    names += ("y",) if model.classes else ()
    inputs = [f"{name} {_shape(aval)}" for name, aval in zip(names, exported.in_avals, strict=True)]
    outputs = jax.tree.unflatten(exported.out_tree, exported.out_avals)
    shown = [
        f"{jax.tree_util.keystr(path, simple=True, separator='/') or 'x'} {_shape(aval)}"
        for path, aval in jax.tree.leaves_with_path(outputs)
    ]
    count = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    seconds = time.perf_counter() - start
    return Served(file, tuple(inputs), tuple(shown), exported.platforms, count, len(data), seconds)


def _exported(
    model: HVAE, variables: Any, event: tuple[int, ...], what: What, platforms: Sequence[str]
) -> "jax.export.Exported":
    """The program for a symbolic number of examples, n."""
    from jax import export

    (n,) = export.symbolic_shape("n")
    shapes = [] if what == "generate" else [jax.ShapeDtypeStruct((n, *event), jnp.float32)]
    shapes.append(jax.ShapeDtypeStruct((n, 2), jnp.uint32))
    if model.classes:
        shapes.append(jax.ShapeDtypeStruct((n,), jnp.int32))
    # vmap leaves no part of the model a symbolic size to see
    return export.export(jax.jit(program_of(model, variables, what)), platforms=tuple(platforms))(*shapes)


def _one(y: Array | None) -> Array | None:
    return None if y is None else y[None]


def _shape(aval: Any) -> str:
    return f"{aval.dtype}[{','.join(map(str, aval.shape))}]"
