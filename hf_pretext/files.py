"""Writing folders so that nothing half-written is ever left under its final name."""

import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def written_whole(folder: str | Path, replaces: Sequence[str] = ()) -> Iterator[Path]:
    """Collect files in a scratch folder and move them to `folder` when all of them are written.

    A full disk, an error or a kill while they are written leaves `folder` with what it held before.

    Args:
        folder (`str` or `Path`): Where the files go; it is made where it does not exist, and keeps its other files.
        replaces (`Sequence[str]`, *optional*):
            Patterns of files that must not outlive what they belonged to: those that are not written anew go.

    Yields:
        `Path`: The scratch folder, on the same file system.
    """
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=".writing-", dir=target))
    try:
        yield scratch
        names = {written.name for written in scratch.iterdir()}
        for stale in {path for pattern in replaces for path in target.glob(pattern) if path.name not in names}:
            stale.unlink()
        for written in sorted(scratch.iterdir()):
            if written.is_dir():
                shutil.rmtree(target / written.name, ignore_errors=True)
            os.replace(written, target / written.name)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
