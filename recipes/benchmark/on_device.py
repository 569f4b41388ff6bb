"""Training on the devices with a guarantee for each client: DP-FedAvg and DP-FTRL, by Apple's `pfl`, simulated.

Each client trains on its own texts and sends the change of the weights, clipped to an L2 norm. The server adds up the
changes of a round, and Gaussian noise. What is released is the noisy sum of every round. The unit is one client, whose
change is present or zero (the number of clients is public). The sensitivity is `clip_norm`.

- DP-FedAvg (McMahan et al. 2018, arXiv 1710.06963): all clients participate in every round.
- DP-FTRL (Kairouz et al. 2021, arXiv 2103.00039, with banded matrices as in Choquette-Choo et al. 2023, arXiv
  2306.08153): each client participates in one round. The noise of a round cancels some of the noise of earlier ones.

`pfl` draws noise from pseudo-random floating-point numbers, so a guarantee for real use would need another source.
"""

import contextlib
import itertools
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from hf_pretext.privacy import calibrate_noise_multiplier

Accountant = Callable[[int], Any]
"""Maps the number of rounds in which a client participates to what `pfl` asks about the noise."""


@dataclass(frozen=True)
class Algorithm:
    """A way to train on devices.

    Args:
        name (`str`): Its name in results.
        participates_once (`bool`): Whether a client participates in one round only, or in all.
        make_mechanism (`Callable`): Makes the mechanism of `pfl` from the algorithm and an accountant.
        num_rounds (`int`, *optional*, defaults to `2`): Number of rounds.
        clip_norm (`float`, *optional*, defaults to `1.0`): Largest L2 norm of a client's change.
        local_rate (`float`, *optional*, defaults to `100.0`):
            Learning rate of a client, which makes one step. The default is so large that a change has the clip norm
            whatever its gradient is.
    """

    name: str
    participates_once: bool
    make_mechanism: Callable[["Algorithm", Accountant], Any]
    num_rounds: int = 2
    clip_norm: float = 1.0
    local_rate: float = 100.0

    @property
    def num_participations(self) -> int:
        """Number of rounds in which a client participates."""
        return 1 if self.participates_once else self.num_rounds

    def cohort_size(self, num_clients: int) -> int:
        """Compute the number of clients in a round."""
        return num_clients * self.num_participations // self.num_rounds

    @property
    def settings(self) -> dict[str, Any]:
        """What tells it from others, as JSON."""
        return {
            "algorithm": self.name,
            "rounds": self.num_rounds,
            "clip_norm": self.clip_norm,
            "local_rate": self.local_rate,
        }

    def variants(
        self, num_rounds: Sequence[int], clip_norms: Sequence[float], local_rates: Sequence[float]
    ) -> tuple["Algorithm", ...]:
        """List this algorithm, and then with all other combinations of settings, to choose among."""
        combinations = itertools.product(num_rounds, clip_norms, local_rates)
        made = [
            replace(self, num_rounds=rounds, clip_norm=clip, local_rate=rate) for rounds, clip, rate in combinations
        ]
        return (self, *(each for each in made if each != self))


class TextLoss(torch.nn.Module):
    """A causal language model as `pfl` needs it: with a loss of a client's tokens."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def loss(self, input_ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Compute the mean cross-entropy of the tokens whose label is not -100."""
        return self.model(input_ids=input_ids, attention_mask=(labels != -100).long(), labels=labels).loss

    def metrics(self, input_ids: torch.Tensor, labels: torch.Tensor) -> dict[str, Any]:
        """Count texts. The model is scored after the training."""
        from pfl.metrics import Weighted

        return {"texts": Weighted.from_unweighted(len(input_ids))}


def independent_noise(algorithm: Algorithm, accountant: Accountant) -> Any:
    """Make the Gaussian mechanism of DP-FedAvg, with independent noise in every round."""
    from pfl.privacy.gaussian_mechanism import GaussianMechanism

    multiplier = accountant(algorithm.num_participations).cohort_noise_parameter
    return GaussianMechanism(algorithm.clip_norm, multiplier)


def correlated_noise(algorithm: Algorithm, accountant: Accountant) -> Any:
    """Make the matrix mechanism of DP-FTRL.

    Raises:
        ValueError: There is one round only, so no noise to correlate with.
    """
    from pfl.privacy.ftrl_mechanism import BandedMatrixFactorizationMechanism

    if algorithm.num_rounds < 2:
        raise ValueError(f"`num_rounds`={algorithm.num_rounds} must be at least 2 for DP-FTRL.")
    # Who takes part once never comes back. A separation by as many rounds as there are would leave the noise of the
    # last one uncorrelated with that of the first, and two rounds with independent noise.
    separation = algorithm.num_rounds + 1
    mechanism = BandedMatrixFactorizationMechanism(algorithm.clip_norm, algorithm.num_rounds, separation, accountant)
    correct_sensitivity(mechanism, algorithm.num_rounds)
    return mechanism


