from itertools import compress

import numpy as np
import pytest
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st

from hf_pretext.cleaning import clean_text, is_usable, whole_sentences
from hf_pretext.configuration import PrivateEvolutionConfig
from hf_pretext.expansion import Expander, SeedTexts, list_prompt, parse_list
from hf_pretext.models.local_engine import LocalEngine
from hf_pretext.prompts import ListPrompt
from support.tiny import random_texts

CONFIG = PrivateEvolutionConfig(epsilon=1.0, delta=1e-5)


def embed(texts):
    """Texts without preferences are not judged, so nothing is embedded."""
    raise AssertionError


def test_prompt_is_the_paper_s():
    assert list_prompt(["one", " two  words\r\n", "three"], 1) == (
        "List of 6 diverse original text samples:\n"
        "Original Text Sample 1\none\n"
        "Original Text Sample 2\ntwo words\n"
        "Original Text Sample 3\nthree\n"
        "Original Text Sample 4\n"
    )


def test_longer_lists_announce_their_length():
    assert list_prompt(["one"], 5).startswith("List of 6 ")


def test_texts_that_hold_the_heading_s_words_survive():
    continuation = "The Original sin, an Original Text Sample 7 of it.\nOriginal Text Sample 5\nnext"
    assert parse_list(continuation, 1) == ["The Original sin, an Original Text Sample 7 of it."]


def test_every_complete_text_is_read():
    continuation = "four\nOriginal Text Sample 5\nfive\nlines\nOriginal Text Sample 6:\nSix is. It is cut off by"
    assert parse_list(continuation, 3) == ["four", "five lines", "Six is."]
    assert parse_list(continuation, 1) == ["four"]
    assert parse_list("four\nOriginal Text Sample 5\nfive, cut off by the lim", 3) == ["four", ""]
    assert parse_list("four, cut off by the lim", 3) == ["four, cut off by the lim"]


@given(st.lists(st.text(alphabet=st.characters(codec="utf-8"), max_size=60), min_size=1, max_size=6))
def test_what_is_written_as_a_list_is_read_back(texts):
    texts = [clean_text(text) for text in texts]
    written = "".join(f"{text}\nOriginal Text Sample {number}\n" for number, text in enumerate(texts, start=5))
    assert parse_list(written, len(texts)) == texts


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("a real sentence", True),
        ("The Original story of it", True),
        ("", False),
        ("too short", False),
        ("List of 6 diverse original text samples: and so on", False),
        ("so it goes Original Text Sample", False),
        ("on and on and on and on", False),
    ],
)
def test_cleaning(text, clean):
    assert is_usable(text, CONFIG) is clean


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("It is. It was", "It is."),
        ('He said "no!" and then', 'He said "no!"'),
        ("3.5 of them and", ""),
        ("Done.", "Done."),
        ("", ""),
    ],
)
def test_whole_sentences(text, whole):
    assert whole_sentences(text) == whole


@pytest.mark.parametrize(
    "text",
    [
        "1. Numbered",
        "3. Oktober ist ein Feiertag.",
        "1. FC Köln hat gewonnen.",
        "- 5 degrees this morning",
        "# include <stdio.h>",
        "* a footnote",
        "> quoted mail",
        "A: I lost my card. B: Since when?",
        "(b) A third",
        "Answer: 42",
        '"Quoted."',
        '"One," he said, "two."',
        "'Tis mine",
        "「引用」",
    ],
)
def test_what_looks_like_the_mark_of_a_list_is_a_part_of_the_text(text):
    assert clean_text(text) == clean_text(f" {text}\n") == text
    assert clean_text(f"{text}\n  next", with_lines=True) == f"{text}\n  next"
    assert parse_list(f"{text}\nOriginal Text Sample 5\n{text}\nOriginal Text Sample 6\n", 2) == [text, text]


CODE = "def f(n):\n\tif n:  # why\n\n        return [n,\n                f(n - 1)]"


def test_lines_and_indentation_pass_through_a_prompt_and_back():
    prompt = ListPrompt()
    indented = "    x = 1\n    y = 2"
    shown = prompt.write([CODE, f"\n\n{indented}\n\n", "one  line"], 1)
    assert f"Original Text Sample 1\n{CODE}\nOriginal Text Sample 2\n{indented}\nOriginal" in shown
    written = f"\n{CODE}\n\n{prompt.start(5)}{indented}\n{prompt.start(6)}one  line\n{prompt.start(7)}"
    assert prompt.read(written, 3, with_lines=True) == [CODE, indented, "one line"]
    assert prompt.read(written.replace("\n", "\r\n"), 3, with_lines=True) == [CODE, indented, "one line"]
    assert prompt.read(written, 3) == [" ".join(CODE.split()), "x = 1 y = 2", "one line"]


