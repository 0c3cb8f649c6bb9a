"""VDVAE's block strings: "32x11,32d2,16x6" is 11 blocks at 32x32, one more whose output is pooled by 2, 6 at 16x16.

    RxN     N blocks at side R
    R       one block
    RdK     bottom-up: one block, whose output is pooled by a factor of K
    RmS     top-down: one block, before which the state of side S is upsampled and added

Source: Child (2021), its code's `hps.py`.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Any

from hvae_jax.models.very_deep.stages import Down, Up


def up_stages(text: str, width: int, widths: str = "", **more: Any) -> tuple[Up, ...]:
    """The stages of an `enc_blocks` string.

    Args:
      width: channels of each stage.
      widths: channels of the sides that have other ones, "side:width,...".
      more: settings of every `Up`.

    Raises ValueError naming the character at which a string does not parse.

    Example:
        >>> [(stage.side, stage.blocks, stage.pool) for stage in hv.models.up_stages("32x11,32d2,16x6", width=64)]
        [(32, 12, 2), (16, 6, 1)]
    """
    of_side, stages = parse_widths(widths), []
    for side, mark, number in _tokens(text, "xd"):
        blocks, pool = (number, 1) if mark == "x" else (1, number)
        # tokens of one side join into one stage, which a pool ends
        if stages and stages[-1].side == side and stages[-1].pool == 1:
            blocks += stages.pop().blocks
        stages.append(Up(side, blocks, of_side.get(side, width), pool, **more))
    return tuple(stages)


def down_stages(text: str, width: int, widths: str = "", **more: Any) -> tuple[Down, ...]:
    """The stages of a `dec_blocks` string; arguments and errors as in `up_stages`.

    Example:
        >>> [(stage.side, stage.blocks, stage.mixes_in) for stage in hv.models.down_stages("1x1,4m1,4x2", width=64)]
        [(1, 1, None), (4, 3, 1)]
    """
    of_side, stages = parse_widths(widths), []
    for side, mark, number in _tokens(text, "xm"):
        blocks, mixes_in = (number, None) if mark == "x" else (1, number)
        # tokens of one side join into one stage, which "m" begins
        if mixes_in is None and stages and stages[-1].side == side:
            blocks, mixes_in = blocks + stages[-1].blocks, stages.pop().mixes_in
        stages.append(Down(side, blocks, of_side.get(side, width), mixes_in, **more))
    return tuple(stages)


def up_string(stages: Sequence[Up]) -> str:
    """The `enc_blocks` string that `up_stages` parses to these stages; it has no widths."""
    tokens = []
    for stage in stages:
        plain = stage.blocks - (stage.pool > 1)
        tokens += [f"{stage.side}x{plain}"] if plain else []
        tokens += [f"{stage.side}d{stage.pool}"] if stage.pool > 1 else []
    return ",".join(tokens)


def down_string(stages: Sequence[Down]) -> str:
    """The `dec_blocks` string that `down_stages` parses to these stages; it has no widths."""
    tokens = []
    for stage in stages:
        plain = stage.blocks - (stage.mixes_in is not None)
        tokens += [] if stage.mixes_in is None else [f"{stage.side}m{stage.mixes_in}"]
        tokens += [f"{stage.side}x{plain}"] if plain else []
    return ",".join(tokens)


def parse_widths(text: str) -> dict[int, int]:
    """Widths by side from a `custom_width_str` such as "16:32,8:64"; {} for ""."""
    return {side: width for side, _, width in _tokens(text, ":", bare=False)} if text else {}


def _tokens(text: str, marks: str, bare: bool = True) -> Iterator[tuple[int, str, int]]:
    """Yield (side, mark, number) of each token; "R" is (R, "x", 1).

    Args:
      marks: letters allowed between the two numbers.
      bare: whether a token may be a side alone.

    Raises ValueError naming the character at which the text does not parse.
    """
    at = 0
    for token in text.split(","):
        at += len(token) - len(token.lstrip())
        token = token.strip()
        found = re.match(rf"(\d+)(?:([{marks}])(\d+))?", token, re.ASCII)
        end = found.end() if found else 0
        if found is None or end < len(token) or not (bare or found[2]):
            if found and found[2] is None and end < len(token) and token[end] in marks:
                end += 1  # The mark is right: the character after it is at fault.
            what = f"{text[at + end]!r}" if at + end < len(text) else "the end"
            form = " or ".join(f"R{mark}N" for mark in marks) + (", or R" if bare else "")
            raise ValueError(
                f"The block string {text!r} does not parse: {what} at character {at + end + 1} is not expected there. "
                f"Tokens are {form}, R and N whole numbers, separated by commas."
            )
        side, mark, number = int(found[1]), found[2] or "x", int(found[3] or 1)
        if min(side, number) < 1:
            zero = at + (0 if side < 1 else found.start(3))
            raise ValueError(f"The block string {text!r} has a 0 at character {zero + 1}, in {token!r}: 1 or more.")
        yield side, mark, number
        at += len(text[at:].partition(",")[0]) + 1
