"""The ClientApp, which runs beside the private text of one client.

What it releases, to the server, per question: its integer vector, of L2 norm at most `mechanism.clip_norm`, plus its
part of the noise (discrete Gaussian of parameter `mechanism.share_scale(m)`, where `m` answers are needed). Both are
integers under a mask that comes off only in the sum of at least `m` clients. The unit is the client, and the
sensitivity of the sum is `mechanism.sensitivity`. Besides that it sends public keys, encrypted shares of keys, and
whether it answers, which does not depend on its text: texts that cannot be read or embedded contribute zero. Nothing
else leaves: no counts, no metrics, no text, no errors but those written here.

It does not trust the server with what it can check itself. The parameters of secure aggregation have to be those that
the run's settings imply, among no more clients than the run has. Those settings are the server's choice. They
have to stay the same, clients with others are not summed with it, and the node's owner may refuse small crowds
(`min_clients` and `min_colluding`). All of its answers, of all runs together, may cost no
more than its own node's `max-epsilon` at `max-delta`. They are counted in a ledger beside the texts before their noise
is drawn (see `node` and `node_ledger`). The number of answers that its noise relies on is the number below which it
does not reveal its part of the keys. And it answers each kind of question no more often than the run's plan says.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, TypeVar

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common import Code, FitRes, Status, ndarrays_to_parameters, parameters_to_ndarrays
from flwr.compat.common import recorddict_compat

from ..clients.questions import Question, check_question, sum_answers
from ..clients.samples import Samples
from ..configuration import PrivateEvolutionConfig
from ..privacy.mechanism import Mechanism
from ..privacy.noise import DiscreteGaussian, NoiseSource
from ..privacy.plan import Plan
from ..settings import shortened
from .masked_client import MaskedRelease, Notes
from .masking import ANSWER, CONFIRM, KEYS, MASKS, SHARES, STAGES, UNMASK
from .node import AskedRun, NodeBudget, NodeSettings, RefusalError, all_answered, already_answered
from .node_ledger import NodeError
from .node_texts import embedded_texts, texts_reader
from .protocol import (
    Encoded,
    check_announcement,
    check_capacity,
    decode,
    num_colluding,
    num_summed,
    quantization_range,
    read_wanted,
    terms_of,
)
from .settings import FederationSettings

# A child of Flower's logger, which has the console.
logger = logging.getLogger(f"flwr.{__name__}")

PLAIN = "plain"
"""Action of the messages of a simulation without secure aggregation."""

KNOWS = "knows"
"""Action of the message that asks, before anything is spent, whether a client knows a question."""

Result = TypeVar("Result")

SAMPLES = "hf_pretext.samples"
TOKENIZER = "hf_pretext.tokenizer"
ANSWERED = "hf_pretext.answered"
WANTED = "hf_pretext.wanted"
RUN_CONFIG = "hf_pretext.run_config"
"""Records of a node's state, embeddings and tokens among them: in Flower 1.42, in the memory of that node."""


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

    def noisy_answer(message: Message, context: Context, num_asked: int) -> tuple[np.ndarray, bytes]:
        """Answer a question. The second value is its digest."""
        settings, _, plan = _read_run(context, questions)
        instructions = recorddict_compat.recorddict_to_fitins(message.content, keep_input=True)
        encoded = Encoded(parameters_to_ndarrays(instructions.parameters), instructions.config)
        question = _read_question(encoded, own)
        digest = _refusing(encoded.digest, question)
        mechanism = _check_planned(question.name, question.num_bins, question.is_signed, plan)
        samples = _samples(context)
        # On made-up samples, so that whether it is refused does not depend on this client's text.
        _refusing(check_question, question, samples.num_dimensions, samples.tokenizer)
        _check_asked(num_asked, settings.num_clients)
        share = mechanism.share_scale(mechanism.num_answers_needed(num_asked))
        _count(context, plan, question, num_asked, is_genuine)
        noisy = sum_answers(question, samples, mechanism) + draw(share, question.num_bins)
        largest = quantization_range(num_asked) // 2
        return np.clip(noisy, -largest, largest), digest

    def plain(message: Message, context: Context) -> Message:
        num_asked = int(message.content.config_records["fitins.config"]["num_asked"])
        noisy, _ = noisy_answer(message, context, num_asked)
        # Whole numbers below 2^53, which doubles hold exactly.
        reply = FitRes(Status(Code.OK, ""), ndarrays_to_parameters([noisy.astype(np.float64)]), 1, {})
        return Message(recorddict_compat.fitres_to_recorddict(reply, keep_input=False), reply_to=message)

    def masked(message: Message, context: Context) -> Message:
        notes = _notes(context, is_genuine)
        release = MaskedRelease(context.state, message.metadata.dst_node_id, context.run_id, notes)
        stage, asked = message.metadata.message_type.partition(".")[2], message.content.config_records[MASKS]
        if stage == KEYS:
            settings, _, plan = _read_run(context, questions)
            given = _begin(release, asked, NodeSettings.from_node_config(context.node_config), settings, plan)
        elif stage == ANSWER:
            _refusing(release.receive, asked)
            # Not among the checks of public facts, whose words the server may read.
            given = release.mask(*noisy_answer(message, context, release.num_asked))
        else:
            step = {SHARES: release.share, CONFIRM: release.confirm, UNMASK: release.unmask}[stage]
            given = _refusing(step, asked)
        return Message(RecordDict({MASKS: ConfigRecord(given)}), reply_to=message)

    def knows(message: Message, context: Context) -> Message:
        asked = message.content.config_records[KNOWS]
        settings, _, plan = _read_run(context, questions)
        samples = _samples(context)
        terms = terms_of(plan, settings.num_clients, settings.max_colluding, 0, context.run_id)
        question = _refusing(check_announcement, asked, plan, own, terms, samples.num_dimensions, samples.tokenizer)
        if question is not None:
            _refusing(check_question, question, samples.num_dimensions, samples.tokenizer)
        _check_planned(str(asked["question"]), int(asked["num_bins"]), bool(asked["is_signed"]), plan)
        # With fewer clients, the server does not ask this one. A refusal later would cost the release.
        fewest = NodeSettings.from_node_config(context.node_config).min_clients or 0
        return Message(RecordDict({KNOWS: ConfigRecord({"min_clients": fewest})}), reply_to=message)

    def guard(message: Message, context: Context, call_next: Any) -> Message:
        return _guard(message, context, call_next, questions, is_genuine)

    app = ClientApp(mods=[guard])
    app.train(PLAIN)(plain)
    app.train(KNOWS)(knows)
    for stage in STAGES:
        app.train(stage)(masked)
    return app


