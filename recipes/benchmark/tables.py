"""Tables of the benchmark: means and intervals over runs, and the fraction of the gap from floor to ceiling."""

import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import t as student_t

from hf_pretext.evaluation.measures import gap_closed

from .cache import NOT_DP
from .honesty import DIVERSITY
from .learners import LEARNERS
from .methods import METHODS, end_of_gap, floor_and_ceiling

MEASURES = ("accuracy", "top_5_accuracy", "cross_entropy")
OF_TEXTS = ("frechet", *DIVERSITY)
LABELS = ("data", "setting", "epsilon", "method")
CURVE_LABELS = (*LABELS, "num_texts", "best_of")
IN_README = ("accuracy", "cross_entropy")
TABLE_BEGINS, TABLE_ENDS = "<!-- the benchmark writes from here -->", "<!-- to here -->"
PICTURES = ("benchmark.png", "maps.png")

Interval = dict[str, Any]
Row = dict[str, Any]


def interval(values: Sequence[float]) -> Interval:
    """Compute a mean and its 95 % interval over runs by Student's t. One run has no interval."""
    mean = float(np.mean(values))
    if len(values) == 1:
        return {"mean": mean, "low": None, "high": None}
    half = float(student_t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1)) / math.sqrt(len(values))
    return {"mean": mean, "low": mean - half, "high": mean + half}


