"""The check of sizes that frozen records of settings share."""

from typing import Any


def check_sizes(record: Any, *names: str) -> None:
    """Check that each of these fields, a size or a tuple of sizes, holds whole numbers of 1 or more.

    Raises ValueError for any other number, with all fields and their values, and for an empty tuple.

    Example:
        >>> from hvae_jax import records
        >>> records.check_sizes(hv.models.Stage(8, ((64, 3, 2),)), "latents")  # 8 is a size
    """
    values = {name: getattr(record, name) for name in names}
    for name, value in values.items():
        if value == ():
            raise ValueError(f"{type(record).__name__}({name}=()): at least one level is needed, such as (8, 16).")
    if any(
        size < 1 or size != int(size)
        for value in values.values()
        for size in (value if isinstance(value, tuple) else (value,))
    ):
        given = ", ".join(f"{name}={value}" for name, value in values.items())
        raise ValueError(f"{type(record).__name__}({given}): every size has to be a whole number of 1 or more.")