def _guard(
    message: Message,
    context: Context,
    call_next: Any,
    questions: Sequence[tuple[Question, float]],
    is_genuine: bool,
) -> Message:
    """Let through what the settings imply, and let nothing out but what the protocol needs."""
    action = message.metadata.message_type.removeprefix("train.")
    public = "The client failed. Its own log says more."
    try:
        node = NodeSettings.from_node_config(context.node_config)
        if action not in (KNOWS, PLAIN, *STAGES):
            raise RefusalError(f"A message of type {message.metadata.message_type!r} is not part of the protocol.")
        _check_same_run(context)
        if action in (KNOWS, PLAIN, KEYS):
            run = _read_run(context, questions)
            # The texts are embedded, and the budget is checked, before anything is spent.
            _check_owner(node, run[0].num_clients, run[0])
            if action == KNOWS:
                wanted = _refusing(read_wanted, message.content.config_records[KNOWS])
                context.state.config_records[WANTED] = ConfigRecord(wanted)
            elif action == PLAIN:
                _check_simulation(run[0], node)
            _prepare(context, node, is_genuine, *run)
        return call_next(message, context)
    except (RefusalError, KeyboardInterrupt, SystemExit):
        raise
    except NodeError as error:
        logger.error("%s", error)
        public = "This node's configuration or ledger is not in order. Its own log says more."
    except BaseException:  # A panic in a tokenizer that is written in Rust is no `Exception`.
        logger.exception("The client's own console may know:")
    # Raised out here, so that nothing of the other error, which may quote text, goes to the server.
    raise RefusalError(public)


