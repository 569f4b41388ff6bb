"""The ClientApp, which runs beside the private text of one client.

What it releases, to the server, per question: its integer vector, of L2 norm at most `mechanism.clip_norm`, plus its
part of the noise (discrete Gaussian of parameter `mechanism.share_scale(m)`, where `m` answers are needed). Both are
integers under a mask that comes off only in the sum of at least `m` clients. The unit is the client, and the
sensitivity of the sum is `mechanism.sensitivity`. Besides that it sends public keys, encrypted shares of keys, and
whether it answers, which does not depend on its text: texts that cannot be read or embedded contribute zero. Nothing
else leaves: no counts, no metrics, no text, no errors but those written here.

It does not trust the server with what it can check itself. The parameters of secure aggregation have to be those that
the run's settings imply, among no more clients than the run has. All of its answers, of all runs together, may cost no
more than its own node's `max-epsilon` at `max-delta`. They are counted in a ledger beside the texts before their noise
is drawn (see `node` and `node_ledger`). The number of answers that its noise relies on is the number below which it
does not reveal its part of the keys. And it answers each kind of question no more often than the run's plan says.
"""

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.app.message_type import MessageType
from flwr.client.mod import secaggplus_mod
from flwr.clientapp import ClientApp
from flwr.common import Code, FitRes, Status, bytes_to_ndarray, ndarrays_to_parameters, parameters_to_ndarrays
from flwr.common.secure_aggregation.secaggplus_constants import RECORD_KEY_CONFIGS, RECORD_KEY_STATE, Key, Stage
from flwr.compat.common import recorddict_compat

from ..clients.questions import Question, check_question, sum_answers
from ..clients.samples import Samples, embed_clients, group_by_client, quantize_embeddings
from ..configuration import PrivateEvolutionConfig
from ..data import read_dataset
from ..privacy.mechanism import Mechanism
from ..privacy.noise import DiscreteGaussian, NoiseSource
from ..privacy.plan import Plan
from .node import AskedRun, NodeBudget, NodeSettings, RefusalError, all_answered
from .node_ledger import NodeError
from .protocol import (
    MODULUS,
    Encoded,
    check_announcement,
    check_capacity,
    decode,
    quantization_range,
    read_wanted,
    use_strong_masks,
)
from .settings import FederationSettings

# A child of Flower's logger, which has the console.
logger = logging.getLogger(f"flwr.{__name__}")

SIMULATION = "HF_PRETEXT_SIMULATION"
"""Environment variable by which whoever starts a simulation says that its nodes are no one's."""

PLAIN = "plain"
"""Action of the messages of a simulation without secure aggregation."""

KNOWS = "knows"
"""Action of the message that asks, before anything is spent, whether a client knows a question."""

Result = TypeVar("Result")

SAMPLES = "hf_pretext.samples"
ANSWERED = "hf_pretext.answered"
WANTED = "hf_pretext.wanted"
"""Records of a node's state in one run, which stays in the memory of that node."""


