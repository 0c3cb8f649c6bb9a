"""Check that the stages of a very deep VAE fit together, for all families.

Checks for one family, such as how widths may change, stand beside its model.
"""

from typing import Protocol, runtime_checkable

from hvae_jax.models.very_deep.stages import Down, Up


@runtime_checkable
class Staged(Protocol):
    """Fields of a model that the checks read."""

    image: tuple[int, int, int]
    ups: tuple[Up, ...]
    downs: tuple[Down, ...]


def check_parsed(model: Staged) -> None:
    """Check that stages are given and not a block string, else raise ValueError."""
    for name, given in (("ups", model.ups), ("downs", model.downs)):
        if isinstance(given, str):
            raise ValueError(f"{type(model).__name__}({name}={given!r}) is text: up_stages and down_stages parse it.")


def check_stages(model: Staged, side: int) -> None:
    """Check that the image is square and that the stages follow from each other.

    Args:
      side: height and width of the first feature maps.

    Raises ValueError naming the stage, what it has and what it needs.
    """
    if min(model.image) < 1 or model.image[0] != model.image[1]:
        raise ValueError(
            f"{type(model).__name__}(image={model.image}): one x has to be [S, S, C], square. Crop, pad or resize x."
        )
    _check_ups(model, side)
    _check_downs(model, side)


def name_up(model: Staged, i: int) -> str:
    """Stage i of the bottom-up path, as errors name it."""
    stage = model.ups[i]
    return f"{type(model).__name__}(ups=...): stage {i}, {stage.blocks} blocks at side {stage.side}"


def name_down(model: Staged, i: int) -> str:
    """Stage i of the top-down path, as errors name it."""
    stage = model.downs[i]
    return f"{type(model).__name__}(downs=...): stage {i}, {stage.blocks} blocks at side {stage.side}"


def _check_ups(model: Staged, side: int) -> None:
    """Check the sizes of bottom-up stages, and that each has the side and the width that the one before leaves."""
    if not model.ups:
        raise ValueError(f"{type(model).__name__}(ups=()): at least one stage is needed, such as Up({side}, 2, 32).")
    for i, stage in enumerate(model.ups):
        named = name_up(model, i)
        sizes = (stage.side, stage.blocks, stage.width, stage.pool, stage.between, stage.kernel, stage.cells)
        if min(sizes) < 1 or min(stage.layers, stage.skip) < 0:
            raise ValueError(f"{named}, has a size below 1: {stage}.")
        if stage.side % stage.pool:
            raise ValueError(f"{named}, pools by {stage.pool}, which does not divide {stage.side}.")
        before = model.ups[i - 1] if i else None
        expected = side if before is None else before.side // before.pool
        if stage.side != expected:
            reason = "the image's side" if before is None else f"what stage {i - 1} leaves"
            raise ValueError(
                f"{named}, should be at side {expected}, {reason}. Change the stage, or the pool before it."
            )
        if before is not None and before.pool == 1 and stage.width != before.width:
            raise ValueError(
                f"{named}, has width {stage.width} after {before.width}: widths change only where feature maps are "
                "pooled."
            )


def _check_downs(model: Staged, side: int) -> None:
    """Check the sizes of top-down stages, and that the states and the feature maps of x that they read exist."""
    if not model.downs:
        raise ValueError(
            f"{type(model).__name__}(downs=()): at least one stage is needed, such as Down({side}, 2, 32)."
        )
    last, first = model.ups[-1], model.downs[0]
    # a last pool leaves feature maps that no bottom-up stage follows, but that may be read
    reached = {stage.side for stage in model.ups} | {last.side // last.pool}
    # Width of the state of each side. The first stage may mix in a side of its own, which begins as feature maps.
    built = {} if first.mixes_in is None else {first.mixes_in: first.width}
    for i, stage in enumerate(model.downs):
        named, mixed = name_down(model, i), stage.mixes_in
        sizes = (stage.side, stage.blocks, stage.width, stage.latents, stage.between, stage.kernel, stage.cells)
        more = (stage.posterior_between, 1 if mixed is None else mixed)
        if min(*sizes, *more) < 1 or stage.layers < 0:
            raise ValueError(f"{named}, has a size below 1: {stage}.")
        if stage.side not in reached:
            raise ValueError(
                f"{named}: the bottom-up path has no feature maps of that side, only of the sides {sorted(reached)}."
            )
        if built.get(stage.side, stage.width) != stage.width:
            raise ValueError(f"{named}, has width {stage.width}, but that side had {built[stage.side]} before.")
        if mixed is not None and mixed not in built:
            raise ValueError(
                f"{named}, mixes in side {mixed}, which is not built yet; the sides before it are {sorted(built)}."
            )
        if mixed is not None and (mixed >= stage.side or stage.side % mixed):
            raise ValueError(
                f"{named}, mixes in side {mixed}: that has to be a smaller side, of which {stage.side} is a multiple."
            )
        built[stage.side] = stage.width
    if side not in built:
        raise ValueError(
            f"{type(model).__name__}(downs=...) reaches the sides {sorted(built)}, but the image's side is {side}: add "
            "stages up to there, or change the image."
        )
