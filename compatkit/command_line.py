"""What every command line of this project does alike: one-line errors, Ctrl-C, readers that close the pipe."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence


def run(parser: argparse.ArgumentParser, arguments: Sequence[str] | None = None) -> int:
    """Parse the arguments and call ``options.command(options)``.

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
        say(str(error), parser)
        return 2


def say(text: str, parser: argparse.ArgumentParser | None = None, *, before: str = "") -> None:
    """A line on standard error, under the name of the program."""
    name = (parser.prog if parser else os.path.basename(sys.argv[0])).split()[-1]
    print(f"{before}{name}: {text}", file=sys.stderr)
