"""Command lines whose output nobody reads, or not all of it, and that are interrupted."""

import signal
import subprocess
import sys

import pytest

from gallerykit import command_line

PROGRAM = """
import os, signal, sys, time
from gallerykit import command_line

def command():
    for line in ("38.4 ± 0.6", os.fsdecode(b"caf\\xe9"), *map(str, range(30_000))):
        print(line)
    open(sys.argv[2], "w").close()

def interrupted():
    try:
        print("begun", flush=True)
        time.sleep(60)
    finally:
        print("clearing up", flush=True)
        time.sleep(60)

signal.signal(signal.SIGINT, signal.default_int_handler)  # which tests that run in the background ignore
sys.exit(command_line.call("program", globals()[sys.argv[1]]))
"""


@pytest.mark.parametrize("buffered", [True, False])
@pytest.mark.parametrize(
    ("redirected", "status", "said"),
    [
        ("> /dev/null", 0, ""),
        ("| head -1", 0, ""),
        (">&-", 0, ""),
        (">&- 2>&-", 0, ""),
        ("> /dev/full", 1, "program: standard output: [Errno 28] No space left on device\n"),
    ],
)
def test_work_is_done_where_nobody_reads_of_it(tmp_path, redirected, status, said, buffered):
    command = [sys.executable, *["-u"] * (not buffered), "-c", PROGRAM, "command", str(tmp_path / "done")]
    script = f'"$@" {redirected}; exit ${{PIPESTATUS[0]}}'
    found = subprocess.run(["bash", "-c", script, "bash", *command], capture_output=True, text=True)
    assert (found.returncode, found.stderr) == (status, said) and (tmp_path / "done").exists()


@pytest.mark.parametrize(
    ("encoding", "lines"),
    [("ascii", [rb"38.4 \xb1 0.6", rb"caf\udce9"]), ("utf-8", ["38.4 ± 0.6".encode(), rb"caf\udce9"])],
)
def test_what_the_reader_cannot_show_is_escaped(tmp_path, encoding, lines):
    command = [sys.executable, "-c", PROGRAM, "command", str(tmp_path / "done")]
    found = subprocess.run(command, env={"PYTHONIOENCODING": encoding}, capture_output=True)
    assert (found.returncode, found.stderr, found.stdout.splitlines()[:2]) == (0, b"", lines)


def test_a_second_interrupt_ends_the_clearing_up():
    command = [sys.executable, "-c", PROGRAM, "interrupted", ""]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        for line in ("begun\n", "clearing up\n"):
            assert process.stdout.readline() == line
            process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == -signal.SIGINT and process.stderr.read() == ""


@pytest.mark.parametrize("handler", [signal.default_int_handler, signal.SIG_IGN])
def test_the_handler_of_interrupts_is_put_back(handler):
    before = signal.signal(signal.SIGINT, handler)
    try:
        assert run(lambda: None) == 0 and signal.getsignal(signal.SIGINT) is handler
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (ValueError("save_map, other: must not be save_map, got a/save_map.py"), 2,
         "program: --save-map, other: must not be --save-map, got a/save_map.py\n"),
        (OSError("out: is gone"), 1, "program: --out: is gone\n"),
        (FileNotFoundError(2, "No such file", "x"), 2, "program: [Errno 2] No such file: 'x'\n"),
        (ImportError("device: cuda is needed here"), 1, "program: device: cuda is needed here\n"),
        (KeyboardInterrupt(), 130, "\nprogram: interrupted.\n"),
    ],
)  # fmt: skip
def test_errors_are_a_sentence_of_what_was_typed(capsys, error, status, said):
    def fail():
        raise error

    assert run(fail) == status
    assert capsys.readouterr() == ("", said)


def run(function):
    flags = {name: f"--{name.replace('_', '-')}" for name in ("save_map", "out")}
    return command_line.call("program", function, flags=flags)
