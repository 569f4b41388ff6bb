"""What faster ways cost in quality: several masks a pass in votes, several texts a prompt in diversity.

`python tests/benchmarks/effects.py OUT.json [MODEL]`, some 15 minutes on two cores, not a part of `make bench`.
It looks at clean private votes and held-out text: evaluation only, not differentially private.
"""

import json
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from timing import BUILD, SMOLLM2
from variation import MASKS_PER_PASS, masked_lm

from hf_pretext import PrivateEvolutionConfig
from hf_pretext.embedding import TextEmbedder
from hf_pretext.expansion import Expansion
from hf_pretext.generation import TextGenerator
from hf_pretext.measures import distinct_n, frechet_distance
from hf_pretext.models import load_causal_lm, load_sentence_transformer
from hf_pretext.plays import load_plays
from hf_pretext.variation import MaskedVariation
from hf_pretext.voting import VOTE_UNITS, cast_votes, quantize_embeddings

NUM_PARENTS, NUM_TEXTS = 512, 192
WAYS = {"one text a prompt": (1, 1), "three texts": (3, 1), "two continuations": (1, 2), "three texts, twice": (3, 2)}
CONFIG = PrivateEvolutionConfig(epsilon=1, delta=1e-5, max_length=48, max_new_tokens=64, min_words=5, top_p=0.95)


def effect_of_masks(embed, source):
    """Let clients vote for variations of the same parents, made one mask and several masks at a time."""
    model, tokenizer = masked_lm(source)
    private, parents = load_plays()[0], load_plays()[1]["text"][:NUM_PARENTS]
    ways = {"exact": 1, "fast": MASKS_PER_PASS}
    children = []
    for masks in ways.values():
        children += MaskedVariation(model, tokenizer, replace(CONFIG, masks_per_pass=masks))(parents, seed=0)
    clients = np.unique(private["client_id"], return_inverse=True)[1][:5000]
    samples = quantize_embeddings(embed(private["text"][:5000], "Embedding"))
    votes = cast_votes(clients, samples, quantize_embeddings(embed(children, "Embedding")), 1.0) / VOTE_UNITS
    return {name: float(part.sum()) for name, part in zip(ways, np.split(votes, 2), strict=True)}


def effect_of_texts_per_prompt(embed):
    """Expand the same seeds in several ways: usable texts per second, distinct bigrams, distance to held-out text."""
    private, held_out = (texts["text"][:2000] for texts in load_plays())
    reference = embed(held_out, "Embedding")
    model = load_causal_lm(*SMOLLM2)
    figures = {}
    for name, (texts, continuations) in WAYS.items():
        config = replace(CONFIG, texts_per_prompt=texts, continuations_per_prompt=continuations)
        started = time.perf_counter()
        written = list(Expansion(TextGenerator(*model, config), config)(private[:300], NUM_TEXTS))
        figures[name] = {
            "texts_per_second": NUM_TEXTS / (time.perf_counter() - started),
            "distinct_2": distinct_n(written, 2),
            "frechet": frechet_distance(reference, embed(written, "Embedding")),
            "words": float(np.mean([len(text.split()) for text in written])),
        }
        print(name, figures[name], flush=True)
    return figures


def main(out, source=None):
    embed = TextEmbedder(load_sentence_transformer("packaged/all-MiniLM-L6-v2", *SMOLLM2[1:]))
    BUILD.mkdir(parents=True, exist_ok=True)
    results = {"texts_per_prompt": effect_of_texts_per_prompt(embed), "votes": effect_of_masks(embed, source)}
    print(results["votes"])
    Path(out).write_text(json.dumps(results, indent=2))


if __name__ == "__main__":
    main(*sys.argv[1:])
