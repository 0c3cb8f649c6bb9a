"""Work of a function, counted on its jaxpr: the time it will take, from shapes alone."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.extend import core

PRODUCT, CONVOLUTION, ELEMENT = 2.5e-11, 4e-11, 1e-9
"""Seconds of one CPU core for an operation of a matrix product, of a convolution, and for an element of the result of
anything else: the small VDVAE of the recipe `vdvae` takes what these say, the Ladder VAE less than half."""

_VIEWS = ("broadcast_in_dim", "convert_element_type", "reshape", "slice", "squeeze")  # fused with what reads them


def core_seconds(function: Callable[..., Any], *arguments: Any) -> float:
    """Seconds of one CPU core for one call of `function`, as a rough estimate that is the same on every machine.

    XLA's own count takes the body of a loop once; this one takes it as often as a scan runs. Only loops whose length
    is data count once.

    Args:
      arguments: arrays, or their shapes and dtypes: nothing is computed.
    """
    return _seconds(jax.make_jaxpr(function)(*arguments).jaxpr)


def _seconds(jaxpr: core.Jaxpr) -> float:
    return sum(_seconds_of(equation) for equation in jaxpr.eqns)


def _seconds_of(equation: Any) -> float:
    name = equation.primitive.name
    inner = [_seconds(jaxpr) for jaxpr in _inner(equation.params)]
    if inner:
        if name == "scan":
            return equation.params["length"] * sum(inner)
        return max(inner) if name == "cond" else sum(inner)  # of a cond's branches one runs
    results = sum(math.prod(out.aval.shape) for out in equation.outvars)
    if name == "dot_general":
        (contracted, _), _ = equation.params["dimension_numbers"]
        return 2.0 * PRODUCT * results * math.prod(equation.invars[0].aval.shape[axis] for axis in contracted)
    if name == "conv_general_dilated":
        kernel, axes = equation.invars[1].aval.shape, equation.params["dimension_numbers"].rhs_spec
        return 2.0 * CONVOLUTION * results * math.prod(kernel) / kernel[axes[0]]
    return 0.0 if name in _VIEWS else ELEMENT * results


def _inner(params: dict[str, Any]) -> Iterator[core.Jaxpr]:
    """The jaxprs that an equation runs: bodies, branches, functions that are called."""
    for value in params.values():
        for each in value if isinstance(value, tuple | list) else (value,):
            if isinstance(each, core.ClosedJaxpr):
                yield each.jaxpr
            elif isinstance(each, core.Jaxpr):
                yield each
