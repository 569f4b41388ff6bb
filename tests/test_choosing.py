"""Which of the written texts are kept: by their tokens together, and by how good each is."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_token_tilt import answer_of, embed, frequencies

from hf_pretext.choosing import chooser
from hf_pretext.evolution import matching
from hf_pretext.evolution.matching import match_mean, match_tokens
from hf_pretext.expansion import Expander, SeedTexts
from hf_pretext.models.local_engine import LocalEngine
from hf_pretext.tilting import choose_alike
from support.tiny import random_texts


def made(seed, number=60, num_tokens=40):
    """Counts of tokens, lengths of texts, and what fractions the tokens should have."""
    rng = np.random.default_rng(seed)
    usual = rng.dirichlet(np.ones(num_tokens))
    lengths = rng.integers(1, 30, number)
    counts = np.array([rng.multinomial(length, usual) for length in lengths])
    target = usual * np.exp(0.5 * rng.normal(size=num_tokens))
    return counts, lengths, target / target.sum(), rng.normal(size=number)


def distance(counts, lengths, target, chosen):
    usual = np.maximum(counts.sum(axis=0), matching.RAREST) / lengths.sum()
    return float(((counts[chosen].sum(axis=0) / lengths[chosen].sum() - target) ** 2 / usual).sum())


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**32 - 1), st.integers(1, 60))
def test_no_exchange_of_two_texts_would_help(seed, number):
    counts, lengths, target, preference = made(seed)
    chosen = match_tokens(counts, lengths, target, preference, number)
    assert len(chosen) == len(set(chosen)) == number and (np.diff(chosen) > 0).all()
    ranks = np.argsort(np.argsort(preference))
    value = matching.TOKENS_WEIGHT * (ranks - ranks.mean()) / ranks.std() / number

    def worth(some):
        return value[some].sum() - distance(counts, lengths, target, some)

    best = worth(chosen)
    assert best >= worth(np.argsort(-preference)[:number]) - 1e-9
    others = np.setdiff1d(np.arange(len(counts)), chosen)
    for leaves, enters in itertools.islice(itertools.product(range(number), others), 300):
        assert worth(np.append(np.delete(chosen, leaves), enters)) <= best + 1e-8


def test_tokens_come_nearer_to_their_goal_than_by_preference_or_by_chance():
    counts, lengths, target, preference = made(0, number=400)
    chosen = match_tokens(counts, lengths, target, preference, 200)
    by_preference, by_chance = np.argsort(-preference)[:200], np.arange(200)
    others = min(distance(counts, lengths, target, each) for each in (by_preference, by_chance))
    assert distance(counts, lengths, target, chosen) < 0.5 * others


def test_of_texts_with_equal_tokens_the_preferred_ones_are_kept():
    counts, lengths = np.full((20, 3), 2), np.full(20, 8)
    preference = np.random.default_rng(0).permutation(20).astype(float)
    chosen = match_tokens(counts, lengths, np.array([0.9, 0.05, 0.05]), preference, 5)
    assert set(chosen) == set(np.argsort(-preference)[:5])


def test_without_any_token_or_preference_the_first_are_kept():
    """Texts without one of the tokens, or of no token at all, can be chosen among as well."""
    nothing = np.zeros((6, 4), dtype=int)
    for lengths, number in ((np.full(6, 5), 3), (np.ones(6), 3), (np.zeros(6), 3), (np.zeros(6), 1)):
        chosen = match_tokens(nothing, lengths, np.full(4, 0.1), np.zeros(6), number)
        assert chosen.tolist() == list(range(number))


def test_few_texts_are_chosen_by_what_the_clients_hold_and_not_by_the_tilt_twice(llama, config, monkeypatch):
    """Written texts that hold the tokens as often as the clients do are right as they are, however few they are."""
    answer = answer_of(llama[1], counts=np.full((1, 20), 200.0))
    aims = []

    def spy(counts, lengths, target, preference, number):
        aims.append(target)
        return match_tokens(counts, lengths, target, preference, number)

    monkeypatch.setattr("hf_pretext.tilting.match_tokens", spy)
    texts = [
        LocalEngine(*llama, config)._tokenizer.decode(np.random.default_rng(row).permutation(20)[:10] + 40)
        for row in range(8)
    ]
    choose_alike(LocalEngine(*llama, config), answer, 0, texts, np.zeros(8), 4)
    assert aims[0].max() < 1.5 * aims[0].min()


@pytest.fixture
def config(config):
    return replace(config, token_fraction=0.25, min_words=1)


def test_what_is_kept_holds_the_tokens_of_the_clients_more_nearly(llama, config):
    """The tilt is the same. Of twice as many texts, those are kept that add up."""
    model, tokenizer = llama
    answer, goal = answer_of(tokenizer), np.linspace(20, 400, 20)

    def error(best_of):
        own = replace(config, best_of=best_of)
        expander = Expander(LocalEngine(model, tokenizer, own), own, embed)
        found = frequencies(list(expander.expand(SeedTexts(random_texts(30)), 60, answer=answer)), tokenizer)
        share = found[answer.tokens] / found[answer.tokens].sum()
        return float(((share - goal / goal.sum()) ** 2).sum())

    assert error(4) < 0.6 * error(1)


def test_many_texts_are_chosen_among_in_parts(llama, config, monkeypatch):
    """All products of many thousands of texts would not fit into memory."""
    monkeypatch.setattr(matching, "AT_ONCE", 16)
    engine, texts = LocalEngine(*llama, config), random_texts(50)
    chosen = choose_alike(engine, answer_of(llama[1]), 0, texts, np.zeros(50), 23)
    assert len(chosen) == len(set(chosen)) == 23 and chosen == sorted(chosen)
    assert all(3 <= sum(start <= each < start + 12 for each in chosen) for start in (0, 13, 26, 38))


def test_a_text_that_fits_another_label_is_never_kept(llama, config):
    engine, texts = LocalEngine(*llama, config), random_texts(12)
    values = np.where(np.arange(12) % 4 == 0, 1.0, -np.inf)

    def embed(some):
        return np.zeros((len(some), 2))

    for best_of in (2, 6):
        choose = chooser(best_of, lambda _: values, engine, answer_of(llama[1]), 0, None, embed)
        chosen = choose(texts)
        assert len(chosen) == min(3, 12 // best_of) and set(chosen) <= {0, 4, 8}
    assert chooser(1, lambda _: values, engine, answer_of(llama[1]), 0, None, embed) is None
    assert chooser(3, None, engine, None, 0, None, embed) is None


def unit_rows(rng, number, width=8):
    points = rng.normal(size=(number, width)) + 1.0
    return points / np.linalg.norm(points, axis=1, keepdims=True)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**32 - 1), st.integers(1, 40))
def test_the_mean_of_what_is_kept_cannot_be_brought_nearer_by_one_exchange(seed, number):
    rng = np.random.default_rng(seed)
    points, goal = unit_rows(rng, 40), unit_rows(rng, 20).mean(axis=0)
    chosen = match_mean(points, goal, np.zeros(40), number)
    assert len(chosen) == len(set(chosen)) == number and (np.diff(chosen) > 0).all()

    def distance_of(some):
        return float(((points[some].mean(axis=0) - goal) ** 2).sum())

    for leaves, enters in itertools.product(range(number), np.setdiff1d(np.arange(40), chosen)):
        assert distance_of(np.append(np.delete(chosen, leaves), enters)) >= distance_of(chosen) - 1e-8


def test_texts_are_kept_whose_mean_is_that_of_the_clients(llama, config):
    """Without counts of tokens. The preference breaks ties only: alone, it would keep texts of one kind."""
    rng, texts = np.random.default_rng(0), [f"text {number}" for number in range(60)]
    points = dict(zip(texts, unit_rows(rng, 60), strict=True))
    goal, values = unit_rows(rng, 30).mean(axis=0), rng.normal(size=60)

    def embed_rows(some):
        return np.array([points[text] for text in some])

    engine = LocalEngine(*llama, config)
    kept, preferred = (
        [texts[index] for index in chooser(2, lambda _: values, engine, None, 0, mean, embed_rows)(texts)]
        for mean in (goal, None)
    )
    errors = [float(((embed_rows(some).mean(axis=0) - goal) ** 2).sum()) for some in (kept, preferred)]
    assert len(kept) == len(preferred) == 30 and errors[0] < 0.2 * errors[1]