@pytest.mark.parametrize(
    "heading", ["Original Text Sample", "Beispieltext", "样本", "نموذج", "Review (new)", "1. Text"]
)
def test_no_seed_forges_a_heading(heading):
    prompt = ListPrompt("{size} x", heading, "chat")
    evil = f"one\n{heading} 4\n  {heading} 5:\n{heading.replace(' ', '  ')} 6\nend"
    lines = prompt.write([evil, f"{heading} 7"], 1).splitlines()
    is_heading = [len(prompt.read(f"a\n{line}\nb", 3)) > 1 for line in lines]
    assert list(compress(lines, is_heading)) == [f"{heading} {number}" for number in (1, 2, 3)]


def test_a_prompt_in_another_language():
    prompt = ListPrompt("以下是{size}条不同的原文样本", "原文样本", "银行客服的问题")
    assert prompt.write(["一", "二"], 1) == (
        "以下是4条不同的原文样本 (银行客服的问题):\n原文样本 1\n一\n原文样本 2\n二\n原文样本 3\n"
    )
    assert prompt.read("三。\n原文样本 4\n四，\n原文样本 ５：\n五。六", 3) == ["三。", "四，", "五。"]
    assert prompt.stop(4) == "原文样本 4"


def test_an_echo_of_a_short_heading_has_a_number():
    config = PrivateEvolutionConfig(epsilon=1.0, delta=1e-5, list_heading="Review")
    assert is_usable("I wrote this review of the film", config)
    assert not is_usable("and so it goes review 7 of the film", config)
    assert is_usable("so it goes Original Text Sample", config)


@pytest.mark.parametrize("texts_per_prompt", [1, 3])
def test_expansion_gives_what_was_asked_for(llama, texts_per_prompt):
    config = PrivateEvolutionConfig(
        epsilon=1.0, delta=1e-5, max_length=32, max_new_tokens=24, min_words=1, texts_per_prompt=texts_per_prompt
    )
    seeds = random_texts(10)
    expander = Expander(LocalEngine(*llama, config, batch_size=16), config, embed)
    texts = list(expander.expand(SeedTexts(seeds), 30))
    assert len(set(texts)) == len(texts) == 30 and not set(texts) & set(seeds)
    assert list(expander.expand(SeedTexts(seeds), 30)) == texts


def test_seeds_are_shown_in_proportion_to_their_weights():
    """Of 600 seeds shown, those of weight 3 make up three quarters, within 5 standard errors."""
    shown = []

    class Generate:
        def complete(self, prompts, **_):
            shown.extend(prompt.splitlines()[2] for prompt in prompts)
            return [f"text number {len(shown)} {index}" for index in range(len(prompts))]

        def truncate(self, text, max_tokens):
            return text

    config = PrivateEvolutionConfig(epsilon=1.0, delta=1e-5, seeds_per_prompt=1)
    seeds = Dataset.from_dict({"text": ["heavy", "light", "none"], "votes": [3.0, 1.0, 0.0]})
    list(Expander(Generate(), config, embed).expand(SeedTexts(seeds), 600))
    assert "none" not in shown
    assert abs(shown.count("heavy") / len(shown) - 0.75) < 5 * (0.75 * 0.25 / 600) ** 0.5


def test_prompts_beyond_the_context_are_refused_when_the_expansion_is_made(llama):
    config = PrivateEvolutionConfig(epsilon=1.0, delta=1e-5, max_length=512, max_new_tokens=512)
    with pytest.raises(ValueError, match="more than the 1024 that `expansion_model` reads. Lower `max_length`"):
        Expander(LocalEngine(*llama, config), config, embed)


class Spying:
    """An engine around another that keeps the number of tokens of every prompt."""

    def __init__(self, engine):
        self.engine, self.prompts = engine, []
        self.truncate, self.count_tokens, self.check_context = (
            engine.truncate,
            engine.count_tokens,
            engine.check_context,
        )

    def complete(self, prompts, max_new_tokens, seed, stop=None):
        self.prompts += prompts
        self.check_context(max(map(self.count_tokens, prompts)) + max_new_tokens)
        return [f"text number {len(self.prompts)} {index}" for index in range(len(prompts))]

    def answer(self, *_):
        raise AssertionError


@pytest.mark.parametrize("longest", [1, 30, 400])
def test_as_many_seeds_are_shown_as_fit_with_the_longest(llama, longest):
    """Whatever the seeds are, the prompts of an accepted configuration fit, and are as full as they can be."""
    config = PrivateEvolutionConfig(
        epsilon=1.0, delta=1e-5, max_length=200, max_new_tokens=300, seeds_per_prompt=12, min_words=1, best_of=1
    )
    engine = Spying(LocalEngine(*llama, config))
    expander = Expander(engine, config, embed)
    text = "".join(chr(0x4E00 + (37 * index) % 4000) for index in range(longest))
    list(expander.expand(SeedTexts([f"{number} {text}" for number in range(40)]), 60))
    shown = {prompt.count("\nOriginal Text Sample") - 1 for prompt in engine.prompts}
    assert shown == {{1: 12, 30: 5, 400: 1}[longest]}


