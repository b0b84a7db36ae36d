"""gallerykit plan | upgrade | carry | inspect."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from compatkit.extras import require

from .maps import CLOSED_FORMS, DIRECTIONS, METHODS, NETWORKS, Map

if TYPE_CHECKING:  # who only asks for help can do without torch and pyarrow
    from .plan import Plan

try:
    click = require("click", "gallery")
except ImportError as error:
    sys.exit(f"gallerykit: {error}")

STORES = """\b
A store is one of
  items.npy                        a NumPy array (n, width)
  items.parquet, items/            a Parquet file, or a folder of them
  items.arrow                      an Arrow IPC file, which is only read
  lance:db#items                   the table items of the LanceDB in the folder db
  postgresql://me@host/db#items    a table with a pgvector column
  qdrant:http://host:6333#items    a collection of Qdrant
A second # names the column of vectors: lance:db#items#embedding_v1. Side-information of items is the column "side",
labels are the column "label".

Passwords come from PGPASSWORD, PGSERVICE or ~/.pgpass, an API key from QDRANT_API_KEY, never from the address."""
EXAMPLES = """\b
  gallerykit plan --old old.npy --new new.npy --gallery gallery.npy
  gallerykit upgrade --old lance:db#items --new new.parquet --gallery lance:db#items --out lance:db#items_new
  gallerykit plan --old old.npy --new new.npy --direction queries --method ridge --save-map queries.safetensors
  gallerykit carry --map new.safetensors --gallery items.parquet --out carried.parquet
  gallerykit inspect --store items.parquet

