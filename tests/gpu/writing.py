"""Tokens a second of variation and expansion, against bare `generate` and the limits of the card."""

import math
import time

import torch
from card import limits
from models import (
    DEVICE,
    IS_GPU,
    LLAMA_1B,
    QWEN3_8B,
    SMOLLM2,
    best_seconds,
    byte_tokenizer,
    num_weights,
    packaged,
    random_causal_lm,
    random_masked_lm,
    seconds_of,
    some_texts,
)

from hf_pretext import PrivateEvolutionConfig
from hf_pretext.models import load_causal_lm
from hf_pretext.models.local_engine import LocalEngine
from hf_pretext.models.masked_variation import MaskedVariation
from hf_pretext.prompts import list_prompt

CONFIG = PrivateEvolutionConfig(epsilon=1, delta=1e-5, variation_steps=1, max_length=64)


def variation(seconds):
    """Fill masks with a model of the size of RoBERTa-large, in float32 and bfloat16."""
    ended = time.monotonic() + seconds
    peaks = limits()
    found = {"model": "RoBERTa-large's size, random weights" if IS_GPU else "tiny", "ways": {}}
    for dtype, peak in ((torch.bfloat16, "flops_bf16"), (torch.float32, "flops_fp32")):
        model, tokenizer = random_masked_lm(dtype)
        texts = [text[: 8 + index % 50] for index, text in enumerate(some_texts(512 if IS_GPU else 8))]
        lengths = [len(tokenizer(text, truncation=True, max_length=64)["input_ids"]) for text in texts]
        for masks_per_pass, batch_size in ((1, 64), (1, 512), (4, 512)):
            if time.monotonic() > ended and found["ways"]:
                break
            config = PrivateEvolutionConfig(
                epsilon=1, delta=1e-5, variation_steps=1, max_length=64, masks_per_pass=masks_per_pass
            )
            vary = MaskedVariation(model, tokenizer, config, batch_size).vary
            vary(texts[: batch_size // 4], seed=0)
            took = seconds_of(lambda vary=vary, texts=texts: vary(texts, seed=1))
            masks = sum(max(1, round((length - 2) * config.mask_probability)) for length in lengths)
            operations = sum(_operations(model, length, config) for length in lengths)
            found["ways"][f"{dtype}, {masks_per_pass} a pass, batches of {batch_size}".replace("torch.", "")] = {
                "texts_per_second": len(texts) / took,
                "tokens_per_second": masks / took,
                "fraction_of_the_card": operations / took / peaks[peak],
            }
        del model
    return found


def _operations(model, length, config):
    """Count the operations that the filling of one text needs: no padding, the head where it is read."""
    sizes = model.config
    body = sum(each.numel() for each in model.roberta.encoder.parameters())
    masks = max(1, round((length - 2) * config.mask_probability))
    attention = 4 * length**2 * sizes.hidden_size * sizes.num_hidden_layers
    head = 2 * sizes.hidden_size * (sizes.hidden_size + sizes.vocab_size)
    return math.ceil(masks / config.masks_per_pass) * (2 * body * length + attention) + masks * head


def expansion(seconds):
    """Continue prompts with SmolLM2 and with random weights of a 1B and an 8B model."""
    ended = time.monotonic() + seconds
    peaks = limits()
    found = {}
    if IS_GPU and packaged(SMOLLM2) is not None:
        smol = load_causal_lm(SMOLLM2, DEVICE, torch.bfloat16)
        for number in (64, 512):
            found[f"SmolLM2-135M, {number} prompts"] = compare(*smol, number, 64, peaks)
        del smol
    for name, sizes in (("8B", QWEN3_8B), ("1B", LLAMA_1B)) if IS_GPU else (("tiny", None),):
        if found and time.monotonic() > ended - seconds / 3:
            found[f"{name}, random weights"] = "no time"
            continue
        model, tokenizer = random_causal_lm(sizes, torch.bfloat16 if IS_GPU else torch.float32), byte_tokenizer(4096)
        for number in (64, 256) if IS_GPU else (4,):
            found[f"{name}, random weights, {number} prompts"] = compare(
                model, tokenizer, number, 48 if IS_GPU else 6, peaks
            )
        del model
    return found


def compare(model, tokenizer, num_prompts, new_tokens, peaks):
    """Let the library and bare `generate` continue the same prompts up to the same length."""
    texts = [text[:120] for text in some_texts(3 * num_prompts)]
    prompts = [list_prompt(texts[start : start + 3], 1) for start in range(0, len(texts), 3)]
    tokenizer.padding_side, tokenizer.pad_token = "left", tokenizer.pad_token or tokenizer.eos_token
    batch = tokenizer(prompts, padding=True, return_tensors="pt").to(DEVICE)
    batch = {name: batch[name] for name in ("input_ids", "attention_mask")}
    complete = LocalEngine(model, tokenizer, CONFIG, num_prompts).complete
    written = {}

    def bare():
        options = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0}
        with torch.inference_mode():
            output = model.generate(**batch, **options, max_new_tokens=new_tokens)
        written["bare"] = _count(output[:, batch["input_ids"].shape[1] :], tokenizer)

    def ours():
        torch.manual_seed(0)
        # The tokens are those of the texts. With random weights a token may be none of the tokenizer's.
        texts = complete(prompts, new_tokens, seed=0)
        counted = sum(len(tokenizer(text, add_special_tokens=False)["input_ids"]) + 1 for text in texts)
        written["ours"] = len(prompts) * new_tokens if model.config.name_or_path == "" else counted

    took = {name: best_seconds(work, 2, at_most=8) for name, work in (("bare", bare), ("ours", ours))}
    rates = {name: written[name] / took[name] for name in took}
    # A step reads all weights and what it has of keys and values.
    length = batch["input_ids"].shape[1] + new_tokens / 2
    config = model.config
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    cache = 2 * config.num_hidden_layers * config.num_key_value_heads * head_dim * length * num_prompts
    step_bytes = (num_weights(model) + cache) * next(model.parameters()).element_size()
    reading = 2 * num_weights(model) * batch["attention_mask"].sum().item() / peaks["flops_bf16"]
    return {
        "tokens_per_second": {name: round(rate) for name, rate in rates.items()},
        "ratio": round(rates["ours"] / rates["bare"], 3),
        "seconds": {name: round(each, 3) for name, each in took.items()},
        "seconds_of_the_card": round(reading + new_tokens * step_bytes / peaks["bytes_per_second"], 3),
        "prompt_tokens": int(batch["attention_mask"].sum()),
    }


def _count(written, tokenizer):
    """Count the tokens up to and with the one that ends a text."""
    ended = (written == tokenizer.eos_token_id).cumsum(1) - (written == tokenizer.eos_token_id).long()
    return int((ended == 0).sum())
