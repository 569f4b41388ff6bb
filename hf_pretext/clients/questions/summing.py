"""The sum over the clients: what the private side computes before any noise, and a trial of it on made-up samples."""

from dataclasses import replace

import numpy as np

from ...privacy.mechanism import Mechanism
from ..clipping import Answers, quantize, without_malformed
from ..guard import attempted, tell_owner
from ..samples import EMBEDDING_UNITS, Samples, listed
from .labeled_candidates import NearestLabeledCandidates
from .labeled_mean import LabeledMeanEmbedding
from .mean_embedding import MeanEmbedding
from .nearest_candidates import NearestCandidates
from .question import Question
from .token_counts import LabeledTokenCounts, TokenCounts

QUESTIONS = (
    *(NearestCandidates, NearestLabeledCandidates, MeanEmbedding, LabeledMeanEmbedding),
    *(TokenCounts, LabeledTokenCounts),
)
"""The library's own questions. They compute the vectors of several clients at once, bit for bit as one by one."""

SAMPLES_AT_ONCE = 2**14
"""Most samples whose vectors are in memory at a time."""

NUMBERS_AT_ONCE = 2**24
"""Most numbers of these vectors, if none of them is zero."""


def sum_answers(question: Question, samples: Samples, mechanism: Mechanism) -> np.ndarray:
    """Sum the contributions of some clients, or of one.

    Released to no one. Unit: the client. The contribution of each has an L2 norm of at most
    `mechanism.clip_norm * mechanism.units`, and depends on its own samples only. A client whose vector cannot be
    computed contributes zero.

    Args:
        question (`Question`): What is asked.
        samples (`Samples`): The samples of the clients.
        mechanism (`Mechanism`): Norm and units.

    Returns:
        `np.ndarray` of shape `(question.num_bins,)`: The clean sum, in integer units, int64.
    """
    num_bins = question.num_bins
    total = np.zeros(num_bins, dtype=np.int64)
    for block in samples.blocks(max(1, min(SAMPLES_AT_ONCE, NUMBERS_AT_ONCE // num_bins))):
        answers = without_malformed(answers_of(question, block, num_bins), mechanism.is_signed)
        total += quantize(answers, mechanism.clip_norm, mechanism.units).sum(num_bins)
    return total


def answers_of(question: Question, samples: Samples, num_bins: int) -> Answers:
    """Compute the vectors of several clients: those of a question of the caller one by one.

    That is what makes them depend on one client each. A product of floats over several clients, for example, would
    round by their number. Each of them is asked by an object of its own, which does not know how many were before it.
    """
    if type(question) in QUESTIONS:
        return question.answers(samples)  # type: ignore[attr-defined]
    clients, vectors, failure = [], [], ""
    for client, own in samples.each_client():
        vector, failed = attempted(_vector, question, own)
        failure = failed or failure
        if vector is not None and vector.shape == (num_bins,):
            clients.append(client)
            vectors.append(vector)
    if failure:
        tell_owner(
            f"The question {question.name!r} failed for some clients, with a {failure}. They contribute nothing."
        )
    matrix = np.array(vectors).reshape(len(vectors), num_bins)
    # NaN is not zero either, so it is found later.
    rows, bins = np.nonzero(matrix)
    return Answers(np.array(clients, dtype=np.int64)[rows], bins, matrix[rows, bins])


def _vector(question: Question, samples: Samples) -> np.ndarray:
    # Its number among the clients says who else is there.
    alone = replace(samples, owners=np.zeros_like(samples.owners))
    return np.asarray(question.again().answer(alone), dtype=np.float64)


def check_question(question: Question, num_dimensions: int, tokenizer: str = "") -> None:
    """Try a question on made-up samples, before anything is spent and without any private text.

    Args:
        question (`Question`): What will be asked.
        num_dimensions (`int`): Dimensions of the clients' embeddings.
        tokenizer (`str`, *optional*): Fingerprint of the clients' tokenizer. Empty if they have none.

    Raises:
        ValueError: It does not fit the embeddings or the tokenizer, or its vector has another length than it says, has
            entries that are not finite, or negative ones though it is not signed, or depends on other clients.
    """
    question.check_dimensions(num_dimensions)
    if isinstance(question, TokenCounts):
        question.check_tokenizer(tokenizer)
    rng = np.random.default_rng(0)
    points = rng.normal(size=(9, num_dimensions))
    points *= EMBEDDING_UNITS / np.maximum(np.linalg.norm(points, axis=1, keepdims=True), 1e-9)
    labels = np.arange(9) % 4 - 1  # Some samples have no label.
    known = question.tokens if isinstance(question, TokenCounts) else np.arange(100)
    tokens = listed([rng.choice(known, size=number) for number in range(9)])
    owners = np.repeat([0, 1, 2], [1, 3, 5])
    samples = Samples(owners, np.rint(points).astype(np.int16), labels, tokens, tokenizer)
    expected = np.zeros((3, question.num_bins))
    for client, own in samples.each_client():
        try:
            vector = _vector(question, own)
        except Exception as error:  # On made-up samples, so its words may be shown.
            raise ValueError(f"The question {question.name!r} fails on made-up samples: {error}") from error
        if vector.shape != (question.num_bins,):
            raise ValueError(
                f"The question {question.name!r} makes a vector of shape {vector.shape}, but has `num_bins`="
                f"{question.num_bins}."
            )
        if not np.isfinite(vector).all():
            raise ValueError(f"The question {question.name!r} makes a vector with entries that are not finite.")
        if not question.is_signed and (vector < 0).any():
            raise ValueError(f"The question {question.name!r} makes negative entries, but has `is_signed`=False.")
        expected[client] = vector
    together = answers_of(question, samples, question.num_bins)
    found = np.zeros_like(expected)
    np.add.at(found, (together.clients, together.bins), together.values)
    if not np.array_equal(found, expected):
        raise ValueError(f"The question {question.name!r} answers differently for clients alone and together.")
