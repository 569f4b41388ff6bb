"""Live figures of a run for trackers such as trackio: what was released, what it has cost, and how rounds went.

*Released*: no new figure. Everything that is sent is a function of the ledger's counts and of the record of a round,
which a report and a page publish anyway. No answer of clients is sent.

*To whom*: the trusted side, like the console. A tracker notes when a figure arrives, so it shows how long the clients
took, which depends on what they hold and which no guarantee covers. Some also note how busy the machine is.
"""

import logging
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, Protocol, runtime_checkable

from ..privacy.ledger import PrivacyLedger
from ..privacy.report import PrivacyReport
from ..processes import is_main_process, process_state
from .history import RoundRecord

logger = logging.getLogger(__name__)

PROJECT = "hf_pretext"
"""What trackers call the project."""

LOGGING_DIR = "runs"
"""Folder of the trackers that write to one, such as TensorBoard. It is that of `transformers` as well."""


@runtime_checkable
class Tracker(Protocol):
    """What receives the figures, such as a `GeneralTracker` of accelerate, or an object of your own."""

    def log(self, values: dict[str, float], step: int | None = None) -> Any:
        """Take figures of a step, which is the number of releases so far."""
        ...


class Trackers:
    """Sends figures to trackers while a run goes on. A tracker that fails is left out, and the run goes on.

    Args:
        report_to (`str`, `Tracker`, or a `Sequence` of them, *optional*):
            Names as `report_to` of transformers has them, such as `"trackio"`, `"tensorboard"` or `"wandb"`, `"all"`
            for all that are installed, or objects of your own with `log(values, step)`.

    Raises:
        ValueError: There is no tracker of that name.
        ImportError: It is not installed.
        TypeError: It is neither a name nor has it `log`.
    """

    def __init__(self, report_to: "str | Tracker | Sequence[str | Tracker] | None" = None) -> None:
        given: Any = () if report_to in (None, "none") else report_to
        listed = [given] if isinstance(given, (str, Tracker)) else given
        if not isinstance(listed, (list, tuple)):
            raise TypeError(f"`report_to` of type {type(report_to).__name__} must be a name such as 'trackio'.")
        self._own = [each for each in listed if not isinstance(each, str)]
        if wrong := [each for each in self._own if not isinstance(each, Tracker)]:
            raise TypeError(f"`report_to` holds a {type(wrong[0]).__name__}, which is no name and has no `log`.")
        self._named = [name for each in listed if isinstance(each, str) for name in _installed(each)]
        self._open: list[Any] = []
        self._started: list[Any] = []
        self._warnings = ExitStack()
        self.earlier: Sequence[PrivacyReport] | None = ()
        """What the model that writes had learned before. None: its guarantee is not known."""

    def __enter__(self) -> "Trackers":
        if is_main_process():
            self._started = list(filter(None, map(_start, self._named)))
            self._open = [*self._own, *self._started]
        if self._started:
            # Some send what the console shows, and the private side may warn of one client's text.
            self._warnings.enter_context(_warnings_afterwards())
        return self

    def __exit__(self, *_: object) -> None:
        for each in self._started:
            _attempt(each.finish)
        self._open = self._started = []
        self._warnings.close()

    def log_release(self, ledger: PrivacyLedger, index: int) -> None:
        """Send what all releases up to this one cost, with what the model that writes had learned before.

        Args:
            ledger (`PrivacyLedger`): Counts the releases.
            index (`int`): Index of the release there.
        """
        if not self._open:
            return
        own, earlier = ledger.plan.delta, self.earlier or ()
        epsilon = math.fsum([ledger.epsilon(own, index + 1), *(each.epsilon for each in earlier)])
        delta = math.fsum([own, *(each.delta for each in earlier)])
        known = {"privacy/epsilon": math.inf if self.earlier is None else epsilon, "privacy/delta": delta}
        self._log(known, index + 1)

    def log_round(self, record: RoundRecord, step: int) -> None:
        """Send what a round did.

        Args:
            record (`RoundRecord`): The round.
            step (`int`): Number of releases up to this round.
        """
        names = ("round", "num_candidates", "num_above_threshold", "num_survivors", "seconds")
        self._log({f"evolution/{name}": float(vars(record)[name]) for name in names}, step)

    def _log(self, values: dict[str, float], step: int) -> None:
        self._open = [each for each in self._open if _attempt(partial(each.log, values, step=step))]


@contextmanager
def _warnings_afterwards() -> Iterator[None]:
    """Hold warnings back until the end, and give them then."""
    held: list[warnings.WarningMessage] = []
    try:
        with warnings.catch_warnings(record=True) as held:
            yield
    finally:
        for each in held:
            warnings.warn_explicit(each.message, each.category, each.filename, each.lineno)


def _installed(name: str) -> list[str]:
    """Return the trackers of a name, all of which can be imported."""
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

    installed = [str(each) for each in get_available_trackers()]
    if name == "all":
        return installed
    if name not in LOGGER_TYPE_TO_CLASS:
        known = ["none", "all", *sorted(LOGGER_TYPE_TO_CLASS)]
        raise ValueError(f"`report_to`={name!r} is not a tracker that accelerate knows. Known are {known}.")
    if name not in installed:
        raise ImportError(
            f"`report_to`={name!r} is not installed. Install it (`pip install {name}`), or leave it out."
        )
    return [name]


def _start(name: str) -> Any:
    """Start a tracker, and return it. None if it cannot be started."""
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS

    kind = LOGGER_TYPE_TO_CLASS[name]
    where = {"logging_dir": LOGGING_DIR} if kind.requires_logging_directory else {}
    process_state()  # A tracker asks accelerate which process is the main one.
    made: list[Any] = []

    def start() -> None:
        tracker = kind(PROJECT, **where)
        tracker.start()
        made.append(tracker)

    return made[0] if _attempt(start) else None


def _attempt(call: Callable[[], Any]) -> bool:
    """Return whether a call to a tracker worked. What was spent must not be lost because a website is down."""
    try:
        call()
    except Exception as error:  # A tracker may raise anything.
        logger.warning("A tracker of `report_to` failed, and gets no more figures: %s", error)
        return False
    return True
