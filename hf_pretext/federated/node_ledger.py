"""The ledger of what a node has answered, in all runs together.

What is released, to whom: nothing of this module leaves the node. The ledger holds public facts alone: when the node
answered which question of which run, and with which noise. An entry is on the disk before the noise of its answer is
drawn, so an answer that a crash lost is counted as well.

What an entry claims: the noise multiplier of its `Mechanism`, over the sensitivity that one client has. The node's own
noise is only a part of it. The rest comes from the other clients, as the docstring of `Mechanism` shows for a fraction
`max_dropout` of them that fail or conspire. All texts of the node are one client's, which is the unit of the total.

How entries compose: by the exact accountant, as a federation asks all of its clients (`client_sampling_rate`=1). If
entries differ in their neighboring relation, all are counted as if clients were exchanged. The sensitivity to an
exchange is at least that to an added client, so this bounds both.
"""

import hashlib
import json
import math
import os
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..artifacts import BUDGET_SUFFIX, STATE_FOLDER
from ..files import atomic_write, make_durable_folder, read_json
from ..privacy.accounting import find_accountant
from ..privacy.figures import rounded_up
from ..privacy.ledger import read_mechanism
from ..privacy.mechanism import Mechanism
from ..privacy.plan import Plan
from ..settings import shortened

FORMAT = 1
"""Format of a node's ledger."""

STAGES_SUFFIX = ".stages"
"""Of the file beside the ledger that says which messages of secure aggregation were answered."""

LOCK_SECONDS = 60.0
"""Seconds to wait for another process of the node that writes the ledger."""


class NodeError(ValueError):
    """Something that the node's owner has to mend. Its words are for the console of the node, not for the server."""


@dataclass(frozen=True)
class Answer:
    """One entry of the ledger: an answer that may have left the node.

    Args:
        id (`str`): A random name.
        time (`str`): When it was counted, in UTC, as ISO 8601.
        run (`int`): Flower's id of the run.
        question (`str`): Kind of the question.
        num_bins (`int`): Length of the answer.
        num_asked (`int`): Number of clients that were asked, among whom the noise was divided.
        noise_is_genuine (`bool`): Whether the noise was the library's own.
        mechanism (`Mechanism`): Noise, clipping norm and neighboring relation.
    """

    id: str
    time: str
    run: int
    question: str
    num_bins: int
    num_asked: int
    noise_is_genuine: bool
    mechanism: Mechanism

    @classmethod
    def now(cls, **values: Any) -> "Answer":
        """Make the entry of an answer that is about to be given."""
        time = datetime.now(UTC).isoformat(timespec="seconds")
        return cls(id=uuid.uuid4().hex[:16], time=time, **values)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Answer":
        """Read an entry that a ledger wrote. Anything else is a `ValueError`, `TypeError` or `KeyError`."""
        read = {each.name: values[each.name] for each in fields(cls)}
        for each in fields(cls)[:-1]:
            if type(read[each.name]) is not each.type:
                raise TypeError
        datetime.fromisoformat(read["time"])
        if read["num_bins"] < 1 or set(values) != set(read):
            raise ValueError
        return cls(**{**read, "mechanism": read_mechanism(read["mechanism"])})


def epsilon_of(releases: Sequence[tuple[Mechanism, int]], delta: float, is_exchange: bool = False) -> float:
    """Compute what answers of one client cost together.

    Args:
        releases (`Sequence` of `(Mechanism, int)`): Mechanism and number of bins of each.
        delta (`float`): The additive term of (epsilon, delta)-differential privacy.
        is_exchange (`bool`, *optional*, defaults to `False`):
            Count the exchange of the client's texts for others, whatever the mechanisms are stated for. It is also
            counted if they are stated for different relations.
    """
    if is_exchange or len({mechanism.neighboring_relation for mechanism, _ in releases}) > 1:
        releases = [(mechanism.for_exchange(), num_bins) for mechanism, num_bins in releases]
    return Plan((), delta, find_accountant("exact")).epsilon(delta, releases)


