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
from benchmark import Benchmark, BenchmarkArguments, Models

from hf_pretext.measures import frechet_distance
from hf_pretext.population import Reserve

NUM_DRAWS = 1024
PAPER = {"vote_clipping": "count", "accountant": "rdp", "smooth_votes": False, "new_public_share": 0.0}
COUNTED_L2 = {"smooth_votes": False, "new_public_share": 0.0}
STRATEGIES: dict[str, dict[str, Any]] = {
    "paper: counts, threshold 0": {**PAPER, "threshold": 0.0},
    **{f"norm 1, threshold {c}": {**COUNTED_L2, "threshold": float(c)} for c in (0, 1, 2, 3)},
    **{f"norm 1, smoothed, threshold {c:g}": {"threshold": c, "new_public_share": 0.0} for c in (0.0, 0.5, 1.0, 2.0)},
}


class Selection:
    """One private set, with the embeddings of its held-out and of the public texts."""

    def __init__(self, benchmark: Benchmark) -> None:
        self.benchmark = benchmark
        self.config = benchmark.config("default", 1.29, 0)
        self.held_out = benchmark.models.embed(benchmark.held_out)
        self.public = benchmark.models.embed(benchmark.models.public)

    def round(self, points: np.ndarray, config: Any, rng: np.random.Generator) -> tuple[np.ndarray, Any]:
        """Draw parents among candidates; return them, and what smoothing knows of the others."""
        weights, smoothed = self.benchmark.simulate_round(points, config, rng.standard_normal(len(points)))
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

    def rounds(self, epsilon: float, seeds: list[int]) -> Iterator[str]:
        """Compare numbers of rounds, whose later candidates are public texts that the votes speak for."""
        for num_rounds, size in ((1, 1024), (1, 4096), (2, 1024), (3, 1024), (4, 1024), (6, 512)):
            config = replace(self.config, epsilon=epsilon, num_rounds=num_rounds)
            figures = []
            for seed in seeds:
                rng = np.random.default_rng(seed)
                order = rng.permutation(len(self.public))
                now, others = order[:size], order[size : 16 * size]
                reserve, drawn = Reserve(list(map(str, others))), []
                for _ in range(num_rounds):
                    parents, smoothed = self.round(self.public[now], config, rng)
                    drawn.append(now[parents])
                    reserve.learn(smoothed.predict(self.public[others]))
                    now = np.array(list(map(int, reserve.draw(size, rng))))
                    reserve.leave_out(list(map(str, now)))
                union = rng.permutation(np.concatenate(drawn))[:NUM_DRAWS]
                figures.append((len(np.unique(union)), frechet_distance(self.held_out, self.public[union])))
            number, distance = np.mean(figures, axis=0)
            yield f"| {num_rounds} rounds of {size} | {number:.0f} | {distance:.4f} |"


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


if __name__ == "__main__":
    main()
