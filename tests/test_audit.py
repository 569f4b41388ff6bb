import json
import math
from dataclasses import replace

import numpy as np
import pytest
from datasets import Dataset
from scipy.stats import nct, ttest_ind

from hf_pretext import PrivateEvolutionConfig
from hf_pretext.audit import (
    AuditedGenerator,
    Released,
    Targets,
    canary_scores,
    epsilon_lower_bound,
    make_canaries,
    mu_interval,
    mu_lower_bound,
    ngram_scores,
    read_audit,
    read_audit_scores,
    read_mu,
    read_scores,
    sample_targets,
    similarity_scores,
    vote_scores,
)
from hf_pretext.audit.attacks import _memberships
from hf_pretext.audit.canaries import canary_samples
from hf_pretext.audit.primary import effects, own_directions
from hf_pretext.audit.verdict import confidence_of_each
from hf_pretext.clients.questions import NearestCandidates
from hf_pretext.clients.samples import quantize_embeddings
from hf_pretext.privacy import Plan
from hf_pretext.privacy.mechanism import Mechanism
from support.guarantee_audit import audit_power
from support.tiny import random_texts


@pytest.mark.parametrize(
    ("correct", "guesses", "delta", "golden"),
    [
        # All right: the success probability is at most the confidence's root, so epsilon >= logit(0.05^(1/100)).
        (100, 100, 0.0, math.log(0.05 ** (1 / 100) / (1 - 0.05 ** (1 / 100)))),
        (50, 100, 0.0, 0.0),
        # P[Binomial(100, p) >= 70] = 0.05 at p = 0.615456.
        (70, 100, 0.0, 0.470),
    ],
)
def test_golden_bounds(correct, guesses, delta, golden):
    assert epsilon_lower_bound(correct, guesses, 100, delta) == pytest.approx(golden, abs=2e-3)


def test_delta_and_abstention_cost():
    plain = epsilon_lower_bound(95, 100, 100, 0.0)
    assert epsilon_lower_bound(95, 100, 100, 1e-4) < plain
    assert epsilon_lower_bound(95, 100, 10_000, 1e-4) < epsilon_lower_bound(95, 100, 100, 1e-4)
    with pytest.raises(ValueError, match="`num_correct`=3, `num_guesses`=2"):
        epsilon_lower_bound(3, 2, 5, 0.0)


def test_bounds_hold_for_randomised_response():
    """Guesses that are right with exactly the probability that epsilon = 1 allows; false-alarm rate below 1e-6.

    At 95 % confidence at most 50 of 1,000 bounds are expected above 1; more than 90 have a probability below 1e-7.
    """
    rng = np.random.default_rng(0)
    correct = rng.binomial(200, math.e / (1 + math.e), size=1000)
    bounds = [epsilon_lower_bound(int(number), 200, 200, 0.0) for number in correct]
    assert sum(bound > 1 for bound in bounds) <= 90 and np.median(bounds) > 0.6


def test_a_reading_pays_for_the_numbers_of_guesses_that_it_tried():
    """Scores without any information: of 400 readings at 95 %, more than 45 with a bound above 0 are below 1e-5."""
    rng = np.random.default_rng(1)
    readings = [read_scores("x", rng.normal(size=80), rng.random(80) < 0.5, 0.0) for _ in range(400)]
    assert sum(reading.epsilon_lower_bound > 0 for reading in readings) <= 45
    assert 0.4 < np.mean([reading.auc for reading in readings]) < 0.6
    perfect = read_scores("x", np.arange(80.0), np.arange(80) >= 40, 0.0)
    assert (perfect.num_correct, perfect.num_guesses, perfect.auc) == (80, 80, 1.0)
    # Equal scores say nothing, in whatever order the targets come.
    assert read_scores("x", np.zeros(80), np.arange(80) >= 40, 0.0).epsilon_lower_bound < 0.5


def test_mu_of_a_gaussian_is_bounded_and_nearly_reached():
    rng = np.random.default_rng(2)
    bound = mu_lower_bound(rng.normal(1.0, 1, 20_000), rng.normal(0.0, 1, 20_000))
    assert 0.9 < bound < 1.0
    assert mu_lower_bound(rng.normal(size=5000), rng.normal(size=5000)) < 0.05


def test_canaries_are_different_texts_and_come_back():
    assert len(set(make_canaries(300))) == 300 and make_canaries(5) == make_canaries(5)
    assert set(make_canaries(5)).isdisjoint(make_canaries(5, seed=1))


