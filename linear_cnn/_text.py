"""What messages quote of a file: short, and without what a terminal obeys."""

from pathlib import Path

# Characters of a file's content that one message quotes, over all of its parts.
MOST_QUOTED = 200


def escaped(text: str) -> str:
    """A text with what cannot be printed (control characters, lone surrogates) written
    as Python writes it."""
    return "".join(
        letter
        if letter.isprintable()
        else letter.encode("unicode_escape", "surrogatepass").decode()
        for letter in text
    )


def shown(text: object, most: int = MOST_QUOTED // 2) -> str:
    """A text of a file as a message shows it: escaped, and cut off."""
    whole = str(text)
    safe = escaped(whole[:most])
    return safe[:most] + "..." if len(whole) > most or len(safe) > most else safe


def quoted(name: str, most: int = MOST_QUOTED // 3) -> str:
    """The same in quotation marks, as Python writes a text."""
    return f"{name[:most]!r}..." if len(name) > most else repr(name)


def shown_path(path: Path) -> str:
    """A path, whole: it is the user's, but may have been named by an archive."""
    return escaped(str(path))
