"""Chapters run from nothing, and an executed notebook depends on what it computed alone."""

from __future__ import annotations

import copy
import inspect
import json
import re
import shutil
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from papermill import PapermillExecutionError

from reproduction import book
from reproduction.__main__ import main

STORE = "run: python -m reproduction book --store"
CHAPTERS = [pytest.param(path, id=path.stem) for path in book.chapters()]

EXPLORER = """
import sys
from reproduction.show.explorer import Cell, View, explorer
print("out")
print("err", file=sys.stderr)
print("preset", preset, end="")
explorer(View("bars", [Cell({"data": d, "method": m}, [len(d + m) / 10]) for d in ("x", "yy") for m in ("RP", "DCC")],
              axis="method"))
"""


@pytest.fixture
def notebook(tmp_path: Path) -> Path:
    """A chapter in small: parameters, streams, an explorer."""
    cells = [
        new_markdown_cell("# Title", id="title"),
        new_code_cell('preset = "laptop"', id="parameters", metadata={"tags": ["parameters"]}),
        new_code_cell(EXPLORER, id="explorer"),
    ]
    return written(tmp_path / "source" / "small.ipynb", *cells)


def written(path: Path, *cells) -> Path:
    path.parent.mkdir(exist_ok=True)
    nbformat.write(new_notebook(cells=cells), path)
    return path


def executed_copy(path: Path, folder: Path, **options) -> Path:
    folder.mkdir(exist_ok=True)
    [executed] = book.execute([shutil.copy(path, folder)], **options)
    return executed


def outputs(path: Path) -> list:
    return [output for cell in nbformat.read(path, 4).cells for output in cell.get("outputs", ())]


def streamed(path: Path) -> str:
    return "".join(output.text for output in outputs(path) if output.get("name") == "stdout")


def test_two_executions_are_the_same_bytes_wherever_they_are_made(notebook, tmp_path):
    before, first = notebook.read_bytes(), executed_copy(notebook, tmp_path / "copy").read_bytes()
    assert notebook.read_bytes() == before != first
    for _ in range(2):
        book.execute([notebook])
        assert notebook.read_bytes() == first and [path.name for path in notebook.parent.iterdir()] == [notebook.name]
    assert "preset laptop" in streamed(notebook)


def test_chapters_have_the_preset_and_the_store_they_are_given_and_one_thread(notebook, tmp_path, monkeypatch):
    monkeypatch.setenv("COMPATKIT_RESULTS", "elsewhere")
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    code = "import os, torch; print(preset, os.environ['COMPATKIT_RESULTS'], torch.get_num_threads())"
    parameters = new_code_cell('preset = "laptop"', id="parameters", metadata={"tags": ["parameters"]})
    written(notebook, parameters, new_code_cell(code, id="told"))
    book.execute([notebook], preset="smoke", results_root=tmp_path / "records")
    assert streamed(notebook).split() == ["smoke", str(tmp_path / "records"), "1"]
    assert len(nbformat.read(notebook, 4).cells) == 2, "no cell is left of what was given"


def test_a_chapter_that_fails_or_lacks_its_package_is_left_as_it_was(notebook, capsys):
    before = written(notebook, new_code_cell("1 / 0", id="fails")).read_bytes()
    with pytest.raises(PapermillExecutionError, match="ZeroDivisionError"):
        book.execute([notebook])
    assert notebook.read_bytes() == before
    code = "from reproduction.word_vectors import NotInstalled\nraise NotInstalled('so-and-so is needed here')"
    before = written(notebook, new_code_cell(code, id="lacks")).read_bytes()
    assert book.execute([notebook]) == [] and notebook.read_bytes() == before
    assert capsys.readouterr().out == "small.ipynb is left as it was: so-and-so is needed here\n"


def test_a_kernel_that_is_done_is_asked_to_end_and_not_interrupted(notebook):
    code = """
        import atexit, pathlib, signal
        ends, kernel = ["asked"], get_ipython().kernel
        kernel.pre_handler_hook = kernel.post_handler_hook = lambda: None  # they set another handler
        signal.signal(signal.SIGINT, lambda *_: ends.append("interrupted"))
        atexit.register(lambda: pathlib.Path("ended").write_text(" ".join(ends)))
    """
    book.execute([written(notebook, new_code_cell(inspect.cleandoc(code), id="ends"))])
    assert notebook.with_name("ended").read_text() == "asked"


