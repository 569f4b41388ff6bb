"""Whole runs: the quickstart, and the default settings with 20,000 written texts."""

import tempfile
import time
from unittest import mock

import numpy as np
import torch
from datasets import Dataset
from models import (
    DEVICE,
    IS_GPU,
    LLAMA_1B,
    MINILM,
    SMOLLM2,
    byte_tokenizer,
    clients,
    packaged,
    random_causal_lm,
    sentence_transformer,
    some_texts,
)

from hf_pretext import PrivateEvolutionConfig, PrivateEvolutionGenerator
from hf_pretext.cleaning import is_usable
from hf_pretext.models import load_causal_lm


def quickstart(seconds):
    """Run the quickstart as `make quickstart` does, where the packaged models are."""
    from hf_pretext import quickstart as module

    missing = [name for name in (MINILM, SMOLLM2) if packaged(name) is None] if IS_GPU else []
    if missing:
        return {"skipped": f"No package carries {' and '.join(missing)} here."}
    if not IS_GPU:
        return {"skipped": "On a CPU this is `make quickstart`."}
    with tempfile.TemporaryDirectory() as folder:
        metrics = module.run_quickstart(f"{folder}/out")
    return {"metrics": metrics}


def scores(seconds):
    """Score texts as `recipes/evaluate.py` does, here and on the CPU."""
    from hf_pretext.evaluation import score_next_tokens

    if IS_GPU and packaged(SMOLLM2) is not None:
        model, tokenizer = load_causal_lm(SMOLLM2, DEVICE, torch.float32)
    else:
        # Two layers, so that the CPU is not what takes the time.
        small = LLAMA_1B | {"num_hidden_layers": 2, "vocab_size": 8192}
        model, tokenizer = random_causal_lm(small, torch.float32), byte_tokenizer(4096)
    texts = some_texts(32 if IS_GPU else 4)
    there = score_next_tokens(model, tokenizer, texts).loss
    here = score_next_tokens(model.to("cpu"), tokenizer, texts).loss
    worst = float(np.abs(np.divide(there, here) - 1).max())
    found = {"largest_relative_difference_of_losses_to_the_cpu": worst}
    return found if worst < 1e-3 else {**found, "failed": "Losses differ."}


def texts_20000(seconds):
    """Run the default settings, and write 20,000 texts with them, or as many as there is time for."""
    ended = time.monotonic() + seconds
    some = list(clients().items())
    private, public = some[: len(some) * 3 // 4], some[len(some) * 3 // 4 :]
    rows = [{"client_id": client, "text": text} for client, own in private for text in own]
    found, settings, models, size = {}, {}, [MINILM, SMOLLM2], 1024
    if not IS_GPU or None in map(packaged, models):
        dtype = torch.bfloat16 if IS_GPU else torch.float32
        # Other tokens than its own the tokenizer leaves out, so nearly all texts would be empty.
        tokenizer = byte_tokenizer(4096)
        writer = random_causal_lm(LLAMA_1B | {"vocab_size": len(tokenizer)}, dtype)
        models = [sentence_transformer(torch.float32)[0], (writer, tokenizer)]
        found["models"] = "random weights"
        settings = {} if IS_GPU else {"population_size": 16, "num_rounds": 1, "max_new_tokens": 8}
    config = PrivateEvolutionConfig(epsilon=1.29, delta=3e-6, min_words=1, **settings)
    wanted = 20_000 if IS_GPU else 8
    with tempfile.TemporaryDirectory() as folder, _any_text_is_usable("models" in found):
        generator = PrivateEvolutionGenerator(
            None, *models, config=config, dtype="bfloat16" if IS_GPU else "auto", batch_size=size, run_dir=folder
        )
        started = time.monotonic()
        seeds = generator.evolve(
            Dataset.from_list(rows[: None if IS_GPU else 40]),
            initial_population=[text for _, own in public for text in own][: None if IS_GPU else 60],
        )
        found["seconds_of_evolve"] = round(time.monotonic() - started, 1)
        number = min(wanted, 1000)
        started = time.monotonic()
        written = generator.expand(seeds, num_samples=number)
        took = time.monotonic() - started
        found |= {"texts": number, "seconds_of_expand": round(took, 1), "texts_per_second": round(number / took, 1)}
        number = min(wanted, int(0.8 * number * max(ended - time.monotonic(), 0) / took))
        if number > found["texts"]:
            # The first part is in the run folder, and not written again.
            started, new = time.monotonic(), number - found["texts"]
            written = generator.expand(seeds, num_samples=number)
            took = time.monotonic() - started
            found |= {"texts": number, "seconds_of_expand": round(found["seconds_of_expand"] + took, 1)}
            found["texts_per_second"] = round(new / took, 1)
        found["stages"] = generator.time_table
        found["different"] = len(set(written["text"]))
        if "models" not in found:
            found["examples"] = written["text"][:3]
    found["clients"], found["batch_size"] = len({row["client_id"] for row in rows}), size
    return found


def _any_text_is_usable(is_random):
    """What random weights write is no text."""
    usable = (lambda text, config: bool(text.strip())) if is_random else is_usable
    return mock.patch("hf_pretext.expansion.is_usable", usable)
