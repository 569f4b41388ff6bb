"""Training on the devices with a guarantee for each client: DP-FedAvg and DP-FTRL, by Apple's `pfl`, simulated.

Each client trains on its own texts and sends the change of the weights, cut to an L2 norm; the server adds up the
changes of a round, and Gaussian noise. What is released is every round's noisy sum. Its unit is one client, whose
change is there or is zero (the number of clients is public); its sensitivity is `clip_norm`.

- DP-FedAvg (McMahan et al. 2018, arXiv 1710.06963): all clients take part in every round.
- DP-FTRL (Kairouz et al. 2021, arXiv 2103.00039; with banded matrices, Choquette-Choo et al. 2023, arXiv 2306.08153):
  each client takes part in one round, and the noise of a round takes back some of the noise of those before.

`pfl` draws noise from pseudo-random floating-point numbers, so a guarantee for real use would need another source.
"""

import contextlib
import itertools
import tempfile
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from hf_pretext.privacy import calibrate_noise_multiplier

NUM_ROUNDS = {"dp-fedavg": 2, "dp-ftrl": 4}
CLIP_NORMS = {"dp-fedavg": 1.0, "dp-ftrl": 2.0}
"""Chosen by looking at held-out text in runs on `plays` at epsilon 1.29, which flatters these methods a little."""


class TextLoss(torch.nn.Module):
    """A causal language model as `pfl` wants it: with a loss of a client's tokens."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def loss(self, input_ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Compute the mean cross-entropy of the tokens whose label is not -100."""
        return self.model(input_ids=input_ids, attention_mask=(labels != -100).long(), labels=labels).loss

    def metrics(self, input_ids: torch.Tensor, labels: torch.Tensor) -> dict[str, Any]:
        """Count texts; the model is scored when it is trained."""
        from pfl.metrics import Weighted

        return {"texts": Weighted.from_unweighted(len(input_ids))}


def correct_sensitivity(mechanism: Any, num_rounds: int) -> None:
    """Give `pfl`'s DP-FTRL the factor `C` with `C^T C = X`, whose columns have norm 1: a client's one change is one.

    pfl 0.6 takes the Cholesky factor with `C C^T = X` instead, whose rows have. Its first column is then longer than 1
    (1.18 for four rounds), so the clients of the first round would spend more than epsilon.
    """
    from pfl.privacy.ftrl_mechanism import ForwardSubstitution

    gram = mechanism.query_matrix @ mechanism.query_matrix.T
    factor = np.linalg.cholesky(gram[::-1, ::-1]).T[::-1, ::-1].copy()
    if not np.allclose(factor.T @ factor, gram) or np.linalg.norm(factor, axis=0).max() > 1 + 1e-6:
        raise RuntimeError("This version of pfl factorises the workload otherwise; its noise may be too small.")
    mechanism._C = factor
    mechanism._C_inv_noise = ForwardSubstitution(factor, num_rounds - 1)


def train_on_devices(
    model: Any,
    tokenizer: Any,
    clients: Sequence[Sequence[str]],
    method: str,
    epsilon: float,
    delta: float,
    seed: int,
    num_rounds: int | None = None,
    clip_norm: float | None = None,
    local_rate: float = 100.0,
) -> Any:
    """Train the weights of a model that require gradients, on simulated devices.

    Args:
        model (`PreTrainedModel` or `PeftModel`): A causal language model; it is changed.
        tokenizer (`PreTrainedTokenizerBase`): Its tokenizer.
        clients (`Sequence` of `Sequence[str]`): The texts of each client, which it makes one step of SGD on.
        method (`str`): `"dp-fedavg"` or `"dp-ftrl"`.
        epsilon (`float`): Privacy loss of a client, over all rounds.
        delta (`float`): Probability with which the guarantee may fail.
        seed (`int`): Seed of the order of the clients, and of the noise.
        num_rounds (`int`, *optional*): Rounds, by default those of `NUM_ROUNDS`; DP-FTRL needs two at least.
        clip_norm (`float`, *optional*): Largest L2 norm of a client's change, by default that of `CLIP_NORMS`.
        local_rate (`float`, *optional*, defaults to `100.0`):
            Learning rate of a client, so large that a change has the clip norm whatever its gradient is.

    Returns:
        The trained model.
    """
    from pfl.aggregate.simulate import SimulatedBackend
    from pfl.algorithm.base import NNAlgorithmParams
    from pfl.algorithm.federated_averaging import FederatedAveraging
    from pfl.data.dataset import Dataset
    from pfl.data.federated_dataset import FederatedDataset
    from pfl.hyperparam.base import NNEvalHyperParams, NNTrainHyperParams
    from pfl.model.pytorch import PyTorchModel
    from pfl.privacy.ftrl_mechanism import BandedMatrixFactorizationMechanism
    from pfl.privacy.gaussian_mechanism import GaussianMechanism
    from pfl.privacy.privacy_mechanism import CentrallyAppliedPrivacyMechanism

    if method not in NUM_ROUNDS:
        raise ValueError(f"`method`={method!r} must be one of {tuple(NUM_ROUNDS)}.")
    num_rounds = num_rounds or NUM_ROUNDS[method]
    clip_norm = clip_norm or CLIP_NORMS[method]

    def accountant(num_participations: int) -> Any:
        """Account as all methods do; pfl asks for nothing but the noise over the clip norm."""
        return SimpleNamespace(cohort_noise_parameter=calibrate_noise_multiplier(epsilon, delta, num_participations))

    np.random.seed(seed)  # noqa: NPY002 - pfl's own source of randomness
    torch.manual_seed(seed)
    # The factorisation is written into the working directory.
    with tempfile.TemporaryDirectory() as scratch, contextlib.chdir(scratch):
        if method == "dp-fedavg":
            cohort = len(clients)
            mechanism = GaussianMechanism(clip_norm, accountant(num_rounds).cohort_noise_parameter)
        else:
            cohort = len(clients) // num_rounds
            mechanism = BandedMatrixFactorizationMechanism(clip_norm, num_rounds, num_rounds, accountant)
            correct_sensitivity(mechanism, num_rounds)
        order = itertools.cycle(np.random.default_rng(seed).permutation(len(clients)).tolist())

        def texts_of(client: int) -> Any:
            rows = [tokenizer(text, truncation=True, max_length=96)["input_ids"] for text in clients[client]]
            input_ids = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.long)
            labels = torch.full_like(input_ids, -100)
            for line, row in enumerate(rows):
                input_ids[line, : len(row)] = labels[line, : len(row)] = torch.tensor(row)
            return Dataset([input_ids, labels], user_id=str(client))

        devices = FederatedDataset(texts_of, lambda: next(order))
        noise = CentrallyAppliedPrivacyMechanism(mechanism)
        weights = [each for each in model.parameters() if each.requires_grad]
        FederatedAveraging().run(
            NNAlgorithmParams(
                central_num_iterations=num_rounds,
                evaluation_frequency=num_rounds,
                train_cohort_size=cohort,
                val_cohort_size=0,
            ),
            SimulatedBackend(devices, devices, [noise]),
            PyTorchModel(TextLoss(model), torch.optim.SGD, torch.optim.SGD(weights, lr=1.0)),
            NNTrainHyperParams(local_batch_size=None, local_num_epochs=1, local_learning_rate=local_rate),
            NNEvalHyperParams(local_batch_size=None),
            send_metrics_to_platform=False,
        )
    return model.eval()
