"""What the help of every command shares."""


def examples(*lines: str) -> str:
    """Return the end of a command's help; the first character keeps click from filling the lines."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)
