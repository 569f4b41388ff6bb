"""From what is known of a run to its page: one HTML file.

Texts that language models wrote are hostile until proven otherwise. They reach the page as data, never as markup:
jinja2 escapes all values, the texts stand in a block of JSON without angle brackets, and the script puts them on the
page as text. The page's own policy (Content-Security-Policy) allows its one script by the digest of its content,
and no other script, style, request or frame.
"""

import base64
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.resources import files
from typing import Any

from markupsafe import Markup

from ..cleaning import valid_unicode
from ..configuration import PrivateEvolutionConfig
from ..privacy.figures import rounded_up
from ..privacy.plan import Plan
from ..privacy.report import PrivacyReport, count_of
from ..quality import evenly
from ..runs.history import RoundRecord
from ..templating import templates_with
from . import charts
from .data import STAGES, PageData

LONGEST_TEXT = 2_000
"""Characters of a text that the page shows."""

MOST_CHARACTERS = 1_000_000
"""Characters of all texts of a stage that the page shows. Of longer texts, fewer are shown."""

WITHOUT_SCRIPT = 10
"""Texts that the page shows without its script, and on paper."""

WORDS_OF_METRICS = {
    "frechet_initial": "Fréchet distance of the first candidates to held-out text",
    "frechet_synthetic": "Fréchet distance of the synthetic texts to held-out text",
    "num_texts": "texts on either side of these distances",
    "seconds": "seconds of the whole run",
}
"""What the page calls figures of the quickstart."""

WORDS_OF_LENGTHS = {"texts": "synthetic", "seeds": "seeds", "public": "public"}


@dataclass(frozen=True)
class ShownText:
    """A text that the page shows.

    Args:
        text (`str`): The text.
        note (`str`): What else is known of it, such as its label or its votes.
    """

    text: str
    note: str = ""


@dataclass(frozen=True)
class Excluded:
    """What was measured on private or held-out text, which the guarantee of a run does not cover.

    Args:
        evaluation (`Mapping`, *optional*): What `recipes/evaluate.py` wrote.
        audit (`Mapping`, *optional*): What `recipes/audit.py` wrote.
        metrics (`Mapping`, *optional*): Other figures by their name, such as the quickstart's.
    """

    evaluation: Mapping[str, Any] | None = None
    audit: Mapping[str, Any] | None = None
    metrics: Mapping[str, Any] | None = None

    def __bool__(self) -> bool:
        return any(vars(self).values())


@dataclass(frozen=True)
class RunFacts:
    """Everything that a page shows.

    Args:
        report (`PrivacyReport`): The guarantee.
        config (`PrivateEvolutionConfig`): The settings.
        models (`Mapping[str, str | None]`): What to call each model, by the argument that took it.
        history (`Sequence[RoundRecord]`): The rounds.
        counts (`Mapping[str, int]`): Number of texts of each of `STAGES`.
        shown (`Mapping[str, Sequence[ShownText]]`): Some texts of each of `STAGES`.
        labels (`Sequence` of `Mapping`): Of each label its `name`, `words`, `count` and `share`.
        data (`PageData`): The map, the timings and the quality.
        notices (`Sequence[str]`): What is missing, and why.
        excluded (`Excluded`): Figures that the guarantee does not cover.
    """

    report: PrivacyReport
    config: PrivateEvolutionConfig
    models: Mapping[str, str | None]
    history: Sequence[RoundRecord]
    counts: Mapping[str, int]
    shown: Mapping[str, Sequence[ShownText]]
    labels: Sequence[Mapping[str, Any]] = ()
    data: PageData = field(default_factory=PageData)
    notices: Sequence[str] = ()
    excluded: Excluded = field(default_factory=Excluded)


def render_page(facts: RunFacts) -> str:
    """Write the page of a run. It needs no other file and no network.

    Args:
        facts (`RunFacts`): Everything that it shows.

    Returns:
        `str`: HTML.
    """
    template = templates_with(rounded_up, count_of, autoescape=True).get_template("page.html.jinja")
    script, style = _source("page.js"), _source("page.css")
    page = template.render(
        facts=facts,
        report=facts.report,
        stages=STAGES,
        script=Markup(script),
        style=Markup(style),
        policy=f"default-src 'none'; script-src {_digest(script)}; style-src {_digest(style)}; img-src data:",
        payload=Markup(_as_data(_payload(facts))),
        runs=[_budget(part, facts.config) for part in facts.report.parts or [facts.report]],
        certainty=_certainty,
        words_of_metrics=WORDS_OF_METRICS,
        drawn=_charts(facts),
        charts=charts,
        settings=asdict(facts.config),
        samples=[cut(each.text) for each in facts.shown.get("synthetic", ())[:WITHOUT_SCRIPT]],
    )
    return valid_unicode(page)


