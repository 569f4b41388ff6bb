"""The private side: the only module that sees private text.

A `ClientPool` offers the server one operation: candidate embeddings in, noisy histogram out. What it releases, per
call, to whoever holds the pool: one histogram over the candidates, the sum over the clients that take part of integer
vote vectors of L2 norm at most `mechanism.clip_norm` votes, plus discrete Gaussian noise. The unit is the client, and
the sensitivity is `mechanism.sensitivity`: that norm where neighbours differ by one client more or less, `sqrt(2)`
times it where one client is exchanged. Who takes part is drawn from the operating system's randomness, and secret. It
also tells the number of clients, which counts as public. Nothing else leaves:
no text, no embedding, no clean count, no distance, in no log and no error message. Warnings and errors about the input
(blank or overlong texts, wrong types) are for the owner of the data, at the console of the trusted side.
"""

import hashlib
import logging
import os
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from .configuration import PrivateEvolutionConfig
from .embedding import TextEmbedder
from .noise import DiscreteGaussian, NoiseSource, sample_clients
from .privacy import PrivacyLedger, VoteMechanism
from .processes import is_main_process, num_processes, progress_bar
from .voting import cast_votes, quantize_embeddings

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger(__name__)


class ReleaseLostError(RuntimeError):
    """A release that is counted as spent, and that nobody got: the round goes without it."""


class ClientPool(Protocol):
    """What the server may ask of the private side."""

    @property
    def ledger(self) -> PrivacyLedger:
        """Where the pool counts its releases; a generator insists that it is its own."""
        ...

    @property
    def num_clients(self) -> int:
        """Number of clients; it counts as public."""
        ...

    def release_histogram(self, candidates: np.ndarray) -> np.ndarray:
        """Count one release in the ledger, draw it, keep it there, and hand it out: a noisy histogram of votes.

        Args:
            candidates (`np.ndarray` of shape `(m, d)`): Embeddings of the candidates, of length at most one.

        Returns:
            `np.ndarray` of shape `(m,)`: Noisy votes, float64.

        Raises:
            ReleaseLostError: The release is counted, but came to nothing.
        """
        ...

    def costs(self) -> dict[str, Any] | None:
        """What the rounds so far cost the clients, for the card; None where there is no way to them."""
        ...


