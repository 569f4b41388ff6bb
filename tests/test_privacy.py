import json
import math
import re
from dataclasses import replace

import dp_accounting
import numpy as np
import pytest

from conftest import release
from hf_pretext import PrivateEvolutionConfig, calibrate_noise_multiplier, compute_epsilon
from hf_pretext.privacy import PrivacyLedger, PrivacyReport, VoteMechanism
from hf_pretext.voting import VOTE_UNITS

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
    assert by_noise == sorted(by_noise, reverse=True)
    assert by_rounds == sorted(by_rounds) and by_rounds[0] == 0.0


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


@pytest.mark.parametrize("accountant", ["pld", "rdp"])
@pytest.mark.parametrize("epsilon", [0.1, 1.29, 7.58, 20.0])
def test_a_calibrated_run_costs_what_was_asked_for_and_no_more(epsilon, accountant):
    config = PrivateEvolutionConfig(epsilon=epsilon, delta=DELTA, accountant=accountant)
    spent = VoteMechanism.from_config(config).epsilon(DELTA, [config.population_size] * config.num_rounds)
    assert 0.999 * epsilon < spent <= epsilon


def test_sensitivity_follows_the_clipping():
    by_norm = VoteMechanism.from_config(PrivateEvolutionConfig(epsilon=1.29, delta=DELTA, num_rounds=11))
    by_count = VoteMechanism.from_config(PrivateEvolutionConfig.paper(epsilon=1.29))
    assert by_norm.clip_norm == 1.0 and by_norm.noise_std == pytest.approx(10.486, abs=1e-3)
    assert by_count.clip_norm == 8.0 and by_count.noise_std == pytest.approx(8 * 11.280, abs=1e-2)
    assert by_norm.noise_scale == by_norm.noise_std * VOTE_UNITS


@pytest.mark.parametrize("scale", [50.0, 1000.0])
def test_discrete_and_rounded_gaussian_are_as_near_as_the_mechanism_claims(scale):
    """The lemma in the docstring of VoteMechanism: |log(p / q)| <= B^2 / (24 s^2) for |x| <= B s."""
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


def test_what_discreteness_costs_is_added():
    """The closed form of the docstring, at a noise so small that it shows: a scale of 1,000 units."""
    mechanism = VoteMechanism(noise_multiplier=1.0, clip_norm=1000 / VOTE_UNITS)
    slack = 100 * 41**2 / (24 * 1000**2)
    expected = compute_epsilon(1.0, DELTA * math.exp(-slack), 2) + 2 * slack
    assert mechanism.epsilon(DELTA, [60, 40]) == pytest.approx(expected, rel=1e-9)
    assert mechanism.epsilon(DELTA, [60, 40]) > compute_epsilon(1.0, DELTA, 2) + 0.014


def test_hardly_any_noise_gives_no_guarantee():
    assert VoteMechanism(noise_multiplier=1e-5, clip_norm=1.0).epsilon(DELTA, [1024]) == math.inf


def test_noise_from_elsewhere_voids_the_guarantee():
    config = PrivateEvolutionConfig(epsilon=1.29, delta=DELTA)
    ledger = PrivacyLedger(VoteMechanism.from_config(config))
    ledger.record(1024, noise_is_genuine=False)
    report = PrivacyReport.from_ledger(ledger, config)
    assert report.epsilon == math.inf and "no guarantee" in report.guarantee


def test_the_mechanism_of_a_ledger_cannot_be_exchanged():
    ledger = PrivacyLedger(VoteMechanism(10.0, 1.0))
    with pytest.raises(AttributeError):
        ledger.mechanism = VoteMechanism(1000.0, 1.0)


def test_discreteness_costs_next_to_nothing():
    mechanism = VoteMechanism(noise_multiplier=2.18051, clip_norm=1.0)
    slack = mechanism.epsilon(DELTA, [2048] * ROUNDS) - compute_epsilon(2.18051, DELTA, ROUNDS)
    assert 0 < slack < 1e-4


