"""Learners that simulated devices train, with settings that are chosen at each budget."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any

from hf_pretext.evaluation.scoring import score_next_tokens

from .cache import fingerprint
from .learners import Learner
from .on_device import Algorithm, train_on_devices
from .trial import Trial

RANK = 1
"""Rank of the adapters that devices train: more weights would be more noise."""

TUNING_SEED = 0
"""Random seed of the runs by which settings are chosen. Runs with other seeds take over what was chosen."""


@dataclass(frozen=True)
class OnDevices:
    """Training of adapters of rank 1 on simulated devices.

    The settings are chosen for each private set, budget and learner by the cross-entropy of held-out text, the same
    text that the learner is then scored on. No one could choose so in practice, and choosing from private text would
    cost budget. So this favors the methods that use it.

    Args:
        algorithms (`Sequence[Algorithm]`): What to choose among. The first is taken without `tune_devices`.
    """

    algorithms: Sequence[Algorithm]

    is_on_device = True

    def epsilon(self, trial: Trial) -> float:
        """Return the budget of what the devices do."""
        return trial.budget

    def load(self, trial: Trial, learner: Learner) -> tuple[Any, Any]:
        """Load the pretrained model with fresh adapters, and its tokenizer."""
        return trial.models.to_finetune(learner, trial.seed, rank=RANK)

    def start(self, trial: Trial, learner: Learner) -> tuple[Any, Any]:
        """Make the model that the devices start from, with fresh adapters, and its tokenizer."""
        return self.load(trial, learner)

    def inputs(self, trial: Trial, learner: Learner) -> dict[str, Any]:
        """Return the budget and what is chosen among. See `Training`."""
        return {
            "method": trial.method.name,
            "epsilon": self.epsilon(trial),
            "delta": trial.arguments.delta,
            "seed": trial.seed,
            "texts_per_device": trial.arguments.texts_per_device,
            "algorithms": [each.settings for each in self._candidates(trial)],
        }

    def train(self, trial: Trial, learner: Learner) -> tuple[Any, Any]:
        """Choose the settings, and train the learner. See `Training`."""
        chosen = self.choose(replace(trial, seed=TUNING_SEED), learner)
        model, tokenizer = self.start(trial, learner)
        return self._run(trial, chosen, model, tokenizer), tokenizer

    def choose(self, trial: Trial, learner: Learner) -> Algorithm:
        """Choose the settings with which held-out text has the least cross-entropy (evaluation only, not DP)."""
        algorithms = self._candidates(trial)
        if len(algorithms) == 1:
            return algorithms[0]
        settings = learner.settings(trial.arguments)
        held_out = trial.experiment.held_out[: settings.num_held_out]
        shared = {name: value for name, value in self.inputs(trial, learner).items() if name != "algorithms"}
        shared |= {"data": trial.experiment.version, "setting": learner.name, "model": settings.version}
        shared |= {"public": trial.models.public_version, "held_out": fingerprint(held_out)}
        # The start is the same for all. If every result is in the cache, it is not needed.
        start = cache(lambda: self.start(trial, learner))

        def measure(algorithm: Algorithm) -> float:
            model, tokenizer = start()
            trained = self._run(trial, algorithm, copy.deepcopy(model), tokenizer)
            size = trial.arguments.batch_size
            scored = score_next_tokens(trained, tokenizer, held_out, batch_size=size, max_length=128)
            return scored.totals()["cross_entropy"]

        found = [
            trial.cache("tuning", {**shared, **each.settings}, partial(measure, each)).value for each in algorithms
        ]
        return algorithms[found.index(min(found))]

    def _candidates(self, trial: Trial) -> Sequence[Algorithm]:
        return self.algorithms if trial.arguments.tune_devices else self.algorithms[:1]

    def _run(self, trial: Trial, algorithm: Algorithm, model: Any, tokenizer: Any) -> Any:
        clients = [texts[: trial.arguments.texts_per_device] for texts in trial.experiment.clients]
        delta = trial.arguments.delta
        return train_on_devices(model, tokenizer, clients, algorithm, self.epsilon(trial), delta, trial.seed)
