"""Packages that only parts of the library need."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from types import ModuleType


def require(module: str, extra: str) -> ModuleType:
    """An optional package, or what to install where it is missing.

    Args:
        module: dotted name, such as "scipy.optimize".
        extra: the optional dependencies of compatkit that hold it.

    Raises:
        ImportError: the package is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        package = module.partition(".")[0]
        if error.name is None or error.name.partition(".")[0] != package:
            raise
        raise _missing(package, extra) from error


def package_file(package: str, path: str, extra: str) -> Path:
    """A file that an optional package ships, found without importing the package, which can take a second.

    Args:
        package: its name.
        path: of the file, from the package's folder.
        extra: as in ``require``.

    Raises:
        ImportError: the package is not installed.
        FileNotFoundError: it has no such file.
    """
    try:
        spec = importlib.util.find_spec(package)
    except ModuleNotFoundError as error:
        raise _missing(package, extra) from error
    if spec is None or not spec.submodule_search_locations:
        raise _missing(package, extra)
    file = Path(spec.submodule_search_locations[0]) / path
    if not file.exists():
        raise FileNotFoundError(f"{package}: this version has no {path}")
    return file


def _missing(package: str, extra: str) -> ImportError:
    return ImportError(f"{package} is needed here: pip install 'compatkit[{extra}]'", name=package)
