"""What a compiled program does, read from its optimised HLO as text: memory traffic, copies, collectives, loops.

XLA's own `cost_analysis` takes the body of a loop once, so that of a scanned model it sees a tenth. Here a body counts
as often as the loop runs.
"""

import dataclasses
import functools
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping

COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
HOST = ("infeed", "outfeed", "send", "recv")

_FREE = frozenset(  # neither read nor write memory themselves
    (
        *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "while", "conditional"),
        *("call", "copy-done", "slice-done", "all-reduce-done", "all-gather-done", "collective-permute-done"),
        *("async-done", "async-update", "partition-id", "replica-id", "opt-barrier"),
    )
)
_SLICES = ("dynamic-slice", "slice", "gather")  # read as much of the operand as they return
_PLACES = ('"AllocateBuffer"', '"ConcatBitcast"')  # custom calls that give or rename memory, and move nothing
_ARRAY = re.compile(r"(pred|token|[a-z]+\d+\w*)\[([\d,]*)\](?:\{([^{}]*)\})?")
_NAME = re.compile(r"%([\w.\-]+)")
_OTHER_SPACE = re.compile(r"S\([1-9]\d*\)")
_TILE = re.compile(r"T\(([\d,]+)\)")


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One instruction of a computation.

    Attributes:
      name: its name.
      shape: text of its result's shape, with layouts.
      opcode: such as "fusion".
      operands: names of the instructions that it reads.
      rest: text behind the operands.
      inside: text between the parentheses.
      root: whether the computation returns it.
    """

    name: str
    shape: str
    opcode: str
    operands: tuple[str, ...]
    rest: str
    inside: str
    root: bool

    def called(self, role: str) -> str | None:
        """The computation that it names as `calls`, `body`, `condition`, ...; None if it names none."""
        found = re.search(rf"\b{role}=%?([\w.\-]+)", self.rest)
        return found and found[1]


@dataclasses.dataclass(frozen=True)
class Traffic:
    """What a program does in one call, loops in full; of several devices, what each of them does.

    Attributes:
      bytes: bytes read from and written to the device's main memory, paddings of tiles included; what the compiler
        keeps in the memory of the core (VMEM) is not counted.
      instructions: number of times that each kind of instruction runs, such as {"fusion": 120, "copy": 7}.
      collective_bytes: bytes of the results of each kind of collective.
      custom_calls: number of times that each custom call runs, by its target.
      loops: number of loops in the program.
      endless: number of loops whose length is not in the program; they count once.
      aliased: number of arguments whose buffers the results reuse.
    """

    bytes: float
    instructions: Mapping[str, int]
    collective_bytes: Mapping[str, float]
    custom_calls: Mapping[str, int]
    loops: int
    endless: int
    aliased: int

    @property
    def collectives(self) -> dict[str, int]:
        """Number of collectives of each kind, of which there are some."""
        return {name: count for name in COLLECTIVES if (count := self.instructions.get(name, 0))}

    @property
    def host_transfers(self) -> int:
        """Number of transfers between device and host while the program runs."""
        return sum(self.instructions.get(name, 0) for name in HOST)


def traffic(text: str) -> Traffic:
    """Reads optimised HLO, as `compiled.as_text()` gives it."""
    return _Reader(text).traffic()


def array_bytes(shape: str) -> float:
    """Bytes that the arrays of a shape take in main memory, with tiles in full; what lies elsewhere counts 0."""
    return math.fsum(
        _padded(dims, layout) * _item_size(dtype)
        for dtype, dims, layout in _ARRAY.findall(shape)
        if not _OTHER_SPACE.search(layout)
    )


def _item_size(dtype: str) -> float:
    if dtype in ("pred", "token"):
        return 1.0 if dtype == "pred" else 0.0
    bits = re.search(r"\d+", dtype)
    return int(bits[0]) / 8 if bits else 1.0


def _padded(dims: str, layout: str) -> int:
    """Elements of an array, its last axes in memory rounded up to the first tile of the layout."""
    sizes = [int(size) for size in dims.split(",") if size]
    tile = _TILE.search(layout)
    order = layout.partition(":")[0]
    if tile is None or not order or not sizes:
        return math.prod(sizes)
    minor = [int(axis) for axis in order.split(",")]  # the fastest axis first
    for axis, side in zip(minor, reversed([int(side) for side in tile[1].split(",")]), strict=False):
        sizes[axis] = -(-sizes[axis] // side) * side
    return math.prod(sizes)


class _Reader:
    """The computations of a module, and sums over them."""

    def __init__(self, text: str) -> None:
        head = text.partition("\n")[0]
        self._aliased = len(re.findall(r"(?:may|must)-alias", head))
        self._computations: dict[str, dict[str, Instruction]] = {}
        self._entry = ""
        name = ""
        for line in text.splitlines():
            if line.endswith("{") and (start := re.match(r"(ENTRY )?%?([\w.\-]+) \(", line)):
                name = start[2]
                self._computations[name] = {}
                self._entry = name if start[1] else self._entry
            elif name and (instruction := _parsed(line)) is not None:
                self._computations[name][instruction.name] = instruction
        self._counts: Counter[str] = Counter()
        self._moved: dict[str, float] = {}
        self._custom: Counter[str] = Counter()
        self._bytes, self._loops, self._endless = 0.0, 0, 0

    def traffic(self) -> Traffic:
        """The sums over the entry computation and what it calls."""
        self._add(self._entry, 1)
        return Traffic(
            self._bytes,
            dict(self._counts),
            self._moved,
            dict(self._custom),
            self._loops,
            self._endless,
            self._aliased,
        )

    def _add(self, computation: str, times: int) -> None:
        scope = self._computations.get(computation, {})
        for one in scope.values():
            kind = one.opcode.removesuffix("-start")
            if not one.opcode.endswith("-done"):
                self._counts[kind] += times
            if kind in COLLECTIVES:
                self._moved[kind] = self._moved.get(kind, 0.0) + times * self._result_bytes(one, scope)
            if one.opcode == "custom-call" and (target := re.search(r'custom_call_target="([^"]*)"', one.rest)):
                self._custom[target[1]] += times
            if one.opcode not in _FREE:
                self._bytes += times * self._bytes_of(one, scope)
            for inner, turns in self._inner(one, scope):
                self._add(inner, times * turns)
            if one.opcode == "fusion":
                self._count_inside(one, times)

    def _inner(self, one: Instruction, scope: Mapping[str, Instruction]) -> Iterator[tuple[str, int]]:
        """Computations that an instruction runs as instructions of their own, and how often."""
        if one.opcode == "while":
            turns = self._turns(one, scope)
            self._loops += 1
            self._endless += turns is None
            if body := one.called("body"):
                yield body, 1 if turns is None else turns
        elif one.opcode == "conditional":
            # of the branches one runs: the one with the most instructions
            names = re.findall(r"(?:branch_computations=\{([^}]*)\}|(?:true|false)_computation=%?([\w.\-]+))", one.rest)
            branches = [name for listed, single in names for name in (_NAME.findall(listed) or [single]) if name]
            if branches:
                yield max(branches, key=lambda name: len(self._computations.get(name, {}))), 1
        elif one.opcode in ("call", "async-start") and (called := one.called("to_apply") or one.called("calls")):
            yield called, 1

    def _count_inside(self, fusion: Instruction, times: int) -> None:
        """Counts the products within a fusion, which move nothing of their own."""
        for one in self._computations.get(fusion.called("calls") or "", {}).values():
            if one.opcode in ("convolution", "dot", "transpose", "custom-call"):
                self._counts[one.opcode] += times
            if one.opcode == "custom-call" and (target := re.search(r'custom_call_target="([^"]*)"', one.rest)):
                self._custom[target[1]] += times
            if one.opcode == "fusion":
                self._count_inside(one, times)

    def _bytes_of(self, one: Instruction, scope: Mapping[str, Instruction]) -> float:
        """Bytes of main memory that an instruction reads and writes."""
        operands = [scope[name] for name in one.operands if name in scope]
        if one.opcode == "copy-start":  # its result is (target, source, a semaphore)
            target = _array_of(one.shape, 0)
            return array_bytes(target) + math.fsum(array_bytes(operand.shape) for operand in operands)
        if one.opcode == "slice-start":  # (the operand, the slice, a semaphore)
            part = _array_of(one.shape, 1)
            return _unplaced(part) + array_bytes(part)
        if one.opcode == "custom-call" and any(target in one.rest for target in _PLACES):
            return 0.0
        written = self._result_bytes(one, scope)
        if one.opcode in _SLICES:
            return 2 * written
        if one.opcode == "dynamic-update-slice":
            return 2 * array_bytes(operands[1].shape) if len(operands) > 1 else written
        inside = self._computations.get(one.called("calls") or "", {}) if one.opcode == "fusion" else {}
        read = math.fsum(
            self._read(inside, number, array_bytes(operand.shape)) for number, operand in enumerate(operands)
        )
        return read + (self._written(inside, one.shape) if inside else written)

    def _result_bytes(self, one: Instruction, scope: Mapping[str, Instruction]) -> float:
        if one.opcode.endswith("-start") and one.opcode != "all-reduce-start":
            # (operands, results, ...): the second half of what a collective starts with is what comes out
            operands = math.fsum(array_bytes(scope[name].shape) for name in one.operands if name in scope)
            return max(array_bytes(one.shape) - operands, 0.0)
        return array_bytes(one.shape)

    def _read(self, inside: Mapping[str, Instruction], number: int, whole: float) -> float:
        """Bytes that a fusion reads of an operand: where it only slices it, those of the slices."""
        parameter = next(
            (one for one in inside.values() if one.opcode == "parameter" and one.inside == str(number)), None
        )
        return whole if parameter is None else min(self._used(inside, parameter.name, whole), whole)

    def _used(self, inside: Mapping[str, Instruction], name: str, whole: float) -> float:
        """Bytes that the users of a value within a fusion read of it."""
        parts = 0.0
        for user in (one for one in inside.values() if name in one.operands):
            if user.opcode in _SLICES and user.operands[0] == name:
                parts += _unplaced(user.shape)
            elif user.opcode == "dynamic-update-slice" and user.operands[0] == name:
                continue  # what is updated in place is not read
            elif user.opcode == "bitcast" and not user.root:
                parts += self._used(inside, user.name, whole)
            elif user.opcode == "fusion" and (deeper := self._computations.get(user.called("calls") or "")):
                parts += self._read(deeper, user.operands.index(name), whole)
            else:
                return whole
        return parts

    def _written(self, inside: Mapping[str, Instruction], shape: str) -> float:
        """Bytes that a fusion writes: of each array that it updates in place, those of the part that is updated.

        Args:
          shape: the shape of its result, an array or a tuple of them.
        """
        root = next((one for one in inside.values() if one.root), None)
        arrays = [found[0] for found in _ARRAY.finditer(shape)]
        if root is None:
            return array_bytes(shape)
        if root.opcode == "fusion":
            return self._written(self._computations.get(root.called("calls") or "", {}), shape)
        values = [inside.get(name) for name in root.operands] if root.opcode == "tuple" else [root]
        if len(values) != len(arrays):  # a tuple within a tuple
            return array_bytes(shape)
        return math.fsum(
            min(array_bytes(array), _updated(value, inside)) for array, value in zip(arrays, values, strict=True)
        )

    def _turns(self, loop: Instruction, scope: Mapping[str, Instruction]) -> int | None:
        """The number of times that a loop runs; None if the program does not say."""
        if known := re.search(r'known_trip_count\D*"?(\d+)', loop.rest):
            return int(known[1])
        condition = self._computations.get(loop.called("condition") or "", {})
        compare = next((one for one in condition.values() if one.root), None)
        start = scope.get(loop.operands[0]) if loop.operands else None
        if compare is None or compare.opcode != "compare" or start is None:
            return None
        ends = [self._value(name, condition, start, scope) for name in compare.operands]
        if len(ends) != 2 or None in ends:
            return None
        low, high = ends
        assert low is not None
        assert high is not None
        turns = abs(high - low)
        return turns + 1 if "direction=LE" in compare.rest or "direction=GE" in compare.rest else turns

    def _value(
        self, name: str, condition: Mapping[str, Instruction], start: Instruction, scope: Mapping[str, Instruction]
    ) -> int | None:
        """The whole number that a loop's condition compares, before the first turn."""
        one = condition.get(name)
        if one is None:
            return None
        if one.opcode == "get-tuple-element" and (index := re.search(r"index=(\d+)", one.rest)):
            if start.opcode != "tuple" or int(index[1]) >= len(start.operands):
                return None
            return _constant(scope.get(start.operands[int(index[1])]), scope)
        return _constant(one, condition)


