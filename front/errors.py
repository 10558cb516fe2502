"""What a user did wrong, as one exception: the file, the place in it, what is wrong there and what is allowed.

Everything in batchcube that refuses input raises it, where the mistake is known. Whatever else comes out of batchcube,
a ValueError of a library included, is a fault of batchcube.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from copy import copy
from unicodedata import category


class InputError(ValueError):
    """Refuse input, in one printable line: ``file: path = value: problem: allowed (at point)``, without what is empty.

    The command line prints it and exits with status 2. Text may be anybody's: control characters and line breaks in
    it are shown escaped. An argument is named in backticks, as its option is, with underscores, which is what the
    public functions call it: `replicas_max`. The command line prints the option, --replicas-max. In the text of
    others, a value here or what `quoted` returns, backticks are apostrophes.
    """

    def __init__(
        self,
        problem: str,
        *,
        file: object = "",
        path: object = "",
        value: object = "",
        allowed: str = "",
        point: str = "",
    ) -> None:
        super().__init__(problem)
        self.file = str(file)
        """File, or what stands for one; where another file names it, that one first. Empty where there is none."""
        self.path = str(path)
        """Place in the file: a setting, a row and column, a variable, an argument."""
        self.value = str(value)
        """What stands there, as it is shown."""
        self.problem = problem
        self.allowed = allowed
        self.point = point
        """Point of the grid of a sweep, in words; no point changes what is wrong with a file."""

    def __str__(self) -> str:
        value = self.value.replace("`", "'")
        place = f"{self.path}{' ' if self.path.endswith('`') else ' = '}{value}" if value else self.path
        line = ": ".join(filter(None, (self.file, place, self.problem, self.allowed)))
        return printable(f"{line} (at {self.point})" if self.point else line)

    def _render_traceback_(self) -> list[str]:
        """Show in IPython, and in notebooks, what the command line prints, without the frames that led here."""
        return [f"{InputError.__name__}: {line}" for line in str(self).split("\n")]

    def __reduce__(self) -> tuple[type["InputError"], tuple[object, ...], dict[str, object]]:
        """Give copies fields of their own; tblib, which comes with Dask, has exceptions without this share theirs."""
        return type(self), self.args, self.__dict__.copy()

    def at(self, *, file: object = "", path: object = "", point: str = "") -> "InputError":
        """Return the same mistake, with a file and a path put before its own, and a point unless a file is at fault."""
        found = copy(self)
        found.file = ": ".join(filter(None, (str(file), self.file)))
        found.path = ": ".join(filter(None, (str(path), self.path)))
        found.point = self.point or ("" if self.file else point)
        return found

    def advised(self, advice: str) -> "InputError":
        """Return the same mistake, with what can be done about it."""
        found = copy(self)
        if found.allowed:
            found.allowed = f"{found.allowed}; {advice}"
        else:
            found.problem = f"{found.problem}; {advice}"
        return found


@contextmanager
def found_in(*, file: object = "", path: object = "") -> Iterator[None]:
    """Say of the mistakes that a block finds which file they are in, and where in it."""
    try:
        yield
    except InputError as error:
        raise error.at(file=file, path=path) from None


class InputErrors(InputError):  # noqa: N818 - several of them
    """Refuse input for several reasons at once, one line for each; the fields are those of the first."""

    def __init__(self, errors: Iterable[InputError]) -> None:
        self.errors = tuple(errors)
        first = self.errors[0]
        super().__init__(
            first.problem,
            file=first.file,
            path=first.path,
            value=first.value,
            allowed=first.allowed,
            point=first.point,
        )
        self.args = (self.errors,)

    def __str__(self) -> str:
        return "\n".join(map(str, self.errors))

    def at(self, *, file: object = "", path: object = "", point: str = "") -> "InputErrors":
        """Return the same mistakes, each with what `InputError.at` adds."""
        return InputErrors(error.at(file=file, path=path, point=point) for error in self.errors)

    def advised(self, advice: str) -> "InputErrors":
        """Return the same mistakes, each with what can be done about it."""
        return InputErrors(error.advised(advice) for error in self.errors)


def printable(text: object) -> str:
    r"""Return text on one line in which what no reader sees is spelled out: the escape character as ``\x1b``.

    Titles, labels and notes may be anybody's: a terminal obeys escape sequences in them, and a line break makes two
    lines of one. Spaces of any width stay.
    """
    seen = ((c, c.isprintable() or category(c) == "Zs") for c in str(text))
    return "".join(c if shown else c.encode("unicode_escape").decode() for c, shown in seen)


def quoted(text: object) -> str:
    """Return what others wrote on one line, without the backticks that mark arguments in messages of ours."""
    return " ".join(str(text).split()).replace("`", "'")


def one_of(allowed: Iterable[str]) -> str:
    """Return ``a, b or c``."""
    *most, last = allowed
    return f"{', '.join(most)} or {last}" if most else last


def near(word: object, allowed: Iterable[str]) -> list[str]:
    """Return the names that a word may have been meant for, whatever its case; at most 3.

    Those that begin with it, as `ttft_mean_s` with `ttft`, come first, then those that are nearest. One or two letters
    count only where a word of the name ends there: `la` does not begin `latency`.
    """
    from difflib import get_close_matches

    by_case: dict[str, str] = {}
    for name in allowed:
        by_case.setdefault(name.casefold(), name)
    word = str(word).casefold()
    begins = [name for name in by_case if word and name.startswith(word)]
    begun = [name for name in begins if len(word) > 2 or not name[len(word) :][:1].isalnum()]
    found = [*get_close_matches(word, begun, n=3, cutoff=0.0), *get_close_matches(word, by_case, n=3, cutoff=0.6)]
    return [by_case[name] for name in dict.fromkeys(found)][:3]


def did_you_mean(word: object, allowed: Iterable[str]) -> str:
    """Return ``did you mean x or y?`` for a near miss of allowed names, and nothing otherwise."""
    close = near(word, allowed)
    return f"did you mean {one_of(close)}?" if close else ""


def suggestion(word: object, allowed: Iterable[str]) -> str:
    """Return ``must be one of a, b``, or ``did you mean x?`` for a near miss where the list is long."""
    names = list(allowed)
    listed = f"must be one of {', '.join(names)}"
    return (did_you_mean(word, names) if len(listed) > 120 else "") or listed
