"""From private text to what questions read: grouping by client, the cap, and embeddings on an integer grid.

A client's samples depend on that client's texts only, bit for bit. Its texts make batches of their own in the
embedding model, and its subset follows from hashes of its texts under a key of its own. Embeddings are rounded to
integers that are small enough for every product and every partial sum to be exact in float32, in any order
(`quantize_embeddings`). A floating-point matrix product does not promise this: in a larger batch the sum behind an
entry may be ordered differently.
"""

import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar, runtime_checkable

import numpy as np

from ..configuration import PrivateEvolutionConfig
from ..data.columns import MissingColumnError, has_transform, shown_names, values_of
from ..data.labels import read_labels
from ..forms import Plain, form_of, read_rows
from ..processes import progress_bar
from .guard import attempted
from .identity import check_clients

if TYPE_CHECKING:
    from datasets import Dataset

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


class LabeledText(NamedTuple):
    """A private text and its label. Two samples with one text and different labels are two samples.

    Args:
        text (`str`): The text.
        label (`int`): Number of its label, in the order of `config.labels`.
    """

    text: str
    label: int


Sample = TypeVar("Sample", str, LabeledText)

NO_LABEL = -1
"""Label of a sample that has none."""


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

    @classmethod
    def of(cls, embedded: Sequence[np.ndarray], labels: Sequence[Sequence[int]] | None = None) -> "Samples":
        """Put together the embeddings of clients, each of shape `(number of its samples, d)`, and their labels.

        A client whose texts could not be embedded has no samples, and so no labels either.
        """
        owners = np.repeat(np.arange(len(embedded)), list(map(len, embedded)))
        points = np.concatenate(list(embedded))
        if labels is None:
            return cls(owners, points)
        own = [each for each, rows in zip(labels, embedded, strict=True) if len(rows)]
        return cls(owners, points, np.concatenate([np.zeros(0), *own]).astype(np.int64))

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


def _column(private: "Dataset", argument: str, name: str, fix: str) -> list[Any]:
    values = None
    try:
        values = values_of(private, name)
    except MissingColumnError:
        pass
    if values is None:
        names = shown_names(private.column_names)
        raise ValueError(f"`{argument}`={name!r} is not a column of `private`, which has {names}.{fix}")
    return values


def read_columns(private: "Dataset", config: PrivateEvolutionConfig) -> tuple[list[str], list[object]]:
    """Read the texts of private rows, and whose they are.

    Raises:
        ValueError: A column is missing, rows are not whole or have no client, or a transform could mix the rows of
            clients.
        TypeError: `private` is not a `Dataset`, or rows of the text column are not strings.
    """
    from datasets import Dataset

    if not isinstance(private, Dataset):
        raise TypeError(
            f"`private` of type {type(private).__name__} must be one `datasets.Dataset`: take a split of a "
            "`DatasetDict`, such as `private['train']`. `Dataset.from_pandas` or `Dataset.from_list` makes one, also "
            "of a stream: `Dataset.from_list(list(stream))`."
        )
    if has_transform(private):
        raise ValueError(
            "`private` has a transform (`with_transform`). It sees rows of several clients at a time, and could mix "
            "them. Apply it to each row alone, in memory, and give the result: `private.with_format(None).map("
            "transform, batched=True, batch_size=1, keep_in_memory=True)`. Or leave it out: "
            "`private.with_format(None)`."
        )
    form = form_of(config)
    columns = [_column(private, "text_column", name, "") for name in form.source]
    ids = _column(
        private,
        "client_column",
        config.client_column,
        " The guarantee is per client, so every row needs to say whose it is. Set `client_column` to the column that "
        "does. If each row really is a different person's, say so: "
        f"`private.add_column({config.client_column!r}, list(range(len(private))))`.",
    )
    if isinstance(form, Plain) and not all(isinstance(text, str) for text in columns[0]):
        raise TypeError(f"`private` has rows in column {form.column!r} that are not strings. Drop or convert them.")
    texts = read_rows("private", form, zip(*columns, strict=True))
    check_clients(ids, config.client_column)
    return texts, ids


def group_by_client(private: "Dataset", config: PrivateEvolutionConfig) -> dict[object, list[str]]:
    """Group the texts that are not blank. A client with blank texts only is still a client, which contributes zero.

    Raises:
        ValueError: A column is missing, rows are not whole (`forms.read_rows`), or have no client
            (`identity.check_clients`, which also warns of ids that look alike).
        TypeError: `private` is not a `Dataset`, or rows of the text column are not strings.
    """
    texts, ids = read_columns(private, config)
    return _group(texts, ids, texts)


def group_with_labels(private: "Dataset", config: PrivateEvolutionConfig) -> dict[object, list[LabeledText]]:
    """Group the texts that are not blank with their labels. See `group_by_client`.

    Raises:
        ValueError: As in `group_by_client`, or rows have a label that is not among `config.labels`.
    """
    texts, ids = read_columns(private, config)
    labels = read_labels("private", private, str(config.label_column), config.label_names)
    return _group(texts, ids, list(map(LabeledText, texts, labels)))


