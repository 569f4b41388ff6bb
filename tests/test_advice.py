"""The rule by which settings follow from public numbers."""

import pytest

from hf_pretext import PrivateEvolutionConfig
from hf_pretext.cli import main
from hf_pretext.privacy import Plan
from hf_pretext.privacy.advice import CHOSEN, STEPS, settings_for

BUDGET = {"epsilon": 1.29, "delta": 3e-6}


@pytest.mark.parametrize("number", [3, 40, 100, 300, 1000, 100_000])
@pytest.mark.parametrize("epsilon", [0.3, 1.29, 7.58])
def test_the_rule_gives_settings_within_the_budget(number, epsilon):
    config = PrivateEvolutionConfig(**settings_for(number, epsilon=epsilon, delta=3e-6))
    plan = Plan.from_config(config)
    assert 0.999 * epsilon < plan.epsilon(3e-6) <= epsilon
    asked = {each.question for each in plan.releases}
    assert asked in ({"mean_embedding", "votes"}, {"token_counts", "votes"})


def test_fewer_clients_are_asked_for_less_that_noise_drowns():
    """With a smaller number the mean gets no less, there are no more rounds, and samples have no fewer votes."""
    chosen = [settings_for(number, **BUDGET) for number in (10, 30, 100, 300, 1000, 3000, 30_000)]
    for less, more in zip(chosen, chosen[1:], strict=False):
        assert less["mean_fraction"] >= more["mean_fraction"] and less["num_rounds"] <= more["num_rounds"]
        assert less["votes_per_sample"] >= more["votes_per_sample"]
    assert {each["num_rounds"] for each in chosen} == {step.num_rounds for step in STEPS}


def test_one_client_more_or_less_does_not_change_the_rule():
    """As far as a rule in steps can promise it: nowhere but at the borders, which are few."""
    near = [settings_for(1000 + change, **BUDGET) for change in (-1, 0, 1)]
    assert near[0] == near[1] == near[2]


def test_what_is_given_stays():
    chosen = settings_for(300, **BUDGET, num_rounds=5, votes_per_sample=2, population_size=64, can_tilt=False)
    assert [chosen[name] for name in CHOSEN] == [0.4, 0.0, 5, 2] and chosen["population_size"] == 64
    for number in (0, -3, 2.5, True):
        with pytest.raises(ValueError, match="`expected_clients`=.* must be a positive integer"):
            settings_for(number, **BUDGET)


def test_the_plan_prints_the_rule(tmp_path, capsys):
    path = tmp_path / "run.yaml"
    path.write_text("epsilon: 1.29\ndelta: 3.0e-6\n")
    main(["plan", "--config", str(path), "--num-clients", "300"])
    words = ", ".join(f"`{name}`={value}" for name, value in settings_for(300, **BUDGET).items() if name in CHOSEN)
    assert f"For about 300 clients at this budget, we recommend {words}" in capsys.readouterr().out
    path.write_text("noise_multiplier: 2.0\ndelta: 3.0e-6\n")
    main(["plan", "--config", str(path), "--num-clients", "300"])
    assert "we recommend" not in capsys.readouterr().out


def test_more_noise_and_fewer_participants_count_as_fewer_clients():
    """An exchange needs more noise, and of a sample of the clients fewer answer."""
    assert settings_for(700, **BUDGET)["token_fraction"] == 0.25
    of_federation = {"max_dropout": 0.4, "num_rounds": 1}
    for changes in ({"neighboring_relation": "replace_one"}, {"client_sampling_rate": 0.01, "accountant": "rdp"}):
        assert settings_for(700, **BUDGET, **changes)["token_fraction"] == 0.0
    # The noise of a federation's sum, if nobody fails, is larger than what is accounted for.
    assert settings_for(700, **BUDGET)["mean_fraction"] < settings_for(700, **BUDGET, **of_federation)["mean_fraction"]


def test_the_bill_advises_by_all_of_its_settings(tmp_path, capsys):
    """Of a federation it advised token counts, which its clients cannot answer."""
    settings = tmp_path / "plan.yaml"
    settings.write_text("epsilon: 1.29\ndelta: 3.0e-6\nmax_dropout: 0.1\n")
    assert main(["plan", "--config", str(settings), "--num-clients", "1000"]) == 0
    assert "`token_fraction`=0.0" in capsys.readouterr().out


def test_what_is_given_leaves_room_for_the_rest():
    few = settings_for(100, **BUDGET, token_fraction=0.3)
    assert (few["mean_fraction"], few["token_fraction"]) == (0.35, 0.3) and PrivateEvolutionConfig(**few)
    assert settings_for(1000, **BUDGET, mean_fraction=0.7)["token_fraction"] == 0.15
    assert settings_for(300, **BUDGET, max_dropout=0.1)["token_fraction"] == 0.0
