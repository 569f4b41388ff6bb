"""Weighted samples of streams in one pass: a reservoir, and an estimate of how many texts are different."""

from collections.abc import Sequence
from hashlib import blake2b
from heapq import heappush, heapreplace
from typing import NamedTuple

import numpy as np

NUM_SMALLEST = 2**16
"""Hashes from which the number of different texts is estimated. The estimate errs by some 0.4 %."""


class Drawn(NamedTuple):
    """A text of a sample.

    Args:
        key (`float`): The larger it is, the longer the text stays. That of a text is always the same.
        hash (`int`): The text's hash.
        text (`str`): The text.
        log_weight (`float`): Logarithm of its weight.
    """

    key: float
    hash: int
    text: str
    log_weight: float


def hash_stream(texts: Sequence[str], seed: int) -> np.ndarray:
    """Hash texts under a key of a seed (BLAKE2b): numbers below 2^64 that are uniform, shape `(n,)`, uint64."""
    key = seed.to_bytes(16, "big")
    digests = [blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8, key=key).digest() for text in texts]
    return np.frombuffer(b"".join(digests), dtype=">u8").astype(np.uint64)


class Reservoir:
    """A sample of different texts of a stream, without replacement, in proportion to their weights.

    Each text gets the key `log(weight) - log(E)`, where `E` is exponentially distributed, and those with the largest
    keys are the sample. It is the one that drawing one text after another would make, each in proportion to the
    weights of those that are left (Efraimidis and Spirakis 2006). `E` follows from the hash of the text. So a text
    that is there twice has no other chance than one that is there once, and the order of the stream is no matter.
    Memory holds the sample, and nothing else.

    Args:
        size (`int`): Most texts of the sample.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._heap: list[Drawn] = []  # The smallest key comes first.
        self._held: set[int] = set()

    def add(self, texts: Sequence[str], hashes: np.ndarray, log_weights: np.ndarray) -> None:
        """Look at some texts of the stream.

        Args:
            texts (`Sequence[str]`): The texts.
            hashes (`np.ndarray` of shape `(n,)`): What `hash_stream` returned for them.
            log_weights (`np.ndarray` of shape `(n,)`): Logarithms of their weights, up to a constant.
        """
        keys = log_weights - np.log(_exponential(hashes))
        # Most texts of a long stream end here.
        chosen = np.flatnonzero(keys > self._heap[0].key if len(self._heap) == self._size else np.isfinite(keys))
        for index in chosen.tolist():
            found = Drawn(float(keys[index]), int(hashes[index]), texts[index], float(log_weights[index]))
            if found.hash in self._held:
                continue
            if len(self._heap) < self._size:
                heappush(self._heap, found)
            elif found.key > self._heap[0].key:
                self._held.remove(heapreplace(self._heap, found).hash)
            else:
                continue
            self._held.add(found.hash)

    def is_new(self, hashes: np.ndarray) -> np.ndarray:
        """Return which of the texts with these hashes are not in the sample, as `bool`."""
        return np.array([each not in self._held for each in hashes.tolist()], dtype=bool)

    def drawn(self, rng: np.random.Generator) -> list[Drawn]:
        """Return the sample in a random order, which the order of the stream does not change."""
        ordered = sorted(self._heap, key=lambda each: each.hash)
        return [ordered[index] for index in rng.permutation(len(ordered))]


def _exponential(hashes: np.ndarray) -> np.ndarray:
    """Make exponentially distributed numbers of uniform 64-bit ones."""
    # 52 bits and a half are a float64 exactly, so that it is neither 0 nor 1.
    return -np.log(((hashes >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52)


class DifferentTexts:
    """Estimates how many texts of a stream are different, by the smallest of their hashes (Bar-Yossef et al. 2002).

    If `k` hashes are kept and the largest of them is the fraction `x` of the largest possible one, there are some
    `(k - 1) / x` different ones. Up to `NUM_SMALLEST`, the number is exact.
    """

    def __init__(self) -> None:
        self._smallest = np.zeros(0, dtype=np.uint64)

    def add(self, hashes: np.ndarray) -> None:
        """Look at some texts, by their hashes."""
        if len(self._smallest) == NUM_SMALLEST:
            hashes = hashes[hashes < self._smallest[-1]]
        if len(hashes):
            self._smallest = np.unique(np.concatenate([self._smallest, hashes]))[:NUM_SMALLEST]

    @property
    def number(self) -> int:
        """The estimate."""
        if len(self._smallest) < NUM_SMALLEST:
            return len(self._smallest)
        return round((NUM_SMALLEST - 1) / (float(self._smallest[-1]) / 2.0**64))
