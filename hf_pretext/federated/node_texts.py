"""The private texts of a node: found by what its owner set, read, and embedded once per run.

What is released, to whom: nothing. Errors of the texts go to the node's own console. The client then contributes zero,
so that no one else learns from whether it answers what its texts are.
"""

import logging
import os
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..clients.rows import group_by_client
from ..clients.samples import Samples, embed_clients, embed_probes, quantize_embeddings
from ..clients.tokens import TokenReader, with_tokens
from ..configuration import PrivateEvolutionConfig
from ..data import read_dataset
from ..forms import Plain, form_of
from ..privacy.plan import Plan
from ..settings import shortened
from .node import NodeSettings, RefusalError
from .settings import FederationSettings

if TYPE_CHECKING:
    from datasets import Dataset

# A child of Flower's logger, which has the console.
logger = logging.getLogger(f"flwr.{__name__}")

SIMULATION = "HF_PRETEXT_SIMULATION"
"""Environment variable by which whoever starts a simulation says that its nodes are no one's."""

SamplesByClient = dict[object, list[Any]]


def read_rows_of(path: str, config: PrivateEvolutionConfig, client_column: str | None) -> "Dataset":
    """Read the columns that the settings name: a text, or those of a record or conversation, and labels."""
    form = form_of(config)
    others = [] if config.label_column is None else [config.label_column]
    if isinstance(form, Plain):
        return read_dataset(path, form.column, client_column, other_columns=others)
    return read_dataset(path, None, client_column, other_columns=[*form.source, *others])


def texts_reader(
    node: NodeSettings, settings: FederationSettings, config: PrivateEvolutionConfig
) -> Callable[[], SamplesByClient]:
    """Find the client's texts by what its node says, which is not secret, and return what reads them.

    Raises:
        RefusalError: The node has none.
    """
    path = node.private
    if path is not None:
        if not Path(path).exists():
            raise RefusalError("The file that `private` names in the node's configuration does not exist.")

        def read() -> SamplesByClient:
            samples = _grouped(path, config)
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
    everyone = _everyone(settings.simulated_private, repr(config), config)
    return lambda: {client: everyone[client] for client in list(everyone)[number : number + 1]}


def embedded_texts(
    read: Callable[[], SamplesByClient], settings: FederationSettings, plan: Plan, config: PrivateEvolutionConfig
) -> Samples:
    """Read and embed the texts of this client, and read their tokens if the plan asks about them.

    If that fails, the client has none.

    Raises:
        RefusalError: The tokenizer is not there, or the embedding model does not embed public texts alike. Neither
            depends on the texts. In a simulation, those of an earlier client may have broken the model.
    """
    embedder, limits = _embedder(settings.embedding_model), (plan.max_samples_per_client, config.seed)
    reader = _token_reader(settings.tokenizer) if plan.reads_tokens else None
    try:
        embed_probes(embedder)
    except ValueError as error:
        raise RefusalError(str(error)) from error
    try:
        own = read()
        embedded = embed_clients(own, embedder, *limits)
        return embedded if reader is None else with_tokens(embedded, own, reader, *limits)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException:  # Also a panic in a tokenizer that is written in Rust.
        logger.exception("This client's texts could not be read or embedded, or it has none, so it contributes zero:")
        none = Samples(np.zeros(0, dtype=np.int64), quantize_embeddings(embedder([])))
        return none if reader is None else none.with_tokens([], reader.fingerprint)


def _grouped(path: str, config: PrivateEvolutionConfig) -> SamplesByClient:
    rows = read_rows_of(path, config, config.client_column)
    return group_by_client(rows, config)


_READ: dict[tuple[str, str], SamplesByClient] = {}


def _everyone(path: str, settings: str, config: PrivateEvolutionConfig) -> SamplesByClient:
    """Read the clients of a simulation once per process."""
    if (path, settings) not in _READ:
        _READ.clear()
        _READ[path, settings] = _grouped(path, config)
    return _READ[path, settings]


@lru_cache(maxsize=1)
def _token_reader(name: str | None) -> TokenReader:
    from ..models.checkpoints import read_tokenizer
    from ..models.loading import without_revision
    from ..models.token_reader import TokenizerReader

    if name is None:
        raise RefusalError("The plan asks about tokens, but `tokenizer` is not in the run's configuration.")
    try:
        return TokenizerReader(read_tokenizer(*without_revision(name)))
    except (OSError, ValueError, ImportError) as error:
        logger.error("%s", error)
        raise RefusalError(
            f"The tokenizer {shortened(name)} cannot be loaded here. This node's log says why."
        ) from None


@lru_cache(maxsize=1)
def _embedder(name: str) -> Any:
    # Imported here: most messages need no model, and each may start a process of its own.
    import torch

    from ..models.embedder import TextEmbedder
    from ..models.loading import load_sentence_transformer

    return TextEmbedder(load_sentence_transformer(name, torch.device("cpu"), torch.float32))