class NodeLedger:
    """The durable ledger of one node: all answers about its texts, of all runs and all copies of the app.

    It is a file beside the texts, named after the file that `private` leads to in the end. A second file, the marker,
    is in the state folder of the user (`$XDG_STATE_HOME`, or `~/.local/state`). It holds the number of entries and the
    id of the newest one. A ledger that lacks this entry is an older copy, or another one, and is refused.

    What this cannot notice: that both files were put back, as with the snapshot of a whole machine. That the marker is
    gone, as with a container whose home folder does not stay. That the texts were copied, moved or linked (by a hard
    link) to another path, machine or user, which begins with an empty ledger. And whether the other nodes add their
    noise.

    Args:
        private (`str` or `Path`): The texts, which are not read.
        path (`str` or `Path`, *optional*): Another file for the ledger.

    Raises:
        NodeError: There cannot be such a file.
    """

    def __init__(self, private: str | Path, path: str | Path | None = None) -> None:
        with _for_the_owner(f"`private`={shortened(str(private))} leads to no ledger"):
            # One text has one ledger, whatever link or relative path leads to it.
            resolved = Path(private).resolve()
            self.path = Path(f"{resolved}{BUDGET_SUFFIX}") if path is None else Path(path).resolve()
            state = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state").absolute()
            # By the name that the owner gave, so that a link that leads to another file tomorrow is noticed, and by
            # the file that it leads to, so that the same text under two names has one ledger.
            self.markers = [
                state / STATE_FOLDER / f"{hashlib.sha256(os.fsencode(name)).hexdigest()[:16]}.json"
                for name in dict.fromkeys((os.path.abspath(private), str(resolved)))
            ]

    def answers(self) -> list[Answer]:
        """Read all entries, the oldest first. There are none if there is no ledger yet.

        Raises:
            NodeError: The file is not a ledger, or not the latest one.
        """
        markers = list(map(str, self.markers))
        with _for_the_owner(f"The ledger {str(self.path)!r} or its markers {markers} cannot be read"):
            answers = self._read()[1] if os.path.lexists(self.path) else []
            for marker in self.markers:
                self._check_marker(marker, answers)
            return answers

    def limits(self) -> dict[str, float]:
        """Read the limits of the node's configuration as they were when it last answered, for people to read."""
        with _for_the_owner(f"The ledger {str(self.path)!r} cannot be read"):
            return self._read()[0]

    @contextmanager
    def locked(self) -> Iterator[list[Answer]]:
        """Read all entries, and keep other processes and copies of the app away until the block ends.

        Raises:
            NodeError: The file is not a ledger, or not the latest one, or cannot be read or written.
        """
        from filelock import FileLock

        with _for_the_owner(
            f"The ledger {str(self.path)!r} cannot be read or written, so nothing is answered. Give the SuperNode a "
            "folder on a lasting disk that it may write to: that of `private`, or of the file that `ledger` names in "
            f"its configuration. Also let it write the markers {list(map(str, self.markers))}"
        ):
            if not self.path.parent.is_dir():  # A disk that is not mounted, which `FileLock` would make a folder of.
                raise FileNotFoundError(f"There is no folder {str(self.path.parent)!r}.")
            make_durable_folder(self.markers[-1].parent)
            # That of the marker as well: two ledgers of one text would otherwise be written at once.
            with (
                FileLock(f"{self.markers[-1]}.lock", timeout=LOCK_SECONDS),
                FileLock(f"{self.path}.lock", timeout=LOCK_SECONDS),
            ):
                yield self.answers()

    def write(self, answers: Sequence[Answer], max_epsilon: float, max_delta: float) -> None:
        """Write all entries, inside of `locked`. They are on the disk on return.

        Args:
            answers (`Sequence` of `Answer`): All of them, the oldest first.
            max_epsilon (`float`): The limit of the node, for people who read the ledger.
            max_delta (`float`): The same.
        """
        limits = {"max_epsilon": max_epsilon, "max_delta": max_delta}
        content = {"format": FORMAT, **limits, "answers": [asdict(answer) for answer in answers]}
        atomic_write(self.path, json.dumps(content, indent=1) + "\n")
        # Second, so that a crash between the two leaves a ledger with more than the marker knows.
        newest = answers[-1].id if answers else None
        make_durable_folder(self.markers[0].parent)
        marked = {"ledger": str(self.path), "num_answers": len(answers), "newest": newest}
        for marker in self.markers:
            atomic_write(marker, json.dumps(marked) + "\n")

    def burn(self, line: str) -> bool:
        """Add a line to the list of stages beside the ledger, inside of `locked`. False if it is there already.

        Lines are on the disk on return, also after a crash in the middle of another line. The list holds hashes of
        public keys and names of stages.
        """
        content = self._stages.read_text() if self._stages.exists() else ""
        if line in content.splitlines():
            return False
        with self._stages.open("a") as file:
            file.write(f"{line}\n" if content.endswith("\n") or not content else f"\n{line}\n")
            file.flush()
            os.fsync(file.fileno())
        return True

    def burnt(self) -> set[str]:
        """Read the list of stages, inside of `locked`."""
        return set(self._stages.read_text().splitlines()) if self._stages.exists() else set()

    @property
    def _stages(self) -> Path:
        return Path(f"{self.path}{STAGES_SUFFIX}")

    def _read(self) -> tuple[dict[str, float], list[Answer]]:
        try:
            content = read_json(self.path)
            if content["format"] != FORMAT or not isinstance(content["answers"], list):
                raise ValueError
            answers = [Answer.from_dict(each) for each in content["answers"]]
            if len({answer.id for answer in answers}) < len(answers):
                raise ValueError
            limits = {name: float(content[name]) for name in ("max_epsilon", "max_delta")}
            if not all(0 < limit < math.inf for limit in limits.values()):
                raise ValueError
        except (ValueError, KeyError, TypeError):
            raise NodeError(
                f"{str(self.path)!r} is not a node's ledger that this version wrote, so it is not known what this "
                "node has spent. Restore its latest copy. If there is none, assume that the whole budget is spent, "
                "and stop the SuperNode."
            ) from None
        return limits, answers

    def _check_marker(self, marker: Path, answers: Sequence[Answer]) -> None:
        if not os.path.lexists(marker):
            return
        try:
            marked = read_json(marker)
            number, newest = marked["num_answers"], marked["newest"]
            is_newest = number == 0 or (len(answers) >= number > 0 and answers[number - 1].id == newest)
        except (ValueError, KeyError, TypeError):
            raise NodeError(
                f"The marker {str(marker)!r} is damaged. If {str(self.path)!r} is the latest ledger of this "
                "node, remove the marker, which is then written again."
            ) from None
        if not is_newest:
            raise NodeError(
                f"{str(self.path)!r} lacks the newest of {number} answers that the marker {str(marker)!r} knows. "
                "It is an older copy, belongs to another text, or was removed. Restore the latest copy. Only if "
                "`private` now holds another client's texts, remove the marker."
            )


