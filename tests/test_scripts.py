"""Texts in any script, with any lines: words, sentences, characters, cuts, parts, and whole runs."""

import re
import warnings

import numpy as np
import pytest
import torch
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, RobertaConfig, RobertaModel

from hf_pretext import PrivateEvolutionConfig, PrivateEvolutionGenerator
from hf_pretext.cards import _as_quote
from hf_pretext.cleaning import has_lines, is_usable, keep_lines
from hf_pretext.clients.samples import embed_clients
from hf_pretext.evaluation.measures import distinct_n, length_histogram
from hf_pretext.inputs import warn_of_unknown
from hf_pretext.models.cutting import count_tokens, cut_to_tokens, parts_of
from hf_pretext.models.embedder import TextEmbedder
from hf_pretext.models.local_engine import LocalEngine
from hf_pretext.models.masked_variation import MaskedVariation
from hf_pretext.models.prompted_variation import PromptedVariation
from hf_pretext.models.remote_engine import RemoteEngine
from hf_pretext.segmentation import grapheme_ends, whole_sentences, word_spans, words
from support.tiny import SIZES, random_texts

CONFIG = PrivateEvolutionConfig(epsilon=1.0, delta=1e-5)
PIECES = (
    *("a", "card", " ", "  ", "\n", "\t", ".", "é", "e\u0301", "ſ", "ﬁ", "7", "ʼn", "_"),
    *("क्षि", "नमस्ते", "।", "👩‍👩‍👧", "🎉", "🇩🇪", "1️⃣", "👍🏽", "矮東", "。", "「", "」", "カード", "ー", "ひらがな"),
    *("สวัสดี", "กำ", "မြန်မာ", "ខ្មែរ", "བོད་ཡིག", "مرحبا", "؟", "ﷺ", "שָׁלוֹם", "한국어", "ᄀ", "\u200d", "\u200f", "\u0301"),
)
mixed = st.lists(st.sampled_from(PIECES) | st.characters(codec="utf-8"), max_size=30).map("".join)


def test_words_are_those_of_split_where_a_script_has_spaces():
    for text in (
        "a lost card, and: more",
        " مرحبا بك\u00a0هنا؟",
        "नमस्ते दुनिया।",
        "안녕하세요 여러분.",
        "x\x1fy\u2003z",
        "",
    ):
        assert words(text) == text.split()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("我的卡，丢了。", ["我", "的", "卡，", "丢", "了。"]),
        ("用iPhone 15打开「银行」App", ["用", "iPhone", "15", "打", "开", "「银", "行」", "App"]),
        ("カードが使えない！", ["カード", "が", "使", "え", "な", "い！"]),
        ("สวัสดี", ["ส", "วั", "ส", "ดี"]),
        ("བོད་ཡིག", ["བོད་", "ཡིག"]),
        ("好的👩‍👩‍👧👍🏽 ok", ["好", "的👩‍👩‍👧👍🏽", "ok"]),
        ("……你", ["……你"]),
    ],
)
def test_what_is_written_without_spaces_has_words_too(text, expected):
    assert words(text) == expected


@given(mixed)
@settings(max_examples=300, deadline=None)
def test_words_are_all_of_a_text_but_white_space_and_break_no_character(text):
    spans = list(word_spans(text))
    assert "".join(text[start:end] for start, end in spans) == "".join(text.split())
    for chunk in text.split():
        ends = {0, *grapheme_ends(chunk)}
        lengths = np.cumsum([len(word) for word in words(chunk)])
        assert ends.issuperset(lengths)


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("我的卡丢了。请问怎么", "我的卡丢了。"),
        ("彼は「はい。」と言った", "彼は「はい。」"),
        ("本当？！多分", "本当？！"),
        ("यह है। वह", "यह है।"),
        ("أين بطاقتي؟ فقدت", "أين بطاقتي؟"),
        ("یہ ہے۔ وہ", "یہ ہے۔"),
        ("Սա է։ Նա", "Սա է։"),
        ("ይህ ነው። ያ", "ይህ ነው።"),
        ("ဒါပါ။ ဟို", "ဒါပါ။"),
        ("បាទ។ ទេ", "បាទ។"),
        ("www.example.com costs 3.50 a", ""),
        ("He said: „Nein.“ Und", "He said: „Nein.“"),
        ("def f():\n    return 1\n\ndef g():\n    ret", "def f():\n    return 1"),
        ("a = 1\nb = 2\nc =", "a = 1\nb = 2"),
        ("Dear all,\nI write to you. And so", "Dear all,\nI write to you."),
    ],
)
def test_sentences_end_in_any_script_and_paragraphs_end_too(text, whole):
    assert whole_sentences(text) == whole


