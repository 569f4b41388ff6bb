"""The private side of one organization at scale: `[torchrun] scale.py FOLDER OUT words|model`.

`words` has clients of one sample each, streamed from an Arrow file, and an embedder that costs next to nothing.
`model` has the roles of Shakespeare and the real embedding model. One JSON file per process holds seconds, peak memory
and the clean sum, which no run has: these clients are no one's.
"""

import json
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pyarrow as pa
from datasets import Dataset, load_from_disk

from hf_pretext import InMemoryClientPool, PrivateEvolutionConfig
from hf_pretext.clients.questions import NearestCandidates
from hf_pretext.privacy import Plan, PrivacyLedger
from hf_pretext.processes import Group

NUM_BINS, NUM_DIMENSIONS, NUM_WORDS = 1024, 384, 4096
SETTINGS = {"noise_multiplier": 1.0, "delta": 1e-9, "mean_fraction": 0.0, "token_fraction": 0.0, "num_rounds": 3}


class Words:
    """Embeds a text as the mean of vectors of its words."""

    max_length = None

    def __init__(self):
        self._of_words = np.random.default_rng(0).normal(size=(NUM_WORDS, NUM_DIMENSIONS)).astype(np.float32)

    def cuts(self, texts):
        return False

    def __call__(self, texts):
        rows = [self._of_words[[int(word[1:]) for word in text.split()]].sum(axis=0) for text in texts]
        points = np.array(rows).reshape(len(rows), NUM_DIMENSIONS)
        return points / np.linalg.norm(points, axis=1, keepdims=True)


def write_clients(path, number, at_once=10_000):
    """Write that many clients of one sample into an Arrow file, which is read from the disk."""
    rng = np.random.default_rng(0)
    schema = pa.schema({"client_id": pa.string(), "text": pa.string()})
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, schema) as writer:
        for start in range(0, number, at_once):
            numbers = range(start, min(start + at_once, number))
            words = rng.integers(NUM_WORDS, size=(len(numbers), 8))
            texts = [" ".join(f"w{each}" for each in row) for row in words.tolist()]
            writer.write_batch(pa.record_batch([[f"client-{each:09}" for each in numbers], texts], schema=schema))


def no_noise(scale, size):
    return np.zeros(size, dtype=np.int64)


def peak_memory():
    """Bytes of the largest resident memory so far. That of `getrusage` begins with what the parent process had."""
    (line,) = (each for each in Path("/proc/self/status").read_text().splitlines() if each.startswith("VmHWM:"))
    return 1024 * int(line.split()[1])


def inputs_of(folder, kind):
    if kind == "words":
        return Dataset.from_file(str(folder / "clients.arrow")), Words()
    import torch

    from hf_pretext.models import load_sentence_transformer
    from hf_pretext.models.embedder import TextEmbedder

    model = load_sentence_transformer("packaged/all-MiniLM-L6-v2", torch.device("cpu"), torch.float32)
    return load_from_disk(str(folder / "plays")), TextEmbedder(model)


def main(folder, out, kind):
    warnings.simplefilter("ignore")
    private, embedder = inputs_of(folder, kind)
    config, group = PrivateEvolutionConfig(**SETTINGS, population_size=NUM_BINS), Group.of_launch()
    plan = Plan.from_config(config)
    embedder(["w1 w2"])  # What is done once is not counted.
    group.gather(None)
    before, started = peak_memory(), time.perf_counter()
    pool = InMemoryClientPool(private, embedder, config, plan, no_noise, None, group)
    group.gather(None)
    made = time.perf_counter() - started
    points = np.random.default_rng(1).normal(size=(NUM_BINS, NUM_DIMENSIONS)).astype(np.float32)
    question = NearestCandidates.of(points / np.linalg.norm(points, axis=1, keepdims=True))
    ledger, seconds, votes = PrivacyLedger(plan), [], None
    for _ in range(SETTINGS["num_rounds"]):
        started = time.perf_counter()
        votes = pool.release(question, ledger)
        seconds.append(time.perf_counter() - started)
    found = {
        "clients": pool.num_clients,
        "processes": group.size,
        "seconds_to_embed": made,
        "seconds_of_a_round": min(seconds),
        "memory_before": before,
        "peak_memory": peak_memory(),
        "votes": np.rint(votes * ledger.mechanism(question).units).astype(int).tolist(),
    }
    Path(f"{out}-{group.rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3])
