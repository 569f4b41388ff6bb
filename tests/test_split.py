"""Clients that are set aside before a run, for an evaluation afterwards."""

import pytest
from datasets import Dataset

from hf_pretext.data import read_dataset, split_by_client


def test_whole_clients_are_set_aside_with_all_columns(tmp_path):
    lines = [f"c{number % 10},text {number},{'spam' if number % 3 else 'ham'}" for number in range(60)]
    (tmp_path / "messages.csv").write_text("\n".join(["who,body,kind", *lines]) + "\n")
    data = read_dataset(tmp_path / "messages.csv", "body", "who", other_columns=["kind"])
    private, held_out = split_by_client(data, 0.2, client_column="who")
    assert set(private.column_names) == set(held_out.column_names) == {"who", "body", "kind"}
    assert len(set(private["who"])) == 8 and len(set(held_out["who"])) == 2
    assert not set(private["who"]) & set(held_out["who"]) and len(private) + len(held_out) == 60
    again, _ = split_by_client(data, 0.2, client_column="who")
    assert again["body"][:] == private["body"][:]
    held_out.to_json(tmp_path / "held_out.jsonl")
    assert len(read_dataset(tmp_path / "held_out.jsonl", "body", "who")) == 12
    assert sorted(path.name for path in tmp_path.iterdir()) == ["held_out.jsonl", "messages.csv"]


def test_samples_and_datasets_are_split_alike():
    samples = [(f"c{number % 7}", f"text {number}") for number in range(40)]
    data = Dataset.from_list([{"client_id": who, "text": text} for who, text in samples])
    for one, other in zip(split_by_client(samples, 0.3, seed=5), split_by_client(data, 0.3, seed=5), strict=True):
        assert one.to_list() == other.to_list()


@pytest.mark.parametrize("missing", [None, float("nan"), "", " ", "NaN", "null"])
def test_rows_of_nobody_are_counted(missing):
    owners = [1.0, missing, 2.0, missing] if isinstance(missing, float) else ["a", missing, "b", missing]
    data = Dataset.from_dict({"client_id": owners, "text": list("abcd")})
    with pytest.raises(ValueError, match="`client_column`='client_id' is missing in 2 of 4 rows"):
        split_by_client(data, 0.5)


@pytest.mark.parametrize(
    ("share", "column", "message"),
    [
        (0.1, "client_id", "`held_out_share`=0.1 sets 0 of 3 clients aside"),
        (1.0, "client_id", "`held_out_share`=1.0 sets 3 of 3"),
        (-1, "client_id", "`held_out_share`=-1 sets -3 of 3"),
        (0.5, "who", "`client_column`='who' is not one of"),
    ],
)
def test_a_split_that_leaves_a_side_empty_is_refused(share, column, message):
    with pytest.raises(ValueError, match=message):
        split_by_client(Dataset.from_dict({"client_id": ["a", "b", "c"]}), share, client_column=column)
