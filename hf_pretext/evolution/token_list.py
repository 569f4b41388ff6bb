"""Which tokens clients are asked about: a public list, the same in every process and for any clients."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..clients.questions import LabeledTokenCounts, TokenCounts
from ..clients.questions.token_counts import LARGEST_WEIGHT
from ..clients.tokens import TokenReader
from ..configuration import PrivateEvolutionConfig
from ..prompts import ListPrompt

FEWEST_TOKENS = 2
"""Fewest tokens of a list. A vector of one number says nothing."""

TRIED_TEXTS = 16
"""Public texts by which it is tried whether a tokenizer reads a text alike every time."""

WEIGHT_POWER = -0.25
"""Power of its public frequency by which a token is weighted. The norm of a client is then not all of common words."""


@dataclass(frozen=True)
class TokenList:
    """Public tokens, and how much each counts.

    Args:
        tokens (`tuple` of `int`): Different tokens.
        weights (`tuple` of `float`): Weight of each token, above zero.
        tokenizer (`str`): Fingerprint of their tokenizer.
    """

    tokens: tuple[int, ...]
    weights: tuple[float, ...]
    tokenizer: str

    @classmethod
    def of(cls, texts: Iterable[str], reader: TokenReader, config: PrivateEvolutionConfig) -> "TokenList":
        """Take the `config.num_tokens` most frequent tokens of public texts. Among equally frequent ones, the first.

        Left out are special tokens, those that hold the end of a line, and those of the list's headings, by which the
        language model begins and ends a text.

        Args:
            texts (`Iterable[str]`): Public texts. What is read from private ones must never get here.
            reader (`TokenReader`): The tokenizer.
            config (`PrivateEvolutionConfig`): Number of tokens, and the list's heading.

        Raises:
            ValueError: The texts have fewer than two such tokens.
        """
        counts = Counter(token for text in texts for token in reader(text))
        left_out = reader.special | _of_headings(reader, config)
        ranked = sorted(counts, key=lambda token: (-counts[token], token))
        usable = (token for token in ranked if token not in left_out and not _ends_line(reader.decode(token)))
        tokens = tuple(token for token, _ in zip(usable, range(config.num_tokens), strict=False))
        if len(tokens) < FEWEST_TOKENS:
            raise ValueError(
                f"`initial_population` has {len(tokens)} different tokens that clients could be asked about, and "
                f"`token_fraction`={config.token_fraction} needs at least {FEWEST_TOKENS}. Give more public texts, or "
                "set `token_fraction`=0."
            )
        weights = tuple((counts[token] / counts[tokens[0]]) ** WEIGHT_POWER for token in tokens)
        return cls(tokens, weights, reader.fingerprint)

    @staticmethod
    def is_valid(value: Any) -> bool:
        """Return whether a value is what `to_dict` makes."""
        if not isinstance(value, dict) or set(value) != {"tokens", "weights", "tokenizer"}:
            return False
        tokens, weights = value["tokens"], value["weights"]
        are_lists = isinstance(tokens, list) and isinstance(weights, list) and len(tokens) == len(weights) > 0
        return (
            are_lists
            and all(type(token) is int and 0 <= token < 2**31 for token in tokens)
            and len(set(tokens)) == len(tokens)
            and all(isinstance(weight, float) and 1 / LARGEST_WEIGHT <= weight <= LARGEST_WEIGHT for weight in weights)
            and isinstance(value["tokenizer"], str)
        )

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "TokenList":
        """Read what `to_dict` made."""
        return cls(tuple(values["tokens"]), tuple(values["weights"]), values["tokenizer"])

    def to_dict(self) -> dict[str, Any]:
        """Return the list as a dictionary that JSON can hold."""
        return {"tokens": list(self.tokens), "weights": list(self.weights), "tokenizer": self.tokenizer}

    def question(self, num_labels: int = 0) -> TokenCounts:
        """Ask the clients for their counts, of the samples of each label if there are labels."""
        asked = np.array(self.tokens, dtype=np.int64), np.array(self.weights), self.tokenizer
        return LabeledTokenCounts(*asked, num_labels) if num_labels else TokenCounts(*asked)


def check_reads_alike(texts: Sequence[str], reader: TokenReader) -> None:
    """Raise a `ValueError` if a tokenizer reads some public texts differently after others.

    The tokens of a client would then depend on those of the clients before it. A trial of a few texts finds what
    shows at once. The report has the assumption that there is nothing else.
    """
    few = list(texts[:TRIED_TEXTS])
    read = [tuple(reader(text)) for text in few]
    if read != [tuple(reader(text)) for text in few[::-1]][::-1] or read != [tuple(reader(text)) for text in few]:
        raise ValueError(
            "The tokenizer of `expansion_model` reads the same public text as other tokens after it has read others. "
            "So what it reads in the texts of a client would depend on other clients. Give another model, or set "
            "`token_fraction`=0."
        )


def _of_headings(reader: TokenReader, config: PrivateEvolutionConfig) -> set[int]:
    """List the tokens of the headings that prompts can show, and of their numbers."""
    prompt, most = ListPrompt.of(config), config.seeds_per_prompt + config.texts_per_prompt + 1
    return {token for number in range(1, most + 1) for token in reader(prompt.stop(number))}


def _ends_line(characters: str) -> bool:
    return len(characters.splitlines()) > 1 or characters != characters.rstrip("\r\n")


def counts_of(texts: Sequence[str], tokens: Sequence[int], reader: Callable[[str], Sequence[int]]) -> np.ndarray:
    """Count public tokens in texts, as clients count them in theirs.

    Args:
        texts (`Sequence[str]`): Public or synthetic texts.
        tokens (`Sequence[int]`): The tokens.
        reader (`Callable`): The tokenizer.

    Returns:
        `np.ndarray` of shape `(len(texts), len(tokens))`: How often each text holds each token, int64.
    """
    index = {token: number for number, token in enumerate(tokens)}
    counts = np.zeros((len(texts), len(tokens)), dtype=np.int64)
    for row, text in enumerate(texts):
        for token in reader(text):
            if token in index:
                counts[row, index[token]] += 1
    return counts
