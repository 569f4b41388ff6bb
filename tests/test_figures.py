"""Figures that are shown: an epsilon or a delta is never shown as less than it is, wherever it is shown."""

import math
import re
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import hf_pretext
from hf_pretext import PrivateEvolutionConfig
from hf_pretext.cards import dataset_card
from hf_pretext.privacy import Plan, PrivacyLedger, PrivacyReport, rounded_up
from hf_pretext.privacy.bill import bill
from support.tiny import release

SHOWN = {
    3.0: "3",
    3.0000009: "3.001",
    2.9999979: "3",
    1.29: "1.29",
    1.2900001: "1.291",
    12.3450009: "12.35",
    0.1 + 0.2: "0.3001",
    1e-5: "1e-05",
    1.2345674e-5: "1.235e-05",
    9.9999999e-6: "1e-05",
    123456.0: "1.235e+05",
    0.0: "0",
    math.inf: "inf",
}


@pytest.mark.parametrize("value", SHOWN)
def test_what_is_shown(value):
    assert rounded_up(value) == SHOWN[value]


@example(value=3.0000000000000004, digits=4)
@example(value=5e-324, digits=4)
@given(value=st.floats(1e-320, 1e300), digits=st.integers(1, 9))
def test_no_figure_is_shown_as_less_than_it_is(value, digits):
    shown = rounded_up(value, digits)
    assert value <= float(shown) <= max(value * (1 + 10.0 ** (1 - digits)) * (1 + 1e-12), 1e-318)
    assert len(re.sub(r"e.*|\.|^0[.0]*", "", shown).strip("0")) <= digits


@pytest.mark.parametrize("noise_multiplier", [2.345678, 0.87654321, 7.7])
def test_reports_cards_and_bills_show_no_less_than_is_spent(noise_multiplier):
    config = PrivateEvolutionConfig(noise_multiplier=noise_multiplier, delta=1.2345674e-5)
    plan = Plan.from_config(config)
    ledger = PrivacyLedger(plan)
    for _ in range(3):
        release(ledger, 1024)
    report = PrivacyReport.from_ledger(ledger, config, 10)
    card = dataset_card(report, config, {"a": "b"}, ["x"], 3)
    for name, value in (("epsilon", report.epsilon), ("delta", report.delta)):
        in_table = re.search(rf"^\| {name} \| (\S+) \|$", card, re.MULTILINE)[1]
        in_words = [
            re.search(rf"{name} = ([\d.e+-]*\d)", words)[1] for words in (report.guarantee, bill(config, plan))
        ]
        assert value <= min(map(float, [in_table, *in_words])) and {in_table, *in_words} == {rounded_up(value)}


def test_no_other_format_is_used_for_an_epsilon_or_a_delta():
    """Formats such as `:.4g` round to the nearest figure, which may be a smaller one."""
    formatted = re.compile(
        r"\{[^{}]*\b(epsilon|delta|claim)\b[^{}]*:[^{}]*[gef%]\}|%\.?\d*[gef]\"? % \S*(epsilon|delta)"
    )
    for path in Path(hf_pretext.__file__).parent.rglob("*"):
        if path.suffix in (".py", ".jinja"):
            assert not formatted.search(path.read_text(encoding="utf-8")), path
    assert formatted.search('f"{report.epsilon:.3g}"') and formatted.search('{{ "%g" % report.delta }}')
