"""The pages, built once, and one browser for all tests that open them."""

from __future__ import annotations

import functools
import http.server
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium import webdriver

from compatkit.files import lock_file
from reproduction import book, picture

from ..conftest import data_folder


@pytest.fixture(scope="session")
def html(tmp_path_factory) -> Path:
    """The pages, built strictly and from scratch, once for all processes that test: a second build into one folder
    repeats no warnings."""
    own = tmp_path_factory.getbasetemp()
    folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "book"
    with lock_file(folder / "lock"):
        if not (folder / "built").exists():
            book.build(book.copy(folder / "source"), folder)
            (folder / "built").touch()
    return folder / "_build" / "html"


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="session")
def address(html) -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Quiet, directory=html))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(scope="session")
def chromium() -> Iterator[webdriver.Chrome]:
    with picture.chromium(**{"goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"}}) as driver:
        yield driver


@pytest.fixture(scope="session")
def bare(tmp_path_factory) -> dict[str, Path]:
    """A page for each program, with nothing else in it."""
    return picture.bare_pages(tmp_path_factory.mktemp("programs") / "bare")


@pytest.fixture(scope="module")
def small_sets(tmp_path_factory):
    """The image sets of ``world``, by name; and what is timed is timed for a step."""
    from reproduction.runs import transfer

    from .world import small_sets

    with data_folder(tmp_path_factory.mktemp("data"), small_sets()), pytest.MonkeyPatch.context() as patch:
        patch.setattr(transfer, "TIMED_STEPS", 1)
        yield
