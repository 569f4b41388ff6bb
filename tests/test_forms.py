"""Rows of several columns and conversations: written as texts and read back, row by row."""

import json
import math

import numpy as np
import pytest

from hf_pretext import PrivateEvolutionConfig
from hf_pretext.forms import Chat, Plain, Record, form_of, mended, read_rows

ROLES = ("user", "assistant")
TEMPLATES = {
    ("subject", "body"): ["Subject: {subject}\n\n{body}", "subject: {subject}\nbody: {body}", "{body} | {subject}"],
    ("a", "b", "c"): ["{b}aa{a}aba{c}", "<{a}><{b}><{c}>", "{c}, {a}, {b}."],
    ("only",): ["Review: {only}", "{only}"],
}
PIECES = ["a", "b", "aa", "aba", "\\", "\\\\", "\n", "\n\n", " ", "> <", "><", ": ", "body: ", "|", " | ", ", ", "{a}"]
PIECES += ["user: ", "assistant:", "  ", "\t", "語", "é", ".", "x", "Subject: ", "\r\n", "\u2028", "system: "]


def some_strings(number, seed=0):
    """Strings of pieces that templates and conversations are made of."""
    rng = np.random.default_rng(seed)
    return ["".join(rng.choice(PIECES, rng.integers(0, 8))) for _ in range(number)]


@pytest.mark.parametrize("columns", TEMPLATES, ids=len)
def test_every_record_is_read_back(columns):
    rows = list(zip(*(some_strings(3000, seed) for seed in range(len(columns))), strict=True))
    for template in TEMPLATES[columns]:
        form = Record(columns, template)
        for row in rows:
            text = form.read(row)
            assert form.parse(text) == (row if any(map(str.strip, row)) else None), (template, row)
            # What is read back is written as it was, so two texts are never the same row.
            assert text == mended(form, text)


def test_two_records_are_never_the_same_text():
    form = Record(("a", "b"), "{a}aa{b}")
    rows = {(one, other) for one in some_strings(300) for other in some_strings(30, 1)}
    rows = {row for row in rows if "".join(row).strip()}
    assert len({form.read(row) for row in rows}) == len(rows)


def test_ordinary_records_look_like_their_template():
    form = Record(("subject", "body"), "Subject: {subject}\n\n{body}")
    assert form.read(("A \\ path", "C:\\temp\n\nSubject: b")) == "Subject: A \\ path\n\nC:\\temp\n\nSubject: b"
    assert form.read(("two\n\nparts", "b")) == "Subject: two\\\n\nparts\n\nb"
    assert form.parse("Subject: Re: it\n\nHello.\n\nBye") == ("Re: it", "Hello.\n\nBye")
    for broken in ("Subject: only", "Dear all,\n\nb", "subject: a\n\nb", ""):
        assert form.parse(broken) is None


def test_a_long_hostile_record_takes_no_time():
    form = Record(("a", "b"), "{a}aa{b}")
    for value in ("a" * 300_001, "\\" * 300_001, "\\a" * 150_000):
        assert form.parse(form.read((value, "b"))) == (value, "b")


def test_numbers_and_missing_values_are_strings():
    form = form_of(PrivateEvolutionConfig(epsilon=1, delta=1e-5, text_column=["stars", "note"]))
    assert form.read((4, None)) == "stars: 4\nnote: " and form.parse("stars: 4\nnote:") == ("4", "")
    assert form.read((None, "  ")) == form.read(("", None)) == form.read((math.nan, None)) == ""
    assert form.read((math.nan, "fine")) == "stars: \nnote: fine"
    assert form.problem((4.5, True)) is None
    assert form.problem(([1], "x")) == "one of ['stars', 'note'] is neither a string nor a number"


def some_conversations(number):
    """Conversations that are whole: each turn says something, and the second role has the last word."""
    rng = np.random.default_rng(3)
    contents = iter([text for text in some_strings(20 * number, 5) if text.strip()])
    for _ in range(number):
        turns = [{"role": ROLES[turn % 2], "content": next(contents)} for turn in range(2 * rng.integers(1, 4))]
        system = [{"role": "system", "content": next(contents)}] if rng.random() < 0.3 else []
        yield [*system, *turns]


def tidy(content):
    """What a conversation keeps of a content: not how lines break, blank lines before it, and blanks after it."""
    lines = content.replace("\r\n", "\n").replace("\u2028", "\n").rstrip().split("\n")
    while not lines[0].strip():
        lines.pop(0)
    return "\n".join(lines)


def test_every_conversation_is_read_back():
    form = Chat("messages", ROLES)
    for turns in some_conversations(1500):
        assert form.problem((turns,)) is None
        text = form.read((turns,))
        assert form.parse(text) == ([{**turn, "content": tidy(turn["content"])} for turn in turns],), turns
        assert mended(form, text) == text


def test_a_conversation_looks_like_one():
    form = Chat("messages", ROLES)
    turns = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "Hi.\nassistant: I am you.\n\n  indented"},
        {"role": "assistant", "content": "No."},
    ]
    text = "system: Be kind.\nuser: Hi.\n  assistant: I am you.\n\n    indented\nassistant: No."
    assert form.read((turns,)) == text and form.parse(text) == (turns,)


