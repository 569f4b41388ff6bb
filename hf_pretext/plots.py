"""Pictures: of a run (noisy votes, survivors, a map of public texts), of an evaluation, and of an audit."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .configuration import PrivateEvolutionConfig
from .privacy.figures import rounded_up
from .privacy.report import PrivacyReport
from .runs.history import RoundRecord

# Okabe and Ito's colors, which color-blind readers can tell apart.
COLORS = ("#999999", "#E69F00", "#0072B2", "#009E73")


def plot_run(
    history: Sequence[RoundRecord],
    report: PrivacyReport,
    config: PrivateEvolutionConfig,
    maps: Mapping[str, np.ndarray],
    footer: str,
    path: Path,
) -> None:
    """Draw a run into a PNG file.

    Args:
        history (`Sequence[RoundRecord]`): The rounds.
        report (`PrivacyReport`): The guarantee, for the title.
        config (`PrivateEvolutionConfig`): The threshold.
        maps (`Mapping[str, np.ndarray]`): Embeddings of public texts, by the name of their stage.
        footer (`str`): A line below the pictures.
        path (`Path`): The file to write.
    """
    # The object-oriented interface leaves the caller's pyplot state and backend alone.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(15, 4.6), dpi=110, layout="constrained")
    votes_axes, survivors_axes, map_axes = figure.subplots(1, 3)
    _plot_votes(votes_axes, history, report, config)
    _plot_survivors(survivors_axes, history)
    _plot_map(map_axes, maps)
    figure.suptitle(
        f"Private Evolution: {report.num_releases} releases, client-level epsilon = {rounded_up(report.epsilon)}, "
        f"delta = {rounded_up(report.delta)}"
    )
    figure.supxlabel(footer, fontsize="small")
    figure.savefig(path)


def _plot_votes(
    axes: Any, history: Sequence[RoundRecord], report: PrivacyReport, config: PrivateEvolutionConfig
) -> None:
    for record in history:
        shade = 0.25 + 0.75 * record.round / history[-1].round
        axes.plot(np.arange(1, len(record.votes) + 1), record.votes, color=COLORS[2], alpha=shade, label=record.round)
    noise_std = report.noise_std or 0.0
    axes.axhspan(-noise_std, noise_std, color=COLORS[0], alpha=0.25, lw=0)
    note = "band: one noise standard deviation"
    if not config.smooth_votes:  # Smoothed votes have less noise, and another threshold.
        axes.axhline(config.threshold * noise_std, color=COLORS[1], ls="--")
        note += ", dashes: threshold"
    axes.set(title="Noisy votes per round", xlabel="candidate, by rank", ylabel="votes", xscale="log")
    axes.legend(title="round", fontsize="small", ncols=2)
    axes.text(0.02, 0.02, note, transform=axes.transAxes, fontsize="small")


def _plot_survivors(axes: Any, history: Sequence[RoundRecord]) -> None:
    rounds = [record.round for record in history]
    axes.bar(rounds, [record.num_candidates for record in history], color=COLORS[0], alpha=0.4, label="candidates")
    axes.bar(rounds, [record.num_survivors for record in history], color=COLORS[2], label="survivors")
    axes.set(title="Survivors, whose union is the seeds", xlabel="round", ylabel="texts", xticks=rounds)
    axes.legend(fontsize="small")


def _plot_map(axes: Any, maps: Mapping[str, np.ndarray]) -> None:
    for (name, places), color in zip(project(maps).items(), COLORS, strict=False):
        across, up = places.T
        axes.scatter(across, up, s=16, color=color, alpha=0.6, label=name, lw=0)
    axes.set(title="Texts in the space of the embedding model", xticks=[], yticks=[])
    axes.set(xlabel="first principal component", ylabel="second")
    if maps:
        axes.legend(fontsize="small")


def project(maps: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Project embeddings of public texts on the first two principal components of all of them together.

    Args:
        maps (`Mapping[str, np.ndarray]`): Embeddings of shape `(n, d)`, by the name of their stage.

    Returns:
        `dict`: Arrays of shape `(n, 2)`.
    """
    if not maps:
        return {}
    everything = np.concatenate(list(maps.values()))
    center = everything.mean(axis=0)
    components = np.linalg.svd(everything - center, full_matrices=False)[2][:2]
    return {name: (embeddings - center) @ components.T for name, embeddings in maps.items()}


