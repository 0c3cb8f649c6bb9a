"""The order in which x and the latents are popped and pushed, from what each distribution depends on.

Top-down inference pops all latents before x is pushed. Where q(z_l | .) reads only the level below, x is pushed as soon
as z_1 is known, and z_1 as soon as z_2 is (Bit-Swap): then the stack has to feed one level only. Both follow from one
rule: a variable is pushed as soon as the decoder, which runs the same list backwards, can pop it and do the rest.

Source: Kingma et al. (2019), "Bit-Swap", algorithms 1 and 2.
"""

import dataclasses
from collections.abc import Sequence

X = -1
"""The number of x among the variables; levels are 0..L-1, top first."""


@dataclasses.dataclass(frozen=True)
class Dependencies:
    """Which variables each distribution of a model reads.

    Attributes:
      posteriors: of q of each level: levels, and `X`.
      priors: of p of each level.
      likelihood: of p(x | z).
    """

    posteriors: tuple[frozenset[int], ...]
    priors: tuple[frozenset[int], ...]
    likelihood: frozenset[int]

    def parents(self, variable: int) -> frozenset[int]:
        """What p of a level, or p(x | z), reads."""
        return self.likelihood if variable == X else self.priors[variable]


@dataclasses.dataclass(frozen=True)
class Operation:
    """One step of encoding an image; decoding takes the steps backwards and does the opposite.

    Attributes:
      pops: whether the level is popped by q; otherwise it, or x, is pushed by p.
      variable: a level, or `X`.
    """

    pops: bool
    variable: int


@dataclasses.dataclass(frozen=True)
class Order:
    """The steps of encoding one batch.

    Attributes:
      operations: in the order of encoding.
      by_prior: for each level, whether its prior is known when it is popped, so that the prior can be the grid.
    """

    operations: tuple[Operation, ...]
    by_prior: tuple[bool, ...]


def order_of(dependencies: Dependencies, names: Sequence[str]) -> Order:
    """The order that pushes each variable as early as it may be.

    Raises ValueError, naming levels, where posteriors or priors depend on each other in a circle.
    """
    levels = range(len(names))
    popped: set[int] = set()
    pushed: set[int] = set()
    operations: list[Operation] = []
    by_prior: dict[int, bool] = {}

    def ready(level: int) -> bool:
        return level not in popped and dependencies.posteriors[level] - {X} <= popped

    def may_go(variable: int) -> bool:
        there = variable not in pushed and (variable == X or variable in popped)
        children_gone = all(
            child in pushed for child in (X, *levels) if variable in dependencies.parents(child) and child != variable
        )
        needed = any(variable in dependencies.posteriors[level] for level in levels if level not in popped)
        return there and children_gone and not needed and dependencies.parents(variable) <= popped

    while len(popped) < len(names):
        level = next((level for level in levels if ready(level)), None)
        if level is None:
            left = ", ".join(names[level] for level in levels if level not in popped)
            raise ValueError(f"The posteriors of {left} depend on each other in a circle: none can be first.")
        by_prior[level] = dependencies.priors[level] <= popped
        popped.add(level)
        operations.append(Operation(True, level))
        while (variable := next((one for one in (X, *reversed(levels)) if may_go(one)), None)) is not None:
            pushed.add(variable)
            operations.append(Operation(False, variable))
    if len(pushed) <= len(names):
        left = ", ".join(names[level] for level in levels if level not in pushed)
        raise ValueError(f"The priors of {left} depend on each other in a circle: none can be last.")
    return Order(tuple(operations), tuple(by_prior[level] for level in levels))