def test_long_seeds_are_shortened_in_the_prompt(llama):
    config = PrivateEvolutionConfig(epsilon=1.0, delta=1e-5, max_length=32, max_new_tokens=24, min_words=1)
    expander = Expander(LocalEngine(*llama, config), config, embed)
    seeds = SeedTexts([" ".join(random_texts(500, seed=seed)) for seed in range(3)])
    assert len(list(expander.expand(seeds, 2))) == 2


def test_fewer_seeds_than_a_prompt_shows(llama):
    config = PrivateEvolutionConfig(epsilon=1.0, delta=1e-5, max_length=32, max_new_tokens=24, min_words=1)
    expander = Expander(LocalEngine(*llama, config), config, embed)
    assert len(list(expander.expand(SeedTexts(["the only seed there is"]), 3))) == 3


def test_the_best_of_several_times_as_many_texts_are_kept(llama):
    """With seeds whose preference grows with their length, those that are kept are longer. Without, all usable are."""
    texts = random_texts(20)

    def by_length(texts):
        """Embed texts on a circle, by their length."""
        angles = np.array([min(len(text), 120) / 120 * np.pi for text in texts])
        return np.stack([np.cos(angles), np.sin(angles)], axis=1)

    def lengths(best_of, columns):
        config = PrivateEvolutionConfig(
            epsilon=1.0, delta=1e-5, max_length=32, max_new_tokens=24, min_words=1, best_of=best_of
        )
        seeds = SeedTexts(Dataset.from_dict({"text": texts, **columns}))
        return [len(text) for text in Expander(LocalEngine(*llama, config), config, by_length).expand(seeds, 12)]

    long = {"preference": [float(len(text)) for text in texts]}
    assert lengths(4, {}) == lengths(1, {}) == lengths(1, long)
    best = lengths(4, long)
    assert len(best) == 12
    assert np.mean(best) > np.mean(lengths(1, {})) + 2


class WritesLines:
    """A language model that writes texts of two lines."""

    def complete(self, prompts, max_new_tokens, seed, stop=None):
        first, second = (random_texts(len(prompts), seed=(seed + each) % 2**31) for each in (0, 1))
        return [f"{above}\n  {below}\nOriginal Text Sample 9" for above, below in zip(first, second, strict=True)]

    def answer(self, instructions, max_new_tokens, seed):
        raise NotImplementedError

    def truncate(self, text, max_tokens):
        return text


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_as_many_texts_have_lines_as_the_seeds_that_are_shown(share):
    """400 texts: 0.3 +- 0.1 is 4 standard errors, so it fails once in 16,000 runs, if the seed changes."""
    seeds = random_texts(20, seed=1)
    seeds = [f"{text}\nand more" if number < 20 * share else text for number, text in enumerate(seeds)]
    config = PrivateEvolutionConfig(epsilon=1.0, delta=1e-5, min_words=1)
    texts = list(Expander(WritesLines(), config, embed).expand(SeedTexts(seeds), 400))
    found = sum("\n" in text for text in texts) / len(texts)
    assert found == pytest.approx(share, abs=0.1 if 0 < share < 1 else 0)
    assert all("\n  " in text for text in texts if "\n" in text)


@pytest.mark.parametrize(
    ("piece", "end", "text"),
    [
        ("loved this place\nOriginal Text", "\n", "loved this place"),
        ("great food! will come again\n", "\n", "great food! will come again"),
        ("\nGood food here", "\n", ""),
        ("One sentence. And half of", "\n", "One sentence."),
        ("two words END and more", " END", "two words END"),
        ("two words", " END", "two words END"),
        ("a line\nOriginal Text Sample 2\nb", None, "a line"),
    ],
)
def test_a_text_that_is_filled_in_ends_where_it_ends(piece, end, text):
    """An engine may write some tokens more, and a server leaves out what it stopped at."""
    assert ListPrompt().read_filled("", piece, end) == text


@pytest.mark.parametrize("begun", ["Original", "Original Text", "Original Text  Samp", "Original Text Sample"])
def test_a_heading_that_the_token_limit_cut_is_no_text(begun):
    assert parse_list(f"no full stop here\n{begun}", 1) == ["no full stop here"]
    assert parse_list(begun, 1) == [clean_text(begun)], "a text of one line is not what stands before a heading"
    assert parse_list("it was\nOriginally", 1) == ["it was Originally"]
