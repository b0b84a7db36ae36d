"""Files of named image sets, and their digests; read without torch."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path


def data_root(root: str | os.PathLike | None = None) -> Path:
    """The folder of NAME.npz files: ``root``, or ``$COMPATKIT_DATA``, or compatkit/ in the user's cache folder."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(root or os.environ.get("COMPATKIT_DATA") or cache / "compatkit")


def stored_digest(name: str, root: str | os.PathLike | None = None) -> str | None:
    """The digest of the set in NAME.npz, read from the checksum inside where there is one; None where there is no such
    file, or none that can be read."""
    path = data_root(root) / f"{name}.npz"
    if name.startswith("imagefolder:") or not path.is_file():
        return None
    return _digest_of_file(path, path.stat().st_size, path.stat().st_mtime_ns)


@lru_cache(64)
def _digest_of_file(path: Path, size: int, modified: int) -> str | None:
    import zipfile  # here, so that who only asks whether there is a file need not wait for them

    import numpy as np

    from compatkit.stored import digest, read_arrays

    try:
        with np.load(path, allow_pickle=False) as file:
            if "sha256" in file:
                return str(file["sha256"])[:12]
        return digest(read_arrays(path))[:12]
    except (ValueError, TypeError, OSError, zipfile.BadZipFile):
        return None
