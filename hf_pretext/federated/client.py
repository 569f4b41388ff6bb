"""The ClientApp, which runs beside the private text of one client.

What it releases, to the server, per round: its vote vector, of L2 norm at most `mechanism.clip_norm`, plus its share
of the noise (discrete Gaussian of parameter `mechanism.share_scale(m)`, where `m` answers are needed), in integers and
under a mask that comes off in the sum of at least `m` clients only. The unit is the client, and the sensitivity of the
sum is `mechanism.sensitivity`. Besides that, public keys, encrypted shares of keys, and whether it answers, which does
not depend on its text: texts that cannot be read or embedded vote for nothing. Nothing else leaves: no counts, no
metrics, no text, no errors but those written here.

It does not take the server's word where it can look itself: the parameters of secure aggregation have to be those that
the run's settings imply, the run may cost no more than its own node's `max-epsilon` and `max-delta`, the number of
answers that its noise relies on is the number below which it does not give away its part of the keys, and it votes
once a round and not oftener than the run has rounds.
"""

import logging
import math
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.app.message_type import MessageType
from flwr.client.mod import secaggplus_mod
from flwr.clientapp import ClientApp
from flwr.common import Code, FitRes, Status, bytes_to_ndarray, ndarrays_to_parameters, parameters_to_ndarrays
from flwr.common.secure_aggregation.secaggplus_constants import RECORD_KEY_CONFIGS, RECORD_KEY_STATE, Key, Stage
from flwr.compat.common import recorddict_compat

from ..clients import embed_clients, group_by_client
from ..configuration import PrivateEvolutionConfig
from ..data import read_dataset
from ..noise import DiscreteGaussian, NoiseSource
from ..privacy import VoteMechanism
from ..voting import cast_votes
from .protocol import MODULUS, check_capacity, decode_candidates, quantization_range, use_strong_masks
from .settings import FederationSettings

# A child of Flower's logger, which has the console.
logger = logging.getLogger(f"flwr.{__name__}")

PLAIN = "plain"
"""Action of the messages of a simulation without secure aggregation."""

SAMPLES = "hf_pretext.samples"
ROUNDS = "hf_pretext.rounds"
"""Records of a node's state, which stays in the memory of that node."""


class RefusalError(ValueError):
    """A client's refusal. The server gets its words, so they hold public facts only."""


def make_client_app(noise: NoiseSource | None = None) -> ClientApp:
    """Make the ClientApp.

    Args:
        noise (`NoiseSource`, *optional*): Where the noise comes from; other than the default in tests only.
    """
    draw = noise or DiscreteGaussian()

    def vote(message: Message, context: Context) -> Message:
        _settings, config, mechanism = _run_of(context)
        instructions = recorddict_compat.recorddict_to_fitins(message.content, keep_input=True)
        (encoded,) = parameters_to_ndarrays(instructions.parameters)
        candidates = decode_candidates(encoded, float(instructions.config["step"]))
        samples = context.state.array_records[SAMPLES].to_numpy_ndarrays()[0].astype(np.float32)
        if candidates.shape[1] != samples.shape[1]:
            raise RefusalError(f"Candidates of {candidates.shape[1]} dimensions are of another embedding model.")
        if len(candidates) > config.population_size:
            raise RefusalError(f"{len(candidates)} candidates are more than `population_size`.")
        share = mechanism.share_scale(mechanism.num_answers_needed(_num_asked(message, context)))
        _count_round(context, config)
        clean = cast_votes(
            np.zeros(len(samples), dtype=np.int64),
            samples,
            candidates,
            mechanism.clip_norm,
            mechanism.vote_units,
            mechanism.votes_per_sample,
        )
        noisy = clean + draw(share, len(candidates))
        # Whole numbers below 2^53, which the doubles that Flower computes with hold exactly.
        answer = FitRes(Status(Code.OK, ""), ndarrays_to_parameters([noisy.astype(np.float64)]), 1, {})
        return Message(recorddict_compat.fitres_to_recorddict(answer, keep_input=False), reply_to=message)

    app = ClientApp(mods=[_guard, secaggplus_mod])
    app.train()(vote)
    app.train(PLAIN)(vote)
    return app


