"""The whole benchmark: runs every method on every private set, and writes what is known after each score."""

import dataclasses
import logging
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from huggingface_hub.utils import tqdm

from hf_pretext import PrivateEvolutionConfig
from hf_pretext.files import write_json

from .arguments import BenchmarkArguments
from .cache import cached
from .experiment import LIFT_EPSILON, LIFT_ROUNDS, Experiment
from .learners import LEARNERS, Learner, Models
from .methods import METHODS
from .pictures import plot_maps, plot_rounds, plot_scores
from .tables import as_markdown, summarize, write_into_readme
from .trial import Trial


def compare(arguments: BenchmarkArguments) -> dict[str, Any]:
    """Run everything that is not in the cache, and write the results so far after every score.

    Args:
        arguments (`BenchmarkArguments`): What to compare.

    Returns:
        `dict`: The content of `results.json`.

    Raises:
        ValueError: The results are meant for README, and some methods were not run.
    """
    logging.getLogger("hf_pretext").setLevel(logging.ERROR)
    output = Path(arguments.output_dir)
    models = Models(arguments)
    experiments = [Experiment(name, arguments, models) for name in arguments.data]
    started = time.perf_counter()
    lifts = [
        {"data": each.name, **lift}
        for each in experiments
        for seed in arguments.seeds
        for lift in cached(partial(each.lift, lift_configs(arguments, seed), seed))
    ]
    rows: list[dict[str, Any]] = []
    results = summarize(rows, lifts)
    for trial, learner in tqdm(list(list_jobs(experiments, arguments)), "Benchmark", unit="score"):
        labels = {
            "data": trial.experiment.name,
            "setting": learner.name,
            "epsilon": trial.epsilon,
            "method": trial.method.name,
            "seed": trial.seed,
        }
        rows += [{**labels, **found} for found in cached(partial(trial.result, learner))]
        results = summarize(rows, lifts)
        results["arguments"] = dataclasses.asdict(arguments)
        results["seconds_of_all_stages"] = round(models.cache.seconds, 1)
        results["seconds_of_this_call"] = round(time.perf_counter() - started, 1)
        write_json(output / "results.json", results)
        (output / "results.md").write_text(as_markdown(results), encoding="utf-8")
    draw_pictures(experiments, arguments, results, output)
    if arguments.readme is not None:
        if lacking := set(arguments.methods) - {row["method"] for row in results["table"]}:
            raise ValueError(f"`readme`={arguments.readme!r} is for a whole run. {sorted(lacking)} were not run.")
        write_into_readme(results, output, Path(arguments.readme))
    return results


def lift_configs(arguments: BenchmarkArguments, seed: int) -> dict[str, PrivateEvolutionConfig]:
    """Make the configuration of each method that has rounds, with the budget and rounds for the lift of the first."""
    return {
        name: dataclasses.replace(method.config(arguments, LIFT_EPSILON, seed), num_rounds=LIFT_ROUNDS)
        for name, method in METHODS.items()
        if method.has_rounds
    }


def list_jobs(experiments: Sequence[Experiment], arguments: BenchmarkArguments) -> Iterator[tuple[Trial, Learner]]:
    """Yield what is scored, and with which learner, in the order in which it runs."""
    for seed in arguments.seeds:
        for experiment in experiments:
            for setting in arguments.settings:
                for name in arguments.methods:
                    method = METHODS[name]
                    if not method.training.is_on_device or setting in arguments.on_device_settings:
                        for epsilon in arguments.epsilons if method.spends_budget else [None]:
                            yield Trial(experiment, method, epsilon, seed), LEARNERS[setting]


def draw_pictures(
    experiments: Sequence[Experiment], arguments: BenchmarkArguments, results: dict[str, Any], output: Path
) -> None:
    """Draw the scores, the rounds, and a map of the texts, of what is in the cache."""
    if results["table"]:
        plot_scores(results, output / "benchmark.png")
    if rounds := list(list_rounds(experiments, arguments)):
        plot_rounds(rounds, output / "rounds.png")
    if maps := collect_maps(experiments, arguments):
        plot_maps(maps, output / "maps.png")


def list_rounds(experiments: Sequence[Experiment], arguments: BenchmarkArguments) -> Iterator[dict[str, Any]]:
    """Yield what is known of every round in which clients voted."""
    for experiment in experiments:
        for name in arguments.methods:
            for epsilon in arguments.epsilons if METHODS[name].has_rounds else []:
                for seed in arguments.seeds:
                    labels = {"data": experiment.name, "method": name, "epsilon": epsilon}
                    for found in cached(Trial(experiment, METHODS[name], epsilon, seed).seeds):
                        for number, record in enumerate(found.value["rounds"], start=1):
                            yield {**labels, "round": number, **record}


def collect_maps(experiments: Sequence[Experiment], arguments: BenchmarkArguments) -> dict[tuple[str, str], Any]:
    """Embed texts of the methods that have seeds, with the smallest budget and the first random seed."""
    maps = {}
    for experiment in experiments:
        for method in METHODS.values():
            if method.seeds is not None and method.name in arguments.methods:
                epsilon = min(arguments.epsilons) if method.spends_budget else None
                for found in cached(Trial(experiment, method, epsilon, arguments.seeds[0]).map):
                    maps[experiment.name, method.name] = found
    return maps
