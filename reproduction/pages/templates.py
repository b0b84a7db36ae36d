"""Words and markup around the numbers of the pages: templates in ``reproduction/site``, filled."""

from __future__ import annotations

import functools
import html
from pathlib import Path
from typing import Any

import jinja2

from ..show.tables import SIGNS

SITE = Path(__file__).parents[1] / "site"


@functools.cache
def _environment() -> jinja2.Environment:
    found = jinja2.Environment(
        loader=jinja2.FileSystemLoader(SITE), undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    found.filters["e"] = html.escape  # as Python's own does, so that pages keep their bytes
    found.filters["shown"] = lambda word: f"{SIGNS[word]} {word}" if word in SIGNS else _PLURAL.get(word, word)
    return found


_PLURAL = {kind: f"{kind}s" for kind in ("finding", "check", "level", "question")}


def fill(name: str, **values: Any) -> str:
    """The text of a template with these values in it; what is not HTML is escaped where the template says so."""
    return _environment().get_template(name).render(**values).strip()
