"""A question: a public description of the vector that each client makes of its samples."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar

import numpy as np

from ..samples import Samples

Own = TypeVar("Own", bound="Question")


class Question(ABC):
    """What clients are asked. Everyone may know it.

    A subclass is a frozen dataclass whose fields are public numbers, strings and arrays. It says how the samples of
    one client become a vector. It need not bound that vector: clipping, quantizing, noise, ledger and accounting are
    shared by all questions. So the sensitivity of every question is that of its `Mechanism`, and its proof is that of
    `clients.clipping.quantize`.

    What a subclass has to guarantee is that a client's vector depends on that client's samples only. `answer` gets the
    samples of one client, and each client is asked by an object of its own (`again`), so what `answer` notes down in
    its question reaches no other client. So this holds as long as `answer` keeps nothing elsewhere, such as in a
    global variable or in the class.

    Attributes:
        name (`str`): Name of the kind of question.
        is_signed (`bool`): Whether a vector can have negative entries.
        description (`str`): What the vector of a client is, in words for reports.
    """

    name: str
    is_signed: bool = False
    description: str = ""

    @property
    @abstractmethod
    def num_bins(self) -> int:
        """Length of the vector."""

    @abstractmethod
    def answer(self, samples: Samples) -> np.ndarray:
        """Compute the vector of one client.

        Args:
            samples (`Samples`): The samples of this client, at least one.

        Returns:
            `np.ndarray` of shape `(num_bins,)`: Finite numbers. They are clipped to the norm of the mechanism. If it
            raises an error or returns anything else, the client contributes zero.
        """

    def check_dimensions(self, num_dimensions: int) -> None:
        """Raise a `ValueError` if the question is about embeddings with another number of dimensions."""
        for field, array in self.arrays().items():
            if array.dtype == np.int16 and array.shape[-1] != num_dimensions:
                raise ValueError(
                    f"The question {self.name!r} has `{field}` of shape {array.shape}, but the clients' embeddings "
                    f"have {num_dimensions} dimensions: use the embedding model that the clients use."
                )

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the fields that are arrays. Arrays of int16 are quantized embeddings."""
        return {name: value for name, value in self._values().items() if isinstance(value, np.ndarray)}

    def numbers(self) -> dict[str, Any]:
        """Return the fields that are not arrays."""
        return {name: value for name, value in self._values().items() if not isinstance(value, np.ndarray)}

    @classmethod
    def from_parts(cls: type[Own], arrays: Mapping[str, np.ndarray], numbers: Mapping[str, Any]) -> Own:
        """Make a question of its arrays and numbers, such as a message to a client carries."""
        return cls(**arrays, **numbers)

    def fingerprint(self) -> str:
        """Return a digest of everything that makes the question what it is, by which others know it."""
        numbers = sorted(self.numbers().items())
        digest = hashlib.blake2b(
            repr([type(self).__name__, self.name, self.num_bins, self.is_signed, numbers]).encode()
        )
        for name, array in sorted(self.arrays().items()):
            digest.update(f"{name} {array.dtype} {array.shape}".encode() + np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()[:32]

    def copy(self: Own) -> Own:
        """Make a question of copies of the fields, without anything else that this object may hold.

        Raises:
            TypeError: The question is not a frozen dataclass of numbers, strings and arrays.
            ValueError: The copy is another question.
        """
        kind = type(self)
        is_frozen = is_dataclass(kind) and kind.__dataclass_params__.frozen
        odd = [
            name
            for name, value in self._values().items()
            if not (isinstance(value, (bool, int, float, str)) or _is_plain_array(value))
        ]
        if not is_frozen or odd:
            raise TypeError(
                f"The question {self.name!r} must be a frozen dataclass whose fields are numbers, strings and numpy "
                f"arrays of numbers, so that everyone can know it{f'. {odd} are not' if odd else ''}."
            )
        copy = kind.from_parts({name: array.copy() for name, array in self.arrays().items()}, self.numbers())
        if copy.fingerprint() != self.fingerprint():
            raise ValueError(f"The question {self.name!r} is another one when it is made again of its fields.")
        return copy

    def again(self: Own) -> Own:
        """Make the question again of its fields. The arrays are shared, and cannot be written to."""
        arrays = {name: array.view() for name, array in self.arrays().items()}
        for array in arrays.values():
            array.flags.writeable = False
        return type(self).from_parts(arrays, self.numbers())

    def _values(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in fields(self)} if is_dataclass(self) else {}


def _is_plain_array(value: object) -> bool:
    return type(value) is np.ndarray and value.dtype.kind in "biuf"
