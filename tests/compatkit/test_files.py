"""Whole or not there; held by one, and gone when nobody holds it."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from compatkit import files


def test_write_atomically(tmp_path):
    path = tmp_path / "new" / "file"
    files.write_atomically(path, "ä\n")
    assert path.read_bytes() == "ä\n".encode()
    files.write_atomically(path, b"\x00\r\n")
    assert path.read_bytes() == b"\x00\r\n"
    assert [p.name for p in path.parent.iterdir()] == ["file"]
    (tmp_path / "usual").write_text("")
    assert path.stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_a_block_that_fails_changes_nothing(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(RuntimeError, match="on purpose"), files.replacing(path) as file:
        file.write(b"half")
        raise RuntimeError("on purpose")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_one_at_a_time_holds_a_lock_file(tmp_path):
    path, inside, most = tmp_path / "new" / "lock", [], []

    def hold(i):
        for _ in range(50):
            with files.lock_file(path):
                inside.append(i)
                most.append(len(inside))
                inside.remove(i)

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(hold, range(4)))
    assert set(most) == {1} and len(most) == 200 and not list(path.parent.iterdir())


def test_only_a_lock_file_that_nobody_holds_is_removed(tmp_path):
    path = tmp_path / "lock"
    with pytest.raises(RuntimeError), files.lock_file(path):
        files.remove_unheld(path)
        assert path.exists()
        raise RuntimeError
    assert not path.exists()
    path.touch()  # as a process leaves it that is killed
    files.remove_unheld(path)
    files.remove_unheld(path)
    assert not path.exists()


def test_who_waited_for_a_lock_file_that_was_removed_waits_for_the_new_one(tmp_path):
    path, inside = tmp_path / "lock", threading.Event()

    def wait():
        with files.lock_file(path):
            inside.set()

    with open(path, "ab") as old, files.locked(old.fileno()):
        thread = threading.Thread(target=wait)
        thread.start()
        time.sleep(0.2)  # until it waits
        path.unlink()
        new = open(path, "ab")  # noqa: SIM115
        holding = files.locked(new.fileno())
        holding.__enter__()
    assert not inside.wait(0.3)
    holding.__exit__(None, None, None)
    new.close()
    thread.join()
    assert inside.is_set() and not path.exists()
