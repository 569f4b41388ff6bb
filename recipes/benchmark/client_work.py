"""What each method asks of a client: where its texts are, what leaves it, how many bytes, and how many seconds.

The bytes are those of the arrays, without compression, encryption or the messages of a protocol. A sum that is masked
by secure aggregation has four bytes per number (`federated`). The seconds are those of a processor, so that other work
on the machine does not count. They are measured here, with the texts of one client, for all that it computes in one
run. Models that a client needs are loaded before.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from hf_pretext.clients.questions import NearestCandidates, Question
from hf_pretext.clients.samples import Samples, quantize_embeddings
from hf_pretext.models.embedder import TextEmbedder
from hf_pretext.models.token_reader import TokenizerReader
from hf_pretext.privacy import Plan, PlannedRelease
from hf_pretext.privacy.plan import TOKEN_NAMES, with_token_fraction

from .device_training import OnDevices
from .experiment import SAMPLES_PER_CLIENT
from .learners import Learner
from .on_device import step_of_client
from .trial import ClientSide, Measures, Trial, Work

BYTES_OF_A_SUM = 4
"""Bytes of one number of a client's answer."""

BYTES_OF_A_TOKEN = 12
"""Bytes of the number and the weight of a token that clients are asked about."""

BYTES_OF_AN_EMBEDDING = 2
"""Bytes of one number of a candidate's embedding, which is quantized."""

BYTES_OF_A_WEIGHT = 4

TIMES = 5
"""How often a client's work is timed. The median counts."""


@dataclass(frozen=True)
class Answering:
    """Work of a client that answers the questions of a plan.

    Args:
        plan (`Callable`): Returns the plan of a trial.
        ask (`Callable`): Makes a question about candidates of their embeddings.
    """

    plan: Callable[[Trial], Plan]
    ask: Callable[[np.ndarray], Question] = NearestCandidates.of

    def __call__(self, trial: Trial, learner: Learner, client: list[str]) -> Work:
        """Measure. See `Measures`."""
        models, total = trial.models, Work(0, 0, 0.0)
        embed = TextEmbedder(models.plain_embedder, trial.arguments.batch_size)
        seconds = seconds_of(lambda: embed(client))
        embedded = quantize_embeddings(embed(client))
        samples, width = Samples(np.zeros(len(embedded), dtype=np.int64), embedded), embedded.shape[1]
        for entry in self.plan(trial).releases:
            if entry.question in TOKEN_NAMES:
                reader = TokenizerReader(models.llm[1])
                each = seconds_of(partial(_read, reader, client))
            else:
                points = np.random.default_rng(0).normal(size=(entry.num_bins, width))
                question = self.ask(points / np.linalg.norm(points, axis=1, keepdims=True))
                each = seconds_of(partial(question.answer, samples))
            total += Work(*bytes_of(entry, width), entry.count * each)
        return total + Work(0, 0, seconds)


def bytes_of(entry: PlannedRelease, width: int) -> tuple[int, int]:
    """Compute how many bytes a client sends and gets for all releases of one kind.

    Args:
        entry (`PlannedRelease`): The releases: votes or scores for candidates, or counts of tokens.
        width (`int`): Dimensions of the embedding model.
    """
    numbers = entry.count * entry.num_bins
    of_a_bin = BYTES_OF_A_TOKEN if entry.question in TOKEN_NAMES else width * BYTES_OF_AN_EMBEDDING
    return numbers * BYTES_OF_A_SUM, numbers * of_a_bin


def _read(reader: TokenizerReader, texts: list[str]) -> None:
    for text in texts:
        reader(text)


def evolution_plan(trial: Trial) -> Plan:
    """Plan the releases of Private Evolution with the method's configuration."""
    return Plan.from_config(with_token_fraction(trial.config, can_tilt=True))


def train_on_device(trial: Trial, learner: Learner, client: list[str]) -> Work:
    """Measure the work of a client that trains, with the settings that cost most. See `Measures`."""
    training = trial.method.training
    assert isinstance(training, OnDevices)
    model, tokenizer = training.load(trial, learner)
    texts = client[: trial.arguments.texts_per_device]
    seconds = seconds_of(lambda: step_of_client(model, tokenizer, texts))
    size = BYTES_OF_A_WEIGHT * sum(each.numel() for each in model.parameters() if each.requires_grad)
    times = max(each.num_participations for each in training.algorithms)
    return Work(times * size, times * size, times * seconds)


def send_texts(trial: Trial, learner: Learner, client: list[str]) -> Work:
    """Measure a client that sends its texts. See `Measures`."""
    return Work(sum(len(text.encode()) for text in client), 0, 0.0)


@dataclass(frozen=True)
class Both:
    """Work of a client in two parts of a run.

    Args:
        first (`Measures`): The first part.
        second (`Measures`): The second part.
    """

    first: Measures
    second: Measures

    def __call__(self, trial: Trial, learner: Learner, client: list[str]) -> Work:
        """Measure both. See `Measures`."""
        return self.first(trial, learner, client) + self.second(trial, learner, client)


def seconds_of(work: Callable[[], Any]) -> float:
    """Count the seconds of a processor for some work: the median of several times, after one that does not count."""
    work()
    found = []
    for _ in range(TIMES):
        started = time.process_time()
        work()
        found.append(time.process_time() - started)
    return float(np.median(found))


def typical_client(trial: Trial) -> list[str]:
    """Choose a client: of those with the most texts that count, the one with the median number of characters."""
    most = max(len(texts) for texts in trial.experiment.clients)
    full = [texts for texts in trial.experiment.clients if len(texts) == min(most, SAMPLES_PER_CLIENT)]
    return sorted(full, key=lambda texts: sum(map(len, texts)))[len(full) // 2]


def describe(side: ClientSide, trial: Trial, learner: Learner) -> list[str]:
    """Describe a method as the cells of a row: data, what leaves, bytes up and down, seconds, unit."""
    if side.measure is None:
        return [side.data, side.leaves, "0", "0", "0", side.unit]
    work = side.measure(trial, learner, typical_client(trial))
    return [
        side.data,
        side.leaves,
        _in_words(work.bytes_up),
        _in_words(work.bytes_down),
        f"{work.seconds:.2g}",
        side.unit,
    ]


def _in_words(number: int) -> str:
    """Write a number of bytes with a unit."""
    for unit, size in (("MB", 1e6), ("kB", 1e3)):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number} B"
