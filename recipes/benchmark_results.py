"""Tables of the benchmark: means and intervals over seeds, and the way from the floor to the ceiling."""

import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from benchmark_plots import COLORS, NOT_DP, SETTINGS
from scipy.stats import t as student_t

from hf_pretext.measures import gap_closed

METHODS = tuple(COLORS)
FLOOR, CEILING = "expand-only", "expand-private"
ON_DEVICE = ("dp-fedavg", "dp-ftrl")
PRIVATE_METHODS = ("paper", "default")
TABLE_BEGINS, TABLE_ENDS = "<!-- benchmark.py writes from here -->", "<!-- to here -->"


def interval(values: Sequence[float]) -> dict[str, float | None]:
    """Compute a mean and its 95 % interval over seeds by Student's t; there is none for one seed."""
    mean = float(np.mean(values))
    if len(values) == 1:
        return {"mean": mean, "low": None, "high": None}
    half = float(student_t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1)) / math.sqrt(len(values))
    return {"mean": mean, "low": mean - half, "high": mean + half}


def summarize(rows: list[dict[str, Any]], lifts: list[dict[str, Any]]) -> dict[str, Any]:
    """Average rows over seeds, and place them between the floor and the ceiling."""
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["data"], row["setting"], row["epsilon"], row["method"]), []).append(row)
    table = []
    for (data, setting, epsilon, method), members in groups.items():
        entry: dict[str, Any] = {"data": data, "setting": setting, "epsilon": epsilon, "method": method}
        for measure in ("accuracy", "cross_entropy"):
            ends = [groups.get((data, setting, None, name)) for name in (FLOOR, CEILING)]
            entry[measure] = interval([member[measure] for member in members])
            if all(ends):
                floor, ceiling = ({each["seed"]: each[measure] for each in end} for end in ends)
                middle, gap = np.mean(list(floor.values())), np.mean(list(ceiling.values()))
                # A seed's runs share the order of the texts, so the floor of the same seed is taken off each.
                entry[f"gap_closed_{measure}"] = interval(
                    [
                        gap_closed(each[measure] - floor.get(each["seed"], middle) + middle, middle, gap)
                        for each in members
                    ]
                )
        entry["frechet"] = interval([m["frechet"] for m in members]) if members[0]["frechet"] is not None else None
        entry["seeds"] = [member["seed"] for member in members]
        entry["seconds"] = round(sum(member["seconds"] for member in members), 1)
        table.append(entry)
    lift = {
        data: {name: interval([each[name] for each in lifts if each["data"] == data]) for name in PRIVATE_METHODS}
        for data in dict.fromkeys(each["data"] for each in lifts)
    }
    return {"note": NOT_DP, "table": table, "lift_round_1": lift}


def as_markdown(results: dict[str, Any]) -> str:
    """Write the table, a line a method."""

    def show(value: dict[str, float | None] | None, digits: int) -> str:
        if value is None:
            return ""
        if value["low"] is None:
            return f"{value['mean']:.{digits}f}"
        return f"{value['mean']:.{digits}f} [{value['low']:.{digits}f}, {value['high']:.{digits}f}]"

    lines = [
        f"All figures: {NOT_DP}. Mean over seeds and 95 % interval; gap: between {FLOOR} (0) and {CEILING} (1).",
        "",
        "| data | model | epsilon | method | accuracy | cross-entropy | gap (accuracy) | (cross-entropy) | Fréchet |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in results["table"]:
        cells = [row["data"], row["setting"], "" if row["epsilon"] is None else row["epsilon"], row["method"]]
        cells += [show(row["accuracy"], 4), show(row["cross_entropy"], 3)]
        cells += [show(row.get(f"gap_closed_{measure}"), 2) for measure in ("accuracy", "cross_entropy")]
        cells.append(show(row["frechet"], 4))
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    lines += ["", "| lift of the first round | paper's settings | default | ratio |", "|---|---|---|---|"]
    for data, lift in results["lift_round_1"].items():
        ratio = lift["default"]["mean"] / lift["paper"]["mean"]
        lines.append(f"| {data} | {show(lift['paper'], 2)} | {show(lift['default'], 2)} | {ratio:.1f} |")
    return "\n".join(lines) + "\n"


def headline(results: dict[str, Any]) -> str:
    """Write the table of README: a column a private set and model, accuracy and cross-entropy."""

    def show(value: dict[str, float | None], digits: int) -> str:
        reach = "" if value["high"] is None else f" ± {value['high'] - value['mean']:.{digits}f}"
        return f"{value['mean']:.{digits}f}{reach}"

    rows = {(row["data"], row["setting"], row["method"], row["epsilon"]): row for row in results["table"]}
    most = max((len(row["seeds"]) for row in rows.values()), default=0)
    panels = list(dict.fromkeys(key[:2] for key in rows))
    lines = [
        f"| accuracy; cross-entropy ({NOT_DP}) | "
        + " | ".join(f"{data}: {SETTINGS[setting]}" for data, setting in panels)
        + " |",
        "|---" * (len(panels) + 1) + "|",
    ]

    def scores(row: dict[str, Any] | None) -> str:
        if row is None:
            return ""
        lacking = f" (seeds: {len(row['seeds'])})" if len(row["seeds"]) < most else ""
        return f"{show(row['accuracy'], 4)}; {show(row['cross_entropy'], 3)}{lacking}"

    def shares(panel: tuple[str, str], row: dict[str, Any] | None) -> str:
        cells = []
        for name in ("gap_closed_accuracy", "gap_closed_cross_entropy"):
            if row is None or name not in row:
                return ""
            least = rows[(*panel, CEILING, None)][name]["low"]
            cells.append("not told apart" if least is not None and least <= 0 else show(row[name], 2))
        return "; ".join(cells)

    methods = sorted({key[2:] for key in rows}, key=lambda key: (METHODS.index(key[0]), key[1] or 0))
    for method, epsilon in methods:
        cells = [scores(rows.get((*panel, method, epsilon))) for panel in panels]
        lines.append(f"| {method}{'' if epsilon is None else f', epsilon {epsilon:g}'} | " + " | ".join(cells) + " |")
    for method, epsilon in methods:
        if method in PRIVATE_METHODS:
            cells = [shares(panel, rows.get((*panel, method, epsilon))) for panel in panels]
            lines.append(f"| *gap closed: {method}, epsilon {epsilon:g}* | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def write_into_readme(results: dict[str, Any], output: Path, readme: Path) -> None:
    """Put the table and the pictures of a run where README shows them."""
    before, _, rest = readme.read_text(encoding="utf-8").partition(TABLE_BEGINS)
    _, _, after = rest.partition(TABLE_ENDS)
    if not rest or not after:
        raise ValueError(f"`readme`={str(readme)!r} lacks the lines {TABLE_BEGINS!r} and {TABLE_ENDS!r}.")
    readme.write_text(f"{before}{TABLE_BEGINS}\n{headline(results)}{TABLE_ENDS}{after}", encoding="utf-8")
    for name, shown in (("benchmark.png", "benchmark.png"), ("maps.png", "benchmark-maps.png")):
        shutil.copyfile(output / name, readme.parent / "recipes" / shown)
