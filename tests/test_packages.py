"""What is shipped: the library and the tool, where torch and numpy alone are installed; and the public face."""

import ast
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from zipfile import ZipFile

import pytest

import compatkit

ROOT = Path(__file__).parents[1]
TENSORS = """
import torch
from compatkit import ImageSet, Split

def drawn(name, seed):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (60, 3, 16, 16), dtype=torch.uint8, generator=generator)
    split = Split(images, torch.arange(60) % 10)
    return ImageSet(name, split, split, tuple("abcdefghij"))

a, b = drawn("a", 0), drawn("b", 1)
"""
"""Takes the place of the line of README's first snippet that loads images."""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    options = ("--quiet", "--disable-pip-version-check", "--no-build-isolation", "--no-deps", "--wheel-dir", folder)
    # from a copy: building leaves its traces where it is done
    copied = subprocess.run(["git", "ls-files", "compatkit", "gallerykit", "pyproject.toml", "README.md", "LICENSE"],
                            cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()  # fmt: skip
    for name in copied:
        path = folder / "source" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes((ROOT / name).read_bytes())
    subprocess.run([sys.executable, "-m", "pip", "wheel", *options, folder / "source"], check=True)
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def bare(wheel, tmp_path_factory):
    """Run a script where the wheel is installed beside torch, numpy and what these need, and nothing else."""
    site = tmp_path_factory.mktemp("site")
    ZipFile(wheel).extractall(site)
    wanted, linked = ["torch", "numpy"], set()
    while wanted:
        name = wanted.pop()
        if name in linked:
            continue
        linked.add(name)
        found = metadata.distribution(name)
        for top in {file.parts[0] for file in found.files if not file.parts[0].startswith(("..", "__pycache__"))}:
            if not (site / top).exists():
                (site / top).symlink_to(found.locate_file(top))
        for needed in found.requires or ():
            if "extra ==" not in needed and installed(re.match(r"[\w.-]+", needed)[0]):
                wanted.append(re.match(r"[\w.-]+", needed)[0])

    def run(*arguments):
        start = f"import sys; sys.path.insert(0, {str(site)!r}); "
        return subprocess.run(
            [sys.executable, "-S", "-I", "-W", "error", "-c", start + arguments[0], *arguments[1:]],
            capture_output=True, text=True, timeout=300,
        )  # fmt: skip

    return run


def installed(name):
    try:
        return metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return None


def test_the_wheel_holds_the_library_and_the_tool_alone(wheel):
    tops = {name.partition("/")[0] for name in ZipFile(wheel).namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"compatkit", "gallerykit"}
    assert {"compatkit/__init__.pyi", "compatkit/py.typed", "gallerykit/py.typed"} <= set(ZipFile(wheel).namelist())


def test_the_first_snippet_of_the_readme_runs_on_tensors_with_torch_and_numpy_alone(bare):
    [snippet, *_] = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.S)
    loads = [line for line in snippet.splitlines() if line.startswith(("from reproduction.images", "a, b = load("))]
    script = (
        snippet.replace(loads[0], "")
        .replace(loads[1], TENSORS)
        .replace("steps=100, batch_size=64", "steps=2, batch_size=20")
    )
    done = bare(f"exec({script!r})")
    assert done.returncode == 0, done.stderr
    assert len(loads) == 2 and "tensor" in done.stdout
    assert "sklearn" not in sys.modules or bare("import sklearn").returncode, "nothing else can be imported there"


def test_the_command_says_which_extras_are_missing(bare):
    command = "from gallerykit.__main__ import main; sys.exit(main(sys.argv[1:]))"
    shown = bare(command, "--help")
    assert shown.returncode == 1 and "gallerykit: click is needed here: pip install" in shown.stderr, shown.stderr
    assert "Traceback" not in shown.stderr


def test_the_public_face_opens_without_torch_and_at_once():
    script = "import sys, time; start = time.perf_counter(); import compatkit; print(time.perf_counter() - start); "
    script += (
        "print(sorted({'torch', 'numpy'} & sys.modules.keys())); print(set(compatkit.__all__) <= set(dir(compatkit)))"
    )
    seconds, heavy, listed = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert float(seconds) < 0.1 and heavy == "[]" and listed == "True"


def test_each_public_name_is_that_of_its_module():
    stub = ast.parse(Path(compatkit.__file__).with_suffix(".pyi").read_text(encoding="utf-8"))
    names = [(node.module, alias) for node in stub.body for alias in node.names]
    assert all(alias.asname == alias.name for _, alias in names), "without it type checkers do not export a name"
    for module, alias in names:
        assert getattr(compatkit, alias.name).__module__ == f"compatkit.{module}", alias.name
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        compatkit.nothing  # noqa: B018