def _guard(message: Message, context: Context, call_next: Any) -> Message:
    """Let through what the settings imply, and nothing out but what the protocol needs."""
    use_strong_masks()
    try:
        if message.metadata.message_type == f"{MessageType.TRAIN}.{PLAIN}":
            _check_simulation(_run_of(context)[0], context)
            _prepare(context)
            return call_next(message, context)
        if message.metadata.message_type != MessageType.TRAIN:
            # Of other types, such as "train.default", Flower's SecAgg+ takes no notice: the votes would have no mask.
            raise RefusalError(f"A message of type {message.metadata.message_type!r} is none of the protocol.")
        request = message.content.config_records[RECORD_KEY_CONFIGS]
        # Flower lets no other stage come first. Those between need no settings, and each may be a process of its own.
        if request[Key.STAGE] == Stage.SETUP:
            _check_setup(request, _run_of(context)[2])
            _prepare(context)
        elif request[Key.STAGE] == Stage.UNMASK:
            _check_unmasking(request, message.metadata.dst_node_id)
        reply = call_next(message, context)
        return _with_short_numbers(reply)
    except RefusalError:
        raise
    except Exception:
        logger.exception("The client's own console may know:")
    # Raised out here, so that nothing of the other error, which may quote text, goes to the server.
    raise RefusalError("The client failed; its own log says more.")


def _run_of(context: Context) -> tuple[FederationSettings, PrivateEvolutionConfig, VoteMechanism]:
    return _read_run(tuple(sorted(context.run_config.items())))


@lru_cache(maxsize=2)
def _read_run(items: tuple[tuple[str, Any], ...]) -> tuple[FederationSettings, PrivateEvolutionConfig, VoteMechanism]:
    try:
        settings, config = FederationSettings.split(dict(items))
        return settings, config, VoteMechanism.from_config(config)
    except (ValueError, TypeError) as error:
        raise RefusalError(f"The run's configuration is at fault: {error}") from None


def _check_budget(context: Context, config: PrivateEvolutionConfig, mechanism: VoteMechanism) -> None:
    """Refuse a run that costs more than the node's own configuration allows, whatever the server asks for."""
    costs = mechanism.epsilon(config.delta, [config.population_size] * config.num_rounds)
    for name, value in (("max-epsilon", costs), ("max-delta", config.delta)):
        allowed = float(context.node_config.get(name, math.inf))
        if value > allowed * (1 + 1e-9):
            raise RefusalError(f"`{name}`={allowed:g} of this node is less than this run's {value:.6g}.")


def _check_setup(request: Any, mechanism: VoteMechanism) -> None:
    asked = request[Key.SAMPLE_NUMBER]
    if not isinstance(asked, int) or asked < 3:
        raise RefusalError(f"A sum of {asked} clients hides nobody; at least 3 have to be asked.")
    check_capacity(mechanism, asked)
    whole = quantization_range(asked)
    wanted = {
        Key.SHARE_NUMBER: asked,
        Key.THRESHOLD: mechanism.num_answers_needed(asked),
        Key.TARGET_RANGE: whole,
        Key.CLIPPING_RANGE: whole / 2,
        Key.MOD_RANGE: MODULUS,
        Key.MAX_WEIGHT: 1.0,
    }
    for key, value in wanted.items():
        if request[key] != value:
            raise RefusalError(f"Secure aggregation of {asked} clients takes `{key}`={value}, not {request[key]}.")


def _check_unmasking(request: Any, own: int) -> None:
    active, dead = request[Key.ACTIVE_NODE_ID_LIST], request[Key.DEAD_NODE_ID_LIST]
    # Both shares of one client would open its own mask and those between it and others.
    if set(active) & set(dead) or len(set(active)) != len(active) or own not in active:
        raise RefusalError("The lists of clients whose masks come off contradict each other.")


