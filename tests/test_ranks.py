"""Several processes of one organization divide the clients: the same answers bit by bit, and no release of a part."""

import json
import warnings

import pytest

from hf_pretext import PrivateEvolutionConfig
from hf_pretext.clients.rows import PrivateRows
from hf_pretext.processes import ALONE, Group
from support import ranks
from support.processes import launch
from support.ranks import (
    MOMENTS,
    NUM_CLIENTS,
    NUM_ROUNDS,
    HashEmbedder,
    answers,
    make_pool,
    private_rows,
    run_to_the_end,
)

CONFIG = PrivateEvolutionConfig(**ranks.SETTINGS)
pytestmark = pytest.mark.filterwarnings("ignore:`private` has blank texts", "ignore:`delta`")


class Same(Group):
    """One of several processes that hold the same rows, without the others."""

    def gather(self, value):
        return [value] if not isinstance(value, bytes) else [bytes(32)]


@pytest.fixture(scope="module")
def rows():
    return private_rows()


@pytest.fixture(scope="module")
def folder(tmp_path_factory, rows):
    folder = tmp_path_factory.mktemp("ranks")
    rows.save_to_disk(folder / "rows")
    return folder


@pytest.fixture(scope="module")
def outcomes(folder):
    assert launch(ranks.main, folder, "run", num_processes=3) == [0, 0, 0]
    return [json.loads((folder / f"outcome-{rank}.json").read_text()) for rank in range(3)]


def test_answers_of_three_processes_are_those_of_one_bit_by_bit(outcomes, rows):
    """To votes, a mean and token counts. So they are if rows come in another order, or processes have no client."""
    expected = answers(*make_pool(rows, ALONE))
    assert all(map(any, expected))
    for each in outcomes:
        assert each["answers"] == each["turned"] == expected
        assert each["num_clients"] == NUM_CLIENTS + 1 and each["dimensions"] == ["int16", ranks.NUM_DIMENSIONS]
        assert each["few"] == answers(*make_pool(private_rows(1), ALONE))


def test_each_text_is_embedded_in_one_process(outcomes, rows):
    parts = [each["own"] for each in outcomes]
    assert all(parts) and sorted(sum(parts, [])) == sorted(text for text in rows["text"] if text.strip())
    clients = [{text.split()[0] for text in part} for part in parts]
    assert sum(map(len, clients)) == len(set.union(*clients)) == NUM_CLIENTS


def test_the_main_process_alone_draws_noise_once_per_release(outcomes):
    assert [each["draws"] for each in outcomes] == [3, 0, 0]


def test_clients_whose_texts_cannot_be_embedded_contribute_nothing_as_in_one(outcomes, rows):
    """Also if that leaves a process without any sample."""
    failing = HashEmbedder([f"{each} and 0" for each in range(40)])
    with pytest.warns(UserWarning, match="failed on the texts of some clients"):
        expected = answers(*make_pool(rows, ALONE, failing))
    assert all(each["failing"] == expected for each in outcomes)
    assert all("failed on all private texts, with a ValueError" in each["all_fail"] for each in outcomes)


def test_other_rows_or_clients_or_questions_are_refused_before_anything_is_spent(outcomes):
    for each in outcomes:
        for name in ("other_rows", "other_clients"):
            assert "`private` is not the same dataset in all 3 processes" in each[name], name
        assert "processes ask different questions" in each["other_question"] and each["spent_by_that"] == 0
    assert "This is not the main one of 3 processes" in outcomes[1]["alone"]


def test_one_process_that_fails_loses_the_release_in_all(outcomes):
    """Without its clients the sum would depend on what one of them made it fail on."""
    for each in outcomes:
        assert "The sum over the clients failed" in each["one_fails"] and "not shown" in each["one_fails"]
        assert (each["counted"], each["lost"]) == (1, 1)
        assert each["drawn_for_it"] == (each["rank"] == 0)


def test_all_processes_end_with_the_same_run(outcomes):
    assert all(each["released"] == outcomes[0]["released"] and each["num_lost"] == 0 for each in outcomes)
    assert len(outcomes[0]["released"]) == NUM_ROUNDS


KILLS = [(1, "part", True), (0, "answer", True), (0, "part", True), (1, "answer", False), (1, "share", False)]