class InMemoryClientPool:
    """Simulates all clients in one process: groups, caps, embeds once, votes, and releases with noise.

    Each client's embeddings and votes depend on that client's own samples only, bit for bit: its samples make batches
    of their own in the embedding model, its subset is drawn from a generator of its own, and voting is exact integer
    arithmetic. So adding or removing a client changes nobody else's contribution. The texts themselves are not kept.

    Args:
        private (`datasets.Dataset`):
            Column `config.text_column` (`str`) holds the texts and `config.client_column` says whose they are. It is
            read into memory; nothing is cached on disk.
        embedder (`TextEmbedder`): The embedding model.
        config (`PrivateEvolutionConfig`): Names of the columns, seed of the subsets.
        ledger (`PrivacyLedger`): Counts the releases, and holds their mechanism, which sets the cap and the clipping.
        noise (`NoiseSource`, *optional*): Where the noise comes from; other than the default in tests only.

    Raises:
        ValueError: A column is missing, there is no text at all, or rows have no client.
        TypeError: `private` is no `Dataset`, or rows of the text column are not strings.
    """

    def __init__(
        self,
        private: "Dataset",
        embedder: TextEmbedder,
        config: PrivateEvolutionConfig,
        ledger: PrivacyLedger,
        noise: NoiseSource | None = None,
    ) -> None:
        _refuse_other_processes()
        samples = group_by_client(private, config)
        if not any(samples.values()):
            raise ValueError("`private` holds no text: it has no rows, or blank ones only.")
        self._num_clients = len(samples)
        _check_capacity(self._num_clients, ledger.mechanism)
        warn_of_delta(config.delta, self._num_clients)
        warn_of_few_clients(config, ledger.mechanism, self._num_clients)
        embedded = embed_clients(samples, embedder, ledger.mechanism.max_samples_per_client, config.seed)
        self._clients = np.repeat(np.arange(len(embedded)), list(map(len, embedded)))
        self._samples = np.concatenate(embedded)
        self._ledger = ledger
        self._noise = noise or DiscreteGaussian()
        self._process = os.getpid()

    @property
    def ledger(self) -> PrivacyLedger:
        """Where the pool counts its releases."""
        return self._ledger

    @property
    def num_clients(self) -> int:
        """Number of clients; it counts as public."""
        return self._num_clients

    def release_histogram(self, candidates: np.ndarray) -> np.ndarray:
        """Count one release in the ledger, draw it, keep it there, and hand it out: a noisy histogram (Algorithm 2).

        Released: `(sum of the clients' integer votes + noise) / mechanism.vote_units`, to the caller.
        Sensitivity and unit are stated at the head of this module.

        Args:
            candidates (`np.ndarray` of shape `(m, d)`): Embeddings of the candidates, of length at most one.

        Returns:
            `np.ndarray` of shape `(m,)`: Noisy votes, float64.

        Raises:
            ValueError: The candidates are not finite or have another dimension; nothing is then released.
        """
        if candidates.ndim != 2 or candidates.shape[1] != self._samples.shape[1]:
            raise ValueError(
                f"`candidates` of shape {candidates.shape} must have shape (m, {self._samples.shape[1]}): use the "
                "embedding model that the clients use."
            )
        if os.getpid() != self._process:
            raise RuntimeError("A pool releases in the process that made it only: copies would not count alike.")
        points, mechanism = quantize_embeddings(candidates), self.ledger.mechanism
        # From here on it is spent, whatever happens: a process that ends now leaves a release that is counted.
        self.ledger.record(len(candidates), noise_is_genuine=type(self._noise) is DiscreteGaussian)
        # Drawn before the votes are counted, so that no failure of it leaves a clean histogram in a traceback.
        noise = self._noise(mechanism.noise_scale, len(candidates))
        present = sample_clients(self._num_clients, mechanism.client_sampling_rate)[self._clients]
        clean = cast_votes(
            self._clients[present],
            self._samples[present],
            points,
            mechanism.clip_norm,
            mechanism.vote_units,
            mechanism.votes_per_sample,
        )
        noisy = (clean + noise) / mechanism.vote_units
        self.ledger.keep(noisy)
        return noisy

    def costs(self) -> None:
        """Tell that there is no way between the clients and the server, so none that could cost anything."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}(num_clients={self.num_clients})"

    def __reduce__(self) -> str:
        raise TypeError(f"A {type(self).__name__} holds private data and is not to be pickled or copied.")


def _read_columns(private: "Dataset", config: PrivateEvolutionConfig) -> tuple[list[str], list[object]]:
    from datasets import Dataset

    if not isinstance(private, Dataset):
        raise TypeError(
            f"`private` of type {type(private).__name__} must be one `datasets.Dataset`: take a split of a "
            "`DatasetDict`, such as `private['train']`; `Dataset.from_pandas` or `Dataset.from_list` makes one."
        )
    columns = private.column_names
    if config.text_column not in columns:
        raise ValueError(f"`text_column`={config.text_column!r} is not a column of `private`, which has {columns}.")
    if config.client_column not in columns:
        raise ValueError(
            f"`client_column`={config.client_column!r} is not a column of `private`, which has {columns}. The "
            "guarantee is per client, so every row needs to say whose it is. Set `client_column` to the column that "
            "does. If each row really is a different person's, say so: "
            f"`private.add_column({config.client_column!r}, list(range(len(private))))`."
        )
    plain = private.with_format(None)
    texts, ids = list(plain[config.text_column]), list(plain[config.client_column])
    if not all(isinstance(text, str) for text in texts):
        raise TypeError(
            f"`private` has rows in column {config.text_column!r} that are not strings; drop or convert them."
        )
    # NaN, which pandas writes for a missing id, is not equal to itself.
    if any(client is None or client != client for client in ids):
        raise ValueError(f"`private` has rows without a client in column {config.client_column!r}; name or drop them.")
    if any(isinstance(client, (list, dict)) for client in ids):
        raise ValueError(f"`private` has lists in column {config.client_column!r}; a client's id is one value.")
    return texts, ids


def group_by_client(private: "Dataset", config: PrivateEvolutionConfig) -> dict[object, list[str]]:
    """Group the texts that are not blank; a client with blank texts only is still a client, without a vote.

    Raises:
        ValueError: A column is missing, or rows have no client.
        TypeError: `private` is no `Dataset`, or rows of the text column are not strings.
    """
    texts, ids = _read_columns(private, config)
    samples: dict[object, list[str]] = {client: [] for client in ids}
    for text, client in zip(texts, ids, strict=True):
        if text.strip():
            samples[client].append(text)
    if not all(text.strip() for text in texts):
        warnings.warn("`private` has blank texts; they are left out and have no vote.", stacklevel=3)
    return samples


def warn_of_delta(delta: float, num_clients: int) -> None:
    """Warn where `delta` is too large to mean anything for so many clients."""
    if delta >= 1 / num_clients:
        warnings.warn(
            f"`delta`={delta:g} is not below one over the number of clients ({num_clients}). A mechanism that "
            "publishes one random client's text would satisfy such a guarantee. Choose a `delta` well below "
            f"{1 / num_clients:.1e}.",
            stacklevel=4,
        )


def warn_of_few_clients(config: PrivateEvolutionConfig, mechanism: VoteMechanism, num_clients: int) -> None:
    """Warn where the noise is large for so many clients, and more votes of a sample would stand out better from it.

    Which number is best was measured (`recipes/EXPERIMENTS.md`, 11). It is for the owner of the data to set: chosen
    here, it would change everybody's votes when a client is added, by more than the sensitivity.
    """
    wanted = int(300 * mechanism.noise_std / (mechanism.client_sampling_rate * num_clients))
    better = min(wanted, 16, config.population_size // 8)
    if config.vote_clipping == "l2" and better >= 2 * mechanism.votes_per_sample:
        logger.warning(
            "There are %d clients, and the noise in a bin has a standard deviation of %.3g votes: with "
            "`votes_per_sample`=%d instead of %d, the same guarantee tells more of what they hold.",
            num_clients,
            mechanism.noise_std,
            better,
            mechanism.votes_per_sample,
        )


def _refuse_other_processes() -> None:
    """Two processes would each draw noise of their own on the same votes: a release that nobody counts."""
    if not is_main_process():
        raise RuntimeError(
            f"This is not the main one of {num_processes()} processes: private data is voted on there only, and a "
            "generator hands the released histogram to the others. Give the dataset to the generator instead."
        )


def _check_capacity(num_clients: int, mechanism: VoteMechanism) -> None:
    # Noise beyond 64 standard deviations does not happen.
    if num_clients * mechanism.clip_norm * mechanism.vote_units + 64 * mechanism.noise_scale >= 2**62:
        raise ValueError(
            f"{num_clients} clients with a clipping norm of {mechanism.clip_norm} and a `noise_multiplier` of "
            f"{mechanism.noise_multiplier:g} overflow 64-bit counts; lower one of them."
        )


def _cap(client: object, samples: list[str], cap: int, seed: int) -> list[str]:
    """Draw a client's subset from a generator of its own, so that it does not depend on who else takes part."""
    if len(samples) <= cap:
        return samples
    digest = hashlib.blake2b(f"{seed}/{client}".encode("utf-8", "surrogatepass")).digest()
    rng = np.random.default_rng(int.from_bytes(digest[:16], "little"))
    chosen = rng.choice(len(samples), size=cap, replace=False)
    return [samples[index] for index in chosen]