def test_enlisting_leaves_out_those_whose_coins_fell_so(private, config):
    audited, targets = sample_targets(private, config, num_canaries=40, client_share=0.5)
    assert targets.is_canary.sum() == 40 and len(targets.texts) == 46
    assert all(len(own) == config.max_samples_per_client for own in targets.texts[:40])
    there = set(audited["text"])
    for own, is_member in zip(targets.texts, targets.is_member, strict=True):
        assert all((text in there) == is_member for text in own)
    again = sample_targets(private, config, num_canaries=40, client_share=0.5)
    assert again[1].texts == targets.texts and (again[1].is_member == targets.is_member).all()
    with pytest.raises(ValueError, match="leave no one to audit"):
        sample_targets(private, config, num_canaries=0, client_share=0.0)


@pytest.mark.parametrize(("scores", "members"), [(60, 30), (300, 170)])
def test_the_interval_of_mu_inverts_the_noncentral_t_distribution(scores, members):
    values, is_member = np.random.default_rng(3).normal(size=scores), np.arange(scores) < members
    values[is_member] += 1.0
    mu, low, high = mu_interval(values, is_member, 0.975)
    observed = ttest_ind(values[is_member], values[~is_member]).statistic
    error = math.sqrt(1 / members + 1 / (scores - members))
    assert mu == pytest.approx(observed * error) and low < mu < high
    assert nct.sf(observed, scores - 2, low / error) == pytest.approx(0.025, abs=2e-4)
    assert nct.cdf(observed, scores - 2, high / error) == pytest.approx(0.025, abs=2e-4)


def test_the_interval_of_mu_covers_it_as_often_as_it_says():
    """Few targets, where an approximation would fail. Of 1,000, more than 50 misses on a side are below 1e-5."""
    rng = np.random.default_rng(4)
    misses = np.zeros(2)
    for _ in range(1000):
        is_member = rng.random(12) < 0.5
        if 2 <= is_member.sum() <= 10:
            _, low, high = mu_interval(rng.normal(size=12) + 0.8 * is_member, is_member, 0.975)
            misses += low > 0.8, high < 0.8
    assert (misses <= 50).all() and (misses >= 5).all()


def test_scores_without_noise_have_a_large_mu_and_equal_ones_have_none():
    is_member = np.arange(40) < 20
    assert mu_interval(is_member.astype(float), is_member, 0.975)[1] > 5
    assert mu_interval(np.ones(40), is_member, 0.975)[:2] == (0.0, 0.0)
    with pytest.raises(ValueError, match="`is_member` has 1 members and 39 others"):
        mu_interval(np.ones(40), np.arange(40) < 1, 0.975)


def test_directions_are_orthonormal_and_dependent_canaries_have_none():
    rng = np.random.default_rng(5)
    alike = rng.normal(size=(30, 12)) + 3 * rng.normal(size=(30, 1))
    alike[:, 7] = alike[:, 2] / 2
    alike[:, 9] = 0
    directions = own_directions(alike)
    expected = np.diag([float(column not in (7, 9)) for column in range(12)])
    np.testing.assert_allclose(directions.T @ directions, expected, atol=1e-9)
    apart = np.eye(5)[:, [3, 1]] * 4
    np.testing.assert_array_equal(own_directions(apart), apart / 4)
    assert np.count_nonzero(own_directions(rng.normal(size=(4, 9))).any(axis=0)) == 4


def audited_run(canaries, members, private, models, config, **arguments):
    """Run a generator with canaries, of which some are clients."""
    rows = [{"client_id": f"canary {each}", "text": canaries[each]} for each in members]
    generator = AuditedGenerator(canaries, config=config, **models, **arguments)
    generator.evolve(Dataset.from_list([*private, *rows]), initial_population=random_texts(90, seed=2))
    return generator


@pytest.fixture
def models(bert, sentence_transformer):
    return {"variation_model": bert, "embedding_model": sentence_transformer}


def no_noise(scale, size):
    return np.zeros(size, dtype=np.int64)


@pytest.mark.parametrize("settings", [{}, {"votes_per_sample": 4, "lookahead": 0}, {"vote_clipping": "count"}])
def test_canaries_add_to_every_release_what_the_audit_says(models, config, settings):
    """Without noise and other clients, an answer is the sum of the members' effects, to the unit."""
    config = replace(config, mean_fraction=0.2, num_rounds=3, keep_survivors=True, **settings)
    canaries = make_canaries(20)
    generator = audited_run(canaries, range(0, 20, 3), [], models, config, noise=no_noise)
    released = generator.released
    assert [each.question.name for each in released] == ["mean_embedding", "votes", "votes", "votes"]
    samples = canary_samples(canaries, generator.embed, 1)  # One text per client here.
    for question, mechanism, answer in released:
        np.testing.assert_array_equal(effects(question, samples, mechanism)[:, ::3].sum(axis=1), answer)


