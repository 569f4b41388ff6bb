"""All clients in one process, which has to be trusted with their text."""

import os
from typing import TYPE_CHECKING, Any

import numpy as np

from ..configuration import PrivateEvolutionConfig
from ..privacy.mechanism import Mechanism
from ..privacy.noise import DiscreteGaussian, NoiseSource, sample_clients
from ..privacy.plan import Plan
from ..processes import is_main_process, num_processes
from .guard import attempted
from .pool import ClientPool, warn_of_delta, warn_of_few_clients
from .questions import Question, check_question, sum_answers
from .samples import (
    Embedder,
    Samples,
    cap_samples,
    embed_clients,
    embed_with_labels,
    group_by_client,
    group_with_labels,
)
from .tokens import TokenReader, read_tokens

if TYPE_CHECKING:
    from datasets import Dataset


class InMemoryClientPool(ClientPool):
    """Simulates all clients in one process: groups, caps, embeds once, answers questions, and adds the noise.

    Each client's contribution depends on its own samples only, bit for bit (`clients.samples`, `clients.questions`).
    So adding or removing a client changes no one else's. The texts themselves are not kept. Warnings and errors about
    the input (blank or overlong texts, wrong types) are for the owner of the data, at the console of the trusted side.

    Args:
        private (`datasets.Dataset`):
            Column `config.text_column` (`str`) holds the texts, or the columns of it records, or it conversations
            (`forms`). `config.client_column` says whose they are, and with `config.labels`, `config.label_column`
            which label they have. It is read into memory. Nothing is cached on disk.
        embedder (`Embedder`): The embedding model.
        config (`PrivateEvolutionConfig`): Names of the columns, seed of the subsets.
        plan (`Plan`): The cap, the sampling rate, and the mechanisms that must not overflow.
        noise (`NoiseSource`, *optional*): Source of the noise. Other than the default in tests only.
        reader (`TokenReader`, *optional*):
            The tokenizer of the language model that will write, if the plan asks about tokens. It reads the samples
            here, in memory.

    Raises:
        ValueError: A column is missing, there is no text at all, or rows are not whole, have no client, or a label
            that is not public.
        TypeError: `private` is not a `Dataset`, or rows of the text column are not strings.
    """

    def __init__(
        self,
        private: "Dataset",
        embedder: Embedder,
        config: PrivateEvolutionConfig,
        plan: Plan,
        noise: NoiseSource | None = None,
        reader: TokenReader | None = None,
    ) -> None:
        _refuse_other_processes()
        samples: dict[object, list[Any]] = (group_with_labels if config.labels else group_by_client)(private, config)
        if not any(samples.values()):
            raise ValueError("`private` holds no text: it has no rows, or blank ones only.")
        self._num_clients = len(samples)
        for entry in plan.releases:
            _check_capacity(self._num_clients, entry.mechanism)
        warn_of_delta(config.delta, self._num_clients)
        warn_of_few_clients(config, plan, self._num_clients)
        limits = plan.max_samples_per_client, config.seed
        if config.labels:
            self._samples = embed_with_labels(samples, embedder, *limits)
        else:
            self._samples = Samples.of(embed_clients(samples, embedder, *limits))
        if reader is not None and plan.reads_tokens:
            numbers = np.bincount(self._samples.owners, minlength=self._num_clients)
            capped = {client: cap_samples(client, own, *limits) for client, own in samples.items()}
            self._samples = self._samples.with_tokens(read_tokens(capped, numbers, reader), reader.fingerprint)
        self._plan = plan
        self._noise = noise or DiscreteGaussian()
        self._process = os.getpid()

    @property
    def num_clients(self) -> int:
        """Number of clients. It counts as public."""
        return self._num_clients

    @property
    def plan(self) -> Plan:
        """The plan that the pool was made for."""
        return self._plan

    @property
    def noise_is_genuine(self) -> bool:
        """Whether the noise is the library's own, and no subclass stands between."""
        return type(self) is InMemoryClientPool and type(self._noise) is DiscreteGaussian

    def _prepare(self, question: Question, mechanism: Mechanism) -> None:
        """Refuse a malformed question, and a copy of the pool in another process."""
        if os.getpid() != self._process:
            raise RuntimeError("A pool releases in the process that made it only: copies would not count alike.")
        check_question(question, self._samples.num_dimensions, self._samples.tokenizer)

    def _answer(self, question: Question, mechanism: Mechanism) -> np.ndarray:
        """Sum the contributions of the clients that participate, and add the noise. See `ClientPool`.

        Raises:
            RuntimeError: That failed. Neither the error nor its traceback holds a clean sum, noise or embeddings.
        """
        noisy, failure = attempted(self._noisy_sum, question, mechanism)
        if noisy is None:
            raise RuntimeError(
                f"The sum over the clients failed, with a {failure}. What it said may quote what clients hold, so it "
                "is not shown. The release is counted as spent. With a `run_dir`, the same call continues without it."
            )
        return noisy

    def _noisy_sum(self, question: Question, mechanism: Mechanism) -> np.ndarray:
        noise = self._noise(mechanism.noise_scale, question.num_bins)
        participates = sample_clients(self._num_clients, self._plan.client_sampling_rate)
        return sum_answers(question, self._samples.select(participates[self._samples.owners]), mechanism) + noise

    def __repr__(self) -> str:
        return f"{type(self).__name__}(num_clients={self.num_clients})"

    def __reduce__(self) -> str:
        raise TypeError(f"A {type(self).__name__} holds private data and is not to be pickled or copied.")


def _refuse_other_processes() -> None:
    """Two processes would each draw noise of their own on the same sum: a release that is not counted."""
    if not is_main_process():
        raise RuntimeError(
            f"This is not the main one of {num_processes()} processes. Only the main one holds private data, and a "
            "generator gives the released answer to the others. Give the dataset to the generator instead."
        )


def _check_capacity(num_clients: int, mechanism: Mechanism) -> None:
    # Noise beyond 64 standard deviations does not happen.
    if num_clients * mechanism.clip_norm * mechanism.units + 64 * mechanism.noise_scale >= 2**62:
        raise ValueError(
            f"{num_clients} clients with a clipping norm of {mechanism.clip_norm} and a `noise_multiplier` of "
            f"{mechanism.noise_multiplier:g} overflow 64-bit sums. Lower one of them."
        )
