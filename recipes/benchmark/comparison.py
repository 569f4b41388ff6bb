"""The whole benchmark: runs every method on every private set, and writes what is known after each score."""

import dataclasses
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from huggingface_hub.utils import tqdm

from hf_pretext import PrivateEvolutionConfig
from hf_pretext.files import write_json
from hf_pretext.privacy.plan import with_token_fraction

from .arguments import BenchmarkArguments
from .cache import cached
from .experiment import LIFT_EPSILON, LIFT_ROUNDS, Experiment
from .given import check_numbers
from .learners import LEARNERS, Learner, Models
from .methods import METHODS
from .pictures import plot_curve, plot_maps, plot_rounds, plot_scores
from .tables import as_markdown, summarize, write_into_readme
from .trial import Trial
from .work import share

NUM_EXAMPLES = 20
"""Texts of a method that are written for people to read."""


class Found(NamedTuple):
    """What a task of the benchmark found.

    Args:
        rows (`list` of `dict`): Scores with their labels.
        lifts (`list` of `dict`): Lifts of the first round with their labels.
    """

    rows: list[dict[str, Any]]
    lifts: list[dict[str, Any]]


def compare(arguments: BenchmarkArguments) -> dict[str, Any]:
    """Run everything that is not in the cache, and write the results so far after every task.

    Args:
        arguments (`BenchmarkArguments`): What to compare.

    Returns:
        `dict`: The content of `results.json`.

    Raises:
        ValueError: A private set cannot be used, or the results are meant for README and some methods were not run.
    """
    output = Path(arguments.output_dir)
    experiments = load_experiments(arguments)
    models = experiments[0].models
    started = time.perf_counter()
    tasks = list_tasks(experiments, arguments)
    if arguments.processes == 1:
        found: Iterator[Found] = (task() for task in tasks)
    else:
        found = share(partial(plan_tasks, arguments), len(tasks), arguments.processes, [__name__])
    results = collect(tqdm(found, "Benchmark", unit="task", total=len(tasks)), arguments, started)
    results["seconds_of_all_stages"] = round(models.cache.seconds, 1)
    write_results(results, output)
    write_examples(experiments, arguments, output / "examples.md")
    draw_pictures(experiments, arguments, results, output)
    if arguments.readme is not None:
        if lacking := set(arguments.methods) - {row["method"] for row in results["table"]}:
            raise ValueError(f"`readme`={arguments.readme!r} is for a whole run. {sorted(lacking)} were not run.")
        write_into_readme(results, output, Path(arguments.readme))
    return results


def load_experiments(arguments: BenchmarkArguments) -> list[Experiment]:
    """Load the texts, and refuse what cannot be used before any model is loaded."""
    for name in arguments.methods:
        METHODS[name].check(arguments)
    models = Models(arguments)
    experiments = [Experiment(name, arguments, models) for name in arguments.data]
    for experiment in experiments:
        _ = experiment.loaded
    sets = {experiment.name: len(experiment.private_texts) for experiment in experiments}
    check_numbers(arguments, sets, len(models.public))
    return experiments


def plan_tasks(arguments: BenchmarkArguments) -> list[Callable[[], Found]]:
    """List the tasks in a process of its own."""
    logging.getLogger("hf_pretext").setLevel(logging.ERROR)
    return list_tasks(load_experiments(arguments), arguments)


def list_tasks(experiments: Sequence[Experiment], arguments: BenchmarkArguments) -> list[Callable[[], Found]]:
    """List tasks, the most important first: the table, the curve, and the lifts of the first round."""
    jobs = [*list_jobs(experiments, arguments), *list_curve(experiments, arguments)]
    lifts = [partial(find_lift, each, arguments, seed) for each in experiments for seed in arguments.seeds]
    return [*group_jobs(jobs), *lifts]


def group_jobs(jobs: Iterable[tuple[Trial, Learner]]) -> list[Callable[[], Found]]:
    """Make a task of all that is learned from the same texts, so that processes do not wait for one another."""
    groups: dict[tuple[Any, ...], list[tuple[Trial, Learner]]] = {}
    for trial, learner in jobs:
        key = (trial.experiment.name, trial.method.name, trial.epsilon, trial.seed, trial.num_written, trial.best_of)
        groups.setdefault(key, []).append((trial, learner))
    return [partial(score_all, group) for group in groups.values()]


def score_all(jobs: Sequence[tuple[Trial, Learner]]) -> Found:
    """Score learners that learn from the same texts."""
    rows = []
    for trial, learner in jobs:
        rows += [{**labels_of(trial, learner), **found} for found in cached(partial(trial.result, learner))]
    return Found(rows, [])