def test_canaries_are_candidates_of_every_round_beside_as_many_others(models, config, private, tmp_path):
    config = replace(config, num_rounds=3, lookahead=0)
    canaries = make_canaries(20)
    generator = audited_run(canaries, range(10), private, models, config, run_dir=tmp_path)
    votes = [release for release in generator.ledger.releases if release.question == "votes"]
    assert len(votes) == 3 and all(20 + 2 <= release.num_bins <= 20 + config.population_size for release in votes)
    assert votes[0].num_bins == 20 + config.population_size
    points = generator.embed(canaries)
    for question, _, _ in generator.released:
        np.testing.assert_array_equal(question.candidates[:20], quantize_embeddings(points))
    report = generator.privacy_report
    assert report.is_finite and report.epsilon <= config.epsilon, "pool, ledger and noise are those of every run"
    assert set(canaries).isdisjoint(generator.initial_population)
    # The run is read again from its folder, without any client or release.
    again = audited_run(canaries, [], private, models, config, run_dir=tmp_path)
    assert again.ledger.releases == generator.ledger.releases
    for one, other in zip(generator.released, again.released, strict=True):
        assert one.question.fingerprint() == other.question.fingerprint() and (one.answer == other.answer).all()


@pytest.mark.parametrize("votes_per_sample", [1, 16])
@pytest.mark.parametrize("noise", [True, False])
def test_a_run_without_noise_is_refuted_and_one_with_noise_is_not(models, config, private, noise, votes_per_sample):
    """With noise, a claim that holds is refuted once in a million times."""
    settings = replace(
        config, epsilon=1.0, votes_per_sample=votes_per_sample, lookahead=0, population_size=40, max_length=64
    )
    audited, targets = sample_targets(private, settings, num_canaries=120, client_share=0.5)
    arguments = {} if noise else {"noise": no_noise}
    generator = AuditedGenerator(targets.canaries, config=settings, **models, **arguments)
    generator.evolve(audited, initial_population=random_texts(60, seed=2))
    plan, released, coins = generator.ledger.plan, generator.released, targets.is_member[targets.is_canary]
    others = {"votes": (vote_scores(released, targets, generator.embed), targets.is_member)}
    confidence = 1 - 1e-6 if noise else 0.95
    audit = read_audit(plan, released, generator.canary_samples, coins, others, confidence)
    assert bool(audit.refuting) is not noise and audit.primary.is_refuted is not noise
    assert audit.verdict.startswith(
        "Not refuted. The run claims epsilon 1 at" if noise else "Refuted. The run claims epsilon 1 at"
    )
    assert audit.table.count("\n| ") == 5 and audit.kinds == ()
    assert json.loads(json.dumps(audit.to_dict()))["refuted_by"] == [name for name, _, _ in audit.refuting]


def scores_of(rng, plan, coins, factor=1.0):
    """Simulate the canaries' scores by each kind of question, with a factor on the noise that is claimed."""
    scores = {}
    for entry in plan.releases:
        noise = factor * entry.mechanism.noise_std
        scores[entry.question] = sum(
            (coins + rng.normal(0, noise, len(coins))) / entry.mechanism.noise_std**2 for _ in range(entry.count)
        )
    return scores


@pytest.mark.parametrize("relation", ["add_or_remove_one", "replace_one"])
def test_each_kind_of_question_and_all_together_are_held_against_the_plan(relation):
    """Three readings within five standard errors: false alarms below 2e-6."""
    config = PrivateEvolutionConfig(epsilon=6.0, delta=1e-5, mean_fraction=0.4, neighboring_relation=relation)
    plan, rng = Plan.from_config(config), np.random.default_rng(6)
    coins = rng.random(4000) < 0.5
    audit = read_audit_scores(plan, scores_of(rng, plan, coins), coins, {}, confidence=1 - 1e-9)
    assert [each.question for each in audit.kinds] == ["mean_embedding", "votes"] and not audit.refuting
    # One canary for another changes less than two opposite means.
    claims = [audit.primary.claimed_mu, *(each.claimed_mu for each in audit.kinds)]
    if relation == "replace_one":
        claims[1] /= math.sqrt(2)
        claims[0] = math.hypot(*claims[1:])
    for each, claim in zip((audit.primary, *audit.kinds), claims, strict=True):
        assert abs(each.mu - claim) < 5 * math.sqrt((4 + claim**2 / 2) / 4000)
    assert audit.primary.claimed_mu == pytest.approx(math.hypot(*(each.claimed_mu for each in audit.kinds)))
    assert audit.claimed_epsilon == audit.primary.claimed_epsilon == plan.epsilon(1e-5)
    quieter = read_audit_scores(plan, scores_of(rng, plan, coins, factor=0.5), coins, {})
    assert {"mu of mean_embedding and votes", "mu of votes"} <= {name for name, _, _ in quieter.refuting}


