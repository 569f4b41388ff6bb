"""The server's side: a `ClientPool` over Flower's grid, and the ServerApp that runs the generator with it."""

import json
import logging
import statistics
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from flwr.app import ConfigRecord, Context, RecordDict
from flwr.common import FitIns, ndarrays_to_parameters, parameters_to_ndarrays
from flwr.compat.common import recorddict_compat
from flwr.serverapp import Grid, ServerApp

from ..artifacts import FEDERATION_NAME, RUN_FOLDER
from ..clients.pool import ClientPool, warn_of_delta, warn_of_few_clients
from ..clients.questions import Question
from ..files import atomic_write, make_durable_folder, read_json
from ..generator import PrivateEvolutionGenerator
from ..privacy.ledger import Release, ReleaseLostError
from ..privacy.mechanism import Mechanism
from ..privacy.plan import Plan
from ..saved_runs import check_folder
from .checked_grid import POLL_SECONDS, CheckedGrid, demand
from .client import KNOWS, PLAIN
from .masked_server import MaskedSum
from .node_texts import read_rows_of
from .protocol import REACH, Encoded, announce, check_capacity, encode, num_colluding, num_summed, terms_of
from .settings import FederationSettings

# A child of Flower's logger, which has the console.
logger = logging.getLogger(f"flwr.{__name__}")

MAX_LOST_IN_A_ROW = 2
"""Releases that may be lost in a row before a run stops, instead of spending the rest of its budget."""


@dataclass(frozen=True)
class FederatedRound:
    """What a release cost, and how many clients participated.

    Args:
        question (`str`): Kind of the question.
        num_bins (`int`): Length of an answer.
        num_asked (`int`): Clients that were asked.
        num_answered (`int`): Clients whose masked answers arrived.
        num_needed (`int`): Answers below which the release is discarded.
        is_released (`bool`): Whether the sum was released.
        seconds (`float`): Seconds from the question to the sum, at the server.
        bytes_down (`float`): Bytes to a client, on average, before transport.
        bytes_up (`float`): Bytes from a client that answered, on average, before transport.
    """

    question: str
    num_bins: int
    num_asked: int
    num_answered: int
    num_needed: int
    is_released: bool
    seconds: float
    bytes_down: float
    bytes_up: float


class Summed(NamedTuple):
    """The answers of one release together.

    Args:
        total (`np.ndarray`, *optional*): Their sum, int64. None if it was not opened.
        answered (`set` of `int`): The nodes whose answers arrived.
        num_needed (`int`): Number of answers without which there is no sum.
    """

    total: np.ndarray | None
    answered: set[int]
    num_needed: int


