"""The tokenizer of a language model, as questions about tokens and the tilt of the model's words read it."""

import hashlib
import json
from collections.abc import Sequence
from functools import cached_property
from typing import Any

from .cutting import token_ids

TRIAL = "Don't  panic: it's 42 (na\u00efve caf\u00e9, \u6771\u4eac) \U0001f642\tEnd.\n\nnext"
"""A public text by which tokenizers with the same vocabulary are told apart."""


class TokenizerReader:
    """Reads texts as the tokens that a language model would write them with, each below a heading of the list.

    Args:
        tokenizer (`PreTrainedTokenizerBase`): The model's tokenizer.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    def __call__(self, text: str) -> Sequence[int]:
        """Return the tokens of a text at the beginning of a line, with those of the end of the line before it.

        A text that begins a line has no blank before its first word, which is another token with a blank.
        """
        return token_ids(self._tokenizer, f"\n{text}", add_special_tokens=False)

    def decode(self, token: int) -> str:
        """Return the characters that a token stands for."""
        return self._tokenizer.decode([token])

    @cached_property
    def special(self) -> frozenset[int]:
        """Tokens that stand for no characters of a text, such as the end of a turn."""
        added = self._tokenizer.added_tokens_decoder.items()
        return frozenset(self._tokenizer.all_special_ids) | {number for number, token in added if token.special}

    @cached_property
    def fingerprint(self) -> str:
        """Digest of the vocabulary, and of the tokens of a trial text."""
        content = [sorted(self._tokenizer.get_vocab().items()), list(self(TRIAL))]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:32]
