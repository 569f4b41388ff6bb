"""The on-device baselines of the benchmark spend what they claim to spend."""

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from hf_pretext.privacy import calibrate_noise_multiplier
from recipes.benchmark.on_device import DP_FEDAVG, DP_FTRL, correct_sensitivity, train_on_devices
from support.tiny import make_llama, random_texts

NUM_CLIENTS, CLIP_NORM = 12, 0.5


def change_of_weights(algorithm, num_rounds, epsilon=1.29, local_rate=0.0):
    """Train a tiny model on devices; return how its weights changed, as one vector."""
    pytest.importorskip("pfl", reason="pfl is not installed: see the Makefile")
    model, tokenizer = make_llama()
    before = torch.nn.utils.parameters_to_vector(model.parameters()).detach().clone()
    clients = [random_texts(3, seed=client) for client in range(NUM_CLIENTS)]
    algorithm = replace(algorithm, num_rounds=num_rounds, clip_norm=CLIP_NORM, local_rate=local_rate)
    train_on_devices(model, tokenizer, clients, algorithm, epsilon, 3e-6, 0)
    return torch.nn.utils.parameters_to_vector(model.parameters()).detach() - before


def test_the_noise_of_dp_fedavg_is_what_our_own_accounting_asks_for():
    """With a rate of zero the change is the rounds' noise alone, in some ten thousand weights.

    The standard deviation of that many draws is off by more than 4 % once in 10^8 runs.
    """
    change = change_of_weights(DP_FEDAVG, num_rounds=3)
    assert len(change) > 10_000
    expected = calibrate_noise_multiplier(1.29, 3e-6, 3) * CLIP_NORM * math.sqrt(3) / NUM_CLIENTS
    assert float(change.std()) == pytest.approx(expected, rel=0.04)


def test_the_noise_of_dp_ftrl_is_what_one_participation_asks_for_and_partly_cancels():
    """In the sum of all rounds the noise is less than that of independent draws, for one participation.

    The best Gram matrix of two rounds has x = (3 - sqrt(5)) / 2 beside its diagonal of ones, where
    (3 - 2x) / (1 - x^2) is least. The variance is then 2 / (1 + x). That of four is what the factorization gives.
    """

    def independent(num_rounds):
        noise = calibrate_noise_multiplier(1.29, 3e-6, 1) * CLIP_NORM
        return noise * math.sqrt(num_rounds) / (NUM_CLIENTS // num_rounds)

    of_two = independent(2) / math.sqrt(1 + (3 - math.sqrt(5)) / 2)
    assert float(change_of_weights(DP_FTRL, 2).std()) == pytest.approx(of_two, rel=0.04)
    assert float(change_of_weights(DP_FTRL, 4).std()) == pytest.approx(0.708 * independent(4), rel=0.04)


@pytest.mark.parametrize("num_rounds", [2, 4, 6, 8])
def test_a_client_of_dp_ftrl_has_the_sensitivity_that_is_accounted_for(num_rounds, tmp_path, monkeypatch):
    """A client that participates in one round changes one row of the sums X, so C X moves by the norm of a column."""
    mechanisms = pytest.importorskip("pfl.privacy.ftrl_mechanism")
    import pfl.model.pytorch  # noqa: F401 - chooses the framework

    monkeypatch.chdir(tmp_path)
    mechanism = mechanisms.BandedMatrixFactorizationMechanism(
        CLIP_NORM, num_rounds, num_rounds + 1, lambda number: SimpleNamespace(cohort_noise_parameter=3.2)
    )
    correct_sensitivity(mechanism, num_rounds)
    assert np.linalg.norm(mechanism.query_matrix, axis=0).max() <= 1 + 1e-6
    assert np.allclose(mechanism.query_matrix, np.tril(mechanism.query_matrix))
    assert (np.abs(np.tril(mechanism.query_matrix)) > 0.05).sum() == num_rounds * (num_rounds + 1) // 2


def test_clients_move_the_weights_by_the_clip_norm_at_most():
    """With a huge rate, the mean change of twelve clients has the clip norm at most, besides the noise."""
    change = change_of_weights(DP_FEDAVG, num_rounds=1, epsilon=20.0, local_rate=1e4)
    noise = calibrate_noise_multiplier(20.0, 3e-6, 1) * CLIP_NORM / NUM_CLIENTS * math.sqrt(len(change))
    assert 0.1 * CLIP_NORM < float(change.norm()) < CLIP_NORM + 1.2 * noise


def test_dp_ftrl_of_one_round_is_refused():
    with pytest.raises(ValueError, match="`num_rounds`=1"):
        change_of_weights(DP_FTRL, num_rounds=1)
