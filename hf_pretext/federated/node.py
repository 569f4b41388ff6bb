"""What the owner of a node sets, and what it holds against it: all answers so far, and the rest of a run.

What is released, to whom: to the server, whether the node answers. That follows from the owner's limits, the run's
plan, which is public, and the ledger (see `node_ledger`). None of them depends on the text.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from typing import Any

from ..privacy.figures import rounded_up
from ..privacy.plan import Plan, PlannedRelease
from ..settings import check_settings, setting, shortened
from .masking import KEYS
from .node_ledger import Answer, NodeError, NodeLedger, epsilon_of

ROUNDING = 1 + 1e-9
"""What floating point may add to a limit."""


class RefusalError(ValueError):
    """A node's refusal. The server gets its words, so they hold public facts only."""


@dataclass(frozen=True, kw_only=True)
class NodeSettings:
    """The configuration of one node, in `flower-supernode --node-config`. Hyphens may replace underscores.

    Args:
        private (`str`, *optional*): File or folder of this client's texts. The nodes of a simulation have none.
        max_epsilon (`float`, *optional*): Most epsilon of all answers of the node together. `private` needs it.
        max_delta (`float`, *optional*):
            The delta of that epsilon. A run whose own delta is larger is refused. `private` needs it.
        ledger (`str`, *optional*):
            File of the node's ledger, for text in a folder that cannot be written. By default it is beside `private`.
        min_clients (`int`, *optional*):
            Fewest clients that are asked in a release. The node cannot see whether they are different people.
        min_colluding (`int`, *optional*):
            Fewest clients that a run has to be safe from if they conspire with its server. The run's own number is
            `max_colluding` of its `num_clients`, which the server chooses.
        partition_id (`int`, *optional*): Number of the node in a simulation, which Flower gives.
        num_partitions (`int`, *optional*): Number of nodes in a simulation, which Flower gives.

    Raises:
        TypeError: A value has the wrong type.
        ValueError: A value is out of its range, or a node with `private` lacks a limit.
    """

    private: str | None = setting(None, help="File or folder of this client's texts.")
    max_epsilon: float | None = setting(
        None, help="Most epsilon of all answers together.", above=0, hint="It is the most that all runs may cost."
    )
    max_delta: float | None = setting(
        None, help="The delta of that epsilon.", above=0, below=1, hint="Choose it well below one over the clients."
    )
    ledger: str | None = setting(None, help="File of the ledger, if it cannot be beside the texts.")
    min_clients: int | None = setting(None, help="Fewest clients that are asked in a release.", at_least=3)
    min_colluding: int | None = setting(None, help="Fewest clients that may conspire with the server.", at_least=1)
    partition_id: int | None = setting(None, help="Number of the node in a simulation.", at_least=0)
    num_partitions: int | None = setting(None, help="Number of nodes in a simulation.", at_least=1)

    def __post_init__(self) -> None:
        check_settings(self)
        if missing := [name for name in ("max_epsilon", "max_delta") if vars(self)[name] is None]:
            if self.private is not None:
                raise ValueError(
                    f"`private` needs the keys {missing} beside it: what all runs together may cost this client, as "
                    "in `max-epsilon=3.0 max-delta=1e-6`."
                )

    @classmethod
    def from_node_config(cls, node_config: Mapping[str, Any]) -> "NodeSettings":
        """Read the configuration of a Flower node.

        Raises:
            NodeError: A key is unknown, missing or there twice, or a value is not valid.
        """
        known = {each.name for each in fields(cls)}
        names = Counter(key.replace("-", "_") for key in node_config)
        unknown = sorted(set(names) - known)
        near = sorted({match for key in unknown for match in get_close_matches(key[:100], known, n=1)})
        try:
            if unknown:
                hint = f" Did you mean {near}?" if near else ""
                raise ValueError(f"The keys {shortened(unknown)} are unknown.{hint} Known are {sorted(known)}.")
            if twice := [name for name, count in names.items() if count > 1]:
                raise ValueError(f"The keys {twice} are given twice, with hyphens and underscores. Give each once.")
            return cls(**{key.replace("-", "_"): value for key, value in node_config.items()})
        except (ValueError, TypeError) as error:
            raise NodeError(f"The configuration of this node is not valid. {error}") from None


@dataclass(frozen=True)
class AskedRun:
    """What a server asks a node for in one run.

    Args:
        id (`int`): Flower's id of the run.
        plan (`Plan`): Its plan.
        wanted (`Mapping[str, int]`, *optional*):
            How many answers to a kind of question the server wants, if fewer than the plan has. It resumes a run that
            has the others. If this is not true, the server gets no more than the limits allow all the same.
    """

    id: int
    plan: Plan
    wanted: Mapping[str, int] = field(default_factory=dict)

    def rest(self, answers: Sequence[Answer]) -> dict[str, int]:
        """Count what the run may still ask for, by kind of question."""
        done = Counter(answer.question for answer in answers if answer.run == self.id)
        return {each.question: max(0, self.number(each) - done[each.question]) for each in self.plan.releases}

    def number(self, entry: PlannedRelease) -> int:
        """Return how many answers of a kind the run has, as planned or, if they are fewer, as wanted."""
        return min(entry.count, self.wanted.get(entry.question, entry.count))