def summarize(rows: Sequence[Row], lifts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Average rows over runs, and compute which fraction of the gaps from the floor they close.

    Args:
        rows (`Sequence` of `dict`):
            `data`, `setting`, `epsilon`, `method`, `seed`, `MEASURES`, `OF_TEXTS` and `seconds` of each score, and for
            the curve `num_texts` and `best_of`.
        lifts (`Sequence` of `Mapping`): `data`, and the lift of the first round by method, of each run.

    Returns:
        `dict`: `note`, `table`, `curve` and `lift_round_1`, for `results.json`.
    """
    names = [name for name, method in METHODS.items() if any(name in each for each in lifts) and method.has_rounds]
    lift = {
        data: {name: interval([each[name] for each in lifts if each["data"] == data]) for name in names}
        for data in dict.fromkeys(each["data"] for each in lifts)
    }
    table = [row for row in rows if "num_texts" not in row]
    curve = [row for row in rows if "num_texts" in row]
    return {
        "note": NOT_DP,
        "table": _entries(table, LABELS),
        "curve": _entries(curve, CURVE_LABELS),
        "lift_round_1": lift,
    }


def _entries(rows: Sequence[Row], labels: Sequence[str]) -> list[Row]:
    """Make an entry of each group of rows that differ in their random seeds only, in the order of the methods."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row[name] for name in labels), []).append(row)
    keys = {key: dict(zip(labels, key, strict=True)) for key in groups}
    panels = list(dict.fromkeys((each["data"], each["setting"]) for each in keys.values()))
    order = list(METHODS)

    def position(key: tuple[Any, ...]) -> tuple[Any, ...]:
        """Several processes find rows in any order."""
        of = keys[key]
        numbers = [of.get(name) or 0 for name in ("epsilon", "best_of", "num_texts")]
        return panels.index((of["data"], of["setting"])), order.index(of["method"]), *numbers

    return [_entry(keys[key], groups) for key in sorted(groups, key=position)]


def _entry(labels: Row, groups: Mapping[tuple[Any, ...], list[Row]]) -> Row:
    """Make the entry of one method with one budget."""
    members = sorted(groups[tuple(labels.values())], key=lambda row: row["seed"])
    entry: Row = dict(labels)
    of_ends: Row = dict.fromkeys({"epsilon", "best_of"} & set(labels))

    def end(name: str) -> list[Row]:
        return groups.get(tuple({**labels, **of_ends, "method": end_of_gap(name).name}.values()), [])

    for measure in MEASURES:
        entry[measure] = interval([member[measure] for member in members])
        for gap, top in (("gap_closed", "ceiling"), ("gap_closed_to_private", "private")):
            if closed := _gaps_closed(members, end("floor"), end(top), measure):
                entry[f"{gap}_{measure}"] = interval(closed)
    for measure in OF_TEXTS:
        has_texts = members[0][measure] is not None
        entry[measure] = interval([member[measure] for member in members]) if has_texts else None
    entry["seeds"] = [member["seed"] for member in members]
    entry["seconds"] = round(sum(member["seconds"] for member in members), 1)
    return entry


def _gaps_closed(members: Sequence[Row], floor: Sequence[Row], ceiling: Sequence[Row], measure: str) -> list[float]:
    """Compute the fraction of the gap that each run closes.

    Runs of one random seed have the order of the texts in common, so the floor of the same seed is subtracted. Without
    floor or ceiling, or if the ceiling is no better, there is no gap.
    """
    of_seed = {each["seed"]: each[measure] for each in floor}
    low, high = (float(np.mean([each[measure] for each in end])) if end else math.nan for end in (floor, ceiling))
    # A ceiling that is no better than the floor leaves no gap to close.
    if not (low - high if measure == "cross_entropy" else high - low) > 0:
        return []
    return [gap_closed(each[measure] - of_seed.get(each["seed"], low) + low, low, high) for each in members]


def as_markdown(results: Mapping[str, Any]) -> str:
    """Write the table, one line per method and budget, and the lifts."""
    floor, ceiling = floor_and_ceiling()
    lines = [
        f"All figures: {NOT_DP}. Mean over seeds and 95 % interval. Gap: between {floor.name} (0) and {ceiling.name} "
        f"(1). To private: between {floor.name} (0) and {end_of_gap('private').name} (1). The intervals of these "
        "fractions take the length of the gap as known.",
        "",
        *_table(results["table"], LABELS),
    ]
    if results["curve"]:
        lines += ["", "Scores by the number of texts:", "", *_table(results["curve"], CURVE_LABELS)]
    return "\n".join([*lines, *_lift_lines(results["lift_round_1"])]) + "\n"


def _table(rows: Sequence[Row], labels: Sequence[str]) -> list[str]:
    """Write a table of entries."""
    columns = {
        "accuracy": 4,
        "cross_entropy": 3,
        "gap_closed_accuracy": 2,
        "gap_closed_cross_entropy": 2,
        "gap_closed_to_private_cross_entropy": 2,
        "top_5_accuracy": 4,
        "frechet": 4,
        "distinct_2": 3,
        "near_duplicates": 3,
        "copies_of_public": 3,
    }
    titles = [name.replace("gap_closed", "gap").replace("_", " ") for name in (*labels, *columns)]
    lines = [_line(titles), "|---" * len(titles) + "|"]
    for row in rows:
        cells = ["" if row[name] is None else row[name] for name in labels]
        lines.append(_line([*cells, *(_with_interval(row.get(name), digits) for name, digits in columns.items())]))
    return lines


def _lift_lines(lifts: Mapping[str, Mapping[str, Interval]]) -> list[str]:
    """Write the lift of the first round of each method, and those of the others over that of the first method."""
    names = list(next(iter(lifts.values()), {})) or [name for name, each in METHODS.items() if each.has_rounds]
    first, *others = names
    header = ["lift of the first round", *names, *(f"{name} / {first}" for name in others)]
    lines = ["", _line(header), "|---" * len(header) + "|"]
    for data, lift in lifts.items():
        usual = lift[first]["mean"]
        ratios = [f"{lift[name]['mean'] / usual:.1f}" for name in others]
        lines.append(_line([data, *(_with_interval(lift[name], 2) for name in names), *ratios]))
    return lines


def headline(results: Mapping[str, Any]) -> str:
    """Write the table of the page: one column per private set and model, with accuracy and cross-entropy."""
    rows = {(row["data"], row["setting"], row["method"], row["epsilon"]): row for row in results["table"]}
    most = max((len(row["seeds"]) for row in rows.values()), default=0)
    panels = list(dict.fromkeys(key[:2] for key in rows))
    titles = [f"{data}: {LEARNERS[setting].words}" for data, setting in panels]
    lines = [_line([f"accuracy / cross-entropy ({NOT_DP})", *titles]), "|---" * (len(panels) + 1) + "|"]
    order = list(METHODS)
    methods = sorted({key[2:] for key in rows}, key=lambda key: (order.index(key[0]), key[1] or 0))
    for method, epsilon in methods:
        label = method if epsilon is None else f"{method}, epsilon {epsilon:g}"
        lines.append(_line([label, *(_scores(rows.get((*panel, method, epsilon)), most) for panel in panels)]))
    for method, epsilon in methods:
        if METHODS[method].closes_gap:
            of_method = [rows.get((*panel, method, epsilon)) for panel in panels]
            for words, gap, end in (
                ("gap closed", "gap_closed", "ceiling"),
                ("of the way to the private texts", "gap_closed_to_private", "private"),
            ):
                floors, tops = (
                    [rows.get((*panel, end_of_gap(each).name, None)) for panel in panels] for each in ("floor", end)
                )
                cells = [_fractions(*each, gap) for each in zip(of_method, floors, tops, strict=True)]
                if any(cells):
                    lines.append(_line([f"*{words}: {method}, epsilon {epsilon:g}*", *cells]))
    return "\n".join(lines) + "\n"


def _scores(row: Row | None, most_seeds: int) -> str:
    """Show accuracy and cross-entropy, and the number of runs if some are missing."""
    if row is None:
        return ""
    missing = f" (seeds: {len(row['seeds'])})" if len(row["seeds"]) < most_seeds else ""
    return f"{_with_reach(row['accuracy'], 4)} / {_with_reach(row['cross_entropy'], 3)}{missing}"


def _fractions(row: Row | None, floor: Row | None, ceiling: Row | None, gap: str) -> str:
    """Show the fraction of the gap that is closed, unless the gap itself may be zero, or less."""
    if row is None or floor is None or ceiling is None:
        return ""
    cells = []
    for name in (f"{gap}_{measure}" for measure in IN_README):
        least = ceiling[name]["low"] if name in row else 0
        cells.append("not told apart" if least is not None and least <= 0 else _with_reach(row[name], 2))
    return " / ".join(cells)


def _line(cells: Sequence[Any]) -> str:
    return "| " + " | ".join(map(str, cells)) + " |"


def _with_interval(value: Interval | None, digits: int) -> str:
    if value is None:
        return ""
    if value["low"] is None:
        return f"{value['mean']:.{digits}f}"
    return f"{value['mean']:.{digits}f} [{value['low']:.{digits}f}, {value['high']:.{digits}f}]"


def _with_reach(value: Interval, digits: int) -> str:
    reach = "" if value["high"] is None else f" ± {value['high'] - value['mean']:.{digits}f}"
    return f"{value['mean']:.{digits}f}{reach}"


def write_into_readme(results: Mapping[str, Any], output: Path, readme: Path) -> None:
    """Put the table of a run between two marks of a page, and the pictures beside it.

    Args:
        results (`Mapping`): What `summarize` returned.
        output (`Path`): Folder of the pictures.
        readme (`Path`): The page, such as README.md of this folder.

    Raises:
        ValueError: The page lacks the marks.
    """
    before, _, rest = readme.read_text(encoding="utf-8").partition(TABLE_BEGINS)
    _, _, after = rest.partition(TABLE_ENDS)
    if not rest or not after:
        raise ValueError(f"`readme`={str(readme)!r} lacks the lines {TABLE_BEGINS!r} and {TABLE_ENDS!r}.")
    readme.write_text(f"{before}{TABLE_BEGINS}\n{headline(results)}{TABLE_ENDS}{after}", encoding="utf-8")
    for name in PICTURES:
        shutil.copyfile(output / name, readme.parent / name)
