"""Expansion: tokens per second against bare `generate` on the same prompts, with SmolLM2-135M.

`python tests/benchmarks/expansion.py OUT.json`
"""

import json
import sys
from itertools import count
from pathlib import Path

import torch
from timing import SMOLLM2, by_turns

from hf_pretext import PrivateEvolutionConfig
from hf_pretext.expansion import list_prompt
from hf_pretext.models import load_causal_lm
from hf_pretext.models.local_engine import LocalEngine
from hf_pretext.plays import load_plays

NUM_PROMPTS, NEW_TOKENS = 16, 32


def main(out):
    model, tokenizer = load_causal_lm(*SMOLLM2)
    texts = load_plays()[0]["text"][: 3 * NUM_PROMPTS]
    prompts = [list_prompt(texts[start : start + 3], 1) for start in range(0, len(texts), 3)]
    complete = LocalEngine(model, tokenizer, PrivateEvolutionConfig(epsilon=1, delta=1e-5), NUM_PROMPTS).complete
    tokenizer.padding_side = "left"
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    written, seeds = {}, count(1)

    def note(name, texts):
        # A text is decoded the same way by both, so its tokens are those of the text, with one for the end.
        written.setdefault(name, []).append(sum(len(tokenizer(text)["input_ids"]) for text in texts))

    def bare():
        torch.manual_seed(next(seeds))
        batch = tokenizer(prompts, padding=True, return_tensors="pt")
        with torch.inference_mode():
            output = model.generate(
                **batch, do_sample=True, temperature=1.0, top_k=0, top_p=1.0, max_new_tokens=NEW_TOKENS
            )
        note("bare", tokenizer.batch_decode(output[:, batch["input_ids"].shape[1] :], skip_special_tokens=True))

    def ours():
        note("ours", complete(prompts, NEW_TOKENS, seed=next(seeds)))

    seconds = by_turns({"bare": bare, "ours": ours})
    rates = {name: sum(written[name]) / len(written[name]) / seconds[name] for name in seconds}
    results = {
        "expansion_ratio": rates["ours"] / rates["bare"],
        "expansion": {"seconds": seconds, "tokens_per_second": rates},
    }
    Path(out).write_text(json.dumps(results, indent=2))


if __name__ == "__main__":
    main(*sys.argv[1:])