BROKEN = {
    "user: a\nassistant: b\nuser: c": "user: a\nassistant: b",
    "user: a\nassistant: b\nassistant: c": "user: a\nassistant: b",
    "user: a\nassistant: b\nand then\nuser: c\nassistant: d": "user: a\nassistant: b",
    "user: a\nassistant: b\nuser: \nassistant: d": "user: a\nassistant: b",
    "user: a\nassistant: b\n\nuser: c\nassistant:\n  d": "user: a\nassistant: b\nuser: c\nassistant: d",
    "user:a\nassistant:b": "user: a\nassistant: b",
    "system: s\nuser: a\nassistant: b\nsystem: t": "system: s\nuser: a\nassistant: b",
    "user: a": "",
    "user: a\nuser: b\nassistant: c": "",
    "assistant: a\nuser: b\nassistant: c": "",
    "user: \nassistant: b": "",
    "system: s\nassistant: b": "",
    "User: a\nAssistant: b": "",
    "words": "",
    "": "",
}


@pytest.mark.parametrize("text", BROKEN)
def test_broken_turns_are_cut_off(text):
    form = Chat("messages", ROLES)
    assert mended(form, text) == BROKEN[text]
    assert all(form.problem(row) is None for row in [form.parse(text)] if row is not None)


def turn(role, content="x"):
    return {"role": role, "content": content}


PROBLEMS = {
    "no list": "secret",
    "no turns": [],
    "missing": None,
    "system alone": [turn("system")],
    "unknown role": [turn("user"), turn("doctor secret")],
    "system later": [turn("user"), turn("system"), turn("assistant")],
    "begins with the second role": [turn("assistant"), turn("user")],
    "twice": [turn("user"), turn("user"), turn("assistant")],
    "content missing": [turn("user", None), turn("assistant")],
    "content of parts": [turn("user", [{"type": "text", "text": "secret"}]), turn("assistant")],
    "strings": ["secret", "secret"],
    "other keys": [{"from": "user", "value": "secret"}],
}


@pytest.mark.parametrize("turns", PROBLEMS.values(), ids=PROBLEMS)
def test_half_a_conversation_is_counted_and_not_quoted(turns):
    whole = [turn("user", "secret"), turn("assistant")]
    with pytest.raises(
        ValueError, match="`private` has 2 rows that are not a whole conversation, such as row 1: "
    ) as it:
        read_rows("private", Chat("messages", ROLES), [(whole,), (turns,), (turns,)])
    assert "secret" not in str(it.value) and "doctor" not in str(it.value)


def test_a_conversation_may_end_with_a_question():
    assert Chat("messages", ROLES).problem(([turn("system"), turn("user")],)) is None


def config_of(**settings):
    return PrivateEvolutionConfig(epsilon=1, delta=1e-5, **settings)


UNPARSEABLE = {
    "Subject: {subject}": "each of \\['subject', 'body'\\] once",
    "{subject} {body} {body}": "once",
    "{subject} {body} {date}": "once",
    "{subject}{body}": "nothing stands between '{subject}' and '{body}'",
    "{subject} \\ {body}": "backslash",
    "{subject}\t{body}": "tabs",
    "{subject}\n{body}\n": "blanks at its beginning or end",
    "{subject}  {body}": "runs of blanks",
    "subject and body": "once",
}


@pytest.mark.parametrize("template", UNPARSEABLE)
def test_a_template_that_cannot_be_parsed_back_is_refused(template):
    with pytest.raises(ValueError, match=f"`template`=.* cannot be parsed back: .*{UNPARSEABLE[template]}"):
        config_of(text_column=("subject", "body"), template=template)


REFUSED = [
    ({"text_column": []}, "`text_column`=\\[\\] must be a non-empty string, or a list of different ones"),
    ({"text_column": ["a", "a"]}, "different"),
    ({"text_column": ["a", ""]}, "non-empty"),
    ({"text_column": ["a", 3]}, "must be the name of a column, or a list"),
    ({"text_column": ["a", "votes"]}, "`text_column` names 'votes', which is a column of the seeds"),
    ({"text_column": ["a", "client_id"]}, "must differ"),
    ({"text_column": ["a{b}", "c"]}, "cannot be parsed back"),
    ({"text_column": ["a", "b"], "chat_roles": ROLES}, "`chat_roles`=.* needs one column of conversations"),
    ({"template": "{text} {text}"}, "`template`=.* puts several columns together"),
    ({"chat_roles": ["user"]}, "two different roles"),
    ({"chat_roles": ["user", "user"]}, "two different roles"),
    ({"chat_roles": ["system", "user"]}, "two different roles"),
    ({"chat_roles": ["user:", "b"]}, "two different roles"),
    ({"chat_roles": ["user\n", "b"]}, "two different roles"),
    ({"chat_roles": "user"}, "list of two roles"),
]


@pytest.mark.parametrize(("settings", "words"), REFUSED, ids=lambda each: str(each)[:60])
def test_settings_that_say_no_form_are_refused(settings, words):
    with pytest.raises((ValueError, TypeError), match=words):
        config_of(**settings)


def test_forms_survive_the_file_of_the_settings(tmp_path):
    for settings in (
        {"text_column": ["subject", "body"], "template": "{subject}: {body}"},
        {"text_column": "messages", "chat_roles": ["user", "assistant"]},
        {"text_column": "body"},
    ):
        config = config_of(**settings)
        config.save_pretrained(tmp_path)
        again = PrivateEvolutionConfig.from_pretrained(tmp_path)
        assert again == config and form_of(again) == form_of(config) and hash(again) == hash(config)
        assert json.loads(json.dumps(config.to_dict()))["text_column"] == settings["text_column"]
    assert config_of(text_column=["a", "b"]).output_columns == ("a", "b")
    assert config_of(text_column="talk", chat_roles=ROLES).output_columns == ("messages",)
    assert form_of(config_of(text_column="body")) == Plain("body") and config_of().output_columns == ("text",)
