import copy

import pytest
import torch
from transformers import (
    BertJapaneseTokenizer,
    DistilBertConfig,
    DistilBertForMaskedLM,
    ModernBertConfig,
    ModernBertForMaskedLM,
)

from hf_pretext.configuration import PrivateEvolutionConfig
from hf_pretext.models.masked_variation import MaskedVariation
from support.tiny import random_texts


def masked_variation(model_and_tokenizer, batch_size=8, **changes):
    config = PrivateEvolutionConfig(**{"epsilon": 1.0, "delta": 1e-5, "max_length": 32, **changes})
    return MaskedVariation(*model_and_tokenizer, config, batch_size)


def distilbert(tokenizer):
    torch.manual_seed(0)
    config = DistilBertConfig(vocab_size=len(tokenizer), dim=32, n_layers=2, n_heads=2, hidden_dim=64)
    return DistilBertForMaskedLM(config).eval()


def modernbert(tokenizer):
    torch.manual_seed(0)
    config = ModernBertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        **dict.fromkeys(("pad_token_id", "eos_token_id", "bos_token_id", "cls_token_id", "sep_token_id"), 0),
    )
    return ModernBertForMaskedLM(config).eval()


@pytest.mark.parametrize("kind", ["bert", "roberta", "distilbert", "modernbert"])
def test_head_at_some_positions_equals_head_at_all(kind, bert, roberta):
    model, tokenizer = {
        "bert": lambda: bert,
        "roberta": lambda: roberta,
        "distilbert": lambda: (distilbert(bert[1]), bert[1]),
        "modernbert": lambda: (modernbert(bert[1]), bert[1]),
    }[kind]()
    variation = masked_variation((model, tokenizer))
    batch = tokenizer(random_texts(6), padding=True, return_tensors="pt")
    rows, columns = torch.tensor([0, 0, 1, 2, 5, 5, 5]), torch.tensor([1, 3, 1, 2, 1, 2, 3])
    inputs = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
    with torch.inference_mode():
        everywhere = model(**inputs).logits[rows, columns]
        there = variation._logits_at(**inputs, rows=rows, columns=columns)
        torch.testing.assert_close(there, everywhere, rtol=1e-4, atol=1e-5)
        assert model(**inputs).logits.shape[1] == batch["input_ids"].shape[1], "the hook was left behind"


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_each_text_is_varied_in_its_own_place(family, request):
    """The number of masks is each text's own: a share of its tokens, whatever the others' lengths."""
    model, tokenizer = request.getfixturevalue(family)
    texts = random_texts(20, low=2, high=20)
    variation = masked_variation((model, tokenizer), mask_probability=0.3, variation_steps=1)
    seen = []
    original = variation._mask_and_fill

    def spy(input_ids, attention_mask, can_mask, *others):
        before = input_ids.clone()
        original(input_ids, attention_mask, can_mask, *others)
        seen.append((before, input_ids.clone(), attention_mask, can_mask))

    variation._mask_and_fill = spy
    varied = variation.vary(texts, seed=0)
    assert len(varied) == len(texts) and varied != texts
    num_changed = num_masked = 0
    for before, after, attention_mask, can_mask in seen:
        assert torch.equal(before[~can_mask], after[~can_mask])
        changed = (before != after).sum(1)
        expected = (can_mask.sum(1) * 0.3).round().clamp(min=1)
        assert (changed <= expected).all()
        num_changed, num_masked = num_changed + changed.sum(), num_masked + expected.sum()
        assert (after[attention_mask == 0] == tokenizer.pad_token_id).all()
    # A fill may by chance be the token that was there.
    assert num_changed > 0.8 * num_masked