def _group(texts: Sequence[str], ids: Sequence[object], samples: Sequence[Sample]) -> dict[object, list[Sample]]:
    groups: dict[object, list[Sample]] = {client: [] for client in ids}
    for text, client, sample in zip(texts, ids, samples, strict=True):
        if text.strip():
            groups[client].append(sample)
    if not all(text.strip() for text in texts):
        warnings.warn("`private` has blank texts. They are left out.", stacklevel=4)
    return groups


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
    key = blake2b(f"{seed}/{client}".encode("utf-8", "surrogatepass")).digest()
    copies: Counter[Sample] = Counter()
    ranks = []
    for sample in samples:
        words = sample if isinstance(sample, str) else f"{sample.label}/{sample.text}"
        ranks.append(blake2b(f"{copies[sample]}/{words}".encode("utf-8", "surrogatepass"), key=key).digest())
        copies[sample] += 1
    return [samples[index] for index in sorted(range(len(samples)), key=ranks.__getitem__)[:cap]]


def embed_with_labels(samples: Mapping[object, list[LabeledText]], embedder: Embedder, cap: int, seed: int) -> Samples:
    """Cap and embed every client's samples, and keep their labels. See `embed_clients`."""
    chosen = {client: cap_samples(client, own, cap, seed) for client, own in samples.items()}
    texts = {client: [sample.text for sample in own] for client, own in chosen.items()}
    labels = [[sample.label for sample in own] for own in chosen.values()]
    return Samples.of(embed_clients(texts, embedder, cap, seed), labels)


def embed_clients(samples: Mapping[object, list[str]], embedder: Embedder, cap: int, seed: int) -> list[np.ndarray]:
    """Cap and embed every client's samples, in batches of their own.

    A client whose texts cannot be embedded contributes zero: one client must not decide whether a run takes place. Of
    an embedding model that kills the process this cannot be said.

    Returns:
        `list` of `np.ndarray`: Each client's quantized embeddings, of shape `(at most cap, d)`.

    Raises:
        ValueError: No text of any client can be embedded. The message quotes none.
    """
    embedded: list[np.ndarray | None] = []
    unknown: list[tuple[int, int]] = []
    try:
        width = _embed_into(embedded, unknown, samples, embedder, cap, seed)
    except BaseException:
        # The frames of an error, such as an interruption, keep what they hold.
        embedded.clear()
        unknown.clear()
        raise
    return [np.zeros((0, width), dtype=np.int16) if own is None else own for own in embedded]


def _embed_into(
    embedded: list[np.ndarray | None],
    unknown: list[tuple[int, int]],
    samples: Mapping[object, list[str]],
    embedder: Embedder,
    cap: int,
    seed: int,
) -> int:
    """Append each client's embeddings, or None if there are none, and return the number of dimensions.

    How many tokens are unknown, and how many there are, is appended for each client whose texts were looked at.
    """
    failure, cuts = None, False

    def embed(texts: list[str]) -> np.ndarray:
        nonlocal cuts
        # Asked of every client: one that fails here must not depend on whether others have long texts.
        cuts = embedder.cuts(texts) or cuts
        if isinstance(embedder, CountsUnknown):
            unknown.append(embedder.count_unknown(texts))
        return quantize_embeddings(embedder(texts))

    with progress_bar(len(samples), "client", "Embedding clients") as bar:
        for client, texts in samples.items():
            embedded.append(None)
            if texts:
                embedded[-1], failed = attempted(embed, cap_samples(client, texts, cap, seed))
                failure = failed or failure
            bar.update()
    widths = {own.shape[1] for own in embedded if own is not None}
    if not widths:
        raise ValueError(
            f"`embedding_model` failed on all private texts, with a {failure}. What it said may quote them, so it is "
            "not shown. Does it embed any text as finite numbers? Load it in float32, or try it on public texts."
        )
    if failure:
        warnings.warn(
            f"`embedding_model` failed on the texts of some clients, with a {failure}. They contribute nothing.",
            stacklevel=4,
        )
    if cuts:
        warnings.warn(
            f"`private` has texts of more than {embedder.max_length} tokens, which is all of a text that counts with "
            "this `embedding_model`. Split longer texts into several rows of the same client.",
            stacklevel=4,
        )
    tenths = _tenths_unknown(unknown)
    if tenths > 10 * MOST_UNKNOWN:
        warnings.warn(
            f"The tokenizer of `embedding_model` reads about {10 * tenths} % of the tokens of `private` as unknown. "
            "Texts that it cannot read are all alike to it, so the votes say little. Use an embedding model that was "
            "trained on this script. (This warning was made from private text. Do not pass it on.)",
            stacklevel=4,
        )
    return widths.pop()


def _tenths_unknown(counts: Sequence[tuple[int, int]]) -> int:
    """Compute the fraction of unknown tokens of private texts, in tenths. *Released*: to their owner, in a warning."""
    return round(10 * sum(unknown for unknown, _ in counts) / max(sum(total for _, total in counts), 1))
