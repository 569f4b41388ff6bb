"""A run folder, from which a run that was killed at any instant continues without drawing noise again.

It holds the ledger (`ledger.json`, written by `PrivacyLedger`), the public settings of the run (`settings.json`), and
a file for each step: candidates, the index of a release in the ledger, a round's record, generated texts. Every file
appears whole or not at all, and stays. Nothing in the folder is private: it is computed from releases and public data,
and of the clients it knows only their number, which is public. Files are read as JSON and checked. A folder from a
stranger can be refused or lie about what was generated, but it cannot run anything or reach out of its place. The
files' times, though, show how long the clients' side took, which depends on what they hold: do not publish those.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..artifacts import LEDGER_NAME, SETTINGS_NAME
from ..files import atomic_write, make_durable_folder, read_json
from ..privacy.ledger import PrivacyLedger, Release
from ..privacy.plan import VOTE_NAMES, Plan
from ..processes import is_main_process

if TYPE_CHECKING:
    from datasets import Dataset

FORMAT = 2
"""Format of the folder. Folders of the first edition have none."""

OF_THE_EXPANSION = {
    *("expansion_model", "max_new_tokens", "seeds_per_prompt", "texts_per_prompt", "continuations_per_prompt"),
    *("weight_seeds", "best_of", "temperature", "top_p", "min_words"),
}
"""Settings that have no influence on a run whose last answer was released. Then they may differ."""

ROWS_AT_ONCE = 1024
"""Rows of a dataset that are in memory at a time while it is written."""


class RunFolder:
    """The folder of a run, for one process at a time.

    Args:
        path (`str` or `Path`): The folder. It is created if it does not exist.
        settings (`Mapping[str, Any]`, *optional*):
            Public settings of the run, as JSON. A folder that was begun with others is refused, unless nothing was
            released yet, or everything was and only those of the expansion differ. Without them the folder is only
            read.

    Raises:
        ValueError: The folder was begun with other settings, is of the first edition, lost its ledger, or holds links
            or other files.
    """

    def __init__(self, path: str | Path, settings: Mapping[str, Any] | None = None) -> None:
        self.path = Path(path)
        if self.path.exists() and not self.path.is_dir():
            raise ValueError(
                f"`run_dir`={str(path)!r} is a file. Name a folder, which is created if it does not exist."
            )
        make_durable_folder(self.path)
        found = self._read_settings()
        self._settings = found if settings is None else json.loads(json.dumps({"format": FORMAT, **settings}))
        self.texts_step = "texts"
        if found is not None and found != self._settings and (self._has_spent() or not self._empty()):
            self._check_settings(found)
            # What another model wrote before stays apart.
            own = {name: value for name, value in _flatten(self._settings).items() if name in OF_THE_EXPANSION}
            digest = hashlib.sha256(json.dumps(own, sort_keys=True).encode()).hexdigest()
            self.texts_step = f"texts-{digest[:12]}"

    def _read_settings(self) -> Any:
        """Read the settings that the folder was begun with, if it is a run folder that can be continued."""
        links = sorted(each.name for each in self.path.iterdir() if each.is_symlink())
        if links:
            raise ValueError(
                f"`run_dir`={str(self.path)!r} holds links, such as {links[0]!r}, which lead out of it. A run "
                "folder holds files only: choose another folder."
            )
        found = self._read(SETTINGS_NAME)
        others = sorted(each.name for each in self.path.iterdir() if each.suffix == ".json")
        if found is None and set(others) - {LEDGER_NAME}:
            raise ValueError(
                f"`run_dir`={str(self.path)!r} holds other files, such as {others[0]!r}, and no {SETTINGS_NAME}: it "
                "is not a run folder. Choose a folder for this run alone."
            )
        if found is not None and not self.ledger_path.is_file():
            raise ValueError(
                f"`run_dir`={str(self.path)!r} has lost its {LEDGER_NAME}, so it is not known what was spent. Restore "
                "its latest copy (an older one counts too little). Or assume that the whole budget of that run is "
                "spent, and choose another folder."
            )
        if isinstance(found, dict) and found.get("format") != FORMAT:
            raise ValueError(
                f"`run_dir`={str(self.path)!r} was written by another version of hf_pretext (format "
                f"{found.get('format')}, this one writes {FORMAT}). End its run with that version, or choose another "
                "folder, whose epsilon adds to this one's."
            )
        return found

    def ledger(self, plan: Plan) -> PrivacyLedger:
        """Open the folder's ledger, or begin it, and then write the settings down.

        Raises:
            ValueError: The ledger was written with another plan, is damaged, or is older than the folder.
            RuntimeError: Another process is beginning it.
        """
        if self.holds("settings"):
            ledger = PrivacyLedger(plan, self.ledger_path)
            self.check_is_latest(ledger)
            return ledger
        # Two that begin together must not replace each other's ledger by an empty one.
        with self.locked():
            if not self.holds("settings") and self.ledger_path.is_file() and not self._has_spent():
                self.ledger_path.unlink()  # A kill left it while a folder was begun or emptied. Its plan may differ.
            ledger = PrivacyLedger(plan, self.ledger_path)
            if not self.holds("settings"):
                self.write(SETTINGS_NAME, self._settings)
            return ledger

    def check_is_latest(self, ledger: PrivacyLedger) -> None:
        """Raise a `ValueError` if the folder knows of releases, of any run, that the ledger does not count."""
        # The index of a release is written before it is counted.
        if max(self.release_indices(), default=0) > ledger.num_releases:
            raise ValueError(
                f"`run_dir`={str(self.path)!r} holds what came after {ledger.num_releases} releases, and its ledger "
                "counts no more than these: it is an older copy. Restore the latest one. An older one would state too "
                "small an epsilon, and draw noise again."
            )

    @property
    def token_fraction(self) -> Any:
        """What a run that has spent something decided for token counts. None if nothing was spent yet."""
        if self._settings is None or not self._has_spent():
            return None
        return _flatten(self._settings).get("token_fraction", 0.0)

    @property
    def ledger_path(self) -> Path:
        """Path of the ledger."""
        return self.path / LEDGER_NAME

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes off the folder. Two that continued it would each draw noise for the same release.

        Raises:
            RuntimeError: Another process, or another generator of this one, is at work on it.
        """
        from filelock import FileLock, Timeout

        lock = FileLock(self.path / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise RuntimeError(
                f"`run_dir`={str(self.path)!r} is in use by another process. Wait for it, or choose another folder."
            ) from None
        try:
            yield
        finally:
            lock.release()

    def rounds(self, run: int = 1) -> list[tuple[list[str], np.ndarray]]:
        """Read what every round of a run released: the candidates and their noisy votes, without the lost ones.

        With labels, the candidates of all of them follow each other.
        """
        ledger = self._read(LEDGER_NAME) or {"releases": []}
        releases = [Release.from_dict(release) for release in ledger["releases"]]
        rounds: list[tuple[list[str], np.ndarray]] = []
        candidates: list[str] = []
        number = 1
        while (index := self.read(f"run-{run}-release-{number}", is_count)) is not None and index < len(releases):
            # After a lost release the candidates stay.
            made = self.read(f"run-{run}-candidates-{number}", _are_candidates)
            candidates = candidates if made is None else _joined(made)
            votes = releases[index].answer
            if votes is not None and releases[index].question in VOTE_NAMES:
                rounds.append((candidates, np.array(votes)[: len(candidates)]))
            number += 1
        return rounds

    def release_indices(self, run: "int | str" = "*") -> list[int]:
        """Return the indices in the ledger at which the releases of a run, or of all runs, were or will be."""
        paths = self.path.glob(f"run-{run}-release-*.json")
        return [self.read(path.stem, is_count) for path in sorted(paths)]

    def read(self, step: str, is_valid: Callable[[Any], bool]) -> Any:
        """Return what a step made, or None if it was not made yet.

        Raises:
            ValueError: The file of that step is not what this library writes.
        """
        found = self._read(f"{step}.json")
        if found is not None and not is_valid(found):
            raise self._damaged(f"{step}.json")
        return found

    def holds(self, step: str) -> bool:
        """Return whether a step was made."""
        return (self.path / f"{step}.json").is_file()

    def write(self, name: str, content: Any) -> None:
        """Write a file durably. The step `x` has the name `x.json`."""
        atomic_write(self.path / name, json.dumps(content) + "\n")

    def dataset(self, name: str, rows: Iterable[dict[str, Any]], features: Mapping[str, Any]) -> "Dataset":
        """Write rows to an Arrow file as they come, and return the dataset that is read from it.

        The name ends with a digest of what the file holds. So other texts of the same run do not replace it: a dataset
        that was returned goes on reading it, here or in a process that it is sent to.
        """
        import pyarrow as pa
        from datasets import Dataset, Features

        # Not durable, as it follows from the texts of the steps.
        scratch, schema = self.path / f"{name}.writing", Features(features).arrow_schema
        rows = iter(rows)
        with pa.OSFile(str(scratch), "wb") as file, pa.ipc.new_stream(file, schema) as writer:
            while some := list(islice(rows, ROWS_AT_ONCE)):
                writer.write_batch(pa.RecordBatch.from_pylist(some, schema=schema))
        digest = _digest(scratch)
        path = self.path / f"{name}-{digest[:12]}.arrow"
        # A crash of the machine may have damaged it.
        if path.is_file() and path.stat().st_size == scratch.stat().st_size and _digest(path) == digest:
            scratch.unlink()  # Windows does not replace a file that a dataset reads.
        else:
            os.replace(scratch, path)
        return Dataset.from_file(str(path))

    def _read(self, name: str) -> Any:
        path = self.path / name
        if not path.is_file():
            return None
        try:
            return read_json(path)
        except ValueError:
            raise self._damaged(name) from None

    def _has_spent(self) -> bool:
        """Return whether anything was released. A ledger that cannot be read, or that lost its releases, says yes."""
        try:
            num_releases = len(read_json(self.ledger_path)["releases"])
        except (ValueError, KeyError, TypeError):
            return True
        # What is made after a release. The index of the first one, and the first candidates, are written before it.
        later = ("run-*-record-*.json", "run-*-weights-*.json")
        is_later = any(any(self.path.glob(pattern)) for pattern in later) or any(self.release_indices())
        return num_releases > 0 or is_later

    def _is_released(self, num_rounds: Any) -> bool:
        """Return whether the ledger has the last answer of every run that was begun."""
        num_releases = len(read_json(self.ledger_path)["releases"])
        runs = {path.name.split("-")[1] for path in self.path.glob("run-*-release-*.json")}
        last = [self.read(f"run-{run}-release-{num_rounds}", is_count) for run in runs]
        return bool(last) and all(index is not None and index < num_releases for index in last)

    def _empty(self) -> bool:
        """Begin again, with other settings, if a run failed before it spent anything. Return whether it still had not.

        Another process may have released something, and ended, since that was last looked at.
        """
        with self.locked():
            if self._has_spent():
                return False
            # The ledger goes last. Settings without a ledger are those of a run whose ledger is lost.
            for name in (*(each.name for each in self.path.glob("run-*.json")), SETTINGS_NAME, LEDGER_NAME):
                (self.path / name).unlink(missing_ok=True)
            return True

    def _damaged(self, name: str) -> ValueError:
        return ValueError(
            f"{str(self.path / name)!r} is not what hf_pretext writes: it is damaged, or from somewhere else. Restore "
            "a copy of it, or choose another folder."
        )

    def _check_settings(self, found: Any) -> None:
        flat, meant = _flatten(found), _flatten(self._settings)
        differing = sorted(name for name in {*flat, *meant} if flat.get(name) != meant.get(name))
        if set(differing) <= OF_THE_EXPANSION and self._is_released(flat.get("num_rounds")):
            return
        if differing:
            changes = ", ".join(f"`{name}`={flat.get(name)!r} there, {meant.get(name)!r} here" for name in differing)
            raise ValueError(
                f"`run_dir`={str(self.path)!r} holds a run with other settings: {changes}. A run continues with the "
                "settings that it began with: use those, or choose another folder, whose epsilon adds to this one's. "
                "Those of the expansion may change once the run's last answer is released. A model of the Hub can "
                "be given at the commit that it had: 'organisation/model@commit'."
            )


@contextmanager
def working(folder: RunFolder | None, ledger: PrivacyLedger) -> Iterator[None]:
    """Keep other processes off a run folder, if there is one, and begin with what its ledger holds."""
    with folder.locked() if folder is not None else nullcontext():
        if is_main_process():
            ledger.reload()
            if folder is not None:
                folder.check_is_latest(ledger)
        ledger.share()
        yield


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_count(value: Any) -> bool:
    """Return whether a value is an integer that counts something."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _are_candidates(value: Any) -> bool:
    """Return whether a value is a list of texts, or of the texts of each label."""
    return _is_list_of_texts(value) or (isinstance(value, list) and all(map(_is_list_of_texts, value)))


def _joined(candidates: Any) -> list[str]:
    return candidates if _is_list_of_texts(candidates) else [text for part in candidates for text in part]


def _is_list_of_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) for text in value)


def _flatten(settings: Any) -> dict[str, Any]:
    """List nested settings by their own names. The parts have no names in common."""
    if not isinstance(settings, dict):
        return {"settings": settings}
    inner = [value for value in settings.values() if isinstance(value, dict)]
    flat = {name: value for name, value in settings.items() if not isinstance(value, dict)}
    return {**flat, **{name: value for each in inner for name, value in each.items()}}