@pytest.mark.parametrize("masks_per_pass", [1, 3, 100])
def test_a_schedule_fills_each_mask_once_and_neighbours_in_different_passes(bert, masks_per_pass):
    variation = masked_variation(bert, mask_probability=0.5, masks_per_pass=masks_per_pass)
    can_mask = torch.zeros(5, 24, dtype=torch.bool)
    for row, length in enumerate((0, 1, 4, 11, 22)):
        can_mask[row, 1 : 1 + length] = True
    first_turns = set()
    for seed in range(40):
        turns = variation._schedule(can_mask, torch.Generator().manual_seed(seed))
        assert (turns[~can_mask] == -1).all()
        for row, num_masks in enumerate((0, 1, 2, 6, 11)):
            of_row = turns[row][turns[row] >= 0]
            num_passes = -(-num_masks // masks_per_pass)
            assert len(of_row) == num_masks and set(of_row.tolist()) == set(range(num_passes))
            if num_passes:
                sizes = of_row.bincount()
                assert sizes.max() <= masks_per_pass and sizes.max() - sizes.min() <= 1
            if num_passes > 1:
                assert (of_row[1:] != of_row[:-1]).all()
        first_turns.add(int(of_row[0]))
    # The order of the passes is random, so with one mask a pass any mask may come first.
    assert len(first_turns) == -(-11 // masks_per_pass)


def test_masks_of_one_pass_are_drawn_without_regard_to_each_other(bert):
    """Each token's distribution is the model's, given what is not masked; one at a time, the later ones see the first.

    The model is made to repeat whatever token stands beside it, so two masks that are filled one after the other come
    out alike, and two that are filled together do not.
    """

    def share_alike(masks_per_pass):
        variation = masked_variation(
            bert, mask_probability=1.0, variation_steps=1, masks_per_pass=masks_per_pass, batch_size=512
        )

        def repeat(input_ids, attention_mask, rows, columns):
            logits = torch.zeros(len(rows), bert[0].config.vocab_size)
            for number, (row, column) in enumerate(zip(rows, columns, strict=True)):
                other = input_ids[row, 3 - column]
                if other != bert[1].mask_token_id:
                    logits[number, other] = 100.0
            return logits

        variation._logits_at = repeat
        pairs = [bert[1]("bank loan")["input_ids"]] * 512
        filled = variation._vary_tokens(pairs, torch.Generator().manual_seed(0))
        return sum(ids[1] == ids[2] for ids in filled) / len(filled)

    assert share_alike(1) == 1.0
    # Chance alone makes one in 60 words alike; 512 draws come above a tenth less than once in a million times.
    assert share_alike(2) < 0.1


def test_special_tokens_are_neither_masked_nor_drawn(bert):
    """A model that wants nothing but special tokens, and ids that the tokenizer does not have, gets none of them."""
    model, tokenizer = copy.deepcopy(bert[0]), bert[1]
    unwanted = [*tokenizer.all_special_ids, *range(len(tokenizer), model.config.vocab_size)]
    with torch.no_grad():
        model.cls.predictions.bias[unwanted] = 50.0
    variation = masked_variation((model, tokenizer), mask_probability=1.0, variation_steps=1)
    tokens = sorted((tokenizer(text)["input_ids"] for text in random_texts(20)), key=len, reverse=True)
    varied = variation._vary_tokens(tokens, torch.Generator().manual_seed(0))
    for before, after in zip(tokens, varied, strict=True):
        assert (before[0], before[-1]) == (after[0], after[-1])
        assert not set(after[1:-1]) & set(unwanted)


def test_a_tokenizer_in_python_is_read_and_written(bert, tmp_path):
    model, tokenizer = bert
    words = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().get)
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    slow = BertJapaneseTokenizer(str(tmp_path / "vocab.txt"), word_tokenizer_type="basic")
    assert not slow.is_fast
    texts = [f"{text}, please." for text in random_texts(6)]
    varied = masked_variation((model, slow)).vary(texts, seed=0)
    assert len(varied) == 6 and not any(" ," in text or " ." in text for text in varied)


def test_same_seed_same_variations(bert):
    variation = masked_variation(bert)
    texts = random_texts(10)
    assert variation.vary(texts, seed=1) == variation.vary(texts, seed=1) != variation.vary(texts, seed=2)


def test_long_texts_are_cut_and_odd_ones_survive(bert):
    variation = masked_variation(bert)
    odd = ["", " ", "\x00\x01", "{braces} {{ jinja }}", "مرحبا \u202e tfel", "[MASK] [SEP] [CLS]", "word " * 100_000]
    varied = variation.vary(odd, seed=0)
    assert len(varied) == len(odd)
    assert len(bert[1](varied[-1])["input_ids"]) <= 2 * 32


def test_truncate_keeps_short_texts_and_cuts_long_ones(bert):
    variation = masked_variation(bert, max_length=8)
    assert variation.truncate("the bank") == "the bank"
    assert variation.truncate("The BANK") == "The BANK"
    cut = variation.truncate(" ".join(random_texts(30)))
    assert 0 < len(bert[1](cut)["input_ids"]) <= 8


def test_max_length_beyond_the_model_is_refused(bert):
    with pytest.raises(ValueError, match="`max_length`=65 is more than the 64 tokens"):
        masked_variation(bert, max_length=65)


def test_characters_of_several_tokens_are_not_broken(roberta):
    """A byte of an emoji that is masked and filled alone would leave what is no character, and be published."""
    texts = [f"{words} \U0001f600 naïve \u65e5\u672c" for words in random_texts(6, seed=2)]
    variation = masked_variation(roberta, max_length=64, mask_probability=0.9, temperature=5.0)
    for seed in range(5):
        varied = variation.vary(texts, seed)
        assert all("\ufffd" not in text and "\U0001f600" in text and "\u65e5\u672c" in text for text in varied)
        assert varied != texts
