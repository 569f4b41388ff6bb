"""CSV files: what is not quoted as it has to be is refused with its line and the fix, and nothing of it is quoted."""

import csv
import traceback

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_pretext.data import read_dataset


def read(path, content):
    path.write_text(content, encoding="utf-8", newline="")
    return read_dataset(path, "text", "client_id")


REFUSED = {
    "an unquoted comma, text first": ("text,client_id\nquokka 1, or 2,ann\nfine,bob\n", "in line 2 has 3 fields"),
    "an unquoted comma, text last": ("client_id,text\nann,fine\n\nbob,quokka, zebra\n", "in line 4 has 3 fields"),
    "too few fields": ("client_id,text\nann,fine\nquokka\n", "in line 3 has 1 fields"),
    "a trailing comma": ("client_id,text\nann,quokka,\n", "in line 2 has 3 fields"),
    "a quote that is not closed": (
        'client_id,text\nann,fine\nbob,"quokka\ncarl,zebra\n',
        "in line 3 has a quotation mark",
    ),
    "a quote that another one closes": (
        'client_id,text\nann,"quokka\nbob,x\ncarl,"zebra\n',
        "in line 2 has a quotation",
    ),
    "text after a quote": ('client_id,text\nann,"quokka" said zebra\n', "in line 2 has a quotation mark"),
    "a name twice": ("client_id,text,text\nann,quokka,zebra\n", "names a column twice"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_row_that_could_be_another_client_s_is_refused_with_its_line(tmp_path, name):
    content, message = REFUSED[name]
    with pytest.raises(ValueError, match=rf"private\.csv' is not valid \.csv\..*{message}") as error:
        read(tmp_path / "private.csv", content)
    told = "".join(traceback.format_exception(error.value))
    assert not any(word in told for word in ("quokka", "zebra", "ann,", "carl"))
    assert error.value.__context__ is None, "the parser's own error holds what it read"


def test_what_is_quoted_as_it_has_to_be_is_read(tmp_path):
    content = 'client_id,text\r\nann,"one, ""two""\nthree"\r\n\r\nbob,He said "hi" to me\r\n"c,1",""\r\n'
    rows = read(tmp_path / "private.csv", content).to_list()
    assert rows == [
        {"client_id": "ann", "text": 'one, "two"\nthree'},
        {"client_id": "bob", "text": 'He said "hi" to me'},
        {"client_id": "c,1", "text": ""},
    ]


def test_no_client_s_row_swallows_those_of_others(tmp_path):
    """With the row of a client or without it, the rows of the others are the same, or nothing is read."""
    others = "bob,I lost my card\ncarl,When do you open\n"
    expected = read(tmp_path / "without.csv", f"client_id,text\n{others}").to_list()
    for row in ('ann,"Hello', 'ann,Hello"', 'ann,Hel"lo', '"ann,Hello', 'ann,"Hello"', "ann,Hello, you", "ann", ",,,"):
        try:
            found = read(tmp_path / "with.csv", f"client_id,text\n{row}\n{others}").to_list()
        except ValueError:
            continue
        assert found[1:] == expected, row


fields = st.text(st.sampled_from('a,"\n\r x'), max_size=6)


@given(rows=st.lists(st.tuples(fields, fields), max_size=5))
@settings(max_examples=100, deadline=None)
def test_what_a_program_writes_is_read_as_it_was(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("csv") / "private.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("text", "client_id"), *rows])
    found = read_dataset(path, "text", "client_id")
    assert found["text"][:] == [text for text, _ in rows]
    assert found["client_id"][:] == [client or None for _, client in rows]
