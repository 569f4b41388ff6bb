"""Compare methods of learning from private text: one command runs them all and writes tables and pictures.

```bash
python recipes/benchmark.py --config recipes/configs/benchmark/small.yaml
```

Every stage (models, seeds, synthetic texts, scores) is cached by its inputs in `output_dir/cache`, so a run that was
stopped goes on, and another method, seed or epsilon repeats nothing. Scores are on held-out clients' texts, and lifts
use clean private votes: **evaluation only, not differentially private**.
"""

import dataclasses
import json
import logging
import sys
import time
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from benchmark_data import load_private
from benchmark_models import Models, finetune
from benchmark_plots import SETTINGS, plot_maps, plot_rounds, plot_scores
from benchmark_results import (
    CEILING,
    FLOOR,
    METHODS,
    ON_DEVICE,
    PRIVATE_METHODS,
    as_markdown,
    summarize,
    write_into_readme,
)
from benchmark_stages import fingerprint, made
from on_device import CLIP_NORMS, NUM_ROUNDS, train_on_devices

# `import evaluate` must find the library, and not the script of that name beside this one.
sys.path[:] = [place for place in sys.path if Path(place).resolve() != Path(__file__).resolve().parent]

from datasets import Dataset
from huggingface_hub.utils import tqdm
from trl import TrlParser

from hf_pretext import PrivateEvolutionConfig, PrivateEvolutionGenerator
from hf_pretext.checkpoint import RunFolder
from hf_pretext.clients import group_by_client
from hf_pretext.evaluation import score_next_tokens
from hf_pretext.measures import frechet_distance
from hf_pretext.privacy import VoteMechanism
from hf_pretext.selection import SmoothedVotes, smooth_votes, threshold_votes
from hf_pretext.voting import VOTE_UNITS, cast_votes, quantize_embeddings

NO_BUDGET = 1.0
"""What stands for epsilon in the settings of a method that has none."""
LIFT_DRAWS = 10
"""Candidates and noise that a seed's lift of the first round is averaged over."""
WITHOUT_SEEDS = ("public-only", "finetune-private")


@dataclass
class BenchmarkArguments:
    """What to compare, and at what size."""

    data: list[str] = field(metadata={"help": "Private sets: plays, mail; mail:100 has 100 of its clients."})
    methods: list[str] = field(default_factory=lambda: list(METHODS), metadata={"help": "Methods to compare."})
    on_device_settings: list[str] = field(
        default_factory=lambda: ["small"], metadata={"help": "Models that the devices train; hours with the LLM."}
    )
    texts_per_device: int = field(default=2, metadata={"help": "Of a client, for one step of the devices' training."})
    settings: list[str] = field(default_factory=lambda: list(SETTINGS), metadata={"help": "Models to finetune."})
    epsilons: list[float] = field(default_factory=lambda: [1.29, 7.58], metadata={"help": "Budgets of a client."})
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2], metadata={"help": "Seeds; each is a run of all."})
    delta: float = field(default=3e-6, metadata={"help": "As in the paper."})
    llm_dtype: str = field(
        default="float32", metadata={"help": "Of the LLM; bfloat16 takes half the time on a processor that has it."}
    )
    num_samples: int = field(default=256, metadata={"help": "Texts to finetune on."})
    num_held_out: int = field(default=1200, metadata={"help": "Texts to score the small model on."})
    num_held_out_llm: int = field(default=300, metadata={"help": "The same for the LLM, which is slower."})
    max_length: int = field(default=48, metadata={"help": "Longest candidate, in tokens."})
    continuations_per_prompt: int = field(default=3, metadata={"help": "Of the expansion, for all methods."})
    paper_population_size: int = field(default=512, metadata={"help": "N_syn of the paper's settings, scaled down."})
    paper_lookahead: int = field(default=1, metadata={"help": "K of the paper's settings; its code has 4."})
    paper_masks_per_pass: int = field(default=4, metadata={"help": "Masks filled at a time; the paper fills one."})
    changes: str = field(
        default="{}", metadata={"help": "For experiments: fields of the default's configuration, as JSON."}
    )
    masked_lm: str | None = field(
        default=None, metadata={"help": "Masked model of the paper's settings; None: one is trained on public text."}
    )
    masked_lm_minutes: float = field(default=10.0, metadata={"help": "Training of the masked model on public text."})
    small_lm_epochs: float = field(default=0.5, metadata={"help": "Pretraining of the small model on public text."})
    small_epochs: int = field(default=2, metadata={"help": "Epochs of finetuning the small model."})
    small_rate: float = field(default=5e-4, metadata={"help": "Learning rate of the small model."})
    llm_epochs: int = field(default=1, metadata={"help": "Epochs of finetuning the LLM."})
    llm_rate: float = field(default=5e-4, metadata={"help": "Learning rate of the LoRA adapters."})
    output_dir: str = field(default="build/benchmark", metadata={"help": "Results, pictures and cache."})
    only_cached: bool = field(
        default=False, metadata={"help": "Train and write nothing: the table and pictures of what is in the cache."}
    )
    readme: str | None = field(default=None, metadata={"help": "README.md, to put the results into."})

    def __post_init__(self) -> None:
        for name, known in (("methods", METHODS), ("settings", SETTINGS)):
            if wrong := set(getattr(self, name)) - set(known):
                raise ValueError(f"`{name}` holds {sorted(wrong)}; choose among {list(known)}.")


