import json

import pytest
from datasets import load_from_disk

from hf_pretext.cli import main
from hf_pretext.data import read_dataset


@pytest.fixture
def folders(bert, sentence_transformer, llama, private, public, tmp_path):
    for name, (model, tokenizer) in {"mlm": bert, "llm": llama}.items():
        model.save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
    sentence_transformer.save(str(tmp_path / "embedder"))
    private.to_json(tmp_path / "private.jsonl")
    (tmp_path / "public.json").write_text(json.dumps([{"text": text} for text in public]))
    return tmp_path


def yaml_file(folder, extra=""):
    path = folder / "run.yaml"
    path.write_text(
        f"""
private: {folder}/private.jsonl
initial_population: {folder}/public.json
variation_model: {folder}/mlm
embedding_model: {folder}/embedder
expansion_model: {folder}/llm
output_dir: {folder}/out
num_samples: 9
epsilon: 2
delta: 0.001
num_rounds: 2
population_size: 16
lookahead: 0
max_length: 32
min_words: 1
{extra}
"""
    )
    return str(path)


def test_generate_as_a_yaml_file_says(folders, capsys):
    assert main(["generate", "--config", yaml_file(folders)]) == 0
    assert "epsilon = 2" in capsys.readouterr().out
    assert len(load_from_disk(str(folders / "out"))) == 9
    assert json.loads((folders / "out" / "privacy_report.json").read_text())["num_rounds"] == 2


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ("colour: red", "unknown keys: ['colour']"),
        ("epsilon: -1", "`epsilon`=-1"),
        ("private: /no/such/file.jsonl", "no file or folder '/no/such/file.jsonl'"),
        ("expansion_model: /no/such/folder", "`expansion_model`='/no/such/folder'"),
    ],
)
def test_mistakes_are_named_in_one_line(folders, capsys, extra, message):
    assert main(["generate", "--config", yaml_file(folders, extra)]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("hf-pretext: ") and message in error


def test_missing_keys_and_files_are_named(tmp_path, capsys):
    assert main(["generate", "--config", str(tmp_path / "none.yaml")]) == 2
    (tmp_path / "some.yaml").write_text("epsilon: 1")
    assert main(["generate", "--config", str(tmp_path / "some.yaml")]) == 2
    assert "lacks the keys ['private', 'num_samples', 'output_dir']" in capsys.readouterr().err


@pytest.mark.parametrize("suffix", [".csv", ".json", ".jsonl", ".parquet"])
def test_files_are_read_into_memory(private, tmp_path, suffix):
    path = tmp_path / f"data{suffix}"
    frame = private.to_pandas()
    {
        ".csv": lambda: frame.to_csv(path, index=False),
        ".json": lambda: frame.to_json(path, orient="records"),
        ".jsonl": lambda: frame.to_json(path, orient="records", lines=True),
        ".parquet": lambda: frame.to_parquet(path),
    }[suffix]()
    dataset = read_dataset(path)
    assert dataset["text"][:] == private["text"][:] and dataset["client_id"][:] == private["client_id"][:]
    assert not dataset.cache_files
    assert {file.name for file in tmp_path.iterdir()} == {path.name}


def test_other_files_are_refused(tmp_path):
    (tmp_path / "data.xml").write_text("<a/>")
    with pytest.raises(ValueError, match="must be a folder"):
        read_dataset(tmp_path / "data.xml")