@pytest.mark.parametrize(
    ("rank", "moment", "is_lost"), [*KILLS[:2], *(pytest.param(*each, marks=pytest.mark.slow) for each in KILLS[2:])]
)
def test_a_process_that_ends_leads_to_no_second_release(folder, rows, outcomes, rank, moment, is_lost, monkeypatch):
    """In round 2. The release is lost, or kept and read again. A later run, here of one process, draws the others."""
    what, draws = f"kill-{rank}-{moment}-2", folder / f"draws-{rank}-{moment}"
    if moment == "share":  # It is shared once before the first round.
        what = f"kill-{rank}-{moment}-3"
    assert moment in MOMENTS
    monkeypatch.setenv("DRAWS", str(draws))
    assert launch(ranks.main, folder, what)[rank] == 9
    kept = json.loads((folder / what / "ledger.json").read_text())["releases"]
    assert len(kept) == 2 and (kept[1]["answer"] is None) == is_lost
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        released, ledger = run_to_the_end(folder / what, rows, ALONE)
    expected = outcomes[0]["released"]
    assert released == [expected[0], None if is_lost else expected[1], *expected[2:]]
    assert (ledger.num_releases, ledger.num_lost) == (NUM_ROUNDS, int(is_lost))
    # Never more draws than releases that are counted. One that ended before may have drawn none.
    assert NUM_ROUNDS - is_lost <= len(draws.read_text().splitlines()) <= NUM_ROUNDS


@pytest.mark.parametrize("size", [2, 3, 7])
def test_every_client_is_in_one_part_with_all_of_its_rows(rows, size):
    whole = dict(PrivateRows(rows, CONFIG).items())
    parts = [dict(PrivateRows(rows, CONFIG, Same(rank, size)).items()) for rank in range(size)]
    assert sum(map(len, parts)) == len(whole) == NUM_CLIENTS + 1
    assert {client: own for part in parts for client, own in part.items()} == whole
    assert whole["c2"] == ["2 and 0", "2 and 1", "2 again"] and whole["blank"] == []


@pytest.mark.parametrize("kind", ["string", "large_string", "int32", "float64", "bytes", "nested", "date"])
def test_ids_of_any_type_are_the_clients_of_their_rows(kind, monkeypatch):
    """Read by Arrow or by Python, in few rows at a time. `0.0` and `-0.0` are one id, as in a dictionary of Python."""
    from datetime import date

    from datasets import Dataset, Features, Value

    monkeypatch.setattr("hf_pretext.clients.rows.ROWS_AT_ONCE", 3)
    numbers = [5, 7, 5, 0, 7, 11, 0, 5]
    ids = {
        "string": [f"id {each}" for each in numbers],
        "large_string": [f"id {each}" for each in numbers],
        "int32": numbers,
        "float64": [each + 0.5 if each else (-0.0, 0.0)[at // 4] for at, each in enumerate(numbers)],
        "bytes": [bytes([each]) for each in numbers],
        "nested": [f"id {each}" for each in numbers],
        "date": [date(2000, 1, 1 + each) for each in numbers],
    }[kind]
    texts = [f"text {each}" for each in range(len(numbers))]
    rows, column = Dataset.from_dict({"client_id": ids, "text": texts}), "client_id"
    if kind in ("large_string", "int32"):
        rows = rows.cast(Features({"client_id": Value(kind), "text": Value("string")}))
    if kind == "nested":
        rows, column = Dataset.from_list([{"who": {"id": each}, "text": "x"} for each in ids]), "who.id"
        rows = rows.remove_columns("text").add_column("text", texts)
    config = PrivateEvolutionConfig(**ranks.SETTINGS, client_column=column)
    expected = {}
    for client, text in zip(ids, texts, strict=True):
        expected.setdefault(client, []).append(text)
    assert dict(PrivateRows(rows, config).items()) == expected
    turned = rows.select(range(len(rows))[::-1])  # By an index, as `shuffle` and `filter` leave it.
    assert dict(PrivateRows(turned, config).items()) == {client: own[::-1] for client, own in expected.items()}


def test_texts_are_read_when_they_are_needed_and_a_few_at_a_time(monkeypatch):
    """Of 10,000 rows no more than one block is in memory."""
    from hf_pretext.data.columns import Columns

    number, read = 10_000, []
    rows = private_rows(number // 2)
    original = Columns.read
    monkeypatch.setattr(Columns, "read", lambda self, at: read.append(original(self, at)) or read[-1])
    found = PrivateRows(rows, CONFIG)
    assert max(len(column) for columns in read for column in columns) <= 2**12
    read.clear()
    items = found.items()
    next(items)
    assert len(read) == 1 and len(read[0][0]) <= 2**12
    assert len(dict(items)) == number // 2


def test_processes_with_other_settings_are_refused_before_they_ask():
    """Another rate of participation has the same mechanism, and would be claimed for clients that always answer."""

    class Other(Group):
        def gather(self, value):
            is_settings = isinstance(value, tuple) and isinstance(value[0], str) and "releases" in value[0]
            return [value, ("{}", 0) if is_settings else value]

    with pytest.raises(ValueError, match="2 processes have different settings"):
        make_pool(private_rows(), Other(0, 2))
