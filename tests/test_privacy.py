import json
import math
import re
from dataclasses import dataclass, replace
from itertools import pairwise

import dp_accounting
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_pretext import PrivateEvolutionConfig, calibrate_noise_multiplier, compute_epsilon
from hf_pretext.clients.questions import MeanEmbedding, NearestCandidates
from hf_pretext.privacy import Mechanism, Plan, PrivacyLedger, PrivacyReport
from hf_pretext.privacy.accounting import (
    ACCOUNTANTS,
    combined_multiplier,
    epsilon_of_gaussian,
    find_accountant,
    multiplier_of_gaussian,
)
from hf_pretext.privacy.mechanism import MIN_SCALE, UNITS
from support.tiny import release

ROUNDS, DELTA = 11, 3e-6


@pytest.mark.parametrize(("noise_multiplier", "rdp", "exact"), [(11.3, 1.2876, 1.1890), (2.31, 7.5790, 7.0801)])
def test_golden_epsilons(noise_multiplier, rdp, exact):
    assert compute_epsilon(noise_multiplier, DELTA, ROUNDS, "rdp") == pytest.approx(rdp, abs=6e-5)
    assert compute_epsilon(noise_multiplier, DELTA, ROUNDS) == pytest.approx(exact, abs=6e-5)


@pytest.mark.parametrize(("epsilon", "rdp", "exact"), [(1.29, 11.280, 10.486), (7.58, 2.310, 2.181)])
def test_golden_noise_multipliers(epsilon, rdp, exact):
    assert calibrate_noise_multiplier(epsilon, DELTA, ROUNDS, "rdp") == pytest.approx(rdp, abs=6e-4)
    assert calibrate_noise_multiplier(epsilon, DELTA, ROUNDS, "pld") == pytest.approx(exact, abs=6e-4)


@pytest.mark.parametrize("noise_multiplier", [0.7, 2.31, 11.3])
@pytest.mark.parametrize("num_rounds", [1, 11])
def test_exact_accounting_agrees_with_the_pld_accountant(noise_multiplier, num_rounds):
    accountant = dp_accounting.pld.PLDAccountant()
    event = dp_accounting.GaussianDpEvent(noise_multiplier)
    accountant.compose(dp_accounting.SelfComposedDpEvent(event, num_rounds))
    assert compute_epsilon(noise_multiplier, DELTA, num_rounds) == pytest.approx(
        accountant.get_epsilon(DELTA), rel=1e-5
    )


@pytest.mark.parametrize("accountant", ["pld", "rdp"])
def test_epsilon_falls_with_noise_and_rises_with_rounds(accountant):
    by_noise = [compute_epsilon(noise, DELTA, ROUNDS, accountant) for noise in (1.0, 2.0, 4.0, 8.0)]
    by_rounds = [compute_epsilon(4.0, DELTA, rounds, accountant) for rounds in (0, 1, 2, 4, 8)]
    assert all(more > less for more, less in pairwise(by_noise))
    assert by_rounds[0] == 0.0 and all(less < more for less, more in pairwise(by_rounds))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: compute_epsilon(0.0, DELTA, 1), "`noise_multiplier`=0.0"),
        (lambda: compute_epsilon(float("nan"), DELTA, 1), "`noise_multiplier`=nan"),
        (lambda: compute_epsilon(1.0, 0.0, 1), "`delta`=0.0"),
        (lambda: compute_epsilon(1.0, DELTA, -1), "`num_rounds`=-1"),
        (lambda: compute_epsilon(1.0, DELTA, 1, "gdp"), "`accountant`='gdp'"),
        (lambda: calibrate_noise_multiplier(0.0, DELTA, 1), "`epsilon`=0.0"),
        (lambda: calibrate_noise_multiplier(1.0, DELTA, 0), "`num_rounds`=0"),
    ],
)
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        call()


@pytest.mark.parametrize("noise_multiplier", np.geomspace(0.02, 1000, 12))
@pytest.mark.parametrize("delta", [1e-12, DELTA, 0.1])
def test_the_closed_form_is_dp_accounting_s(noise_multiplier, delta):
    """Our own, so that a plan is printed without two seconds of imports. To 1e-9, over the whole range of settings."""
    epsilon = epsilon_of_gaussian(noise_multiplier, delta)
    assert epsilon == pytest.approx(dp_accounting.get_epsilon_gaussian(noise_multiplier, delta), rel=1e-9, abs=1e-9)
    if epsilon > 1e-9:
        assert multiplier_of_gaussian(epsilon, delta) == pytest.approx(noise_multiplier, rel=1e-9)


