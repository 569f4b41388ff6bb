"""What the benchmarks share: timing by turns, peak memory, real texts, models."""

import resource
import statistics
import time
from pathlib import Path

import torch

from hf_pretext.packaged_models import locate
from hf_pretext.plays import load_plays

BUILD = Path("build/bench")
SMOLLM2 = "packaged/SmolLM2-135M-Instruct"


def by_turns(ways, repeats=3):
    """Time functions in turn, so that a machine whose load changes treats them alike; return each one's median."""
    seconds = {name: [] for name in ways}
    for _ in range(repeats):
        for name, work in ways.items():
            started = time.perf_counter()
            work()
            seconds[name].append(time.perf_counter() - started)
    return {name: statistics.median(values) for name, values in seconds.items()}


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
    """Choose real texts of Shakespeare whose lengths in tokens are spread evenly."""
    private, _ = load_plays()
    by_length = {}
    for text in private["text"]:
        by_length.setdefault(len(tokenizer(text)["input_ids"]), []).append(text)
    lengths = [shortest + (longest - shortest) * index // (number - 1) for index in range(number)]
    return [by_length[length].pop() for length in lengths]


def causal_lm(name=SMOLLM2):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = locate(name)
    return AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
