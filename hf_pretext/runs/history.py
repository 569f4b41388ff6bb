"""The record of a round, as far as everyone may know it."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np


@dataclass(frozen=True)
class RoundRecord:
    """What a round did.

    Args:
        round (`int`): Number of the round, from 1.
        num_candidates (`int`): Candidates that the clients voted for.
        num_above_threshold (`int`): Candidates with a weight above zero.
        num_survivors (`int`): Different candidates that were drawn as parents.
        votes (`tuple` of `float`): The noisy histogram, sorted from most to fewest votes.
        seconds (`float`): Time of the round's public work. (The clients' time depends on what they hold.)
    """

    round: int
    num_candidates: int
    num_above_threshold: int
    num_survivors: int
    votes: tuple[float, ...]
    seconds: float

    @classmethod
    def of(
        cls, number: int, votes: np.ndarray, weights: np.ndarray, survivors: np.ndarray, seconds: float
    ) -> "RoundRecord":
        """Sum up a round by its noisy histogram, the weights of the candidates, and the survivors."""
        ordered = tuple(float(count) for count in np.sort(votes)[::-1])
        return cls(number, len(votes), int((weights > 0).sum()), len(survivors), ordered, seconds)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "RoundRecord":
        """Read what `dataclasses.asdict` and JSON made of a record."""
        return cls(**{**values, "votes": tuple(values["votes"])})

    @classmethod
    def is_valid(cls, values: Any) -> bool:
        """Return whether a value from a file has the fields of a record, with numbers in them."""
        if not isinstance(values, dict) or set(values) != {each.name for each in fields(cls)}:
            return False
        votes = values["votes"]
        return isinstance(votes, list) and all(
            isinstance(number, (int, float))
            for number in [*votes, *(values[name] for name in values if name != "votes")]
        )