@pytest.mark.parametrize("accountant", ["pld", "rdp"])
@pytest.mark.parametrize("epsilon", [0.1, 1.29, 7.58, 20.0])
@pytest.mark.parametrize("mean_fraction", [0.0, 0.3])
def test_a_calibrated_run_costs_what_was_asked_for_and_no_more(epsilon, accountant, mean_fraction):
    config = PrivateEvolutionConfig(epsilon=epsilon, delta=DELTA, accountant=accountant, mean_fraction=mean_fraction)
    assert 0.999 * epsilon < Plan.from_config(config).epsilon(DELTA) <= epsilon


def votes_of(config):
    return Plan.from_config(config).entry("votes").mechanism


def test_sensitivity_follows_the_clipping():
    by_norm = votes_of(PrivateEvolutionConfig(epsilon=1.29, delta=DELTA, num_rounds=11))
    by_count = votes_of(PrivateEvolutionConfig.paper(epsilon=1.29))
    assert by_norm.clip_norm == 1.0 and by_norm.noise_std == pytest.approx(10.486, abs=1e-3)
    assert by_count.clip_norm == 8.0 and by_count.noise_std == pytest.approx(8 * 11.280, abs=1e-2)
    assert by_norm.noise_scale == by_norm.noise_std * UNITS


@pytest.mark.parametrize(
    ("relation", "is_signed", "sensitivity"),
    [
        ("add_or_remove_one", False, 1.0),
        ("add_or_remove_one", True, 1.0),
        ("replace_one", False, math.sqrt(2)),
        ("replace_one", True, 2.0),
    ],
)
def test_sensitivity_follows_the_relation_and_the_signs(relation, is_signed, sensitivity):
    assert Mechanism(3.0, is_signed=is_signed, neighboring_relation=relation).sensitivity == sensitivity
    mechanism = Mechanism(3.0, 8.0, is_signed, relation)
    assert mechanism.sensitivity == 8 * sensitivity and mechanism.noise_std == 24 * sensitivity


@pytest.mark.parametrize("scale", [50.0, 1000.0])
def test_discrete_and_rounded_gaussian_are_as_near_as_the_mechanism_claims(scale):
    """The lemma in the docstring of `Mechanism`: |log(p / q)| <= x^2 / (24 s^4) in one bin, for |x| = B s."""
    from scipy.special import logsumexp
    from scipy.stats import norm

    reach = 6
    x = np.arange(-int(40 * scale), int(40 * scale) + 1, dtype=float)
    log_density = -0.5 * (x / scale) ** 2
    log_p = log_density - logsumexp(log_density)
    near = np.abs(x) <= reach * scale
    # Upper tails only, where the difference of two survival functions keeps its digits.
    points = np.abs(x[near])
    log_q = np.log(norm.sf((points - 0.5) / scale) - norm.sf((points + 0.5) / scale))
    difference = np.abs(log_p[near] - log_q)
    bound = reach**2 / (24 * scale**2)
    assert difference.max() <= bound + 1e-9
    assert difference.max() > 0.5 * bound  # The bound is not idle: half of it would be too little.


@pytest.mark.parametrize("num_bins", [1, 30, 300])
def test_the_length_of_the_noise_stays_within_the_radius_of_the_proof(num_bins):
    """The bound on |x|^2 / s^2 is for a failure of exp(-750). At exp(-3) it already holds for nearly all."""
    from hf_pretext.privacy.noise import DiscreteGaussian

    draws = DiscreteGaussian()(50.0, 600 * num_bins).reshape(600, num_bins)
    squares = (draws**2).sum(axis=1) / 50.0**2
    # A failure has a probability of at most exp(-3) = 5 %. Of 600, 30 are expected at most. 65 are a false alarm.
    assert (squares > num_bins + 2 * math.sqrt(3 * num_bins) + 2 * 3).sum() < 65


@pytest.mark.parametrize("scale", [MIN_SCALE, 40.0])
@pytest.mark.parametrize("noise_multiplier", [0.5, 1.0, 3.0])
def test_the_discrete_mechanism_is_as_private_as_is_claimed(scale, noise_multiplier):
    """By its own privacy curve: the exact delta at epsilon + 2 k is at most exp(k) times the continuous one.

    The neighboring sums differ by `scale / noise_multiplier` units, rounded to a whole number.
    """
    from scipy.special import logsumexp

    shift = round(scale / noise_multiplier)
    mechanism = Mechanism(scale / shift, clip_norm=shift / UNITS)
    assert mechanism.noise_scale == pytest.approx(scale)
    x = np.arange(-int(60 * scale), int(60 * scale) + 1, dtype=float)
    log_p = -0.5 * (x / scale) ** 2
    log_p -= logsumexp(log_p)
    shifted = -0.5 * ((x - shift) / scale) ** 2
    shifted -= logsumexp(shifted)
    k = mechanism.discreteness(1)
    for delta in (1e-3, 1e-6):
        epsilon = epsilon_of_gaussian(mechanism.noise_multiplier, delta) + 2 * k
        exact = np.maximum(np.exp(shifted) - np.exp(epsilon + log_p), 0).sum()
        assert exact <= math.exp(k) * delta * (1 + 1e-9)


