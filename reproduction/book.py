"""The book: execute its chapters, make the result reproducible, build the pages.

:func:`make` works on a copy of the sources, so that a checkout stays as it is on every kind of processor.
:func:`execute` runs chapters with papermill and writes them back in the one form that :func:`normalise` gives: two runs
that compute the same are the same bytes. :func:`build` makes the pages from what the notebooks hold, strictly.
:func:`setup` makes this module a Sphinx extension, which brings the scripts of the pages.
"""

from __future__ import annotations

import csv
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping
from html import escape
from pathlib import Path
from typing import Any

from compatkit.files import write_atomically

from . import picture
from .pages.templates import fill
from .show import explorer, programs
from .show.explorer import EXPLORER_CLASS
from .word_vectors import NotInstalled

__all__ = ["build", "chapters", "copy", "execute", "make", "normalise", "reference"]

ROOT = Path(__file__).resolve().parents[1]
"""The checkout that holds ``_toc.yml``; the book is not part of an installed package."""

PACKAGES, WHOLE = ("compatkit", "gallerykit", "reproduction"), ("gallerykit", "reproduction/experiments")
"""What the reference is about: all modules of these packages, and packages that say more than what they are."""

_WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
_INJECTED = "injected-parameters"

# What follows from the run or from the machine, not from the chapter.
_VOLATILE_NOTEBOOK = {"papermill", "widgets", "kernelspec", "language_info"}
_FOLDED = {
    "remove-input": ("source_hidden",),
    "hide-input": ("source_hidden",),
    "hide-output": ("outputs_hidden",),
    "hide-cell": ("outputs_hidden", "source_hidden"),
}
"""What JupyterLab folds of a cell, by the tag that folds it in the page."""
_VOLATILE_CELL = {"papermill", "execution", "jupyter", "tags"}


def make(names: Collection[str] = (), *, preset: str | None = None, store: bool = False) -> Path:
    """Execute chapters in a copy of the sources, and build the pages from it.

    Args:
        names: Chapters as ``_toc.yml`` names them; the others stay as they are stored. By default all are executed.
        preset: See :func:`execute`.
        store: Write the executed chapters into the sources as well; with the landing page, the pictures of the README
            and of programs.

    Returns:
        The folder that holds ``index.html``.

    Raises:
        ValueError: A name is not that of a chapter.
        papermill.PapermillExecutionError: A cell failed.
        subprocess.CalledProcessError: The build failed.
    """
    found = {path.relative_to(ROOT).with_suffix("").as_posix(): path for path in chapters(ROOT)}
    if unknown := [name for name in names if name not in found]:
        raise ValueError(f"chapter: must be one of {', '.join(found)}, got {', '.join(unknown)}")
    source = copy(ROOT / "_build" / "source")
    copies = [source / path.relative_to(ROOT) for name, path in found.items() if not names or name in names]
    executed = execute(copies, preset=preset, progress=True)
    html = build(source, ROOT)
    if store:
        for path in executed:
            write_atomically(ROOT / path.relative_to(source), path.read_text(encoding="utf-8"))
        if source / "book" / "index.ipynb" in executed:
            picture.take(ROOT / "book" / "_static")
    return html


