"""Causal models of many kinds: batched, shrinking generation writes what `generate` of transformers writes."""

import logging

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from hf_pretext.configuration import PrivateEvolutionConfig
from hf_pretext.models.local_engine import LocalEngine
from support.tiny import make_llama, random_texts

ATTENTION = {
    **{"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2},
    **{"intermediate_size": 64, "head_dim": 16},
}
MAMBA2 = {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8, "mamba_n_groups": 1, "mamba_chunk_size": 16}
DELTA = {
    **{"linear_num_key_heads": 2, "linear_num_value_heads": 2, "linear_key_head_dim": 16, "linear_value_head_dim": 16},
    "layer_types": ["linear_attention", "full_attention"],
}
SLIDING = {"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]}
ARCHITECTURES = {
    "lfm2": {**ATTENTION, "full_attn_idxs": [1]},
    "qwen3_next": {
        **{**ATTENTION, **DELTA, "num_experts": 4, "num_experts_per_tok": 2},
        **{"moe_intermediate_size": 32, "shared_expert_intermediate_size": 32},
    },
    "qwen3_5_text": {**ATTENTION, **DELTA},
    "mamba": {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 8},
    "mamba2": {
        **{"hidden_size": 32, "num_hidden_layers": 2, "state_size": 8, "num_heads": 4, "head_dim": 16},
        **{"n_groups": 1, "chunk_size": 16},
    },
    "jamba": {
        **{**ATTENTION, "attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2},
        **{"expert_layer_offset": 1, "num_experts": 2, "num_experts_per_tok": 1, "mamba_d_state": 8},
        **{"mamba_dt_rank": 4, "use_mamba_kernels": False},
    },
    "bamba": {**ATTENTION, **MAMBA2, "attn_layer_indices": [1]},
    "granitemoehybrid": {
        **{**ATTENTION, **MAMBA2, "layer_types": ["mamba", "attention"], "num_local_experts": 2},
        **{"num_experts_per_tok": 1, "shared_intermediate_size": 32},
    },
    "falcon_h1": {**ATTENTION, **MAMBA2, "mamba_d_ssm": 64},
    "rwkv": {"hidden_size": 32, "num_hidden_layers": 2, "attention_hidden_size": 32, "intermediate_size": 64},
    "recurrent_gemma": {
        **{**ATTENTION, "num_hidden_layers": 3, "lru_width": 32, "attention_window_size": 16, "conv1d_width": 4},
        "block_types": ["recurrent", "recurrent", "attention"],
    },
    "mistral": {**ATTENTION, "sliding_window": 8},
    "gemma3_text": {**ATTENTION, **SLIDING, "query_pre_attn_scalar": 16},
    "gpt_oss": {**ATTENTION, **SLIDING, "num_local_experts": 2, "num_experts_per_tok": 1},
    "minimax": {**ATTENTION, "layer_types": DELTA["layer_types"], "num_local_experts": 2, "num_experts_per_tok": 1},
}
WITHOUT_PADDING = {"rwkv", "recurrent_gemma"}
WITHOUT_CACHE = {*WITHOUT_PADDING, "minimax"}
NUM_TOKENS = 24


def make(kind, **changes):
    """A random model whose weights are large enough that its texts depend on all of the prompt."""
    tokenizer = make_llama()[1]
    torch.manual_seed(0)
    settings = {"vocab_size": len(tokenizer), "max_position_embeddings": 1024, "initializer_range": 0.3}
    tokens = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    model = AutoModelForCausalLM.from_config(
        AutoConfig.for_model(kind, **settings, **tokens, **ARCHITECTURES[kind], **changes)
    ).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1 and weight.abs().max() < 0.1:
                weight.normal_(0, 0.3)
    return model, tokenizer


def engine(model_and_tokenizer, batch_size=8):
    """An engine that draws the most probable token."""
    config = PrivateEvolutionConfig(epsilon=1.0, delta=1e-5, temperature=1e-4)
    return LocalEngine(*model_and_tokenizer, config, batch_size)


def until(text, stop):
    """What a text holds up to the stop string, which a batch may notice a few tokens later."""
    before, found, _ = text.partition(stop)
    return before + found


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_batches_write_what_generate_writes(kind, monkeypatch):
    model, tokenizer = make(kind)
    generator = engine((model, tokenizer))
    prompts = random_texts(7, low=2, high=30)
    prompts += prompts[:2]  # Equal prompts are read once, and then continued as several rows.
    sizes = []
    next_logits = generator._reader.next_logits
    monkeypatch.setattr(
        generator._reader, "next_logits", lambda ids, *rest: sizes.append(len(ids)) or next_logits(ids, *rest)
    )
    written = generator.complete(prompts, NUM_TOKENS, seed=0, stop="e")
    assert len(set(sizes)) > (1 if kind in WITHOUT_PADDING else 2), "the batches have shrunk"
    expected = []
    for prompt in prompts:
        ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
        output = model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=NUM_TOKENS, do_sample=False
        )
        expected.append(tokenizer.decode(output[0, ids.shape[1] :], skip_special_tokens=True))
    assert [until(text, "e") for text in written] == [until(text, "e") for text in expected]
    assert len(set(expected)) == 7 and any(len(tokenizer(prompt)["input_ids"]) > 16 for prompt in prompts)


@pytest.mark.parametrize("kind", [*sorted(WITHOUT_CACHE), "lfm2", "mamba", "gemma3_text"])
def test_a_model_is_read_in_the_fastest_way_that_is_right(kind, caplog):
    with caplog.at_level(logging.WARNING, "hf_pretext"):
        generator = engine(make(kind))
    assert generator._reader.can_pad == (kind not in WITHOUT_PADDING)
    assert ("is slower than others" in caplog.text) == (kind in WITHOUT_CACHE)
    lengths = [4, 7, 4, 7, 9]
    batches = list(generator._batches([[2] * length for length in lengths]))
    assert batches == ([[4, 1, 3, 0, 2]] if generator._reader.can_pad else [[4], [1, 3], [0, 2]])


def test_half_precision_counts_as_right():
    model, tokenizer = make("gemma3_text")
    assert engine((model.to(torch.bfloat16), tokenizer))._reader.can_pad


def test_a_model_that_cannot_run_is_refused_by_name():
    model, tokenizer = make("mistral")
    model.config.name_or_path = "me/broken"
    model.forward = lambda **_: 1 / 0
    with pytest.raises(ValueError, match=r"`expansion_model`='me/broken' cannot be run: ZeroDivisionError.*address"):
        engine((model, tokenizer))


def test_a_model_of_nan_is_refused():
    model, tokenizer = make("mistral")
    model.lm_head.weight.data[:] = float("nan")
    with pytest.raises(ValueError, match="cannot be run: .*not finite"):
        engine((model, tokenizer))