def small_plan(noise_multiplier, scale, accountant="exact", rate=1.0):
    """A plan of two votes whose noise has a small scale, in units."""
    config = PrivateEvolutionConfig(
        noise_multiplier=noise_multiplier,
        delta=DELTA,
        num_rounds=2,
        accountant=accountant,
        client_sampling_rate=rate,
    )
    plan = Plan.from_config(config)
    (entry,) = plan.releases
    clip_norm = scale / UNITS / noise_multiplier
    return replace(plan, releases=(replace(entry, mechanism=Mechanism(noise_multiplier, clip_norm)),))


def test_what_discreteness_costs_is_added():
    """The closed form of the docstring, at a noise so small that it shows: a scale of 100 units."""
    plan = small_plan(1.0, 100)
    (mechanism, _), _ = plan.one_run
    bins = [60, 40]
    radii = [math.sqrt(each + 2 * math.sqrt(each * 750) + 1500) + 1 for each in bins]
    cost = sum(radius**2 for radius in radii) / (24 * 100**2)
    expected = compute_epsilon(1.0, DELTA * math.exp(-cost), 2) + 2 * cost
    spent = plan.epsilon(DELTA, [(mechanism, each) for each in bins])
    assert spent == pytest.approx(expected, rel=1e-9) and spent > compute_epsilon(1.0, DELTA, 2) + 0.03


def test_hardly_any_noise_gives_no_guarantee():
    for noise_multiplier in (1e-5, 15 / UNITS):
        config = PrivateEvolutionConfig(noise_multiplier=noise_multiplier, delta=DELTA)
        assert Plan.from_config(config).epsilon(DELTA) == math.inf


def test_noise_from_elsewhere_voids_the_guarantee():
    config = PrivateEvolutionConfig(epsilon=1.29, delta=DELTA)
    ledger = PrivacyLedger(Plan.from_config(config))
    ledger.record(NearestCandidates.of(np.zeros((1024, 2))), noise_is_genuine=False)
    report = PrivacyReport.from_ledger(ledger, config)
    assert report.epsilon == math.inf and "no guarantee" in report.guarantee


def test_the_plan_of_a_ledger_cannot_be_exchanged():
    ledger = PrivacyLedger(Plan.from_config(PrivateEvolutionConfig(epsilon=1.29, delta=DELTA)))
    with pytest.raises(AttributeError):
        ledger.plan = Plan.from_config(PrivateEvolutionConfig(epsilon=100.0, delta=DELTA))


def test_discreteness_costs_next_to_nothing():
    config = PrivateEvolutionConfig(noise_multiplier=2.18051, delta=DELTA, num_rounds=ROUNDS, population_size=2048)
    cost = Plan.from_config(config).epsilon(DELTA) - compute_epsilon(2.18051, DELTA, ROUNDS)
    assert 0 < cost < 1e-8


def test_spread_votes_change_no_noise_and_are_in_the_report_s_words():
    config = PrivateEvolutionConfig(epsilon=1.29, delta=3e-6)
    spread = replace(config, votes_per_sample=4)
    assert votes_of(spread).noise_scale == votes_of(config).noise_scale
    ledger = PrivacyLedger(Plan.from_config(spread))
    release(ledger, 1024)
    assert "samples, each for the 4 nearest candidates, clipped" in PrivacyReport.from_ledger(ledger, spread).mechanism


@pytest.fixture
def report():
    config = PrivateEvolutionConfig(epsilon=1.29, delta=DELTA, num_rounds=11)
    ledger = PrivacyLedger(Plan.from_config(config))
    for _ in range(config.num_rounds):
        release(ledger, config.population_size)
    return PrivacyReport.from_ledger(ledger, config, num_clients=1250)


def test_report_holds_the_figures(report, tmp_path):
    report.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "privacy_report.json").read_text())
    assert saved["epsilon"] == pytest.approx(1.29, abs=1e-4)
    assert {name: saved[name] for name in ("delta", "unit", "neighboring_relation", "num_rounds", "accountant")} == {
        "delta": DELTA,
        "unit": "client",
        "neighboring_relation": "add_or_remove_one",
        "num_rounds": 11,
        "accountant": "exact",
    }
    assert saved["noise_multiplier"] == pytest.approx(10.486, abs=1e-3)
    assert saved["max_samples_per_client"] == 8