def test_the_confidence_is_shared_by_the_attacks():
    assert confidence_of_each(0.95, 1) == pytest.approx(0.975)
    assert confidence_of_each(0.95, 5) == pytest.approx(0.995)
    plan, rng = Plan.from_config(PrivateEvolutionConfig(epsilon=3.0, delta=1e-5)), np.random.default_rng(7)
    coins = rng.random(200) < 0.5
    attacks = {name: (rng.normal(size=200), coins) for name in ("one", "two", "three")}
    audit = read_audit_scores(plan, scores_of(rng, plan, coins), coins, attacks)
    assert audit.primary.confidence == pytest.approx(0.975)
    assert [each.confidence for each in audit.secondary] == pytest.approx([1 - 0.025 / 4] * 4)
    assert audit.epsilon_lower_bound >= audit.primary.epsilon_lower_bound


@pytest.mark.parametrize("changes", [{}, {"neighboring_relation": "replace_one"}, {"accountant": "rdp"}])
def test_the_power_against_halved_noise_is_what_a_simulation_finds(changes):
    """Of 400 simulated audits; 0.11 is five standard errors."""
    config = PrivateEvolutionConfig(**{"epsilon": 3.0, "delta": 1e-5, **changes})
    plan, rng = Plan.from_config(config), np.random.default_rng(8)
    coins = np.arange(60) < 30
    whole, half = (
        [read_mu(sum(scores_of(rng, plan, coins, noise).values()), coins, plan) for _ in range(400)]
        for noise in (1.0, 0.5)
    )
    power = replace(whole[0], mu=float(np.mean([each.mu for each in whole]))).power_against_halved_noise
    assert 0.2 < power < 0.9 and abs(np.mean([each.is_refuted for each in half]) - power) < 0.11
    # What does not reach the releases shows no fault in them.
    assert replace(whole[0], mu=0.1).power_against_halved_noise < 0.05


def test_a_bin_where_others_pile_up_is_left_out():
    """A hundred votes of others for one canary would hide what the other canaries show."""
    mechanism = Mechanism(1.0)
    question, coins = NearestCandidates.of(np.eye(50)), np.arange(50) % 2 == 0
    samples = canary_samples([str(each) for each in range(50)], lambda texts: np.eye(50), 1)
    answer = coins + np.random.default_rng(9).normal(size=50)
    answer[4] += 100
    scores = canary_scores([Released(question, mechanism, answer)], samples)
    assert scores[4] == 0 and np.abs(scores).max() < 5


def test_without_an_answer_there_is_nothing_to_audit(models, config):
    generator = AuditedGenerator(make_canaries(4), config=config, **models)
    assert generator.released == []
    with pytest.raises(ValueError, match="This is an audited run"):
        generator.push_to_hub("me/data")
    with pytest.raises(ValueError, match="`released` is empty"):
        read_audit(generator.ledger.plan, [], generator.canary_samples, np.arange(4) < 2, {})
    with pytest.raises(ValueError, match="`noise_multiplier`=1e-06 is too small for a guarantee"):
        AuditedGenerator(make_canaries(4), config=replace(config, epsilon=None, noise_multiplier=1e-6), **models)


@pytest.mark.slow
def test_an_audit_shows_most_of_what_is_claimed_and_notices_halved_noise():
    """The bound is 2.35 on average, with a standard deviation of 0.34. False alarms: below 1e-6."""
    power = audit_power(60)
    assert power["bound"] >= 1.8 and power["halved_noise_refuted"] >= 57, power
    # Each is refuted by chance in at most 5 % of cases.
    assert power["refuted"] <= 14, power


def test_targets_that_share_bins_are_told_apart():
    """Three targets in four bins, of which two have one bin in common, and a fourth that votes for nothing."""
    added = np.array([[1, 0, 0, 0], [0, 0.8, 0.6, 0], [0, 0.6, 0, 0], [0, 0, 0.8, 0]] + [[0, 0, 0, 0]] * 8)
    for members in ([0, 1], [2], [0, 2], [1, 2]):
        scores = _memberships(added, added[:, members].sum(axis=1) + 0.3)
        expected = np.isin(np.arange(3), members) - 0.5
        np.testing.assert_allclose(scores[:3], expected, atol=0.1)
        assert abs(scores[3]) < 1e-9


def test_scores_by_text_are_higher_for_those_whose_texts_came_out(embedder):
    texts = tuple((text,) for text in random_texts(40, seed=77, low=10, high=14))
    is_member = np.arange(40) < 20
    targets = Targets(texts, np.ones(40, dtype=bool), is_member)
    outputs = [own[0] for own, member in zip(texts, is_member, strict=True) if member]
    for scores in (
        similarity_scores(outputs, targets, embedder),
        ngram_scores(outputs, random_texts(20), targets),
    ):
        assert scores[is_member].min() > scores[~is_member].max()
