"""Charts as SVG: pure functions from numbers to markup. Colors come from the style of the page."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup, escape

WIDTH, HEIGHT = 640, 270
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 14, 50
MOST_POINTS = 120
"""Points of a curve. A curve over ranks of a thousand candidates does not need all of them."""


@dataclass(frozen=True)
class Axes:
    """The scales of a chart.

    Args:
        x (`tuple` of `float`): Smallest and largest value across.
        y (`tuple` of `float`): Smallest and largest value upwards.
        is_log (`bool`): Whether the scale across is logarithmic.
    """

    x: tuple[float, float]
    y: tuple[float, float]
    is_log: bool = False

    def across(self, value: float) -> float:
        """Return where a value is, in pixels from the left."""
        low, high, value = (math.log10(each) if self.is_log else each for each in (*self.x, value))
        return LEFT + (value - low) / ((high - low) or 1) * (WIDTH - LEFT - RIGHT)

    def up(self, value: float) -> float:
        """Return where a value is, in pixels from the top."""
        low, high = self.y
        return HEIGHT - BOTTOM - (value - low) / ((high - low) or 1) * (HEIGHT - TOP - BOTTOM)

    def frame(self, x_ticks: Sequence[float], x_name: str, y_name: str, is_percent: bool = False) -> list[Markup]:
        """Draw the grid, the ticks and the names of the axes."""
        parts = []
        for tick in ticks(*self.y):
            height, label = round(self.up(tick), 1), f"{tick:.0%}" if is_percent else f"{tick:,g}"
            parts.append(tag("line", x1=LEFT, x2=WIDTH - RIGHT, y1=height, y2=height, class_="grid"))
            parts.append(text(label, LEFT - 8, height + 4, anchor="end"))
        for tick in x_ticks:
            parts.append(text(f"{tick:,g}", self.across(tick), HEIGHT - BOTTOM + 18))
        parts.append(text(x_name, (LEFT + WIDTH - RIGHT) / 2, HEIGHT - 5, class_="name"))
        middle = (TOP + HEIGHT - BOTTOM) / 2
        turn = f"rotate(-90 11 {middle})"
        return [*parts, text(y_name, 11, middle, class_="name upright", transform=turn)]

    def path(self, points: Sequence[tuple[float, float]], **attributes: Any) -> Markup:
        """Draw a curve."""
        places = [f"{self.across(x):.1f} {self.up(y):.1f}" for x, y in points]
        return tag("path", d="M" + "L".join(places), **attributes)

    def bar(self, left: float, right: float, value: float, about: str, class_: str) -> Markup:
        """Draw a bar from zero to a value. A pointer that rests on it sees what it is about."""
        first, last, top, zero = self.across(left), self.across(right), self.up(value), self.up(0)
        inner = Markup("<title>{}</title>").format(about)
        width, height = f"{last - first:.1f}", f"{max(zero - top, 0):.1f}"
        return tag("rect", inner, x=f"{first:.1f}", y=f"{top:.1f}", width=width, height=height, class_=class_)


def votes_chart(rounds: Sequence[Any], noise_std: float, threshold: float | None) -> Markup:
    """Draw the noisy votes of each round, by rank.

    Args:
        rounds (`Sequence` of `RoundRecord`): The rounds.
        noise_std (`float`): Standard deviation of the noise in a bin.
        threshold (`float`, *optional*): Votes above which a candidate survives.
    """
    highest = max([*(max(each.votes) for each in rounds), threshold or 0, noise_std, 1e-9])
    lowest = min([*(min(each.votes) for each in rounds), -noise_std, 0])
    most = max(2, *(len(each.votes) for each in rounds)) if rounds else 2
    axes = Axes((1, most), (lowest, highest * 1.05), is_log=True)
    parts = axes.frame([10**power for power in range(int(math.log10(most)) + 1)], "candidate, by rank", "noisy votes")
    band: dict[str, Any] = {"x": LEFT, "width": WIDTH - LEFT - RIGHT, "y": f"{axes.up(noise_std):.1f}"}
    parts.append(tag("rect", **band, height=f"{axes.up(-noise_std) - axes.up(noise_std):.1f}", class_="band"))
    if threshold is not None:
        parts.append(axes.path([(1, threshold), (most, threshold)], class_="threshold"))
    for number, each in enumerate(rounds, start=1):
        ranks = sorted({round(most ** (step / MOST_POINTS)) for step in range(MOST_POINTS + 1)} | {1})
        points = [(rank, each.votes[rank - 1]) for rank in ranks if rank <= len(each.votes)]
        shade = 0.35 + 0.65 * number / len(rounds)
        inner = Markup("<title>round {}</title>").format(each.round)
        places = "L".join(f"{axes.across(x):.1f} {axes.up(y):.1f}" for x, y in points)
        parts.append(tag("path", inner, d="M" + places, class_="curve synthetic", stroke_opacity=f"{shade:.2f}"))
    return svg(parts, "Noisy votes per round, from the candidate with most votes to the one with fewest")


def survivors_chart(rounds: Sequence[Any]) -> Markup:
    """Draw how many candidates each round had, and how many survived."""
    highest = max(1, *(each.num_candidates for each in rounds)) if rounds else 1
    axes = Axes((0.5, len(rounds) + 0.5), (0, highest * 1.05))
    step = max(1, math.ceil(len(rounds) / 12))
    numbers = [each.round for each in rounds]
    parts = axes.frame([], "round", "texts")
    for place, each in enumerate(rounds, start=1):
        sides = (("candidates", each.num_candidates, "public"), ("survivors", each.num_survivors, "synthetic"))
        for name, count, class_ in sides:
            about = f"round {each.round}: {count:,} {name}"
            parts.append(axes.bar(place - 0.3, place + 0.3, count, about, f"fill {class_}"))
        if (place - 1) % step == 0:
            parts.append(text(str(numbers[place - 1]), axes.across(place), HEIGHT - BOTTOM + 18))
    return svg(parts, "Candidates and survivors per round")


def lengths_chart(histogram: Mapping[str, Sequence[float]], names: Mapping[str, str]) -> Markup:
    """Draw histograms of lengths: bars of the written texts, and outlines of the others.

    Args:
        histogram (`Mapping`): `edges`, and fractions of texts under the name of each side.
        names (`Mapping[str, str]`): Class of the style for each side, the bars first.
    """
    edges = histogram["edges"]
    sides = {name: histogram[name] for name in names if name in histogram}
    axes = Axes((0, edges[-1]), (0, 1.05 * max(max(side) for side in sides.values()) or 1))
    whole = [tick for tick in ticks(0, edges[-1]) if tick == int(tick)]
    parts = axes.frame(whole, "words in a text", "fraction of texts", is_percent=True)
    for name, fractions in sides.items():
        pairs = list(zip(edges[:-1], edges[1:], fractions, strict=True))
        if name == next(iter(names)):
            for low, high, share in pairs:
                about = f"{low:,.0f} to {high - 1:,.0f} words: {share:.1%}"
                parts.append(axes.bar(low, high - 0.06 * (high - low), share, about, f"fill {names[name]}"))
        else:
            outline = [point for low, high, share in pairs for point in ((low, share), (high, share))]
            parts.append(axes.path(outline, class_=f"curve {names[name]}"))
    return svg(parts, "Lengths of texts in words")


def stacked_bar(parts_of_whole: Sequence[tuple[str, float]]) -> Markup:
    """Draw one bar that is divided in proportion, such as the budget among the questions."""
    total, start, drawn = sum(share for _, share in parts_of_whole) or 1, 0.0, []
    for number, (name, share) in enumerate(parts_of_whole):
        width = share / total * WIDTH
        inner = Markup("<title>{}: {:.0%}</title>").format(name, share / total)
        shape: dict[str, Any] = {
            "x": f"{start:.1f}",
            "y": 0,
            "width": f"{max(width - 2, 1):.1f}",
            "height": 18,
            "rx": 3,
        }
        drawn.append(tag("rect", inner, **shape, class_=f"part part-{number % 6}"))
        start += width
    about = ", ".join(f"{name} {share / total:.0%}" for name, share in parts_of_whole)
    return svg(drawn, about, height=18, class_="bar")


def meter(fraction: float) -> Markup:
    """Draw a small bar that is filled up to a fraction, for a cell of a table."""
    width = 100 * min(max(fraction, 0), 1)
    shapes = [
        tag("rect", x=0, y=0, width=100, height=8, rx=4, class_="track"),
        tag("rect", x=0, y=0, width=f"{width:.1f}", height=8, rx=4, class_="fill synthetic"),
    ]
    joined = Markup("").join(shapes)
    return tag("svg", joined, viewBox="0 0 100 8", class_="meter", aria_hidden="true", preserveAspectRatio="none")


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Choose round numbers between two values."""
    span = (high - low) or 1
    step = 10 ** math.floor(math.log10(span / most))
    step *= next(factor for factor in (1, 2, 5, 10) if span / (step * factor) <= most)
    return [round(number * step, 10) for number in range(math.ceil(low / step), math.floor(high / step) + 1)]


def svg(parts: Sequence[Markup], about: str, height: int = HEIGHT, class_: str = "chart") -> Markup:
    """Put the parts of a chart together, with words for those who do not see it."""
    inner = Markup("").join(parts)
    return tag("svg", inner, viewBox=f"0 0 {WIDTH} {height}", role="img", aria_label=about, class_=class_)


def text(words: str, x: float, y: float, anchor: str = "middle", **attributes: Any) -> Markup:
    """Write words into a chart."""
    return tag("text", escape(words), x=f"{x:.1f}", y=f"{y:.1f}", text_anchor=anchor, **attributes)


def tag(name: str, inner: Markup | str = "", **attributes: Any) -> Markup:
    """Make an element. `class_` is its class, and an underscore in the name of another attribute is a hyphen."""
    pairs = Markup("").join(
        Markup(' {}="{}"').format(key.rstrip("_").replace("_", "-"), value) for key, value in attributes.items()
    )
    return Markup("<{name}{pairs}>{inner}</{name}>").format(name=name, pairs=pairs, inner=inner)
