"""The scripts of the pages, run by Node."""

from __future__ import annotations

import json
import shutil
import subprocess
from functools import cache

import pytest

from reproduction.runs.export import digits, scripts
from reproduction.show import programs

NODE = shutil.which("node")
needs_node = pytest.mark.skipif(not NODE, reason="NO SCRIPT WAS RUN: install node")


def in_node(code: str, **given):
    """What a function body in JavaScript returns, with networks and training of the page and what is given in scope."""
    sources = [(programs.SITE / f"{name}.js").read_text("utf-8") for name in ("exported", "networks", "training")]
    script = (
        f"globalThis.document = {{}};{';'.join(sources)};const given = {json.dumps(given)};"
        f"const found = ((training) => {{{code}}})(compatkitTraining());console.log(JSON.stringify(found));"
    )
    done = subprocess.run([NODE, "-"], input=script, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


DATA = """
    const data = training.unpacked(given.header, compatkitExported.bytes(given.header.bytes, given.header.count));
"""


@cache
def a_run():
    """What the page hands over after a few steps."""
    return in_node(
        DATA
        + """
        const setting = { start: true, classes: true, rotation: false, shared: 9, width: 8, seed: 0, steps: 12 };
        const pair = training.create(data, setting);
        while (pair.step < 12) training.step(pair);
        const accuracies = training.evaluate(pair);
        return { setting, accuracies, weights: training.weights(pair) };
        """,
        header=scripts.read(programs.EXPORTED / f"{digits.NAME}.js", "compatkitDigits", "name"),
    )
