"""Writing folders so that nothing half-written is ever left under its final name."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def written_whole(folder: str | Path) -> Iterator[Path]:
    """Collect files in a scratch folder and move them to `folder` when all of them are written.

    A full disk, an error or a kill in between leaves `folder` with what it held before.

    Args:
        folder (`str` or `Path`): Where the files go; it is made where it does not exist, and keeps its other files.

    Yields:
        `Path`: The scratch folder, on the same file system.
    """
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=".writing-", dir=target))
    try:
        yield scratch
        for written in sorted(scratch.iterdir()):
            if written.is_dir():
                shutil.rmtree(target / written.name, ignore_errors=True)
            os.replace(written, target / written.name)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