@pytest.mark.parametrize(
    ("text", "usable"),
    [
        ("我的银行卡昨天丢了，请问怎么挂失？我的手机号也换了，可以在手机银行上办理吗？", True),
        ("我的卡我的卡我的卡我的卡我的卡", False),
        ("สวัสดีครับ ผมทำบัตรหายเมื่อวานนี้ ต้องทำอย่างไรบ้างครับ", True),
        ("ครับครับครับครับครับครับ", False),
        ("是的", False),
        # A document says 70 words again and again, and may do so. One of a few words that end it is a loop.
        (" ".join(f"word{number % 70}" for number in range(700)), True),
        (" ".join([*map(str, range(300)), *["no", "way"] * 60]), False),
    ],
)
def test_loops_are_told_from_texts_in_any_script(text, usable):
    assert is_usable(text, CONFIG) is usable


def test_measures_count_words_of_any_script():
    texts = ["我的卡丢了", "我的手机丢了"]
    assert distinct_n(texts, 1) == 7 / 11 and distinct_n(texts, 2) == 7 / 9
    found = length_histogram(num_bins=2, left=["丢"], right=["我的卡"])
    assert found == {"edges": [0, 2, 4], "left": [1, 0], "right": [0, 1]}


def _fast(model, pre_tokenizer, decoder, normalizer=None):
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizer, decoder
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")


def tokenizer_of(kind, request):
    if kind == "bytes in pairs":
        return request.getfixturevalue("llama")[1]
    if kind == "word pieces":
        return request.getfixturevalue("bert")[1]
    pieces = [
        "<unk>",
        *(f"<0x{byte:02X}>" for byte in range(256)),
        "▁",
        "▁a",
        "▁card",
        "a",
        "card",
        "क्षि",
        "矮",
        "東",
        "ي",
        "e\u0301",
        "▁👩‍👩‍👧",
        "fi",
    ]
    if kind == "pieces with bytes":
        model = models.BPE(
            {piece: index for index, piece in enumerate(pieces)}, [], unk_token="<unk>", byte_fallback=True
        )
        blanks = pre_tokenizers.Metaspace(prepend_scheme="always")
        decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
        return _fast(model, blanks, decoder)
    scores = [(piece, -float(index)) for index, piece in enumerate(pieces)]
    model = models.Unigram(scores, unk_id=0, byte_fallback=True)
    return _fast(model, pre_tokenizers.Metaspace(), decoders.Metaspace(), normalizers.NFKC())


class Slow:
    """A tokenizer that does not say where its tokens are: one for each byte."""

    is_fast = False

    def __call__(self, text, **_):
        return {"input_ids": list(text.encode())}


KINDS = ["bytes in pairs", "word pieces", "pieces with bytes", "unigram and NFKC", "slow"]


