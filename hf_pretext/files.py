"""Writing of files and folders that never leaves anything half-written under its final name."""

import json
import os
import secrets
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

SCRATCH = ".writing-"
"""What the names of scratch files and folders begin with."""

ABANDONED_AFTER = 24 * 60 * 60
"""Seconds after which a scratch folder belongs to a writing that was killed."""


@contextmanager
def atomic_folder(folder: str | Path, replaces: Sequence[str] = (), first: str | None = None) -> Iterator[Path]:
    """Collect files in a scratch folder and move them to `folder` when all of them are written.

    After a full disk, an error or a kill while they are written, `folder` holds what it held before. A kill while they
    are moved leaves some of the new files, `first` among them, beside old ones that are not replaced or removed yet.
    Every file is then whole. Only a folder may be missing, if the kill came between its old and its new one. Write
    again to complete it. A kill leaves the scratch folder too, which the next writing removes once it is a day old.

    Args:
        folder (`str` or `Path`): Destination. It is created if it does not exist, and keeps its other files.
        replaces (`Sequence[str]`, *optional*):
            Patterns of files that must not outlive what they belonged to. Those that are not written again are
            removed, after the new ones are moved.
        first (`str`, *optional*): Name of the file that is moved first, by which a folder is known as one's own.

    Yields:
        `Path`: The scratch folder, on the same file system.
    """
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(target)
    scratch = Path(tempfile.mkdtemp(prefix=SCRATCH, dir=target))
    try:
        yield scratch
        names = sorted((written.name for written in scratch.iterdir()), key=lambda name: (name != first, name))
        for name in names:
            if (scratch / name).is_dir():
                shutil.rmtree(target / name, ignore_errors=True)
            os.replace(scratch / name, target / name)
        found = {path for pattern in replaces for path in target.glob(pattern)}
        for stale in found:
            if stale.relative_to(target).parts[0] not in names:
                stale.unlink()
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _remove_abandoned(folder: Path) -> None:
    """Remove the scratch folders of writings that were killed. Another process may still write into a young one."""
    for scratch in folder.glob(f"{SCRATCH}*"):
        if scratch.is_dir() and not scratch.is_symlink() and time.time() - scratch.stat().st_mtime > ABANDONED_AFTER:
            shutil.rmtree(scratch, ignore_errors=True)


def check_is_writable(argument: str, folder: str | Path) -> None:
    """Raise a `ValueError` if a folder cannot be created or written. What is created to find out is removed.

    Args:
        argument (`str`): What the error calls it.
        folder (`str` or `Path`): The folder.
    """
    path, missing = Path(folder), []
    try:
        missing = [each for each in (path, *path.parents) if not each.exists()]
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(prefix=SCRATCH, dir=path):
            return
    except OSError as error:
        problem = "is a file" if isinstance(error, FileExistsError) else f"cannot be written ({error.strerror})"
    finally:
        for each in missing:
            with suppress(OSError):  # It was not created, or someone else has written into it.
                each.rmdir()
    raise ValueError(
        f"`{argument}`={str(folder)!r} {problem}. Name a folder that can be written. It is created if it does not "
        "exist."
    )


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


def atomic_write(path: Path, text: str, *, for_others: bool = False) -> None:
    """Write a text file that appears whole or not at all, and that survives a crash of the machine.

    The text goes to a scratch file, is flushed to the disk and renamed, and the renaming is flushed too. A link with
    that name is replaced, not followed. A file that exists keeps its mode.

    Args:
        path (`Path`): The file. Its folder exists.
        text (`str`): The content.
        for_others (`bool`, *optional*, defaults to `False`):
            Whether others may read a new file if they may read new files here. By default only its owner can.
    """
    scratch = path.parent / f"{SCRATCH}{secrets.token_hex(8)}"
    try:
        # "x" creates it, and follows no link.
        with open(scratch, "x", encoding="utf-8", opener=None if for_others else _open_for_owner) as file:
            if path.is_file() and not path.is_symlink():
                scratch.chmod(stat.S_IMODE(path.stat().st_mode))
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(scratch, path)
    except BaseException:
        scratch.unlink(missing_ok=True)
        raise
    _flush_folder(path.parent)


def _open_for_owner(path: str, flags: int) -> int:
    return os.open(path, flags, stat.S_IRUSR | stat.S_IWUSR)


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
