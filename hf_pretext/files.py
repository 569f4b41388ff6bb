"""Writing files and folders so that nothing half-written is ever left under its final name."""

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


def make_durably(folder: Path) -> None:
    """Make a folder, where it does not exist, that is still there after a crash of the machine."""
    missing = [place for place in (folder, *folder.parents) if not place.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for place in missing:
        _flush_folder(place.parent)


def write_durably(path: Path, text: str) -> None:
    """Write a text file that is either there in whole, and stays there after a crash of the machine, or not at all.

    It is written beside its place, flushed to the disk and renamed, and the renaming is flushed too. A link under that
    name is replaced, not followed.

    Args:
        path (`Path`): The file; its folder exists.
        text (`str`): What it is to hold.
    """
    descriptor, scratch = tempfile.mkstemp(prefix=".writing-", dir=path.parent)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(scratch, path)
    except BaseException:
        Path(scratch).unlink(missing_ok=True)
        raise
    _flush_folder(path.parent)


def _flush_folder(folder: Path) -> None:
    if os.name == "nt":  # Windows renames durably, and cannot open a folder.
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
