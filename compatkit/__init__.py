"""compatkit: train networks whose parts fit each other, recombine them, and measure how well they fit.

What one types first can be imported from here. It is loaded when it is asked for, and torch with it, not before. The
modules stand in the order in which data flows: ``images`` and ``models``, then ``batches``, ``normalization`` and
``objectives``, then ``training``, then side by side ``recombination``, ``similarity`` and ``retrieval``, then
``alignment``, and at the end ``fct`` and ``applications``.
"""

import ast
from importlib import import_module
from pathlib import Path

# One list of the names, in the form that type checkers read: the stub beside this file.
_STUB = ast.parse(Path(__file__).with_suffix(".pyi").read_text(encoding="utf-8"))
_HOME = {alias.name: node.module for node in _STUB.body if isinstance(node, ast.ImportFrom) for alias in node.names}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value = getattr(import_module(f".{_HOME[name]}", __name__), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
