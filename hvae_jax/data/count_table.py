"""A table of counts made from a known hierarchy: groups at the top, factors below, counts that vary beyond Poisson."""

import numpy as np

from hvae_jax.data.dataset import Dataset, Split, integer
from hvae_jax.data.exact import narrowed

COUNTS = "count_table"
"""Name of the data set."""
ROWS = {"train": 2_000, "validation": 250, "test": 250}
"""Examples in each split."""
GROUPS = 4
"""Number of groups, the labels y."""
FACTORS = 3
"""Number of factors below the group."""
SIZE = 4.0
"""Size r of the negative binomial: the variance of a count of mean m is m + m^2/r."""


def count_table(columns: int = 24, seed: int = 0) -> Dataset:
    """Counts of 24 kinds of events in each of 2,500 examples, from a hierarchy of two levels; y is the group, 0..3.

        group    y ~ uniform over 4
        factors  u ~ N(c_y, 0.5^2 I), 3 of them, around the group's centre c_y ~ N(0, 1.5^2 I)
        effort   e ~ N(0, 0.4^2), the logarithm of how much was counted in this example
        counts   x_d ~ NB(m_d, 4), log m_d = b_d + a_d . u + e, with b_d ~ N(2, 1) and a_d ~ N(0, 0.7^2 I)

    x is `[N, columns]`, as a table of counts in an .npz is. 2,000 train, 250 validation and 250 test examples, drawn by
    NumPy's frozen generator (`RandomState`): the same table everywhere.

    Args:
      columns: number of kinds of events.
      seed: seed of everything that is drawn.
    Raises ValueError for fewer than 1 or more than 10,000 columns.

    Example:
        >>> dataset = hv.data.count_table()
        >>> dataset.event, dataset.classes
        ((24,), 4)
    """
    if not 1 <= columns <= 10_000:
        raise ValueError(f"count_table(columns={columns}): it has to be from 1 to 10,000.")
    draw = np.random.RandomState(seed)  # newer generators may change their streams
    count = sum(ROWS.values())
    centres = 1.5 * draw.standard_normal((GROUPS, FACTORS))
    base, loadings = 2.0 + draw.standard_normal(columns), 0.7 * draw.standard_normal((FACTORS, columns))
    y = draw.randint(GROUPS, size=count)
    u = centres[y] + 0.5 * draw.standard_normal((count, FACTORS))
    mean = np.exp(base + u @ loadings + 0.4 * draw.standard_normal((count, 1)))  # [N, columns]
    x = narrowed(COUNTS, draw.poisson(mean * draw.gamma(SIZE, 1.0 / SIZE, mean.shape)))
    ends = np.cumsum(list(ROWS.values()))
    splits = {
        part: Split(x[end - rows : end], y[end - rows : end].astype(np.int32))
        for (part, rows), end in zip(ROWS.items(), ends, strict=True)
    }
    protocol = f"negative binomial counts of {GROUPS} groups and {FACTORS} factors, seed {seed}; y is the group"
    return Dataset(COUNTS, splits, integer(int(x.max()) + 1), protocol)
