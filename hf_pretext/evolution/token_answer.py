"""What the clients' token counts say: a released answer, which is public like all post-processing of it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..settings import shortened
from .token_list import TokenList

LARGEST = 1e300
"""Largest number of an answer that is read from a file."""


@dataclass(frozen=True, eq=False)
class TokenAnswer:
    """The noisy sum of the clients' token counts.

    Each client's vector has norm 1, so a sum over the clients says how they write on average, each of them the same
    weight.

    Args:
        tokens (`np.ndarray` of shape `(m,)`): The public tokens, int64.
        weights (`np.ndarray` of shape `(m,)`): Weight of each token, above zero, float64.
        counts (`np.ndarray` of shape `(num_labels, m)`):
            The noisy sums for each label, float64. Without labels there is one row.
        noise_std (`float`): Standard deviation of the noise in each of them.
        num_clients (`int`): Number of clients. It counts as public.
        tokenizer (`str`): Fingerprint of the tokenizer of the tokens.
    """

    tokens: np.ndarray
    weights: np.ndarray
    counts: np.ndarray
    noise_std: float
    num_clients: int
    tokenizer: str

    @classmethod
    def of(cls, asked: TokenList, answer: np.ndarray, noise_std: float, num_clients: int) -> "TokenAnswer":
        """Make sense of the answer to the question about a list, of shape `(num_labels * m,)`."""
        tokens, weights = np.array(asked.tokens, dtype=np.int64), np.array(asked.weights)
        return cls(tokens, weights, answer.reshape(-1, len(tokens)), noise_std, num_clients, asked.tokenizer)

    @classmethod
    def from_dict(cls, values: Any) -> "TokenAnswer":
        """Read what `to_dict` returned.

        Raises:
            ValueError: It is anything else.
        """
        asked = {name: values.get(name) for name in ("tokens", "weights", "tokenizer")} if _is_mapping(values) else {}
        if not TokenList.is_valid(asked):
            raise ValueError(f"Token counts that are {shortened(values)} are not valid.")
        rows, numbers = values.get("counts"), (values.get("noise_std"), values.get("num_clients"))
        are_rows = isinstance(rows, list) and rows and all(_is_row(row, len(asked["tokens"])) for row in rows)
        if not are_rows or not all(_is_number(each) and each >= 0 for each in numbers):
            raise ValueError("Token counts without a finite number for each token and label are not valid.")
        flat = np.array(rows, dtype=np.float64).reshape(-1)
        return cls.of(TokenList.from_dict(asked), flat, float(numbers[0]), int(numbers[1]))

    def to_dict(self) -> dict[str, Any]:
        """Return the answer as a dictionary that JSON can hold."""
        arrays = {name: vars(self)[name].tolist() for name in ("tokens", "weights", "counts")}
        others = {name: vars(self)[name] for name in ("noise_std", "num_clients", "tokenizer")}
        return {**arrays, **others}


def _is_mapping(value: Any) -> bool:
    return isinstance(value, Mapping)


def _is_row(row: Any, length: int) -> bool:
    return isinstance(row, list) and len(row) == length and all(map(_is_number, row))


def _is_number(value: Any) -> bool:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    # An integer may be too large for a float.
    return is_number and abs(value) <= LARGEST and math.isfinite(value)