def copy(target: Path) -> Path:
    """Copy what the book is made of into a folder, in place of what is there, and write the pages of the reference that
    nobody wrote. Returns the folder."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(ROOT / "book", target / "book")
    for name, about in reference().items():
        page = target / "book" / "reference" / f"{name}.md"
        if not page.exists():
            title = name.removeprefix("compatkit.").removeprefix("reproduction.")
            page.write_text(fill("module.md", modules=about, title=title) + "\n", encoding="utf-8")
    for name in ("_config.yml", "_toc.yml"):
        shutil.copy2(ROOT / name, target)
    return target


def reference() -> dict[str, list[str]]:
    """The pages of the reference, and the modules that each is about: a page for each module of the library and the
    tool, and one for each package of the reproduction."""
    paths = [p.relative_to(ROOT) for name in PACKAGES for p in (ROOT / name).rglob("*.py") if p.stem != "__main__"]
    paths = [p for p in paths if p.stem != "__init__" or p.parent.as_posix() in WHOLE]
    pages: dict[str, list[str]] = {}
    for parts in sorted((p.parent if p.stem == "__init__" else p.with_suffix("")).parts for p in paths):
        package = parts if (ROOT / Path(*parts)).is_dir() else parts[:-1]
        pages.setdefault(".".join(package if parts[0] == "reproduction" else parts), []).append(".".join(parts))
    return pages


def chapters(root: Path = ROOT) -> list[Path]:
    """The notebooks that ``_toc.yml`` names, in reading order."""
    import yaml

    toc = yaml.safe_load((root / "_toc.yml").read_text(encoding="utf-8"))
    paths = (root / f"{name.removesuffix('.ipynb')}.ipynb" for name in _toc_files(toc))
    return [path for path in paths if path.is_file()]


def _toc_files(entry: Any) -> Iterator[str]:
    if isinstance(entry, list):
        for item in entry:
            yield from _toc_files(item)
    elif isinstance(entry, dict):
        yield from (entry[key] for key in ("root", "file") if key in entry)
        for value in entry.values():
            if isinstance(value, (list, dict)):
                yield from _toc_files(value)


def execute(
    notebooks: Iterable[str | Path],
    *,
    preset: str | None = None,
    results_root: str | Path | None = None,
    progress: bool = False,
) -> list[Path]:
    """Execute notebooks in their folders and write them back, normalised; one that fails is left as it was, and so is
    one whose data come in a package that is not installed, which is said.

    Args:
        notebooks: Their paths.
        preset: Takes the place of the ``preset`` in the cell tagged ``parameters``; by default each chapter's own.
        results_root: The record store that the chapters see; by default the one of this process.
        progress: Name each chapter and show papermill's bar.

    Returns:
        The paths written, in order.

    Raises:
        papermill.PapermillExecutionError: A cell failed.
    """
    import papermill

    written = []
    for path in (Path(path).resolve() for path in notebooks):
        if progress:
            print(f"executing {path.name}", flush=True)
        try:
            executed = _run(path, preset, results_root, progress)
        except papermill.PapermillExecutionError as error:
            if error.ename != NotInstalled.__name__:
                raise
            print(f"{path.name} is left as it was: {error.evalue}", flush=True)
            continue
        write_atomically(path, as_text(normalise(executed)))
        written.append(path)
    return written


def _run(path: Path, preset: str | None, results_root: str | Path | None, progress: bool) -> Any:
    import papermill

    # The library of this checkout, also where it is not installed: the kernel starts in the chapter's folder.
    path_list = os.pathsep.join([str(ROOT), *filter(None, [os.getenv("PYTHONPATH")])])
    # one thread, so that what live cells train is the same to the bit however many cores there are
    environment = {**os.environ, "PYTHONPATH": path_list, "OMP_NUM_THREADS": "1"}
    if results_root is not None:
        environment["COMPATKIT_RESULTS"] = str(Path(results_root).resolve())
    return papermill.execute_notebook(
        path,
        None,
        parameters={} if preset is None else {"preset": preset},
        kernel_name="python3",
        language="python",
        progress_bar=progress,
        cwd=path.parent,
        kernel_manager_class=_own_kernel(environment),
    )


def _own_kernel(environment: Mapping[str, str]) -> type:
    """A kernel manager for the running interpreter, whatever kernel somebody registered as ``python3``."""
    from ipykernel.kernelspec import get_kernel_dict
    from jupyter_client.kernelspec import KernelSpec
    from jupyter_client.manager import AsyncKernelManager

    class OwnKernel(AsyncKernelManager):
        @property
        def kernel_spec(self) -> KernelSpec:
            return KernelSpec(resource_dir="", **get_kernel_dict(extra_arguments=["--log-level=ERROR"]))

        async def start_kernel(self, **options: Any) -> None:
            await super().start_kernel(**{**options, "env": dict(environment)})

        async def shutdown_kernel(self, now: bool = False, restart: bool = False) -> None:
            # Asked to end, not interrupted before it, as the original does: a kernel that has answered the last request
            # and is not yet idle calls that an error.
            await self.request_shutdown(restart=restart)
            await self.finish_shutdown(restart=restart)
            await self.cleanup_resources(restart=restart)

    return OwnKernel


def normalise(notebook: Mapping[str, Any]) -> dict[str, Any]:
    """The notebook without what differs from run to run: times, the cell that papermill injects, versions, empty tags,
    blank outputs, chunks of streams, and widgets, since a page has no kernel; execution counts are numbered anew. Cells
    whose code the page folds are folded in JupyterLab as well. Normalising twice changes nothing."""
    notebook = json.loads(json.dumps(notebook))
    cells = [_normal_cell(cell) for cell in notebook["cells"] if _INJECTED not in cell["metadata"].get("tags", [])]
    executed = [cell for cell in cells if cell.get("execution_count") is not None]
    for count, cell in enumerate(executed, start=1):
        cell["execution_count"] = count
        for output in cell["outputs"]:
            if "execution_count" in output:
                output["execution_count"] = count
    metadata = {key: value for key, value in notebook["metadata"].items() if key not in _VOLATILE_NOTEBOOK}
    metadata["kernelspec"] = {"display_name": "Python 3", "language": "python", "name": "python3"}
    metadata["language_info"] = {"name": "python"}
    return {**notebook, "cells": cells, "metadata": metadata}


def _normal_cell(cell: Mapping[str, Any]) -> dict[str, Any]:
    metadata = {key: value for key, value in cell["metadata"].items() if key not in _VOLATILE_CELL}
    if tags := cell["metadata"].get("tags"):
        metadata["tags"] = tags
        if folded := {part for tag in tags for part in _FOLDED.get(tag, ())}:
            metadata["jupyter"] = dict.fromkeys(sorted(folded), True)
    normal = {**cell, "metadata": metadata}
    if "outputs" in cell:
        outputs = (_without_widget(output) for output in cell["outputs"] if not _is_blank(output))
        normal["outputs"] = _joined_streams(outputs)
    return normal


def _without_widget(output: Mapping[str, Any]) -> dict[str, Any]:
    if _WIDGET_VIEW not in output.get("data", {}):
        return dict(output)
    return {**output, "data": {form: data for form, data in output["data"].items() if form != _WIDGET_VIEW}}


def _is_blank(output: Mapping[str, Any]) -> bool:
    """Tell whether an output is what a progress bar leaves when it is done."""
    data = output.get("data", {})
    return data.keys() == {"text/plain"} and not _text(data["text/plain"])


def _joined_streams(outputs: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Join each uninterrupted stream to one output: where a kernel cuts it into messages depends on the clock."""
    joined: list[dict[str, Any]] = []
    for output in outputs:
        if output["output_type"] == "stream" and joined and joined[-1].get("name") == output["name"]:
            joined[-1] = {**output, "text": _text(joined[-1]["text"]) + _text(output["text"])}
        else:
            joined.append(output)
    return joined


