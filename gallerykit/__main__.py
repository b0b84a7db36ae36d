"""python -m gallerykit upgrade | map, also installed as the command ``compatkit``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from . import command_line

SOURCES = """\
A SOURCE is one of
  old.npy                        a NumPy array (n, width)
  old.npz                        what gallerykit.embeddings saved
  items.parquet, items/          a Parquet file, or a folder of them
  items.arrow                    an Arrow IPC file
  lance:db#items                 the table items of the LanceDB in the folder db; needs compatkit[lance]
  postgresql://me@host/db#items  a table with a pgvector column; needs compatkit[postgres]
Passwords come from PGPASSWORD, PGSERVICE or ~/.pgpass, never from the URL. Other stores: through Parquet.

  gallerykit upgrade --old old.npy --new new.npy --gallery gallery.npy --out carried.npy
  gallerykit upgrade --old items.parquet --new new.parquet --gallery items.parquet --out carried.parquet
  gallerykit upgrade --old lance:db#items --new new.parquet --gallery lance:db#items --out lance:db#items_new
  gallerykit upgrade --old old.npy --new new.npy --direction queries --save-map queries.safetensors
  gallerykit upgrade --old postgresql://me@host/db#items --new new.parquet \\
      --gallery postgresql://me@host/db#items --out postgresql://me@host/db#items_new --metric cosine

