"""Files that are whole or not there: written beside their place, flushed to the disk and renamed into it."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import tempfile
from pathlib import Path

__all__ = ["UNFINISHED", "named_folder", "write_whole"]

UNFINISHED = ".unfinished-"
"""How the names begin of what a kill in the middle of writing leaves behind; never read."""


def named_folder(text: str) -> Path:
    """A type for argparse: an empty text, such as a shell variable that is not set, is not the folder where one happens to be.

    >>> named_folder("runs").name
    'runs'
    """
    if not text:
        raise argparse.ArgumentTypeError("the name is empty; give a folder ('.' is the current one)")
    return Path(text)


def write_whole(path: Path, content: bytes) -> None:
    """All or nothing: write beside, flush to the disk, rename, flush the folder.

    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_whole(Path(folder) / "a", b"first")
    ...     write_whole(Path(folder) / "a", b"second")
    ...     [(path.name, path.read_text()) for path in Path(folder).iterdir()]
    [('a', 'second')]
    """
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=UNFINISHED)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    if sys.platform != "win32":
        folder = os.open(path.parent, os.O_RDONLY)
        with contextlib.suppress(OSError):  # some file systems cannot flush a folder
            os.fsync(folder)
        os.close(folder)