def _updated(one: Instruction | None, inside: Mapping[str, Instruction]) -> float:
    """Bytes of the part of an array that an instruction updates in place; infinite for one that writes all of it."""
    while one is not None and one.opcode == "bitcast":
        one = inside.get(one.operands[0])
    if one is None or one.opcode != "dynamic-update-slice" or one.operands[1] not in inside:
        return math.inf
    return _unplaced(inside[one.operands[1]].shape)


def _constant(one: Instruction | None, scope: Mapping[str, Instruction]) -> int | None:
    """The value of an instruction that is a constant, or a copy of one."""
    while one is not None and one.opcode in ("copy", "bitcast", "copy-done", "copy-start") and one.operands:
        one = scope.get(one.operands[0])
    if one is None or one.opcode != "constant" or not re.fullmatch(r"-?\d+", one.inside):
        return None
    return int(one.inside)


def _array_of(shape: str, number: int) -> str:
    """The text of one array of a shape, counted from 0; "" if there are fewer."""
    found = [array[0] for array in _ARRAY.finditer(shape)]
    return found[number] if number < len(found) else ""


def _unplaced(shape: str) -> float:
    """Bytes of a shape wherever it lies: within a fusion nothing has a place, but its slices come from memory."""
    return array_bytes(_OTHER_SPACE.sub("", shape))


@functools.cache
def _closing(opening: str) -> str:
    return {"(": ")", "{": "}"}[opening]


def _balanced(text: str, start: int) -> int:
    """Index behind the bracket that closes the one at `start`."""
    depth, opening = 0, text[start]
    closing = _closing(opening)
    for at in range(start, len(text)):
        depth += (text[at] == opening) - (text[at] == closing)
        if depth == 0:
            return at + 1
    return len(text)


def _parsed(line: str) -> Instruction | None:
    """The instruction of a line; None for a line without one."""
    head = re.match(r"\s+(ROOT )?%?([\w.\-]+) = ", line)
    if head is None:
        return None
    at = head.end()
    end = _balanced(line, at) if line[at : at + 1] == "(" else line.find(" ", at)
    shape = line[at:end]
    call = re.match(r" ?([\w\-]+)\(", line[end:])
    if call is None:
        return None
    opening = end + call.end() - 1
    closing = _balanced(line, opening)
    inside = line[opening + 1 : closing - 1]
    operands = tuple(_NAME.findall(inside))
    return Instruction(head[2], shape, call[1], operands, line[closing:], inside, head[1] is not None)
