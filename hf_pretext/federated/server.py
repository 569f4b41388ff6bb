"""The server's side: a `ClientPool` over Flower's grid, and the ServerApp that runs the generator with it."""

import json
import logging
import statistics
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.common import FitIns, ndarrays_to_parameters, parameters_to_ndarrays
from flwr.compat.common import recorddict_compat
from flwr.server.compat import LegacyContext
from flwr.server.workflow import SecAggPlusWorkflow
from flwr.server.workflow.constant import MAIN_CONFIGS_RECORD, MAIN_PARAMS_RECORD
from flwr.server.workflow.constant import Key as WorkflowKey
from flwr.serverapp import Grid, ServerApp

from ..artifacts import FEDERATION_NAME, RUN_FOLDER
from ..clients.pool import ClientPool, warn_of_delta, warn_of_few_clients
from ..clients.questions import Question
from ..data import read_dataset
from ..files import atomic_write, make_durable_folder, read_json
from ..generator import PrivateEvolutionGenerator
from ..privacy.ledger import Release, ReleaseLostError
from ..privacy.mechanism import Mechanism
from ..privacy.plan import Plan
from .checked_grid import POLL_SECONDS, CheckedGrid, size_of
from .client import KNOWS, PLAIN
from .protocol import (
    MODULUS,
    REACH,
    announce,
    check_capacity,
    encode,
    factors_of_sums,
    quantization_range,
    use_strong_masks,
)
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
        use_strong_masks()
        self._grid = grid
        self._context = context
        self._settings = settings
        self._plan = plan
        done = Counter(release.question for release in earlier)
        self._wanted = {entry.question: max(0, entry.count - done[entry.question]) for entry in plan.releases}
        self._noise_is_genuine = noise_is_genuine
        self._record = record
        self._known_by: dict[str, set[int]] = {}
        self._nodes: list[int] = []
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
                "breaks the protocol. The warnings above name nodes. Nothing was spent for this round. Mend the "
                "cause, and start the run again: it resumes from its folder."
            )
        willing = self._knowing(question, self._wait_for(self._num_needed(question)))
        # No more than the run has, and first of all those that were asked before: clients refuse to share the noise
        # among more. Who joins late takes the place of one that left.
        self._nodes = sorted(willing, key=lambda node: (node not in self._nodes, node))[: self.num_clients]
        check_capacity(mechanism, len(self._nodes))

    def _answer(self, question: Question, mechanism: Mechanism) -> np.ndarray:
        """Get the noisy sum from the clients. See `ClientPool`."""
        nodes = self._nodes
        needed = mechanism.num_answers_needed(len(nodes))
        encoded = encode(question, self._settings.candidate_bits)
        instructions = FitIns(ndarrays_to_parameters(encoded.arrays), {**encoded.numbers, "num_asked": len(nodes)})
        grid = CheckedGrid(self._grid, question.num_bins)
        started = time.perf_counter()
        ask = self._sum_masked if self._settings.secure_aggregation else self._sum_plain
        total = ask(grid, nodes, needed, instructions, mechanism)
        self.rounds.append(
            FederatedRound(
                question=question.name,
                num_bins=question.num_bins,
                num_asked=len(nodes),
                num_answered=grid.num_answered,
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
            raise ReleaseLostError(
                f"{grid.num_answered} of {len(nodes)} clients answered, and {needed} are needed for their noise to be "
                "enough, and for their masks to come off. The release is discarded, and counted as spent."
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

        That depends on their software and their own limits, and not on their text. The others are asked no more.

        Raises:
            ValueError: No node will. The message has the first refusal.
        """
        knowing = self._known_by.setdefault(question.name, set())
        content = RecordDict({KNOWS: ConfigRecord(announce(question, self._plan, self._wanted))})
        refusals: list[str] = []

        def check(request: Message, reply: Message) -> Message | None:
            if reply.has_error():
                refusals.append(reply.error.reason)
                logger.warning("Node %d: %.300s", request.metadata.dst_node_id, reply.error.reason)
                return None
            knowing.add(request.metadata.dst_node_id)
            return reply

        messages = [
            Message(content, dst_node_id=node, message_type=f"train.{KNOWS}") for node in nodes if node not in knowing
        ]
        CheckedGrid(self._grid, question.num_bins).exchange(messages, self._settings.round_timeout, check)
        willing, needed = [node for node in nodes if node in knowing], self._num_needed(question)
        if len(willing) < needed:
            first = f" The first refusal: {refusals[0][:300]}" if refusals else ""
            raise ValueError(
                f"{len(willing)} of {len(nodes)} clients will answer the question {question.name!r}, and {needed} are "
                f"needed. Nothing was spent.{first}"
            )
        return willing

    def _num_needed(self, question: Question) -> int:
        """Return the number of clients without which a release does not begin."""
        return max(3, self._plan.entry(question.name).mechanism.num_answers_needed(self.num_clients))

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
        self, grid: CheckedGrid, nodes: list[int], needed: int, instructions: FitIns, mechanism: Mechanism
    ) -> np.ndarray | None:
        """Sum the answers with Flower's SecAgg+, which gives their mean, as doubles. The sum is a whole number."""
        sums: list[np.ndarray] = []

        def configure(server_round: int, parameters: Any, clients: Any) -> list[tuple[Any, FitIns]]:
            return [(SimpleNamespace(node_id=node), FitIns(parameters, instructions.config)) for node in nodes]

        def aggregate(server_round: int, results: Any, failures: Any) -> tuple[None, dict[str, Any]]:
            (mean,) = parameters_to_ndarrays(results[0][1].parameters)
            sums.append(np.rint(mean * len(results)).astype(np.int64))
            return None, {}

        whole = quantization_range(len(nodes))
        workflow = _Workflow(
            num_shares=1.0,
            reconstruction_threshold=needed / len(nodes),
            max_weight=1.0,
            clipping_range=whole / 2,
            quantization_range=whole,
            modulus_range=MODULUS,
            timeout=self._settings.round_timeout,
        )
        context = LegacyContext(
            context=self._context,
            strategy=SimpleNamespace(configure_fit=configure, aggregate_fit=aggregate),
            client_manager=SimpleNamespace(num_available=lambda: len(nodes)),
        )
        number = len(self._own_rounds) + 1
        context.state.config_records[MAIN_CONFIGS_RECORD] = ConfigRecord({WorkflowKey.CURRENT_ROUND: number})
        context.state.array_records[MAIN_PARAMS_RECORD] = recorddict_compat.parameters_to_arrayrecord(
            instructions.parameters, keep_input=True
        )
        with factors_of_sums() as factors:
            try:
                workflow(grid, context)
            except (ConnectionError, TimeoutError):
                raise
            except Exception as error:
                # A client's share that is sound in form and wrong in substance ends here.
                logger.warning("Secure aggregation failed, with a %s: %.200s", type(error).__name__, error)
        # Each client masks a known factor with its answer. If one masked another factor, or a mask did not come off,
        # the sum of the factors is not what it has to be, except for a chance of 2^-32 in the second case.
        is_sound = bool(sums) and factors == [grid.num_answered * whole] and grid.num_answered >= needed
        return sums[0] if is_sound and _is_plausible(sums[0], grid.num_answered, needed, mechanism) else None

    def _sum_plain(
        self, grid: CheckedGrid, nodes: list[int], needed: int, instructions: FitIns, mechanism: Mechanism
    ) -> np.ndarray | None:
        """Sum answers without masks, which clients send in simulations only."""
        content = recorddict_compat.fitins_to_recorddict(instructions, keep_input=True)
        messages = [Message(content, dst_node_id=node, message_type=f"train.{PLAIN}") for node in nodes]
        replies = [
            reply
            for reply in self._grid.send_and_receive(messages, timeout=self._settings.round_timeout)
            if not reply.has_error()
        ]
        grid.num_answered = len(replies)
        grid.bytes_down.update({message.metadata.dst_node_id: size_of(message.content) for message in messages})
        grid.bytes_up.update({reply.metadata.src_node_id: size_of(reply.content) for reply in replies})
        if len(replies) < needed:
            return None
        answers = [
            parameters_to_ndarrays(recorddict_compat.recorddict_to_fitres(reply.content, True).parameters)[0]
            for reply in replies
        ]
        return np.sum(answers, axis=0).astype(np.int64)


def _is_plausible(total: np.ndarray, num_answered: int, needed: int, mechanism: Mechanism) -> bool:
    """Return whether this can be a sum of answers and noise. A client's wild numbers may have made it impossible."""
    largest = mechanism.clip_norm * mechanism.units + REACH * mechanism.share_scale(needed)
    return bool(np.abs(total.astype(np.float64)).max() <= num_answered * largest)


class _Workflow(SecAggPlusWorkflow):
    """Flower's SecAgg+, for clients that leave at any stage.

    Flower 1.41 asks for the key shares of all clients that were asked and sent no answer. Of those that left before
    they shared their keys there are none, and no answer is masked with theirs. So they are left out.
    """

    def share_keys_stage(self, grid: Any, context: Any, state: Any) -> bool:
        """Share keys, and continue with the clients that did."""
        continues = super().share_keys_stage(grid, context, state)
        sharing = set(state.active_node_ids)
        state.sampled_node_ids = sharing
        state.nid_to_neighbours = {node: state.nid_to_neighbours[node] & sharing for node in sharing}
        return continues


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
        public = read_dataset(settings.initial_population, config.text_column) if settings.initial_population else None
        generator = PrivateEvolutionGenerator(
            settings.variation_model,
            settings.embedding_model,
            settings.expansion_model,
            config=config,
            run_dir=output_dir / RUN_FOLDER,
        )
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