class FederatedClientPool(ClientPool):
    """Asks the clients of a federation.

    What is released, and to whom: the sum of the clients' noisy vectors, to the server. The noise is added by the
    clients (see `client`). With secure aggregation that sum is all that the server can read of the answers. If too few
    clients answer, the release stays counted, and no one gets it.

    Args:
        grid (`flwr.serverapp.Grid`): The way to the clients.
        context (`flwr.app.Context`): The run's context.
        settings (`FederationSettings`): The settings of the federation.
        plan (`Plan`): The releases of the run: `generator.ledger.plan`.
        noise_is_genuine (`bool`, *optional*, defaults to `True`):
            False if the clients' app was made with other noise, in tests.
        record (`Path`, *optional*): File that keeps `rounds`, for a run that is resumed.
        earlier (`Sequence[Release]`, *optional*):
            Releases that a run that is resumed has already. A node's limit has to leave room for the others only.

    Attributes:
        rounds (`list` of `FederatedRound`): What every release cost.

    Raises:
        ValueError: The plan is not one of a federation, or does not fit into secure aggregation.
    """

    def __init__(
        self,
        grid: Grid,
        context: Context,
        settings: FederationSettings,
        plan: Plan,
        *,
        noise_is_genuine: bool = True,
        record: Path | None = None,
        earlier: Sequence[Release] = (),
    ) -> None:
        for entry in plan.releases:
            check_capacity(entry.mechanism, settings.num_clients)
            num_summed(entry.mechanism, settings.num_clients, _num_colluding(settings))
        self._grid = grid
        self._context = context
        self._settings = settings
        self._plan = plan
        done = Counter(release.question for release in earlier)
        self._wanted = {entry.question: max(0, entry.count - done[entry.question]) for entry in plan.releases}
        self._noise_is_genuine = noise_is_genuine
        self._record = record
        # By question and node: the fewest clients among whom it will answer, or None if it will not.
        self._replies: dict[str, dict[int, int | None]] = {}
        self._num_dimensions: int | None = None
        self._nodes: list[int] = []
        self._silent: set[int] = set()
        self._keys_seen: set[bytes] = set()
        self.rounds: list[FederatedRound] = []
        if record is not None and record.is_file():
            self.rounds = [FederatedRound(**each) for each in read_json(record)]
        self._num_before = len(self.rounds)  # Of earlier processes of the same run.

    @property
    def num_clients(self) -> int:
        """Number of clients that the run began with. It counts as public."""
        return self._settings.num_clients

    @property
    def plan(self) -> Plan:
        """The plan that the pool was made for."""
        return self._plan

    @property
    def noise_is_genuine(self) -> bool:
        """Whether the clients add the library's own noise, and no subclass stands between."""
        return type(self) is FederatedClientPool and self._noise_is_genuine

    def check_dimensions(self, num_dimensions: int) -> None:
        """Let each client compare them with its own, before the first release. See `ClientPool`."""
        self._num_dimensions = num_dimensions

    def _prepare(self, question: Question, mechanism: Mechanism) -> None:
        """Wait for the clients, and ask those that will answer by this plan. Nothing is spent yet.

        Raises:
            TimeoutError: Too few clients are connected.
            RuntimeError: The releases before this one were lost, one after the other.
            ValueError: Too few clients will.
        """
        latest = self._own_rounds[-MAX_LOST_IN_A_ROW:]
        if len(latest) == MAX_LOST_IN_A_ROW and not any(each.is_released for each in latest):
            raise RuntimeError(
                f"{MAX_LOST_IN_A_ROW} rounds in a row were lost, because too few clients answered or because one "
                "breaks the protocol. The warnings above say more. Nothing was spent for this round. Mend the cause, "
                "and start the run again: it resumes from its folder."
            )
        willing = self._knowing(question, self._wait_for(self._num_needed(question)))
        # No more than the run has, and first of all those that were asked before: clients refuse to share the noise
        # among more. Who joins late takes the place of one that left, or that did not answer in the last release. Who
        # answers in time does not depend on texts, and no noise is saved by who is not asked.
        before = set(self._nodes) - self._silent
        self._nodes = sorted(willing, key=lambda node: (node in self._silent, node not in before, node))
        self._nodes = self._nodes[: self.num_clients]
        check_capacity(mechanism, len(self._nodes))

    def _answer(self, question: Question, mechanism: Mechanism) -> np.ndarray:
        """Get the noisy sum from the clients. See `ClientPool`."""
        nodes = self._nodes
        needed = num_summed(mechanism, len(nodes), _num_colluding(self._settings))
        encoded = encode(question, self._settings.candidate_bits)
        encoded = Encoded(encoded.arrays, {**encoded.numbers, "num_asked": len(nodes)})
        grid = CheckedGrid(self._grid)
        started = time.perf_counter()
        ask = self._sum_masked if self._settings.secure_aggregation else self._sum_plain
        total, answered, needed = ask(grid, nodes, needed, question, encoded)
        self._silent, num_answered = set(nodes) - answered, len(answered)
        why = "Too few of them answered at all stages, or one of them breaks the protocol."
        if total is not None and not _is_plausible(total, num_answered, len(nodes), mechanism):
            total = None
            why = "They add up to more than answers with noise can: one of them sent wild numbers."
            logger.warning("The release is lost. %s", why)
        self.rounds.append(
            FederatedRound(
                question=question.name,
                num_bins=question.num_bins,
                num_asked=len(nodes),
                num_answered=num_answered,
                num_needed=needed,
                is_released=total is not None,
                seconds=time.perf_counter() - started,
                bytes_down=statistics.fmean(grid.bytes_down.values() or [0]),
                bytes_up=statistics.fmean(grid.bytes_up.values() or [0]),
            )
        )
        if self._record is not None:
            make_durable_folder(self._record.parent)
            atomic_write(self._record, json.dumps([asdict(each) for each in self.rounds], indent=2) + "\n")
        if total is None:
            # Nodes that would no longer answer say so before the next release is counted.
            self._replies.clear()
            raise ReleaseLostError(
                f"{num_answered} of {len(nodes)} clients answered, and {needed} are needed for their noise to be "
                f"enough, and for their masks to come off. {why} The release is discarded, and counted as spent."
            )
        return total

    def costs(self) -> dict[str, Any] | None:
        """Sum up the releases for the card: bytes and seconds on average, fewest answers."""
        released = [each for each in self.rounds if each.is_released]
        if not released:
            return None
        fewest = min(released, key=lambda each: each.num_answered)
        means = {
            name: statistics.fmean(vars(each)[name] for each in released)
            for name in ("bytes_down", "bytes_up", "seconds")
        }
        counts = {name: vars(fewest)[name] for name in ("num_asked", "num_answered", "num_needed")}
        is_masked = self._settings.secure_aggregation
        return {**means, **counts, "num_rounds": len(self.rounds), "is_masked": is_masked}

    def _knowing(self, question: Question, nodes: list[int]) -> list[int]:
        """Ask the nodes that have not been asked whether they will answer a question by this plan.

        That depends on their software and their own limits, and not on their text. A node that answers only among more
        clients than there are is left out, before it would take the release with it. Who refused, or did not answer,
        is asked again only if there are too few without it: each time it could take all of `round_timeout`.

        Raises:
            ValueError: No node will. The message has the first refusal.
        """
        replies = self._replies.setdefault(question.name, {})
        announced = announce(question, self._plan, self._wanted, self._terms(0), self._num_dimensions)
        content = RecordDict({KNOWS: ConfigRecord(announced)})
        grid = CheckedGrid(self._grid)

        def read(_: int, record: Mapping[str, Any]) -> int:
            demand(type(record["min_clients"]) is int, "`min_clients` is not a whole number")
            return int(record["min_clients"])

        def ask(some: list[int]) -> list[int]:
            replies.update(dict.fromkeys(some))
            timeout = self._settings.round_timeout
            replies.update(grid.ask(KNOWS, dict.fromkeys(some, content), timeout, KNOWS, read))
            willing = {node: fewest for node in nodes if (fewest := replies[node]) is not None}
            # Whoever goes may leave too few for another one.
            while small := [node for node, fewest in willing.items() if fewest > min(len(willing), self.num_clients)]:
                grid.refusals.append(
                    f"{len(willing)} clients are fewer than `min-clients`={willing[small[0]]} of a node."
                )
                willing = {node: fewest for node, fewest in willing.items() if node not in small}
            return list(willing)

        needed = self._num_needed(question)
        others = [node for node in nodes if node in replies and replies[node] is None]
        willing = ask([node for node in nodes if node not in replies])
        if len(willing) < needed and others:
            willing = ask(others)
        if len(willing) < needed:
            first = f" The first refusal: {grid.refusals[0][:300]}" if grid.refusals else ""
            raise ValueError(
                f"{len(willing)} of {len(nodes)} clients will answer the question {question.name!r}, and {needed} are "
                f"needed. Nothing was spent.{first}"
            )
        return willing

    def _num_needed(self, question: Question) -> int:
        """Return the number of clients without which a release does not begin."""
        mechanism = self._plan.entry(question.name).mechanism
        return num_summed(mechanism, self.num_clients, _num_colluding(self._settings))

    @property
    def _own_rounds(self) -> list[FederatedRound]:
        """The releases of this process."""
        return self.rounds[self._num_before :]

    def _wait_for(self, num_clients: int) -> list[int]:
        """Wait until all clients of the run, or at least enough of them, are connected."""
        end = time.monotonic() + self._settings.round_timeout
        # Late clients get some time, unless the run has begun without them.
        patience = end if not self._own_rounds else time.monotonic()
        while True:
            nodes = sorted(self._grid.get_node_ids())
            now = time.monotonic()
            if len(nodes) >= self.num_clients or (len(nodes) >= num_clients and now >= patience):
                return nodes
            if now >= end:
                raise TimeoutError(
                    f"{len(nodes)} clients are connected, and {num_clients} are needed of `num_clients`="
                    f"{self.num_clients}. Nothing was spent for this round. The run resumes from its folder."
                )
            time.sleep(POLL_SECONDS)

    def _sum_masked(
        self, grid: CheckedGrid, nodes: list[int], needed: int, question: Question, encoded: Encoded
    ) -> Summed:
        """Sum the answers under masks."""
        colluding, terms = _num_colluding(self._settings), self._terms(len(nodes))
        timeout, seen = self._settings.round_timeout, self._keys_seen
        release = MaskedSum(grid, nodes, needed, colluding, terms, question.num_bins, timeout, seen)
        try:
            total = release.ask(_message_of(encoded), encoded.digest(question))
        except ValueError as error:
            # A client's share that is sound in form and wrong in substance ends here as well.
            logger.warning("The release is lost: %s", error)
            total = None
        return Summed(total, release.answered, release.num_to_open)

    def _terms(self, num_asked: int) -> bytes:
        settings = self._settings
        return terms_of(self._plan, settings.num_clients, settings.max_colluding, num_asked, self._context.run_id)

    def _sum_plain(
        self, grid: CheckedGrid, nodes: list[int], needed: int, question: Question, encoded: Encoded
    ) -> Summed:
        """Sum answers without masks, which clients send in simulations only."""

        def read(_: int, content: RecordDict) -> np.ndarray:
            (answer,) = parameters_to_ndarrays(recorddict_compat.recorddict_to_fitres(content, True).parameters)
            demand(answer.shape == (question.num_bins,) and bool(np.isfinite(answer).all()), "it is no answer")
            return answer.astype(np.int64)

        contents = dict.fromkeys(nodes, _message_of(encoded))
        answers = grid.ask_for(PLAIN, contents, self._settings.round_timeout, read)
        total = np.sum([*answers.values()], axis=0) if len(answers) >= needed else None
        return Summed(total, set(answers), needed)


