"""Each stage of the quickstart, smaller, alone and beside three busy processes of one thread each.

`python tests/benchmarks/busy.py OUT.json`
"""

import json
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from timing import SMOLLM2, busy

from hf_pretext import PrivateEvolutionGenerator
from hf_pretext.clients.samples import embed_clients
from hf_pretext.models import load_sentence_transformer
from hf_pretext.models.embedder import TextEmbedder
from hf_pretext.plays import load_plays
from hf_pretext.quickstart import CONFIG, EMBEDDING_MODEL, EXPANSION_MODEL

NUM_CLIENTS, NUM_SAMPLES = 60, 48
SMALL = replace(CONFIG, population_size=64, max_length=32, max_new_tokens=24)


def seconds_of_stages(private, embedder):
    """Run the quickstart's stages on a few clients, and return the seconds of each."""
    clients = {}
    for client, text in zip(private["client_id"], private["text"], strict=True):
        clients.setdefault(client, []).append(text)
    started = time.perf_counter()
    embed_clients(clients, embedder, SMALL.max_samples_per_client, 0)
    took = time.perf_counter() - started
    generator = PrivateEvolutionGenerator(None, EMBEDDING_MODEL, EXPANSION_MODEL, config=SMALL, dtype="fastest")
    generator(private, num_samples=NUM_SAMPLES)
    return {"embedding clients": took, **generator.seconds}


def main(out):
    private = load_plays()[0]
    some = set(np.unique(private["client_id"])[:NUM_CLIENTS])
    private = private.select([row for row, client in enumerate(private["client_id"]) if client in some])
    embedder = TextEmbedder(load_sentence_transformer(EMBEDDING_MODEL, *SMOLLM2[1:]))
    seconds_of_stages(private, embedder)
    alone = seconds_of_stages(private, embedder)
    with busy():
        beside = seconds_of_stages(private, embedder)
    # A stage of a fraction of a second says nothing.
    ratios = {name: beside[name] / alone[name] for name in alone if alone[name] > 0.5}
    results = {
        "busy_ratio": max(ratios.values()),
        "busy": {"ratios": ratios, "seconds_alone": alone, "seconds_beside": beside},
    }
    Path(out).write_text(json.dumps(results, indent=2))


if __name__ == "__main__":
    main(*sys.argv[1:])