Pairs are joined by id where both sides have ids, so that --old may be the gallery itself."""


MAPPED = """\
A SOURCE is as in gallerykit upgrade.

  gallerykit upgrade --old old.npy --new new.npy --save-map new.safetensors
  gallerykit map --map new.safetensors --in items.parquet --out carried.parquet"""


SCHEDULER = """\
of a scheduler of Dask, such as tcp://host:8786, whose workers map the gallery in parts; files, and the folder of --out,
must be on a disk that all of them share; needs compatkit[dask]"""

INTERRUPTED = "interrupted: the same command goes on from here."


class _Help(argparse.HelpFormatter):
    """The description in lines of the terminal's width, the examples as they are."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return text if text in (SOURCES, MAPPED) else super()._fill_text(text, width, indent)


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and do as it says. Returns the exit status."""
    return command_line.run(_parser(), arguments)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("gallerykit", description="Carry a gallery of embeddings to a new model.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    upgrade = commands.add_parser(
        "upgrade",
        help="carry a gallery of embeddings into the space of a new model",
        description="Fit maps from old embeddings to new ones on pairs of both, compare them on held-out pairs, say "
        "which to use or that none is worth it, and put the gallery through it. Interrupted, the same command goes on. "
        "Exit status: 0 done, 1 failed, 2 bad input, 3 advised against, and neither a gallery nor a map written.",
        epilog=SOURCES,
        formatter_class=_Help,
    )
    upgrade.add_argument("--old", required=True, metavar="SOURCE", help="embeddings of some items by the old model")
    upgrade.add_argument("--new", required=True, metavar="SOURCE", help="embeddings of the same items by the new model")
    upgrade.add_argument("--side", metavar="SOURCE", help="side-information of the items of --old")
    upgrade.add_argument(
        "--labels", metavar="SOURCE", help="integers or text, one for each item of --old: judge by mAP"
    )
    upgrade.add_argument("--gallery", metavar="SOURCE", help="embeddings by the old model that are to become new ones")
    upgrade.add_argument("--gallery-side", metavar="SOURCE", help="side-information of the gallery, by id if both have")
    upgrade.add_argument("--out", metavar="SOURCE", help="the new gallery, which must not be there yet")
    upgrade.add_argument(
        "--direction",
        default="gallery",
        help="what is mapped: gallery (default), or queries of the new model, which leaves the gallery and its index "
        "alone and saves a map only",
    )
    upgrade.add_argument("--save-map", metavar="FILE", help="keep the map that is used, as NAME.safetensors")
    upgrade.add_argument("--id-column", metavar="NAME", help="of all tables (id, where there is one)")
    upgrade.add_argument("--vector-column", metavar="NAME", help="of all tables (embedding)")
    upgrade.add_argument("--new-vector-column", metavar="NAME", help="of --new, where it has another name there")
    upgrade.add_argument("--side-column", metavar="NAME", help="of all tables (side, where there is one)")
    upgrade.add_argument(
        "--label-column", metavar="NAME", help="of all tables (label, where there is one: then mAP judges)"
    )
    upgrade.add_argument("--require-all", action="store_true", help="refuse pairs whose ids match only in part")
    upgrade.add_argument(
        "--method", default="auto", help="auto (default), identity, procrustes, low-rank, ridge, residual or h"
    )
    upgrade.add_argument("--metric", default="l2", help="of the search: l2 (default), cosine or ip, the inner product")
    upgrade.add_argument(
        "--enough", type=float, default=0.5, help="share of neighbours that a map must keep, without labels (0.5)"
    )
    upgrade.add_argument(
        "--gallery-size",
        type=int,
        metavar="N",
        help="how many items a gallery has that is not given: agreement is extrapolated to that many",
    )
    upgrade.add_argument(
        "--backfill-seconds",
        type=float,
        metavar="S",
        help="what the new model takes for 10 000 items: prices are compared with it",
    )
    upgrade.add_argument(
        "--backfill-list",
        metavar="FILE",
        help="write the ids of the gallery as NAME.csv, in the order to back-fill in: first those near which the "
        "map fits badly and searches find much",
    )
    upgrade.add_argument(
        "--width",
        type=int,
        default=512,
        help="of the hidden layers of residual and h (default 512; the paper of h: 2048)",
    )
    upgrade.add_argument(
        "--steps", type=int, default=2_000, help="of the training of residual and h, which takes minutes (default 2000)"
    )
    upgrade.add_argument("--seed", type=int, default=0, help="which pairs are held out, and of the training (0)")
    upgrade.add_argument("--chunk", type=int, default=16_384, help="rows in memory at a time (default 16384)")
    upgrade.add_argument("--device", help="cpu, cuda, cuda:1, ...; default: a GPU if there is one")
    upgrade.add_argument("--scheduler", metavar="ADDRESS", help=SCHEDULER)
    upgrade.add_argument("--dry-run", action="store_true", help="compare only; the gallery may be left out")
    upgrade.add_argument(
        "--overwrite", action="store_true", help="replace the files at --out, --save-map and --backfill-list"
    )
    upgrade.set_defaults(command=_upgrade, interrupted=INTERRUPTED)
    apply = commands.add_parser(
        "map",
        help="put a source through a map that upgrade --save-map wrote",
        description="Put a gallery, or queries, through a map that upgrade --save-map wrote. Interrupted, the same "
        "command goes on. Exit status: 0 done, 1 failed, 2 bad input.",
        epilog=MAPPED,
        formatter_class=_Help,
    )
    apply.add_argument("--map", required=True, metavar="FILE", help="NAME.safetensors")
    apply.add_argument("--in", required=True, metavar="SOURCE", dest="gallery", help="the embeddings")
    apply.add_argument("--out", required=True, metavar="SOURCE", help="the new ones, which must not be there yet")
    apply.add_argument("--side", metavar="SOURCE", dest="gallery_side", help="side-information, by id if both have")
    apply.add_argument("--id-column", metavar="NAME", help="of tables (id, where there is one)")
    apply.add_argument("--vector-column", metavar="NAME", help="of tables (embedding)")
    apply.add_argument("--side-column", metavar="NAME", help="of tables (side, where there is one)")
    apply.add_argument("--require-all", action="store_true", help="refuse side-information of more than --in")
    apply.add_argument("--chunk", type=int, default=16_384, help="rows in memory at a time (default 16384)")
    apply.add_argument("--device", help="cpu, cuda, cuda:1, ...; default: a GPU if there is one")
    apply.add_argument("--scheduler", metavar="ADDRESS", help=SCHEDULER)
    apply.add_argument("--overwrite", action="store_true", help="replace the file at --out")
    flags = {"gallery": "--in", "gallery_side": "--side"}
    apply.set_defaults(command=_map, interrupted=INTERRUPTED, flags=flags)
    return parser


def _upgrade(options: argparse.Namespace) -> int:
    from .upgrade import upgrade

    done = upgrade(**_arguments(options))
    if done.out is not None:
        print(f"Written with {done.method}: {done.out}\n{done.switch}")
    if done.saved is not None:
        print(f"Saved {done.method}: {done.saved}")
    if done.listed is not None:
        print(f"What to back-fill, the worst first: {done.listed}")
    if done.out is done.saved is None and not options.dry_run:
        part = 0 < done.share < 1 and done.listed is None
        print(
            "Neither a gallery nor a map was written. "
            + "The same command with --backfill-list FILE.csv writes both the gallery and what to back-fill. " * part
            + "With --method NAME it writes what that map gives."
        )
        return 3
    return 0


def _map(options: argparse.Namespace) -> int:
    from .upgrade import apply_map

    switch = apply_map(**_arguments(options))
    print(f"Written: {options.out}" + f"\n{switch}" * bool(switch))
    return 0


def _arguments(options: argparse.Namespace) -> dict:
    return {name: value for name, value in vars(options).items() if name not in ("command", "flags", "interrupted")}


if __name__ == "__main__":
    sys.exit(main())
