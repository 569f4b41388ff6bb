"""The ledger: every release about the private data, counted before its noise is drawn, kept before anyone sees it."""

import json
import math
import os
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..files import atomic_write, read_json
from ..processes import broadcast
from ..settings import shortened
from .mechanism import Mechanism
from .plan import Asked, Plan

FORMAT = 2
"""Format of the ledger's file. Ledgers of the first edition have none."""


class ReleaseLostError(RuntimeError):
    """A release is counted as spent, but no one got its answer. The run continues without it."""


@dataclass(frozen=True)
class Release:
    """One release: an answer with noise, or a release that was lost when its process ended.

    Args:
        id (`str`): A random name that identifies the release, also in several reports that count it.
        question (`str`): Kind of the question that was answered.
        num_bins (`int`): Number of bins.
        mechanism (`Mechanism`): Its noise and sensitivity.
        noise_is_genuine (`bool`): Whether the noise was the library's own.
        answer (`tuple` of `float`, *optional*): The noisy answer. None if it was lost, or is stored elsewhere.
    """

    id: str
    question: str
    num_bins: int
    mechanism: Mechanism
    noise_is_genuine: bool = True
    answer: tuple[float, ...] | None = None

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Release":
        """Read a release that a ledger wrote. Anything else is a `ValueError`, `TypeError` or `KeyError`."""
        name, question, num_bins, mechanism, genuine, answer = (values[each.name] for each in fields(cls))
        kept = None if answer is None else tuple(map(float, answer))
        sizes_agree = kept is None or (len(kept) == num_bins and all(map(math.isfinite, kept)))
        is_size = isinstance(num_bins, int) and not isinstance(num_bins, bool) and num_bins > 0
        are_words = isinstance(name, str) and isinstance(question, str)
        if not (are_words and is_size and isinstance(genuine, bool) and sizes_agree):
            raise ValueError
        return cls(name, question, num_bins, read_mechanism(mechanism), genuine, kept)


def read_mechanism(values: Mapping[str, Any]) -> Mechanism:
    """Read a mechanism that was written as JSON.

    Raises:
        ValueError: The values are not those of a mechanism.
    """
    try:
        mechanism = Mechanism(**values)
        numbers = (mechanism.noise_multiplier, mechanism.clip_norm)
        are_positive = all(isinstance(each, (int, float)) and 0 < each < math.inf for each in numbers)
        dropout = mechanism.max_dropout
        is_share = dropout is None or (isinstance(dropout, (int, float)) and 0 <= dropout < 0.5)
        relations = ("add_or_remove_one", "replace_one")
        is_sound = isinstance(mechanism.is_signed, bool) and mechanism.neighboring_relation in relations
    except TypeError:
        are_positive = is_share = is_sound = False
    if not (are_positive and is_share and is_sound):
        raise ValueError(f"{shortened(values)} is not a mechanism.")
    return mechanism


class CountsAlone:
    """What counts releases, or makes them: two copies would each count only their own, and state too small an epsilon.

    So it cannot be copied (`copy.copy`, `copy.deepcopy`) or pickled.
    """

    def __reduce__(self) -> str:
        raise TypeError(
            f"A {type(self).__name__} cannot be copied or pickled: two copies would each count only their own "
            "releases about the same clients. Use the same object everywhere, or make a new one, whose epsilon adds "
            "to this one's."
        )


