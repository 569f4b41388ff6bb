"""Selection experiments, which need embeddings only: how near are the selected public texts to the private ones?

```bash
python -m recipes.benchmark.selection_experiments --data plays --seeds 0 1 2
```

Every figure is computed from clean private votes or held-out text: **evaluation only, not differentially private**.
`EXPERIMENTS.md` holds what was found.
"""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from hf_pretext import PrivateEvolutionConfig
from hf_pretext.clients.samples import Samples
from hf_pretext.evaluation.measures import frechet_distance
from hf_pretext.evolution.evidence import VotesReading
from hf_pretext.evolution.population import Reserve
from hf_pretext.privacy import Plan

from .arguments import BenchmarkArguments
from .experiment import Experiment
from .learners import Models
from .trial import plain_config
from .votes import clipped_votes, reading_of, true_votes, weigh

NUM_DRAWS = 1024
PAPER = {"vote_clipping": "count", "accountant": "rdp", "smooth_votes": False, "new_public_share": 0.0}
NOTHING_NEW = {"new_public_share": 0.0}
STRATEGIES: dict[str, dict[str, Any]] = {
    "paper: counts, threshold 0": {**PAPER, "threshold": 0.0},
    **{f"norm 1, threshold {c}": {**NOTHING_NEW, "smooth_votes": False, "threshold": float(c)} for c in (0, 1, 2, 3)},
    **{f"norm 1, smoothed, threshold {c:g}": {**NOTHING_NEW, "threshold": c} for c in (0.0, 0.5, 1.0, 2.0)},
    "norm 1, smoothed, threshold 1, sixteen votes per sample": {**NOTHING_NEW, "votes_per_sample": 16},
}
FRACTIONS = ((1 / 3, 1 / 3, 1 / 3), (1 / 2, 1 / 4, 1 / 4), (1 / 4, 1 / 4, 1 / 2), (1 / 6, 1 / 3, 1 / 2))