def _num_asked(message: Message, context: Context) -> int:
    if message.metadata.message_type != MessageType.TRAIN:
        return int(message.content.config_records["fitins.config"]["num_asked"])
    return int(context.state.config_records[RECORD_KEY_STATE]["sample_num"])


def _count_round(context: Context, config: PrivateEvolutionConfig) -> None:
    """Count a round before its noise is drawn; refuse one more than the run has."""
    before = context.state.config_records.get(ROUNDS, {"number": 0})["number"]
    context.state.config_records[ROUNDS] = ConfigRecord({"number": int(before) + 1})
    if int(before) + 1 > config.num_rounds:
        raise RefusalError(f"The run has {config.num_rounds} rounds, and this client has voted in all of them.")


def _check_simulation(settings: FederationSettings, context: Context) -> None:
    if settings.secure_aggregation or "private" in context.node_config:
        raise RefusalError("Votes without a mask are for simulations; this client has private text of its own.")


def _prepare(context: Context) -> None:
    """Check the budget, and embed the client's texts once a run; they stay in the memory of the client's own node."""
    settings, config, mechanism = _run_of(context)
    _check_budget(context, config, mechanism)
    if SAMPLES in context.state.array_records:
        return
    read = _find_samples(context, settings, config)
    embedder = _embedder(settings.embedding_model)
    try:
        (own,) = embed_clients(read(), embedder, mechanism.max_samples_per_client, config.seed)
    except Exception:
        # Nobody else is to see from whether it answers what its texts are: it votes for nothing, and adds its noise.
        logger.exception("This client's texts could not be read or embedded, or it has none, so it has no vote:")
        own = embedder([])
    context.state.array_records[SAMPLES] = ArrayRecord([own.astype(np.int16)])


def _find_samples(
    context: Context, settings: FederationSettings, config: PrivateEvolutionConfig
) -> Callable[[], dict[object, list[str]]]:
    """Find the client's texts by what its node says, which is no secret, and return what reads them."""
    place = context.node_config.get("private")
    if place is not None:
        if not Path(str(place)).exists():
            raise RefusalError("The file that `private` names in the node's configuration is not there.")

        def read() -> dict[object, list[str]]:
            samples = group_by_client(read_dataset(str(place), config.text_column, config.client_column), config)
            if len(samples) > 1:
                raise ValueError("`private` holds texts of several clients; a node is one client.")
            return samples

        return read
    if not settings.simulated_private:
        raise RefusalError("`private` is not in the node's configuration; it names the file of the client's texts.")
    if "partition-id" not in context.node_config:
        raise RefusalError("`simulated_private` is for simulations, whose nodes have numbers; this one has none.")
    number = int(context.node_config["partition-id"])
    everybody = _everybody(settings.simulated_private, config)
    return lambda: {client: everybody[client] for client in list(everybody)[number : number + 1]}


@lru_cache(maxsize=1)
def _everybody(path: str, config: PrivateEvolutionConfig) -> dict[object, list[str]]:
    return group_by_client(read_dataset(path, config.text_column, config.client_column), config)


@lru_cache(maxsize=1)
def _embedder(name: str) -> Any:
    # Imported here: most messages need no model, and each may start a process of its own.
    import torch

    from ..embedding import TextEmbedder
    from ..models import load_sentence_transformer

    return TextEmbedder(load_sentence_transformer(name, torch.device("cpu"), torch.float32))


def _with_short_numbers(reply: Message) -> Message:
    """Send masked votes as the 32-bit numbers that they are, and nothing beside them."""
    answer = reply.content.config_records[RECORD_KEY_CONFIGS]
    if Key.MASKED_PARAMETERS in answer:
        masked = [bytes_to_ndarray(array) for array in answer[Key.MASKED_PARAMETERS]]
        answer[Key.MASKED_PARAMETERS] = [array.astype("<u4").tobytes() for array in masked]
    reply.content = RecordDict({RECORD_KEY_CONFIGS: answer})
    return reply


app = make_client_app()
"""What a Flower app's `clientapp` names."""
