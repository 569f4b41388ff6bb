"""What should clients say about tokens? A simulation that needs a tokenizer only, and neither a model nor a GPU.

```bash
python -m recipes.benchmark.token_experiments --data plays
```

A writer is simulated whose frequencies of tokens lie between the public and the private ones. The tilt is estimated
from the noisy answer. The gain is how much better the tilted frequencies predict the tokens of held-out texts. Every
figure is computed from private counts and held-out text: **evaluation only, not differentially private**.
`EXPERIMENTS.md` holds what was found.
"""

import argparse
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from pathlib import Path

import numpy as np
from transformers import AutoTokenizer

from hf_pretext import PrivateEvolutionConfig
from hf_pretext.clients.rows import group_by_client
from hf_pretext.evolution.token_tilt import estimate_tilt
from hf_pretext.models.packaged import locate
from hf_pretext.privacy import Plan

from .data import load_private, public_texts
from .experiment import SAMPLES_PER_CLIENT
from .sizes import LLM

STATISTICS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "counts": lambda counts: counts,
    "square roots of counts": np.sqrt,
    "presence": lambda counts: (counts > 0).astype(float),
}
"""What a client makes of its counts, before they are weighted and scaled to norm 1."""

LIKENESS = 0.3
"""How private the simulated writer is: the power of the private frequencies, beside that of the public ones."""

SMOOTHING = 4000
"""Tokens of public text that are added to the private ones, so that none has the frequency zero."""

EPSILONS, FRACTION = (1.29, 7.58), 0.25


def bayes(counts: np.ndarray, noise_std: float, expected: np.ndarray) -> np.ndarray:
    """Estimate the tilt as the library does, if what the writer writes by itself is known exactly."""
    return estimate_tilt(counts, noise_std, expected, np.zeros(len(expected)))


def shrunk_by_signal(counts: np.ndarray, noise_std: float, expected: np.ndarray) -> np.ndarray:
    """Shrink the log ratio by signal over signal and noise, which is simpler than the library's estimate."""
    signal = np.maximum(counts, 1e-3)
    usual = expected * counts.sum() / expected.sum()
    return np.clip(np.log(signal / usual) * signal / (signal + noise_std), -2, 2)


class Tokens:
    """The tokens of one private set.

    Args:
        name (`str`): Its name.
        folder (`Path`): Folder for what is downloaded.
    """

    def __init__(self, name: str, folder: Path) -> None:
        tokenizer = AutoTokenizer.from_pretrained(locate(LLM))
        size = len(tokenizer)

        def count(texts: Sequence[str]) -> np.ndarray:
            ids = tokenizer(list(texts), add_special_tokens=False)["input_ids"]
            return np.bincount(np.fromiter(chain(*ids), dtype=np.int64), minlength=size).astype(float)

        private, held_out = load_private(name, folder)
        config, rng = PrivateEvolutionConfig(epsilon=1.0, delta=3e-6), np.random.default_rng(0)
        clients = [
            [texts[row] for row in rng.permutation(len(texts))[:SAMPLES_PER_CLIENT]]
            for texts in group_by_client(private, config).values()
        ]
        self.clients = np.array([count(texts) for texts in clients], dtype=np.float32)
        self.held_out, self.counts = count(held_out["text"]), count(public_texts(folder))
        self.public = (self.counts + 0.5) / (self.counts + 0.5).sum()
        total = self.clients.sum(axis=0, dtype=np.float64)
        smoothed = (total + SMOOTHING * self.public) / (total.sum() + SMOOTHING)
        self.writer = self.public ** (1 - LIKENESS) * smoothed**LIKENESS
        self.writer /= self.writer.sum()
        self.order = np.argsort(-self.counts, kind="stable")

    def cross_entropy(self, frequencies: np.ndarray) -> float:
        """Compute how well frequencies of tokens predict those of held-out texts, in nats per token."""
        return -float(self.held_out @ np.log(frequencies / frequencies.sum()) / self.held_out.sum())

    def gain(
        self,
        statistic: str,
        power: float,
        num_tokens: int,
        clients: np.ndarray,
        epsilon: float,
        fraction: float = FRACTION,
        estimate: Callable[[np.ndarray, float, np.ndarray], np.ndarray] = bayes,
        num_runs: int = 4,
    ) -> float:
        """Compute by how many nats a tilt makes the writer better, as a mean over runs."""
        tokens = self.order[:num_tokens]
        weights = (np.maximum(self.counts[tokens], 1) / self.counts.max()) ** power
        make, size = STATISTICS[statistic], clients.sum(axis=1, keepdims=True)
        vectors = make(clients[:, tokens].astype(np.float64)) * weights
        vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        # The same of clients who write as the writer does.
        drawn = np.random.default_rng(0).poisson(size * self.writer[tokens])
        usual = make(drawn) * weights
        norms = np.maximum(np.linalg.norm(usual, axis=1, keepdims=True), 1e-12)
        expected = weights * self.writer[tokens] if statistic == "counts" else (usual / norms).sum(axis=0) + 1e-3
        one = Plan.from_config(PrivateEvolutionConfig(epsilon=epsilon, delta=3e-6, num_rounds=1))
        noise_std, gains = one.noise_multiplier / fraction**0.5, []
        for run in range(num_runs):
            noise = noise_std * np.random.default_rng(run).standard_normal(num_tokens)
            tilted = self.writer.copy()
            tilted[tokens] *= np.exp(estimate(vectors.sum(axis=0) + noise, noise_std, expected))
            gains.append(self.cross_entropy(self.writer) - self.cross_entropy(tilted))
        return float(np.mean(gains))

    def table(self) -> Iterator[str]:
        """Compare statistics, weights and numbers of tokens for three numbers of clients and two budgets."""
        order = np.random.default_rng(0).permutation(len(self.clients))
        settings = [("counts", power, number) for power in (0.0, -0.25, -0.5) for number in (512, 2048, 4096, 8192)]
        settings += [(each, power, 2048) for each in ("square roots of counts", "presence") for power in (0.0, -0.25)]
        columns = [(number, epsilon) for number in (len(order), 300, 100) for epsilon in EPSILONS]
        yield "| a client's vector | " + " | ".join(f"{number}, {epsilon}" for number, epsilon in columns) + " |"
        yield "|---" * (len(columns) + 1) + "|"
        for name, power, size in settings:
            gains = [self.gain(name, power, size, self.clients[order[:n]], epsilon) for n, epsilon in columns]
            words = f"{name}, weights of power {power:g}, {size} tokens"
            yield f"| {words} | " + " | ".join(f"{gain:.3f}" for gain in gains) + " |"
        gains = [
            self.gain("counts", -0.25, 2048, self.clients[order[:n]], epsilon, estimate=shrunk_by_signal)
            for n, epsilon in columns
        ]
        words = "counts, power -0.25, 2048 tokens, shrunk by signal"
        yield f"| {words} | " + " | ".join(f"{gain:.3f}" for gain in gains) + " |"
        for fraction in (0.1, 0.25, 0.5, 1.0):
            gains = [self.gain("counts", -0.25, 4096, self.clients[order[:n]], e, fraction) for n, e in columns]
            words = f"{fraction:g} of the budget, counts, power -0.25, 4096 tokens"
            yield f"| {words} | " + " | ".join(f"{gain:.3f}" for gain in gains) + " |"


def main() -> None:
    """Print the table of one private set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="plays")
    options = parser.parse_args()
    for line in Tokens(options.data, Path("build/benchmark/packages")).table():
        print(line, flush=True)


if __name__ == "__main__":
    main()
