import copy

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from hf_pretext.configuration import PrivateEvolutionConfig
from hf_pretext.models import load_causal_lm
from hf_pretext.models.engine import collect_texts
from hf_pretext.models.local_engine import LocalEngine
from support.tiny import random_texts


def engine(model_and_tokenizer, batch_size=8, **changes):
    config = PrivateEvolutionConfig(**{"epsilon": 1.0, "delta": 1e-5, **changes})
    return LocalEngine(*model_and_tokenizer, config, batch_size)


def test_continuations_come_back_in_order(llama):
    """Nearly greedy sampling gives each prompt the continuation that it has alone, in any batch."""
    prompts = random_texts(11, low=1, high=30)
    nearly_greedy = {"temperature": 1e-4}
    together = engine(llama, batch_size=4, **nearly_greedy).complete(prompts, 8, seed=0)
    alone = [engine(llama, **nearly_greedy).complete([prompt], 8, seed=0)[0] for prompt in prompts]
    assert together == alone


def test_global_random_state_is_left_alone(llama):
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    engine(llama).complete(["the bank"], 4, seed=0)
    assert torch.equal(torch.rand(3), expected)


def test_equals_greedy_decoding_by_transformers(llama):
    """Left padding, positions and the cache are as `generate` has them."""
    model, tokenizer = llama
    prompts = random_texts(7, low=1, high=30)
    ours = engine(llama, temperature=1e-4).complete(prompts, 12, seed=0)
    for prompt, text in zip(prompts, ours, strict=True):
        inputs = tokenizer(prompt, return_tensors="pt")
        output = model.generate(input_ids=inputs["input_ids"], max_new_tokens=12, do_sample=False, pad_token_id=1)
        expected = tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        assert text == expected


def test_a_continuation_keeps_the_blank_that_it_begins_with(llama):
    """The decoder of Llama 2 drops the first blank of a text. A varied text is a beginning, and what was written."""
    words = ["<s>", "</s>", "<unk>", "▁", "a", "b", "▁a", "▁b"]
    of_llama = Tokenizer(
        models.BPE(dict(zip(words, range(8), strict=True)), [("▁", "a"), ("▁", "b")], unk_token="<unk>")
    )
    of_llama.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    parts = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    of_llama.decoder = decoders.Sequence(parts)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=of_llama, bos_token="<s>", eos_token="</s>")
    assert tokenizer.decode(tokenizer("a b")["input_ids"]) == "a b" and tokenizer.decode([7, 6]) == "b a"
    found = engine((llama[0], tokenizer)).complete_tilted(["a"], 3, 0, None, {7: 1e9})
    assert found == [" b b b"]


def test_what_a_tokenizer_adds_at_the_end_is_left_out(llama):
    """After an end of text a model would begin another one. What it adds at the beginning stays."""
    model, tokenizer = llama
    ending = copy.deepcopy(tokenizer)
    ending.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    beginning = copy.deepcopy(tokenizer)
    beginning.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 0)]
    )
    assert ending("the bank")["input_ids"][-1] == 1 and beginning("the bank")["input_ids"][-1] != 1
    prompts = random_texts(5)
    texts = [engine((model, each)).complete(prompts, 8, seed=0) for each in (ending, beginning)]
    assert texts[0] == texts[1]
    assert engine((model, ending))._read([""]) == engine((model, beginning))._read([""]) == [[0]]


def test_same_seed_same_text(llama):
    generate = engine(llama)
    assert (
        generate.complete(["the"] * 4, 8, seed=1)
        == generate.complete(["the"] * 4, 8, seed=1)
        != generate.complete(["the"] * 4, 8, seed=2)
    )


def test_a_prompt_beyond_the_context_is_refused(llama):
    with pytest.raises(ValueError, match=r"more than the 1024 that `expansion_model` reads"):
        engine(llama).complete(["word " * 2000], 8, seed=0)


def test_a_continuation_with_the_stop_string_leaves_the_batch(llama):
    generate = engine(llama, batch_size=30)
    rows = []
    next_logits = generate._reader.next_logits

    def spy(input_ids, attention_mask, cache):
        rows.append(len(input_ids))
        return next_logits(input_ids, attention_mask, cache)

    generate._reader.next_logits = spy
    texts = generate.complete(random_texts(30), 40, seed=0, stop="e")
    assert rows[0] == 30 and rows == sorted(rows, reverse=True) and rows[-1] < 15
    # A tiny model writes some "e" in 40 tokens nearly always, and is stopped a few tokens after it.
    assert all(len(text.split("e")) <= 8 for text in texts) and sum("e" in text for text in texts) > 20