@pytest.mark.parametrize("special", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_a_cut_text_is_a_beginning_that_fits_and_breaks_no_character(kind, special, request):
    tokenizer = Slow() if kind == "slow" else tokenizer_of(kind, request)
    options = {"add_special_tokens": special}

    @given(mixed, st.integers(1, 24))
    @settings(max_examples=150, deadline=None)
    def check(text, limit):
        cut = cut_to_tokens(tokenizer, text, limit, **options)
        if count_tokens(tokenizer, text, **options) <= limit:
            assert cut == text
        else:
            assert text.startswith(cut) and count_tokens(tokenizer, cut, **options) <= limit or not cut
            ends = [0, *grapheme_ends(text)]
            assert len(cut) in ends and "\ufffd" not in cut.replace("\ufffd", "", text.count("\ufffd"))
            if kind == "slow":  # With a token for each byte, the next character is too much.
                assert len(text[: ends[ends.index(len(cut)) + 1]].encode()) > limit

    check()


def test_a_megabyte_is_cut_in_no_time(llama):
    for text in ("x" * 1_000_000, "我" * 1_000_000, "a" + "\u0301" * 1_000_000, "👩\u200d" * 200_000):
        assert count_tokens(llama[1], cut_to_tokens(llama[1], text, 32)) <= 32


@pytest.mark.parametrize(
    "text", ["word " * 100, "x" * 1000, "我的卡丢了" * 40, "https://example.com/" + "👩‍👩‍👧" * 90]
)
def test_a_server_s_text_is_cut_by_words_of_any_script(text):
    cut = RemoteEngine.truncate(None, text, 32)
    assert text.startswith(cut) and 0 < len(cut) < len(text) and len(cut) in grapheme_ends(text)
    # Three quarters of the tokens are words, of at most 16 characters.
    assert len(words(cut)) <= 24 and len(cut) <= 24 * 17
    assert RemoteEngine.truncate(None, text, 10_000) == text


def test_parts_are_all_of_a_text_and_about_equally_long(llama):
    tokenizer = llama[1]
    text = "".join(f"{text} 我的卡👩‍👩‍👧\n" for text in random_texts(40))
    parts = list(parts_of(tokenizer, text, 100, 50))
    lengths = [count_tokens(tokenizer, part) for part in parts]
    assert "".join(parts) == text and max(lengths) <= 100
    assert max(lengths) < 1.6 * min(lengths)
    few = list(parts_of(tokenizer, text, 100, 3))
    assert len(few) == 3 and text.startswith("".join(few)) and min(count_tokens(tokenizer, part) for part in few) > 90
    assert list(parts_of(tokenizer, "short", 100, 3)) == ["short"]


@pytest.fixture(scope="module")
def reads_all(tmp_path_factory, roberta):
    """An embedding model whose tokenizer knows every byte, and so every script."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Pooling, Transformer

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("reads-all")
    tokenizer = roberta[1]
    config = RobertaConfig(vocab_size=len(tokenizer), max_position_embeddings=66, pad_token_id=1, **SIZES)
    RobertaModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return SentenceTransformer(modules=[Transformer(str(folder)), Pooling(SIZES["hidden_size"])], device="cpu")


def test_the_embedding_of_a_long_text_is_the_mean_of_its_parts(embedder, sentence_transformer):
    long = " ".join(random_texts(30))
    tokenizer = sentence_transformer.tokenizer
    parts = list(parts_of(tokenizer, long, 62, 16, add_special_tokens=False))
    assert len(parts) > 3 and all(count_tokens(tokenizer, part) <= 64 for part in parts)
    mean = sentence_transformer.encode(parts, normalize_embeddings=True).mean(axis=0)
    np.testing.assert_allclose(embedder([long])[0], mean / np.linalg.norm(mean), atol=1e-6)
    # What no model reads in one go counts as well.
    assert np.abs(embedder([long])[0] - embedder([f"{long} {'door ' * 60}"])[0]).max() > 1e-3


def test_a_short_text_beside_a_long_one_is_embedded_as_it_is(embedder):
    texts = random_texts(5)
    assert np.array_equal(embedder(texts)[2], embedder([texts[2]])[0]) or np.allclose(
        embedder(texts)[2], embedder([texts[2]])[0], atol=1e-6
    )
    long = " ".join(random_texts(100))
    np.testing.assert_allclose(embedder([*texts, long])[:5], embedder(texts), atol=1e-6)


def test_a_text_of_any_length_has_a_bounded_number_of_parts(embedder, monkeypatch):
    rows, embed = [], embedder._embed
    monkeypatch.setattr(embedder, "_embed", lambda texts: rows.extend(texts) or embed(texts))
    embedder(["the bank " * 100_000])
    assert len(rows) == 16


def test_unknown_scripts_are_counted(embedder, reads_all):
    unknown, total = embedder.count_unknown(["the bank", "我的卡"])
    assert 0 < unknown < total
    assert embedder.count_unknown(["the bank"])[0] == 0 and TextEmbedder(reads_all).count_unknown(["我的卡"])[0] == 0


def test_owners_are_warned_of_a_script_that_the_embedding_model_does_not_know(embedder, reads_all):
    """In tenths only, and whoever has public texts in that script is warned too. Other scripts and models are fine."""
    chinese, english = ["我的卡丢了", "我的手机丢了"], random_texts(2)
    config = PrivateEvolutionConfig(epsilon=1, delta=1e-3)

    def warned(texts, model):
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            embed_clients({"a": texts[:1], "b": texts[1:]}, model, 8, config.seed)
            warn_of_unknown(texts, model)
        return [str(each.message) for each in found]

    private, public = warned(chinese, embedder)
    assert "about 100 % of the tokens of `private`" in private and "Do not pass it on" in private
    assert "100% of them as unknown" in public and "`initial_population`" in public
    assert not warned(english, embedder) and not warned(chinese, TextEmbedder(reads_all))


CODE = "def f(n):\n\tif n:\n\n        return [n,\n                f(n - 1)]  # why"


@pytest.mark.parametrize("family", ["bert", "roberta"])
@pytest.mark.parametrize(
    "text",
    [
        "def f(n):\n\tif n:\n\n        return 1",
        "Dear all,\n\n  the card is lost 🎉 again.\n\nBye",
        "我 card 🎉 bank 👩‍👩‍👧 loan",
    ],
)
def test_masks_keep_lines_indentation_and_what_the_model_does_not_know(family, text, request):
    variation = MaskedVariation(*request.getfixturevalue(family), CONFIG)
    assert variation.truncate(text) == text
    (varied,) = variation.vary([text], seed=1)
    assert varied != text

    def blanks(text):
        return re.findall(r"[^\S\n]*\n\s*", text)

    assert blanks(varied) == blanks(text)
    if family == "bert":
        assert [each for each in varied if ord(each) > 127] == [each for each in text if ord(each) > 127]


class Scripted:
    """An engine that is as long-winded as it is told, and keeps what it is asked."""

    def __init__(self, ending):
        self.ending, self.asked = ending, []

    def complete(self, prompts, max_new_tokens, seed, stop=None):
        self.asked += [(prompt, stop) for prompt in prompts]
        return [self.ending] * len(prompts)

    def answer(self, instructions, max_new_tokens, seed):
        self.asked += instructions
        return [self.ending] * len(instructions)

    def truncate(self, text, max_tokens):
        return text


def test_another_ending_begins_with_the_text_s_own_beginning():
    engine = Scripted(" next one\n    and more. So it ends.\nAnd so on and on\n" * 3)
    variation = PromptedVariation(engine, PrivateEvolutionConfig(epsilon=1, delta=1e-5, variation_steps=1))
    texts = ["我的银行卡昨天丢了，请问", "a lost card and a new loan", CODE]
    varied = variation.vary(texts, 0)
    stops = dict(engine.asked)
    for text, (prompt, new) in zip(texts, zip(stops, varied, strict=True), strict=True):
        share = len(words(prompt)) / len(words(text))
        assert text.startswith(prompt) and new.startswith(prompt) and 0.2 < share < 0.8
        assert stops[prompt] == (None if has_lines(text) else "\n")
    assert not has_lines(varied[1]) and varied[2].endswith("\n    and more.")


@pytest.mark.parametrize(("instruction", "quoted"), [('Rephrase "{text}".', False), ("Rephrase: {text}", True)])
def test_only_quotes_of_the_instruction_are_taken_off_an_answer(instruction, quoted):
    config = PrivateEvolutionConfig(epsilon=1, delta=1e-5, variation_steps=1, variation_prompt=instruction)
    text = "a lost card"
    (new,) = PromptedVariation(Scripted('"my card is\nlost"'), config).vary([text], 0)
    assert new == ('"my card is lost"' if quoted else "my card is lost")
    (new,) = PromptedVariation(Scripted("1. my card\n  is lost"), config).vary(["a\n lost card"], 0)
    assert new == "1. my card\n  is lost"


@pytest.mark.parametrize("text", [CODE, "a\r\nb", "\n  a\n b\n", "a \u2028b"])
def test_lines_are_kept_byte_for_byte(text):
    expected = {"a\r\nb": "a\nb", "a \u2028b": "a \nb"}.get(text, text)
    assert keep_lines(text) == expected and keep_lines(expected) == expected


def test_a_card_quotes_lines_and_breaks_no_character():
    assert _as_quote("a\n\tb\n\n===\n1. c") == "> a\\\n> &nbsp;&nbsp;&nbsp;&nbsp;b\\\n> \\\n> \\=\\=\\=\\\n> 1\\. c"
    assert _as_quote("👩‍👩‍👧" * 100) == f"> {'👩‍👩‍👧' * 60}\\.\\.\\."
    assert _as_quote("a\n" * 50).count("\n") == 19


SCRIPTS = {
    "Chinese": "我的银行卡昨天丢了，请问第{}步怎么办理？",
    "Japanese": "カードを{}枚なくしました。どうすればいいですか？",
    "Thai": "ผมทำบัตรหาย {} ใบเมื่อวานนี้ ต้องทำอย่างไรครับ",
    "Hindi": "मेरा कार्ड नंबर {} खो गया है। अब मुझे क्या करना चाहिए?",
    "Arabic": "فقدت بطاقتي رقم {} أمس، ماذا أفعل الآن؟",
    "Hebrew": "איבדתי את הכרטיס {} אתמול, מה לעשות?",
    "emoji": "lost {} cards 👩‍👩‍👧👍🏽🇩🇪 1️⃣ please help 🙏🏿",
    "mixed": "My 信用卡 {} बंद है، ماذا أفعل — 助けて🎉",
    "German": "3. Oktober: „Karte {} ist weg“, sagt Jürgen.",
    "code": "def f{}(n):\n\tif n:\n\n        return [n,\n                f(n - 1)]",
    "mail": "Dear all,\n\n  card {} is lost.\n\n- who knows?\n- who cares?\n\nBye",
}


class Echo:
    """An engine that writes the last text that a prompt shows again, with another number."""

    def complete(self, prompts, max_new_tokens, seed, stop=None):
        shown = [re.split(r"\n样本 [0-9]+\n", prompt)[-2] for prompt in prompts]
        new = [re.sub("[0-9]{3}", str(1000 + (seed + number) % 9000), text) for number, text in enumerate(shown)]
        return [f"{text}\n{stop}\n" for text in new]

    def answer(self, instructions, max_new_tokens, seed):
        raise AssertionError

    def truncate(self, text, max_tokens):
        return text


@pytest.mark.parametrize(
    "script",
    [each if each in {"mixed", "code", "mail"} else pytest.param(each, marks=pytest.mark.slow) for each in SCRIPTS],
)
def test_a_run_keeps_texts_byte_for_byte(script, tmp_path, reads_all):
    """From the public texts to seeds, synthetic texts, the saved dataset and its card."""
    pattern = SCRIPTS[script]
    public = [pattern.format(number) for number in range(100, 160)]
    texts = [pattern.format(number) for number in range(200, 224)]
    private = Dataset.from_dict({"client_id": [number // 2 for number in range(24)], "text": texts})
    config = PrivateEvolutionConfig(
        epsilon=8,
        delta=1e-3,
        num_rounds=2,
        population_size=24,
        seeds_per_prompt=2,
        list_title="列表",
        list_heading="样本",
    )
    generator = PrivateEvolutionGenerator(None, reads_all, Echo(), config=config, run_dir=tmp_path / "run")
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*unknown.*")
        synthetic = generator(private, public, num_samples=12)
    assert set(generator.seeds["text"]) <= set(public)
    assert {re.sub("[0-9]{4}", "{}", text) for text in synthetic["text"]} == {pattern}
    generator.save_pretrained(tmp_path / "saved")
    models = {"embedding_model": reads_all, "expansion_model": Echo()}
    again = PrivateEvolutionGenerator.from_pretrained(tmp_path / "saved", **models)
    assert again.seeds["text"][:] == generator.seeds["text"][:]
    assert again._synthetic["text"][:] == synthetic["text"][:]
    card = (tmp_path / "saved" / "README.md").read_text(encoding="utf-8")
    shown = card.replace("\\\n> ", "\n").replace("&nbsp;", " ")
    assert synthetic["text"][0].expandtabs(4) in re.sub(r"\\(.)", r"\1", shown)


def test_documents_of_a_thousand_tokens_are_candidates_vote_and_are_expanded(llama, reads_all):
    """They fit into a context of 4,096 tokens, and what is said after the first 64 tokens decides the votes."""
    tokenizer = llama[1]
    config = PrivateEvolutionConfig(
        epsilon=50,
        delta=1e-3,
        num_rounds=1,
        population_size=8,
        max_length=1024,
        max_new_tokens=1024,
        new_public_share=0,
        token_fraction=0.0,  # Another model than this one writes.
    )
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=4096, **SIZES)).eval()
    engine = LocalEngine(model, tokenizer, config)
    head = " ".join(random_texts(8))
    documents = [
        cut_to_tokens(tokenizer, f"{head}\n\n" + "\n".join(f"  {word} {m} {m + 500}." for m in range(500)), 1000)
        for word in ("garden", "card", "train", "music", "sleep", "loan", "ticket", "rain")
    ]
    assert all(900 < count_tokens(tokenizer, document) <= 1000 for document in documents)
    written, prompts = [f"{document} And more." for document in documents], []

    def complete(asked, max_new_tokens, seed, stop=None):
        prompts.extend(asked)
        engine.check_context(max(map(engine.count_tokens, asked)) + max_new_tokens)
        return [f"{written[(seed + n) % 8]}\n{stop}\n" for n in range(len(asked))]

    engine.complete = complete
    private = Dataset.from_dict({"client_id": list(range(40)), "text": [documents[1] + " again"] * 40})
    generator = PrivateEvolutionGenerator(None, reads_all, engine, config=config)
    synthetic = generator(private, documents, num_samples=3)
    votes = dict(zip(generator.seeds["text"], generator.seeds["votes"], strict=True))
    assert set(votes) <= set(documents) and max(votes, key=votes.get) == documents[1]
    assert set(synthetic["text"]) <= set(written)
    assert all(any(document.rstrip() in prompt for document in documents) for prompt in prompts)