class NodeBudget:
    """Holds what servers ask for against the limits of a node with private text.

    Args:
        node (`NodeSettings`): The limits, and where the ledger is.
        noise_is_genuine (`bool`): Whether the noise is the library's own. With any other there is no limit to hold.

    Raises:
        NodeError: There cannot be a ledger beside the text.
    """

    def __init__(self, node: NodeSettings, noise_is_genuine: bool) -> None:
        assert node.private is not None and node.max_epsilon is not None and node.max_delta is not None
        self._ledger = NodeLedger(node.private, node.ledger)
        self._max_epsilon, self._max_delta = node.max_epsilon, node.max_delta
        self._noise_is_genuine = noise_is_genuine

    def check(self, run: AskedRun) -> None:
        """Refuse a run that costs more than is left, and a ledger that cannot be written, before anything is spent.

        Raises:
            RefusalError: All answers so far and the rest of this run would cost more than the limits.
            NodeError: The ledger cannot be read or written, or is not the latest one.
        """
        with self._ledger.locked() as answers:
            self._check_limits(run, answers)
            if all(answer.run != run.id for answer in answers):  # Try it before the run has cost anything.
                self._ledger.write(answers, self._max_epsilon, self._max_delta)

    def record(self, run: AskedRun, question: str, num_bins: int, num_asked: int) -> None:
        """Count one answer, before its noise is drawn. It is on the disk on return.

        Args:
            run (`AskedRun`): The run.
            question (`str`): Kind of the question, which is in the plan.
            num_bins (`int`): Length of the answer.
            num_asked (`int`): Number of clients that were asked.

        Raises:
            RefusalError: The run has all of its answers, or the limits are reached.
            NodeError: The ledger cannot be read or written, or is not the latest one.
        """
        entry = run.plan.entry(question)
        with self._ledger.locked() as answers:
            if not run.rest(answers)[question]:
                raise RefusalError(all_answered(question, run.number(entry)))
            self._check_limits(run, answers)
            answer = Answer.now(
                run=run.id,
                question=question,
                num_bins=num_bins,
                num_asked=num_asked,
                noise_is_genuine=self._noise_is_genuine,
                mechanism=entry.mechanism,
            )
            self._ledger.write([*answers, answer], self._max_epsilon, self._max_delta)

    def burn(self, keys: str, stage: str) -> None:
        """Remember that a stage of secure aggregation was asked for with these keys. It is on the disk on return.

        Raises:
            RefusalError: It was asked for before, in this process or in another one.
            NodeError: The ledger cannot be read or written.
        """
        with self._ledger.locked():
            if not self._ledger.burn(f"{keys} {stage}"):
                raise RefusalError(already_answered(stage))

    def made_any(self, keys: Sequence[str]) -> bool:
        """Return whether any process with this ledger has made one of these keys, which it burns as it makes them.

        Raises:
            NodeError: The ledger cannot be read or written.
        """
        with self._ledger.locked():
            burnt = self._ledger.burnt()
        return any(f"{each} {KEYS}" in burnt for each in keys)

    def _check_limits(self, run: AskedRun, answers: Sequence[Answer]) -> None:
        if not self._noise_is_genuine:
            return
        if run.plan.delta > self._max_delta * ROUNDING:
            raise RefusalError(
                f"`max-delta`={self._max_delta:g} of this node is less than this run's {rounded_up(run.plan.delta)}."
            )
        numbers = run.rest(answers)
        rest = [(each.mechanism, each.num_bins) for each in run.plan.releases for _ in range(numbers[each.question])]
        alone = epsilon_of(rest, self._max_delta)
        if alone > self._max_epsilon * ROUNDING:
            raise RefusalError(
                f"`max-epsilon`={self._max_epsilon:g} of this node is less than this run's {rounded_up(alone)}."
            )
        spent = [(answer.mechanism, answer.num_bins) for answer in answers]
        is_known = all(answer.noise_is_genuine for answer in answers)
        if not is_known or epsilon_of([*spent, *rest], self._max_delta) > self._max_epsilon * ROUNDING:
            raise RefusalError(
                f"`max-epsilon`={self._max_epsilon:g} of this node is less than what it has answered so far and the "
                "rest of this run cost together."
            )


def already_answered(stage: str) -> str:
    """Say that the server asks twice for one message of secure aggregation."""
    return f"This client was asked for the stage {stage!r} with these keys already."


def all_answered(question: str, number: int) -> str:
    """Say that a run asks for more answers of a kind than it has."""
    return f"This run has {number} releases of {question!r}, and this client has answered all of them."