def _text(text: str | list[str]) -> str:
    return text if isinstance(text, str) else "".join(text)


def as_text(notebook: Mapping[str, Any]) -> str:
    """The notebook as it stands in the file: sorted keys, text in lines, so that a change is a small difference."""
    import nbformat

    return nbformat.writes(nbformat.from_dict(notebook)) + "\n"


def build(source: str | Path, output_dir: str | Path) -> Path:
    """Build the pages with Jupyter Book from what the notebooks hold; nothing is executed, and a warning is an error.

    Args:
        source: The folder of ``_config.yml`` and ``_toc.yml``.
        output_dir: Where ``_build/html`` goes.

    Returns:
        The folder that holds ``index.html``.

    Raises:
        subprocess.CalledProcessError: The build failed; all warnings are shown first.
    """
    source, output = Path(source).resolve(), Path(output_dir).resolve()
    # In a process of its own: Sphinx leaves its mark on one. Not the script, which need not be on the PATH.
    jupyter_book = [sys.executable, "-c", "from jupyter_book.cli.main import main; main()"]
    options = ["--path-output", str(output), "-W", "-n", "--keep-going"]
    subprocess.run([*jupyter_book, "build", str(source), *options], check=True, cwd=ROOT)
    return output / "_build" / "html"


# The pages load three scripts: ours, and two that come from node_modules where ``npm ci`` was run. Without it plotly.js
# is the larger one of the installed wheel, and formulas are set from a public CDN. MathJax sets them in its fonts,
# which lie where it looks for them; with glyphs as paths it is twice as heavy.
_PACKAGES = ROOT / "node_modules"
_PLOTLY = "plotly.js-cartesian-dist-min/plotly-cartesian.min.js"
_MATHJAX = "mathjax/es5/tex-chtml.js"
_MATHJAX_FONTS = "output/chtml/fonts/woff-v2"
_CDN = "https://cdn.jsdelivr.net/npm/"
_SITE = Path(__file__).with_name("site")
"""What takes the place of templates of the theme, and how the search ranks."""
_SCRIPT, _STYLE = "compatkit-explorer.js", "explorer.css"