def _source(name: str) -> str:
    return files("hf_pretext").joinpath("templates", name).read_text(encoding="utf-8")


def _digest(content: str) -> str:
    """Name the content of an element for the page's policy."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"


def _payload(facts: RunFacts) -> dict[str, Any]:
    """Collect what the script shows: some texts of each stage, and the map."""
    order = list(STAGES)
    points = [
        [order.index(each.stage), round(each.x, 4), round(each.y, 4), cut(each.text), each.note]
        for each in facts.data.points
    ]
    shown = [
        {
            "name": STAGES[stage],
            "total": facts.counts.get(stage, 0),
            "texts": _few([[cut(each.text), each.note] for each in facts.shown.get(stage, ())]),
        }
        for stage in order
    ]
    return {"stages": shown, "points": points}


def _few(texts: list[list[str]]) -> list[list[str]]:
    total = sum(len(text) for text, _ in texts)
    return texts if total <= MOST_CHARACTERS else evenly(texts, max(1, len(texts) * MOST_CHARACTERS // total))


def cut(text: str) -> str:
    """Cut a text to what a page shows of it, and mark that it was cut."""
    text = valid_unicode(text)
    return text if len(text) <= LONGEST_TEXT else f"{text[:LONGEST_TEXT]} […]"


def _as_data(values: Any) -> str:
    """Write JSON that stands inside an element of a page, where it can end neither the element nor begin another."""
    content = json.dumps(values, ensure_ascii=False)
    for character in "<>&\u2028\u2029":
        content = content.replace(character, f"\\u{ord(character):04x}")
    return content


def _budget(part: PrivacyReport, config: PrivateEvolutionConfig) -> dict[str, Any]:
    """List what each kind of release cost."""
    plan = Plan.from_config(config)
    is_known = part.accountant == plan.accountant.name and part.client_sampling_rate == plan.client_sampling_rate
    rows: list[dict[str, Any]] = []
    for question, releases in part.kinds.items():
        mechanism = releases[0].mechanism
        multiplier = mechanism.noise_multiplier
        spent = [(each.mechanism, each.num_bins) for each in releases]
        rows.append(
            {
                "question": question,
                "words": (part.descriptions or {}).get(question, ""),
                "count": len(releases),
                "num_bins": max(each.num_bins for each in releases),
                "mechanism": mechanism,
                "cost": len(releases) / multiplier**2 if multiplier else math.inf,
                "alone": plan.epsilon(part.delta, spent) if is_known and part.is_finite else None,
            }
        )
    total = math.fsum(row["cost"] for row in rows)
    for row in rows:
        row["share"] = row["cost"] / total if 0 < total < math.inf else 0.0
    return {"report": part, "rows": rows, "bar": charts.stacked_bar([(row["question"], row["share"]) for row in rows])}


def _certainty(epsilon: float) -> str:
    """How sure someone can become who was undecided: e^epsilon / (1 + e^epsilon), rounded up, as a percentage."""
    percent = 100 / (1 + math.exp(-min(epsilon, 700)))
    return f"{min(math.ceil(10 * percent) / 10, 100):.1f} %"


def _charts(facts: RunFacts) -> dict[str, Markup]:
    config, rounds, drawn = facts.config, facts.history, {}
    if rounds:
        noise_std = facts.report.noise_std or 0.0
        # Smoothed votes have less noise, and another threshold.
        threshold = None if config.smooth_votes else config.threshold * noise_std
        drawn = {
            "votes": charts.votes_chart(rounds, noise_std, threshold),
            "survivors": charts.survivors_chart(rounds),
        }
    if facts.data.quality is not None:
        drawn["lengths"] = charts.lengths_chart(facts.data.quality.histogram, WORDS_OF_LENGTHS)
    return drawn
