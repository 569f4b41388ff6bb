"""A federation in one process: the real pool and the real ClientApp, over a grid that hands messages over."""

import json
import os
import shutil
import tempfile
import uuid
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from datasets import Dataset
from flwr.app import ArrayRecord, ConfigRecord, Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto
from flwr.supercore.task_identity import TaskIdentity

from hf_pretext import InMemoryClientPool, PrivateEvolutionConfig
from hf_pretext.clients.questions import NearestCandidates, sum_answers
from hf_pretext.clients.samples import Samples, quantize_embeddings
from hf_pretext.federated import checked_grid, server
from hf_pretext.federated.client import make_client_app
from hf_pretext.federated.server import FederatedClientPool
from hf_pretext.federated.settings import FederationSettings
from hf_pretext.privacy import Plan, PrivacyLedger

# What a process of Flower's own knows of itself, and stamps on its messages.
TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = 1
# In memory, if there is such a folder: ledgers are flushed to the disk at every answer.
SCRATCH = tempfile.TemporaryDirectory(prefix="federation-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None)
# Nodes mark their newest answers there, and not in the home folder of who runs the tests.
os.environ["XDG_STATE_HOME"] = f"{SCRATCH.name}/state"

LIMITS = {"max-epsilon": 1e5, "max-delta": 1e-5}
"""What a node allows unless a test says otherwise: a thousand rounds of noise multiplier 1."""

# The grid of the tests answers at once. What is waited for is what was dropped.
checked_grid.POLL_SECONDS = server.POLL_SECONDS = 0.01


def _copy(content):
    return recorddict_from_proto(recorddict_to_proto(content))


def no_noise(scale, size):
    return np.zeros(size, dtype=np.int64)


def make_context(run_config, node=0, run_id=1, **node_config):
    return Context(run_id=run_id, node_id=node, node_config=node_config, state=RecordDict(), run_config=run_config)


class HandingGrid:
    """Hands each message to a ClientApp at once.

    Args:
        contexts: The context of each node.
        apps: The app of each node.
        meddle: What may be done to a reply on its way: `meddle(node, stage, reply)` returns another, or None.
    """

    def __init__(self, contexts: dict[int, Context], apps: dict[int, ClientApp], meddle=None):
        self.contexts, self.apps = contexts, apps
        self.meddle = meddle or (lambda node, stage, reply: reply)
        self.replies: dict[str, Message | None] = {}
        self.seen: list[SimpleNamespace] = []

    def get_node_ids(self):
        return list(self.contexts)

    def push_messages(self, messages):
        names = []
        for message in messages:
            node = message.metadata.dst_node_id
            name = uuid.uuid4().hex
            message.metadata.__dict__.update(_message_id=name, _run_id=1, _src_node_id=1)
            # As on the wire: neither side sees what the other does to a message.
            sent = Message(_copy(message.content), message_type=message.metadata.message_type, dst_node_id=node)
            sent.metadata.__dict__.update(message.metadata.__dict__)
            try:
                reply = self.apps[node](sent, self.contexts[node])
                reply.content = _copy(reply.content)
            except Exception as error:
                reply = Message(Error(code=1, reason=f"{type(error)}:<'{error}'>"), reply_to=sent)
            stage = message.metadata.message_type.partition(".")[2]
            failed = reply.has_error()
            self.seen.append(
                SimpleNamespace(
                    node=node,
                    stage=stage,
                    content=None if failed else _copy(reply.content),
                    reason=reply.error.reason if failed else None,
                )
            )
            self.replies[name] = self.meddle(node, stage, reply)
            names.append(name)
        return names

    def pull_messages(self, names):
        return [self.replies[name] for name in names if self.replies[name] is not None]

    def send_and_receive(self, messages, *, timeout=None):
        return self.pull_messages(self.push_messages(messages))


def make_run_config(embedding_model, **changes):
    """The flat configuration of a Flower run, with a noise multiplier of 1."""
    return {
        "num-clients": 5,
        "num-samples": 4,
        "output-dir": "unused",
        "embedding-model": str(embedding_model),
        "expansion-model": "unused",
        "round-timeout": 0.5,
        "delta": 1e-5,
        "noise-multiplier": 1.0,
        "num-rounds": 1000,
        "population-size": 24,
        "max-dropout": 0.4,
        **changes,
    }


def make_federation(
    files,
    embedding_model,
    noise=None,
    meddle=None,
    generator=None,
    without=(),
    questions=(),
    accountant=None,
    of_clients=None,
    node_config=None,
    run_id=1,
    **changes,
):
    """Make the pool of a federation whose clients hold copies of these files, and its grid.

    Args:
        node_config: Of every node, besides `private`. With it, the clients hold the files themselves.
        questions: Those of the server and, unless `of_clients` says otherwise, of every client.
        accountant: That of the server.
        of_clients: The questions that each client is started with, by the number of the client.
    """
    run_config = make_run_config(embedding_model, **{"num-clients": len(files), **changes})
    run_config = {name: value for name, value in run_config.items() if name not in without}
    settings, config = FederationSettings.split(run_config)
    places = files if node_config is not None else copies_of(files)
    contexts = {
        1000 + number: make_context(
            run_config, 1000 + number, run_id, **{"private": str(place), **(node_config or LIMITS)}
        )
        for number, place in enumerate(places)
    }
    apps = {node: make_client_app(noise, (of_clients or {}).get(node - 1000, questions)) for node in contexts}
    grid = HandingGrid(contexts, apps, meddle)
    ledger = PrivacyLedger(Plan.from_config(config, questions, accountant)) if generator is None else generator.ledger
    own = make_context(run_config, run_id=run_id)
    pool = FederatedClientPool(grid, own, settings, ledger.plan, noise_is_genuine=noise is None)

    def release(candidates):
        return pool.release(NearestCandidates.of(candidates, config.votes_per_sample), ledger)

    return SimpleNamespace(pool=pool, grid=grid, config=config, ledger=ledger, release=release)


def make_large_federation(
    num_clients, noise=no_noise, meddle=None, num_bins=24, num_dimensions=16, first=1000, **changes
):
    """Make a federation of many clients whose samples, three each, were embedded already: integers without a model.

    `made.expected(counted, question)` is the clean sum of the clients of these numbers, as one process computes it.
    """
    run_config = make_run_config("unused", **{"num-clients": num_clients, "population-size": num_bins, **changes})
    settings, config = FederationSettings.split(run_config)
    rng = np.random.default_rng(num_clients)
    points = rng.normal(size=(3 * num_clients, num_dimensions))
    points = quantize_embeddings(points / np.linalg.norm(points, axis=1, keepdims=True))
    everyone = Samples(np.repeat(np.arange(num_clients), 3), points)
    contexts = {first + number: make_context(run_config, first + number) for number in range(num_clients)}
    for number, context in enumerate(contexts.values()):
        own = points[3 * number : 3 * number + 3]
        none = np.zeros(0, dtype=np.int64)
        context.state.array_records["hf_pretext.samples"] = ArrayRecord([own, np.full(3, -1), none, none])
        context.state.config_records["hf_pretext.tokenizer"] = ConfigRecord({"tokenizer": ""})
    app = make_client_app(noise)
    grid = HandingGrid(contexts, dict.fromkeys(contexts, app), meddle)
    ledger = PrivacyLedger(Plan.from_config(config))
    pool = FederatedClientPool(grid, make_context(run_config), settings, ledger.plan, noise_is_genuine=noise is None)
    candidates = rng.normal(size=(num_bins, num_dimensions))
    question = NearestCandidates.of(candidates / np.linalg.norm(candidates, axis=1, keepdims=True))

    def expected(counted):
        own = everyone.select(np.isin(everyone.owners, list(counted)))
        return sum_answers(question, own, ledger.plan.entry("votes").mechanism)

    def release():
        units = ledger.plan.entry("votes").mechanism.units
        return np.rint(pool.release(question, ledger) * units).astype(np.int64)

    return SimpleNamespace(
        pool=pool, grid=grid, config=config, ledger=ledger, question=question, release=release, expected=expected
    )


def copies_of(files):
    """Copy files into a new folder, in which no node has a ledger yet."""
    folder = Path(tempfile.mkdtemp(prefix="clients-", dir=SCRATCH.name))
    return [shutil.copy(file, folder) if Path(file).exists() else folder / Path(file).name for file in files]


def in_memory_answer(files, embedder, config, question, questions=()):
    """The clean sum of the in-memory pool, of the clients whose texts these files hold."""
    rows = [json.loads(line) for path in files for line in path.read_text().splitlines()]
    ledger = PrivacyLedger(Plan.from_config(config, questions))
    return InMemoryClientPool(Dataset.from_list(rows), embedder, config, ledger.plan, no_noise).release(
        question, ledger
    )


def in_memory_votes(files, embedder, config, candidates):
    """The clean histogram of the in-memory pool."""
    return in_memory_answer(files, embedder, config, NearestCandidates.of(candidates, config.votes_per_sample))


def config_of(**settings) -> PrivateEvolutionConfig:
    return FederationSettings.split(make_run_config("unused", **settings))[1]
