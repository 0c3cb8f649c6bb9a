"""Text that goes to a terminal: what files say of themselves is shown, and never obeyed."""


def printable(text: str) -> str:
    r"""The text with everything that a terminal may obey written out: ESC becomes "\x1b"; line breaks and tabs stay.

    Written out are control and format characters, such as those that reverse the direction of writing, unassigned ones,
    and bytes of a file name that are no UTF-8. Printable text comes back as it is, in whatever script.
    """
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() or char in "\n\t" else repr(char)[1:-1] for char in text)


def say(text: object) -> None:
    """Prints a text, a path or an error, `printable`."""
    print(printable(str(text)), flush=True)
