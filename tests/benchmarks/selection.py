"""Choosing 50,000 of a million public texts: the seconds of the choice beside those of embedding them, and memory.

`python tests/benchmarks/selection.py OUT.json [NUM_TEXTS [NUM_REAL [PUBLIC.jsonl]]]`

There is no million of public texts here. So those of a file, or else real speeches, are repeated, and in each
repetition some of their words are replaced by words of other texts. A million of them are embedded by hashing their
words, which costs next to nothing, so that what is measured is the choice itself. Of all-MiniLM-L6-v2, which takes
hours for a million, some thousand are embedded. Seconds are those of the processor, so that other work on the machine
does not change them much.
"""

import json
import sys
import time
import zlib
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset

from hf_pretext import PrivateEvolutionConfig
from hf_pretext.evolution.evidence import VotesReading
from hf_pretext.evolution.kept_evidence import LinearRatio, RunEvidence
from hf_pretext.plays import load_plays
from hf_pretext.privacy import Plan
from hf_pretext.privacy.ledger import PrivacyLedger
from hf_pretext.privacy.report import PrivacyReport
from hf_pretext.saved_runs import SavedRun
from hf_pretext.selecting import select_public

NUM_TEXTS, NUM_REAL, NUM_SELECTED = 1_000_000, 20_000, 50_000
DIMENSIONS, NUM_CANDIDATES, NUM_ROUNDS = 384, 1024, 3
REPLACED = 0.2


def perturbed(texts):
    """Yield the texts again and again, with a fifth of their words replaced in all repetitions but the first."""
    rng = np.random.default_rng(0)
    words = [text.split() for text in texts]
    pool = [word for own in words for word in own]
    yield from texts
    while True:
        for own in words:
            places = np.flatnonzero(rng.random(len(own)) < REPLACED)
            new = list(own)
            for place, index in zip(places.tolist(), rng.integers(len(pool), size=len(places)).tolist(), strict=True):
                new[place] = pool[index]
            yield " ".join(new)


def hash_words(texts):
    """Embed texts by the hashes of their words: two entries for each."""
    points = np.zeros((len(texts), DIMENSIONS), dtype=np.float32)
    for row, text in enumerate(texts):
        for word in text.split():
            code = zlib.crc32(word.encode())
            points[row, code % DIMENSIONS] += 1 if code & 1 << 20 else -1
    points[:, 0] += 0.01
    return points / np.linalg.norm(points, axis=1, keepdims=True)


def run_like_the_defaults(embed, texts):
    """Three rounds of votes on 1,024 candidates each, and a mean, as noise made them."""
    rng = np.random.default_rng(1)
    rounds = []
    for number in range(NUM_ROUNDS):
        points = embed(texts[number * NUM_CANDIDATES : (number + 1) * NUM_CANDIDATES])
        votes = 40 * np.maximum(points @ points[0], 0) + rng.standard_normal(len(points))
        rounds.append(VotesReading(votes, 1.0, lambda points=points: points))
    mean = LinearRatio(points[:100].mean(axis=0).astype(np.float64) * 8, 0.0)
    rest = RunEvidence.of([rounds], [1.0])
    evidence = RunEvidence(lambda: [[mean, *rest._parts[0]]], [1.0])
    _ = evidence.num_dimensions
    config = PrivateEvolutionConfig(epsilon=1.29, delta=3e-6)
    report = PrivacyReport.from_ledger(PrivacyLedger(Plan.from_config(config)), config)
    return SavedRun(config, report, {}, [], Dataset.from_dict({"text": ["a seed"]}), evidence=evidence)


def resident_mb():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS"))


class Clock:
    """Adds up the processor's seconds of what is called by way of it, and notes memory."""

    def __init__(self, work=None):
        self.work, self.seconds, self.memory = work, 0.0, []

    def __call__(self, texts):
        started = time.process_time()
        made = self.work(texts)
        self.seconds += time.process_time() - started
        self.memory.append(resident_mb())
        return made

    def each(self, items):
        while True:
            started = time.process_time()
            item = next(items, None)
            self.seconds += time.process_time() - started
            if item is None:
                return
            yield item


def measure(embed, texts, number, num_selected):
    run, embedding, reading = run_like_the_defaults(embed, texts), Clock(embed), Clock()
    began, wall = time.process_time(), time.perf_counter()
    facts = select_public(run, reading.each(islice(perturbed(texts), number)), num_selected, embedding).facts
    total, wall = time.process_time() - began, time.perf_counter() - wall
    # From when as many texts are held as are chosen.
    steady = embedding.memory[len(embedding.memory) // 10 :]
    quarter = max(1, len(steady) // 4)
    choosing = total - embedding.seconds - reading.seconds
    return {
        "texts": number,
        "chosen": num_selected,
        "different": facts.num_different,
        "seconds_of_embedding": embedding.seconds,
        "seconds_of_making_texts": reading.seconds,
        "seconds_of_choosing": choosing,
        "microseconds_of_choosing_a_text": 1e6 * choosing / number,
        "wall_seconds": wall,
        "rss_growth_mb": sum(steady[-quarter:]) / quarter - sum(steady[:quarter]) / quarter,
        "rss_mb": steady[-1],
        "power": facts.power,
        "effective_size": facts.effective_size,
    }


def main(out, number=NUM_TEXTS, num_real=NUM_REAL, public=None):
    from hf_pretext.models import load_sentence_transformer
    from hf_pretext.models.embedder import TextEmbedder

    if public is None:
        texts = list(dict.fromkeys(load_plays()[0]["text"]))
    else:
        texts = [json.loads(line)["text"] for line in Path(public).read_text().splitlines()]
    cheap = measure(hash_words, texts, int(number), min(NUM_SELECTED, int(number) // 20))
    model = load_sentence_transformer("packaged/all-MiniLM-L6-v2", torch.device("cpu"), torch.float32)
    real = measure(TextEmbedder(model), texts, int(num_real), int(num_real) // 20)
    per_text = cheap["seconds_of_choosing"] / cheap["texts"]
    results = {
        "selection_ratio": 1 + per_text / (real["seconds_of_embedding"] / real["texts"]),
        "selection_rss_growth_mb": cheap["rss_growth_mb"],
        "selection": {"hashed": cheap, "MiniLM": real, "public": "speeches" if public is None else Path(public).name},
    }
    Path(out).write_text(json.dumps(results, indent=2))
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main(*sys.argv[1:])
