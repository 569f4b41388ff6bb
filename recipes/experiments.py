"""Selection experiments, which need embeddings only: how near do the selected public texts come to the private ones?

```bash
python recipes/experiments.py --data plays --seeds 0 1 2
```

Every figure is computed from clean private votes or held-out text: **evaluation only, not differentially private**.
What was found is written down in `EXPERIMENTS.md`.
"""

import argparse
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from benchmark import Benchmark, BenchmarkArguments, weigh
from benchmark_models import Models

from hf_pretext import PrivateEvolutionConfig
from hf_pretext.measures import frechet_distance
from hf_pretext.population import Reserve
from hf_pretext.privacy import VoteMechanism
from hf_pretext.selection import SmoothedVotes

NUM_DRAWS = 1024
PAPER = {"vote_clipping": "count", "accountant": "rdp", "smooth_votes": False, "new_public_share": 0.0}
NOTHING_NEW = {"new_public_share": 0.0}
STRATEGIES: dict[str, dict[str, Any]] = {
    "paper: counts, threshold 0": {**PAPER, "threshold": 0.0},
    **{f"norm 1, threshold {c}": {**NOTHING_NEW, "smooth_votes": False, "threshold": float(c)} for c in (0, 1, 2, 3)},
    **{f"norm 1, smoothed, threshold {c:g}": {**NOTHING_NEW, "threshold": c} for c in (0.0, 0.5, 1.0, 2.0)},
    "norm 1, smoothed, threshold 1, sixteen votes a sample": {**NOTHING_NEW, "votes_per_sample": 16},
}


