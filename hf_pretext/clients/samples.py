"""From private text to what questions read: the cap on each client's samples, and embeddings on an integer grid.

A client's samples depend on that client's texts only, bit for bit. Its texts make batches of their own in the
embedding model, and its subset follows from hashes of its texts under a key of its own. Embeddings are rounded to
integers that are small enough for every product and every partial sum to be exact in float32, in any order
(`quantize_embeddings`). A floating-point matrix product does not promise this: in a larger batch the sum behind an
entry may be ordered differently.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from typing import Any, Protocol, TypeVar, cast, runtime_checkable

import numpy as np

from ..processes import ALONE, Group, progress_bar
from .guard import attempted, tell_owner
from .identity import look_of
from .rows import LabeledText, PrivateRows, Sample

Result = TypeVar("Result")

EMBEDDING_UNITS = 2**11
"""Integer units per length one in the space of embeddings."""

MOST_UNKNOWN = 0.1
"""Fraction of tokens that may be unknown to the embedding model without a warning."""


class Embedder(Protocol):
    """Embeds texts as rows of length one (`models.embedder.TextEmbedder`)."""

    @property
    def max_length(self) -> int | None:
        """Number of tokens of a text that count."""
        ...

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """Embed texts."""
        ...

    def cuts(self, texts: Sequence[str]) -> bool:
        """Return whether some text has tokens that do not count."""
        ...


@runtime_checkable
class CountsUnknown(Protocol):
    """An embedder that knows which characters its model cannot read."""

    def count_unknown(self, texts: Sequence[str]) -> tuple[int, int]:
        """Count the unknown tokens of texts, and all of them."""
        ...


@runtime_checkable
class SpreadsWork(Protocol):
    """An embedder that several threads can use at a time."""

    def spread(self, work: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
        """Yield `work(item)` of each item, in their order. A result depends on its item only, bit by bit."""
        ...


NO_LABEL = -1
"""Label of a sample that has none."""

PROBES = tuple("Public words that are embedded before private texts and after them. " * times for times in (1, 8, 32))
"""Public texts, short ones first. Some models keep something of a longer text for the shorter ones after it."""


@dataclass(frozen=True, repr=False)
class Samples:
    """The samples of some clients, as questions read them. Its representation shows none of them.

    Args:
        owners (`np.ndarray` of shape `(n,)`): Index of the client of each sample, sorted.
        embeddings (`np.ndarray` of shape `(n, d)`): Quantized embeddings, int16.
        labels (`np.ndarray` of shape `(n,)`, *optional*):
            Number of the label of each sample, int64. By default no sample has one (`NO_LABEL`).
        tokens (`np.ndarray` of shape `(n,)`, *optional*):
            The tokens of each sample, as arrays of int64. By default no sample has any.
        tokenizer (`str`, *optional*): Fingerprint of the tokenizer that read them. Empty if none did.
    """

    owners: np.ndarray
    embeddings: np.ndarray
    labels: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    tokens: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=object))
    tokenizer: str = ""

    def __post_init__(self) -> None:
        if not len(self.labels):
            object.__setattr__(self, "labels", np.full(len(self.owners), NO_LABEL, dtype=np.int64))
        if not len(self.tokens):
            object.__setattr__(self, "tokens", listed([np.zeros(0, dtype=np.int64)] * len(self.owners)))

    @property
    def num_dimensions(self) -> int:
        """Dimensions of the embeddings."""
        return int(self.embeddings.shape[1])

    def select(self, rows: "np.ndarray | slice") -> "Samples":
        """Select samples by a mask or a slice."""
        own = self.labels[rows], self.tokens[rows], self.tokenizer
        return Samples(self.owners[rows], self.embeddings[rows], *own)

    def with_tokens(self, tokens: Sequence[np.ndarray], tokenizer: str) -> "Samples":
        """Return these samples with their tokens, and the fingerprint of the tokenizer that read them."""
        return replace(self, tokens=listed(tokens), tokenizer=tokenizer)

    def each_client(self) -> Iterator[tuple[int, "Samples"]]:
        """Yield the index and the samples of each client that has any."""
        starts = np.flatnonzero(np.diff(self.owners, prepend=-1))
        for start, end in zip(starts, [*starts[1:], len(self.owners)], strict=True):
            yield int(self.owners[start]), self.select(slice(int(start), int(end)))

    def blocks(self, num_samples: int) -> Iterator["Samples"]:
        """Yield blocks of at least this many samples that keep each client's samples together."""
        start = 0
        while start < len(self.owners):
            last = self.owners[min(start + num_samples, len(self.owners)) - 1]
            end = int(np.searchsorted(self.owners, last, side="right"))
            yield self.select(slice(start, end))
            start = end