class Benchmark:
    """All stages of one private set."""

    def __init__(self, name: str, arguments: BenchmarkArguments, models: Models) -> None:
        self.name, self.arguments, self.models = name, arguments, models
        self.stages = models.stages

    @cached_property
    def data(self) -> tuple[Dataset, Dataset]:
        """The private set and the held-out clients."""
        private, held_out = load_private(self.name, Path(self.arguments.output_dir) / "packages")
        self.models.remember(f"embeddings-of-{self.name}", list(private["text"]))
        return private, held_out

    @cached_property
    def held_out(self) -> list[str]:
        """Held-out clients' texts to score (evaluation only, not DP)."""
        texts = list(self.data[1]["text"])
        order = np.random.default_rng(0).permutation(len(texts))
        return [texts[index] for index in order[: self.arguments.num_held_out]]

    @cached_property
    def clients(self) -> list[list[str]]:
        """The texts of every client, at most 8."""
        groups = group_by_client(self.data[0], self.config("default", 1.0, 0)).values()
        rng = np.random.default_rng(0)
        return [[texts[index] for index in rng.permutation(len(texts))[:8]] for texts in groups]

    @cached_property
    def private_texts(self) -> list[str]:
        """The texts of all clients."""
        return list(chain(*self.clients))

    @cached_property
    def voters(self) -> tuple[np.ndarray, np.ndarray]:
        """Client and quantised embedding of every sample."""
        embeddings = quantize_embeddings(self.models.embed(self.private_texts))
        return np.repeat(np.arange(len(self.clients)), list(map(len, self.clients))), embeddings

    def true_votes(self, points: np.ndarray) -> np.ndarray:
        """Count the samples that are nearest to each candidate, without noise (evaluation only, not DP)."""
        return cast_votes(*self.voters, quantize_embeddings(points), clip_norm=8.0) / VOTE_UNITS

    def clean_histogram(self, points: np.ndarray, mechanism: VoteMechanism) -> np.ndarray:
        """Sum the votes that a mechanism adds noise to (evaluation only, not DP)."""
        rest = mechanism.clip_norm, mechanism.vote_units, mechanism.votes_per_sample
        return cast_votes(*self.voters, quantize_embeddings(points), *rest) / mechanism.vote_units

    def config(self, method: str, epsilon: float, seed: int) -> PrivateEvolutionConfig:
        """Make the settings of a method that spends budget; what all methods share comes on top."""
        arguments = self.arguments
        shared: dict[str, Any] = {
            "seed": seed,
            "delta": arguments.delta,
            "max_length": arguments.max_length,
            "max_new_tokens": 64,
            "min_words": 5,
        }
        if method == "paper":
            scaled = {
                "population_size": arguments.paper_population_size,
                "lookahead": arguments.paper_lookahead,
                "masks_per_pass": arguments.paper_masks_per_pass,
            }
            return PrivateEvolutionConfig.paper(epsilon=epsilon, **{**shared, **scaled})
        changes = json.loads(arguments.changes) if method == "default" else {}
        return PrivateEvolutionConfig(epsilon=epsilon, **{**shared, **changes})

    def seeds(self, method: str, epsilon: float, seed: int) -> dict[str, Any]:
        """Find the texts that are shown to the expansion model: `text` and `votes`; and what every round did."""
        rng = np.random.default_rng(seed)
        if method == FLOOR:
            chosen = rng.permutation(len(self.models.public))[:1024]
            texts = [self.models.public[index] for index in chosen]
            return {"value": {"text": texts, "votes": [1.0] * len(texts)}}
        if method == CEILING:
            return {"value": {"text": self.private_texts, "votes": [1.0] * len(self.private_texts)}}
        config = self.config(method, epsilon, seed)
        inputs: dict[str, Any] = {"data": self.name, "method": method, "config": fingerprint(config)}
        if method == "paper":
            inputs["masked_lm"] = Path(self.models.masked_lm).name

        folder = self.stages.place("run", inputs)

        def evolve() -> dict[str, Any]:
            generator = PrivateEvolutionGenerator(
                self.models.masked_lm if method == "paper" else None,
                self.models.embedder,
                self.models.llm,
                config=config,
                run_dir=folder,
            )
            found = generator.evolve(self.data[0], initial_population=self.models.public)
            rounds = []
            for record, (candidates, votes) in zip(generator.history, RunFolder(folder).rounds(), strict=True):
                points = self.models.embed(candidates)
                weights, _ = weigh(votes, generator.ledger.mechanism.noise_std, points, config)
                lift = lift_of(weights, self.true_votes(points))
                rounds.append({"candidates": len(candidates), "survivors": record.num_survivors, "lift": lift})
            return {**found.to_dict(), "rounds": rounds, "epsilon": generator.privacy_report.epsilon}

        return self.stages("seeds", inputs, evolve)

    def texts(self, method: str, epsilon: float, seed: int) -> dict[str, Any]:
        """Make the texts that a model is finetuned on."""
        number = self.arguments.num_samples
        rng = np.random.default_rng([seed, 1])
        if method in WITHOUT_SEEDS:
            real = self.models.public if method == "public-only" else self.private_texts
            return {"value": [real[index] for index in rng.permutation(len(real))[:number]], "seconds": 0.0}
        seeds = self.seeds(method, epsilon, seed)["value"]
        # What all methods share of the expansion is no matter of the seeds.
        config = dataclasses.replace(
            self.config(method, epsilon, seed), continuations_per_prompt=self.arguments.continuations_per_prompt
        )
        shown = {name: seeds[name] for name in ("text", "votes", "preference") if name in seeds}
        # The floor's texts are the same for all private sets.
        inputs = {
            "data": None if method == FLOOR else self.name,
            "method": method,
            "number": number,
            "config": fingerprint(config),
            "seeds": fingerprint(shown),
            "llm_dtype": self.arguments.llm_dtype,
        }

        def expand() -> list[str]:
            generator = PrivateEvolutionGenerator(None, self.models.embedder, self.models.llm, config=config)
            return list(generator.expand(Dataset.from_dict(shown), number)["text"])

        return self.stages("texts", inputs, expand)

    def score(self, setting: str, method: str, epsilon: float, seed: int) -> dict[str, Any]:
        """Train a model and score it on held-out text (evaluation only, not DP)."""
        arguments = self.arguments
        held_out = self.held_out if setting == "small" else self.held_out[: arguments.num_held_out_llm]
        inputs: dict[str, Any] = {
            "data": self.name,
            "setting": setting,
            "held_out": fingerprint(held_out),
            "model": arguments.small_lm_epochs if setting == "small" else arguments.llm_dtype,
        }
        texts: list[str] = []
        if method in ON_DEVICE:
            inputs |= {"method": method, "epsilon": epsilon, "delta": arguments.delta, "seed": seed}
            inputs |= {"texts_per_device": arguments.texts_per_device, "rounds": NUM_ROUNDS[method]}
            inputs |= {"clip_norm": CLIP_NORMS[method]}
        elif method != "none":
            texts = self.texts(method, epsilon, seed)["value"]
            rate, epochs = getattr(arguments, f"{setting}_rate"), getattr(arguments, f"{setting}_epochs")
            inputs |= {"texts": fingerprint(texts), "epochs": epochs, "rate": rate, "seed": seed}

        def work() -> dict[str, float]:
            model, tokenizer = self.models.to_finetune(setting, seed, rank=1 if method in ON_DEVICE else None)
            if method in ON_DEVICE:
                clients = [texts[: arguments.texts_per_device] for texts in self.clients]
                model = train_on_devices(model, tokenizer, clients, method, epsilon, arguments.delta, seed)
            elif texts:
                model = finetune(model, tokenizer, texts, rate, epochs)
            totals = score_next_tokens(model, tokenizer, held_out, max_length=128).totals()
            return {"accuracy": totals["top_1_accuracy"], "cross_entropy": totals["cross_entropy"]}

        return self.stages("score", inputs, work)

    def lift(self, seed: int) -> dict[str, float]:
        """Measure the first round at the paper's setting (evaluation only, not DP).

        The lift is the mean of the true votes of the candidates that are drawn, over that of all candidates: 1,024
        public texts, the noise of each method in 11 rounds at epsilon 1.29; mean of `LIFT_DRAWS` draws of both.
        """
        configs = {m: dataclasses.replace(self.config(m, 1.29, seed), num_rounds=11) for m in PRIVATE_METHODS}

        def draw(rng: np.random.Generator, mechanisms: dict[str, VoteMechanism]) -> list[float]:
            chosen = rng.permutation(len(self.models.public))[:1024]
            points = self.models.embed([self.models.public[index] for index in chosen])
            true, noise = self.true_votes(points), rng.standard_normal(len(points))
            lifts = []
            for method, mechanism in mechanisms.items():
                votes = self.clean_histogram(points, mechanism) + mechanism.noise_std * noise
                weights, _ = weigh(votes, mechanism.noise_std, points, configs[method])
                lifts.append(lift_of(weights, true))
            return lifts

        def work() -> dict[str, float]:
            rng = np.random.default_rng([seed, 2])
            mechanisms = {method: VoteMechanism.from_config(config) for method, config in configs.items()}
            draws = tqdm(range(LIFT_DRAWS), "Lift of the first round")
            lifts = np.mean([draw(rng, mechanisms) for _ in draws], axis=0)
            return dict(zip(configs, lifts.tolist(), strict=True))

        fields = ("smooth_votes", "threshold", "vote_clipping", "accountant", "votes_per_sample")
        settings = {method: [getattr(config, each) for each in fields] for method, config in configs.items()}
        inputs = {"data": self.name, "seed": seed, "settings": settings, "draws": LIFT_DRAWS}
        return self.stages("lift", inputs, work)["value"]

    def result(self, setting: str, method: str, epsilon: float | None, seed: int) -> dict[str, Any]:
        """Do all that a row of the table needs, and add up its seconds."""
        budget = NO_BUDGET if epsilon is None else epsilon
        scores = self.score(setting, method, budget, seed)
        seconds, frechet = scores["seconds"], None
        if method not in ("none", *ON_DEVICE):
            frechet = self.distances(method, budget, seed)
            seconds += self.texts(method, budget, seed)["seconds"]
        if method in PRIVATE_METHODS:
            seconds += self.seeds(method, budget, seed)["seconds"]
        return {**scores["value"], "frechet": frechet, "seconds": seconds}

    def map(self, method: str, epsilon: float, seed: int) -> dict[str, np.ndarray]:
        """Embed some texts of every kind for a picture (evaluation only, not DP)."""
        rng = np.random.default_rng(seed)
        kinds = {
            "held-out private": self.held_out,
            "initial": self.models.public,
            "seeds": self.seeds(method, epsilon, seed)["value"]["text"],
            "synthetic": self.texts(method, epsilon, seed)["value"],
        }
        return {
            kind: self.models.embed([texts[index] for index in rng.permutation(len(texts))[:200]])
            for kind, texts in kinds.items()
        }

    def distances(self, method: str, epsilon: float, seed: int) -> float:
        """Measure the Fréchet distance of the texts to held-out ones (evaluation only, not DP)."""
        texts = self.texts(method, epsilon, seed)["value"]
        inputs = {"data": self.name, "texts": fingerprint(texts), "held_out": fingerprint(self.held_out)}
        embed = self.models.embed
        return self.stages("frechet", inputs, lambda: frechet_distance(embed(self.held_out), embed(texts)))["value"]