def test_spread_votes_change_no_noise_and_are_in_the_report_s_words():
    config = PrivateEvolutionConfig(epsilon=1.29, delta=3e-6)
    mechanism = VoteMechanism.from_config(replace(config, votes_per_sample=4))
    assert mechanism.noise_scale == VoteMechanism.from_config(config).noise_scale
    words = PrivacyReport.from_ledger(PrivacyLedger(mechanism), config).mechanism
    assert "samples, each for its 4 nearest candidates, the vote" in words


@pytest.fixture
def report():
    config = PrivateEvolutionConfig(epsilon=1.29, delta=DELTA, num_rounds=11)
    ledger = PrivacyLedger(VoteMechanism.from_config(config))
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
        "accountant": "pld",
    }
    assert saved["noise_multiplier"] == pytest.approx(10.486, abs=1e-3)
    assert saved["max_samples_per_client"] == 8


def test_report_says_it_in_words(report):
    assert "epsilon = 1.29" in report.guarantee and "one client" in report.guarantee
    assert "11 histograms" in report.mechanism and "discrete Gaussian" in report.mechanism
    assert any("pretrained" in assumption for assumption in report.assumptions)


def test_a_second_run_composes_and_the_report_says_so():
    config = PrivateEvolutionConfig(epsilon=1.29, delta=DELTA)
    ledger = PrivacyLedger(VoteMechanism.from_config(config))
    assert PrivacyReport.from_ledger(ledger, config).guarantee.startswith("Nothing")
    for _ in range(2 * config.num_rounds):
        release(ledger, config.population_size)
    report = PrivacyReport.from_ledger(ledger, config)
    expected = compute_epsilon(ledger.mechanism.noise_multiplier / math.sqrt(2), DELTA, config.num_rounds)
    assert report.epsilon == pytest.approx(expected, rel=1e-6)
    assert report.epsilon > 1.29 and "more than the 1.29 of one run" in report.guarantee


def saved_report(num_releases=2, **changes):
    config = PrivateEvolutionConfig(epsilon=2.0, delta=1e-3, num_rounds=2, population_size=16)
    ledger = PrivacyLedger(VoteMechanism.from_config(config))
    for _ in range(num_releases):
        release(ledger, 16)
    return replace(PrivacyReport.from_ledger(ledger, config), **changes), ledger.mechanism


def test_a_ledger_goes_on_from_its_report():
    report, mechanism = saved_report()
    ledger = PrivacyLedger.from_report(PrivacyReport.from_dict(report.to_dict()), mechanism)
    release(ledger, 16)
    assert tuple(each.id for each in ledger.releases[:2]) == report.release_ids
    assert (ledger.num_releases, ledger.num_lost) == (3, 0)
    assert ledger.epsilon(1e-3) > report.epsilon


@pytest.mark.parametrize(
    "changes",
    [
        {"epsilon": 1.9},
        {"num_rounds": 1},
        {"noise_multiplier": 99.0},
        {"max_samples_per_client": 1},
        {"bins_per_release": (16,)},
        {"release_ids": ("a", "a")},
    ],
)
def test_a_report_that_does_not_add_up_is_refused(changes):
    report, mechanism = saved_report(**changes)
    with pytest.raises(ValueError, match="do not belong together"):
        PrivacyLedger.from_report(report, mechanism)


def test_without_a_guarantee_once_without_for_ever():
    report, mechanism = saved_report(epsilon=math.inf)
    assert json.loads(json.dumps(report.to_dict()))["epsilon"] is None
    ledger = PrivacyLedger.from_report(PrivacyReport.from_dict(report.to_dict()), mechanism)
    release(ledger, 16)
    assert math.isinf(ledger.epsilon(1e-3))


def test_a_report_covers_what_it_counts_only():
    first, mechanism = saved_report()
    other, _ = saved_report()
    branches = []
    for _ in range(2):
        ledger = PrivacyLedger.from_report(first, mechanism)
        release(ledger, 16)
        branches.append(replace(first, num_rounds=3, release_ids=tuple(each.id for each in ledger.releases)))
    assert first.covers(first) and branches[0].covers(first) and not first.covers(branches[0])
    assert not first.covers(other)
    # Two that went on from one report have each spent what the other does not count.
    assert not branches[0].covers(branches[1])
    assert not first.covers(replace(first, release_ids=()))
    assert first.covers(replace(first, num_rounds=0, release_ids=()))


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
@pytest.mark.parametrize("rate", [0.05, 0.5])
def test_a_calibrated_run_with_sampled_clients_costs_what_was_asked_for(accountant, rate):
    config = PrivateEvolutionConfig(
        epsilon=1.29, delta=DELTA, num_rounds=3, accountant=accountant, client_sampling_rate=rate
    )
    mechanism = VoteMechanism.from_config(config)
    spent = mechanism.epsilon(DELTA, [config.population_size] * 3)
    assert 0.999 * 1.29 < spent <= 1.29
    everybody = VoteMechanism.from_config(replace(config, client_sampling_rate=1.0))
    assert mechanism.noise_multiplier < everybody.noise_multiplier


