"""What every command line of this project does alike: one-line errors, Ctrl-C, readers that close the pipe."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Mapping, Sequence


def run(parser: argparse.ArgumentParser, arguments: Sequence[str] | None = None) -> int:
    """Parse the arguments and call ``options.command(options)``.

    Where the parser sets ``flags``, errors name arguments as they were typed; ``flags`` has those that are not ``--``
    and their name.

    Returns:
        The exit status: what the command returns, 0 for None, 2 for bad input, 130 when interrupted.
    """
    options = parser.parse_args(arguments)
    try:
        status = options.command(options) or 0
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        say("interrupted.", parser, before="\n")
        return 130
    except (ValueError, FileNotFoundError, NotADirectoryError) as error:
        say(_with_flags(str(error), options), parser)
        return 2


def _with_flags(text: str, options: argparse.Namespace) -> str:
    """The message of a function, ``name, other: what is wrong``, for who typed flags. After the colon a name is told
    from a word by its underscore, and from a part of a path."""
    renamed: Mapping[str, str] | None = getattr(options, "flags", None)
    if renamed is None:
        return text
    flags = {name: f"--{name.replace('_', '-')}" for name in vars(options)} | dict(renamed)
    names, colon, rest = text.partition(": ")
    if colon and all(name in flags for name in names.split(", ")):
        names = ", ".join(flags[name] for name in names.split(", "))
    return (
        names + colon + re.sub(r"(?<![\w/.'-])\w+_\w+(?![\w/'-]|\.\w)", lambda word: flags.get(word[0], word[0]), rest)
    )


def say(text: str, parser: argparse.ArgumentParser | None = None, *, before: str = "") -> None:
    """A line on standard error, under the name of the program."""
    name = (parser.prog if parser else os.path.basename(sys.argv[0])).split()[-1]
    print(f"{before}{name}: {text}", file=sys.stderr)