def listed(tokens: Sequence[np.ndarray]) -> np.ndarray:
    """Put arrays of any lengths into one array of objects, of which samples can be selected."""
    array = np.empty(len(tokens), dtype=object)
    for index, own in enumerate(tokens):
        array[index] = own
    return array


def quantize_embeddings(embeddings: np.ndarray) -> np.ndarray:
    """Round unit-length embeddings to whole multiples of `1 / EMBEDDING_UNITS`.

    A row of `d` entries and of length `r` rounds to a vector of norm at most `r * EMBEDDING_UNITS + sqrt(d) / 2`. By
    Cauchy-Schwarz every partial sum of the dot product of two such rows is an integer of at most its square, and
    `2 <p, c> - |c|^2` of at most three times that: below 2^24 for every `d` up to 65,536.

    Args:
        embeddings (`np.ndarray` of shape `(n, d)`): Rows of length at most one, give or take a thousandth.

    Returns:
        `np.ndarray` of shape `(n, d)`: int16.

    Raises:
        ValueError: An entry is not finite, a row is longer than one, or `d` is above 65,536.
    """
    embeddings = np.asarray(embeddings)
    if embeddings.ndim != 2 or embeddings.shape[1] > 2**16:
        raise ValueError(
            f"`embeddings` of shape {embeddings.shape} must be two-dimensional, with at most 65,536 columns."
        )
    if not np.isfinite(embeddings).all():
        raise ValueError("`embeddings` holds NaN or infinite entries: check the embedding model and its dtype.")
    if len(embeddings) and np.linalg.norm(embeddings.astype(np.float64), axis=1).max() > 1 + 1e-3:
        raise ValueError("`embeddings` holds rows longer than 1. Normalize them to unit length first.")
    return np.rint(embeddings * np.float32(EMBEDDING_UNITS)).astype(np.int16)


def check_quantized(name: str, embeddings: np.ndarray) -> None:
    """Raise a `ValueError` if this is not what `quantize_embeddings` returns, such as in a message from elsewhere."""
    if not isinstance(embeddings, np.ndarray) or embeddings.dtype != np.int16 or embeddings.ndim != 2:
        raise ValueError(f"`{name}` must be a two-dimensional array of int16, as `quantize_embeddings` returns.")
    if not 0 < embeddings.shape[1] <= 2**16 or not len(embeddings):
        raise ValueError(f"`{name}` of shape {embeddings.shape} must have a row, and 1 to 65,536 columns.")
    longest = EMBEDDING_UNITS * (1 + 1e-3) + np.sqrt(embeddings.shape[1]) / 2
    if np.linalg.norm(embeddings.astype(np.float64), axis=1).max() > longest:
        raise ValueError(f"`{name}` holds rows longer than 1. Normalize them to unit length first.")


def cap_samples(client: object, samples: list[Sample], cap: int, seed: int) -> list[Sample]:
    """Choose a client's random subset, which does not depend on who else participates or on the order of the rows.

    Each sample gets a rank, a hash of its text (and label, if it has one) and of which copy of that text it is, under
    a key of the seed and the client. The subset is the `cap` samples of the smallest ranks. So all samples have the
    same chance, and where a text is there twice, each copy counts.

    *What one text can change.* A text that is added or removed changes no other rank. So at most one sample of the
    subset is exchanged for another. For a client of more than `cap` samples, its votes of L2 norm 1 then change by at
    most `sqrt(2 / cap)`, which is 0.5 for 8 samples. (Two vectors scaled to length 1 differ by at most `|a - b| /
    sqrt(|a| |b|)`. For `k` votes per sample `|a - b|^2` is at most `2 k`, and `|a|^2` and `|b|^2` are at least `k
    cap`.) With labels, the shares beside the votes change as well, by at most `sqrt(2) * SHARE_WEIGHT / cap`, and the
    scale of the votes a little. Its mean changes by at most `2 / (cap * MEAN_CLIP)`, which is 0.36. The guarantee is
    about a client with all of its samples, and does not rest on this.

    Args:
        client (`object`): The client's id.
        samples (`list` of `str` or of `LabeledText`): Its texts.
        cap (`int`): Most samples of the subset.
        seed (`int`): Seed of the run. It counts as public.

    Returns:
        `list`: All samples if there are at most `cap`, in their order. Else the subset, by rank.
    """
    if len(samples) <= cap:
        return samples
    # One fractional id would make 7.0 of the id 7 in a table, and look the same.
    key = blake2b(f"{seed}/{look_of(client)}".encode("utf-8", "surrogatepass")).digest()
    copies: Counter[Sample] = Counter()
    ranks = []
    for sample in samples:
        words = sample if isinstance(sample, str) else f"{sample.label}/{sample.text}"
        ranks.append(blake2b(f"{copies[sample]}/{words}".encode("utf-8", "surrogatepass"), key=key).digest())
        copies[sample] += 1
    return [samples[index] for index in sorted(range(len(samples)), key=ranks.__getitem__)[:cap]]