def make_client_app(noise: NoiseSource | None = None, questions: Sequence[tuple[Question, float]] = ()) -> ClientApp:
    """Make the ClientApp.

    Args:
        noise (`NoiseSource`, *optional*):
            Source of the noise. Other than the default in tests only: a node's limit is then not held, and its ledger
            counts answers without a guarantee.
        questions (`Sequence` of `(Question, float)`, *optional*):
            Questions of your own that this client answers besides those of the library, and the fraction of the budget
            of each: what the generator is given as `questions`.
    """
    draw, is_genuine = noise or DiscreteGaussian(), noise is None
    own = [question.copy() for question, _ in questions]

    def answer(message: Message, context: Context) -> Message:
        settings, _, plan = _read_run(context, questions)
        instructions = recorddict_compat.recorddict_to_fitins(message.content, keep_input=True)
        question = _read_question(Encoded(parameters_to_ndarrays(instructions.parameters), instructions.config), own)
        mechanism = _check_planned(question.name, question.num_bins, question.is_signed, plan)
        (embeddings,) = context.state.array_records[SAMPLES].to_numpy_ndarrays()
        samples = Samples(np.zeros(len(embeddings), dtype=np.int64), embeddings)
        # On made-up samples, so that whether it is refused does not depend on this client's text.
        _refusing(check_question, question, samples.num_dimensions)
        num_asked = _num_asked(message, context)
        _check_asked(num_asked, settings.num_clients)
        share = mechanism.share_scale(mechanism.num_answers_needed(num_asked))
        _count(context, plan, question, num_asked, is_genuine)
        noisy = sum_answers(question, samples, mechanism) + draw(share, question.num_bins)
        # Whole numbers below 2^53, which the doubles that Flower computes with hold exactly.
        reply = FitRes(Status(Code.OK, ""), ndarrays_to_parameters([noisy.astype(np.float64)]), 1, {})
        return Message(recorddict_compat.fitres_to_recorddict(reply, keep_input=False), reply_to=message)

    def knows(message: Message, context: Context) -> Message:
        asked = message.content.config_records[KNOWS]
        plan = _read_run(context, questions)[2]
        num_dimensions = context.state.array_records[SAMPLES].to_numpy_ndarrays()[0].shape[1]
        question = _refusing(check_announcement, asked, plan, own, num_dimensions)
        if question is not None:
            _refusing(check_question, question, num_dimensions)
        _check_planned(str(asked["question"]), int(asked["num_bins"]), bool(asked["is_signed"]), plan)
        return Message(RecordDict(), reply_to=message)

    def guard(message: Message, context: Context, call_next: Any) -> Message:
        return _guard(message, context, call_next, questions, is_genuine)

    app = ClientApp(mods=[guard, secaggplus_mod])
    app.train()(answer)
    app.train(PLAIN)(answer)
    app.train(KNOWS)(knows)
    return app


def _guard(
    message: Message,
    context: Context,
    call_next: Any,
    questions: Sequence[tuple[Question, float]],
    is_genuine: bool,
) -> Message:
    """Let through what the settings imply, and let nothing out but what the protocol needs."""
    use_strong_masks()
    kind = message.metadata.message_type
    public = "The client failed. Its own log says more."
    try:
        node = NodeSettings.from_node_config(context.node_config)
        if kind == f"{MessageType.TRAIN}.{KNOWS}":
            # The texts are embedded, and the budget is checked, before anything is spent.
            run = _read_run(context, questions)
            wanted = _refusing(read_wanted, message.content.config_records[KNOWS])
            context.state.config_records[WANTED] = ConfigRecord(wanted)
            _prepare(context, node, is_genuine, *run)
            return call_next(message, context)
        if kind == f"{MessageType.TRAIN}.{PLAIN}":
            run = _read_run(context, questions)
            _check_simulation(run[0], node)
            _prepare(context, node, is_genuine, *run)
            return call_next(message, context)
        if kind != MessageType.TRAIN:
            # Flower's SecAgg+ ignores other types, such as "train.default": the answer would have no mask.
            raise RefusalError(f"A message of type {kind!r} is not part of the protocol.")
        request = message.content.config_records[RECORD_KEY_CONFIGS]
        # Flower lets no other stage come first. Those between need no settings, and each may be a process of its own.
        if request[Key.STAGE] == Stage.SETUP:
            run = _read_run(context, questions)
            for entry in run[2].releases:
                _check_setup(request, entry.mechanism, run[0].num_clients)
            _prepare(context, node, is_genuine, *run)
        elif request[Key.STAGE] == Stage.UNMASK:
            _check_unmasking(request, message.metadata.dst_node_id)
        return _with_short_numbers(call_next(message, context))
    except (RefusalError, KeyboardInterrupt, SystemExit):
        raise
    except NodeError as error:
        logger.error("%s", error)
        public = "This node's configuration or ledger is not in order. Its own log says more."
    except BaseException:  # A panic in a tokenizer that is written in Rust is no `Exception`.
        logger.exception("The client's own console may know:")
    # Raised out here, so that nothing of the other error, which may quote text, goes to the server.
    raise RefusalError(public)


