"""Contents that all chapters have: records by sets of images, differences between rows, the origin of the runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from IPython.display import Markdown

from compatkit.intervals import Interval, difference, interval

from ..records.claims import Records, Seeds, Side, by_images, images_in_words
from ..records.table import Rows, Values
from ..records.verdicts import share
from ..show import tables
from ..show.explorer import Cell


def by_data(records: Records) -> dict[str, list[Mapping]]:
    """The records of each pair of data sets (in either order), update or set, by its name: "a × b", "data, classes to
    classes", "data"."""
    return {images_in_words(group): group for group in by_images(records).values()}


def choose(records: Records, **config) -> list[Mapping]:
    """The records whose config has these values."""
    return [r for r in records if all(r["config"][key] == value for key, value in config.items())]


def union(*parts: Records) -> list[Mapping]:
    """The records of several experiments, each run once, under its row in the first of them."""
    found: dict[str, Mapping] = {}
    for record in (record for part in parts for record in part):
        found.setdefault(record["run_id"], record)
    return list(found.values())


def groups(values: Values, *columns: str) -> list[tuple[tuple, Values]]:
    """The values for each combination of what stands in some columns, in order."""
    return list(values.groupby(list(columns), observed=True)) if len(values) else []


def cells(
    values: Values,
    at: Mapping[str, str],
    words: Mapping[str, Mapping[str, str]] | None = None,
    paper: Callable[[Mapping[str, str]], float | None] = lambda place: None,
    **fixed: str,
) -> list[Cell]:
    """A cell of an explorer for each place, with the values of its runs.

    Args:
        values: of ``records.table.pick``.
        at: for each dimension of the explorer the column that it shows.
        words: for columns whose entries have other names in the explorer, these names, in order; values that have none
            are left out.
        paper: what the paper printed at a place.
        fixed: dimensions at which all cells stand.
    """
    values = values[[*at.values(), "value"]]
    for column, named in (words or {}).items():
        known = values[column].isin(list(named))
        values = values[known].assign(**{column: values[column][known].cat.set_categories(list(named))})
    found = []
    for key, group in groups(values, *at.values()):
        place = {d: (words or {}).get(c, {}).get(k, str(k)) for (d, c), k in zip(at.items(), key, strict=True)}
        found.append(Cell({**fixed, **place}, group["value"].tolist(), paper(place)))
    return found


def row_cells(
    at: Mapping[str, str], dimension: str, rows: Rows, printed: Mapping[str, float | None] | None = None
) -> list[Cell]:
    """A cell for each row that was run, at ``at`` and at the row's name in ``dimension``; printed: the paper's, by
    row."""
    known = printed or {}
    return [Cell({**at, dimension: row}, list(seeds.values()), known.get(row)) for row, seeds in rows.items() if seeds]


def provenance(records: Records) -> Markdown:
    """The origin of the runs on each set of images."""
    return tables.origins(by_data(records))


def mean_of(seeds: Seeds, scale: float = 100) -> Interval | None:
    """The mean of a row with its interval, in the unit that is shown; None for no runs."""
    return interval([scale * value for value in seeds.values()]) if seeds else None


def percent_of_gap(sides: Sequence[Side], records: Mapping[str, Records]) -> Interval | None:
    """The share of the gap, in %, that the first side closes, see ``verdicts.share``; None where there is none."""
    found = share(sides, records)
    return found and found.scaled(100).interval()


def gap_between(one: Seeds, other: Seeds, same_networks: bool, scale: float = 100) -> Interval | None:
    """The difference between two rows on the seeds that both have; None where there are none."""
    seeds = sorted(one.keys() & other.keys())
    values = ([scale * row[seed] for seed in seeds] for row in (one, other))
    return difference(*values, paired=same_networks) if seeds else None
