"""gallerykit plan | upgrade | carry | inspect."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Sequence
from dataclasses import MISSING, dataclass, fields
from importlib.util import find_spec
from typing import Any, get_args, get_type_hints

from compatkit.extras import require

from .upgrade import Plan, Upgrade, option

STORES = """\b
A store is one of
  items.npy                        a NumPy array (n, width)
  items.parquet, items/            a Parquet file, or a folder of them
  items.arrow                      an Arrow IPC file
  lance:db#items                   the table items of the LanceDB in the folder db
  postgresql://me@host/db#items    a table with a pgvector column
  qdrant:http://host:6333#items    a collection of Qdrant
A second # names the column of vectors: lance:db#items#embedding_v1.

Passwords come from PGPASSWORD, PGSERVICE or ~/.pgpass, an API key from QDRANT_API_KEY, never from the address."""
EXAMPLES = """\b
  gallerykit plan --old old.npy --new new.npy --gallery gallery.npy
  gallerykit upgrade --old lance:db#items --new new.parquet --gallery lance:db#items --out lance:db#items_new
  gallerykit plan --old old.npy --new new.npy --direction queries --method ridge --save-map queries.safetensors
  gallerykit carry --map new.safetensors --gallery items.parquet --out carried.parquet
  gallerykit inspect --store items.parquet

Exit status: 0 done, 1 failed, 2 bad input, 3 advised against, and no gallery written."""
EXTRAS = {
    "pyarrow": "gallery", "scipy": "gallery", "lance": "lance", "psycopg": "postgres", "pgvector": "postgres",
    "qdrant_client": "qdrant", "distributed": "dask",
}  # fmt: skip
"""Packages that parts of the command need, and the extra of compatkit that holds each."""
INTERRUPTED = "gallerykit: interrupted: the same command goes on from here."


@dataclass(frozen=True, kw_only=True)
class Carry:
    """Put a gallery, or queries, through a map that --save-map wrote."""

    map: str = option("NAME.safetensors")
    gallery: str = option("the embeddings")
    out: str = option("the new ones, which must not be there yet")
    side: str | None = option("side-information in place of the gallery's column, by id if both have ids", default=None)
    columns: dict[str, str] = option("what columns are called, as in gallerykit plan", default_factory=dict)
    scheduler: str | None = option("as in gallerykit upgrade", default=None)
    overwrite: bool = option("replace the file --out", default=False)

    def run(self) -> int:
        from .carry import carry

        switch = carry(**vars(self))
        print(f"Written: {self.out}" + f"\n{switch}" * bool(switch))
        return 0


@dataclass(frozen=True, kw_only=True)
class Inspect:
    """Say whether vectors of two models lie in one store."""

    store: str = option("the embeddings")
    map: str | None = option(
        "a map between the two models that may have made them: each row is told apart by it", default=None
    )
    columns: dict[str, str] = option("what columns are called, as in gallerykit plan", default_factory=dict)

    def run(self) -> int:
        from .detect import inspect

        print(inspect(**vars(self)))
        return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and do as it says.

    Returns:
        The exit status: 0 done; 1 failed; 2 bad input; 3 advised against, and no gallery written; 130 interrupted.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        return _parse(list(sys.argv[1:] if arguments is None else arguments))
    except KeyboardInterrupt:
        print(f"\n{INTERRUPTED}", file=sys.stderr)
        return 130
    except (ValueError, OSError, ImportError, FloatingPointError) as error:
        print(f"gallerykit: {_with_flags(str(error))}", file=sys.stderr)
        return 2 if isinstance(error, ValueError | FileNotFoundError | NotADirectoryError) else 1


def _with_flags(text: str) -> str:
    """The message of a function, ``name, other: what is wrong``, for who typed flags."""
    flags = {
        one.name: f"--{one.name.replace('_', '-')}" for command in (Plan, Upgrade, Carry) for one in fields(command)
    }
    names, colon, rest = text.partition(": ")
    return ", ".join(flags.get(name, name) for name in names.split(", ")) + colon + rest


def _parse(arguments: list[str]) -> int:
    click = require("click", "gallery")
    missing = [
        f"  {name}: pip install 'compatkit[{extra}]'" for name, extra in EXTRAS.items() if find_spec(name) is None
    ]
    not_here = "\n\n\b\nNot installed here:\n" + "\n".join(missing) if missing else ""
    group = click.Group(help=f"Change the model of a gallery of embeddings.\n\n{EXAMPLES}{not_here}")
    as_json = click.Option(["--json"], is_flag=True, help="print all figures as JSON and nothing else, for a program")
    for name, command, run in (
        ("plan", Plan, _plan),
        ("upgrade", Upgrade, _upgrade),
        ("carry", Carry, Carry.run),
        ("inspect", Inspect, Inspect.run),
    ):
        given = [*_options(click, command), *[as_json] * (command is Plan)]
        group.add_command(click.Command(name, params=given, callback=_called(command, run), help=_about(command)))
    try:
        with group.make_context("gallerykit", arguments) as context:
            return group.invoke(context) or 0
    except click.exceptions.Exit as asked:  # for help
        return asked.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code


def _options(click: Any, command: type) -> list[Any]:
    """An option for each field: a flag, one of some words, a number, or a text."""
    found, types = [], get_type_hints(command)
    for one in fields(command):
        kind = next(part for part in (*get_args(types[one.name]), types[one.name]) if part is not type(None))
        flag = f"--{one.name.replace('_', '-')}"
        about: dict[str, Any] = {
            "help": one.metadata["help"],
            "show_default": one.default not in (None, MISSING, False),
        }
        if one.default is not MISSING:
            about["default"] = one.default
        elif one.default_factory is MISSING:
            about["required"] = True
        if types[one.name] is bool:
            flag += f"/--no-{one.name.replace('_', '-')}" if one.default else ""
            about["is_flag"] = True
        elif types[one.name] == dict[str, str]:
            about |= {"multiple": True, "nargs": 2, "metavar": "ROLE NAME", "show_default": False}
        elif isinstance(kind, str):
            about["type"] = click.Choice(get_args(types[one.name]))
        else:
            about["type"] = kind
        found.append(click.Option([flag], **about))
    return found


def _called(command: type, run: Callable[..., int]) -> Callable[..., int]:
    def call(columns: Sequence[tuple[str, str]], json: bool | None = None, **given: Any) -> int:
        one = command(columns=dict(columns), **given)
        return run(one) if json is None else run(one, json)

    return call


def _plan(command: Plan, json: bool) -> int:
    done = command.run((lambda text: None) if json else print)
    if json:
        print(done.json())
    return 0


def _upgrade(command: Upgrade) -> int:
    done = command.run()
    if done.out is None or done.map is None:
        print("No gallery was written. With --method NAME it is, by that map.")
        return 3
    print(f"Written with {done.map.label}: {done.out}\n{done.switch}")
    return 0


def _about(command: type) -> str:
    return f"{command.__doc__}\n\n{STORES}"


if __name__ == "__main__":
    sys.exit(main())
