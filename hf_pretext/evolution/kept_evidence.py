"""The evidence of a finished run, in a form that can be saved: what its releases say of any text, as arrays.

All of it follows from the noisy answers and from public texts, so it is as public as they are.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np

from .evidence import MeanReading, Reading, VotesReading, ratios_of
from .smoothing import Forecast

SHARES, MEAN = "shares", "mean"
"""Names of the arrays of the fractions of the labels, and of the clients' mean embedding."""

Arrays = dict[str, np.ndarray]


class LogRatio(Protocol):
    """What one release says of any text."""

    def log_ratios(self, embeddings: np.ndarray) -> np.ndarray:
        """Compute the logarithm of how many times as many texts like these there should be."""
        ...


@dataclass(frozen=True, eq=False)
class LinearRatio:
    """A ratio whose logarithm is linear in the embedding, which a mean embedding says.

    Args:
        slope (`np.ndarray` of shape `(d,)`): How the logarithm grows along each dimension.
        offset (`float`): The logarithm where the embedding is zero.
    """

    slope: np.ndarray
    offset: float

    def log_ratios(self, embeddings: np.ndarray) -> np.ndarray:
        """Compute the logarithms. See `LogRatio`."""
        return embeddings @ self.slope + self.offset

    def to_arrays(self) -> Arrays:
        """Return what `from_arrays` reads."""
        return {"slope": self.slope.astype(np.float64), "offset": np.array([self.offset])}

    @classmethod
    def from_arrays(cls, arrays: Arrays) -> "LinearRatio":
        """Read what `to_arrays` returned."""
        return cls(arrays["slope"], float(arrays["offset"][0]))


@dataclass(frozen=True, eq=False)
class VotedRatio:
    """The votes that a text would have got in a round, over the average ones.

    Args:
        forecast (`Forecast`): Votes of any text.
        average (`float`): Votes of an average candidate.
    """

    forecast: Forecast
    average: float

    def log_ratios(self, embeddings: np.ndarray) -> np.ndarray:
        """Compute the logarithms. See `LogRatio`."""
        return np.log(ratios_of(self.forecast(embeddings), self.average))

    def to_arrays(self) -> Arrays:
        """Return what `from_arrays` reads."""
        known = self.forecast
        numbers = np.array([known.length, known.mean, self.average])
        return {"landmarks": known.landmarks.astype(np.float32), "weights": known.weights, "numbers": numbers}

    @classmethod
    def from_arrays(cls, arrays: Arrays) -> "VotedRatio":
        """Read what `to_arrays` returned."""
        length, mean, average = arrays["numbers"].tolist()
        return cls(Forecast(arrays["landmarks"], arrays["weights"], length, mean), average)


class RunEvidence:
    """What all releases of a run say together of any text, of whatever label it is.

    There is evidence for each label. A text may be of any of them, so its ratio is their average, weighted by how
    common the labels are.

    Args:
        read (`Callable`): Makes what each release says, for each label, when it is first needed.
        shares (`Sequence[float]`): Fraction of the texts of each label. Without labels there is one.
        mean (`np.ndarray` of shape `(d,)`, *optional*): The clients' mean embedding, if it is known well.
    """

    def __init__(
        self,
        read: Callable[[], Sequence[Sequence[LogRatio]]],
        shares: Sequence[float],
        mean: np.ndarray | None = None,
    ) -> None:
        self._read, self._shares = read, np.array(shares, dtype=np.float64)
        self.mean = mean if len(shares) == 1 else None
        """The clients' mean embedding. None if it is not known well, or there is one for each label."""

    @classmethod
    def of(cls, readings: Sequence[Sequence[Reading]], shares: Sequence[float]) -> "RunEvidence":
        """Make it of the readings of each label. Those of the caller's own questions have `log_ratios` themselves."""
        means = (each.mean for own in readings for each in own if isinstance(each, MeanReading))
        return cls(lambda: [[_log_ratio(each) for each in own] for own in readings], shares, next(means, None))

    @cached_property
    def _parts(self) -> Sequence[Sequence[LogRatio]]:
        return self._read()

    def log_ratios(self, embeddings: np.ndarray) -> np.ndarray:
        """Compute the logarithm of how many times as many texts like these there should be.

        Args:
            embeddings (`np.ndarray` of shape `(n, d)`): Unit embeddings of the texts.

        Returns:
            `np.ndarray` of shape `(n,)`: The logarithms, float64.
        """
        total = np.full(len(embeddings), -np.inf)
        for own, share in zip(self._parts, self._shares, strict=True):
            if share > 0:
                said = [each.log_ratios(embeddings) for each in own]
                total = np.logaddexp(total, np.log(share) + np.sum(said, axis=0))
        return total

    @property
    def num_dimensions(self) -> int | None:
        """Dimensions of the embeddings. None if only questions of the caller know it."""
        for each in (each for own in self._parts for each in own):
            if isinstance(each, LinearRatio):
                return len(each.slope)
            if isinstance(each, VotedRatio):
                return int(each.forecast.landmarks.shape[1])
        return None

    def to_arrays(self) -> Arrays | None:
        """Return what `from_arrays` reads. None if a question of the caller is part of it, which arrays cannot be."""
        arrays = {SHARES: self._shares, **({} if self.mean is None else {MEAN: self.mean})}
        for label, own in enumerate(self._parts):
            for number, each in enumerate(own):
                if not isinstance(each, LinearRatio | VotedRatio):
                    return None
                arrays |= {f"{label}.{number}.{name}": array for name, array in each.to_arrays().items()}
        return arrays

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> "RunEvidence":
        """Read what `to_arrays` returned.

        Raises:
            ValueError: It is anything else.
        """
        try:
            shares = arrays[SHARES].tolist()
            parts: list[dict[int, Arrays]] = [{} for _ in shares]
            for path, array in arrays.items():
                if path not in (SHARES, MEAN):
                    label, number, name = path.split(".")
                    parts[int(label)].setdefault(int(number), {})[name] = array
            made = [[_from_arrays(own[number]) for number in sorted(own)] for own in parts]
            found = cls(lambda: made, shares, arrays.get(MEAN))
            if found.mean is not None and found.mean.shape != (found.num_dimensions,):
                raise ValueError("a mean has other dimensions")
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise ValueError(f"Arrays that are no evidence of a run: {error}.") from None
        if not all(np.isfinite(array).all() for array in arrays.values()) or not all(made):
            raise ValueError("Arrays that are no evidence of a run: one is not finite, or a label has none.")
        return found


def _log_ratio(reading: Reading) -> LogRatio:
    if isinstance(reading, MeanReading):
        return LinearRatio(reading.slope, reading.offset)
    if isinstance(reading, VotesReading):
        return VotedRatio(reading.smoothed.predict, reading.average)
    return reading  # type: ignore[return-value]  # A `TiltReading` of the caller's question.


def _from_arrays(arrays: Arrays) -> LogRatio:
    return LinearRatio.from_arrays(arrays) if "slope" in arrays else VotedRatio.from_arrays(arrays)
