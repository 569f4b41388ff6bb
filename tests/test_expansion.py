import numpy as np
import pytest
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st

from conftest import random_texts
from hf_pretext.cleaning import clean_text, is_usable, whole_sentences
from hf_pretext.configuration import PrivateEvolutionConfig
from hf_pretext.expansion import Expander, SeedTexts, list_prompt, parse_list
from hf_pretext.models.local_engine import LocalEngine

CONFIG = PrivateEvolutionConfig(epsilon=1.0, delta=1e-5)


def embed(texts):
    """Texts without preferences are not judged, so nothing is embedded."""
    raise AssertionError


def test_prompt_is_the_paper_s():
    assert list_prompt(["one", "two\nlines", "three"], 1) == (
        "List of 6 diverse original text samples:\n"
        "Original Text Sample 1\none\n"
        "Original Text Sample 2\ntwo lines\n"
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
    ("written", "text"),
    [
        ('"Quoted."', "Quoted."),
        ('"One," he said, "two."', '"One," he said, "two."'),
        ("1. Numbered", "Numbered"),
        ("- Dash", "Dash"),
        ('A: "An answer."', "An answer."),
        ("Possible answer B: Another", "Another"),
        ("(b) A third", "A third"),
        ("A king: long live he", "A king: long live he"),
        ("two\n lines\t", "two lines"),
        ("'Tis mine", "'Tis mine"),
        ("3.5 is a number", "3.5 is a number"),
    ],
)
def test_what_is_around_a_text_is_taken_off(written, text):
    assert clean_text(written) == text


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
    config = PrivateEvolutionConfig(epsilon=1.0, delta=1e-5, seeds_per_prompt=20)
    with pytest.raises(ValueError, match="more than the 1024 that `expansion_model` reads"):
        Expander(LocalEngine(*llama, config), config, embed)


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