def test_report_says_it_in_words(report):
    assert "epsilon = 1.29" in report.guarantee and "one client" in report.guarantee
    assert (
        "11 noisy sums" in report.mechanism
        and "11 releases of `votes`" in report.mechanism
        and "discrete Gaussian" in report.mechanism
    )
    assert any("pretrained" in assumption for assumption in report.assumptions)


def test_a_second_run_composes_and_the_report_says_so():
    config = PrivateEvolutionConfig(epsilon=1.29, delta=DELTA)
    ledger = PrivacyLedger(Plan.from_config(config))
    assert PrivacyReport.from_ledger(ledger, config).guarantee.startswith("Nothing")
    for _ in range(2 * config.num_rounds):
        release(ledger, config.population_size)
    report = PrivacyReport.from_ledger(ledger, config)
    expected = compute_epsilon(votes_of(config).noise_multiplier / math.sqrt(2), DELTA, config.num_rounds)
    assert report.epsilon == pytest.approx(expected, rel=1e-6)
    assert report.epsilon > 1.29 and "more than the 1.29 of one run" in report.guarantee


def saved_report(num_releases=2, **changes):
    config = PrivateEvolutionConfig(epsilon=2.0, delta=1e-3, num_rounds=2, population_size=16)
    ledger = PrivacyLedger(Plan.from_config(config))
    for _ in range(num_releases):
        release(ledger, 16)
    return replace(PrivacyReport.from_ledger(ledger, config), **changes), ledger.plan


def test_a_ledger_goes_on_from_its_report():
    report, mechanism = saved_report()
    ledger = PrivacyReport.from_dict(report.to_dict()).to_ledger(mechanism)
    release(ledger, 16)
    assert tuple(each.id for each in ledger.releases[:2]) == report.release_ids
    assert (ledger.num_releases, ledger.num_lost) == (3, 0)
    assert ledger.epsilon(1e-3) > report.epsilon


def with_releases(report, change):
    return replace(report, releases=tuple(change(each) for each in report.releases))


@pytest.mark.parametrize(
    "change",
    [
        lambda report: replace(report, epsilon=1.9),
        lambda report: replace(report, max_samples_per_client=1),
        lambda report: replace(report, client_sampling_rate=0.5),
        lambda report: with_releases(report, lambda each: replace(each, mechanism=Mechanism(99.0))),
        lambda report: with_releases(report, lambda each: replace(each, question="mean_embedding")),
        lambda report: with_releases(report, lambda each: replace(each, id="a")),
    ],
)
def test_a_report_that_does_not_add_up_is_refused(change):
    report, plan = saved_report()
    with pytest.raises(ValueError, match="do not belong together"):
        change(report).to_ledger(plan)


def test_without_a_guarantee_once_without_for_ever():
    report, mechanism = saved_report(epsilon=math.inf)
    assert json.loads(json.dumps(report.to_dict()))["epsilon"] is None
    ledger = PrivacyReport.from_dict(report.to_dict()).to_ledger(mechanism)
    release(ledger, 16)
    assert math.isinf(ledger.epsilon(1e-3))


def test_a_report_covers_what_it_counts_only():
    first, mechanism = saved_report()
    other, _ = saved_report()
    config = PrivateEvolutionConfig(epsilon=2.0, delta=1e-3, num_rounds=2, population_size=16)
    branches = []
    for _ in range(2):
        ledger = first.to_ledger(mechanism)
        release(ledger, 16)
        branches.append(PrivacyReport.from_ledger(ledger, config))
    assert first.covers(first) and branches[0].covers(first) and not first.covers(branches[0])
    assert not first.covers(other)
    # Two that went on from one report have each spent what the other does not count.
    assert not branches[0].covers(branches[1])
    assert first.covers(replace(first, releases=()))


@pytest.mark.parametrize(
    ("accountant", "golden"),
    # dp-accounting 0.6: PLDAccountant and RdpAccountant on PoissonSampledDpEvent(0.5, GaussianDpEvent(5)), 11 times.
    [("pld", 1.45005), ("rdp", 1.58183)],
)
def test_golden_epsilon_of_sampled_clients(accountant, golden):
    assert compute_epsilon(5.0, DELTA, ROUNDS, accountant, sampling_rate=0.5) == pytest.approx(golden, abs=2e-5)
    by_rate = [compute_epsilon(5.0, DELTA, ROUNDS, accountant, rate) for rate in (0.1, 0.5, 0.999999, 1.0)]
    # The accountant's own rounding of nearly everybody errs on the safe side of the closed form for everybody.
    assert by_rate[0] < by_rate[1] < by_rate[2] == pytest.approx(by_rate[3], rel=2e-3)


