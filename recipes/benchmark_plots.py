"""Pictures of the benchmark; all of them show clean private data: evaluation only, not DP."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

NOT_DP = "evaluation only, not DP"
COLORS = {
    "none": "#999999",
    "public-only": "#56B4E9",
    "expand-only": "#E69F00",
    "dp-fedavg": "#A0522D",
    "dp-ftrl": "#B8A900",
    "paper": "#D55E00",
    "default": "#009E73",
    "expand-private": "#0072B2",
    "finetune-private": "#CC79A7",
}
SETTINGS = {"small": "small model, all weights", "llm": "SmolLM2-135M, LoRA"}


def plot_scores(results: Mapping[str, Any], path: Path) -> None:
    """Draw accuracy and cross-entropy against epsilon, with 95 % intervals over seeds.

    Methods that spend a budget are points; the others, which have no epsilon, are lines across.
    """
    panels = list(dict.fromkeys((row["data"], row["setting"]) for row in results["table"]))
    figure = Figure(figsize=(1.5 + 3.7 * len(panels), 6.6), dpi=110, layout="constrained")
    axes = figure.subplots(2, len(panels), squeeze=False)
    for column, (data, setting) in enumerate(panels):
        rows = [row for row in results["table"] if (row["data"], row["setting"]) == (data, setting)]
        for line, measure in enumerate(("accuracy", "cross_entropy")):
            for method, color in COLORS.items():
                _draw_method(axes[line][column], [row for row in rows if row["method"] == method], measure, color)
            axes[line][column].grid(alpha=0.3)
            axes[line][column].set(xscale="log", xlabel="epsilon", ylabel=measure.replace("_", "-"))
            budgets = sorted({row["epsilon"] for row in rows} - {None})
            axes[line][column].set_xticks(budgets, [f"{budget:g}" for budget in budgets])
            axes[line][column].set_xticks([], minor=True)
            axes[line][column].margins(x=0.4)
        axes[0][column].set_title(f"{data}: {SETTINGS[setting]}", fontsize="medium")
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", fontsize="small")
    figure.suptitle(f"Next tokens of held-out clients' texts ({NOT_DP}); lines: methods without epsilon")
    figure.savefig(path)


def _draw_method(axes: Any, rows: Sequence[Mapping[str, Any]], measure: str, color: str) -> None:
    if not rows:
        return
    means = [row[measure]["mean"] for row in rows]
    reach = [0 if row[measure]["low"] is None else row[measure]["mean"] - row[measure]["low"] for row in rows]
    if rows[0]["epsilon"] is None:
        axes.axhline(means[0], color=color, lw=1.5, label=rows[0]["method"])
        axes.axhspan(means[0] - reach[0], means[0] + reach[0], color=color, alpha=0.15, lw=0)
    else:
        # Beside each other, so that no interval hides another.
        budgets = [row["epsilon"] * 1.07 ** (list(COLORS).index(row["method"]) - 4.5) for row in rows]
        axes.errorbar(budgets, means, reach, color=color, fmt="o-", lw=1.5, capsize=4, label=rows[0]["method"])


def plot_rounds(rounds: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw lift and seeds of every round, means over seeds: a row of panels for each private set.

    Args:
        rounds (`Sequence` of `Mapping`): `data`, `method`, `epsilon`, `round`, `lift` and `survivors` of every round.
        path (`Path`): The PNG file to write.
    """
    names = list(dict.fromkeys(each["data"] for each in rounds))
    figure = Figure(figsize=(9, 3.3 * len(names)), dpi=110, layout="constrained")
    axes = figure.subplots(len(names), 2, squeeze=False)
    for line, name in enumerate(names):
        for column, (key, label) in enumerate((("lift", "lift of the selected"), ("survivors", "seeds found"))):
            curves: dict[tuple[str, float], dict[int, list[float]]] = {}
            for each in (each for each in rounds if each["data"] == name):
                curve = curves.setdefault((each["method"], each["epsilon"]), {})
                curve.setdefault(each["round"], []).append(each[key])
            for (method, epsilon), curve in curves.items():
                style = "-" if epsilon == min(each for _, each in curves) else "--"
                axes[line][column].plot(
                    list(curve),
                    [np.mean(values) for values in curve.values()],
                    style,
                    marker=".",
                    color=COLORS[method],
                    label=f"{method}, {epsilon:g}",
                )
            axes[line][column].set(xlabel="round", ylabel=label, title=name)
            axes[line][column].set_ylim(bottom=0)
            axes[line][column].grid(alpha=0.3)
    axes[0][0].legend(title="method, epsilon", fontsize="small")
    figure.suptitle(f"Rounds ({NOT_DP})")
    figure.savefig(path)


def plot_maps(maps: Mapping[tuple[str, str], Mapping[str, np.ndarray]], path: Path) -> None:
    """Draw texts on the first two principal components of the held-out private ones.

    Args:
        maps (`Mapping`):
            For a private set and a method, embeddings of shape `(n, d)` by what they are of; `held-out` among them.
        path (`Path`): The PNG file to write.
    """
    lines = list(dict.fromkeys(data for data, _ in maps))
    columns = list(dict.fromkeys(method for _, method in maps))
    figure = Figure(figsize=(3.4 * len(columns), 3.5 * len(lines)), dpi=110, layout="constrained")
    axes = figure.subplots(len(lines), len(columns), squeeze=False)
    colors = {"held-out private": "#555555", "initial": "#E69F00", "seeds": "#56B4E9", "synthetic": "#009E73"}
    for (data, method), groups in maps.items():
        panel = axes[lines.index(data)][columns.index(method)]
        center = groups["held-out private"].mean(axis=0)
        components = np.linalg.svd(groups["held-out private"] - center, full_matrices=False)[2][:2]
        for name, points in groups.items():
            panel.scatter(*((points - center) @ components.T).T, s=9, lw=0, alpha=0.55, color=colors[name], label=name)
        panel.set(xticks=[], yticks=[], title=f"{data}: {method}")
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), fontsize="small", markerscale=2)
    figure.suptitle(f"Texts in the space of the embedding model ({NOT_DP})")
    figure.savefig(path)