def weigh(
    votes: np.ndarray, noise_std: float, points: np.ndarray, config: PrivateEvolutionConfig
) -> tuple[np.ndarray, SmoothedVotes | None]:
    """Weigh candidates by their noisy votes as a round does; return what smoothing knows of others as well."""
    if not config.smooth_votes:
        return threshold_votes(votes, config.threshold * noise_std), None
    smoothed = smooth_votes(votes, noise_std, points)
    return threshold_votes(smoothed.votes, config.threshold * smoothed.std), smoothed


def lift_of(weights: np.ndarray, true_votes: np.ndarray) -> float:
    """Compute the mean of the true votes of candidates that are drawn by weight, over that of all candidates."""
    return float(weights @ true_votes / weights.sum() / true_votes.mean())


def draw_pictures(
    benchmarks: list[Benchmark], arguments: BenchmarkArguments, results: dict[str, Any], output: Path
) -> None:
    """Draw the scores, the rounds, and where the texts are, of what is known."""
    if results["table"]:
        plot_scores(results, output / "benchmark.png")
    rounds = [
        {"data": each.name, "method": method, "epsilon": epsilon, "round": number, **record}
        for each in benchmarks
        for method in arguments.methods
        if method in PRIVATE_METHODS
        for epsilon in arguments.epsilons
        for seed in arguments.seeds
        for found in made(partial(each.seeds, method, epsilon, seed))
        for number, record in enumerate(found["value"]["rounds"], start=1)
    ]
    if rounds:
        plot_rounds(rounds, output / "rounds.png")
    shown = [method for method in (FLOOR, *PRIVATE_METHODS, CEILING) if method in arguments.methods]
    maps = {
        (each.name, method): found
        for each in benchmarks
        for method in shown
        for epsilon in [min(arguments.epsilons) if method in PRIVATE_METHODS else NO_BUDGET]
        for found in made(partial(each.map, method, epsilon, arguments.seeds[0]))
    }
    if maps:
        plot_maps(maps, output / "maps.png")


