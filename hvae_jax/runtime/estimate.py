"""What a program needs, estimated from its jaxpr: floating-point operations, memory and traffic, from shapes alone.

Operations are exact. Memory and traffic follow rules of what a compiler fuses: elementwise operations are computed
where they are read, unless they join several arrays and are read more than once; products, convolutions, reductions
and whatever a loop hands on have memory of their own. Small intermediate values stay on the chip and cause no traffic.
On a TPU they take no memory either, what follows a product element by element is written in its place, and the size of
the program is estimated from the number of its operations. docs/results/accelerators.md compares all this with the
TPU's compiler.
"""

import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
from jax.extend import core

_CALLS = ("pjit", "jit", "closed_call", "core_call", "custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr")
_CASTS = ("convert_element_type", "reduce_precision", "name", "copy")
_PRODUCTS = ("dot_general", "conv_general_dilated")
_HEAVY = frozenset(
    (
        *(*_PRODUCTS, "reduce_sum", "reduce_max", "reduce_min", "reduce_prod", "argmax"),
        *("argmin", "gather", "scatter", "scatter-add", "scatter_add", "sort", "cumsum", "cumlogsumexp", "cummax"),
        *("dynamic_update_slice", "reduce_window", "reduce_window_sum", "reduce_window_max", "select_and_gather_add"),
        *("select_and_scatter_add", "cholesky", "triangular_solve", "while", "scan", "cond", "checkpoint", "remat2"),
        *("all_gather", "psum", "custom_call", "pure_callback", "top_k"),
    )
)

_SMALL_TPU, _SMALL = 2.0**24, 2.0**21


def small(platform: str) -> float:
    """Bytes up to which an intermediate value stays in the core's memory of a TPU, or in the cache of a GPU.

    A v5e's core has 128 MiB, for all that is needed at once; an eighth of it fits what its compiler keeps there.
    """
    return _SMALL_TPU if platform == "tpu" else _SMALL


LANES = 128
"""Elements of a row of a TPU's memory."""

OPERATION = 4500.0
"""Bytes of a TPU's program for each operation of a jaxpr, loops counted once: code, and tables of what it fetches.

By nine presets and libtpu 0.0.42 it is 2.7 to 5.8 kB, and 0.6 kB for the smallest of them, a program of half a
megabyte.
"""


@dataclasses.dataclass(frozen=True)
class Estimate:
    """What one call of a program needs.

    Attributes:
      flops: floating-point operations of matrix products and convolutions by dtype, loops in full.
      temporaries: most bytes of intermediate values at once.
      program: bytes of the program itself; 0 where they are not known, on other platforms than a TPU.
      bytes: bytes read from and written to memory, loops in full.
    """

    flops: Mapping[str, float]
    temporaries: float
    program: float
    bytes: float


def estimated(closed: core.ClosedJaxpr, platform: str) -> Estimate:
    """The estimate of a jaxpr, as it is lowered for a platform ("cpu", "cuda", "tpu")."""
    cost = _Walk(platform).cost(closed.jaxpr)
    ends = [var for var in closed.jaxpr.outvars if not isinstance(var, core.Literal)]
    # small arguments and results cross the chip's edge once; the walk has counted the large ones
    room = [_size(var) * padding(_shape(var), platform) for var in (*closed.jaxpr.invars, *ends)]
    edges = math.fsum(size for size in room if size <= small(platform))
    program = OPERATION * _operations(closed.jaxpr, platform) if platform == "tpu" else 0.0
    return Estimate(flops(closed, platform), cost.peak, program, cost.moved + edges)


