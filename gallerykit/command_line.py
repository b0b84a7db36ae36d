"""What every command line of this project does alike: one-line errors, Ctrl-C, readers that have seen enough."""

from __future__ import annotations

import argparse
import io
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import TextIO


def run(parser: argparse.ArgumentParser, arguments: Sequence[str] | None = None) -> int:
    """Parse the arguments and call ``options.command(options)``, whose work goes on where nobody reads what it prints.

    Errors name arguments as they were typed. Of the parser's defaults, ``flags`` has the names of those that are not
    typed as ``--name``, and ``interrupted`` is what to say after Ctrl-C.

    Returns:
        The exit status: what the command returns, 0 for None; 1 where it or standard output failed, 2 for bad input,
        130 when interrupted.
    """
    output, errors = (stream or open(os.devnull, "w") for stream in (sys.stdout, sys.stderr))  # noqa: SIM115
    with redirect_stdout(_Output(output)) as said, redirect_stderr(errors), _interrupted_once():
        try:
            options = parser.parse_args(arguments)
            status = _status(parser, options)
        finally:
            said.flush()
        if said.error is None or isinstance(said.error, BrokenPipeError):  # the reader, such as `head`, has seen enough
            return status
        say(f"standard output: {said.error}", parser)
        return status or 1


def _status(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    try:
        return options.command(options) or 0
    except KeyboardInterrupt:
        say(getattr(options, "interrupted", "interrupted."), parser, before="\n")
        return 130
    except (ValueError, OSError, ImportError, FloatingPointError) as error:
        say(_with_flags(str(error), options), parser)
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


def _with_flags(text: str, options: argparse.Namespace) -> str:
    """The message of a function, ``name, other: what is wrong``, for who typed flags. After the colon a name is told
    from a word by its underscore, and from a part of a path."""
    renamed: Mapping[str, str] = getattr(options, "flags", {})
    flags = {name: f"--{name.replace('_', '-')}" for name in vars(options)} | dict(renamed)
    names, colon, rest = text.partition(": ")
    names = ", ".join(flags.get(name, name) for name in names.split(", "))
    return (
        names + colon + re.sub(r"(?<![\w/.'-])\w+_\w+(?![\w/'-]|\.\w)", lambda word: flags.get(word[0], word[0]), rest)
    )


def say(text: str, parser: argparse.ArgumentParser | None = None, *, before: str = "") -> None:
    """A line on standard error, under the name of the program."""
    name = (parser.prog if parser else os.path.basename(sys.argv[0])).split()[-1]
    print(f"{before}{name}: {text}", file=sys.stderr)
