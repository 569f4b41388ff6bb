"""Embedding clients: 10,000 texts of 1,250 clients against one sorted large batch, alone and beside busy processes.

`python tests/benchmarks/embedding.py OUT.json [NUM_CLIENTS]`
"""

import json
import sys
from pathlib import Path

import numpy as np
from timing import SMOLLM2, busy, by_turns

from hf_pretext.clients.samples import embed_clients
from hf_pretext.models import load_sentence_transformer
from hf_pretext.models.embedder import TextEmbedder
from hf_pretext.plays import load_plays

NUM_CLIENTS, TEXTS_OF_A_CLIENT = 1250, 8


def sorted_batches(embedder, texts):
    """Embed all texts together, the longest first, in padded batches of 64."""
    return embedder._embed_padded(texts)


def main(out, num_clients=NUM_CLIENTS):
    num_clients = int(num_clients)
    embedder = TextEmbedder(load_sentence_transformer("packaged/all-MiniLM-L6-v2", *SMOLLM2[1:]))
    texts = load_plays()[0]["text"]
    texts = [texts[index] for index in np.random.default_rng(0).permutation(len(texts))[: 8 * num_clients]]
    clients = {number: texts[8 * number : 8 * number + 8] for number in range(num_clients)}
    few = {number: clients[number] for number in range(0, num_clients, 25)}
    embedded = {}

    def parts_of(some):
        return [own.embeddings for _, own in embed_clients(some, embedder, TEXTS_OF_A_CLIENT, 0).each_client()]

    def all_clients():
        embedded["together"] = parts_of(clients)

    def few_clients():
        embed_clients(few, embedder, TEXTS_OF_A_CLIENT, 0)

    few_clients()
    seconds = by_turns({"sorted": lambda: sorted_batches(embedder, texts), "clients": all_clients}, 2)
    alone = [parts_of({number: own})[0] for number, own in few.items()]
    same = [np.array_equal(own, embedded["together"][number]) for own, number in zip(alone, few, strict=True)]
    idle = by_turns({"few": few_clients})["few"]
    with busy():
        slow = by_turns({"few": few_clients})["few"]
    results = {
        "embedding_ratio": seconds["sorted"] / seconds["clients"],
        "embedding_busy_ratio": slow / idle,
        "embedding_clients_not_alone": len(same) - sum(same),
        "embedding": {
            "seconds": seconds,
            "texts_per_second": {name: len(texts) / each for name, each in seconds.items()},
            "seconds_of_few_clients": {"idle": idle, "busy": slow},
            "bytes_a_text": embedded["together"][0].nbytes / len(embedded["together"][0]),
        },
    }
    Path(out).write_text(json.dumps(results, indent=2))


if __name__ == "__main__":
    main(*sys.argv[1:])
