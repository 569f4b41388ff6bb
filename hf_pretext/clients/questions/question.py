"""A question: a public description of the vector that each client makes of its samples."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np

from ...privacy.mechanism import Mechanism
from ..clipping import Answers, quantize, without_malformed
from ..samples import EMBEDDING_UNITS, Samples

SAMPLES_AT_ONCE = 2**14
"""Samples whose vectors are in memory at a time."""


class Question(ABC):
    """What clients are asked. Everyone may know it.

    A subclass is a frozen dataclass whose fields are public numbers and arrays. It says how one client's samples
    become a vector. It need not bound that vector: clipping, quantizing, noise, ledger and accounting are shared by
    all questions. So the sensitivity of every question is that of its `Mechanism`, and its proof is that of
    `clients.clipping.quantize`. What a subclass has to guarantee is that a client's vector depends on that client's
    samples only, bit for bit. With `answer` alone this holds, because it gets the samples of one client.

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
            `np.ndarray` of shape `(num_bins,)`: Finite numbers. They are clipped to the norm of the mechanism.
        """

    def answers(self, samples: Samples) -> Answers:
        """Compute the vectors of several clients. A subclass may do so faster, with the same result bit for bit."""
        clients, vectors = [], []
        for client, own in samples.each_client():
            vector = np.asarray(self.answer(own), dtype=np.float64)
            if vector.shape == (self.num_bins,):  # Else it counts as malformed, and contributes zero.
                clients.append(client)
                vectors.append(vector)
        matrix = np.array(vectors).reshape(len(vectors), self.num_bins)
        # NaN is not zero either, so it is found later.
        rows, bins = np.nonzero(matrix)
        return Answers(np.array(clients, dtype=np.int64)[rows], bins, matrix[rows, bins])

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

    def fingerprint(self) -> str:
        """Return a digest of the name, the arrays and the numbers, by which a run folder knows its questions."""
        digest = hashlib.blake2b(repr([self.name, self.num_bins, sorted(self.numbers().items())]).encode())
        for name, array in sorted(self.arrays().items()):
            digest.update(f"{name} {array.dtype} {array.shape}".encode() + np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()[:32]

    @classmethod
    def from_parts(cls, arrays: Mapping[str, np.ndarray], numbers: Mapping[str, Any]) -> "Question":
        """Make a question of its arrays and numbers, such as a message to a client carries."""
        return cls(**arrays, **numbers)

    def _values(self) -> dict[str, Any]:
        return {field.name: vars(self)[field.name] for field in fields(self)} if is_dataclass(self) else {}


def sum_answers(question: Question, samples: Samples, mechanism: Mechanism) -> np.ndarray:
    """Sum the contributions of some clients, or of one: what the private side computes before any noise.

    Released to no one. Unit: the client. The contribution of each has an L2 norm of at most
    `mechanism.clip_norm * mechanism.units`, and depends on its own samples only.

    Args:
        question (`Question`): What is asked.
        samples (`Samples`): The samples of the clients.
        mechanism (`Mechanism`): Norm and units.

    Returns:
        `np.ndarray` of shape `(question.num_bins,)`: The clean sum, in integer units, int64.
    """
    total = np.zeros(question.num_bins, dtype=np.int64)
    for block in samples.blocks(SAMPLES_AT_ONCE):
        answers = without_malformed(question.answers(block), question.is_signed)
        total += quantize(answers, mechanism.clip_norm, mechanism.units).sum(question.num_bins)
    return total


def check_question(question: Question, num_dimensions: int) -> None:
    """Try a question on made-up samples, before anything is spent and without any private text.

    Raises:
        ValueError: It does not fit the embeddings, or its vector has another length than it says, has entries that are
            not finite, or negative ones though it is not signed, or depends on other clients.
    """
    question.check_dimensions(num_dimensions)
    rng = np.random.default_rng(0)
    points = rng.normal(size=(9, num_dimensions))
    points *= EMBEDDING_UNITS / np.maximum(np.linalg.norm(points, axis=1, keepdims=True), 1e-9)
    samples = Samples(np.repeat([0, 1, 2], [1, 3, 5]), np.rint(points).astype(np.int16))
    together = question.answers(samples)
    for client, own in samples.each_client():
        vector = np.asarray(question.answer(own), dtype=np.float64)
        if vector.shape != (question.num_bins,):
            raise ValueError(
                f"The question {question.name!r} makes a vector of shape {vector.shape}, but has `num_bins`="
                f"{question.num_bins}."
            )
        if not np.isfinite(vector).all():
            raise ValueError(f"The question {question.name!r} makes a vector with entries that are not finite.")
        if not question.is_signed and (vector < 0).any():
            raise ValueError(f"The question {question.name!r} makes negative entries, but has `is_signed`=False.")
        mine = together.clients == client
        row = np.zeros(question.num_bins)
        row[together.bins[mine]] = together.values[mine]
        if not np.array_equal(row, vector):
            raise ValueError(f"The question {question.name!r} answers differently for clients alone and together.")
