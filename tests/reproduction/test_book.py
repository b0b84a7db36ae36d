"""Chapters run from nothing, and an executed notebook depends on what it computed alone."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from papermill import PapermillExecutionError

from reproduction import book

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
    path = tmp_path / "source" / "small.ipynb"
    path.parent.mkdir()
    nbformat.write(new_notebook(cells=cells), path)
    return path


def outputs(path: Path) -> list:
    return [output for cell in nbformat.read(path, 4).cells for output in cell.get("outputs", ())]


def streamed(path: Path) -> str:
    return "".join(output.text for output in outputs(path) if output.get("name") == "stdout")


def test_two_executions_are_the_same_bytes(notebook, tmp_path):
    (first,) = book.execute([notebook], output_dir=tmp_path / "1")
    (second,) = book.execute([notebook], output_dir=tmp_path / "2")
    assert first.read_bytes() == second.read_bytes()
    assert (tmp_path / "1" / "small.ipynb") == first


def test_executing_in_place_twice_changes_nothing_more(notebook):
    book.execute([notebook])
    once = notebook.read_bytes()
    book.execute([notebook])
    assert notebook.read_bytes() == once
    assert [path.name for path in notebook.parent.iterdir()] == [notebook.name]


def test_preset_replaces_the_parameter_and_leaves_no_cell(notebook, tmp_path):
    (smoke,) = book.execute([notebook], preset="smoke", output_dir=tmp_path / "smoke")
    (own,) = book.execute([notebook], output_dir=tmp_path / "own")
    assert "preset smoke" in streamed(smoke)
    assert "preset laptop" in streamed(own)
    assert len(nbformat.read(smoke, 4).cells) == 3


def test_chapters_see_the_record_store_they_are_given(notebook, tmp_path, monkeypatch):
    monkeypatch.setenv("COMPATKIT_RESULTS", "elsewhere")
    cells = [new_code_cell("import os; print(os.environ['COMPATKIT_RESULTS'])", id="store")]
    nbformat.write(new_notebook(cells=cells), notebook)
    book.execute([notebook], results_root=tmp_path / "records")
    assert streamed(notebook).strip() == str(tmp_path / "records")


def test_a_chapter_that_fails_is_left_as_it_was(notebook):
    nbformat.write(new_notebook(cells=[new_code_cell("1 / 0", id="fails")]), notebook)
    before = notebook.read_bytes()
    with pytest.raises(PapermillExecutionError, match="ZeroDivisionError"):
        book.execute([notebook])
    assert notebook.read_bytes() == before


def test_a_chapter_without_its_package_is_left_as_it_was_and_says_so(notebook, capsys):
    code = "from reproduction.word_vectors import NotInstalled\nraise NotInstalled('so-and-so is needed here')"
    nbformat.write(new_notebook(cells=[new_code_cell(code, id="lacks")]), notebook)
    before = notebook.read_bytes()
    assert book.execute([notebook]) == []
    assert notebook.read_bytes() == before
    assert capsys.readouterr().out == "small.ipynb is left as it was: so-and-so is needed here\n"


def test_chapters_are_executed_on_one_thread_whatever_the_machine(notebook, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    nbformat.write(new_notebook(cells=[new_code_cell("import torch; torch.get_num_threads()", id="threads")]), notebook)
    book.execute([notebook])
    (cell,) = nbformat.read(notebook, 4).cells
    assert cell.outputs[0]["data"]["text/plain"] == "1"


def test_normalise_is_idempotent_and_leaves_its_argument_alone(notebook, tmp_path):
    raw = book._run(notebook, "smoke", None, progress=False)
    before = copy.deepcopy(raw)
    once = book.normalise(raw)
    assert raw == before
    assert book.normalise(once) == once
    nbformat.validate(nbformat.from_dict(once))
    assert not {"papermill", "execution"} & set(json.dumps(once).replace('"', " ").split())
    assert [cell["execution_count"] for cell in once["cells"] if "execution_count" in cell] == [1, 2]


def test_what_the_page_folds_jupyterlab_folds_as_well():
    def folded(*tags):
        cell = new_code_cell("1", id="a", metadata={"tags": list(tags), "jupyter": {"source_hidden": False}})
        return book.normalise(new_notebook(cells=[cell]))["cells"][0]["metadata"].get("jupyter", {})

    assert folded("remove-input") == folded("hide-input", "nbval-check-output") == {"source_hidden": True}
    assert folded("hide-cell") == {"outputs_hidden": True, "source_hidden": True}
    assert folded("hide-output") == {"outputs_hidden": True} and folded("parameters") == {}


def test_a_stored_explorer_is_its_page_and_its_sentence_not_a_widget(notebook, tmp_path):
    raw = book._run(notebook, "smoke", None, progress=False)
    assert "application/vnd.jupyter.widget-view+json" in json.dumps(raw), "live it is a widget"
    (executed,) = book.execute([notebook], output_dir=tmp_path)
    [shown] = [output["data"] for output in outputs(executed) if "data" in output]
    assert set(shown) == {"text/html", "text/plain"}
    assert "compatkit-explorer" in shown["text/html"] and shown["text/plain"].startswith("Pick data: x, yy")
    assert "widget" not in executed.read_text(encoding="utf-8")


def test_the_script_of_the_page_is_that_of_the_widget(tmp_path):
    class App:
        outdir = str(tmp_path)

    book._write_explorer(App)
    classic = (tmp_path / "_static" / book._SCRIPT).read_text(encoding="utf-8")
    module = Path(book.explorer.__file__).with_name("explorer.js").read_text(encoding="utf-8")
    assert "export" not in [line.split(" ")[0] for line in classic.splitlines()]
    assert classic.splitlines()[1:-3] == module.replace("export default {", "const explorer = {").splitlines()
    assert classic.splitlines()[-2:] == ["explorer.drawPage();", "})();"]


def test_a_page_loses_its_indents_but_not_those_that_a_reader_or_a_script_sees():
    code = "<pre>\nif a:\n    <span>b</span>\n\n</pre>"
    data = '<script type="application/json">\n  {"a":\n   1}</script>'
    page = f"<ul>\n    <li>\n\n      one  two</li>\n  {code}\n\t<presence>\n  {data}</ul>"
    assert book._without_indents(page) == f"<ul>\n<li>\none  two</li>\n{code}\n<presence>\n{data}</ul>"


def test_plotly_comes_from_node_modules_or_from_the_wheel(tmp_path):
    assert book._plotly_js(tmp_path).name == "plotly.min.js" and book._plotly_js(tmp_path).is_file()
    bundle = tmp_path / book._PLOTLY
    bundle.parent.mkdir(parents=True)
    bundle.touch()
    assert book._plotly_js(tmp_path) == bundle
    versions = json.loads((book.ROOT / "package.json").read_text())["dependencies"]
    assert book._versioned(book._MATHJAX, versions) == f"mathjax@{versions['mathjax']}/es5/tex-chtml.js"


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


# --- the chapters themselves ------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory) -> Path:
    """The papers' numbers and no records: every training cell must train. Shared, as in a reader's first sitting."""
    store = tmp_path_factory.mktemp("results")
    shutil.copy(book.ROOT / "results" / "paper.csv", store)
    return store


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_chapter_runs_from_nothing(chapter, empty_store, tmp_path):
    (executed,) = book.execute([chapter], preset="smoke", results_root=empty_store, output_dir=tmp_path)
    assert not [output for output in outputs(executed) if output.output_type == "error"]


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_chapter_is_stored_as_execute_writes_it(chapter):
    stored = chapter.read_text(encoding="utf-8")
    assert book.as_text(book.normalise(nbformat.reads(stored, 4))) == stored, "run: make book"
    assert "@@" not in stored, "a placeholder"
    cells = [cell for cell in nbformat.reads(stored, 4).cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in cells if cell.source.strip()), "run: make book"
    assert not [output for output in outputs(chapter) if output.output_type == "error"]


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_chapter_has_parameters_and_a_checked_output(chapter):
    tags = [cell.metadata.get("tags", []) for cell in nbformat.read(chapter, 4).cells]
    assert sum("parameters" in of_cell for of_cell in tags) == 1
    assert any("nbval-check-output" in of_cell for of_cell in tags)


def test_every_module_has_a_page_in_the_reference_and_no_page_is_left_over():
    folder = book.ROOT / "book" / "reference"
    sources = [path for package in ("compatkit", "reproduction") for path in (book.ROOT / package).rglob("*.py")]
    modules = {path.relative_to(book.ROOT).with_suffix("") for path in sources if not path.name.startswith("__")}
    pages = {path.stem for path in folder.glob("*.md")}
    packages = {"compatkit.gallery", "reproduction.experiments"}  # these have something to say beside their modules
    assert pages == {".".join(module.parts) for module in modules} | packages
    index = "".join(folder.with_name(name).read_text(encoding="utf-8") for name in ("reference.md", "inside.md"))
    assert [name for name in sorted(pages) if f"reference/{name}.md)" not in index] == []
