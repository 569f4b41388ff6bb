"""All clients of one organization, in a process or several that have to be trusted with their text."""

import json
import os
from typing import TYPE_CHECKING

import numpy as np

from ..configuration import PrivateEvolutionConfig
from ..privacy.mechanism import Mechanism
from ..privacy.noise import DiscreteGaussian, NoiseSource, sample_clients
from ..privacy.plan import Plan
from ..processes import ALONE, Group, is_main_process, num_processes
from .guard import attempted
from .pool import ClientPool, warn_of_delta, warn_of_few_clients
from .questions import SAMPLES_AT_ONCE, Question, check_question, sum_answers
from .rows import PrivateRows
from .samples import Embedder, embed_clients
from .tokens import TokenReader, with_tokens

if TYPE_CHECKING:
    from datasets import Dataset


class InMemoryClientPool(ClientPool):
    """Simulates all clients: groups, caps, embeds once, answers questions, and adds the noise.

    Each client's contribution depends on its own samples only, bit for bit (`clients.rows`, `clients.samples`,
    `clients.questions`). So adding or removing a client changes no one else's. Embeddings are in memory, in 2 bytes
    per number. Texts are read from Arrow a few at a time, and not kept. Warnings and errors about the input (blank or
    overlong texts, wrong types) are for the owner of the data, at the console of the trusted side.

    *Several processes* of one organization may divide the clients (`group`). Then all of them make the pool, of the
    same rows, and ask it the same questions in the same order. Each client is in one process, so the sensitivity is
    that of a single one. *Released*, to all of them: the noisy sum that a single process would release. The main
    process alone draws noise, and adds it to its own part before the parts are summed.

    *What crosses between the processes*, which one organization has to trust: the clean integer sum of each of the
    others over its own clients, on its way into the noisy sum. Besides, what says that they hold the same clients
    (`PrivateRows`), are asked the same question and embed in the same dimensions, and whether one of them failed. No
    text, id, embedding or noise crosses. If one process fails or ends, the release is lost in all of them, and
    counted. It is not drawn again.

    Args:
        private (`datasets.Dataset`):
            Column `config.text_column` (`str`) holds the texts, or the columns of it records, or it conversations
            (`forms`). `config.client_column` says whose they are, and with `config.labels`, `config.label_column`
            which label they have. Nothing is cached on disk.
        embedder (`Embedder`): The embedding model.
        config (`PrivateEvolutionConfig`): Names of the columns, seed of the subsets.
        plan (`Plan`): The cap, the sampling rate, and the mechanisms that must not overflow.
        noise (`NoiseSource`, *optional*): Source of the noise. Other than the default in tests only.
        reader (`TokenReader`, *optional*):
            The tokenizer of the language model that will write, if the plan asks about tokens. It reads the samples
            here, in memory.
        group (`Group`, *optional*): The processes that divide the clients. By default this one has all.

    Raises:
        ValueError: A column is missing, there is no text at all, rows are not whole, have no client, or a label that
            is not public, or the processes hold different rows.
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
        group: Group = ALONE,
    ) -> None:
        _refuse_other_processes(group)
        rows = PrivateRows(private, config, group)
        if not rows.has_text:
            raise ValueError("`private` holds no text: it has no rows, or blank ones only.")
        self._num_clients, self._num_own = rows.num_clients, len(rows)
        for entry in plan.releases:
            _check_capacity(self._num_clients, entry.mechanism)
        if group.rank == 0:
            warn_of_delta(config.delta, self._num_clients)
            warn_of_few_clients(config, plan, self._num_clients)
        limits = plan.max_samples_per_client, config.seed
        self._samples = embed_clients(rows, embedder, *limits, group)
        if reader is not None and plan.reads_tokens:
            self._samples = with_tokens(self._samples, rows, reader, *limits, group)
        self._group = group
        # Also a barrier: no other stage's time holds that of a process whose clients take longer.
        if len(set(group.gather((json.dumps(plan.to_dict(), sort_keys=True), config.seed)))) > 1:
            raise ValueError(
                f"The {group.size} processes have different settings, so their answers are not summed. Start them all "
                "with the same arguments."
            )
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

    def check_dimensions(self, num_dimensions: int) -> None:
        """Refuse a generator with another embedding model. See `ClientPool`."""
        if self._samples.num_dimensions != num_dimensions:
            raise ValueError(
                f"`private` is a pool whose embeddings have {self._samples.num_dimensions} dimensions, and those of "
                f"`embedding_model` have {num_dimensions}. Use the same model for both."
            )

    @property
    def noise_is_genuine(self) -> bool:
        """Whether the noise is the library's own, and no subclass stands between."""
        return type(self) is InMemoryClientPool and type(self._noise) is DiscreteGaussian

    def _prepare(self, question: Question, mechanism: Mechanism) -> None:
        """Refuse a malformed question, and a copy of the pool in another process."""
        if os.getpid() != self._process:
            raise RuntimeError("A pool releases in the process that made it only: copies would not count alike.")
        check_question(question, self._samples.num_dimensions, self._samples.tokenizer)
        if len(set(self._group.gather((question.fingerprint(), mechanism)))) > 1:
            raise RuntimeError(
                f"The {self._group.size} processes ask different questions, so their answers are not summed. Nothing "
                "is spent. Start all of them with the same arguments, models and versions."
            )

    def _answer(self, question: Question, mechanism: Mechanism) -> np.ndarray:
        """Sum the contributions of the clients that participate, and add the noise. See `ClientPool`.

        Raises:
            RuntimeError: That failed. Neither the error nor its traceback holds a clean sum, noise or embeddings.
        """
        result, failure = attempted(self._noisy_sum, question, mechanism)
        noisy, failure = result or (None, failure)
        if noisy is None:
            raise RuntimeError(
                f"The sum over the clients failed, with a {failure}. What it said may quote what clients hold, so it "
                "is not shown. The release is counted as spent. With a `run_dir`, the same call continues without it."
            )
        return noisy

    def _noisy_sum(self, question: Question, mechanism: Mechanism) -> tuple[np.ndarray | None, str | None]:
        """Sum the parts of all processes. None if one of them failed, and the type of the error of this one."""
        part, failure = attempted(self._part, question, mechanism)
        # A process that failed sends that it did, so that no sum without its clients counts.
        sent = np.zeros(question.num_bins + 1, dtype=np.int64)
        sent[0] = part is None
        if part is not None:
            sent[1:] = part
        total = self._group.sum(sent)
        return (None, failure or "failure in another process") if total[0] else (total[1:], None)

    def _part(self, question: Question, mechanism: Mechanism) -> np.ndarray:
        """Sum the contributions of the clients of this process. In the main one the noise is in it as well."""
        total = np.zeros(question.num_bins, dtype=np.int64)
        if self._group.rank == 0:
            total += self._noise(mechanism.noise_scale, question.num_bins)
        # Each process draws for its own clients, independently.
        participates = sample_clients(self._num_own, self._plan.client_sampling_rate)
        for block in self._samples.blocks(SAMPLES_AT_ONCE):
            total += sum_answers(question, block.select(participates[block.owners]), mechanism)
        return total

    def __repr__(self) -> str:
        return f"{type(self).__name__}(num_clients={self.num_clients})"

    def __reduce__(self) -> str:
        raise TypeError(f"A {type(self).__name__} holds private data and is not to be pickled or copied.")


def _refuse_other_processes(group: Group) -> None:
    """Two processes would each draw noise of their own on the same sum: a release that is not counted."""
    if group.size == 1 and not is_main_process():
        raise RuntimeError(
            f"This is not the main one of {num_processes()} processes. Only the main one makes a pool of all clients, "
            "and a generator gives the released answer to the others. Give the dataset to the generator instead, in "
            "all processes if each of them shall embed its part."
        )


def _check_capacity(num_clients: int, mechanism: Mechanism) -> None:
    # Noise beyond 64 standard deviations does not happen.
    if num_clients * mechanism.clip_norm * mechanism.units + 64 * mechanism.noise_scale >= 2**62:
        raise ValueError(
            f"{num_clients} clients with a clipping norm of {mechanism.clip_norm} and a `noise_multiplier` of "
            f"{mechanism.noise_multiplier:g} overflow 64-bit sums. Lower one of them."
        )
