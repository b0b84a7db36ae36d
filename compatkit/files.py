"""Files that are either whole or not there, and files that one process holds at a time."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

try:
    import fcntl
except ImportError:  # Windows, where nothing is locked
    fcntl = None  # type: ignore[assignment]


@contextmanager
def replacing(path: str | os.PathLike) -> Iterator[BinaryIO]:
    """A binary file to write that becomes ``path`` when the block ends, and disappears when it fails: a reader sees the
    old file or the whole new one. Missing folders are made."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # in the same folder, since os.replace is atomic only within a file system
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        with open(temporary, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_atomically(path: str | os.PathLike, content: str | bytes) -> None:
    """Replace ``path`` by ``content``, text as UTF-8, see ``replacing``."""
    with replacing(path) as file:
        file.write(content.encode("utf-8") if isinstance(content, str) else content)


@contextmanager
def lock_file(path: str | os.PathLike) -> Iterator[None]:
    """Hold a file for this process alone, waiting for others; it is there only as long as someone holds it or waits.

    That of a process that was killed is removed by the next one that holds it, or by ``remove_unheld``.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        with open(path, "ab") as file, locked(file.fileno()):
            if not _is_still(path, file):
                continue  # who held it has removed it, and others may hold another one by now
            try:
                yield
            finally:
                with suppress(PermissionError):  # Windows removes no open file: there it stays
                    path.unlink(missing_ok=True)
            return


def remove_unheld(path: Path) -> None:
    """Remove a ``lock_file`` that nobody holds, which a process that was killed has left."""
    if fcntl is None:
        return
    with suppress(FileNotFoundError, BlockingIOError), open(path, "rb") as file:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        if _is_still(path, file):
            path.unlink()


def _is_still(path: Path, file: BinaryIO) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


@contextmanager
def locked(descriptor: int) -> Iterator[None]:
    """Hold an open file for this process alone, waiting for others; the system lets go when the process dies."""
    if fcntl is None:
        yield
        return
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        yield
    finally:
        fcntl.flock(descriptor, fcntl.LOCK_UN)
