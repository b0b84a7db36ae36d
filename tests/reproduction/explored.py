"""What an explorer or a plot of dots holds, as a reader of its page finds it."""

import json
import re


def table(found: dict, view: int = 0) -> dict[tuple[str, ...], list]:
    """Every row of a view's table by its options, its lists written out."""
    names, view = found["dimensions"], found["views"][view]
    written = {}
    for at, *parts in view["cells"]:
        where = tuple(names[d]["options"][o] for d, o in zip(view["dimensions"], at, strict=True))
        parts += [None] * (7 - len(parts))
        written[where] = parts[:4] + [None if place is None else found["lists"][place] for place in parts[4:]]
    return written


def by_name(found: dict) -> dict[str, dict]:
    return {dimension["name"]: dimension for dimension in found["dimensions"]}


def shown(explorer, view=0):
    """The table of a view by the options of its dimensions: mean, half width, n, the paper's, values, x, names."""
    return table(json.loads(explorer.spec), view)


def plain(found):
    """What a display says, without the spaces that keep a number on one line."""
    return found.data.replace("\N{NO-BREAK SPACE}", " ")


def means(explorer, view=0):
    """The means of a view in its unit, by the options of its dimensions."""
    return {where: mean for where, (mean, *_) in shown(explorer, view).items()}


def levels(explorer, view=0):
    """What is drawn across, by name and place: its mean."""
    spec = json.loads(explorer.spec)
    names = spec["dimensions"]
    return {
        (level["name"], *(names[d]["options"][o] for d, o in level["at"])): level["mean"]
        for level in spec["views"][view]["levels"]
    }


def options(explorer, dimension):
    return by_name(json.loads(explorer.spec))[dimension]["options"]


def starts(explorer):
    found = by_name(json.loads(explorer.spec)).items()
    return {name: dimension["options"][dimension["start"]] for name, dimension in found}


def dots(figure):
    """What a figure of dots says, by panel and row."""
    found = {}
    for said in re.findall(r'aria-label="([^"]*)\."', figure.data):
        panel, _, rows = said.partition(": ")
        for row in re.findall(r"(.+?) ([+-]?[\d.]+(?: ± [\d.]+)?)(?:, |$)", rows):
            found[panel.rpartition(", n = ")[0], row[0]] = row[1]
    return found