@pytest.mark.parametrize("accountant", ["pld", "rdp"])
@pytest.mark.parametrize("rate", [pytest.param(0.05, marks=pytest.mark.slow), 0.5])
def test_a_calibrated_run_with_sampled_clients_costs_what_was_asked_for(accountant, rate):
    config = PrivateEvolutionConfig(
        epsilon=1.29, delta=DELTA, num_rounds=3, accountant=accountant, client_sampling_rate=rate
    )
    assert 0.999 * 1.29 < Plan.from_config(config).epsilon(DELTA) <= 1.29
    everyone = votes_of(replace(config, client_sampling_rate=1.0))
    assert votes_of(config).noise_multiplier < everyone.noise_multiplier


def test_discreteness_is_paid_for_under_sampling_by_either_accountant():
    for accountant in ("pld", "rdp"):
        plan = small_plan(1.0, 100, accountant, rate=0.5)
        continuous = compute_epsilon(1.0, DELTA, 2, accountant, sampling_rate=0.5)
        assert plan.epsilon(DELTA) > continuous + 0.03
    # With all clients the theorem of the docstring says that the Renyi bound needs nothing more.
    assert small_plan(1.0, 100, "rdp").epsilon(DELTA) == pytest.approx(compute_epsilon(1.0, DELTA, 2, "rdp"))


def test_replacing_a_client_takes_the_square_root_of_two_in_noise_and_says_so():
    config = PrivateEvolutionConfig(epsilon=1.29, delta=DELTA, neighboring_relation="replace_one")
    removing = replace(config, neighboring_relation="add_or_remove_one")
    assert votes_of(config).noise_multiplier == votes_of(removing).noise_multiplier
    assert votes_of(config).noise_std == pytest.approx(math.sqrt(2) * votes_of(removing).noise_std)
    plan = Plan.from_config(config)
    ledger = PrivacyLedger(plan)
    release(ledger, 1024)
    report = PrivacyReport.from_ledger(ledger, config)
    assert report.neighboring_relation == "replace_one"
    assert report.releases[0].mechanism.sensitivity == pytest.approx(math.sqrt(2))
    assert "exchanging all samples of one client for any others" in report.guarantee
    assert report.to_ledger(plan).num_releases == 1
    with pytest.raises(ValueError, match="do not belong together"):
        report.to_ledger(Plan.from_config(removing))


def test_sampled_clients_are_in_the_report_s_words():
    config = PrivateEvolutionConfig(noise_multiplier=3.0, delta=DELTA, client_sampling_rate=0.25)
    ledger = PrivacyLedger(Plan.from_config(config))
    release(ledger, 1024)
    report = PrivacyReport.from_ledger(ledger, config)
    assert "participates with probability 0.25" in report.mechanism
    assert any("No one but the trusted process sees which clients" in words for words in report.assumptions)


def test_a_report_of_the_first_edition_is_read():
    """Published sets carry them: one mechanism for all releases, and the older name of the exact accountant."""
    report, plan = saved_report()
    (mechanism, num_bins), *_ = plan.one_run
    older = {
        "epsilon": report.epsilon,
        "delta": report.delta,
        "unit": "client",
        "neighboring_relation": "add_or_remove_one",
        "noise_multiplier": mechanism.noise_multiplier,
        "num_rounds": 2,
        "max_samples_per_client": 8,
        "accountant": "pld",
        "sensitivity": 1.0,
        "noise_std": mechanism.noise_std,
        "vote_clipping": "l2",
        "release_ids": list(report.release_ids),
        "bins_per_release": [num_bins, num_bins],
        "hf_pretext_version": "0.1.0",
    }
    read = PrivacyReport.from_dict(older)
    assert read.releases == report.releases and read.accountant == "exact" and read.covers(report)
    assert read.to_ledger(plan).num_releases == 2
    for name, value in (("num_rounds", 3), ("sensitivity", None), ("noise_multiplier", -1.0), ("release_ids", 5)):
        with pytest.raises(ValueError, match="is not valid|is not a mechanism"):
            PrivacyReport.from_dict({**older, name: value})


def test_a_ledger_counts_before_it_keeps_and_keeps_once(tmp_path):
    plan = Plan.from_config(PrivateEvolutionConfig(noise_multiplier=10.0, delta=DELTA))
    question = NearestCandidates.of(np.zeros((4, 2)))
    ledger = PrivacyLedger(plan, tmp_path / "ledger.json")
    ledger.record(question)
    counted = PrivacyLedger(plan, tmp_path / "ledger.json")
    assert (counted.num_releases, counted.num_lost, counted.epsilon(DELTA)) == (1, 1, ledger.epsilon(DELTA))
    ledger.keep(np.array([0.5, -1.25, 3.0, 2**-20]))
    kept = PrivacyLedger(plan, tmp_path / "ledger.json")
    assert kept.releases == ledger.releases and kept.releases[0].answer == (0.5, -1.25, 3.0, 2**-20)
    for answer in (np.zeros(4), np.zeros(3)):
        with pytest.raises(ValueError, match="does not belong to the release that was recorded last"):
            ledger.keep(answer)