class Selection:
    """One private set, with the embeddings of its held-out and of the public texts."""

    def __init__(self, benchmark: Benchmark) -> None:
        self.benchmark = benchmark
        self.config = benchmark.config("default", 1.29, 0)
        self.held_out = benchmark.models.embed(benchmark.held_out)
        self.public = benchmark.models.embed(benchmark.models.public)

    def round(
        self, points: np.ndarray, config: PrivateEvolutionConfig, rng: np.random.Generator, noise_scale: float = 1.0
    ) -> tuple[np.ndarray, SmoothedVotes | None]:
        """Draw parents among candidates; return them, and what smoothing knows of the others."""
        mechanism = VoteMechanism.from_config(config)
        noise_std = noise_scale * mechanism.noise_std
        votes = self.benchmark.clean_histogram(points, mechanism) + noise_std * rng.standard_normal(len(points))
        weights, smoothed = weigh(votes, noise_std, points, config)
        return rng.choice(len(weights), NUM_DRAWS, p=weights / weights.sum()), smoothed

    def one_round(self, epsilon: float, num_rounds: int, seeds: list[int]) -> Iterator[str]:
        """Compare strategies on the first of several rounds, with 1,024 candidates."""
        for name, changes in STRATEGIES.items():
            config = replace(self.config, epsilon=epsilon, num_rounds=num_rounds, **changes)
            figures = []
            for seed in seeds:
                rng = np.random.default_rng(seed)
                points = self.public[rng.permutation(len(self.public))[:1024]]
                true = self.benchmark.true_votes(points)
                parents, _ = self.round(points, config, rng)
                lift = true[parents].mean() / true.mean()
                figures.append((lift, len(np.unique(parents)), frechet_distance(self.held_out, points[parents])))
            lift, number, distance = np.mean(figures, axis=0)
            yield f"| {name} | {lift:.1f} | {number:.0f} | {distance:.4f} |"

    def budgets(self, epsilon: float, seeds: list[int]) -> Iterator[str]:
        """Compare splits of the budget over three rounds: shares of the sum of 1 / variance of the noise."""
        for shares in ((1 / 3, 1 / 3, 1 / 3), (1 / 2, 1 / 4, 1 / 4), (1 / 4, 1 / 4, 1 / 2), (1 / 6, 1 / 3, 1 / 2)):
            scales = [(1 / 3 / share) ** 0.5 for share in shares]
            number, distance = self.run(replace(self.config, epsilon=epsilon), 1024, seeds, scales)
            yield f"| {', '.join(f'{share:.2f}' for share in shares)} | {number:.0f} | {distance:.4f} |"

    def rounds(self, epsilon: float, seeds: list[int]) -> Iterator[str]:
        """Compare numbers of rounds, whose later candidates are public texts that the votes speak for."""
        for num_rounds, size in ((1, 1024), (1, 4096), (2, 1024), (3, 1024), (4, 1024), (6, 512)):
            config = replace(self.config, epsilon=epsilon, num_rounds=num_rounds)
            number, distance = self.run(config, size, seeds, [1.0] * num_rounds)
            yield f"| {num_rounds} rounds of {size} | {number:.0f} | {distance:.4f} |"

    def few_clients(self, epsilon: float, seeds: list[int]) -> Iterator[str]:
        """Compare numbers of votes of a sample where there are few clients, in three rounds."""
        clients, samples = everybody = self.benchmark.voters
        order = np.random.default_rng(0).permutation(len(self.benchmark.clients))
        for num_clients in (100, 300, len(order)):
            taking_part = np.isin(clients, order[:num_clients])
            self.benchmark.voters = clients[taking_part], samples[taking_part]
            for size in (128, 256, 1024):
                distances = []
                for number in (1, 4, 8, 16):
                    config = replace(self.config, epsilon=epsilon, votes_per_sample=number)
                    distances.append(self.run(config, size, seeds, [1.0] * config.num_rounds)[1])
                yield f"| {num_clients} | {size} | " + " | ".join(f"{each:.4f}" for each in distances) + " |"
        self.benchmark.voters = everybody

    def run(
        self, config: PrivateEvolutionConfig, size: int, seeds: list[int], noise_scales: list[float]
    ) -> tuple[float, float]:
        """Run all rounds; return how many texts were drawn, and their distance to the held-out ones, as means."""
        figures = []
        for seed in seeds:
            rng = np.random.default_rng(seed)
            order = rng.permutation(len(self.public))
            now, others = order[:size], order[size : 16 * size]
            reserve, drawn = Reserve(list(map(str, others))), []
            for scale in noise_scales:
                parents, smoothed = self.round(self.public[now], config, rng, scale)
                drawn.append(now[parents])
                if smoothed is not None:
                    reserve.learn(smoothed.predict(self.public[others]))
                now = np.array(list(map(int, reserve.draw(size, rng))))
                reserve.leave_out(list(map(str, now)))
            union = rng.permutation(np.concatenate(drawn))[:NUM_DRAWS]
            figures.append((len(np.unique(union)), frechet_distance(self.held_out, self.public[union])))
        number, distance = np.mean(figures, axis=0)
        return float(number), float(distance)


def main() -> None:
    """Print the tables of one private set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="plays")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args()
    arguments = BenchmarkArguments(data=[options.data], num_held_out=2500)
    selection = Selection(Benchmark(options.data, arguments, Models(arguments)))
    for epsilon in (1.29, 7.58):
        print(f"\n{options.data}, first of 11 rounds, epsilon {epsilon}\n\n| strategy | lift | seeds | Fréchet |")
        print("|---|---|---|---|", *selection.one_round(epsilon, 11, options.seeds), sep="\n", flush=True)
        print(f"\n{options.data}, all rounds, epsilon {epsilon}\n\n| rounds | seeds | Fréchet |\n|---|---|---|")
        print(*selection.rounds(epsilon, options.seeds), sep="\n", flush=True)
        print("\nshares of the budget in three rounds\n\n| shares | seeds | Fréchet |\n|---|---|---|")
        print(*selection.budgets(epsilon, options.seeds), sep="\n", flush=True)
        print("\nfew clients, by votes of a sample\n\n| clients | candidates | 1 | 4 | 8 | 16 |\n" + "|---" * 6 + "|")
        print(*selection.few_clients(epsilon, options.seeds), sep="\n", flush=True)


if __name__ == "__main__":
    main()
