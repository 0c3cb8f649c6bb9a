"""VDVAE's block strings: the stages they parse to, and the errors of those that do not parse."""

import pytest

from hvae_jax.models import Down, Up, down_stages, up_stages
from hvae_jax.models.very_deep.block_strings import parse_widths


def test_up() -> None:
    """Blocks of a side are one stage, which ends with a pool."""
    assert up_stages("32x11,32d2,16x6,16,4d4", 8) == (Up(32, 12, 8, 2), Up(16, 7, 8), Up(4, 1, 8, 4))
    assert up_stages("8d2,4x1", 8, "4:12") == (Up(8, 1, 8, 2), Up(4, 1, 12))
    assert up_stages("8d2, 8x2", 8) == (Up(8, 1, 8, 2), Up(8, 2, 8))


def test_down() -> None:
    """A stage begins where a state is mixed in, and has the blocks of that side."""
    assert down_stages("1x2,4m1,4x3", 8, latents=4) == (Down(1, 2, 8, latents=4), Down(4, 4, 8, 1, 4))
    assert down_stages("1,4x2,4m1,4", 8) == (Down(1, 1, 8), Down(4, 2, 8), Down(4, 2, 8, 1))
    assert parse_widths("16:32,8:64") == {16: 32, 8: 64}


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("32x11,32y2", "'y' at character 9"),
        ("32x11,32d", "the end at character 10"),
        ("32x11,,16", "',' at character 7"),
        ("", "the end at character 1"),
        ("x3", "'x' at character 1"),
        ("32xx", "'x' at character 4"),
        ("32x3 2", "' ' at character 5"),
        ("32m16", "'m' at character 3"),
        ("32x0", "a 0 at character 4"),
        ("8x1, 0x2", "a 0 at character 6"),
        ("-8x1", "'-' at character 1"),
        ("32d2.5", "'.' at character 5"),
    ],
)
def test_up_errors(text: str, error: str) -> None:
    """Errors name the character and the string."""
    with pytest.raises(ValueError, match=error) as raised:
        up_stages(text, 8)
    assert repr(text) in str(raised.value)


def test_other_errors() -> None:
    """There is no pool in a top-down string, and no width without a number."""
    with pytest.raises(ValueError, match="'d' at character 3"):
        down_stages("32d2", 8)
    with pytest.raises(ValueError, match="the end at character 7"):
        parse_widths("8:4,16")
