"""Reports that know their rows: what is covered, what is not, and what a stranger's files can claim."""

import itertools
import json
import math
import shutil
import time
from dataclasses import replace

import datasets
import numpy as np
import pytest
from datasets import (
    ClassLabel,
    Dataset,
    Features,
    IterableDataset,
    Value,
    concatenate_datasets,
    interleave_datasets,
    load_from_disk,
)
from transformers import TrainerState

from hf_pretext import PrivateEvolutionGenerator, coverage
from hf_pretext.cli import read_public_source
from hf_pretext.finetuning import FinetuningArguments, GuaranteeCallback, load_training_texts
from hf_pretext.finetuning.chain import with_writer
from hf_pretext.finetuning.training import _report_of_training
from hf_pretext.hub import find_privacy_report
from hf_pretext.privacy import PrivacyReport
from hf_pretext.privacy.report_format import checksum_of
from hf_pretext.privacy.texts import CoveredTexts, hash_texts
from support.guarantee_rows import CONFIG, PRIVATE, make_run, models
from support.tiny import random_texts


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of tiny models with 40 texts, and the folder that it was saved in."""
    generator, synthetic = make_run(0)
    folder = tmp_path_factory.mktemp("run") / "out"
    generator.save_pretrained(folder)
    return generator, synthetic, folder


@pytest.fixture
def forgets(monkeypatch):
    """As in another process: only what lies in folders is known."""
    monkeypatch.setattr(coverage, "_LISTS", {})


DERIVED = {
    "itself": lambda own: own,
    "select": lambda own: own.select(range(5)),
    "filter": lambda own: own.filter(lambda row: len(row["text"]) > 10),
    "shuffle": lambda own: own.shuffle(seed=1),
    "split": lambda own: own.train_test_split(test_size=0.2, seed=0)["train"],
    "sort": lambda own: own.sort("text"),
    "joined with itself": lambda own: concatenate_datasets([own, own]),
    "mapped to another column": lambda own: own.map(lambda row: {"size": len(row["text"])}),
}


@pytest.mark.parametrize("derive", DERIVED.values(), ids=DERIVED)
def test_what_is_derived_from_covered_rows_is_covered(run, derive):
    generator, synthetic, _ = run
    report = find_privacy_report(derive(synthetic))
    assert report is not None and report.without_names() == generator.privacy_report


MIXED = {
    "joined with private rows": lambda own, others: concatenate_datasets([own, others]),
    "joined, and as many rows as before": lambda own, others: (
        concatenate_datasets([own, others]).shuffle(seed=0).select(range(40))
    ),
    "the half of a split": lambda own, others: concatenate_datasets([own, others]).train_test_split(
        train_size=30, seed=0
    )["train"],
    "one foreign row": lambda own, others: concatenate_datasets([own.select(range(10)), others.select([0])]),
    "interleaved": lambda own, others: interleave_datasets([own, others], probabilities=[0.5, 0.5], seed=0).select(
        range(40)
    ),
    "mapped to other texts": lambda own, others: own.map(
        lambda row, index: {"text": others[index]["text"]}, with_indices=True
    ),
    "one character more": lambda own, others: own.map(lambda row: {"text": row["text"] + "."}),
    "another dataset": lambda own, others: others,
}


@pytest.mark.parametrize("mix", MIXED.values(), ids=MIXED)
def test_a_single_foreign_row_and_no_guarantee_is_known(run, mix, caplog):
    _, synthetic, _ = run
    mixed = mix(synthetic, PRIVATE.select_columns("text"))
    assert find_privacy_report(mixed) is None
    if coverage.marks_of(mixed):
        assert "rows are not among the texts" in caplog.text and "such as row" in caplog.text
        assert not [text for text in PRIVATE["text"] if text in caplog.text]


def test_rows_of_two_runs_have_the_sum_of_both_reports(run):
    generator, synthetic, _ = run
    other, others = make_run(7)
    both = find_privacy_report(concatenate_datasets([synthetic, others]))
    assert [part.without_names() for part in both.parts] == [generator.privacy_report, other.privacy_report]
    assert both.epsilon == pytest.approx(generator.privacy_report.epsilon + other.privacy_report.epsilon)
    assert both.exchange_epsilon > both.epsilon and both.delta == pytest.approx(2e-5)
    assert "sum of 2 runs" in both.guarantee
    assert PrivacyReport.from_dict(json.loads(json.dumps(both.to_dict()))) == both
    # Only the rows that are left decide. Both runs may have written the same text, as seed or synthetic text: such a
    # row has the sum of both, and is left out here.
    shared = {text for made in (others, other.seeds) for text in made["text"]}
    left = concatenate_datasets([synthetic, others]).filter(lambda row: row["text"] not in shared)
    assert len(left) > 0
    assert find_privacy_report(left).without_names() == generator.privacy_report


def test_a_text_that_two_runs_wrote_has_the_sum_of_both_reports(run):
    _, synthetic, _ = run
    report = run[0].privacy_report.without_names()
    twin = Dataset.from_dict({"text": synthetic["text"][:3]})
    coverage.mark(twin, replace(report, releases=(replace(report.releases[0], id="f" * 16),)), coverage.texts_of(twin))
    joined = concatenate_datasets([synthetic, twin])
    assert find_privacy_report(joined.select(range(40, 43))).epsilon == pytest.approx(2 * report.epsilon)
    assert find_privacy_report(joined.select(range(40, 43))).parts


def test_two_expansions_of_one_run_cost_what_one_costs(run):
    generator, synthetic, _ = run
    more = generator.expand(generator.seeds, num_samples=12)
    report = find_privacy_report(concatenate_datasets([synthetic, more, generator.seeds.select_columns("text")]))
    assert report.without_names() == generator.privacy_report


def test_a_saved_folder_knows_its_rows_in_another_process(run, forgets, tmp_path):
    generator, synthetic, folder = run
    assert find_privacy_report(folder).without_names() == generator.privacy_report
    assert find_privacy_report(load_from_disk(str(folder)).select(range(3))) is not None
    again = PrivateEvolutionGenerator.from_pretrained(folder, **models())
    assert again.seeds.to_list() == generator.seeds.to_list()
    # Rows that were derived and saved elsewhere find their list once it is copied beside them.
    coverage._LISTS.clear()
    synthetic.select(range(4)).save_to_disk(str(tmp_path / "part"))
    assert find_privacy_report(load_from_disk(str(tmp_path / "part"))) is None
    for path in folder.glob("covered-texts-*.hashes"):
        shutil.copy(path, tmp_path / "part")
    assert find_privacy_report(load_from_disk(str(tmp_path / "part"))) is not None


def spoiled(folder, target, spoil):
    shutil.copytree(folder, target)
    (path,) = target.glob("covered-texts-*.hashes")
    spoil(path)
    return target


SPOILED = {
    "missing": (lambda path: path.unlink(), "is not beside the texts"),
    "cut": (lambda path: path.write_bytes(path.read_bytes()[:-12]), "bytes instead of"),
    "of another dataset": (
        lambda path: path.write_bytes(np.random.default_rng(0).bytes(path.stat().st_size)),
        "is not the list",
    ),
    "of ten gigabytes": (lambda path: path.open("ab").truncate(10 * 2**30), "bytes instead of"),
}


@pytest.mark.parametrize(("spoil", "words"), SPOILED.values(), ids=SPOILED)
def test_a_list_that_is_not_the_report_s_claims_nothing(run, forgets, tmp_path, spoil, words, caplog):
    _, _, folder = run
    bad = spoiled(folder, tmp_path / "bad", spoil)
    started = time.process_time()
    assert find_privacy_report(bad) is None
    assert time.process_time() - started < 5, "a huge file is not read"
    assert words in caplog.text and "Copy 'covered-texts-" in caplog.text
    texts = load_training_texts(FinetuningArguments(dataset=str(bad)))
    assert texts.report is None


def test_a_report_that_was_edited_claims_nothing(run, forgets, tmp_path):
    _, _, folder = run
    shutil.copytree(folder, tmp_path / "edited")
    path = tmp_path / "edited" / "privacy_report.json"
    values = json.loads(path.read_text())
    path.write_text(json.dumps({**values, "epsilon": 0.1}))
    with pytest.raises(ValueError, match="was edited after it was written.*Restore the file"):
        find_privacy_report(tmp_path / "edited")
    with pytest.raises(ValueError, match="was edited after it was written"):
        PrivateEvolutionGenerator.from_pretrained(tmp_path / "edited")
    # A sum that is not the sum of its parts is noticed under a new checksum as well.
    report = PrivacyReport.of_several([make_run(3)[0].privacy_report, PrivacyReport.from_dict(values)])
    wrong = {**report.to_dict(), "epsilon": 1.0}
    with pytest.raises(ValueError, match="not the sum of its parts"):
        PrivacyReport.from_dict({**wrong, "checksum": checksum_of(wrong)})


def test_exchanged_rows_and_seeds_are_not_loaded(run, tmp_path, caplog):
    generator, synthetic, folder = run
    foreign = synthetic.map(lambda row, index: {"text": PRIVATE[index]["text"]}, with_indices=True)
    foreign.save_to_disk(str(tmp_path / "foreign"))
    exchanged = tmp_path / "exchanged"
    shutil.copytree(folder, exchanged, ignore=shutil.ignore_patterns("data-*.arrow"))
    for path in (tmp_path / "foreign").iterdir():
        shutil.copy(path, exchanged)
    again = PrivateEvolutionGenerator.from_pretrained(exchanged, **models())
    assert again._synthetic is None
    again.save_pretrained(tmp_path / "saved")
    assert not [path for path in (tmp_path / "saved").iterdir() if PRIVATE["text"][0].encode() in path.read_bytes()]
    lines = [json.loads(line) for line in (folder / "seeds.jsonl").read_text().splitlines()]
    lines[0]["votes"] += 1
    (exchanged / "seeds.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    again = PrivateEvolutionGenerator.from_pretrained(exchanged, **models())
    assert again.seeds is None and "are not those that its privacy report names" in caplog.text


def tokens_of(dataset):
    return dataset.map(
        lambda rows: {"input_ids": [[1]] * len(rows["text"])}, batched=True, remove_columns=dataset.column_names
    )


def test_the_callback_logs_the_guarantee_of_texts_that_it_can_look_up(run, caplog):
    generator, synthetic, folder = run
    private = PRIVATE.select_columns("text")

    class Trainer:
        def __init__(self, dataset):
            self.logged, self.train_dataset = [], dataset

        def log(self, figures):
            self.logged.append(figures)

    def logged(trained_on, *arguments):
        trainer = Trainer(trained_on)
        GuaranteeCallback(trainer, *arguments).on_train_begin(None, TrainerState(), None)
        return trainer.logged

    report = generator.privacy_report
    figures = [{"privacy_epsilon": report.epsilon, "privacy_delta": report.delta}]
    assert logged(synthetic) == logged(tokens_of(synthetic), synthetic) == figures
    unmarked = Dataset.from_dict({"text": synthetic["text"]})  # as the Hub gives them
    assert logged(unmarked) == [] and logged(unmarked, None, folder) == figures
    mixed = concatenate_datasets([synthetic.select(range(10)), private.select(range(20))])
    own = labelled()
    assert logged(own) == logged(tokens_of(synthetic), own) == figures
    for trained_on in (
        private,
        own.add_column("title", private["text"][:30]),
        own.remove_columns("label"),
        mixed,
        tokens_of(synthetic),
        concatenate_datasets([tokens_of(synthetic.select(range(10))), tokens_of(private.select(range(20)))]),
        mixed.rename_column("text", "content"),
        synthetic.add_column("completion", private["text"][:40]),
        synthetic.add_column("messages", [[{"role": "user", "content": text}] for text in private["text"][:40]]),
        *(
            synthetic.add_column("messages", list(map(json.dumps, private["text"][:40])), feature=kind())
            for kind in [getattr(datasets, "Json", None)]
            if kind is not None  # Of version 5 on.
        ),
        synthetic.add_column("prompt", [text.encode() for text in private["text"][:40]]),
        iter(()),
    ):
        assert logged(trained_on) == [], trained_on
    # Neither do foreign texts beside tokens, nor foreign texts that are trained on beside covered ones.
    assert (
        logged(tokens_of(synthetic), private)
        == logged(tokens_of(synthetic), mixed)
        == logged(private, synthetic)
        == []
    )
    assert "No finite privacy guarantee is known" in caplog.text
    with pytest.raises(TypeError, match="cannot tell what is trained on"):
        GuaranteeCallback(Trainer(synthetic), report)


def test_synthetic_texts_of_one_run_are_not_public_texts_of_another(run):
    generator, synthetic, _ = run
    with pytest.raises(ValueError, match="is synthetic text of a run with epsilon = 3, and not public"):
        generator.evolve(PRIVATE, initial_population=synthetic)


def test_a_stream_of_synthetic_texts_is_not_public_either(run):
    """`to_iterable_dataset` drops the mark, so what is behind a stream is looked at."""
    _, synthetic, _ = run
    stream, public = synthetic.to_iterable_dataset(), Dataset.from_dict({"text": ["public"]}).to_iterable_dataset()
    for derived in (
        stream,
        synthetic.to_iterable_dataset(num_shards=4).shuffle(seed=0).take(9),
        stream.map(lambda row: row).filter(lambda row: True).select_columns(["text"]),
        concatenate_datasets([public, stream]),
        interleave_datasets([public, stream]),
        synthetic["text"],
        stream["text"],
    ):
        with pytest.raises(ValueError, match="is synthetic text of a run"):
            coverage.check_is_public("initial_population", derived)
    for other in (public.shuffle(seed=0), IterableDataset.from_generator(lambda: iter([{"text": "public"}]))):
        coverage.check_is_public("initial_population", other)


@pytest.mark.parametrize("source", ["copy", "copy/data", "copy/data/train-00000-of-00001.parquet", "run/seeds.jsonl"])
def test_files_of_a_run_are_not_public_texts_of_another(run, tmp_path, source):
    """They have no mark, but the report lies where a run or a copy of its repository has it."""
    _, synthetic, folder = run
    (tmp_path / "copy" / "data").mkdir(parents=True)
    synthetic.to_parquet(str(tmp_path / "copy" / "data" / "train-00000-of-00001.parquet"))
    shutil.copy(folder / "privacy_report.json", tmp_path / "copy")
    (tmp_path / "run").symlink_to(folder)
    with pytest.raises(ValueError, match="is synthetic text of a run, and not public"):
        read_public_source({"source": str(tmp_path / source)}, CONFIG)
    (folder.parent / "public.jsonl").write_text('{"text": "beside the folder of a run"}')
    assert read_public_source({"source": str(folder.parent / "public.jsonl")}, CONFIG).num_rows == 1


def test_texts_of_foreign_seeds_are_not_kept_as_those_of_the_own(tmp_path):
    """A transform changes what is read of seeds, and not what they hold."""
    generator = PrivateEvolutionGenerator(**models(), config=CONFIG, run_dir=tmp_path)
    seeds = generator.evolve(PRIVATE, initial_population=random_texts(64, seed=4))
    foreign = seeds.with_transform(lambda rows: {**rows, "text": [f"quokka {text}" for text in rows["text"]]})
    assert not coverage.marks_of(generator.expand(foreign, num_samples=9))
    assert not list(tmp_path.glob("run-1-texts*"))
    assert coverage.marks_of(generator.expand(seeds, num_samples=9)) and list(tmp_path.glob("run-1-texts*"))


def test_a_column_that_someone_added_to_saved_texts_is_not_loaded(run, tmp_path):
    """A push would publish it beside the report."""
    _, synthetic, folder = run
    shutil.copytree(folder, tmp_path / "out", ignore=shutil.ignore_patterns("data-*.arrow", "state.json"))
    synthetic.add_column("title", PRIVATE["text"][:40]).save_to_disk(str(tmp_path / "other"))
    shutil.copytree(tmp_path / "other", tmp_path / "out", dirs_exist_ok=True)
    assert PrivateEvolutionGenerator.from_pretrained(tmp_path / "out", **models())._synthetic is None


def test_a_text_of_two_runs_has_both_reports(run):
    generator, synthetic, _ = run
    other, _ = make_run(7)
    again = synthetic.select(range(10))
    both = Dataset.from_dict({"text": again["text"]})
    coverage.mark(both, other.privacy_report, coverage.texts_of(both))
    report = find_privacy_report(concatenate_datasets([synthetic, both]))
    assert len(report.parts) == 2


def test_many_rows_are_checked_in_seconds(tmp_path):
    texts = Dataset.from_dict({"text": [f"text number {number}" for number in range(200_000)]})
    generator, _ = make_run(0)
    started = time.process_time()
    coverage.mark(texts, generator.privacy_report, listed := coverage.texts_of(texts))
    assert time.process_time() - started < 4
    started = time.process_time()
    assert find_privacy_report(texts) is not None
    assert time.process_time() - started < 2
    assert listed.save(tmp_path).stat().st_size == 2_400_000


def test_hashes_tell_texts_apart():
    texts = random_texts(200)
    listed = CoveredTexts.of(texts)
    assert listed.contains(hash_texts(texts)).all() and len(listed) == len(set(texts))
    others = [text.upper() for text in texts] + ["", "\ud800", "\x00"]
    assert not listed.contains(hash_texts(others)).any()
    assert not CoveredTexts.of([]).contains(hash_texts(others)).any()


COLUMNS = ("text", "label")


def labelled(names=("bad", "good", "so-so")):
    """Rows of a text and a label, marked with a report about both columns together."""
    rows = Dataset.from_dict({"text": random_texts(30, seed=5), "label": [number % 3 for number in range(30)]})
    rows = rows.cast_column("label", ClassLabel(names=list(names)))
    coverage.mark(rows, make_run(0)[0].privacy_report, coverage.texts_of(rows, columns=COLUMNS))
    return rows


DERIVED_OF_TWO = {
    "itself": lambda own: own,
    "columns in another order": lambda own: own.select_columns(["label", "text"]),
    "names instead of numbers": lambda own: own.map(
        lambda row: {"label": own.features["label"].names[row["label"]]},
        features=Features({"text": Value("string"), "label": Value("string")}),
    ),
    "labels in another order": lambda own: own.map(
        lambda row: {"label": own.features["label"].int2str(row["label"])},
        features=Features({"text": Value("string"), "label": ClassLabel(names=["so-so", "good", "bad"])}),
    ),
    "a third column": lambda own: own.map(lambda row: {"size": len(row["text"])}),
    "as numpy": lambda own: own.with_format("numpy"),
    "split": lambda own: own.train_test_split(test_size=0.5, seed=0)["train"],
}


@pytest.mark.parametrize("derive", DERIVED_OF_TWO.values(), ids=DERIVED_OF_TWO)
def test_a_row_of_several_columns_is_covered_as_a_whole(run, derive):
    report = find_privacy_report(derive(labelled()))
    assert report is not None and report.columns == COLUMNS
    assert report.without_names() == make_run(0)[0].privacy_report
    assert PrivacyReport.from_dict(json.loads(json.dumps(report.to_dict()))) == report


FOREIGN_OF_TWO = {
    "labels of other rows": lambda own: own.map(
        lambda row, index: {"label": own[(index + 1) % 30]["label"]}, with_indices=True
    ),
    "the same numbers with other names": lambda own: own.cast_column("label", ClassLabel(names=["a", "b", "c"])),
    "no label": lambda own: own.map(lambda row: {"label": None}),
    "other texts": lambda own: own.map(lambda row: {"text": row["text"] + "."}),
    "the values exchanged": lambda own: own.map(
        lambda row: {"text": own.features["label"].names[row["label"]], "label": row["text"]},
        features=Features({"text": Value("string"), "label": Value("string")}),
    ),
    "a transform that shows others": lambda own: own.with_transform(
        lambda rows: {**rows, "text": ["private words"] * len(rows["text"])}
    ),
}


@pytest.mark.parametrize("spoil", FOREIGN_OF_TWO.values(), ids=FOREIGN_OF_TWO)
def test_values_that_do_not_belong_together_are_no_row(spoil, caplog):
    assert find_privacy_report(spoil(labelled())) is None
    assert "rows are not among the texts" in caplog.text


def test_a_lost_column_is_named_and_nothing_is_claimed(caplog):
    own = labelled()
    assert find_privacy_report(own.remove_columns("label")) is None
    assert "no column 'label'" in caplog.text and "look the guarantee up before you drop" in caplog.text
    renamed = own.rename_column("label", "stars")
    assert find_privacy_report(renamed) is None
    assert find_privacy_report(renamed, text_column=["text", "stars"]).columns == COLUMNS
    assert find_privacy_report(renamed, text_column=["stars", "text"]) is None
    # One of the columns that a report is about has its guarantee. Another one has none.
    assert find_privacy_report(own, text_column="text") is not None
    caplog.clear()
    assert find_privacy_report(own.add_column("title", own["text"]), text_column=["text", "title", "label"]) is None
    assert "about the columns ['text', 'label'], and not about" in caplog.text


def test_reports_about_different_columns_do_not_cover_rows_together(run, caplog):
    """A row that one report covers in `text` alone may hold anything in a column that another report names."""
    own, (_, synthetic, _) = labelled(), run
    other = Dataset.from_dict({"text": synthetic["text"], "label": ["private words"] * len(synthetic)})
    names = [own.features["label"].int2str(number) for number in own["label"]]
    mixed = concatenate_datasets([Dataset.from_dict({"text": own["text"], "label": names}), other])
    mixed.info.description = f"{own.info.description}\n{synthetic.info.description}"
    assert find_privacy_report(mixed) is None and "about different columns" in caplog.text
    assert find_privacy_report(mixed, text_column=["text", "label"]) is None
    assert find_privacy_report(mixed, text_column="text") is not None


def test_conversations_are_covered_turn_by_turn(forgets, tmp_path):
    turns = [
        [{"role": "user", "content": text}, {"role": "assistant", "content": text.upper()}]
        for text in random_texts(9, seed=6)
    ]
    own = Dataset.from_dict({"messages": turns})
    coverage.mark(own, make_run(0)[0].privacy_report, listed := coverage.texts_of(own, columns=["messages"]))
    own.select(range(4)).save_to_disk(str(tmp_path))
    listed.save(tmp_path)
    coverage._LISTS.clear()
    assert find_privacy_report(tmp_path).columns == ("messages",)
    for spoil in (
        lambda row: {"messages": row["messages"][:1]},
        lambda row: {"messages": row["messages"][::-1]},
        lambda row: {"messages": [{**turn, "name": "a private name"} for turn in row["messages"]]},
        lambda row: {"messages": [{**turn, "role": "user"} for turn in row["messages"]]},
    ):
        assert find_privacy_report(own.map(spoil)) is None


def test_a_sum_says_which_columns_it_is_about():
    """Such as that of a run and of the model that wrote its conversations, which a trainer reads."""
    both = PrivacyReport.of_several([make_run(seed)[0].privacy_report for seed in (0, 7)])
    turns = [[{"role": "user", "content": text}, {"role": "assistant", "content": "yes"}] for text in random_texts(4)]
    own = Dataset.from_dict({"messages": turns})
    coverage.mark(own, both, coverage.texts_of(own, columns=["messages"]))
    found = find_privacy_report(own)
    assert found.columns == ("messages",) and len(found.parts) == 2
    assert PrivacyReport.from_dict(json.loads(json.dumps(found.to_dict()))) == found
    assert _report_of_training(own, None, None) is not None
    assert _report_of_training(own.add_column("prompt", PRIVATE["text"][:4]), None, None) is None


def test_texts_of_a_labelled_dataset_are_trained_on_with_its_guarantee(tmp_path):
    own = labelled()
    own.save_to_disk(str(tmp_path))
    coverage.texts_of(own, columns=COLUMNS).save(tmp_path)
    texts = load_training_texts(FinetuningArguments(dataset=str(tmp_path)))
    assert texts.report.without_names() == make_run(0)[0].privacy_report
    assert find_privacy_report(texts.train) is not None and texts.train.column_names == ["text"]


@pytest.mark.parametrize("columns", [[], ["text", "text"], [3], "text", {"text": 1}, [""]])
def test_columns_that_are_no_names_are_refused(columns):
    values = {**make_run(0)[0].privacy_report.to_dict(), "columns": columns}
    with pytest.raises(ValueError, match="`columns`=.* is not valid"):
        PrivacyReport.from_dict({**values, "checksum": checksum_of(values)})


def test_reports_of_plain_texts_are_written_as_before(run):
    _, _, folder = run
    assert "columns" not in json.loads((folder / "privacy_report.json").read_text())


@pytest.mark.parametrize("name", ["audit_settings.json", "audit.json"])
def test_an_audited_run_is_neither_continued_nor_has_it_a_guarantee(run, forgets, tmp_path, name, caplog):
    """Its texts may be trained on, as the audit of a model needs it, but what comes of that is not published."""
    folder = shutil.copytree(run[2], tmp_path / "audited")
    assert find_privacy_report(folder) is not None
    (folder / name).write_text("{}")
    with pytest.raises(ValueError, match="holds an audited run. .*Use a run without an audit"):
        PrivateEvolutionGenerator.from_pretrained(folder)
    with pytest.raises(ValueError, match="holds an audited run"):
        PrivateEvolutionGenerator.from_pretrained(str(folder), **models())
    loaded = load_from_disk(str(folder))
    for source in (folder, str(folder), loaded, loaded.select(range(3))):
        assert find_privacy_report(source) is None
    assert "holds an audited run. No guarantee is claimed" in caplog.text
    texts = load_training_texts(FinetuningArguments(dataset=str(folder)))
    assert texts.report is None and len(texts.train) == 36


def test_a_report_without_a_guarantee_is_not_dropped_for_one_of_the_same_releases():
    """Texts of one run, some of them by a writer that nothing is known of. Their order must not matter."""
    finite = make_run(3)[0].privacy_report
    endless = with_writer(finite, None)
    assert math.isinf(endless.epsilon) and finite.covers(endless)
    for order in itertools.permutations([finite, endless, finite]):
        assert math.isinf(PrivacyReport.of_several(list(order)).epsilon)
    assert PrivacyReport.of_several([finite, finite]).epsilon == finite.epsilon