def _num_colluding(settings: FederationSettings) -> int:
    return num_colluding(settings.num_clients, settings.max_colluding)


def _message_of(encoded: Encoded) -> RecordDict:
    instructions = FitIns(ndarrays_to_parameters(encoded.arrays), encoded.numbers)
    return recorddict_compat.fitins_to_recorddict(instructions, keep_input=True)


def _is_plausible(total: np.ndarray, num_answered: int, num_asked: int, mechanism: Mechanism) -> bool:
    """Return whether this can be a sum of answers and noise. A client's wild numbers may have made it impossible."""
    of_one = mechanism.share_scale(mechanism.num_answers_needed(num_asked))
    largest = mechanism.clip_norm * mechanism.units + REACH * of_one
    return bool(np.abs(total.astype(np.float64)).max() <= num_answered * largest)


def make_server_app(noise_is_genuine: bool = True) -> ServerApp:
    """Make the ServerApp.

    Args:
        noise_is_genuine (`bool`, *optional*, defaults to `True`):
            False if the clients' app was made with other noise, in tests.
    """
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        settings, config = FederationSettings.split(context.run_config)
        warn_of_delta(config.delta, settings.num_clients)
        output_dir = Path(settings.output_dir)
        population = settings.initial_population
        public = read_rows_of(population, config, None) if population else None
        generator = PrivateEvolutionGenerator(
            settings.variation_model,
            settings.embedding_model,
            settings.expansion_model,
            config=config,
            run_dir=output_dir / RUN_FOLDER,
        )
        if not generator.ledger.num_releases:  # Before any client is asked.
            check_folder(output_dir, generator.privacy_report)
        warn_of_few_clients(config, generator.ledger.plan, settings.num_clients)
        pool = FederatedClientPool(
            grid,
            context,
            settings,
            generator.ledger.plan,
            noise_is_genuine=noise_is_genuine,
            record=output_dir / FEDERATION_NAME,
            earlier=generator.ledger.releases,
        )
        seeds = generator.evolve(pool, initial_population=public)
        generator.save_pretrained(output_dir)
        generator.expand(seeds, num_samples=settings.num_samples)
        generator.save_pretrained(output_dir)
        logger.info("%d texts are in %s. %s", settings.num_samples, output_dir, generator.privacy_report.guarantee)

    return app


app = make_server_app()
"""What a Flower app's `serverapp` names."""