class _Embedded:
    """The samples of clients as they are embedded: 2 bytes per number, in one array that is never copied.

    Args:
        most (`int`): Most samples that there can be.
    """

    def __init__(self, most: int) -> None:
        self._owners, self._labels = (np.empty(most, dtype=np.int64) for _ in range(2))
        self._embeddings: np.ndarray | None = None
        self._number = 0

    def add(self, client: int, embeddings: np.ndarray, labels: list[int]) -> None:
        """Add the samples of the next client."""
        if self._embeddings is None:
            self._embeddings = np.empty((len(self._owners), embeddings.shape[1]), dtype=np.int16)
        if embeddings.shape[1] != self.num_dimensions:
            raise ValueError("`embedding_model` returned vectors of different lengths. Use another model.")
        own = slice(self._number, self._number + len(embeddings))
        self._owners[own], self._embeddings[own], self._labels[own] = client, embeddings, labels
        self._number = own.stop

    @property
    def num_dimensions(self) -> int | None:
        """Dimensions of the embeddings. None if there is no sample."""
        return None if self._embeddings is None else int(self._embeddings.shape[1])

    def samples(self, num_dimensions: int) -> Samples:
        """Return all of them."""
        if self._embeddings is None:
            return Samples(np.zeros(0, dtype=np.int64), np.zeros((0, num_dimensions), dtype=np.int16))
        own = slice(self._number)
        return Samples(self._owners[own], self._embeddings[own], self._labels[own])

    def clear(self) -> None:
        """Forget all of them."""
        self._embeddings = None


def embed_clients(
    samples: PrivateRows | Mapping[object, list[Any]], embedder: Embedder, cap: int, seed: int, group: Group = ALONE
) -> Samples:
    """Cap and embed every client's samples, in batches of their own, and keep their labels if they have any.

    A client whose texts cannot be embedded contributes zero: one client must not decide whether a run takes place.
    This does not hold for a text that kills the process, or that breaks the model. After an error of some kinds, a GPU
    fails for all clients that follow. They would contribute zero because of that text. So public texts are embedded
    before the clients' and after them (`PROBES`), and nothing is released unless all bits are the same.

    Args:
        samples (`PrivateRows` or `Mapping` of clients to `list` of `str` or `LabeledText`): The clients' samples.
        embedder (`Embedder`): The embedding model.
        cap (`int`): Most samples that a client answers with.
        seed (`int`): Seed of the subsets.
        group (`Group`, *optional*):
            The processes whose clients they are. They tell each other whether any text was embedded, and in how many
            dimensions.

    Returns:
        `Samples`: The samples of the clients of this process, quantized, numbered in their order.

    Raises:
        ValueError: No text of any client can be embedded. The message quotes none. Or the model does not embed public
            texts, or embeds them differently after others.
    """
    embedded = _Embedded(_num_kept(samples, cap))
    unknown: list[tuple[int, int]] = []
    try:
        width = _embed_into(embedded, unknown, samples, embedder, cap, seed, group)
    except BaseException:
        # The frames of an error, such as an interruption, keep what they hold.
        embedded.clear()
        unknown.clear()
        raise
    return embedded.samples(width)


def _num_kept(samples: PrivateRows | Mapping[object, list[Any]], cap: int) -> int:
    sizes = samples.sizes if isinstance(samples, PrivateRows) else np.array(list(map(len, samples.values())))
    return int(np.minimum(sizes, cap).sum())


