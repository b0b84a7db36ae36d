"""python -m compatkit upgrade, also installed as the command ``compatkit``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from . import command_line


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and do as it says. Returns the exit status."""
    return command_line.run(_parser(), arguments)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("compatkit", description="Carry a gallery of embeddings to a new model.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    upgrade = commands.add_parser(
        "upgrade",
        help="carry a gallery of embeddings into the space of a new model",
        description="Fit maps from old embeddings to new ones on pairs of both, compare them on held-out pairs, say "
        "which to use or that none is worth it, and put the gallery through it. Files are .npy, .npz (of "
        "compatkit.gallery.embeddings) "
        "or .parquet (columns embedding, and perhaps id, side and label). Interrupted, the same command goes on. "
        "Exit status: 0 done, 1 failed, 2 bad input, 3 advised against and nothing written.",
    )
    upgrade.add_argument("--old", required=True, metavar="FILE", help="embeddings of some items by the old model")
    upgrade.add_argument("--new", required=True, metavar="FILE", help="of the same items by the new one")
    upgrade.add_argument("--side", metavar="FILE", help="side-information of these items")
    upgrade.add_argument("--labels", metavar="FILE", help="of these items: compare as retrieval by class, too")
    upgrade.add_argument("--gallery", metavar="FILE", help="embeddings by the old model that are to become new ones")
    upgrade.add_argument("--gallery-side", metavar="FILE", help="side-information of the gallery")
    upgrade.add_argument("--out", metavar="FILE", help="the new gallery, of the same suffix as the gallery")
    upgrade.add_argument("--method", default="auto", help="auto (default), identity, procrustes, ridge or h")
    upgrade.add_argument(
        "--enough", type=float, default=0.5, help="share of neighbours that a map must keep, without labels (0.5)"
    )
    upgrade.add_argument(
        "--backfill-seconds", type=float, metavar="S", help="what the new model takes for 10 000 items"
    )
    upgrade.add_argument("--width", type=int, default=512, help="of h (default 512; the paper: 2048)")
    upgrade.add_argument("--steps", type=int, default=2_000, help="of the training of h (default 2000)")
    upgrade.add_argument("--seed", type=int, default=0)
    upgrade.add_argument("--chunk", type=int, default=16_384, help="rows in memory at a time (default 16384)")
    upgrade.add_argument("--device", help="cpu, cuda, cuda:1, ...; default: a GPU if there is one")
    upgrade.add_argument("--dry-run", action="store_true", help="compare only; the gallery may be left out")
    upgrade.add_argument("--overwrite", action="store_true", help="replace the file at --out")
    upgrade.set_defaults(command=_upgrade)
    return parser


def _upgrade(options: argparse.Namespace) -> int:
    from .gallery.upgrade import upgrade

    try:
        done = upgrade(**{name: value for name, value in vars(options).items() if name != "command"})
    except FileNotFoundError:
        raise
    except (OSError, ImportError, FloatingPointError) as error:
        command_line.say(str(error), _parser())
        return 1
    except KeyboardInterrupt:
        command_line.say("interrupted: the same command goes on from here.", _parser(), before="\n")
        return 130
    if done.out is not None:
        print(f"Written with {done.method}: {done.out}")
    elif not options.dry_run:
        print("Nothing was written; name a map with --method to do so all the same.")
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main())