def main(arguments: BenchmarkArguments) -> None:
    """Run everything that is not in the cache, and write the results so far after every score."""
    logging.getLogger("hf_pretext").setLevel(logging.ERROR)
    output = Path(arguments.output_dir)
    models = Models(arguments)
    benchmarks = [Benchmark(name, arguments, models) for name in arguments.data]
    jobs = [
        (seed, benchmark, setting, method, epsilon)
        for seed in arguments.seeds
        for benchmark in benchmarks
        for setting in arguments.settings
        for method in arguments.methods
        if method not in ON_DEVICE or setting in arguments.on_device_settings
        for epsilon in (arguments.epsilons if method in (*ON_DEVICE, *PRIVATE_METHODS) else [None])
    ]
    rows: list[dict[str, Any]] = []
    started = time.perf_counter()
    lifts = [
        {"data": each.name, **lift}
        for each in benchmarks
        for seed in arguments.seeds
        for lift in made(partial(each.lift, seed))
    ]
    results = summarize(rows, lifts)
    for seed, benchmark, setting, method, epsilon in tqdm(jobs, "Benchmark", unit="score"):
        row = {"data": benchmark.name, "setting": setting, "epsilon": epsilon, "method": method, "seed": seed}
        rows += [{**row, **found} for found in made(partial(benchmark.result, setting, method, epsilon, seed))]
        results = summarize(rows, lifts)
        results["arguments"] = dataclasses.asdict(arguments)
        results["seconds_of_all_stages"] = round(models.stages.seconds, 1)
        results["seconds_of_this_call"] = round(time.perf_counter() - started, 1)
        (output / "results.json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
        (output / "results.md").write_text(as_markdown(results), encoding="utf-8")
    draw_pictures(benchmarks, arguments, results, output)
    if arguments.readme is not None:
        if lacking := set(arguments.methods) - {row["method"] for row in results["table"]}:
            raise ValueError(f"`readme`={arguments.readme!r} is for a whole run; {sorted(lacking)} were not run.")
        write_into_readme(results, output, Path(arguments.readme))
    print(as_markdown(results))


if __name__ == "__main__":
    main(*TrlParser((BenchmarkArguments,)).parse_args_and_config())
