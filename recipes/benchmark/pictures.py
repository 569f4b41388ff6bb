"""Pictures of the benchmark. All of them show clean private data: evaluation only, not DP."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from .cache import NOT_DP
from .learners import LEARNERS
from .methods import METHODS, Method

KIND_COLORS = {"held-out private": "#555555", "initial": "#E69F00", "seeds": "#56B4E9", "synthetic": "#009E73"}
"""Colors of the kinds of texts in maps."""


def plot_scores(results: Mapping[str, Any], path: Path) -> None:
    """Draw accuracy and cross-entropy against epsilon, with 95 % intervals over runs.

    Methods that spend a budget are points. The others, which have no epsilon, are lines across.

    Args:
        results (`Mapping`): What `tables.summarize` returned.
        path (`Path`): The PNG file to write.
    """
    panels = list(dict.fromkeys((row["data"], row["setting"]) for row in results["table"]))
    figure = Figure(figsize=(1.5 + 3.7 * len(panels), 6.6), dpi=110, layout="constrained")
    axes = figure.subplots(2, len(panels), squeeze=False)
    for column, (data, setting) in enumerate(panels):
        rows = [row for row in results["table"] if (row["data"], row["setting"]) == (data, setting)]
        for line, measure in enumerate(("accuracy", "cross_entropy")):
            for name, method in METHODS.items():
                _draw_method(axes[line][column], [row for row in rows if row["method"] == name], measure, method)
            axes[line][column].grid(alpha=0.3)
            axes[line][column].set(xscale="log", xlabel="epsilon", ylabel=measure.replace("_", "-"))
            budgets = sorted({row["epsilon"] for row in rows} - {None})
            axes[line][column].set_xticks(budgets, [f"{budget:g}" for budget in budgets])
            axes[line][column].set_xticks([], minor=True)
            axes[line][column].margins(x=0.4)
        axes[0][column].set_title(f"{data}: {LEARNERS[setting].words}", fontsize="medium")
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", fontsize="small")
    figure.suptitle(f"Next tokens of held-out clients' texts\n({NOT_DP}). Lines: methods without epsilon")
    figure.savefig(path)


def _draw_method(axes: Any, rows: Sequence[Mapping[str, Any]], measure: str, method: Method) -> None:
    if not rows:
        return
    means = [row[measure]["mean"] for row in rows]
    reach = [0 if row[measure]["low"] is None else row[measure]["mean"] - row[measure]["low"] for row in rows]
    if not method.spends_budget:
        axes.axhline(means[0], color=method.color, lw=1.5, label=method.name)
        axes.axhspan(means[0] - reach[0], means[0] + reach[0], color=method.color, alpha=0.15, lw=0)
    else:
        # Beside each other, so that no interval hides another.
        spending = [name for name, each in METHODS.items() if each.spends_budget]
        shift = 1.07 ** (spending.index(method.name) - (len(spending) - 1) / 2)
        budgets = [row["epsilon"] * shift for row in rows]
        axes.errorbar(budgets, means, reach, color=method.color, fmt="o-", lw=1.5, capsize=4, label=method.name)


def plot_curve(curve: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw cross-entropy against the number of texts, a panel per private set and model.

    Args:
        curve (`Sequence` of `Mapping`): The curve that `tables.summarize` returned.
        path (`Path`): The PNG file to write.
    """
    panels = list(dict.fromkeys((row["data"], row["setting"]) for row in curve))
    figure = Figure(figsize=(1.5 + 3.7 * len(panels), 3.8), dpi=110, layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for panel, (data, setting) in zip(axes, panels, strict=True):
        of_panel = [row for row in curve if (row["data"], row["setting"]) == (data, setting)]
        for method, best_of in dict.fromkeys((row["method"], row["best_of"]) for row in of_panel):
            rows = [row for row in of_panel if (row["method"], row["best_of"]) == (method, best_of)]
            panel.plot(
                [row["num_texts"] for row in rows],
                [row["cross_entropy"]["mean"] for row in rows],
                "o--" if best_of == 1 else "o-",
                color=METHODS[method].color,
                label=method if best_of is None else f"{method}, best of {best_of}",
            )
        numbers = sorted({row["num_texts"] for row in of_panel})
        panel.set(xscale="log", xlabel="texts to finetune on", ylabel="cross-entropy")
        panel.set_xticks(numbers, [f"{number:,}" for number in numbers])
        panel.set_xticks([], minor=True)
        panel.set_title(f"{data}: {LEARNERS[setting].words}", fontsize="medium")
        panel.grid(alpha=0.3)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", fontsize="small")
    figure.suptitle(f"More synthetic texts ({NOT_DP})")
    figure.savefig(path)


def plot_rounds(rounds: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw lift and seeds of every round, as means over runs. Each private set has a row of panels.

    Args:
        rounds (`Sequence` of `Mapping`): `data`, `method`, `epsilon`, `round`, `lift` and `survivors` of every round.
        path (`Path`): The PNG file to write.
    """
    names = list(dict.fromkeys(each["data"] for each in rounds))
    figure = Figure(figsize=(9, 3.3 * len(names)), dpi=110, layout="constrained")
    axes = figure.subplots(len(names), 2, squeeze=False)
    for line, name in enumerate(names):
        of_set = [each for each in rounds if each["data"] == name]
        for column, (key, label) in enumerate((("lift", "lift of the selected"), ("survivors", "seeds found"))):
            _draw_curves(axes[line][column], of_set, key)
            axes[line][column].set(xlabel="round", ylabel=label, title=name)
            axes[line][column].set_ylim(bottom=0)
            axes[line][column].grid(alpha=0.3)
    axes[0][0].legend(title="method, epsilon", fontsize="small")
    figure.suptitle(f"Rounds ({NOT_DP})")
    figure.savefig(path)


def _draw_curves(axes: Any, rounds: Sequence[Mapping[str, Any]], key: str) -> None:
    """Draw a curve per method and budget. The curve of the smallest budget is solid."""
    curves: dict[tuple[str, float], dict[int, list[float]]] = {}
    for each in rounds:
        curve = curves.setdefault((each["method"], each["epsilon"]), {})
        curve.setdefault(each["round"], []).append(each[key])
    smallest = min(epsilon for _, epsilon in curves)
    for (method, epsilon), curve in curves.items():
        axes.plot(
            list(curve),
            [np.mean(values) for values in curve.values()],
            "-" if epsilon == smallest else "--",
            marker=".",
            color=METHODS[method].color,
            label=f"{method}, {epsilon:g}",
        )


def plot_maps(maps: Mapping[tuple[str, str], Mapping[str, np.ndarray]], path: Path) -> None:
    """Draw texts on the first two principal components of the held-out private ones.

    Args:
        maps (`Mapping`):
            For a private set and a method, embeddings of shape `(n, d)` of each kind of texts (see `KIND_COLORS`).
            `"held-out private"` is one of them.
        path (`Path`): The PNG file to write.
    """
    lines = list(dict.fromkeys(data for data, _ in maps))
    columns = list(dict.fromkeys(method for _, method in maps))
    figure = Figure(figsize=(3.4 * len(columns), 3.5 * len(lines)), dpi=110, layout="constrained")
    axes = figure.subplots(len(lines), len(columns), squeeze=False)
    for (data, method), groups in maps.items():
        panel = axes[lines.index(data)][columns.index(method)]
        center = groups["held-out private"].mean(axis=0)
        components = np.linalg.svd(groups["held-out private"] - center, full_matrices=False)[2][:2]
        for kind, points in groups.items():
            flat = ((points - center) @ components.T).T
            panel.scatter(*flat, s=9, lw=0, alpha=0.55, color=KIND_COLORS[kind], label=kind)
        panel.set(xticks=[], yticks=[], title=f"{data}: {method}")
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), fontsize="small", markerscale=2)
    figure.suptitle(f"Texts in the space of the embedding model ({NOT_DP})")
    figure.savefig(path)
