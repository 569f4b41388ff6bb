"""A run folder, from which a run that was killed at any instant goes on without drawing noise again.

It holds the ledger (`ledger.json`, written by `privacy.PrivacyLedger`), the public settings of the run
(`settings.json`), and a file for each step: candidates, the round's place in the ledger, its record, generated
texts. Every file appears in whole or not at all, and stays. Nothing in the folder is private: it is computed from
releases and public data, and of the clients it knows their number, which is public. Files are read as JSON and
checked; a folder from a stranger can be refused or lie about what was generated, but not run anything or reach out of
its place. The files' times, though, tell how long the clients' side took, which depends on what they hold: do not
publish those.
"""

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .files import make_durably, write_durably
from .privacy import PrivacyLedger, Release, VoteMechanism

if TYPE_CHECKING:
    from datasets import Dataset

LEDGER_NAME = "ledger.json"
SETTINGS_NAME = "settings.json"

ROWS_AT_ONCE = 1024
"""Texts of a dataset that are in memory at a time while it is written."""


class RunFolder:
    """The folder of a run, for one process at a time.

    Args:
        path (`str` or `Path`): The folder; it is made where it does not exist.
        settings (`Mapping[str, Any]`, *optional*):
            What the run is made with, public and as JSON; a folder that was begun with others is refused, unless
            nothing was released yet. Without them the folder is there to be read.

    Raises:
        ValueError: The folder was begun with other settings, lost its ledger, or holds links or other files.
    """

    def __init__(self, path: str | Path, settings: Mapping[str, Any] | None = None) -> None:
        self.path = Path(path)
        if self.path.exists() and not self.path.is_dir():
            raise ValueError(f"`run_dir`={str(path)!r} is a file; name a folder, which is made where there is none.")
        make_durably(self.path)
        links = sorted(each.name for each in self.path.iterdir() if each.is_symlink())
        if links:
            raise ValueError(
                f"`run_dir`={str(path)!r} holds links, such as {links[0]!r}, which lead out of it. A run folder holds "
                "files only: choose another folder."
            )
        found = self._read(SETTINGS_NAME)
        if found is None:
            others = sorted(each.name for each in self.path.iterdir() if each.suffix == ".json")
            if set(others) - {LEDGER_NAME}:
                raise ValueError(
                    f"`run_dir`={str(path)!r} holds other files, such as {others[0]!r}, and no {SETTINGS_NAME}: it is "
                    "no run folder. Choose a folder of its own for a run."
                )
        elif not self.ledger_path.is_file():
            raise ValueError(
                f"`run_dir`={str(path)!r} has lost its {LEDGER_NAME}, so it is not known what was spent. Bring back "
                "its latest copy (an older one counts too little); or take it that the whole budget of that run is "
                "spent, and choose another folder."
            )
        self._settings = json.loads(json.dumps(found if settings is None else settings))
        if found is not None and found != self._settings:
            if self._has_spent() or not self._empty():
                self._check_settings(found)

    def ledger(self, mechanism: VoteMechanism) -> PrivacyLedger:
        """Open the folder's ledger, or begin it, and then write the settings down.

        Raises:
            ValueError: The ledger was written with another mechanism, or is damaged.
            RuntimeError: Another process is beginning it.
        """
        if self.holds("settings"):
            return PrivacyLedger(mechanism, self.ledger_path)
        # Two that begin together must not replace each other's ledger by an empty one.
        with self.locked():
            ledger = PrivacyLedger(mechanism, self.ledger_path)
            if not self.holds("settings"):
                self.write(SETTINGS_NAME, self._settings)
            return ledger

    @property
    def ledger_path(self) -> Path:
        """Where the ledger lies."""
        return self.path / LEDGER_NAME

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes off the folder: two that went on from it would each draw noise for the same round.

        Raises:
            RuntimeError: Another process, or another generator of this one, is at work on it.
        """
        from filelock import FileLock, Timeout

        lock = FileLock(self.path / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise RuntimeError(
                f"`run_dir`={str(self.path)!r} is in use by another process; wait for it, or choose another folder."
            ) from None
        try:
            yield
        finally:
            lock.release()

    def rounds(self, run: int = 1) -> list[tuple[list[str], np.ndarray]]:
        """Read what every round of a run released: the candidates and their noisy votes, without the lost ones."""
        ledger = self._read(LEDGER_NAME) or {"releases": []}
        releases = [Release.from_dict(release) for release in ledger["releases"]]
        rounds: list[tuple[list[str], np.ndarray]] = []
        candidates: list[str] = []
        number = 1
        while (place := self.read(f"run-{run}-release-{number}", is_count)) is not None and place < len(releases):
            # After a lost release the candidates stay.
            candidates = self.read(f"run-{run}-candidates-{number}", is_texts) or candidates
            votes = releases[place].votes
            if votes is not None:
                rounds.append((candidates, np.array(votes)))
            number += 1
        return rounds

    def read(self, step: str, is_valid: Callable[[Any], bool]) -> Any:
        """Return what a step made, or None where it has not been made.

        Raises:
            ValueError: The file of that step is not what this library writes.
        """
        found = self._read(f"{step}.json")
        if found is not None and not is_valid(found):
            raise self._damaged(f"{step}.json")
        return found

    def holds(self, step: str) -> bool:
        """Tell whether a step has been made."""
        return (self.path / f"{step}.json").is_file()

    def write(self, name: str, content: Any) -> None:
        """Write a file durably; the step `x` has the name `x.json`."""
        write_durably(self.path / name, json.dumps(content) + "\n")

    def dataset(self, name: str, texts: Iterable[str]) -> "Dataset":
        """Write texts to a file of Arrow's, as they come, and return the dataset that is read from it."""
        import pyarrow as pa
        from datasets import Dataset

        # Not durable, as it follows from the texts of the steps.
        path, schema = self.path / f"{name}.arrow", pa.schema({"text": pa.string()})
        scratch = path.with_suffix(".writing")
        texts = iter(texts)
        with pa.OSFile(str(scratch), "wb") as file, pa.ipc.new_stream(file, schema) as writer:
            while rows := list(islice(texts, ROWS_AT_ONCE)):
                writer.write_batch(pa.record_batch([rows], schema=schema))
        os.replace(scratch, path)
        return Dataset.from_file(str(path))

    def _read(self, name: str) -> Any:
        path = self.path / name
        if not path.is_file():
            return None
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, RecursionError):
            raise self._damaged(name) from None

    def _has_spent(self) -> bool:
        """Tell whether anything was released; a ledger that cannot be read, or that lost its releases, says yes."""
        try:
            num_releases = len(json.loads(self.ledger_path.read_text(encoding="utf-8"))["releases"])
        except (ValueError, KeyError, TypeError, RecursionError):
            return True
        # What is made after a release; the place of the first, and the first candidates, are written before it.
        later = ("run-*-record-*.json", "run-*-weights-*.json", "run-*-release-[!1]*.json")
        return num_releases > 0 or any(any(self.path.glob(pattern)) for pattern in later)

    def _empty(self) -> bool:
        """Begin anew, with other settings, where a run failed before it spent anything; tell whether it still had not.

        Another process may have released something, and ended, since that was last looked at.
        """
        with self.locked():
            if self._has_spent():
                return False
            for name in (*(each.name for each in self.path.glob("run-*.json")), LEDGER_NAME, SETTINGS_NAME):
                (self.path / name).unlink(missing_ok=True)
            return True

    def _damaged(self, name: str) -> ValueError:
        return ValueError(
            f"{str(self.path / name)!r} is not what hf_pretext writes: it is damaged, or from somewhere else. Bring "
            "back a copy of it, or choose another folder."
        )

    def _check_settings(self, found: Any) -> None:
        flat, meant = _flatten(found), _flatten(self._settings)
        differing = sorted(name for name in {*flat, *meant} if flat.get(name) != meant.get(name))
        if differing:
            changes = ", ".join(f"`{name}`={flat.get(name)!r} there, {meant.get(name)!r} here" for name in differing)
            raise ValueError(
                f"`run_dir`={str(self.path)!r} holds a run with other settings: {changes}. A run goes on with the "
                "settings that it began with: use those, or choose another folder, whose epsilon adds to this one's."
            )


def is_texts(value: Any) -> bool:
    """Tell whether a value is a list of strings."""
    return isinstance(value, list) and all(isinstance(text, str) for text in value)


def is_weights(value: Any, number: int) -> bool:
    """Tell whether a value is a list of so many numbers that are finite and not negative."""
    return (
        isinstance(value, list)
        and len(value) == number
        and all(isinstance(each, (int, float)) and 0 <= each < float("inf") for each in value)
    )


def is_count(value: Any) -> bool:
    """Tell whether a value is an integer that counts something."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _flatten(settings: Any) -> dict[str, Any]:
    """List nested settings by their own names; models and configuration have none in common."""
    if not isinstance(settings, dict):
        return {"settings": settings}
    inner = [value for value in settings.values() if isinstance(value, dict)]
    flat = {name: value for name, value in settings.items() if not isinstance(value, dict)}
    return {**flat, **{name: value for each in inner for name, value in each.items()}}