def test_a_stored_chapter_has_no_trace_of_its_run_and_an_explorer_is_its_page_not_a_widget(notebook):
    raw = book._run(notebook, "smoke", None, progress=False)
    assert "application/vnd.jupyter.widget-view+json" in json.dumps(raw), "live it is a widget"
    before = copy.deepcopy(raw)
    once = book.normalise(raw)
    assert raw == before and book.normalise(once) == once
    nbformat.validate(nbformat.from_dict(once))
    assert not {"papermill", "execution", "widget"} & set(re.split(r"\W", json.dumps(once)))
    assert [cell["execution_count"] for cell in once["cells"] if "execution_count" in cell] == [1, 2]
    [shown] = [output["data"] for cell in once["cells"] for output in cell.get("outputs", ()) if "data" in output]
    assert set(shown) == {"text/html", "text/plain"}
    assert "compatkit-explorer" in shown["text/html"] and shown["text/plain"].startswith("Pick data: x, yy")


def test_what_the_page_folds_jupyterlab_folds_as_well():
    def folded(*tags):
        cell = new_code_cell("1", id="a", metadata={"tags": list(tags), "jupyter": {"source_hidden": False}})
        return book.normalise(new_notebook(cells=[cell]))["cells"][0]["metadata"].get("jupyter", {})

    assert folded("remove-input") == folded("hide-input", "nbval-check-output") == {"source_hidden": True}
    assert folded("hide-cell") == {"outputs_hidden": True, "source_hidden": True}
    assert folded("hide-output") == {"outputs_hidden": True} and folded("parameters") == {}


def test_a_page_loses_its_indents_but_not_those_that_a_reader_or_a_script_sees():
    code = "<pre>\nif a:\n    <span>b</span>\n\n</pre>"
    data = '<script type="application/json">\n  {"a":\n   1}</script>'
    page = f"<ul>\n    <li>\n\n      one  two</li>\n  {code}\n\t<presence>\n  {data}</ul>"
    assert book._without_indents(page) == f"<ul>\n<li>\none  two</li>\n{code}\n<presence>\n{data}</ul>"
    drawing = "<style>.a {}</style><p>1</p>"
    assert (
        book._without_repeated_styles(drawing + "<style>.b {}</style>" + drawing)
        == f"{drawing}<style>.b {{}}</style><p>1</p>"
    )


def test_streams_are_joined_where_nothing_came_between():
    def stream(name: str, text: str) -> dict:
        return {"output_type": "stream", "name": name, "text": text}

    chunks = [stream("stdout", "a"), stream("stdout", "b"), stream("stderr", "c"), stream("stdout", "d")]
    assert book._joined_streams(chunks) == [stream("stdout", "ab"), stream("stderr", "c"), stream("stdout", "d")]


def test_chapters_are_those_of_the_toc_in_reading_order(tmp_path):
    (tmp_path / "_toc.yml").write_text(
        "format: jb-book\nroot: index\nparts:\n- caption: A\n  chapters:\n"
        "  - file: b\n    sections:\n    - file: c\n  - file: text\n- chapters:\n  - file: a\n"
    )
    for name in ("index", "a", "b", "c", "unlisted"):
        (tmp_path / f"{name}.ipynb").touch()
    (tmp_path / "text.md").touch()
    assert [path.stem for path in book.chapters(tmp_path)] == ["index", "b", "c", "a"]


# --- making the book --------------------------------------------------------------------------------------------------


@pytest.fixture
def checkout(tmp_path, monkeypatch) -> Path:
    """A book of two chapters; pages are built in name only."""
    root = tmp_path / "checkout"
    (root / "book" / "part").mkdir(parents=True)
    (root / "_config.yml").touch()
    (root / "_toc.yml").write_text("root: book/index\nchapters: [{file: book/part/one}]\n")
    for name in ("index", "part/one"):
        cells = [new_code_cell('preset = "laptop"', id="a", metadata={"tags": ["parameters"]}), new_code_cell("preset")]
        nbformat.write(new_notebook(cells=cells), root / "book" / f"{name}.ipynb")
    monkeypatch.setattr(book, "ROOT", root)
    monkeypatch.setattr(book, "build", lambda source, output: output / "_build" / "html")
    return root