def test_a_ledger_that_cannot_be_written_releases_nothing(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    plan = Plan.from_config(PrivateEvolutionConfig(noise_multiplier=10.0, delta=DELTA))
    ledger = PrivacyLedger(plan, tmp_path / "ledger.json")
    monkeypatch.setattr("hf_pretext.privacy.ledger.atomic_write", full)
    with pytest.raises(OSError, match="No space left"):
        ledger.record(NearestCandidates.of(np.zeros((4, 2))))
    assert ledger.num_releases == 1, "the private side counts it"


MIXED = PrivateEvolutionConfig(epsilon=1.29, delta=DELTA, num_rounds=2, mean_fraction=1 / 3)


def test_a_plan_of_one_mean_and_two_votes_costs_what_the_closed_form_says():
    """To 1e-9, and within the error of the PLD accountant, which composes the two kinds numerically."""
    plan = Plan.from_config(replace(MIXED, mean_fraction=0.5))
    multipliers = [mechanism.noise_multiplier for mechanism, _ in plan.one_run]
    assert len(multipliers) == 3 and multipliers[0] < multipliers[1] == multipliers[2]
    closed = dp_accounting.get_epsilon_gaussian(1 / math.sqrt(sum(1 / each**2 for each in multipliers)), DELTA)
    assert plan.epsilon(DELTA) == pytest.approx(closed, abs=1e-9) and 1.289 < closed <= 1.29
    assert combined_multiplier(multipliers) == pytest.approx(plan.noise_multiplier)
    accountant = dp_accounting.pld.PLDAccountant()
    for multiplier in multipliers:
        accountant.compose(dp_accounting.GaussianDpEvent(multiplier))
    assert plan.epsilon(DELTA) == pytest.approx(accountant.get_epsilon(DELTA), rel=1e-4)


@pytest.mark.parametrize("accountant", [pytest.param("exact", marks=pytest.mark.slow), "rdp"])
def test_an_exchange_at_an_epsilon_without_meaning_has_none(accountant):
    """`exp(epsilon)` was too large for a float, after all releases were spent."""
    config = replace(MIXED, epsilon=1000.0, client_sampling_rate=0.5, accountant=accountant)
    assert Plan.from_config(config).exchange_epsilon(DELTA) == math.inf


@pytest.mark.parametrize("mean_fraction", [0.1, 1 / 3, 0.9])
def test_the_budget_is_divided_as_asked(mean_fraction):
    plan = Plan.from_config(replace(MIXED, mean_fraction=mean_fraction))
    mean, votes = plan.entry("mean_embedding"), plan.entry("votes")
    budgets = [each.count / each.mechanism.noise_multiplier**2 for each in (mean, votes)]
    assert budgets[0] / sum(budgets) == pytest.approx(mean_fraction, rel=1e-4)
    given = Plan.from_config(replace(MIXED, epsilon=None, noise_multiplier=5.0, mean_fraction=mean_fraction))
    budgets = [each.count / each.mechanism.noise_multiplier**2 for each in given.releases]
    assert given.entry("votes").mechanism.noise_multiplier == 5.0
    assert budgets[0] / sum(budgets) == pytest.approx(mean_fraction)


@pytest.mark.parametrize("accountant", ["exact", "rdp"])
def test_sampled_releases_of_both_kinds_are_accounted_for(accountant):
    config = replace(MIXED, mean_fraction=0.5, client_sampling_rate=0.2, accountant=accountant)
    plan = Plan.from_config(config)
    assert 1.28 < plan.epsilon(DELTA) <= 1.29
    assert plan.noise_multiplier < Plan.from_config(replace(config, client_sampling_rate=1.0)).noise_multiplier


@dataclass(frozen=True)
class Question:
    """What a plan knows of a question of the caller."""

    name: str = "toy"
    is_signed: bool = True
    description: str = "a direction"
    num_bins: int = 4

    def copy(self):
        return self


@pytest.mark.parametrize(
    ("questions", "mean_fraction", "message"),
    [
        ([(Question(), 1.0)], 0.0, "gets `fraction`=1.0 of the budget, which must lie strictly between 0 and 1"),
        ([(Question(), -0.1)], 0.0, "gets `fraction`=-0.1 of the budget"),
        ([(Question(), 0.5)], 0.5, "do not fit the budget: they leave nothing for the votes"),
        ([(Question(), 0.7), (Question("other"), 0.7)], 0.0, "do not fit the budget"),
        ([(Question(), 0.1), (Question(), 0.1)], 0.0, "must have different names"),
        ([(Question("votes"), 0.1)], 0.0, "must have different names"),
        ([(Question("mean_embedding"), 0.1)], 0.1, "must have different names"),
    ],
)
def test_a_plan_that_does_not_fit_the_budget_is_refused_by_name(questions, mean_fraction, message):
    with pytest.raises(ValueError, match=message):
        Plan.from_config(replace(MIXED, mean_fraction=mean_fraction), questions)


def test_a_report_lists_each_kind_of_release():
    plan = Plan.from_config(MIXED)
    ledger = PrivacyLedger(plan)
    ledger.record(MeanEmbedding.of(np.zeros((1, 384))))
    ledger.keep(np.zeros(384))
    release(ledger, 1024)
    report = PrivacyReport.from_ledger(ledger, MIXED)
    saved = json.loads(json.dumps(report.to_dict()))
    assert [each["question"] for each in saved["releases"]] == ["mean_embedding", "votes"]
    assert PrivacyReport.from_dict(saved) == report
    assert "1 release of `mean_embedding`: the mean of its embeddings minus a public mean" in report.mechanism
    assert "1 release of `votes`: the votes of its samples, each for the nearest candidate" in report.mechanism
    assert report.kinds["mean_embedding"][0].mechanism.is_signed
    again = report.to_ledger(plan)
    release(again, 1024)
    # All three releases, with fewer dimensions than the plan allows for, which costs a little less than it says.
    assert again.epsilon(DELTA) == pytest.approx(plan.epsilon(DELTA), rel=1e-9)


def test_a_ledger_of_another_plan_is_refused_by_name(tmp_path):
    PrivacyLedger(Plan.from_config(MIXED), tmp_path / "ledger.json")
    other = Plan.from_config(replace(MIXED, mean_fraction=0.25))
    with pytest.raises(ValueError, match="`plan.releases.mean_embedding.fraction`=0.333.* there, 0.25 here"):
        PrivacyLedger(other, tmp_path / "ledger.json")
    with pytest.raises(ValueError, match="was written with another plan: .*`plan.releases.mean_embedding"):
        PrivacyLedger(Plan.from_config(replace(MIXED, mean_fraction=0.0)), tmp_path / "ledger.json")


def test_a_ledger_whose_releases_are_not_its_plan_s_is_refused(tmp_path):
    """Someone who edits the noise of a release would make it look cheaper."""
    plan = Plan.from_config(MIXED)
    ledger = PrivacyLedger(plan, tmp_path / "ledger.json")
    release(ledger, 1024)
    content = json.loads((tmp_path / "ledger.json").read_text())
    content["releases"][0]["mechanism"]["noise_multiplier"] *= 10
    (tmp_path / "ledger.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="holds a release of the question 'votes' that its plan does not have"):
        PrivacyLedger(plan, tmp_path / "ledger.json")


class Named:
    """An accountant of the caller, under a name."""

    def __init__(self, name, epsilon=lambda multiplier: 10 / multiplier):
        self.name, self._epsilon = name, epsilon

    def epsilon(self, noise_multipliers, delta, sampling_rate=1.0):
        return self._epsilon(min(noise_multipliers))

    def __bool__(self):
        return False


@pytest.mark.parametrize("name", ["exact", "rdp", "pld"])
def test_no_accountant_of_the_caller_has_a_name_of_the_library_s(name):
    """A report names the accountant, and "rdp" needs no correction for discreteness."""
    with pytest.raises(ValueError, match="is the name of an accountant of the library"):
        Plan.from_config(MIXED, accountant=Named(name))
    assert find_accountant("pld") is find_accountant("exact") is ACCOUNTANTS["exact"]


@pytest.mark.parametrize("value", [-1.0, math.nan])
def test_an_accountant_that_returns_no_epsilon_is_named(value):
    for config in (MIXED, replace(MIXED, epsilon=None, noise_multiplier=3.0)):
        with pytest.raises(ValueError, match="The accountant 'toy' returned epsilon = "):
            Plan.from_config(config, accountant=Named("toy", lambda multiplier: value)).epsilon(DELTA)


def test_an_accountant_that_no_noise_satisfies_is_named():
    with pytest.raises(ValueError, match="`epsilon`=1.29 cannot be reached with any noise by the accountant 'toy'"):
        Plan.from_config(MIXED, accountant=Named("toy", lambda multiplier: 7.0))
    # One that asks for no noise still gets so much that its discreteness fits the budget.
    plan = Plan.from_config(MIXED, accountant=Named("toy", lambda multiplier: 0.0))
    assert 0 < plan.epsilon(DELTA) <= 1.29


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "1"}, "needs a `name` that begins with a letter"),
        ({"num_bins": 0}, "`num_bins`=0, which must be a positive `int`"),
        ({"num_bins": 2.0}, "`num_bins`=2.0, which must be a positive `int`"),
        ({"num_bins": np.int64(2)}, "which must be a positive `int`"),
        ({"is_signed": np.bool_(True)}, "`is_signed`=.*, which must be a bool"),
    ],
)
def test_a_question_that_would_fail_after_it_was_asked_is_refused(changes, message):
    with pytest.raises((ValueError, TypeError), match=message):
        Plan.from_config(MIXED, [(Question(**changes), 0.1)])