def _read_run(
    context: Context, questions: Sequence[tuple[Question, float]]
) -> tuple[FederationSettings, PrivateEvolutionConfig, Plan]:
    settings, config = _read_settings(tuple(sorted(context.run_config.items())))
    try:
        return settings, config, Plan.from_config(config, questions)
    except (ValueError, TypeError) as error:
        raise RefusalError(f"The run's plan is not valid: {error}") from None


@lru_cache(maxsize=2)
def _read_settings(items: tuple[tuple[str, Any], ...]) -> tuple[FederationSettings, PrivateEvolutionConfig]:
    try:
        return FederationSettings.split(dict(items))
    except (ValueError, TypeError) as error:
        raise RefusalError(f"The run's configuration is not valid: {error}") from None


def _refusing(check: Callable[..., Result], *arguments: Any) -> Result:
    """Turn the error of a check of public facts into a refusal, which the server may read."""
    try:
        return check(*arguments)
    except (ValueError, TypeError, KeyError) as error:
        raise RefusalError(f"{type(error).__name__}: {error}") from None


def _read_question(encoded: Encoded, own: Sequence[Question]) -> Question:
    # A copy: in a simulation, clients share a process.
    return _refusing(decode, encoded, own).copy()


def _check_planned(name: str, num_bins: int, is_signed: bool, plan: Plan) -> Mechanism:
    """Return the mechanism that the run's plan has for a question, whatever the server says."""
    try:
        entry = plan.entry(name)
    except ValueError as error:
        raise RefusalError(str(error)) from None
    if not 0 < num_bins <= entry.num_bins or is_signed != entry.mechanism.is_signed:
        raise RefusalError(
            f"The question {name!r} with {num_bins} bins and `is_signed`={is_signed} is not the one of the plan, "
            f"which has at most {entry.num_bins} bins and `is_signed`={entry.mechanism.is_signed}."
        )
    return entry.mechanism


def _check_asked(asked: int, num_clients: int) -> None:
    """Refuse to divide the noise among more clients than the run has: this client's part of it would shrink."""
    if asked > num_clients:
        raise RefusalError(f"{asked} clients are asked, more than `num_clients`={num_clients} of this run.")


def _check_setup(request: Any, mechanism: Mechanism, num_clients: int) -> None:
    asked = request[Key.SAMPLE_NUMBER]
    if not isinstance(asked, int) or asked < 3:
        raise RefusalError(f"A sum of {asked} clients hides no one. At least 3 have to be asked.")
    _check_asked(asked, num_clients)
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
            raise RefusalError(f"Secure aggregation of {asked} clients needs `{key}`={value}, not {request[key]}.")


def _check_unmasking(request: Any, own: int) -> None:
    active, dead = request[Key.ACTIVE_NODE_ID_LIST], request[Key.DEAD_NODE_ID_LIST]
    # Both shares of one client would open its own mask and those between it and others.
    if set(active) & set(dead) or len(set(active)) != len(active) or own not in active:
        raise RefusalError("The lists of clients whose masks come off contradict each other.")


def _num_asked(message: Message, context: Context) -> int:
    if message.metadata.message_type != MessageType.TRAIN:
        return int(message.content.config_records["fitins.config"]["num_asked"])
    return int(context.state.config_records[RECORD_KEY_STATE]["sample_num"])


def _count(context: Context, plan: Plan, question: Question, num_asked: int, is_genuine: bool) -> None:
    """Count an answer before its noise is drawn. Refuse one more than the plan has, or than the limits allow."""
    node = NodeSettings.from_node_config(context.node_config)
    if node.private is not None:
        run = _asked_run(context, plan)
        NodeBudget(node, is_genuine).record(run, question.name, question.num_bins, num_asked)
        return
    before: Mapping[str, Any] = context.state.config_records.get(ANSWERED, {})
    number, entry = int(before.get(question.name, 0)) + 1, plan.entry(question.name)
    context.state.config_records[ANSWERED] = ConfigRecord({**before, question.name: number})
    if number > entry.count:
        raise RefusalError(all_answered(entry))