class Selection:
    """One private set, with the embeddings of its held-out and of the public texts.

    Args:
        experiment (`Experiment`): The private set.
    """

    def __init__(self, experiment: Experiment) -> None:
        self.config = plain_config(experiment.arguments, 1.29, 0)
        self.samples = experiment.samples
        self.num_clients = len(experiment.clients)
        self.held_out = experiment.models.embed(experiment.held_out)
        self.public = experiment.models.embed(experiment.models.public)

    def round(
        self,
        points: np.ndarray,
        config: PrivateEvolutionConfig,
        rng: np.random.Generator,
        samples: Samples,
        noise_scale: float = 1.0,
    ) -> tuple[np.ndarray, VotesReading]:
        """Draw parents among candidates.

        Args:
            points (`np.ndarray` of shape `(m, d)`): Unit embeddings of the candidates.
            config (`PrivateEvolutionConfig`): The settings.
            rng (`np.random.Generator`): Draws noise and parents.
            samples (`Samples`): Who votes.
            noise_scale (`float`, *optional*, defaults to `1.0`): Multiplies the noise of the settings.

        Returns:
            `tuple`: Indices of the parents, and the noisy votes.
        """
        mechanism = Plan.from_config(config).entry("votes").mechanism
        noise_std = noise_scale * mechanism.noise_std
        clean = clipped_votes(samples, points, config.votes_per_sample, mechanism)
        reading = reading_of(clean + noise_std * rng.standard_normal(len(points)), noise_std, points)
        weights = weigh(reading, config)
        return rng.choice(len(weights), NUM_DRAWS, p=weights / weights.sum()), reading

    def run(
        self,
        config: PrivateEvolutionConfig,
        size: int,
        seeds: Sequence[int],
        noise_scales: Sequence[float],
        samples: Samples | None = None,
    ) -> tuple[float, float]:
        """Run all rounds, whose later candidates are public texts that the evidence prefers.

        Args:
            config (`PrivateEvolutionConfig`): The settings.
            size (`int`): Number of candidates in a round.
            seeds (`Sequence[int]`): Random seeds, one run each.
            noise_scales (`Sequence[float]`): Multiplies the noise of the settings, in each round.
            samples (`Samples`, *optional*): Who votes, by default all clients.

        Returns:
            `tuple` of `float`: Number of texts drawn, and their distance to the held-out ones, as means over runs.
        """
        samples = self.samples if samples is None else samples
        figures = []
        for seed in seeds:
            rng = np.random.default_rng(seed)
            order = rng.permutation(len(self.public))
            now, others = order[:size], order[size : 16 * size]
            reserve, drawn = Reserve(list(map(str, others))), []
            for scale in noise_scales:
                parents, reading = self.round(self.public[now], config, rng, samples, scale)
                drawn.append(now[parents])
                if config.smooth_votes:
                    points = self.public[others]
                    reserve.ratios *= reading.ratios(points, among=points)
                now = np.array(list(map(int, reserve.draw(size, rng))))
                reserve.leave_out(list(map(str, now)))
            union = rng.permutation(np.concatenate(drawn))[:NUM_DRAWS]
            figures.append((len(np.unique(union)), frechet_distance(self.held_out, self.public[union])))
        number, distance = np.mean(figures, axis=0)
        return float(number), float(distance)

    def one_round(self, epsilon: float, num_rounds: int, seeds: Sequence[int]) -> Iterator[str]:
        """Compare strategies in the first of several rounds, with 1,024 candidates."""
        for name, changes in STRATEGIES.items():
            config = replace(self.config, epsilon=epsilon, num_rounds=num_rounds, **changes)
            figures = []
            for seed in seeds:
                rng = np.random.default_rng(seed)
                points = self.public[rng.permutation(len(self.public))[:1024]]
                true = true_votes(self.samples, points)
                parents, _ = self.round(points, config, rng, self.samples)
                lift = true[parents].mean() / true.mean()
                figures.append((lift, len(np.unique(parents)), frechet_distance(self.held_out, points[parents])))
            lift, number, distance = np.mean(figures, axis=0)
            yield f"| {name} | {lift:.1f} | {number:.0f} | {distance:.4f} |"

    def rounds(self, epsilon: float, seeds: Sequence[int]) -> Iterator[str]:
        """Compare numbers of rounds."""
        for num_rounds, size in ((1, 1024), (1, 4096), (2, 1024), (3, 1024), (4, 1024), (6, 512)):
            config = replace(self.config, epsilon=epsilon, num_rounds=num_rounds)
            number, distance = self.run(config, size, seeds, [1.0] * num_rounds)
            yield f"| {num_rounds} rounds of {size} | {number:.0f} | {distance:.4f} |"

    def budgets(self, epsilon: float, seeds: Sequence[int]) -> Iterator[str]:
        """Compare how the budget is divided among three rounds: fractions of the sum of 1 / variance of the noise."""
        for fractions in FRACTIONS:
            scales = [(1 / 3 / fraction) ** 0.5 for fraction in fractions]
            number, distance = self.run(replace(self.config, epsilon=epsilon), 1024, seeds, scales)
            yield f"| {', '.join(f'{each:.2f}' for each in fractions)} | {number:.0f} | {distance:.4f} |"

    def few_clients(self, epsilon: float, seeds: Sequence[int]) -> Iterator[str]:
        """Compare numbers of votes per sample with few clients, in three rounds."""
        order = np.random.default_rng(0).permutation(self.num_clients)
        for num_clients in (100, 300, len(order)):
            samples = self.samples.select(np.isin(self.samples.owners, order[:num_clients]))
            for size in (128, 256, 1024):
                distances = []
                for number in (1, 4, 8, 16):
                    config = replace(self.config, epsilon=epsilon, votes_per_sample=number)
                    scales = [1.0] * config.num_rounds
                    distances.append(self.run(config, size, seeds, scales, samples)[1])
                yield f"| {num_clients} | {size} | " + " | ".join(f"{each:.4f}" for each in distances) + " |"


def main() -> None:
    """Print the tables of one private set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="plays")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args()
    arguments = BenchmarkArguments(data=[options.data], num_held_out=2500)
    selection = Selection(Experiment(options.data, arguments, Models(arguments)))
    for epsilon in (1.29, 7.58):
        print(f"\n{options.data}, first of 11 rounds, epsilon {epsilon}\n\n| strategy | lift | seeds | Fréchet |")
        print("|---|---|---|---|", *selection.one_round(epsilon, 11, options.seeds), sep="\n", flush=True)
        print(f"\n{options.data}, all rounds, epsilon {epsilon}\n\n| rounds | seeds | Fréchet |\n|---|---|---|")
        print(*selection.rounds(epsilon, options.seeds), sep="\n", flush=True)
        print("\nfractions of the budget in three rounds\n\n| fractions | seeds | Fréchet |\n|---|---|---|")
        print(*selection.budgets(epsilon, options.seeds), sep="\n", flush=True)
        print("\nfew clients, by votes per sample\n\n| clients | candidates | 1 | 4 | 8 | 16 |\n" + "|---" * 6 + "|")
        print(*selection.few_clients(epsilon, options.seeds), sep="\n", flush=True)


if __name__ == "__main__":
    main()
