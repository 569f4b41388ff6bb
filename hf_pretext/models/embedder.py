"""Sentence embeddings of unit length, from a sentence-transformers model."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from threading import RLock
from typing import Any, TypeVar

import numpy as np

from ..cleaning import valid_unicode
from ..processes import progress_bar
from .cutting import MAX_CHARACTERS_PER_TOKEN, count_tokens, parts_of, token_ids
from .packing import PackedEncoder, find_packed_encoder, rotary_kinds
from .threads import map_in_threads

Item = TypeVar("Item")
Result = TypeVar("Result")

MAX_PARTS = 16
"""Parts of a long text that are embedded, so that one text cannot take forever. The rest of it does not count."""

MAX_CHARACTERS_LOOKED_AT = 2000
"""Characters of a text in which unknown tokens are counted."""

TEXTS_OF_A_PASS = 16
"""Texts that a thread of a CPU reads at a time. More would be no faster."""

_NO_SPECIAL = {"add_special_tokens": False}

_tokenizing = RLock()
"""A tokenizer is used by one thread at a time: it keeps settings of its last call."""


class TextEmbedder:
    """Embeds texts as vectors of length one, so that L2 distance and cosine similarity order candidates alike.

    The embedding of a text that is longer than the model reads is the mean of the embeddings of its parts, scaled to
    length one. The parts have about equally many tokens. Such a text votes for candidates that are like all of it on
    average: another long text of the same topics, or a short one about what most of it is about. What only one part
    says counts for little.

    Args:
        model (`SentenceTransformer`): The embedding model. The paper's is all-MiniLM-L6-v2, 384 dimensions.
        batch_size (`int`, *optional*, defaults to `64`): Texts per forward pass.

    Raises:
        ValueError: The model scales its positions by the longest text that it has read, so that a client's embedding
            would depend on the lengths of other clients' texts.
    """

    def __init__(self, model: Any, batch_size: int = 64) -> None:
        if "dynamic" in rotary_kinds(model):
            raise ValueError(
                "`embedding_model` has positions of the type 'dynamic': how it embeds a text depends on the lengths "
                "of texts before it. So what it makes of a client's texts would depend on other clients. Set another "
                "`rope_type` in its config, or use another model."
            )
        self._model = model
        self.batch_size = batch_size

    @property
    def max_length(self) -> int | None:
        """Number of tokens of a text that count, in `MAX_PARTS` parts if the model's tokenizer is known."""
        length = self._length_of_a_part
        return length if length is None or self._tokenizer is None else MAX_PARTS * length

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """Embed texts.

        Args:
            texts (`Sequence[str]`): The texts. A lone surrogate in them counts as a question mark.

        Returns:
            `np.ndarray` of shape `(len(texts), d)`: Rows of length one, float32.

        Raises:
            ValueError: The model returns NaN or infinite numbers, or a vector of length zero.
        """
        with _tokenizing:
            parts = [self._parts(text) for text in texts]
        rows = self._embed([part for own in parts for part in own])
        starts = np.cumsum([0, *map(len, parts)])[:-1]
        embeddings = np.add.reduceat(rows, starts) if len(rows) else rows
        is_long = np.array([len(own) > 1 for own in parts], dtype=bool)
        embeddings[is_long] /= _checked_lengths(embeddings[is_long], is_unit=False)
        return embeddings

    def spread(self, work: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """Yield `work(item)` of each item, in their order, where `work` embeds what is in the item.

        On a CPU several threads work, each on one item at a time and with one thread. So a result depends on its item
        only, bit by bit: not on the other items, and not on the number of cores. A model that several threads cannot
        use works on one item after another.
        """
        if self._packed is None:
            yield from map(work, items)
            return
        with self._packed.ready():
            yield from map_in_threads(work, items)

    def _embed(self, texts: Sequence[str]) -> np.ndarray:
        """Embed texts that are short enough."""
        embeddings = self._embed_padded(texts) if self._packed is None else self._embed_packed(texts, self._packed)
        # A model in half precision normalizes to a few per mille only.
        return embeddings / _checked_lengths(embeddings, is_unit=True)

    def _embed_packed(self, texts: Sequence[str], packed: PackedEncoder) -> np.ndarray:
        def read(start: int) -> np.ndarray:
            with _tokenizing:
                features = packed.features(texts[start : start + size])
            return packed.read(features)

        size = min(TEXTS_OF_A_PASS, self.batch_size)
        embeddings = np.zeros((len(texts), self._model.get_embedding_dimension()), dtype=np.float32)
        starts = range(0, len(texts), size)
        with progress_bar(len(texts), "text") as bar:
            for start, rows in zip(starts, self.spread(read, starts), strict=True):
                embeddings[start : start + size] = rows
                bar.update(len(rows))
        return embeddings

    def _embed_padded(self, texts: Sequence[str]) -> np.ndarray:
        # Longest first, so that memory runs out at once or not at all, and batches need little padding.
        order = sorted(range(len(texts)), key=lambda index: -len(texts[index]))
        embeddings = np.zeros((len(texts), self._model.get_embedding_dimension()), dtype=np.float32)
        with progress_bar(len(texts), "text") as bar:
            for start in range(0, len(texts), self.batch_size):
                chosen = order[start : start + self.batch_size]
                embeddings[chosen] = self._model.encode(
                    [texts[index] for index in chosen],
                    batch_size=self.batch_size,
                    normalize_embeddings=True,
                    show_progress_bar=False,
                )
                bar.update(len(chosen))
        return embeddings

    def cuts(self, texts: Sequence[str]) -> bool:
        """Return whether some text has tokens that do not count."""
        longest, tokenizer = self.max_length, self._tokenizer
        if longest is None or tokenizer is None:
            return False
        with _tokenizing:
            return any(
                len(text) > MAX_CHARACTERS_PER_TOKEN * longest
                or count_tokens(tokenizer, text, **_NO_SPECIAL) > longest
                for text in texts
                if len(text.encode("utf-8", "replace")) > longest
            )

    def count_unknown(self, texts: Sequence[str]) -> tuple[int, int]:
        """Count the tokens of texts, and those of them that are the one for characters that the model does not know.

        Args:
            texts (`Sequence[str]`): The texts. Their beginnings are looked at.

        Returns:
            `tuple` of `int`: Number of unknown tokens, and of all.
        """
        tokenizer = self._tokenizer
        if tokenizer is None or tokenizer.unk_token_id is None:
            return 0, 0
        beginnings = [text[:MAX_CHARACTERS_LOOKED_AT] for text in texts]
        with _tokenizing:
            found = [id for text in beginnings for id in token_ids(tokenizer, text, **_NO_SPECIAL)]
        return found.count(tokenizer.unk_token_id), len(found)

    def _parts(self, text: str) -> list[str]:
        text, length, tokenizer = valid_unicode(text), self._length_of_a_part, self._tokenizer
        if length is None:
            return [text]
        # A token has at least one byte, so most texts need no tokenizer to be known as short.
        if tokenizer is None or len(text.encode()) <= length:
            return [text[: MAX_CHARACTERS_PER_TOKEN * length]]
        return list(parts_of(tokenizer, text, length, MAX_PARTS, **_NO_SPECIAL)) or [text[:length]]

    @cached_property
    def _packed(self) -> PackedEncoder | None:
        """What reads texts without padding and in several threads. None if the model cannot be read like this."""
        return find_packed_encoder(self._model)

    @cached_property
    def _length_of_a_part(self) -> int | None:
        """Number of tokens that the model reads, without those that its tokenizer adds. None if it reads all."""
        longest, tokenizer = self._model.max_seq_length, self._tokenizer
        if longest is None or longest == math.inf:
            return None
        if tokenizer is None:
            return int(longest)
        # Some models read an instruction before each text.
        prompt = self._model.prompts.get(self._model.default_prompt_name) or ""
        return max(int(longest) - count_tokens(tokenizer, prompt), 1)

    @property
    def _tokenizer(self) -> Any:
        """The model's tokenizer if it is like those of transformers, else None: static models have another kind."""
        # Some modules of the caller have none at all.
        tokenizer = getattr(self._model, "tokenizer", None)
        return tokenizer if callable(tokenizer) else None


def _checked_lengths(embeddings: np.ndarray, is_unit: bool) -> np.ndarray:
    lengths = np.linalg.norm(embeddings, axis=1, keepdims=True)
    # NaN compares unequal, so this catches it too.
    if not np.all(np.abs(lengths - 1) < 0.1 if is_unit else lengths > 1e-3):
        raise ValueError(
            "`embedding_model` returned vectors that are not finite or have length zero. Load it in float32, or use "
            "another model."
        )
    return lengths