def find_lift(experiment: Experiment, arguments: BenchmarkArguments, seed: int) -> Found:
    """Measure the lifts of the first round with one random seed."""
    found = cached(partial(experiment.lift, lift_configs(arguments, seed), seed))
    return Found([], [{"data": experiment.name, **lift} for lift in found])


def labels_of(trial: Trial, learner: Learner) -> dict[str, Any]:
    """Return what a row of the table is about, or of the curve."""
    labels = {
        "data": trial.experiment.name,
        "setting": learner.name,
        "epsilon": trial.epsilon,
        "method": trial.method.name,
        "seed": trial.seed,
    }
    if trial.num_texts is None:
        return labels
    return {**labels, "num_texts": trial.num_texts, "best_of": trial.best_of}


def collect(found: Iterable[Found], arguments: BenchmarkArguments, started: float) -> dict[str, Any]:
    """Put together what tasks find, and write the results so far after each of them."""
    rows: list[dict[str, Any]] = []
    lifts: list[dict[str, Any]] = []
    results = summarize(rows, lifts)
    for each in found:
        rows += each.rows
        lifts += each.lifts
        results = summarize(rows, lifts)
        results["arguments"] = dataclasses.asdict(arguments)
        results["seconds_of_this_call"] = round(time.perf_counter() - started, 1)
        write_results(results, Path(arguments.output_dir))
    return results


def write_results(results: dict[str, Any], output: Path) -> None:
    """Write the results as JSON and as a table."""
    write_json(output / "results.json", results)
    (output / "results.md").write_text(as_markdown(results), encoding="utf-8")


def lift_configs(arguments: BenchmarkArguments, seed: int) -> dict[str, PrivateEvolutionConfig]:
    """Make the configuration of each method that has rounds, with the budget and rounds for the lift of the first."""
    configs = {
        name: dataclasses.replace(method.config(arguments, LIFT_EPSILON, seed), num_rounds=LIFT_ROUNDS)
        for name, method in METHODS.items()
        if method.has_rounds
    }
    # As in a run, where the tokens have their part of the budget.
    return {name: with_token_fraction(config, can_tilt=True) for name, config in configs.items()}


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


def list_curve(experiments: Sequence[Experiment], arguments: BenchmarkArguments) -> Iterator[tuple[Trial, Learner]]:
    """Yield what is scored for the curve: more and more texts, with the first random seed and the smallest budget."""
    for experiment in experiments if arguments.curve else []:
        for setting in arguments.settings:
            for method in [METHODS[name] for name in arguments.methods if METHODS[name].has_curve]:
                epsilon = min(arguments.epsilons) if method.spends_budget else None
                trial = Trial(experiment, method, epsilon, arguments.seeds[0], max(arguments.curve))
                for best_of in arguments.curve_best_of if method.has_best_of and arguments.curve_best_of else [None]:
                    for number in sorted(arguments.curve):
                        yield dataclasses.replace(trial, num_texts=number, best_of=best_of), LEARNERS[setting]


def draw_pictures(
    experiments: Sequence[Experiment], arguments: BenchmarkArguments, results: dict[str, Any], output: Path
) -> None:
    """Draw the scores, the rounds, and a map of the texts, of what is in the cache."""
    if results["table"]:
        plot_scores(results, output / "benchmark.png")
    if results["curve"]:
        plot_curve(results["curve"], output / "curve.png")
    if rounds := list(list_rounds(experiments, arguments)):
        plot_rounds(rounds, output / "rounds.png")
    if maps := collect_maps(experiments, arguments):
        plot_maps(maps, output / "maps.png")


def write_examples(experiments: Sequence[Experiment], arguments: BenchmarkArguments, path: Path) -> None:
    """Write random texts of the methods whose texts may be shown, with the first random seed, for people to read."""
    parts = []
    for experiment in experiments:
        for name in arguments.methods:
            for epsilon in arguments.epsilons if METHODS[name].spends_budget else [None]:
                trial = Trial(experiment, METHODS[name], epsilon, arguments.seeds[0])
                for found in cached(trial.texts) if trial.may_be_shown() else []:
                    order = np.random.default_rng(0).permutation(len(found.value))[:NUM_EXAMPLES]
                    title = name if epsilon is None else f"{name}, epsilon {epsilon:g}"
                    lines = [f"- {' '.join(found.value[index].split())}" for index in order]
                    parts.append("\n".join([f"## {experiment.name}: {title}", "", *lines]))
    path.write_text("\n\n".join([f"# {NUM_EXAMPLES} random texts of each method", *parts]) + "\n", encoding="utf-8")


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
