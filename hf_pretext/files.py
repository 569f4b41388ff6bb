"""Writing of files and folders that never leaves anything half-written under its final name."""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def atomic_folder(folder: str | Path, replaces: Sequence[str] = (), first: str | None = None) -> Iterator[Path]:
    """Collect files in a scratch folder and move them to `folder` when all of them are written.

    After a full disk, an error or a kill, `folder` holds what it held before.

    Args:
        folder (`str` or `Path`): Destination. It is created if it does not exist, and keeps its other files.
        replaces (`Sequence[str]`, *optional*):
            Patterns of files that must not outlive what they belonged to. Those that are not written again are
            removed.
        first (`str`, *optional*): Name of the file that is moved first, by which a folder is known as one's own.

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
        for written in sorted(scratch.iterdir(), key=lambda path: (path.name != first, path.name)):
            if written.is_dir():
                shutil.rmtree(target / written.name, ignore_errors=True)
            os.replace(written, target / written.name)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def check_is_free(folder: str | Path, names: Sequence[str]) -> None:
    """Raise a `ValueError` if a folder holds files of such names (patterns), which `atomic_folder` would remove."""
    if found := sorted(path.name for name in names for path in Path(folder).glob(name)):
        raise ValueError(
            f"The folder {str(folder)!r} holds {found[0]!r}, which hf_pretext did not write, and which would be lost. "
            "Choose another folder."
        )


def make_durable_folder(folder: Path) -> None:
    """Create a folder that still exists after a crash of the machine."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for path in missing:
        _flush_folder(path.parent)


def atomic_write(path: Path, text: str) -> None:
    """Write a text file that appears whole or not at all, and that survives a crash of the machine.

    The text goes to a scratch file, is flushed to the disk and renamed, and the renaming is flushed too. A link with
    that name is replaced, not followed.

    Args:
        path (`Path`): The file. Its folder exists.
        text (`str`): The content.
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


def write_json(path: Path, content: Any) -> None:
    """Write indented JSON for people to read."""
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    """Read JSON.

    Raises:
        ValueError: The file is not JSON, or is nested too deeply.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except RecursionError:
        raise ValueError(f"{str(path)!r} is nested too deeply.") from None


def _flush_folder(folder: Path) -> None:
    if os.name == "nt":  # Windows renames durably, and cannot open a folder.
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