class PrivacyLedger(CountsAlone):
    """The releases about the private data, and what they cost together.

    A pool of clients counts a release here before it draws the noise, and returns the answer once it is kept here
    (`record`, then `keep`). So every release is counted, also one that a crash lost before anyone saw it, and none has
    to be drawn again. Releases about different data sets are added up as if they were about the same clients, which is
    never too little.

    Args:
        plan (`Plan`): The releases of one run. Every release follows one of its entries.
        path (`Path`, *optional*):
            File that holds the plan and the releases. It is written durably at every step, and continued if it exists.
            Nothing in it is private.
        earlier (`Sequence[Release]`, *optional*): Releases to continue to count from, whose answers are elsewhere.
        num_lost_earlier (`int`, *optional*): Number of them whose answer was lost.

    Raises:
        ValueError: The file was written with another plan, or is not a ledger.
    """

    def __init__(
        self, plan: Plan, path: Path | None = None, earlier: Sequence[Release] = (), num_lost_earlier: int = 0
    ) -> None:
        self._plan = plan
        self._path = path
        self._process = os.getpid()
        self._releases = list(earlier)
        self._num_earlier, self._num_lost_earlier = len(earlier), num_lost_earlier
        if path is not None and path.is_file():
            self.reload()
        else:
            self._write()

    @property
    def plan(self) -> Plan:
        """The releases of one run. It cannot be exchanged."""
        return self._plan

    @property
    def releases(self) -> tuple[Release, ...]:
        """All releases in their order, including the lost ones."""
        return tuple(self._releases)

    @property
    def num_releases(self) -> int:
        """Number of releases, including the lost ones."""
        return len(self._releases)

    @property
    def num_lost(self) -> int:
        """Number of releases that are counted, but whose answer was lost."""
        own = self._releases[self._num_earlier :]
        return self._num_lost_earlier + sum(release.answer is None for release in own)

    def mechanism(self, question: Asked) -> Mechanism:
        """Return the mechanism with which a question is answered.

        Raises:
            ValueError: The plan has no such question, or has it with fewer bins or without signs.
        """
        entry = self.plan.entry(question.name)
        if question.is_signed != entry.mechanism.is_signed:
            raise ValueError(
                f"The question {question.name!r} has `is_signed`={question.is_signed}, but the plan of this run "
                f"accounts for it with `is_signed`={entry.mechanism.is_signed}."
            )
        if not 0 < question.num_bins <= entry.num_bins:
            raise ValueError(
                f"The question {question.name!r} has {question.num_bins} bins, but the plan of this run accounts for "
                f"1 to {entry.num_bins}."
            )
        return entry.mechanism

    def record(self, question: Asked, noise_is_genuine: bool = True) -> None:
        """Count one release, before its noise is drawn. With a file, this is on disk on return.

        Args:
            question (`Question`): What is asked.
            noise_is_genuine (`bool`, *optional*, defaults to `True`):
                Whether the noise is the library's own. With any other there is no guarantee from here on.

        Raises:
            ValueError: The question is not in the plan.
            RuntimeError: The file counts other releases than this object, so writing it would lose some of them. Or
                this is a copy of the ledger in another process.
        """
        mechanism = self.mechanism(question)
        if os.getpid() != self._process:
            raise RuntimeError("A ledger counts in the process that made it only: copies would not count alike.")
        self._check_file()
        name = uuid.uuid4().hex[:16]
        self._releases.append(Release(name, question.name, question.num_bins, mechanism, noise_is_genuine))
        self._write()

    def keep(self, answer: np.ndarray) -> None:
        """Keep the noisy answer of the latest release, before anyone gets it. With a file, it is on disk on return.

        Args:
            answer (`np.ndarray` of shape `(num_bins,)`): The noisy answer.

        Raises:
            ValueError: The latest release has another number of bins, or is kept already.
            RuntimeError: The file counts other releases than this object, as in `record`.
        """
        latest = self._releases[-1]
        is_sound = answer.shape == (latest.num_bins,) and np.isfinite(answer).all()
        if latest.answer is not None or not is_sound:
            raise ValueError(
                f"`answer` of shape {answer.shape} does not belong to the release that was recorded last, or is not "
                "finite."
            )
        self._check_file()
        self._releases[-1] = replace(latest, answer=tuple(answer.tolist()))
        self._write()

    def epsilon(self, delta: float, num_releases: int | None = None) -> float:
        """Compute the total epsilon spent so far. It is infinite after any noise that is not the library's.

        Args:
            delta (`float`): The additive term of (epsilon, delta)-differential privacy.
            num_releases (`int`, *optional*): Count only the first so many releases. By default all.
        """
        return self._cost(self.plan.epsilon, delta, num_releases)

    def exchange_epsilon(self, delta: float) -> float:
        """Compute the total epsilon for the exchange of a client's texts. See `epsilon`, `Plan.exchange_epsilon`."""
        return self._cost(self.plan.exchange_epsilon, delta)

    def _cost(
        self,
        compute: Callable[[float, list[tuple[Mechanism, int]]], float],
        delta: float,
        num_releases: int | None = None,
    ) -> float:
        counted = self._releases[:num_releases]
        if not all(release.noise_is_genuine for release in counted):
            return math.inf
        return compute(delta, [(release.mechanism, release.num_bins) for release in counted])

    def reload(self) -> None:
        """Read the file again, which another process may have continued. Without a file there is nothing to do.

        Raises:
            ValueError: The file was written with another plan, is not a ledger, or lacks releases that were counted.
        """
        if self._path is None:
            return
        found = self._read(self._path)
        if [each.id for each in found[: len(self._releases)]] != [each.id for each in self._releases]:
            raise ValueError(
                f"{str(self._path)!r} lacks some of the {len(self._releases)} releases that this ledger counts: an "
                "older copy, or another file, has taken its place. Restore the latest one."
            )
        self._releases = found

    def share(self) -> None:
        """Give every process the main process's releases, since the noise is drawn and counted there only."""
        self._releases = broadcast(self._releases)

    def _check_file(self) -> None:
        if self._path is not None and self._read(self._path) != self._releases:
            raise RuntimeError(
                f"{str(self._path)!r} counts other releases than this ledger, because something else continued it. "
                "`reload` it first, and let one generator at a time work on a run folder."
            )

    def _read(self, path: Path) -> list[Release]:
        try:
            content = read_json(path)
            if content["format"] != FORMAT or not isinstance(content["releases"], list):
                raise ValueError
            releases = [Release.from_dict(release) for release in content["releases"]]
            if len({release.id for release in releases}) < len(releases):
                raise ValueError
            plan = dict(content["plan"])
        except (ValueError, KeyError, TypeError):
            raise ValueError(
                f"{str(path)!r} is not a ledger that this version wrote, so it is not known what was spent. Restore "
                "its latest copy (an older one counts too little). Or assume that the whole budget of that run is "
                "spent, and choose another folder for a new one."
            ) from None
        if differences := self.plan.differences(plan):
            raise ValueError(
                f"{str(path)!r} was written with another plan: {', '.join(differences[:3])}. A ledger continues with "
                "the plan that it began with: choose another folder, and add up the two reports."
            )
        for release in releases:
            if not self.plan.has(release.question, release.mechanism):
                raise ValueError(
                    f"{str(path)!r} holds a release of the question {release.question!r} that its plan does not have: "
                    "it is damaged, or was edited. Restore its latest copy, or choose another folder."
                )
        return releases

    def _write(self) -> None:
        if self._path is not None:
            releases = [asdict(release) for release in self._releases]
            content = {"format": FORMAT, "plan": self.plan.to_dict(), "releases": releases}
            atomic_write(self._path, json.dumps(content) + "\n")
