"""An error's message inside a sentence of ours."""


def first_line(error: BaseException) -> str:
    """The first line of an error's message, at most 200 characters; the name of its type if there is no message."""
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__