def _embed_into(
    embedded: _Embedded,
    unknown: list[tuple[int, int]],
    samples: PrivateRows | Mapping[object, list[Any]],
    embedder: Embedder,
    cap: int,
    seed: int,
    group: Group,
) -> int:
    """Add each client's embeddings, if there are any, and return the number of dimensions.

    How many tokens are unknown, and how many there are, is appended for each client whose texts were looked at.
    """
    failure, cuts = None, False
    expected = _in_all(group, lambda: embed_probes(embedder))

    def embed(client: object, own: list[Any]) -> tuple[np.ndarray, list[int]]:
        nonlocal cuts
        texts, labels = _texts_and_labels(cap_samples(client, own, cap, seed))
        # Asked of every client: one that fails here must not depend on whether others have long texts.
        if embedder.cuts(texts):
            cuts = True
        if isinstance(embedder, CountsUnknown):
            unknown.append(embedder.count_unknown(texts))
        return quantize_embeddings(embedder(texts)), labels

    def embed_client(item: tuple[object, list[Any]]) -> tuple[tuple[np.ndarray, list[int]] | None, str | None]:
        return attempted(embed, *item) if item[1] else (None, None)

    def take(client: int, result: tuple[tuple[np.ndarray, list[int]] | None, str | None]) -> str | None:
        if result[0] is not None:
            embedded.add(client, *result[0])
        return result[1]

    # Several threads may embed, each one client at a time. No variable here holds what they found.
    spread = embedder.spread if isinstance(embedder, SpreadsWork) else map
    with progress_bar(len(samples), "client", "Embedding clients") as bar:
        for failed in map(take, range(len(samples)), spread(embed_client, samples.items())):
            failure = failed or failure
            bar.update()
    is_alike = attempted(embed_probes, embedder)[0] == expected
    found = group.gather((embedded.num_dimensions, failure, is_alike))
    widths = {each for each, _, _ in found if each is not None}
    failures = [each for _, each, _ in found if each]
    if not all(alike for _, _, alike in found):
        raise ValueError(
            "`embedding_model` does not embed public texts as it did before the private ones"
            f"{f', of which some failed with a {failures[0]}' if failures else ''}. Then the text of one client may "
            "have changed what others answer, so nothing was asked of them. Start again. If it happens again, load "
            "the model on a CPU, or use another one."
        )
    if not widths:
        failure = next(iter(failures), None)
        raise ValueError(
            f"`embedding_model` failed on all private texts, with a {failure}. What it said may quote them, so it is "
            "not shown. Does it embed any text as finite numbers? Load it in float32, or try it on public texts."
        )
    if len(widths) > 1:
        raise ValueError(f"`embedding_model` has {sorted(widths)} dimensions in the processes. Use one model in all.")
    _warn_of_texts(embedder, failure, cuts, unknown)
    return widths.pop()


def _in_all(group: Group, work: Callable[[], Result]) -> Result:
    """Do public work in all processes. If it fails in one of them, each raises, and none waits for the others."""
    result, problem = None, None
    try:
        result = work()
    except ValueError as error:
        problem = error
    if any(group.gather(problem is not None)):
        raise problem or ValueError("`embedding_model` failed on public words in another process.")
    return cast(Result, result)


def embed_probes(embedder: Embedder) -> list[bytes]:
    """Embed public texts one by one (`PROBES`): the first one twice, then all, and all again in the other order.

    Raises:
        ValueError: They cannot be embedded, or are not embedded alike.
    """
    try:
        found = [embedder([text]).tobytes() for text in (PROBES[0], *PROBES, *PROBES[::-1])]
    except Exception as error:  # Whatever a model raises.
        raise ValueError(
            "`embedding_model` failed on public words. Does it embed any text as finite numbers? Load it in float32, "
            "or use another one."
        ) from error
    if found[0] != found[1]:
        raise ValueError(
            "`embedding_model` embeds the same public text differently each time. Then no one could say that a "
            "client's answer depends on its own texts only. Load it in float32, on a CPU, and without "
            "`torch.compile`, or use another one."
        )
    if found[1:] != found[:0:-1]:
        raise ValueError(
            "`embedding_model` embeds the same public text differently after it has embedded others. What it makes of "
            "a client's texts would depend on other clients. Use another model."
        )
    return found


def _texts_and_labels(samples: Sequence[Any]) -> tuple[list[str], list[int]]:
    texts = [sample.text if isinstance(sample, LabeledText) else sample for sample in samples]
    return texts, [sample.label if isinstance(sample, LabeledText) else NO_LABEL for sample in samples]


def _warn_of_texts(embedder: Embedder, failure: str | None, cuts: bool, unknown: list[tuple[int, int]]) -> None:
    """Warn the owner of the texts of those that count for nothing, or only in part."""
    if failure:
        tell_owner(
            f"`embedding_model` failed on the texts of some clients, with a {failure}. They contribute nothing.",
            stacklevel=6,
        )
    if cuts:
        tell_owner(
            f"`private` has texts of more than {embedder.max_length} tokens, which is all of a text that counts with "
            "this `embedding_model`. Split longer texts into several rows of the same client.",
            stacklevel=6,
        )
    tenths = _tenths_unknown(unknown)
    if tenths > 10 * MOST_UNKNOWN:
        tell_owner(
            f"The tokenizer of `embedding_model` reads about {10 * tenths} % of the tokens of `private` as unknown. "
            "Texts that it cannot read are all alike to it, so the votes say little. Use an embedding model that was "
            "trained on this script. (This warning was made from private text. Do not pass it on.)",
            stacklevel=6,
        )


def _tenths_unknown(counts: Sequence[tuple[int, int]]) -> int:
    """Compute the fraction of unknown tokens of private texts, in tenths. *Released*: to their owner, in a warning."""
    return round(10 * sum(unknown for unknown, _ in counts) / max(sum(total for _, total in counts), 1))
