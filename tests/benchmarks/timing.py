"""What the benchmarks share: timing by turns, busy cores, peak memory, real texts, models."""

import resource
import statistics
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import torch

from hf_pretext.plays import load_plays

BUILD = Path("build/bench")
SMOLLM2 = ("packaged/SmolLM2-135M-Instruct", torch.device("cpu"), torch.float32)
"""What `load_causal_lm` takes."""


def by_turns(ways, repeats=3):
    """Time functions in turn, so that a machine whose load changes treats them alike; return each one's median."""
    seconds = {name: [] for name in ways}
    for _ in range(repeats):
        for name, work in ways.items():
            started = time.perf_counter()
            work()
            seconds[name].append(time.perf_counter() - started)
    return {name: statistics.median(values) for name, values in seconds.items()}


@contextmanager
def busy(number=3):
    """Keep as many single threads busy as are asked for."""
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(number)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()


def gemm_peak(size=2048, repeats=5):
    """Measure the operations per second of the machine's best float32 matrix product."""
    left, right = torch.randn(size, size), torch.randn(size, size)
    left @ right
    best = 0.0
    for _ in range(repeats):
        started = time.perf_counter()
        left @ right
        best = max(best, 2 * size**3 / (time.perf_counter() - started))
    return best


def peak_mb():
    """Return the most memory that this process ever had, in megabytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def speeches(tokenizer, number, shortest, longest):
    """Take the beginnings of real speeches, whose lengths in tokens are spread evenly."""
    texts = iter(load_plays()[0]["text"])
    chosen = []
    for index in range(number):
        length = shortest + (longest - shortest) * index // (number - 1)
        while len(ids := tokenizer(next(texts), truncation=True, max_length=length)["input_ids"]) < length:
            pass
        chosen.append(tokenizer.decode(ids, skip_special_tokens=True))
    return chosen
