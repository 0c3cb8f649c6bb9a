"""Names of runs: each is the name of a folder, on every machine that the run may be taken to."""

import re

LONGEST = 200
"""Largest number of bytes of a name: file systems allow 255, and ".safetensors.partial" is put behind it."""

_RESERVED = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9¹²³])\s*(\..*)?", re.IGNORECASE | re.DOTALL)
_FORBIDDEN = '/\\:*?"<>|'


def check_run_name(name: object) -> None:
    """Checks that a name is one component of a path, wherever it comes from: a setting, a flag, or a file of weights.

    Raises ValueError, saying what is wrong with it, for a name that is no text, empty, too long, "." or ".."; that
    holds a separator or another character that file systems reserve, or one that cannot be printed; that begins with a
    space or ends in a space or a dot; and for the names of devices of Windows, such as CON.
    """
    if wrong := _wrong(name):
        raise ValueError(
            f"The name of a run is {_shown(name)}, which {wrong}: it is the name of its folder, such as "
            "'mnist_topdown', and --folder puts the run anywhere else."
        )


def _wrong(name: object) -> str | None:
    """What is wrong with a name; None if nothing is."""
    if not isinstance(name, str):
        return "is no text"
    if not name.strip():
        return "is empty"
    if odd := [char for char in name if char in _FORBIDDEN]:
        return f"holds {odd[0]!r}"
    if odd := [char for char in name if not char.isprintable()]:
        return f"holds the character {odd[0]!a}"
    if name[0] == " " or name[-1] in " .":  # "." and "..", and what Windows strips off
        return "begins with a space, or ends in a space or a dot"
    if _RESERVED.fullmatch(name):
        return "is the name of a device on Windows"
    if (size := len(name.encode())) > LONGEST:
        return f"takes {size} bytes of at most {LONGEST}"
    return None


def _shown(name: object) -> str:
    """A name in an error: in ASCII, and not longer than a line."""
    text = ascii(name)
    return text if len(text) <= 80 else f"{text[:60]}...{text[-1:]}"
