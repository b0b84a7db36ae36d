"""What is missing is said with what to install."""

import math
import sys

import pytest
import torch

from compatkit.extras import require
from compatkit.similarity import match_channels
from reproduction.images import load, package_file


def test_a_package_that_is_there_is_given_and_one_that_is_not_names_the_extra():
    assert require("math", "data") is math
    with pytest.raises(ImportError, match=r"no_such_package is needed here: pip install 'compatkit\[data\]'"):
        require("no_such_package.part", "data")


def test_what_a_package_itself_lacks_is_its_own_error(tmp_path, monkeypatch):
    (tmp_path / "broken_package.py").write_text("import no_such_package")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="No module named 'no_such_package'"):
        require("broken_package", "data")


@pytest.mark.parametrize(
    ("package", "extra", "call"),
    [
        ("sklearn", "data", lambda: package_file("sklearn", "datasets/data/digits.csv.gz")),
        ("matplotlib", "data", lambda: load("glyphs_plain", seed=987)),  # which no other test has drawn
        ("scipy", "similarity", lambda: match_channels(torch.eye(3))),
    ],
)
def test_each_use_of_an_optional_package_names_its_extra(monkeypatch, package, extra, call):
    class Absent:
        def find_spec(self, name, path=None, target=None):
            if name.split(".")[0] == package:
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr(sys, "meta_path", [Absent(), *sys.meta_path])
    for module in [m for m in sys.modules if m.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, module)
    with pytest.raises(ImportError, match=rf"{package} is needed here: pip install 'compatkit\[{extra}\]'"):
        call()