def embed_clients(
    samples: Mapping[object, list[str]], embedder: TextEmbedder, cap: int, seed: int
) -> list[np.ndarray]:
    """Cap and embed every client's samples, in batches of their own; see `InMemoryClientPool` for why.

    A client whose texts cannot be embedded has no vote: one client must not decide whether a run takes place.

    Returns:
        `list` of `np.ndarray`: Each client's quantised embeddings, of shape `(at most cap, d)`.

    Raises:
        ValueError: No text of any client can be embedded. The message quotes none.
    """
    embedded: list[np.ndarray | None] = []
    failure = None
    cuts = False
    with progress_bar(len(samples), "Embedding clients", "client") as bar:
        for client, texts in samples.items():
            own = None
            try:
                if texts:
                    kept = _cap(client, texts, cap, seed)
                    cuts = cuts or embedder.cuts(kept)
                    own = quantize_embeddings(embedder(kept))
            except Exception as error:
                failure = type(error).__name__
            embedded.append(own)
            bar.update()
    succeeded = [own for own in embedded if own is not None]
    if not succeeded:
        # Raised out here, so that the message and the frames of the other error, which may hold text, stay behind.
        raise ValueError(
            f"`embedding_model` failed on all private texts, with a {failure}; what it said may quote them, so it is "
            "not shown. Does it embed any text as finite numbers? Load it in float32, or try it on public texts."
        )
    if failure:
        warnings.warn(
            f"`embedding_model` failed on the texts of some clients, with a {failure}; they have no vote.",
            stacklevel=3,
        )
    if cuts:
        warnings.warn(
            f"`private` has texts of more than {embedder.max_length} tokens, which is all that `embedding_model` "
            "reads; only their beginnings vote. Split long texts into several rows of the same client.",
            stacklevel=3,
        )
    nothing = succeeded[0][:0]
    return [nothing if own is None else own for own in embedded]
