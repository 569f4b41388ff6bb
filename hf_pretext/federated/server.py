"""The server's side: a `ClientPool` over Flower's grid, and the ServerApp that runs the generator with it."""

import json
import logging
import statistics
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from flwr.app import ConfigRecord, Context, Message
from flwr.common import FitIns, ndarrays_to_parameters, parameters_to_ndarrays
from flwr.compat.common import recorddict_compat
from flwr.server.compat import LegacyContext
from flwr.server.workflow import SecAggPlusWorkflow
from flwr.server.workflow.constant import MAIN_CONFIGS_RECORD, MAIN_PARAMS_RECORD
from flwr.server.workflow.constant import Key as WorkflowKey
from flwr.serverapp import Grid, ServerApp

from ..clients import ReleaseLostError, warn_of_delta, warn_of_few_clients
from ..data import read_dataset
from ..files import make_durably, write_durably
from ..generator import RUN_FOLDER, PrivateEvolutionGenerator
from ..privacy import PrivacyLedger
from .checked_grid import POLL_SECONDS, CheckedGrid, size_of
from .client import PLAIN
from .protocol import (
    MODULUS,
    REACH,
    check_capacity,
    encode_candidates,
    factors_of_sums,
    quantization_range,
    use_strong_masks,
)
from .settings import FederationSettings

# A child of Flower's logger, which has the console.
logger = logging.getLogger(f"flwr.{__name__}")

FEDERATION_NAME = "federation.json"

MAX_LOST_IN_A_ROW = 2
"""Rounds that may be lost one after the other before a run stops, instead of spending the rest of its budget."""


@dataclass(frozen=True)
class FederatedRound:
    """What a round cost, and how many took part.

    Args:
        num_candidates (`int`): Length of a vector of votes.
        num_asked (`int`): Clients that were asked.
        num_answered (`int`): Clients whose masked votes arrived.
        num_needed (`int`): Answers below which the round is discarded.
        is_released (`bool`): Whether the sum was released.
        seconds (`float`): Seconds from the question to the sum, at the server.
        bytes_down (`float`): Bytes to a client, on average, before transport.
        bytes_up (`float`): Bytes from a client that answered, on average, before transport.
    """

    num_candidates: int
    num_asked: int
    num_answered: int
    num_needed: int
    is_released: bool
    seconds: float
    bytes_down: float
    bytes_up: float


