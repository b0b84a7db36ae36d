"""Packages that only parts of the library need."""

import importlib
from types import ModuleType


def require(module: str, extra: str) -> ModuleType:
    """A module of an optional package, such as "scipy.optimize".

    Raises:
        ImportError: the package is not installed; the message names the ``extra`` of compatkit that holds it.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        package = module.partition(".")[0]
        if error.name is None or error.name.partition(".")[0] != package:
            raise
        raise ImportError(f"{package} is needed here: pip install 'compatkit[{extra}]'", name=package) from error
