"""Sentence embeddings of unit length, from a sentence-transformers model."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..cleaning import valid_unicode
from ..processes import progress_bar

MAX_CHARACTERS_PER_TOKEN = 256
"""Longer texts are cut before the tokenizer gets them. It would read a whole text to use its beginning."""


class TextEmbedder:
    """Embeds texts as vectors of length one, so that L2 distance and cosine similarity order candidates alike.

    Args:
        model (`SentenceTransformer`): The embedding model. The paper's is all-MiniLM-L6-v2, 384 dimensions.
        batch_size (`int`, *optional*, defaults to `64`): Texts per forward pass.
    """

    def __init__(self, model: Any, batch_size: int = 64) -> None:
        self._model = model
        self.batch_size = batch_size

    @property
    def max_length(self) -> int | None:
        """Number of tokens that the model reads. The rest of a longer text is not embedded. None if it reads all."""
        longest = self._model.max_seq_length
        # A static model says that it is infinite.
        return None if longest is None or math.isinf(longest) else int(longest)

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """Embed texts.

        Args:
            texts (`Sequence[str]`): The texts. A lone surrogate in them counts as a question mark.

        Returns:
            `np.ndarray` of shape `(len(texts), d)`: Rows of length one, float32.

        Raises:
            ValueError: The model returns NaN or infinite numbers, or a vector of length zero.
        """
        # Longest first, so that memory runs out at once or not at all, and batches need little padding.
        order = sorted(range(len(texts)), key=lambda index: -len(texts[index]))
        embeddings = np.zeros((len(texts), self._model.get_embedding_dimension()), dtype=np.float32)
        with progress_bar(len(texts), "text") as bar:
            for start in range(0, len(texts), self.batch_size):
                chosen = order[start : start + self.batch_size]
                embeddings[chosen] = self._model.encode(
                    [self._beginning(texts[index]) for index in chosen],
                    batch_size=self.batch_size,
                    normalize_embeddings=True,
                    show_progress_bar=False,
                )
                bar.update(len(chosen))
        lengths = np.linalg.norm(embeddings, axis=1, keepdims=True)
        # NaN compares unequal, so this catches it too.
        if not np.all(np.abs(lengths - 1) < 0.1):
            raise ValueError(
                "`embedding_model` returned vectors that are not finite or have length zero. Load it in float32, or "
                "use another model."
            )
        # A model in half precision normalizes to a few per mille only.
        return embeddings / lengths

    def cuts(self, texts: Sequence[str]) -> bool:
        """Return whether some text is longer than the model reads."""
        tokenizer = self._model.tokenizer
        if self.max_length is None or tokenizer is None:
            return False
        # A token has at least one character, so most texts need no tokenizer to be known as short.
        candidates = [text for text in texts if len(text) > self.max_length]
        limit = {"truncation": True, "max_length": self.max_length + 1}
        return any(
            len(beginning) < len(text) or len(tokenizer(beginning, **limit)["input_ids"]) > self.max_length
            for text in candidates
            for beginning in [self._beginning(text)]
        )

    def _beginning(self, text: str) -> str:
        if self.max_length is not None:
            text = text[: MAX_CHARACTERS_PER_TOKEN * self.max_length]
        return valid_unicode(text)