def padding(shape: Sequence[int], platform: str) -> float:
    """How many times its own size an argument takes in memory.

    A TPU has rows of 128 lanes: one axis is rounded up to them, the one that wastes the least.
    """
    if platform != "tpu":
        return 1.0
    return min((-(-size // LANES) * LANES / size for size in shape if size), default=float(LANES))


def flops(closed: core.ClosedJaxpr, platform: str) -> dict[str, float]:
    """Floating-point operations of matrix products and convolutions by dtype, loops in full."""
    found: dict[str, float] = {}
    for dtype, count in _flops(closed.jaxpr, platform, 1.0):
        found[dtype] = found.get(dtype, 0.0) + count
    return found


def inner_jaxprs(equation: Any, platform: str) -> list[core.Jaxpr]:
    """The jaxprs that an equation runs on a platform: bodies, functions that are called, and one branch of a cond.

    `lax.platform_dependent` is a cond whose branches have platforms; of any other the first branch counts that is the
    longest.
    """
    params = equation.params
    if equation.primitive.name == "cond":
        branches = [branch.jaxpr for branch in params["branches"]]
        if platforms := params.get("branches_platforms"):
            return [branches[_branch_of(platforms, platform)]]
        return [max(branches, key=_length)]
    found = []
    for value in params.values():
        for each in value if isinstance(value, tuple | list) else (value,):
            if isinstance(each, core.ClosedJaxpr):
                found.append(each.jaxpr)
            elif isinstance(each, core.Jaxpr):
                found.append(each)
    if equation.primitive.name in ("custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr"):
        return found[:1]
    return found


def _branch_of(platforms: Iterable[Any], platform: str) -> int:
    names = list(platforms)
    for number, name in enumerate(names):
        if name is not None and platform in name:
            return number
    return names.index(None) if None in names else 0


def _operations(jaxpr: core.Jaxpr, platform: str) -> int:
    """Number of equations that run nothing inside, loops counted once."""
    inner = [inner_jaxprs(equation, platform) for equation in jaxpr.eqns]
    return sum(sum(_operations(one, platform) for one in some) if some else 1 for some in inner)


def _length(jaxpr: core.Jaxpr) -> int:
    return len(jaxpr.eqns)


def _flops(jaxpr: core.Jaxpr, platform: str, times: float) -> Iterator[tuple[str, float]]:
    for equation in jaxpr.eqns:
        name = equation.primitive.name
        results = sum(math.prod(_shape(out)) for out in equation.outvars)
        if name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            shape = _shape(equation.invars[0])
            yield _dtype(equation), 2.0 * times * results * math.prod(shape[axis] for axis in contracted)
        elif name == "conv_general_dilated":
            yield _dtype(equation), times * _convolution(equation)
        else:
            turns = times * (equation.params["length"] if name == "scan" else 1)
            for inner in inner_jaxprs(equation, platform):
                yield from _flops(inner, platform, turns)


def _convolution(equation: Any) -> float:
    """Operations of a convolution; products with the zeros of padding and of a dilated input are left out."""
    params, numbers = equation.params, equation.params["dimension_numbers"]
    image, kernel = (equation.invars[number].aval.shape for number in (0, 1))
    out = equation.outvars[0].aval.shape
    pairs = 1.0
    for number, (low, _) in enumerate(params["padding"]):
        size, width = image[numbers.lhs_spec[2 + number]], kernel[numbers.rhs_spec[2 + number]]
        stride, base, window = (params[name][number] for name in ("window_strides", "lhs_dilation", "rhs_dilation"))
        length = out[numbers.out_spec[2 + number]]
        pairs *= sum(
            0 <= (at := o * stride + k * window - low) < (size - 1) * base + 1 and at % base == 0
            for o in range(length)
            for k in range(width)
        )
    batch, features = out[numbers.out_spec[0]], out[numbers.out_spec[1]]
    return 2.0 * pairs * batch * features * kernel[numbers.rhs_spec[1]] / params["batch_group_count"]


def _dtype(equation: Any) -> str:
    return str(equation.invars[0].aval.dtype)


@dataclasses.dataclass(frozen=True)
class _Cost:
    """What a jaxpr needs beside its inputs and outputs: bytes at once, and bytes moved by values that are not small."""

    peak: float
    moved: float


@dataclasses.dataclass(eq=False)
class _Value:
    """A value of a flattened jaxpr.

    Attributes:
      size: its bytes.
      sources: what it is computed from.
      stored: whether it is in memory of its own: inputs, and results of heavy operations.
      product: whether it is the result of a matrix product or a convolution.
      cast: whether it is another value in other numbers, no narrower ones: what reads it reads the other.
      uses: number of operations that read it.
      place: the product in whose place it is written; None for a place of its own.
    """

    size: float
    sources: tuple["_Value", ...] = ()
    stored: bool = True
    product: bool = False
    cast: bool = False
    uses: int = 0
    place: "_Value | None" = None


class _Walk:
    """Costs of jaxprs on a platform."""

    def __init__(self, platform: str) -> None:
        self._platform, self._small = platform, small(platform)
        self._on_chip = self._small if platform == "tpu" else 0.0  # a cache's contents have a place in memory too
        self._known: dict[int, tuple[core.Jaxpr, _Cost]] = {}

    def cost(self, jaxpr: core.Jaxpr) -> _Cost:
        """The cost of one run of a jaxpr."""
        if id(jaxpr) not in self._known:
            self._known[id(jaxpr)] = jaxpr, self._cost(jaxpr)
        return self._known[id(jaxpr)][1]

    def _cost(self, jaxpr: core.Jaxpr) -> _Cost:
        inputs = [_Value(self._room(var)) for var in (*jaxpr.invars, *jaxpr.constvars)]
        events: list[tuple[list[_Value], list[_Value], _Cost]] = []
        scope = dict(zip((*jaxpr.invars, *jaxpr.constvars), inputs, strict=True))
        self._flatten(jaxpr, scope, events)
        outputs = [scope[var] for var in jaxpr.outvars if not isinstance(var, core.Literal)]
        for value in outputs:
            value.uses += 1
        _decide(events, outputs, in_place=self._platform == "tpu")
        return _schedule(events, {id(value) for value in outputs}, self._small, self._on_chip)

    def _room(self, var: Any) -> float:
        """Bytes that a value takes in memory."""
        return _size(var) * padding(_shape(var), self._platform)

    def _flatten(
        self, jaxpr: core.Jaxpr, scope: dict[Any, _Value], events: list[tuple[list[_Value], list[_Value], _Cost]]
    ) -> None:
        """Appends (read, made, cost beside) of every equation, calls written out."""
        for equation in jaxpr.eqns:
            name = equation.primitive.name
            inner = inner_jaxprs(equation, self._platform)
            read = [scope[var] for var in equation.invars if not isinstance(var, core.Literal)]
            whole = name in _CALLS or (name == "cond" and equation.params.get("branches_platforms"))
            if whole and len(inner) == 1:
                operands = equation.invars[1:] if name == "cond" else equation.invars
                below = {
                    var: _Value(self._room(var)) if isinstance(outer, core.Literal) else scope[outer]
                    for var, outer in zip(inner[0].invars, operands, strict=False)
                } | {var: _Value(self._room(var)) for var in inner[0].constvars}
                self._flatten(inner[0], below, events)
                for outer, var in zip(equation.outvars, inner[0].outvars, strict=False):
                    literal = isinstance(var, core.Literal)
                    scope[outer] = _Value(self._room(outer)) if literal else below[var]
                continue
            beside = self._beside(equation, inner)
            stored = name in _HEAVY or bool(inner)
            product = name in _PRODUCTS
            made = [_Value(self._room(var), tuple(read), stored, product) for var in equation.outvars]
            if name in _CASTS and read:
                made[0].cast = made[0].size >= read[0].size
            for value in {id(value): value for value in read}.values():
                value.uses += 1
            scope.update(zip(equation.outvars, made, strict=True))
            events.append((read, made, beside))

    def _beside(self, equation: Any, inner: list[core.Jaxpr]) -> _Cost:
        """What an equation needs beside its operands and results."""
        costs = [self.cost(jaxpr) for jaxpr in inner]
        if not costs:
            return _Cost(0.0, 0.0)
        peak, moved = max(cost.peak for cost in costs), math.fsum(cost.moved for cost in costs)
        if equation.primitive.name == "scan":
            length = equation.params["length"]
            (body,) = inner
            outside = (*equation.invars, *equation.outvars)
            within = (*body.invars, *body.outvars)
            # one axis more outside than within: a slice a turn
            stacked = [
                self._room(var) for var, own in zip(outside, within, strict=True) if len(_shape(var)) > len(_shape(own))
            ]
            # slices that are small in the body are parts of arrays that are not
            moved = length * moved + sum(size for size in stacked if size > self._small >= size / length)
            # the carry of the next turn is written while that of this one is read
            ends = zip(equation.outvars, body.outvars, strict=True)
            carried = [self._room(var) for var, own in ends if len(_shape(var)) == len(_shape(own))]
            peak += sum(size for size in carried if size > self._on_chip)
        return _Cost(peak, moved)


def _decide(events: list[tuple[list[_Value], list[_Value], _Cost]], outputs: list[_Value], *, in_place: bool) -> None:
    """Marks elementwise values that are written to memory all the same, with `in_place` in the place of a product."""
    out = {id(value) for value in outputs}
    for read, made, _ in reversed(events):
        if made and made[0].cast and id(made[0]) not in out:
            read[0].uses += made[0].uses - 1
    for read, made, _ in events:
        for value in made:
            if value.stored:
                continue
            product = _before(read) if in_place else None
            value.sources = _roots(read)
            # joined from several arrays and read more than once: computing it anew would read them all again
            joined = len([one for one in value.sources if one.size >= value.size / 2]) > 1
            value.stored = id(value) in out or (joined and value.uses > 1 and not value.cast)
            value.place = product if product is not None and product.size >= value.size else None


def _before(values: Iterable[_Value]) -> _Value | None:
    """The product that is read for one of these values alone, and for nothing else; None if there is none."""
    for value in values:
        if value.uses == 1 and (value.product or not value.stored):
            found = value if value.product else value.place
            if found is not None:
                return found
    return None


def _roots(values: Iterable[_Value]) -> tuple[_Value, ...]:
    """The stored values that these are computed from."""
    found: dict[int, _Value] = {}
    for value in values:
        for root in (value,) if value.stored else value.sources:
            found[id(root)] = root
    return tuple(found.values())


def _schedule(
    events: list[tuple[list[_Value], list[_Value], _Cost]], outputs: set[int], small: float, on_chip: float
) -> _Cost:
    """Peak and traffic of the events in order; a value lives until what is computed from it has been read.

    Args:
      small, on_chip: bytes up to which an intermediate value moves nothing, and takes no memory.
    """
    last: dict[int, int] = {}
    reads = [_roots(read) for read, _, _ in events]
    for number, roots in enumerate(reads):
        for root in roots:
            last[id(root)] = number
    live = peak = moved = 0.0
    ending: dict[int, list[_Value]] = {}
    for number, (_, made, beside) in enumerate(events):
        writes = [value for value in made if value.stored]
        for value in writes:
            if id(value) not in outputs and value.size > on_chip:
                live += value.size
                ending.setdefault(last.get(id(value), number), []).append(value)
        moved += beside.moved
        if writes and not beside.moved:
            places = {id(value.place) for value in writes if value.place is not None}
            passing = [value for value in writes if value.place is None]  # the others were written as products
            passing += [value for value in reads[number] if id(value) not in places]
            moved += sum(value.size for value in passing if value.size > small)
        peak = max(peak, live + beside.peak)
        for value in ending.pop(number, ()):
            live -= value.size
    return _Cost(peak, moved)


def _shape(var: Any) -> tuple[int, ...]:
    return getattr(var.aval, "shape", ())


def _size(var: Any) -> float:
    aval = var.aval
    if not hasattr(aval, "shape") or not hasattr(aval, "dtype"):
        return 0.0
    if jax.dtypes.issubdtype(aval.dtype, jax.dtypes.extended):
        return 8.0 * math.prod(aval.shape)  # a key
    return float(math.prod(aval.shape) * aval.dtype.itemsize)