# What the theme brings into _static and no page asks for. Its icons come twice, as a font and as a script of 1.5 MB
# that puts drawings in the place of the font's signs; browsers take the font as woff2.
_UNUSED = ("**/*.map", "scripts/fontawesome.js", "vendor/**/*.ttf", "vendor/**/fa-brands-*", "locales", "hero.png")


def setup(app: Any) -> dict[str, Any]:
    """Sphinx extension: put the scripts of figures, explorers and formulas where the pages find them."""
    app.connect("config-inited", _bring_scripts, priority=100)
    app.connect("builder-inited", _write_explorer)
    app.connect("doctree-resolved", _explain_terms)
    app.connect("html-page-context", _scripts_of_page)
    app.connect("build-finished", _finish_pages)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _bring_scripts(app: Any, config: Any) -> None:
    versions = json.loads((ROOT / "package.json").read_text(encoding="utf-8"))["dependencies"]
    config.templates_path.append(str(_SITE))
    config.html_search_scorer = str(_SITE / "scorer.js")
    config.html_static_path.append(str(_plotly_js(_PACKAGES)))
    config.html_static_path.append(str(Path(explorer.__file__).with_name(_STYLE)))
    scripts = {script for needed in programs.SCRIPTS.values() for script in needed}
    config.html_static_path += [str(_SITE / name) for name in sorted(scripts | {programs.STYLE})]
    mathjax = _PACKAGES / _MATHJAX
    if mathjax.is_file():
        config.html_static_path.append(str(mathjax))
    config.mathjax_path = mathjax.name if mathjax.is_file() else f"{_CDN}{_versioned(_MATHJAX, versions)}"


def _plotly_js(packages: Path) -> Path:
    """The bundle of the kinds of figures that the book has, or the whole that every installation has."""
    if (packages / _PLOTLY).is_file():
        return packages / _PLOTLY
    # Found, not imported: plotly takes a second, and only the place of a file is wanted.
    package = importlib.util.find_spec("plotly").submodule_search_locations[0]
    return Path(package) / "package_data" / "plotly.min.js"


def _versioned(script: str, versions: Mapping[str, str]) -> str:
    package, _, path = script.partition("/")
    return f"{package}@{versions[package]}/{path}"


def _static(app: Any) -> Path:
    return Path(app.outdir) / "_static"


def _write_explorer(app: Any) -> None:
    """The explorer as a classic script: browsers load no modules from a disk."""
    body = explorer.SCRIPT.replace("export default {", "const explorer = {")
    folder = _static(app)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _SCRIPT).write_text(f"(() => {{\n{body}\nexplorer.drawPage();\n}})();\n", encoding="utf-8")


_PLAIN_TEXT = ("title", "literal", "literal_block", "reference", "math", "math_block", "raw", "citation")
"""Where a term stays a word: what these hold is code, a formula, a heading or a link already."""


def _explain_terms(app: Any, doctree: Any, docname: str) -> None:
    """The first mention of a term in a section is a card, by pointer and by keyboard."""
    from docutils import nodes

    with open(_SITE / "terms.csv", newline="", encoding="utf-8") as file:
        terms = {row["term"]: escape(row["means"]) for row in csv.DictReader(file)}
    pattern = re.compile(rf"(?<![\w+/-])({'|'.join(terms)})(?![\w+/-])")
    seen: set[tuple[int, str]] = set()
    for text in list(doctree.findall(nodes.Text)):
        above, around = [], text.parent
        while around is not None and around.tagname != "section":
            above.append(around.tagname)
            around = around.parent
        if not set(above).isdisjoint(_PLAIN_TEXT):
            continue
        parts: list[nodes.Node] = []
        for place, part in enumerate(pattern.split(text)):
            if place % 2 and (id(around), part) not in seen:
                seen.add((id(around), part))
                card = f'<abbr class="term" tabindex="0" aria-description="{terms[part]}">{part}</abbr>'
                parts.append(nodes.raw("", card, format="html"))
            else:
                parts.append(nodes.Text(part))
        if len(parts) > 1:
            text.parent.replace(text, parts)