def test_discreteness_is_paid_for_under_sampling_by_either_accountant():
    for accountant in ("pld", "rdp"):
        mechanism = VoteMechanism(1.0, 1000 / VOTE_UNITS, accountant=accountant, client_sampling_rate=0.5)
        continuous = compute_epsilon(1.0, DELTA, 2, accountant, sampling_rate=0.5)
        assert mechanism.epsilon(DELTA, [60, 40]) > continuous + 0.014


def test_replacing_a_client_takes_the_square_root_of_two_in_noise_and_says_so():
    config = PrivateEvolutionConfig(epsilon=1.29, delta=DELTA, neighboring_relation="replace_one")
    mechanism = VoteMechanism.from_config(config)
    removing = VoteMechanism.from_config(replace(config, neighboring_relation="add_or_remove_one"))
    assert mechanism.noise_multiplier == removing.noise_multiplier
    assert mechanism.noise_std == pytest.approx(math.sqrt(2) * removing.noise_std)
    ledger = PrivacyLedger(mechanism)
    release(ledger, 1024)
    report = PrivacyReport.from_ledger(ledger, config)
    assert report.neighboring_relation == "replace_one" and report.sensitivity == pytest.approx(math.sqrt(2))
    assert "exchanging all samples of one client for any others" in report.guarantee
    assert PrivacyLedger.from_report(report, mechanism).num_releases == 1
    with pytest.raises(ValueError, match="do not belong together"):
        PrivacyLedger.from_report(report, removing)


def test_sampled_clients_are_in_the_report_s_words():
    config = PrivateEvolutionConfig(epsilon=1.29, delta=DELTA, client_sampling_rate=0.25)
    ledger = PrivacyLedger(VoteMechanism.from_config(config))
    release(ledger, 1024)
    report = PrivacyReport.from_ledger(ledger, config)
    assert "takes part with probability 0.25" in report.mechanism
    assert any("Nobody but the trusted process sees which clients" in words for words in report.assumptions)


def test_a_report_of_an_older_version_is_read():
    report, _ = saved_report()
    values = {
        name: value for name, value in report.to_dict().items() if name not in ("num_lost", "client_sampling_rate")
    }
    assert PrivacyReport.from_dict(values) == report


def test_a_ledger_counts_before_it_keeps_and_keeps_once(tmp_path):
    mechanism = VoteMechanism(10.0, 1.0)
    ledger = PrivacyLedger(mechanism, tmp_path / "ledger.json")
    ledger.record(4)
    counted = PrivacyLedger(mechanism, tmp_path / "ledger.json")
    assert (counted.num_releases, counted.num_lost, counted.epsilon(DELTA)) == (1, 1, ledger.epsilon(DELTA))
    ledger.keep(np.array([0.5, -1.25, 3.0, 2**-20]))
    kept = PrivacyLedger(mechanism, tmp_path / "ledger.json")
    assert kept.releases == ledger.releases and kept.releases[0].votes == (0.5, -1.25, 3.0, 2**-20)
    for votes in (np.zeros(4), np.zeros(3)):
        with pytest.raises(ValueError, match="are not those of the release that was recorded last"):
            ledger.keep(votes)


def test_a_ledger_that_cannot_be_written_releases_nothing(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    ledger = PrivacyLedger(VoteMechanism(10.0, 1.0), tmp_path / "ledger.json")
    monkeypatch.setattr("hf_pretext.privacy.write_durably", full)
    with pytest.raises(OSError, match="No space left"):
        ledger.record(4)
    assert ledger.num_releases == 1, "the private side counts it"
