"""The hybrid: finetune on synthetic texts with a part of the budget, then train on the devices with the rest.

In production keyboards, devices start from a model that has learned from synthetic text (Wu et al. 2024, arXiv
2404.04360, where that text costs no budget). Here both parts ask the same clients. The releases of both are Gaussian,
so their budgets add up exactly, as `mu^2` (Dong, Roth and Su 2022, arXiv 1905.02383, corollary 3.3).
"""

from dataclasses import dataclass
from typing import Any

from transformers import set_seed

from hf_pretext import PrivateEvolutionConfig
from hf_pretext.privacy import compute_epsilon
from hf_pretext.privacy.accounting import calibrate

from .device_training import RANK, OnDevices
from .learners import Learner, with_adapters
from .sizes import Sizes
from .trial import Finetuning, MakesConfig, Trial

SYNTHETIC_FRACTION = 0.5
"""Fraction of the budget, as `mu^2`, for the synthetic texts."""


def split_budget(epsilon: float, delta: float, fraction: float) -> tuple[float, float]:
    """Divide a budget between two parts about the same clients.

    Args:
        epsilon (`float`): Privacy loss of both parts together.
        delta (`float`): The additive term of (epsilon, delta)-DP, of each part alone and of both together.
        fraction (`float`): Fraction of `mu^2` for the first part, strictly between 0 and 1.

    Returns:
        `tuple` of two `float`: The epsilon of each part alone.

    Raises:
        ValueError: `fraction` leaves one part without a budget.
    """
    if not 0 < fraction < 1:
        raise ValueError(f"`fraction`={fraction} must lie strictly between 0 and 1: each part needs some budget.")
    multipliers = calibrate(epsilon, delta, [fraction, 1 - fraction])
    first, second = (compute_epsilon(multiplier, delta, 1) for multiplier in multipliers)
    return first, second


@dataclass(frozen=True)
class FirstPart:
    """The configuration of the synthetic texts of a hybrid.

    Args:
        make (`Callable`): Makes a configuration from arguments, epsilon and seed.
    """

    make: MakesConfig

    def __call__(self, arguments: Sizes, epsilon: float, seed: int) -> PrivateEvolutionConfig:
        """Make the configuration with the first part of the budget."""
        return self.make(arguments, split_budget(epsilon, arguments.delta, SYNTHETIC_FRACTION)[0], seed)


@dataclass(frozen=True)
class FinetuningThenDevices(OnDevices):
    """Finetuning on the method's texts, then training on the devices with the second part of the budget."""

    def epsilon(self, trial: Trial) -> float:
        """Return the budget that the texts leave."""
        return split_budget(trial.budget, trial.arguments.delta, SYNTHETIC_FRACTION)[1]

    def inputs(self, trial: Trial, learner: Learner) -> dict[str, Any]:
        """Return what both parts depend on. See `Training`."""
        return {**super().inputs(trial, learner), "finetuning": Finetuning().inputs(trial, learner)}

    def start(self, trial: Trial, learner: Learner) -> tuple[Any, Any]:
        """Finetune the learner on the texts, and give it fresh adapters for the devices."""
        model, tokenizer = Finetuning().train(trial, learner)
        if learner.rank is not None:
            model = model.merge_and_unload()
        set_seed(trial.seed)
        return with_adapters(model, RANK), tokenizer
