"""What is printed for people: lines that fit, and words that are whole."""

import re


def words_of(text: str) -> set[str]:
    """Return the words of a text; a name is as many as it has parts between underscores."""
    return {word for word in re.split(r"[\s_]+", text) if word}


def check_width(text: str, wide: str, width: int = 80) -> None:
    """Assert that no line is longer than the width, and no word is one that the same text without a limit lacks.

    Lines with a path or a command in them may be as long as these are. An ellipsis may stand after a word.
    """
    long = [line for line in text.splitlines() if len(line) > width and "/" not in line]
    assert not long, long
    broken = {word.rstrip("\N{HORIZONTAL ELLIPSIS}") for word in words_of(text)} - words_of(wide)
    # Rules are as long as their tables, and a hint says how many columns there are.
    broken = {word for word in broken if set(word) != {"\N{BOX DRAWINGS LIGHT HORIZONTAL}"} and word != str(width)}
    assert not {word.rstrip(",;:(") for word in broken} - {word.rstrip(",;:(") for word in words_of(wide)}, broken