def _check_same_run(context: Context) -> None:
    """Refuse settings that changed since the run's first question: what they imply would no longer be one plan."""
    now = repr(sorted(context.run_config.items()))
    before = context.state.config_records.setdefault(RUN_CONFIG, ConfigRecord({"settings": now}))
    if before["settings"] != now:
        raise RefusalError("The run's settings are others than at its first question.")


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


def _check_owner(node: NodeSettings, asked: int, settings: FederationSettings) -> None:
    """Refuse a crowd that is smaller than the node's owner wants. The run's settings are the server's choice."""
    conspiring = num_colluding(settings.num_clients, settings.max_colluding)
    if node.min_clients is not None and asked < node.min_clients:
        raise RefusalError(f"{asked} clients are fewer than `min-clients`={node.min_clients} of this node.")
    if node.min_colluding is not None and conspiring < node.min_colluding:
        raise RefusalError(
            f"The run is safe from {conspiring} clients that conspire with its server, fewer than `min-colluding`="
            f"{node.min_colluding} of this node."
        )


def _begin(
    release: MaskedRelease,
    asked: Any,
    node: NodeSettings,
    settings: FederationSettings,
    plan: Plan,
) -> dict[str, Any]:
    """Begin a release among as many clients as the run may ask."""
    number = asked["num_asked"]
    if type(number) is not int or number < 3:
        raise RefusalError(f"A sum of {shortened(number)} clients hides no one. At least 3 have to be asked.")
    _check_asked(number, settings.num_clients)
    _check_owner(node, number, settings)
    # Also if the server asks fewer than the run has: it may choose those that conspire with it.
    conspiring = num_colluding(settings.num_clients, settings.max_colluding)
    # The number of answers is the same for all questions of the plan.
    for entry in plan.releases:
        _refusing(check_capacity, entry.mechanism, number)
    needed = max(_refusing(num_summed, entry.mechanism, number, conspiring) for entry in plan.releases)
    terms = terms_of(plan, settings.num_clients, settings.max_colluding, number, release.run)
    return release.make_keys(number, needed, conspiring, terms)


def _samples(context: Context) -> Samples:
    embeddings, labels, lengths, tokens = context.state.array_records[SAMPLES].to_numpy_ndarrays()
    samples = Samples(np.zeros(len(embeddings), dtype=np.int64), embeddings, labels)
    parts = np.split(tokens, np.cumsum(lengths)[:-1]) if len(lengths) else []
    return samples.with_tokens(parts, str(context.state.config_records[TOKENIZER]["tokenizer"]))


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
        raise RefusalError(all_answered(entry.question, entry.count))


_BURNT: set[tuple[str, str]] = set()
"""Stages that nodes of a simulation have answered in this process."""


class _NotesOfSimulation:
    """Notes of the clients of a simulation, which share a process."""

    def burn(self, keys: str, stage: str) -> None:
        """Answer a stage once. See `Notes`."""
        if (keys, stage) in _BURNT:
            raise RefusalError(already_answered(stage))
        _BURNT.add((keys, stage))

    def made_any(self, keys: Sequence[str]) -> bool:
        """Say no: whose keys are whose is not noted here. See `Notes`."""
        return False


def _notes(context: Context, is_genuine: bool) -> Notes:
    """Return what sees to it that a stage is answered once, also if the context is stored late or put back."""
    node = NodeSettings.from_node_config(context.node_config)
    return _NotesOfSimulation() if node.private is None else NodeBudget(node, is_genuine)


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
    read = None if is_embedded else texts_reader(node, settings, config)
    if node.private is not None:
        NodeBudget(node, is_genuine).check(_asked_run(context, plan))
    if read is None:
        return
    own = embedded_texts(read, settings, plan, config)
    lengths = np.array(list(map(len, own.tokens)), dtype=np.int64)
    tokens = np.concatenate([np.zeros(0, dtype=np.int64), *own.tokens])
    context.state.array_records[SAMPLES] = ArrayRecord([own.embeddings, own.labels, lengths, tokens])
    context.state.config_records[TOKENIZER] = ConfigRecord({"tokenizer": own.tokenizer})


app = make_client_app()
"""What a Flower app's `clientapp` names."""