def plot_evaluation(figures: Mapping[str, Any], path: Path) -> None:
    """Draw accuracies before and after finetuning, and their differences with intervals, into a PNG file.

    Args:
        figures (`Mapping[str, Any]`): `before`, `after` and `difference` of `recipes/evaluate.py`.
        path (`Path`): The file to write.
    """
    from matplotlib.figure import Figure

    names = [f"top_{k}_accuracy" for k in (1, 3, 5, 10)]
    places = np.arange(len(names))
    figure = Figure(figsize=(11, 4), dpi=110, layout="constrained")
    scores, differences = figure.subplots(1, 2)
    for side, color, shift in (("before", COLORS[0], -0.2), ("after", COLORS[2], 0.2)):
        bars = scores.bar(places + shift, [figures[side][name] for name in names], 0.4, color=color, label=side)
        scores.bar_label(bars, fmt="%.3f", fontsize="small")
    scores.set(title="Next-token accuracy on held-out text", ylabel="fraction of tokens")
    scores.set_xticks(places, ["top 1", "top 3", "top 5", "top 10"])
    scores.legend(fontsize="small")
    changes = [figures["difference"][name] for name in names]
    middle = np.array([change["difference"] for change in changes])
    reach = [middle - [change["low"] for change in changes], [change["high"] for change in changes] - middle]
    differences.errorbar(places, middle, yerr=np.maximum(reach, 0), fmt="o", color=COLORS[2], capsize=4)
    differences.axhline(0, color=COLORS[0], lw=1)
    differences.set(title="After - before, 95 % interval over clients", ylabel="fraction of tokens")
    differences.set_xticks(places, ["top 1", "top 3", "top 5", "top 10"])
    figure.suptitle("Evaluation only: not covered by the guarantee")
    figure.savefig(path)


def plot_audit(figures: Mapping[str, Any], scores: Mapping[str, tuple[np.ndarray, np.ndarray]], path: Path) -> None:
    """Draw what an audit measured beside what is claimed, and the scores of the attacks, into a PNG file.

    Args:
        figures (`Mapping[str, Any]`): What `Audit.to_dict` returns.
        scores (`Mapping[str, tuple[np.ndarray, np.ndarray]]`):
            Scores of members and of other targets, by the name of the attack.
        path (`Path`): The file to write.
    """
    from matplotlib.figure import Figure

    num_rows = -(-(len(scores) + 2) // 3)
    figure = Figure(figsize=(13, 3.2 * num_rows), dpi=110, layout="constrained")
    mus, bounds, *panels = figure.subplots(num_rows, 3).flat
    _plot_mus(mus, [figures["primary"], *figures["kinds"]])
    _plot_bounds(bounds, figures)
    for axes in panels[len(scores) :]:
        axes.set_axis_off()
    for axes, (name, (members, others)) in zip(panels, scores.items(), strict=False):
        edges = np.histogram_bin_edges(np.concatenate([members, others]), bins=24)
        axes.hist(others, edges, color=COLORS[0], alpha=0.7, label="left out")
        axes.hist(members, edges, color=COLORS[2], alpha=0.5, label="participated")
        axes.set(title=name, xlabel="score", ylabel="targets")
        axes.legend(fontsize="small")
    outcome = "the claim is refuted" if figures["refuted_by"] else "the claim is not refuted"
    figure.suptitle(f"Audit: {outcome} (about private data, not covered by the guarantee)")
    figure.savefig(path)


def _plot_mus(axes: Any, readings: Sequence[Mapping[str, Any]]) -> None:
    """Draw mu by kind of question: the claim, and what the primary attack measured, with its interval."""
    rows = np.arange(len(readings))
    middle = np.maximum([each["mu"] for each in readings], 0)
    reach = [middle - [each["low"] for each in readings], [each["high"] for each in readings] - middle]
    axes.errorbar(middle, rows, xerr=np.maximum(reach, 0), fmt="o", color=COLORS[2], capsize=4, label="measured")
    axes.plot([each["claimed_mu"] for each in readings], rows, "D", color=COLORS[1], label="claimed", zorder=3)
    axes.set_yticks(rows, [each["question"].replace(" and ", "\nand ") for each in readings])
    axes.invert_yaxis()
    axes.margins(y=0.5)
    axes.set(title="Primary attack: canaries of every round", xlabel="mu", xlim=(0, None))
    axes.legend(fontsize="small")


def _plot_bounds(axes: Any, figures: Mapping[str, Any]) -> None:
    """Draw the lower bounds on epsilon of all attacks beside the claim."""
    readings = [figures["primary"], *figures["kinds"], *figures["secondary"]]
    names = ["primary", *(each["question"] for each in figures["kinds"]), *(e["attack"] for e in figures["secondary"])]
    rows = np.arange(len(readings))
    colors = [COLORS[2]] * (1 + len(figures["kinds"])) + [COLORS[0]] * len(figures["secondary"])
    bars = axes.barh(rows, [each["epsilon_lower_bound"] for each in readings], color=colors)
    axes.bar_label(bars, fmt="%.2f", padding=3)
    axes.axvline(figures["claimed_epsilon"], color=COLORS[1], ls="--", label=f"claim {figures['claimed_epsilon']:.3g}")
    axes.set_yticks(rows, names, fontsize="small")
    axes.invert_yaxis()
    axes.margins(x=0.2)
    axes.set(title=f"Lower bounds, together {figures['confidence']:.0%} confidence", xlabel="epsilon is at least")
    axes.legend(fontsize="small")
