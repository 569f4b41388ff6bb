"""The candidates of all rounds: never more than the plan accounts for."""

from contextlib import nullcontext
from itertools import product

import numpy as np
import pytest

from hf_pretext import PrivateEvolutionConfig, PrivateEvolutionGenerator
from hf_pretext.evolution.population import Population, Tools
from hf_pretext.evolution.selection import resample, selection_rule
from hf_pretext.privacy import Plan, PrivacyLedger
from hf_pretext.runs.run import Run
from support.tiny import random_texts

SIZE = 16


def vary(texts, seed):
    return [f"{text} {seed % 1000} {number}" for number, text in enumerate(texts)]


def embed(texts):
    return np.eye(4, dtype=np.float32)[[len(text) % 4 for text in texts]]


@pytest.mark.parametrize(
    ("keep_survivors", "new_public_share", "lookahead", "num_public"),
    product((False, True), (0.0, 0.5, 1.0), (0, 2), (10, SIZE, 20, 400)),
)
def test_no_setting_makes_more_candidates_than_are_accounted_for(
    keep_survivors, new_public_share, lookahead, num_public
):
    """Whether few candidates survive or all of them."""
    settings = {"keep_survivors": keep_survivors, "new_public_share": new_public_share, "lookahead": lookahead}
    config = PrivateEvolutionConfig(
        epsilon=3.0, delta=1e-5, population_size=SIZE, num_rounds=6, reuse_lookahead=lookahead > 0, **settings
    )
    rng, ledger = np.random.default_rng(0), PrivacyLedger(Plan.from_config(config))
    public = list(dict.fromkeys(random_texts(3 * num_public, seed=1)))[:num_public]
    run, tools = Run(1, config, ledger), Tools(vary, str, embed, list)
    with pytest.warns(UserWarning, match="fewer than `population_size`") if num_public < SIZE else nullcontext():
        population = Population(run, public, tools, selection_rule(None, config), config)
        texts = population.initial
    for number in range(1, config.num_rounds + 1):
        assert 0 < len(texts[0]) <= SIZE
        candidates = population.represent(texts, number)
        weights = rng.random(len(texts[0])) ** (1 if number % 2 else 50)
        texts = population.next(candidates, resample(weights, SIZE, rng), rng)


class Generous:
    """A variation operator of the caller that makes two variations of each text."""

    def vary(self, texts, seed):
        return [variation for text in texts for variation in (f"{text} again", f"{text} and again")]


@pytest.mark.parametrize("lookahead", [0, 1])
def test_a_variation_model_that_makes_too_many_is_refused_before_counting(private, sentence_transformer, lookahead):
    config = PrivateEvolutionConfig(
        noise_multiplier=1.0, delta=1e-3, population_size=SIZE, new_public_share=0.0, lookahead=lookahead
    )
    generator = PrivateEvolutionGenerator(Generous(), sentence_transformer, config=config)
    with pytest.raises(ValueError, match=r"`variation_model` made 32 variations of 16 texts.*Nothing was spent"):
        generator.evolve(private, initial_population=random_texts(60, seed=2))
    # With lookahead the first round comes after a variation, and without it before one.
    assert [each.num_bins for each in generator.ledger.releases] == ([] if lookahead else [SIZE])