Exit status: 0 done, 1 failed, 2 bad input, 3 advised against, and no gallery written."""

OUT = click.option("--out", required=True, help="the new gallery, which must not be there yet")
COLUMNS = click.option(
    "--columns", nargs=2, multiple=True, metavar="ROLE NAME", callback=lambda context, option, value: dict(value),
    help='what columns are called, such as: id "Item ID"; roles: id, vector ("embedding"), side, label',
)  # fmt: skip
SCHEDULER = click.option(
    "--scheduler",
    help="address of a scheduler of Dask, such as tcp://host:8786, whose workers map the gallery; files, and the "
    "folder of --out, must be on a disk that all of them share",
)
GALLERY = "embeddings by the old model that are to become new ones"
PLAN = (
    click.option("--old", required=True, help="embeddings of some items by the old model"),
    click.option(
        "--new", required=True, help="embeddings of the same items by the new model; joined by id where both have ids, "
        "so that --old may be the gallery itself",
    ),
    COLUMNS,
    click.option(
        "--metric", type=click.Choice(["l2", "cosine", "ip"]), default="l2", show_default=True,
        help="of the search: L2 distance, cosine or inner product",
    ),
    click.option(
        "--method", type=click.Choice(["auto", "all", *METHODS], case_sensitive=False), default="auto",
        show_default=True, help="auto takes what is advised, of the closed forms; all trains residual and h as well, "
        "which takes minutes; a name is used whatever the comparison says",
    ),
    click.option(
        "--old-model/--no-old-model", default=True, help="whether queries can still be embedded by the old model"
    ),
    click.option(
        "--enough", type=click.FloatRange(0, 1), default=0.5, show_default=True,
        help="share of neighbours that a map must keep, without labels",
    ),
    click.option("--save-map", help="keep the map that is advised or named, as NAME.safetensors"),
    click.option(
        "--backfill-list", help="write the ids of the gallery as NAME.csv, in the order to embed them anew in"
    ),
)  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and do as it says. Returns the exit status: of ``EXAMPLES``, or 130 for interrupted."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        return commands.main(arguments, "gallerykit", standalone_mode=False) or 0
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except click.Abort:
        print("gallerykit: interrupted: the same command goes on from here.", file=sys.stderr)
        return 130
    except (ValueError, OSError, ImportError, FloatingPointError) as error:
        print(f"gallerykit: {error}", file=sys.stderr)
        return 2 if isinstance(error, ValueError | FileNotFoundError | NotADirectoryError) else 1


@click.group(help=f"Change the model of a gallery of embeddings.\n\n{EXAMPLES}")
def commands() -> None: ...


def command(*options: Callable) -> Callable:
    """A command with these options, whose help ends with the stores."""

    def made(function: Callable) -> Any:
        for one in reversed(options):
            function = one(function)
        return commands.command(epilog=STORES)(function)

    return made


@command(
    *PLAN,
    click.option("--gallery", help=GALLERY),
    click.option("--gallery-size", type=click.IntRange(1), help="how many items a gallery has that is not given"),
    click.option(
        "--direction", type=click.Choice(["both", *DIRECTIONS]), default="both", show_default=True,
        help="what may be mapped: the gallery, or queries of the new model, which leaves the gallery and its index as "
        "they are",
    ),
    click.option("--json", "as_json", is_flag=True, help="print all figures for a program"),
)  # fmt: skip
def plan(as_json: bool, **given: Any) -> None:
    """Compare all ways to serve a new model, and say which to take."""
    found, _ = _planned(tell=(lambda text: None) if as_json else print, **given)
    if as_json:
        print(found.json())


@command(*PLAN, click.option("--gallery", required=True, help=GALLERY), OUT, SCHEDULER)
def upgrade(gallery: str, out: str, columns: dict[str, str], scheduler: str | None, **given: Any) -> int:
    """Plan, and put the gallery through the map that is advised or named."""
    from .carry import carry as carried
    from .stores import open_target

    open_target(out).check_new()  # not after the comparison
    _, chosen = _planned(tell=print, gallery=gallery, columns=columns, **given)
    if chosen is None or chosen.ends.direction == "queries":
        print("No gallery was written. With --method NAME it is, by that map.")
        return 3
    switch = carried(chosen, gallery, out, columns=columns, scheduler=scheduler)
    print(f"Written with {chosen.label}: {out}\n{switch}")
    return 0


@command(
    click.option("--map", required=True, help="NAME.safetensors"),
    click.option("--gallery", required=True, help="the embeddings"),
    OUT, COLUMNS, SCHEDULER,
)  # fmt: skip
def carry(**given: Any) -> None:
    """Put a gallery, or queries, through a map that --save-map wrote."""
    from .carry import carry as carried

    switch = carried(**given)
    print(f"Written: {given['out']}" + f"\n{switch}" * bool(switch))


@command(
    click.option("--store", required=True, help="the embeddings"),
    click.option("--map", help="between the two models that may have made them: each row is told apart by it"),
    COLUMNS,
)
def inspect(**given: Any) -> None:
    """Say whether vectors of two models lie in one store."""
    from .detect import inspect as inspected

    print(inspected(**given))


def _planned(
    tell: Callable[[str], object],
    old: str,
    new: str,
    gallery: str | None,
    columns: dict[str, str],
    metric: str,
    method: str,
    save_map: str | None,
    backfill_list: str | None,
    gallery_size: int | None = None,
    direction: str = "both",
    **options: Any,
) -> tuple[Plan, Map | None]:
    """The plan, and the map that is advised or was named."""
    from .backfill import write_list
    from .pairs import read_pairs
    from .plan import plan
    from .stores import open_gallery

    pairs = read_pairs(old, new, columns=columns, metric=metric, tell=tell)
    found = None if gallery is None else open_gallery("gallery", gallery, columns)
    if found is not None and (width := found.width("vector")) != pairs.old.shape[1]:
        raise ValueError(f"gallery: must have the width of old, {pairs.old.shape[1]}, got {width}")
    if found is None and backfill_list is not None:
        raise ValueError("backfill_list: is of a gallery, and none is given")
    done = plan(
        pairs,
        [*CLOSED_FORMS, *(name for name in NETWORKS if method in ("all", name))],
        directions=DIRECTIONS if direction == "both" else [direction],
        metric=metric,
        gallery_size=gallery_size if found is None else found.source.rows,
        **options,
    )
    tell(str(done))
    named = [one for one in done.maps.values() if one.name == method]
    # with side-information where there is some, and of the gallery where both directions are
    named.sort(key=lambda one: (one.ends.direction == "gallery", one.ends.d_side))
    chosen = named[-1] if named else done.maps.get(done.advice.map or "")
    if found is not None and backfill_list is not None:
        write_list(backfill_list, found, pairs.old, metric)
    if save_map is not None and chosen is not None:
        chosen.save(save_map)
    return done, chosen


if __name__ == "__main__":
    sys.exit(main())
