"""Numbers as tables of the book print them."""

import statistics

from scipy import stats

from reproduction.show import tables


def welch(one, other):
    """The difference of means of networks trained apart, times 100, as tables print it."""
    parts = [statistics.variance(values) / len(values) for values in (one, other)]
    degrees = sum(parts) ** 2 / sum(part**2 / (len(one) - 1) for part in parts)
    half = stats.t.ppf(0.975, degrees) * sum(parts) ** 0.5
    return f"{100 * (statistics.mean(one) - statistics.mean(other)):+.1f} ± {100 * half:.1f}"


def lines(markdown):
    return [line.replace("\N{NO-BREAK SPACE}", " ") for line in markdown.data.splitlines()]


def said(panels):
    """The numbers of a figure of dots, as differences: {panel: {row: "+1.0 ± 2.0"}}."""
    return {title: {row: tables.span(one, signed=True) for row, one in rows.items()} for title, rows in panels.items()}
