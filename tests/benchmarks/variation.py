"""Mask filling: the research loop against this library's exact and fast modes, and the bare matrix product.

`python tests/benchmarks/variation.py OUT.json [MODEL]`. Without a masked language model, one is trained on speeches
for a minute and a half (`recipes/benchmark/masked_lm.py`); it is weak, but as fast as a good one.
"""

import json
import math
import sys
from pathlib import Path

import torch
from timing import BUILD, by_turns, gemm_peak, speeches

sys.path.append(str(Path(__file__).parents[2]))

from hf_pretext import PrivateEvolutionConfig
from hf_pretext.models import load_masked_lm
from hf_pretext.models.masked_variation import MaskedVariation
from hf_pretext.plays import load_plays
from recipes.benchmark.masked_lm import MASK_PROBABILITY, train_masked_lm

NUM_TEXTS = 256
MASKS_PER_PASS = 4
TRAINING_SECONDS = 90


def masked_lm(source=None):
    cached = Path(source) if source else BUILD / "masked-lm"
    if not (cached / "config.json").is_file():
        train_masked_lm(load_plays()[0]["text"][:], TRAINING_SECONDS, cached)
    return load_masked_lm(cached, torch.device("cpu"), torch.float32)


@torch.inference_mode()
def research_loop(model, tokenizer, texts):
    """Vary texts as the paper's research code does: padded to 64, all positions through the head, one token a pass."""
    varied = []
    for start in range(0, len(texts), 64):
        batch = tokenizer(
            texts[start : start + 64], padding="max_length", max_length=64, truncation=True, return_tensors="pt"
        )
        ids, attention_mask = batch["input_ids"], batch["attention_mask"]
        own = attention_mask.bool() & ~torch.isin(ids, torch.tensor(tokenizer.all_special_ids))
        num_masks = (own.sum(1) * MASK_PROBABILITY).round().long().clamp(min=1)
        order = torch.rand(ids.shape).masked_fill(~own, 2).argsort(1)
        for row in range(len(ids)):
            ids[row, order[row, : num_masks[row]]] = tokenizer.mask_token_id
        for step in range(int(num_masks.max())):
            logits = model(input_ids=ids, attention_mask=attention_mask).logits
            for row in range(len(ids)):
                if step < num_masks[row]:
                    at = order[row, step]
                    ids[row, at] = torch.multinomial(logits[row, at].softmax(-1), 1)[0]
        varied += tokenizer.batch_decode(ids, skip_special_tokens=True)
    return varied


def useful_operations(model, tokenizer, texts, masks_per_pass):
    """Count the floating-point operations that a run of filling needs: no padding, the head where it is read."""
    config = model.config
    body = sum(each.numel() for each in model.bert.encoder.parameters())
    head = config.hidden_size * (config.hidden_size + config.vocab_size)
    total = 0
    for text in texts:
        length = len(tokenizer(text)["input_ids"])
        num_masks = max(1, round((length - 2) * MASK_PROBABILITY))
        num_passes = math.ceil(num_masks / masks_per_pass)
        attention = 4 * length**2 * config.hidden_size * config.num_hidden_layers
        total += num_passes * (2 * body * length + attention) + num_masks * 2 * head
    return total


@torch.inference_mode()
def pseudo_cross_entropy(model, tokenizer, texts):
    """Mean of -log p(token | all others), in nats (Salazar et al. 2020, arXiv 1910.14659)."""
    nats = count = 0
    for text in texts:
        ids = torch.tensor(tokenizer(text, truncation=True, max_length=64)["input_ids"])
        places = torch.arange(1, len(ids) - 1)
        masked = ids.repeat(len(places), 1)
        masked[torch.arange(len(places)), places] = tokenizer.mask_token_id
        hidden = model.bert(masked).last_hidden_state[torch.arange(len(places)), places]
        nats -= float(model.cls(hidden).log_softmax(-1).gather(1, ids[places, None]).sum())
        count += len(places)
    return nats / count


def main(out, source=None):
    model, tokenizer = masked_lm(source)
    texts = speeches(tokenizer, NUM_TEXTS, 10, 60)

    def varier(masks_per_pass):
        config = PrivateEvolutionConfig(
            epsilon=1, delta=1e-5, variation_steps=1, mask_probability=MASK_PROBABILITY, masks_per_pass=masks_per_pass
        )
        return MaskedVariation(model, tokenizer, config, batch_size=32).vary

    exact, fast = varier(1), varier(MASKS_PER_PASS)
    fast(texts[:64], seed=0)
    ours = {"exact": lambda: exact(texts, seed=0), "fast": lambda: fast(texts, seed=0)}
    # The research loop takes minutes, in which a machine may change its speed: the others come before and after it.
    turns = by_turns(
        {
            **{f"{name}, before": work for name, work in ours.items()},
            "research": lambda: research_loop(model, tokenizer, texts),
            **{f"{name}, after": work for name, work in ours.items()},
        },
        repeats=2,
    )
    seconds = {name: (turns[f"{name}, before"] + turns[f"{name}, after"]) / 2 for name in ours}
    seconds["research"] = turns["research"]
    peak = gemm_peak()
    sample = texts[::3]
    entropies = {
        "original": pseudo_cross_entropy(model, tokenizer, sample),
        "exact": pseudo_cross_entropy(model, tokenizer, exact(sample, seed=1)),
        "fast": pseudo_cross_entropy(model, tokenizer, fast(sample, seed=1)),
    }
    shares = {
        name: useful_operations(model, tokenizer, texts, masks) / seconds[name] / peak
        for name, masks in (("exact", 1), ("fast", MASKS_PER_PASS))
    }
    results = {
        "variation_exact_ratio": seconds["research"] / seconds["exact"],
        "variation_fast_ratio": seconds["research"] / seconds["fast"],
        "fast_pseudo_perplexity_ratio": math.exp(entropies["fast"] - entropies["exact"]),
        "exact_gemm_share": shares["exact"],
        "fast_gemm_share": shares["fast"],
        "variation": {
            "seconds": seconds,
            "pseudo_perplexity": {name: math.exp(nats) for name, nats in entropies.items()},
            "masks_per_pass_of_fast": MASKS_PER_PASS,
            "gemm_peak_gflops": peak / 1e9,
        },
    }
    Path(out).write_text(json.dumps(results, indent=2))


if __name__ == "__main__":
    main(*sys.argv[1:])