class FederatedClientPool:
    """Asks the clients of a federation for one noisy histogram a round.

    What is released, and to whom: the sum of the clients' noisy votes, to the server; see `client`, where the noise
    is added. With secure aggregation that sum is all that the server can read of the votes. Every release is counted
    before anybody is asked; where too few answer it stays counted, and nobody gets it.

    Args:
        grid (`flwr.serverapp.Grid`): The way to the clients.
        context (`flwr.app.Context`): The run's context.
        settings (`FederationSettings`): The settings of the federation.
        ledger (`PrivacyLedger`): Counts the releases, and holds their mechanism: `generator.ledger`.
        noise_is_genuine (`bool`, *optional*, defaults to `True`):
            False where the clients' app was made with other noise, in tests.
        record (`Path`, *optional*): File that keeps `rounds`, for a run that is gone on with.

    Attributes:
        rounds (`list` of `FederatedRound`): What every round cost.

    Raises:
        ValueError: The ledger's mechanism is not one of a federation, or does not fit into secure aggregation.
    """

    def __init__(
        self,
        grid: Grid,
        context: Context,
        settings: FederationSettings,
        ledger: PrivacyLedger,
        *,
        noise_is_genuine: bool = True,
        record: Path | None = None,
    ) -> None:
        check_capacity(ledger.mechanism, settings.num_clients)
        use_strong_masks()
        self._grid = grid
        self._context = context
        self._settings = settings
        self._ledger = ledger
        self._noise_is_genuine = noise_is_genuine
        self._record = record
        self.rounds: list[FederatedRound] = []
        if record is not None and record.is_file():
            self.rounds = [FederatedRound(**each) for each in json.loads(record.read_text(encoding="utf-8"))]
        self._num_before = len(self.rounds)  # of earlier processes of the same run

    @property
    def ledger(self) -> PrivacyLedger:
        """Where the pool counts its releases."""
        return self._ledger

    @property
    def num_clients(self) -> int:
        """Number of clients that the run began with; it counts as public."""
        return self._settings.num_clients

    def release_histogram(self, candidates: np.ndarray) -> np.ndarray:
        """Count one release in the ledger, get it from the clients, keep it there, and hand it out (Algorithm 2).

        Args:
            candidates (`np.ndarray` of shape `(m, d)`): Embeddings of the candidates, of length at most one.

        Returns:
            `np.ndarray` of shape `(m,)`: Noisy votes, float64.

        Raises:
            TimeoutError: Too few clients are connected. Nothing is spent.
            RuntimeError: The rounds before this one were lost, one after the other. Nothing is spent.
            ReleaseLostError: Too few clients answered, or their masks did not come off. The release stays counted.
        """
        mechanism = self.ledger.mechanism
        latest = self._own_rounds[-MAX_LOST_IN_A_ROW:]
        if len(latest) == MAX_LOST_IN_A_ROW and not any(each.is_released for each in latest):
            raise RuntimeError(
                f"{MAX_LOST_IN_A_ROW} rounds in a row were lost, for want of answers or because a client breaks the "
                "protocol; the warnings above name nodes. Nothing was spent for this round. See to them, and start "
                "the run again: it goes on from its folder."
            )
        nodes = self._wait_for(max(3, mechanism.num_answers_needed(self.num_clients)))
        needed = mechanism.num_answers_needed(len(nodes))
        check_capacity(mechanism, len(nodes))
        encoded, step = encode_candidates(candidates, self._settings.candidate_bits)
        grid = CheckedGrid(self._grid, len(candidates))
        # From here on it is spent, whatever happens.
        self.ledger.record(len(candidates), noise_is_genuine=self._noise_is_genuine)
        started = time.perf_counter()
        ask = self._sum_masked if self._settings.secure_aggregation else self._sum_plain
        total = ask(grid, nodes, needed, encoded, {"step": step, "num_asked": len(nodes)})
        self.rounds.append(
            FederatedRound(
                num_candidates=len(candidates),
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
            make_durably(self._record.parent)
            write_durably(self._record, json.dumps([asdict(each) for each in self.rounds], indent=2) + "\n")
        if total is None:
            raise ReleaseLostError(
                f"{grid.num_answered} of {len(nodes)} clients answered, and {needed} are needed for their noise to be "
                "enough, and for their masks to come off. The round is discarded, and counted as spent."
            )
        votes = total / mechanism.vote_units
        self.ledger.keep(votes)
        return votes

    def costs(self) -> dict[str, Any] | None:
        """Sum up the rounds for the card: bytes and seconds of one round on average, fewest answers."""
        released = [each for each in self.rounds if each.is_released]
        if not released:
            return None
        fewest = min(released, key=lambda each: each.num_answered)
        means = {
            name: statistics.fmean(getattr(each, name) for each in released)
            for name in ("bytes_down", "bytes_up", "seconds")
        }
        counts = {name: getattr(fewest, name) for name in ("num_asked", "num_answered", "num_needed")}
        is_masked = self._settings.secure_aggregation
        return {**means, **counts, "num_rounds": len(self.rounds), "is_masked": is_masked}

    @property
    def _own_rounds(self) -> list[FederatedRound]:
        """The rounds of this process."""
        return self.rounds[self._num_before :]

    def _wait_for(self, num_clients: int) -> list[int]:
        """Wait until all clients of the run, or at least enough of them, are connected."""
        end = time.monotonic() + self._settings.round_timeout
        # Those who are late get some time, unless the run has begun without them.
        patience = end if not self._own_rounds else time.monotonic()
        while True:
            nodes = sorted(self._grid.get_node_ids())
            now = time.monotonic()
            if len(nodes) >= self.num_clients or (len(nodes) >= num_clients and now >= patience):
                return nodes
            if now >= end:
                raise TimeoutError(
                    f"{len(nodes)} clients are connected, and {num_clients} are needed of `num_clients`="
                    f"{self.num_clients}. Nothing was spent for this round; the run goes on from its folder."
                )
            time.sleep(POLL_SECONDS)

    def _sum_masked(
        self, grid: CheckedGrid, nodes: list[int], needed: int, candidates: np.ndarray, instructions: dict[str, Any]
    ) -> np.ndarray | None:
        """Sum the votes with Flower's SecAgg+, which gives their mean, as doubles; the sum is a whole number."""
        sums: list[np.ndarray] = []

        def configure(server_round: int, parameters: Any, clients: Any) -> list[tuple[Any, FitIns]]:
            return [(SimpleNamespace(node_id=node), FitIns(parameters, dict(instructions))) for node in nodes]

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
            ndarrays_to_parameters([candidates]), keep_input=True
        )
        with factors_of_sums() as factors:
            try:
                workflow(grid, context)
            except (ConnectionError, TimeoutError):
                raise
            except Exception as error:
                # A client's share that is sound in form and wrong in substance ends here.
                logger.warning("Secure aggregation failed, with a %s: %.200s", type(error).__name__, error)
        # Each client masks a known factor beside its votes. Where one masked another, or a mask did not come off, the
        # sum of the factors is not what it has to be, but for a chance of 2^-32 in the second case.
        is_sound = factors == [grid.num_answered * whole] and grid.num_answered >= needed
        return sums[0] if sums and is_sound and self._is_plausible(sums[0], grid, needed) else None

    def _is_plausible(self, total: np.ndarray, grid: CheckedGrid, needed: int) -> bool:
        """Tell whether a sum can be one of votes and noise, which a client's wild numbers may have made impossible."""
        mechanism = self.ledger.mechanism
        largest = mechanism.clip_norm * mechanism.vote_units + REACH * mechanism.share_scale(needed)
        return bool(np.abs(total.astype(np.float64)).max() <= grid.num_answered * largest)

    def _sum_plain(
        self, grid: CheckedGrid, nodes: list[int], needed: int, candidates: np.ndarray, instructions: dict[str, Any]
    ) -> np.ndarray | None:
        """Sum votes without masks, as clients send them in a simulation only."""
        content = recorddict_compat.fitins_to_recorddict(
            FitIns(ndarrays_to_parameters([candidates]), instructions), keep_input=True
        )
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
        votes = [
            parameters_to_ndarrays(recorddict_compat.recorddict_to_fitres(reply.content, True).parameters)[0]
            for reply in replies
        ]
        return np.sum(votes, axis=0).astype(np.int64)


class _Workflow(SecAggPlusWorkflow):
    """Flower's SecAgg+, for clients that leave at any stage.

    Flower 1.41 asks for the key shares of all clients that were asked and sent no votes. Of those that left before
    they shared their keys there are none, and nobody's votes are masked with theirs: they are none of its business.
    """

    def share_keys_stage(self, grid: Any, context: Any, state: Any) -> bool:
        """Share keys, and go on with those who did."""
        goes_on = super().share_keys_stage(grid, context, state)
        sharing = set(state.active_node_ids)
        state.sampled_node_ids = sharing
        state.nid_to_neighbours = {node: state.nid_to_neighbours[node] & sharing for node in sharing}
        return goes_on


def make_server_app(noise_is_genuine: bool = True) -> ServerApp:
    """Make the ServerApp.

    Args:
        noise_is_genuine (`bool`, *optional*, defaults to `True`):
            False where the clients' app was made with other noise, in tests.
    """
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        settings, config = FederationSettings.split(context.run_config)
        warn_of_delta(config.delta, settings.num_clients)
        output_dir = Path(settings.output_dir)
        public = read_dataset(settings.initial_population, config.text_column) if settings.initial_population else None
        generator = PrivateEvolutionGenerator(
            settings.variation_model or None,
            settings.embedding_model,
            settings.expansion_model,
            config=config,
            run_dir=output_dir / RUN_FOLDER,
        )
        warn_of_few_clients(config, generator.ledger.mechanism, settings.num_clients)
        pool = FederatedClientPool(
            grid,
            context,
            settings,
            generator.ledger,
            noise_is_genuine=noise_is_genuine,
            record=output_dir / FEDERATION_NAME,
        )
        seeds = generator.evolve(pool, initial_population=public)
        generator.save_pretrained(output_dir)
        generator.expand(seeds, num_samples=settings.num_samples)
        generator.save_pretrained(output_dir)
        logger.info("%d texts are in %s. %s", settings.num_samples, output_dir, generator.privacy_report.guarantee)

    return app


app = make_server_app()
"""What a Flower app's `serverapp` names."""
