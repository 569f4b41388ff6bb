"""What faster ways are worth and cost: several masks a pass, several texts a prompt, fewer bits a weight.

`python tests/benchmarks/effects.py OUT.json [MODEL]`, some 10 minutes on two cores, not a part of `make bench`.
It looks at clean private votes and held-out text: evaluation only, not differentially private.
"""

import json
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from timing import BUILD, SMOLLM2, by_turns
from variation import MASKS_PER_PASS, masked_lm

from hf_pretext import PrivateEvolutionConfig
from hf_pretext.cleaning import is_usable
from hf_pretext.clients.questions import NearestCandidates, sum_answers
from hf_pretext.clients.samples import Samples, quantize_embeddings
from hf_pretext.evaluation.measures import distinct_n, frechet_distance
from hf_pretext.expansion import Expander, SeedTexts, list_prompt, parse_list
from hf_pretext.models import load_causal_lm, load_sentence_transformer
from hf_pretext.models.embedder import TextEmbedder
from hf_pretext.models.local_engine import LocalEngine
from hf_pretext.models.masked_variation import MaskedVariation
from hf_pretext.plays import load_plays
from hf_pretext.privacy import Mechanism

NUM_PARENTS, NUM_TEXTS = 512, 96
RESEARCH_TOKENS = 85
WAYS = {"one text": (1, 1), "three texts": (3, 1), "three continuations": (1, 3)}
CONFIG = PrivateEvolutionConfig(
    epsilon=1, delta=1e-5, max_length=48, seeds_per_prompt=3, max_new_tokens=64, min_words=5, top_p=0.95
)


def effect_of_masks(embed, source):
    """Let clients vote for variations of the same parents, made one mask and several masks at a time."""
    model, tokenizer = masked_lm(source)
    private, parents = load_plays()[0], load_plays()[1]["text"][:NUM_PARENTS]
    ways = {"exact": 1, "fast": MASKS_PER_PASS}
    children = []
    for masks in ways.values():
        children += MaskedVariation(model, tokenizer, replace(CONFIG, masks_per_pass=masks)).vary(parents, seed=0)
    clients = np.unique(private["client_id"], return_inverse=True)[1][:5000]
    samples = Samples(clients, quantize_embeddings(embed(private["text"][:5000])))
    mechanism = Mechanism(noise_multiplier=1.0)
    votes = sum_answers(NearestCandidates.of(embed(children)), samples, mechanism) / mechanism.units
    return {name: float(part.sum()) for name, part in zip(ways, np.split(votes, 2), strict=True)}


def effect_of_texts_per_prompt(embed):
    """Expand the same seeds in several ways: usable texts per second, distinct bigrams, distance to held-out text."""
    private, held_out = (texts["text"][:2000] for texts in load_plays())
    reference = embed(held_out)
    model = load_causal_lm(*SMOLLM2)
    seeds = private[:300]

    def research_way():
        """Read 85 tokens after each prompt of three seeds, whatever is in them, and keep one text."""
        chosen = np.random.default_rng(0).choice(seeds, (NUM_TEXTS, 3))
        prompts = [list_prompt(list(row), 1) for row in chosen]
        written = LocalEngine(*model, CONFIG).complete(prompts, RESEARCH_TOKENS, seed=0)
        texts = (parse_list(continuation, 1)[0] for continuation in written)
        return [text for text in texts if is_usable(text, CONFIG)]

    def our_way(texts, continuations):
        config = replace(CONFIG, texts_per_prompt=texts, continuations_per_prompt=continuations)
        return list(Expander(LocalEngine(*model, config), config, embed).expand(SeedTexts(seeds), NUM_TEXTS))

    figures = {}
    ways = {name: partial(our_way, *way) for name, way in WAYS.items()}
    for name, work in {"research": research_way, **ways}.items():
        started = time.perf_counter()
        written = work()
        figures[name] = {
            "texts_per_second": len(written) / (time.perf_counter() - started),
            "distinct_2": distinct_n(written, 2),
            "frechet": frechet_distance(reference, embed(written)),
            "words": float(np.mean([len(text.split()) for text in written])),
        }
        print(name, figures[name], flush=True)
    return figures


def effect_of_precision():
    """Time the reading of 32 prompts, and 32 tokens after each, in float32, bfloat16 and dynamic int8."""
    texts = load_plays()[0]["text"][:96]
    prompts = [list_prompt(texts[start : start + 3], 1) for start in range(0, 96, 3)]
    name, device, _ = SMOLLM2
    figures = {}
    for precision in ("float32", "bfloat16", "int8"):
        dtype = torch.float32 if precision == "int8" else getattr(torch, precision)
        model, tokenizer = load_causal_lm(name, device, dtype)
        if precision == "int8":
            model = torch.ao.quantization.quantize_dynamic(model, {torch.nn.Linear}, dtype=torch.qint8)
        complete = LocalEngine(model, tokenizer, CONFIG).complete
        complete(prompts[:2], 2, seed=0)
        seconds = by_turns({number: partial(complete, prompts, number, seed=0) for number in (1, 33)})
        figures[precision] = {"seconds_to_read": seconds[1], "seconds_for_32_tokens": seconds[33] - seconds[1]}
        print(precision, figures[precision], flush=True)
    return figures


def main(out, source=None):
    embed = TextEmbedder(load_sentence_transformer("packaged/all-MiniLM-L6-v2", *SMOLLM2[1:]))
    BUILD.mkdir(parents=True, exist_ok=True)
    results = {
        "precision": effect_of_precision(),
        "texts_per_prompt": effect_of_texts_per_prompt(embed),
        "votes": effect_of_masks(embed, source),
    }
    print(results["votes"])
    Path(out).write_text(json.dumps(results, indent=2))


if __name__ == "__main__":
    main(*sys.argv[1:])