@contextmanager
def _for_the_owner(words: str) -> Iterator[None]:
    """Turn an error of the operating system into one with words for the node's owner."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        raise NodeError(f"{words}. ({type(error).__name__}: {error})") from None


def statement(ledger: NodeLedger) -> str:
    """Write what a node has spent, on what, and when: a Markdown table, and a sentence with the total epsilon.

    Args:
        ledger (`NodeLedger`): The ledger. Texts are not read.

    Raises:
        NodeError: The ledger cannot be read, or is not the latest one.
    """
    answers = ledger.answers()
    if not answers:
        return f"This node has answered nothing: {str(ledger.path)!r} counts no answer."
    limits = ledger.limits()
    groups: dict[Any, list[Answer]] = {}
    for answer in answers:
        groups.setdefault((answer.run, answer.question, answer.mechanism, answer.noise_is_genuine), []).append(answer)
    delta = limits["max_delta"]
    rows = [_row(each, delta) for each in groups.values()]
    present, exchanged = (rounded_up(_total(answers, delta, is_exchange)) for is_exchange in (False, True))
    are_added = {answer.mechanism.neighboring_relation for answer in answers} == {"add_or_remove_one"}
    total = f"{exchanged} for which texts this client has"
    if are_added:
        total = f"{present} for whether this client's texts are there, and {exchanged} for which texts they are"
    number = "1 answer costs" if len(answers) == 1 else f"{len(answers):,} answers together cost"
    return "\n".join(
        [
            "| from (UTC) | to (UTC) | run | question | answers | bins | noise multiplier | norm | asked | epsilon |",
            "|---|---|---|---|---|---|---|---|---|---|",
            *rows,
            "",
            f"{number} epsilon = {total}, at delta = {rounded_up(delta)}. The node's limit is `max-epsilon`="
            f"{limits['max_epsilon']:g}. All of this is from {str(ledger.path)!r}.",
        ]
    )


def _total(answers: Sequence[Answer], delta: float, is_exchange: bool = False) -> float:
    if not all(answer.noise_is_genuine for answer in answers):
        return math.inf
    return epsilon_of([(answer.mechanism, answer.num_bins) for answer in answers], delta, is_exchange)


def _row(answers: Sequence[Answer], delta: float) -> str:
    first, last = answers[0], answers[-1]
    asked = sorted({answer.num_asked for answer in answers})
    cells = [
        *(each.time.removesuffix("+00:00").replace("T", " ") for each in (first, last)),
        first.run,
        first.question,
        len(answers),
        max(answer.num_bins for answer in answers),
        f"{first.mechanism.noise_multiplier:.4g}" if first.noise_is_genuine else "not the library's noise",
        f"{first.mechanism.clip_norm:g}",
        "-".join(map(str, dict.fromkeys((asked[0], asked[-1])))),
        rounded_up(_total(answers, delta)),
    ]
    return "| " + " | ".join(map(str, cells)) + " |"