def test_a_question_whose_signs_are_not_planned_is_not_answered():
    """An unsigned mechanism has less noise under `replace_one`."""
    ledger = PrivacyLedger(Plan.from_config(MIXED, [(Question(), 0.1)]))
    with pytest.raises(ValueError, match="has `is_signed`=False, but the plan of this run accounts for it with"):
        ledger.mechanism(Question(is_signed=False))


@given(
    epsilon=st.floats(0.05, 20),
    fraction=st.floats(0.01, 0.99),
    rounds=st.integers(1, 20),
    log_delta=st.floats(-12, -2),
)
@settings(max_examples=200, deadline=None)
def test_rounded_multipliers_never_cost_more_than_was_asked_for(epsilon, fraction, rounds, log_delta):
    config = replace(MIXED, epsilon=epsilon, delta=10**log_delta, mean_fraction=fraction, num_rounds=rounds)
    plan = Plan.from_config(config)
    assert 0.999 * epsilon < plan.epsilon(config.delta) <= epsilon


def test_two_ledgers_of_one_file_do_not_lose_each_other_s_releases(tmp_path):
    plan = Plan.from_config(MIXED)
    one = PrivacyLedger(plan, tmp_path / "ledger.json")
    votes = NearestCandidates.of(np.zeros((4, 2)))
    one.record(votes)
    other = PrivacyLedger(plan, tmp_path / "ledger.json")
    other.record(votes)
    with pytest.raises(RuntimeError, match="counts other releases than this ledger"):
        one.keep(np.zeros(4))
    with pytest.raises(ValueError, match="or is not finite"):
        other.keep(np.array([0.0, np.nan, 0.0, 0.0]))
    assert PrivacyLedger(plan, tmp_path / "ledger.json").num_releases == 2