def test_prompts_that_are_alike_are_read_once(llama):
    """The first pass has a row for each different prompt; the continuations are those of prompts read one by one."""
    generate = engine(llama, batch_size=30, top_p=1e-6)
    shapes = []
    next_logits = generate._reader.next_logits

    def spy(input_ids, attention_mask, cache):
        shapes.append(tuple(input_ids.shape))
        return next_logits(input_ids, attention_mask, cache)

    generate._reader.next_logits = spy
    prompts = ["the bank", "a lost card and loan"]
    texts = generate.complete([prompts[0]] * 3 + [prompts[1]] * 5, 12, seed=0)
    assert shapes[0][0] == 2 and shapes[1] == (8, 1)
    # So small a share of the mass leaves the most probable token only.
    alone = [generate.complete([prompt], 12, seed=0)[0] for prompt in prompts]
    assert texts == [alone[0]] * 3 + [alone[1]] * 5
    warm = engine(llama, batch_size=30)
    assert len(set(warm.complete([prompts[0]] * 10, 12, seed=0))) == 10, "each continuation is a draw of its own"


def test_truncate(llama):
    generate = engine(llama)
    assert generate.truncate("the bank", 64) == "the bank"
    cut = generate.truncate(" ".join(random_texts(30)), 16)
    assert 0 < len(llama[1](cut)["input_ids"]) <= 17


def test_collect_tops_up_and_drops_repetitions():
    calls = []

    def propose(missing, attempt):
        calls.append(missing)
        return [f"text {attempt} {number // 2}" for number in range(missing)]

    texts = list(collect_texts(8, propose, "Writing", known={"text 0 0"}))
    assert len(set(texts)) == 8 and "text 0 0" not in texts
    # Of eight proposals three were new and different; at that rate five more take fourteen.
    assert calls == [8, 14]


def test_collect_gives_up_with_a_clear_error():
    with pytest.raises(RuntimeError, match="only 1 usable, different texts of 4 in 3 attempts"):
        list(collect_texts(4, lambda *_: ["same"], "Writing", max_attempts=3))


def test_a_model_spread_by_a_device_map_writes_the_same(llama, models_folder):
    """A layer that stays on disk stands for one on another accelerator: the machine of the tests may have none."""
    spread = dict.fromkeys(("model.embed_tokens", "model.rotary_emb", "model.norm", "lm_head"), "cpu")
    layers = range(llama[0].config.num_hidden_layers)
    device_map = spread | {f"model.layers.{layer}": "disk" if layer else "cpu" for layer in layers}
    model, tokenizer = load_causal_lm(
        models_folder / "expansion_model", torch.device("cpu"), torch.float32, device_map
    )
    assert "disk" in model.hf_device_map.values()
    prompts = random_texts(5)
    assert engine((model, tokenizer)).complete(prompts, 8, seed=0) == engine(llama).complete(prompts, 8, seed=0)


def test_nothing_after_a_token_that_ends_a_text_is_in_it(llama):
    """The token itself may be an ordinary one, and the tokenizer may have no padding to be left out."""
    model, tokenizer = copy.deepcopy(llama[0]), copy.deepcopy(llama[1])
    prompts = random_texts(6, seed=3)
    model.generation_config.eos_token_id = None
    tokenizer.pad_token = tokenizer.eos_token = None
    nearly_greedy = {"top_p": 1e-6}
    generate, words = engine((model, tokenizer), **nearly_greedy), []
    decode = generate._decode_answers
    generate._decode_answers = lambda ids: words.extend(ids) or decode(ids)
    generate.complete(prompts, 12, seed=0)
    end = words[0][5]
    model.generation_config.eos_token_id = [end]
    written = engine((model, tokenizer), **nearly_greedy).complete(prompts, 12, seed=0)
    expected = [ids[: ids.index(end)] if end in ids else ids for ids in words]
    # The engine looks at the longest prompts first.
    assert sorted(written) == sorted(tokenizer.batch_decode(expected)) and len(expected[0]) <= 5
    assert all(len(ids) == 12 for ids in words)


def test_a_stop_string_is_looked_for_in_what_was_written_last(llama, monkeypatch):
    """Decoding all of a long continuation every few tokens took a time that grew with its square."""
    generate, longest = engine(llama, batch_size=4), []
    decode = generate._tokenizer.batch_decode

    def spy(tokens, **options):
        longest.append(max(map(len, tokens)))
        return decode(tokens, **options)

    monkeypatch.setattr(generate._tokenizer, "batch_decode", spy)
    generate.complete(random_texts(4), 120, seed=0, stop="no such text")
    assert longest[-1] == 120 and max(longest[:-1]) <= 2 * (4 + len("no such text"))
    # It is found wherever it stands: here behind 61 tokens.
    (text,) = engine(llama, top_p=1e-6).complete(["the bank"], 120, seed=0)
    tokens = generate._tokenizer(text, add_special_tokens=False)["input_ids"]
    stop = generate._tokenizer.decode(tokens[61:64])
    (stopped,) = engine(llama, top_p=1e-6).complete(["the bank"], 120, seed=0, stop=stop)
    assert stop in stopped and stopped == text[: len(stopped)] and len(stopped) <= text.index(stop) + len(stop) + 60