def _asked_run(context: Context, plan: Plan) -> AskedRun:
    return AskedRun(context.run_id, plan, dict(context.state.config_records.get(WANTED, {})))


def _check_simulation(settings: FederationSettings, node: NodeSettings) -> None:
    if settings.secure_aggregation or node.private is not None:
        raise RefusalError("Answers without a mask are for simulations. This client has private text of its own.")


def _prepare(
    context: Context,
    node: NodeSettings,
    is_genuine: bool,
    settings: FederationSettings,
    config: PrivateEvolutionConfig,
    plan: Plan,
) -> None:
    """Check the budget, and embed the client's texts once per run. They stay in the memory of the client's node."""
    is_embedded = SAMPLES in context.state.array_records
    read = None if is_embedded else _find_samples(node, settings, config)
    if node.private is not None:
        NodeBudget(node, is_genuine).check(_asked_run(context, plan))
    if read is None:
        return
    embedder = _embedder(settings.embedding_model)
    try:
        (own,) = embed_clients(read(), embedder, plan.max_samples_per_client, config.seed)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException:  # Also a panic in a tokenizer that is written in Rust.
        # No one else may learn from whether it answers what its texts are: it contributes zero, and adds its noise.
        logger.exception("This client's texts could not be read or embedded, or it has none, so it contributes zero:")
        own = quantize_embeddings(embedder([]))
    context.state.array_records[SAMPLES] = ArrayRecord([own])


def _find_samples(
    node: NodeSettings, settings: FederationSettings, config: PrivateEvolutionConfig
) -> Callable[[], dict[object, list[str]]]:
    """Find the client's texts by what its node says, which is not secret, and return what reads them."""
    path = node.private
    if path is not None:
        if not Path(path).exists():
            raise RefusalError("The file that `private` names in the node's configuration does not exist.")

        def read() -> dict[object, list[str]]:
            samples = group_by_client(read_dataset(path, config.text_column, config.client_column), config)
            if len(samples) > 1:
                raise ValueError("`private` holds texts of several clients. A node is one client.")
            return samples

        return read
    if not settings.simulated_private:
        raise RefusalError("`private` is not in the node's configuration. It names the file of the client's texts.")
    if node.partition_id is None:
        raise RefusalError("`simulated_private` is for simulations, whose nodes have numbers. This one has none.")
    if os.environ.get(SIMULATION) != "1":
        raise RefusalError(
            f"`simulated_private` names a file of the node's machine, which no server may choose. If you simulate all "
            f"clients on your own machine, set {SIMULATION}=1 in the environment of the simulation."
        )
    number = node.partition_id
    everyone = _everyone(settings.simulated_private, config)
    return lambda: {client: everyone[client] for client in list(everyone)[number : number + 1]}


@lru_cache(maxsize=1)
def _everyone(path: str, config: PrivateEvolutionConfig) -> dict[object, list[str]]:
    return group_by_client(read_dataset(path, config.text_column, config.client_column), config)


@lru_cache(maxsize=1)
def _embedder(name: str) -> Any:
    # Imported here: most messages need no model, and each may start a process of its own.
    import torch

    from ..models.embedder import TextEmbedder
    from ..models.loading import load_sentence_transformer

    return TextEmbedder(load_sentence_transformer(name, torch.device("cpu"), torch.float32))


def _with_short_numbers(reply: Message) -> Message:
    """Send masked answers as the 32-bit numbers that they are, and nothing else."""
    content = reply.content.config_records[RECORD_KEY_CONFIGS]
    if Key.MASKED_PARAMETERS in content:
        masked = [bytes_to_ndarray(array) for array in content[Key.MASKED_PARAMETERS]]
        content[Key.MASKED_PARAMETERS] = [array.astype("<u4").tobytes() for array in masked]
    reply.content = RecordDict({RECORD_KEY_CONFIGS: content})
    return reply


app = make_client_app()
"""What a Flower app's `clientapp` names."""
