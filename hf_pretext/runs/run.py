"""A run of the algorithm: what it has decided so far, the same in every process and, with a run folder, on disk."""

import logging
import math
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from ..clients.pool import ClientPool
from ..configuration import PrivateEvolutionConfig
from ..privacy.figures import rounded_up
from ..privacy.ledger import PrivacyLedger, ReleaseLostError
from ..processes import broadcast, is_main_process, progress_label
from .folder import RunFolder, is_count
from .history import RoundRecord
from .tracking import Trackers

if TYPE_CHECKING:
    from ..clients.questions import Question

logger = logging.getLogger(__name__)


AFTER_FIRST_QUESTIONS = "first-questions"
"""Name of the step that is kept once the answers of all first questions are in the ledger."""

STAGES = ("writing the initial population", "choosing tokens", "embedding", "smoothing", "varying", "expanding")
"""Stages of public work, whose times a page shows."""

AFTER_A_FIRST_QUESTION = [AFTER_FIRST_QUESTIONS, "reserve", "lookahead-1"]
"""Steps that come after the answer of a first question."""


class Streams(NamedTuple):
    """The randomness of a round, one stream for each use, so that no use disturbs another."""

    lookahead: np.random.Generator
    selection: np.random.Generator
    variation: np.random.Generator


class Asks(Protocol):
    """Something about which clients are asked: the candidates of a round, or a question before the first round."""

    @property
    def step(self) -> str:
        """Name of the step of the run."""
        ...

    @property
    def kind(self) -> str:
        """Name of the question."""
        ...

    @property
    def num_bins(self) -> int | None:
        """Number of bins of the answer, if it is known before the question is made."""
        ...

    def ask(self) -> "Question":
        """Make the question. It is not called if the answer is in the ledger already."""
        ...