def test_a_ledger_with_one_release_twice_is_refused(tmp_path):
    ledger = PrivacyLedger(Plan.from_config(MIXED), tmp_path / "ledger.json")
    release(ledger, 4)
    content = json.loads((tmp_path / "ledger.json").read_text())
    (tmp_path / "ledger.json").write_text(json.dumps({**content, "releases": content["releases"] * 2}))
    with pytest.raises(ValueError, match="is not a ledger"):
        PrivacyLedger(ledger.plan, tmp_path / "ledger.json")


def test_a_report_is_continued_only_by_questions_of_the_same_content():
    ledger = PrivacyLedger(Plan.from_config(MIXED, [(Question(), 0.1)]))
    ledger.record(Question())
    report = PrivacyReport.from_ledger(ledger, MIXED)
    assert report.to_ledger(ledger.plan).num_releases == 1
    other = Plan.from_config(MIXED, [(Question(description="something else"), 0.1)])
    with pytest.raises(ValueError, match="do not belong together"):
        report.to_ledger(other)


@pytest.mark.parametrize("accountant", ["exact", "rdp"])
@pytest.mark.parametrize(("rate", "delta", "num_rounds"), [(1e-6, 1e-5, 3), (1e-6, 3e-6, 3), (1e-9, 1e-8, 1)])
def test_a_sample_that_needs_no_noise_is_refused_at_once(accountant, rate, delta, num_rounds):
    """The search for the least noise took minutes for each step, and had no end."""
    with pytest.raises(ValueError, match="`client_sampling_rate`=.* with `delta`=.*protects no one who participates"):
        calibrate_noise_multiplier(1.29, delta, num_rounds, accountant, sampling_rate=rate)
    config = PrivateEvolutionConfig(
        epsilon=1.29, delta=delta, num_rounds=num_rounds, client_sampling_rate=rate, accountant=accountant
    )
    with pytest.raises(ValueError, match="is not above `delta`"):
        Plan.from_config(config)


def test_a_small_sample_above_delta_is_calibrated():
    multiplier = calibrate_noise_multiplier(1.29, 1e-5, 1, "rdp", sampling_rate=1e-4)
    assert compute_epsilon(multiplier, 1e-5, 1, "rdp", sampling_rate=1e-4) == pytest.approx(1.29, rel=1e-3)
