"""What a command line does beside its work: one-line errors, Ctrl-C, readers that have seen enough."""

from __future__ import annotations

import io
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import TextIO


def call(
    program: str,
    work: Callable[[], int | None],
    interrupted: str = "interrupted.",
    flags: Mapping[str, str] | None = None,
) -> int:
    """Call what a command line asks for, whose work goes on where nobody reads what it prints.

    Args:
        program: its name, before what is said of errors.
        work: parses the arguments and does as they say.
        interrupted: what to say after Ctrl-C.
        flags: what names in errors are typed as; as in ``{"save_map": "--save-map"}``.

    Returns:
        The exit status: what the work returns, 0 for None; 1 where it or standard output failed, 2 for bad input, 130
        when interrupted.
    """
    output, errors = (stream or open(os.devnull, "w") for stream in (sys.stdout, sys.stderr))  # noqa: SIM115
    with redirect_stdout(_Output(output)) as said, redirect_stderr(errors), _interrupted_once():
        try:
            status = _status(program, work, interrupted, {} if flags is None else flags)
        finally:
            said.flush()
        if said.error is None or isinstance(said.error, BrokenPipeError):  # the reader, such as `head`, has seen enough
            return status
        say(f"standard output: {said.error}", program)
        return status or 1


def _status(program: str, work: Callable[[], int | None], interrupted: str, flags: Mapping[str, str]) -> int:
    try:
        return work() or 0
    except KeyboardInterrupt:
        say(interrupted, program, before="\n")
        return 130
    except (ValueError, OSError, ImportError, FloatingPointError) as error:
        say(_with_flags(str(error), flags), program)
        return 2 if isinstance(error, ValueError | FileNotFoundError | NotADirectoryError) else 1


class _Output(io.TextIOBase):
    """A stream that escapes what its encoding lacks, and keeps its first error, after which nothing is written."""

    def __init__(self, stream: TextIO):
        self.stream = stream
        self.error: OSError | None = None

    def write(self, text: str) -> int:
        encoding = self.stream.encoding or "utf-8"
        self._try(self.stream.write, text.encode(encoding, "backslashreplace").decode(encoding))
        return len(text)

    def flush(self) -> None:
        self._try(self.stream.flush)

    def _try(self, function: Callable, *arguments: str) -> None:
        try:
            function(*arguments)
        except OSError as error:
            self.error = error
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.stream.fileno())  # for all that follows, to the very end


@contextmanager
def _interrupted_once() -> Iterator[None]:
    """Let a second Ctrl-C end the process at once: it would interrupt the clearing up, and files are whole anyway."""

    def interrupt(*_: object) -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        raise KeyboardInterrupt

    if (
        threading.current_thread() is not threading.main_thread()
        or signal.getsignal(signal.SIGINT) is not signal.default_int_handler
    ):
        yield
        return
    signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGINT) is interrupt:
            signal.signal(signal.SIGINT, signal.default_int_handler)


def _with_flags(text: str, flags: Mapping[str, str]) -> str:
    """The message of a function, ``name, other: what is wrong``, for who typed flags. After the colon a name is told
    from a word by its underscore, and from a part of a path."""
    names, colon, rest = text.partition(": ")
    names = ", ".join(flags.get(name, name) for name in names.split(", "))
    return (
        names + colon + re.sub(r"(?<![\w/.'-])\w+_\w+(?![\w/'-]|\.\w)", lambda word: flags.get(word[0], word[0]), rest)
    )


def say(text: str, program: str | None = None, *, before: str = "") -> None:
    """A line on standard error, under the name of the program."""
    print(f"{before}{program or os.path.basename(sys.argv[0])}: {text}", file=sys.stderr)