def correct_sensitivity(mechanism: Any, num_rounds: int) -> None:
    """Give `pfl`'s DP-FTRL the factor `C` with `C^T C = X`, whose columns have norm 1: a client's one change is one.

    pfl 0.6 takes the Cholesky factor with `C C^T = X` instead, whose rows have norm 1. Its first column is then longer
    than 1 (1.18 for four rounds), so the clients of the first round would spend more than epsilon.
    """
    from pfl.privacy.ftrl_mechanism import ForwardSubstitution

    gram = mechanism.query_matrix @ mechanism.query_matrix.T
    factor = np.linalg.cholesky(gram[::-1, ::-1]).T[::-1, ::-1].copy()
    if not np.allclose(factor.T @ factor, gram) or np.linalg.norm(factor, axis=0).max() > 1 + 1e-6:
        raise RuntimeError("This version of pfl factorizes the workload otherwise. Its noise may be too small.")
    mechanism._C = factor
    mechanism._C_inv_noise = ForwardSubstitution(factor, num_rounds)


DP_FEDAVG = Algorithm("DP-FedAvg", participates_once=False, make_mechanism=independent_noise)
DP_FTRL = Algorithm("DP-FTRL", participates_once=True, make_mechanism=correlated_noise)


def train_on_devices(
    model: Any,
    tokenizer: Any,
    clients: Sequence[Sequence[str]],
    algorithm: Algorithm,
    epsilon: float,
    delta: float,
    seed: int,
) -> Any:
    """Train the weights of a model that require gradients, on simulated devices.

    Args:
        model (`PreTrainedModel` or `PeftModel`): A causal language model. It is changed.
        tokenizer (`PreTrainedTokenizerBase`): Its tokenizer.
        clients (`Sequence` of `Sequence[str]`): The texts of each client, which makes one step of SGD on them.
        algorithm (`Algorithm`): How to train, such as `DP_FEDAVG`.
        epsilon (`float`): Privacy loss of a client, over all rounds.
        delta (`float`): The additive term of (epsilon, delta)-differential privacy.
        seed (`int`): Seed of the order of the clients, and of the noise.

    Returns:
        The trained model.
    """
    from pfl.aggregate.simulate import SimulatedBackend
    from pfl.algorithm.base import NNAlgorithmParams
    from pfl.algorithm.federated_averaging import FederatedAveraging
    from pfl.data.federated_dataset import FederatedDataset
    from pfl.hyperparam.base import NNEvalHyperParams, NNTrainHyperParams
    from pfl.model.pytorch import PyTorchModel
    from pfl.privacy.privacy_mechanism import CentrallyAppliedPrivacyMechanism

    def accountant(num_participations: int) -> Any:
        """Account as all methods do. pfl asks only for the noise over the clip norm."""
        return SimpleNamespace(cohort_noise_parameter=calibrate_noise_multiplier(epsilon, delta, num_participations))

    # pfl would take a GPU that is there, even if the model is to stay on the CPU.
    os.environ["PFL_PYTORCH_DEVICE"] = str(model.device)
    np.random.seed(seed)  # noqa: NPY002 - pfl's own source of randomness
    torch.manual_seed(seed)
    # The factorization is written into the working directory.
    with tempfile.TemporaryDirectory() as scratch, contextlib.chdir(scratch):
        mechanism = algorithm.make_mechanism(algorithm, accountant)
        order = itertools.cycle(np.random.default_rng(seed).permutation(len(clients)).tolist())
        devices = FederatedDataset(
            lambda client: _texts_of_client(tokenizer, clients[client], str(client), model.device),
            lambda: next(order),
        )
        weights = [each for each in model.parameters() if each.requires_grad]
        FederatedAveraging().run(
            NNAlgorithmParams(
                central_num_iterations=algorithm.num_rounds,
                evaluation_frequency=algorithm.num_rounds,
                train_cohort_size=algorithm.cohort_size(len(clients)),
                val_cohort_size=0,
            ),
            SimulatedBackend(devices, devices, [CentrallyAppliedPrivacyMechanism(mechanism)]),
            PyTorchModel(TextLoss(model), torch.optim.SGD, torch.optim.SGD(weights, lr=1.0)),
            NNTrainHyperParams(local_batch_size=None, local_num_epochs=1, local_learning_rate=algorithm.local_rate),
            NNEvalHyperParams(local_batch_size=None),
            send_metrics_to_platform=False,
        )
    return model.eval()


def _texts_of_client(tokenizer: Any, texts: Sequence[str], client: str, device: torch.device) -> Any:
    """Make one batch of all texts of a client."""
    from pfl.data.dataset import Dataset

    rows = [tokenizer(text, truncation=True, max_length=96)["input_ids"] for text in texts]
    input_ids = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.long)
    labels = torch.full_like(input_ids, -100)
    for line, row in enumerate(rows):
        input_ids[line, : len(row)] = labels[line, : len(row)] = torch.tensor(row)
    return Dataset([input_ids.to(device), labels.to(device)], user_id=client)


def step_of_client(model: Any, tokenizer: Any, texts: Sequence[str]) -> None:
    """Compute the gradient of a client's texts, which is its work in a round. What it does to time it is the same."""
    input_ids, labels = _texts_of_client(tokenizer, texts, "", model.device).raw_data
    model.zero_grad()
    TextLoss(model).loss(input_ids, labels).backward()
