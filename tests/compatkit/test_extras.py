"""What is missing is said with what to install."""

import math

import pytest

from compatkit.extras import require


def test_a_package_that_is_there_is_given_and_one_that_is_not_names_the_extra():
    assert require("math", "data") is math
    with pytest.raises(ImportError, match=r"no_such_package is needed here: pip install 'compatkit\[data\]'"):
        require("no_such_package.part", "data")


def test_what_a_package_itself_lacks_is_its_own_error(tmp_path, monkeypatch):
    (tmp_path / "broken_package.py").write_text("import no_such_package")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="No module named 'no_such_package'"):
        require("broken_package", "data")
