"""Votes: a million private embeddings against the bare matrix product and argmax in blocks, in time and memory.

`python tests/benchmarks/votes.py OUT.json`
"""

import json
import sys
from pathlib import Path

import numpy as np
from timing import by_turns, peak_mb

from hf_pretext.clients.questions import NearestCandidates
from hf_pretext.clients.samples import quantize_embeddings

NUM_SAMPLES, NUM_CANDIDATES, DIMENSIONS = 1_000_000, 2048, 384


def random_embeddings(number, rng):
    rows = np.empty((number, DIMENSIONS), dtype=np.int16)
    for start in range(0, number, 8192):
        block = rng.standard_normal((min(8192, number - start), DIMENSIONS), dtype=np.float32)
        rows[start : start + 8192] = quantize_embeddings(block / np.linalg.norm(block, axis=1, keepdims=True))
    return rows


def nearest(samples, candidates):
    return NearestCandidates(candidates).nearest(samples)


def bare(samples, candidates):
    for start in range(0, len(samples), 8192):
        (samples[start : start + 8192] @ candidates.T).argmax(1)


def main(out):
    rng = np.random.default_rng(0)
    samples, candidates = random_embeddings(NUM_SAMPLES, rng), random_embeddings(NUM_CANDIDATES, rng)
    before = peak_mb()
    nearest(samples, candidates)
    extra = peak_mb() - before
    floats = [samples.astype(np.float32), candidates.astype(np.float32)]
    seconds = by_turns({"bare": lambda: bare(*floats), "votes": lambda: nearest(samples, candidates)})
    floats.clear()
    sizes = [(n, m) for n in (250_000, 500_000, 1_000_000) for m in (512, 1024, 2048)]
    times = [by_turns({"votes": lambda n=n, m=m: nearest(samples[:n], candidates[:m])}, 1)["votes"] for n, m in sizes]
    products = np.array([n * m for n, m in sizes], dtype=float)
    slope, intercept = np.polyfit(products, times, 1)
    unexplained = np.sum((times - (slope * products + intercept)) ** 2) / np.sum((times - np.mean(times)) ** 2)
    results = {
        "votes_ratio": seconds["votes"] / seconds["bare"],
        "votes_extra_mb": extra,
        "votes": {
            "seconds": seconds,
            "sizes": sizes,
            "seconds_of_sizes": times,
            "seconds_per_billion_pairs": slope * 1e9,
            "r_squared_of_a_line": 1 - unexplained,
        },
    }
    Path(out).write_text(json.dumps(results, indent=2))


if __name__ == "__main__":
    main(*sys.argv[1:])