class Run:
    """Keeps the results of a run's steps.

    Every result is a function of the releases and of public data, so a step whose result is kept is not repeated. All
    processes call the same steps in the same order. The main process reads and writes.

    Args:
        number (`int`): Number of the run in its ledger, from 1.
        config (`PrivateEvolutionConfig`): Number of rounds, and the seed of everything but the noise.
        ledger (`PrivacyLedger`): Counts the releases, and holds their plan.
        folder (`RunFolder`, *optional*): Where results survive the process.
        seconds (`dict` of `str` to `float`, *optional*): Gets the time of each stage.
        trackers (`Trackers`, *optional*): Get public figures while the run goes on.
    """

    def __init__(
        self,
        number: int,
        config: PrivateEvolutionConfig,
        ledger: PrivacyLedger,
        folder: RunFolder | None = None,
        seconds: dict[str, float] | None = None,
        trackers: Trackers | None = None,
    ) -> None:
        self.number, self.num_rounds, self.ledger = number, config.num_rounds, ledger
        self.history: list[RoundRecord] = []
        self.num_clients: int | None = None
        self.seconds = {} if seconds is None else seconds
        self._seed, self._folder, self._trackers = config.seed, folder, trackers or Trackers()
        self._started = self._seconds_of_clients = 0.0
        self._num_seen = 0  # Releases of the ledger up to the latest one that was read.

    def rng(self, number: int) -> Streams:
        """Return the random streams of a round. The noise uses none of them."""
        return Streams(*np.random.default_rng([self._seed, self.number, number]).spawn(3))

    def label(self, number: int) -> str:
        """Name a round for progress bars and errors."""
        return f"Round {number}/{self.num_rounds}"

    @contextmanager
    def stage(self, name: str, label: str | None = None) -> Iterator[None]:
        """Measure the time of public work, and name its progress bars."""
        started = time.perf_counter()
        try:
            with progress_label(label or name.capitalize()):
                yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - started

    def keep(self, step: str, is_valid: Callable[[Any], bool], make: Callable[[], Any]) -> Any:
        """Return what a step made: read from the folder, or made now and written there."""
        kept = self.kept(step, is_valid)
        if kept is None:
            kept = make()
            if self._folder is not None:
                self._folder.write(f"run-{self.number}-{step}.json", kept)
        return kept

    def kept(self, step: str, is_valid: Callable[[Any], bool]) -> Any:
        """Return what a step made before, or None."""
        name = f"run-{self.number}-{step}"
        return broadcast(self._folder.read(name, is_valid) if self._folder is not None else None)

    @property
    def texts_step(self) -> str:
        """Name of the steps that keep texts which were written from the seeds."""
        return self._folder.texts_step if self._folder is not None else "texts"

    @property
    def is_released(self) -> bool:
        """Whether every answer of the run is in the ledger, so that no client has to be asked."""
        last = f"run-{self.number}-release-{self.num_rounds}"
        index = self._folder.read(last, is_count) if self._folder is not None else None
        return broadcast(index is not None and index < self.ledger.num_releases)

    def warn_of_a_second_one(self) -> None:
        """Warn, in the main process, that this run adds to the epsilon of those before it, or of one that failed."""
        begins_again = self._folder is None and self.ledger.num_releases > 0
        if not is_main_process() or (self.number == 1 and not begins_again):
            return
        plan = self.ledger.plan
        spent = [(release.mechanism, release.num_bins) for release in self.ledger.releases]
        now = self.ledger.epsilon(plan.delta)
        after = plan.epsilon(plan.delta, [*spent, *plan.one_run]) if math.isfinite(now) else now
        if self.number > 1:
            which = f"run {self.number}"
            before = "`generator.seeds` has the seeds of the run before, and `expand` costs nothing."
        else:
            which = "another run"
            before = "The run before it did not end, and without a `run_dir` nothing of it is kept."
        warnings.warn(
            f"This is {which} of this generator on private data: it raises epsilon from {rounded_up(now)} to "
            f"{rounded_up(after)}. {before}",
            stacklevel=4,
        )

    def noise_std(self, question: str) -> float:
        """Return the standard deviation of the noise in a bin of an answer."""
        mechanism = self.ledger.plan.entry(question).mechanism
        return mechanism.noise_std if self.num_clients is None else mechanism.noise_std_of_sum(self.num_clients)

    def release(self, about: Asks, clients: ClientPool | None) -> np.ndarray | None:
        """Return a noisy answer: from the ledger, or else from the clients. None if it was lost.

        Raises:
            ValueError: The run folder holds the answer to another question, or an older ledger.
        """
        self._started, self._seconds_of_clients = time.perf_counter(), 0.0
        label = self._label_of(about)
        index = self.keep(about.step, is_count, lambda: self.ledger.num_releases)
        if index == self.ledger.num_releases:
            self._check_ledger_is_the_latest(about.step, label)
            question = about.ask()
            asked = time.perf_counter()
            if clients is not None:
                try:
                    ClientPool.release(clients, question, self.ledger)  # Whatever an object calls `release`.
                except ReleaseLostError as error:
                    logger.warning("%s", error)
            self.ledger.share()
            self._seconds_of_clients = time.perf_counter() - asked
        self._num_seen = index + 1
        self._trackers.log_release(self.ledger, index)
        release = self.ledger.releases[index]
        if release.question != about.kind:
            raise ValueError(
                f"`run_dir`: the ledger has an answer to the question {release.question!r} where {label} asks "
                f"{about.kind!r}. It is the ledger of another run."
            )
        if release.answer is None:
            warnings.warn(f"{label}: the release was lost. It is counted, and skipped.", stacklevel=4)
            return None
        if about.num_bins not in (None, release.num_bins):
            raise ValueError(f"`run_dir`: the ledger has {release.num_bins} votes for {about.num_bins} candidates.")
        return np.array(release.answer)

    def record(self, candidates: Any, votes: np.ndarray, weights: np.ndarray, parents: np.ndarray) -> None:
        """Add a round to the history."""
        number = candidates.round
        # How long the clients take depends on what they hold, so it is not shown.
        seconds = time.perf_counter() - self._started - self._seconds_of_clients
        record = RoundRecord.of(number, votes, weights, np.unique(parents), seconds)
        kept = self.keep(f"record-{number}", RoundRecord.is_valid, lambda: asdict(record))
        self.history.append(RoundRecord.from_dict(kept))
        self._trackers.log_round(self.history[-1], self._num_seen)

    def begin(self, clients: ClientPool | None) -> int:
        """Return the number of clients that the run began with, and refuse a pool of another number."""
        now = broadcast(None if clients is None else clients.num_clients)
        begun = self.keep("clients", is_count, lambda: now)
        if now not in (None, begun):
            raise ValueError(
                f"`private` has {now} clients, but the run in `run_dir` began with {begun}. A run continues with the "
                "clients that it began with: give those, or choose another folder, whose epsilon adds to this one's."
            )
        self.num_clients = begun
        return begun

    def _label_of(self, about: Asks) -> str:
        number = about.step.removeprefix("release-")
        return self.label(int(number)) if number.isdigit() else f"The question {number!r}"

    def _check_ledger_is_the_latest(self, step: str, label: str) -> None:
        """Refuse to draw noise again for a release if the folder holds what came after it."""
        number = step.removeprefix("release-")
        after = [f"weights-{number}", f"record-{number}"]
        after += [f"candidates-{int(number) + 1}"] if number.isdigit() else AFTER_A_FIRST_QUESTION
        if self._folder is None:
            return
        is_known = any(self._folder.holds(f"run-{self.number}-{each}") for each in after)
        if is_known:
            raise ValueError(
                f"`run_dir`={str(self._folder.path)!r} holds what came after {label[0].lower()}{label[1:]}, but its "
                "ledger does not count that release: it is an older copy. Restore the latest one. An older one would "
                "draw noise again and state too small an epsilon."
            )