def contents(root: Path) -> dict[Path, bytes]:
    paths = (path.relative_to(root) for path in root.rglob("*") if path.is_file())
    return {path: (root / path).read_bytes() for path in paths if path.parts[0] != "_build"}


def test_making_the_book_leaves_the_checkout_as_it_is(checkout, capsys):
    before = contents(checkout)
    (checkout / "_build" / "source" / "book").mkdir(parents=True)
    (checkout / "_build" / "source" / "book" / "gone.md").touch()
    assert main(["book"]) == 0
    assert contents(checkout) == before
    source = checkout / "_build" / "source"
    assert contents(source).keys() == before.keys(), "the copy is made anew"
    assert all(outputs(path) for path in book.chapters(source))
    assert capsys.readouterr().out.endswith(f"open {checkout / '_build' / 'html' / 'index.html'}\n")


@pytest.mark.parametrize("name", ["book/index", "book/part/one"])
def test_what_was_executed_is_stored_on_request_and_pictures_taken_with_the_landing_page(name, checkout):
    before = contents(checkout)
    assert main(["book", name, "--preset", "smoke", "--store"]) == 0
    changed = {path.as_posix() for path, content in contents(checkout).items() if before.get(path) != content}
    pictures = {"hero.png", *(f"{still}.webp" for still in ("carry", "draw", "search", "seam", "train"))}
    taken = {f"book/_static/{picture}" for picture in pictures if name == "book/index"}
    assert changed == {f"{name}.ipynb"} | taken
    assert outputs(checkout / f"{name}.ipynb")[0]["data"]["text/plain"] == "'smoke'"


def test_a_chapter_that_is_not_there_is_refused_before_the_work(checkout, capsys):
    assert main(["book", "one"]) == 2
    assert "chapter: must be one of book/index, book/part/one, got one" in capsys.readouterr().err
    assert not (checkout / "_build").exists()


# --- the chapters themselves ------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory) -> Path:
    """The papers' numbers and no records: every training cell must train. Shared, as in a reader's first sitting."""
    store = tmp_path_factory.mktemp("results")
    shutil.copy(book.ROOT / "results" / "paper.csv", store)
    return store


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_chapter_runs_from_nothing(chapter, empty_store, tmp_path):
    executed = executed_copy(chapter, tmp_path, preset="smoke", results_root=empty_store)
    assert not [output for output in outputs(executed) if output.output_type == "error"]


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_chapter_is_stored_as_execute_writes_it(chapter):
    stored = chapter.read_text(encoding="utf-8")
    assert book.as_text(book.normalise(nbformat.reads(stored, 4))) == stored, STORE
    assert "@@" not in stored, "a placeholder"
    cells = [cell for cell in nbformat.reads(stored, 4).cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in cells if cell.source.strip()), STORE
    assert not [output for output in outputs(chapter) if output.output_type == "error"]


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_chapter_has_parameters_and_a_checked_output(chapter):
    tags = [cell.metadata.get("tags", []) for cell in nbformat.read(chapter, 4).cells]
    assert sum("parameters" in of_cell for of_cell in tags) == 1
    assert any("nbval-check-output" in of_cell for of_cell in tags)


def test_every_module_is_in_the_reference_and_in_the_lists_of_modules(tmp_path):
    folder, pages = book.copy(tmp_path) / "book", book.reference()
    assert {path.stem for path in (folder / "reference").glob("*.md")} == set(pages)
    modules = [module for several in pages.values() for module in several]
    assert {"compatkit.training", "gallerykit", "reproduction.book", "reproduction.pages.claims"} < set(modules)
    index = "".join((folder / name).read_text(encoding="utf-8") for name in ("reference.md", "inside.md"))
    assert [m for m in modules if f"reference/{m}.md)" not in index and f"<{m}>`" not in index] == []
    assert set(re.findall(r"\(reference/([\w.]+)\.md\)", index)) <= {*modules, *pages}, "of modules that are there"
    written = (folder / "reference" / "reproduction.records.md").read_text()
    assert all(f"automodule:: {module}\n" in written for module in pages["reproduction.records"])