def _scripts_of_page(app: Any, pagename: str, templatename: str, context: dict[str, Any], doctree: Any) -> None:
    scripts = context["script_files"]
    # Sphinx lists the inline scripts of some extensions twice, and the second is an error in the browser. In place:
    # Sphinx keeps this very list, and the calls below add to it.
    scripts[:] = {script.attributes.get("body") or script.filename: script for script in scripts}.values()
    if number := app.env.toc_secnumbers.get(pagename, {}).get(""):  # captions count figures by chapter
        context["metatags"] += f'<style>:root {{ --chapter: "{number[0]}." }}</style>'
    body = context.get("body", "")
    if EXPLORER_CLASS in body:
        # More than a megabyte: only on pages with a figure, and after the text is there.
        app.add_js_file(_plotly_js(_PACKAGES).name, loading_method="defer", priority=100)
        app.add_js_file(_SCRIPT, loading_method="defer", priority=101)
        app.add_css_file(_STYLE)
    there = [scripts for name, scripts in programs.SCRIPTS.items() if f'compatkit-program compatkit-{name}"' in body]
    needed = [script for scripts in there for script in scripts]
    if needed:
        app.add_css_file(programs.STYLE)
    needed += ["filters.js"] * ("compatkit-verdict" in body)
    for place, script in enumerate(dict.fromkeys(needed)):
        app.add_js_file(script, loading_method="defer", priority=200 + place)


# What is written outside of templates, as pattern: replacement. The script of icons, see _UNUSED; what a screen reader
# is told: names that leave out what is to be seen, or are not there, and a list without items; in the menu of the page
# of a module the hundred others; an interval stays on one line; and a link that picks two things is escaped once.
_MENDED = {
    r"<!-- So that users can add custom icons -->\s*<script [^>]*></script>": "",
    r'<summary aria-label="Toggle hidden content">': "<summary>",
    r'<summary>(?=<span class="toctree-toggle")': '<summary aria-label="The pages below">',
    r' role="doc-biblioentry"': ' role="listitem"',
    r'<li class="toctree-l2"><a [^>]*>[^<]*(<code [^>]*>.*?</code>)?[^<]*</a>\s*</li>\s*': "",
    r'<th class="head([^"]*)"><p></p></th>': r'<td class="head\1"></td>',
    r"(?<=\d) ± (?=[\d.]+</)": "&nbsp;±&nbsp;",
    r"(?<=&amp;)amp;": "",
}


def _finish_pages(app: Any, exception: Exception | None) -> None:
    """Leave out what no page asks for, and mend and shorten what the theme's templates write."""
    if exception:
        return
    static = _static(app)
    for path in {path for pattern in _UNUSED for path in static.glob(pattern)}:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    fonts = _PACKAGES / _MATHJAX
    if fonts.is_file():
        shutil.copytree(fonts.parent / _MATHJAX_FONTS, static / _MATHJAX_FONTS, dirs_exist_ok=True)
    for source in Path(app.outdir, "_sources").rglob("*.ipynb"):
        source.write_text(_without_outputs(source.read_text(encoding="utf-8")), encoding="utf-8")
    for page in Path(app.outdir).rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        for pattern, replacement in _MENDED.items():
            text = re.sub(pattern, replacement, text)
        page.write_text(_without_indents(_without_repeated_styles(text)), encoding="utf-8")


def _without_outputs(notebook: str) -> str:
    """A chapter to take along: who runs it makes its outputs anew, and who reads has them in the page."""
    content = json.loads(notebook)
    for cell in content["cells"]:
        if "outputs" in cell:
            cell |= {"outputs": [], "execution_count": None}
    return as_text(content)


def _without_repeated_styles(text: str) -> str:
    """A page in which the style that comes with each drawing, for live notebooks, stands once."""
    for style in set(re.findall(r"<style>.*?</style>", text, flags=re.DOTALL)):
        first, *rest = text.split(style)
        text = first + style + "".join(rest)
    return text


def _without_indents(text: str) -> str:
    """A page without the blanks that begin its lines, which the theme writes by the hundred thousand; those that a
    reader sees, and scripts, stay."""
    verbatim_or_indent = r"<(pre|script|textarea)\b.*?</\1>|\n\s+"
    return re.sub(verbatim_or_indent, lambda found: found[0] if found[0][0] == "<" else "\n", text, flags=re.DOTALL)
