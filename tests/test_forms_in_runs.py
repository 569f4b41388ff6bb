"""Whole runs on records and conversations: what is refused, what comes out, and what trains on it."""

import copy
import json
import shutil
import warnings
from dataclasses import replace

import numpy as np
import pyarrow.parquet
import pytest
from datasets import Dataset, Features, List, Value, load_from_disk

from hf_pretext import PrivateEvolutionConfig, PrivateEvolutionGenerator, coverage
from hf_pretext.audit import sample_targets
from hf_pretext.cli import read_private_source, read_public_source
from hf_pretext.clients.copies import check_public_texts
from hf_pretext.finetuning import FinetuningArguments, GuaranteeCallback, load_training_texts
from hf_pretext.forms import form_of, variations_in_form
from hf_pretext.hub import find_privacy_report
from hf_pretext.prompts import ListPrompt
from support.mutations import fast_noise
from support.tiny import random_texts

ROLES = ("user", "assistant")
SETTINGS = {
    "epsilon": 4.0,
    "delta": 1e-3,
    "num_rounds": 2,
    "population_size": 16,
    "max_length": 60,
    "max_new_tokens": 60,
    "min_words": 1,
    "new_public_share": 0.25,
}
CHAT = PrivateEvolutionConfig(**SETTINGS, text_column="talk", chat_roles=ROLES)
RECORD = PrivateEvolutionConfig(
    **SETTINGS, text_column=("subject", "stars", "body"), template="Subject: {subject}\nStars: {stars}\n\n{body}"
)


class Writer:
    """A language model that writes conversations and records, of which every third is broken."""

    def __init__(self):
        self.prompts = []

    def complete(self, prompts, max_new_tokens, seed, stop=None):
        self.prompts += prompts
        words = iter(random_texts(9 * len(prompts), seed=seed % 2**31))
        return [self._continue(prompt, number, words) for number, prompt in enumerate(prompts)]

    def _continue(self, prompt, number, words):
        if "Original Text Sample 2" not in prompt:  # Nothing is shown to it, so it is asked for a piece.
            return f" {next(words)}.\nand more"
        if prompt.endswith("Subject:"):
            written = f" {next(words)}\nStars: {number % 5}\n\n{next(words)}\n  indented {next(words)}."
            return written.replace("Stars", "And") if number % 3 == 0 else written
        first = "" if prompt.endswith("user:") else "user:"
        turns = [f"{first} {next(words)}", f"assistant: {next(words)}", f"user: {next(words)}\n  and {next(words)}"]
        if number % 3 == 0:
            return "\n".join([*turns[:1], *turns[2:]])
        return "\n".join(turns if number % 3 == 1 else [*turns, f"assistant: {next(words)}.\nnot a turn"])

    def answer(self, instructions, max_new_tokens, seed):
        return list(instructions)

    def truncate(self, text, max_length):
        return text


class Variation:
    """Replaces a word. Every other variation has lost its form."""

    def vary(self, texts, seed):
        words = random_texts(len(texts), seed=seed % 2**31, low=1, high=2)
        changed = [f"{text} {word}" for text, word in zip(texts, words, strict=True)]
        return [text if number % 2 else text.replace("\n", " ") for number, text in enumerate(changed)]


@pytest.fixture
def make_generator(sentence_transformer):
    def make(config, **changes):
        own = {"variation_model": Variation(), "embedding_model": sentence_transformer, "expansion_model": Writer()}
        return PrivateEvolutionGenerator(**{**own, **changes}, config=config)

    return make


def talk(*contents):
    return [{"role": ROLES[number % 2], "content": content} for number, content in enumerate(contents)]


def talks(number, seed):
    texts = iter(random_texts(4 * number, seed=seed))
    return [talk(*(next(texts) for _ in range(2 + 2 * (each % 2)))) for each in range(number)]


PRIVATE_TALKS = Dataset.from_dict({"client_id": [f"c{n // 3}" for n in range(60)], "talk": talks(60, 1)})
PUBLIC_TALKS = Dataset.from_dict({"talk": talks(40, 2)})


def records(number, seed):
    texts = random_texts(2 * number, seed=seed)
    return {"subject": texts[:number], "stars": [n % 5 for n in range(number)], "body": texts[number:]}


PRIVATE_RECORDS = Dataset.from_dict({"client_id": [f"c{n // 3}" for n in range(60)], **records(60, 1)})
PUBLIC_RECORDS = Dataset.from_dict(records(40, 2))
DATA = {"chat": (CHAT, PRIVATE_TALKS, PUBLIC_TALKS), "record": (RECORD, PRIVATE_RECORDS, PUBLIC_RECORDS)}


def is_whole(row):
    if "messages" in row:
        roles = [turn["role"] for turn in row["messages"]]
        return roles == list(ROLES) * (len(roles) // 2) and all(turn["content"].strip() for turn in row["messages"])
    return set(row) == {"subject", "stars", "body"} and all(isinstance(value, str) for value in row.values())


@pytest.mark.parametrize("kind", DATA)
@pytest.mark.parametrize("with_folder", [False, True], ids=["in memory", "in a folder"])
def test_rows_come_out_as_they_went_in(make_generator, tmp_path, kind, with_folder):
    config, private, public = DATA[kind]
    generator = make_generator(config, run_dir=tmp_path / "run" if with_folder else None)
    synthetic = generator(private, initial_population=public, num_samples=30)
    columns = list(config.output_columns)
    assert synthetic.column_names == columns and len(synthetic) == 30
    assert all(map(is_whole, synthetic)) and synthetic.features == Features(form_of(config).features())
    assert len({json.dumps(row) for row in synthetic}) == 30
    assert generator.seeds.column_names == [*columns, "round", "votes", "preference"]
    assert all(is_whole({name: seed[name] for name in columns}) for seed in generator.seeds)
    report = find_privacy_report(synthetic)
    assert report.columns == config.output_columns and report.without_names() == generator.privacy_report
    more = generator.expand(generator.seeds.select(range(4)), num_samples=3)
    assert find_privacy_report(more) is not None and all(map(is_whole, more))
    if with_folder:
        again = make_generator(config, run_dir=tmp_path / "run")
        assert again(private, initial_population=public, num_samples=30).to_list() == synthetic.to_list()


@pytest.mark.parametrize("kind", DATA)
def test_saved_rows_are_found_again(make_generator, tmp_path, kind, monkeypatch):
    config, private, public = DATA[kind]
    generator = make_generator(config)
    synthetic = generator(private, initial_population=public, num_samples=20)
    generator.save_pretrained(tmp_path / "out")
    monkeypatch.setattr(coverage, "_LISTS", {})
    assert find_privacy_report(tmp_path / "out").without_names() == generator.privacy_report
    loaded = load_from_disk(str(tmp_path / "out"))
    assert loaded.to_list() == synthetic.to_list() and loaded.features == synthetic.features
    own = {"variation_model": Variation(), "expansion_model": Writer()}
    again = PrivateEvolutionGenerator.from_pretrained(
        tmp_path / "out", **own, embedding_model=generator._components.embedder._model
    )
    assert again.config == config and again.seeds.to_list() == generator.seeds.to_list()
    assert again._synthetic.to_list() == synthetic.to_list()
    assert find_privacy_report(again.expand(again.seeds, num_samples=5)) is not None
    # As on the Hub, where all configurations are Parquet.
    synthetic.to_parquet(tmp_path / "train.parquet")
    rows = Dataset.from_list(pyarrow.parquet.read_table(tmp_path / "train.parquet").to_pylist())
    assert find_privacy_report(rows, tmp_path / "out").columns == config.output_columns
    # Values of different rows that are put together are no row.
    if kind == "record":
        mixed = synthetic.map(lambda row, index: {"body": synthetic[index - 1]["body"]}, with_indices=True)
        assert find_privacy_report(mixed) is None
    text = (tmp_path / "out" / "README.md").read_text()
    assert text.count("\n> ") >= 5


@pytest.mark.parametrize("kind", DATA)
def test_pushed_rows_are_found_again(make_generator, tmp_path, kind, monkeypatch, sentence_transformer):
    """A push is a folder with Parquet files for the rows and for the seeds."""
    config, private, public = DATA[kind]
    generator = make_generator(config)
    synthetic = generator(private, initial_population=public, num_samples=20)
    repo = tmp_path / "repo"
    monkeypatch.setattr("hf_pretext.saved_runs.push_folder", lambda folder, *_, **__: shutil.copytree(folder, repo))
    generator.push_to_hub("me/rows-dp")
    monkeypatch.setattr(coverage, "_LISTS", {})
    rows = Dataset.from_parquet(str(repo / "data" / "*.parquet"))
    assert rows.to_list() == synthetic.to_list() and rows.features == synthetic.features
    assert find_privacy_report(rows, repo).columns == find_privacy_report(repo).columns == config.output_columns
    own = {"variation_model": Variation(), "expansion_model": Writer(), "embedding_model": sentence_transformer}
    again = PrivateEvolutionGenerator.from_pretrained(repo, **own)
    assert again.seeds.to_list() == generator.seeds.to_list()
    assert find_privacy_report(again.expand(again.seeds, num_samples=5)) is not None
    texts = load_training_texts(FinetuningArguments(dataset=str(repo)))
    assert texts.report is not None and texts.train.column_names == ["messages" if kind == "chat" else "text"]


@pytest.mark.parametrize("kind", DATA)
@pytest.mark.parametrize("mean_fraction", [0.0, 0.4])
def test_labels_go_with_every_form(make_generator, sentence_transformer, tmp_path, kind, mean_fraction):
    config, private, public = DATA[kind]
    labels = {"old": "of regular customers", "new": "of people who ask for the first time"}
    config = replace(config, label_column="since", labels=labels, mean_fraction=mean_fraction)
    private = private.add_column("since", [list(labels)[number % 4 == 0] for number in range(len(private))])
    generator = make_generator(config, run_dir=tmp_path / "run")
    # An untrained embedding model tells no label from another, so noise decides which texts fit a label.
    with fast_noise(seed=0):
        synthetic = generator(
            private, initial_population=public, num_samples=20, label_shares={"old": 0.7, "new": 0.3}
        )
    columns = [*form_of(config).columns, "since"]
    assert synthetic.column_names == columns and synthetic.features["since"].names == list(labels)
    assert synthetic["since"][:].count(0) == 14 and len(generator.privacy_report.releases) == 2 + (mean_fraction > 0)
    assert all(is_whole({name: row[name] for name in columns[:-1]}) for row in synthetic)
    assert find_privacy_report(synthetic).columns == tuple(columns)
    swapped = synthetic.map(lambda row: {"since": 1 - row["since"]}, keep_in_memory=True)
    assert find_privacy_report(swapped) is None
    generator.save_pretrained(tmp_path / "out")
    models = {"variation_model": Variation(), "embedding_model": sentence_transformer, "expansion_model": Writer()}
    again = PrivateEvolutionGenerator.from_pretrained(tmp_path / "out", **models)
    assert again.seeds.to_list() == generator.seeds.to_list() and len(again.expand(again.seeds, 8)) == 8


def test_a_variation_that_breaks_the_form_is_its_parent(make_generator):
    form = form_of(CHAT)
    texts = [form.read((turns,)) for turns in talks(6, 3)]
    varied = variations_in_form(form, make_generator(CHAT)._components.variation.vary)(texts, 0)
    assert varied[::2] == texts[::2] and all(form.parse(text) for text in varied)
    assert all(new != old and new.startswith(old) for new, old in zip(varied[1::2], texts[1::2], strict=True))


def test_seeds_are_shown_in_their_form_and_continued_from_its_beginning(make_generator):
    generator = make_generator(CHAT)
    seeds = generator.evolve(PRIVATE_TALKS, initial_population=PUBLIC_TALKS)
    generator.expand(seeds, num_samples=5)
    prompt = generator._components.engine.prompts[-1]
    assert prompt.endswith("\nuser:") and "\nassistant: " in prompt
    # A list of texts in the form is expanded too. Seeds with a system turn are not continued from the first role.
    shown = [f"system: Be kind.\nuser: {text}\nassistant: yes" for text in random_texts(3)]
    generator.expand(shown, num_samples=2)
    assert generator._components.engine.prompts[-1].endswith(ListPrompt.of(CHAT).start(4))
    with pytest.raises(ValueError, match="`seeds` has 1 rows, such as row 1, that are not a whole conversation"):
        generator.expand([shown[0], "words"], num_samples=2)


@pytest.mark.parametrize("kind", DATA)
def test_a_language_model_writes_the_initial_population(make_generator, kind):
    from dataclasses import replace

    config, private, _ = DATA[kind]
    generator = make_generator(replace(config, domain="words of a bank"))
    writer = generator._components.engine
    assert all(map(is_whole, generator(private, num_samples=5)))
    assert len(generator.initial_population) == config.population_size
    assert all(form_of(config).parse(text) for text in generator.initial_population)
    # It fills a form in, piece by piece.
    first = writer.prompts[: config.population_size * len(form_of(config).pieces) : config.population_size]
    if kind == "chat":
        assert [prompt.split("\n")[-1] for prompt in first] == ["user:", "assistant:", "user:", "assistant:"]
        assert {len(form_of(config).parse(text)[0]) for text in generator.initial_population} == {4}
    else:
        assert first[0].endswith("\nSubject:") and first[1].endswith(".\nStars:") and first[2].endswith(".\n\n")


def with_row(dataset, column, value):
    """A dataset whose row 7 has another value in a column."""
    values = list(dataset[column])
    values[7] = value
    return Dataset.from_dict({**{name: dataset[name] for name in dataset.column_names}, column: values})


SECRET = "zyquokka"
HALF = {
    "no turns": [],
    "missing": None,
    "an unknown role": [{"role": "nurse", "content": SECRET}],
    "no answer between": [*talk(SECRET), *talk("b", "c")],
    "begins with the second role": talk("a", SECRET)[1:],
    "no content": [{"role": "user", "content": None}, *talk("a", "b")[1:]],
}


@pytest.mark.parametrize("turns", HALF.values(), ids=HALF)
def test_half_a_private_conversation_is_refused_before_anything_is_spent(make_generator, turns, tmp_path):
    generator = make_generator(CHAT, run_dir=tmp_path)
    with pytest.raises(ValueError, match="`private` has 1 row that is not a whole conversation, such as row 7") as it:
        generator.evolve(with_row(PRIVATE_TALKS, "talk", turns), initial_population=PUBLIC_TALKS)
    assert SECRET not in str(it.value) and "nurse" not in str(it.value)
    assert generator.ledger.num_releases == 0
    assert not any(SECRET.encode() in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


def test_broken_public_rows_are_refused_before_anything_is_spent(make_generator):
    for config, private, public, words in (
        (CHAT, PRIVATE_TALKS, with_row(PUBLIC_TALKS, "talk", talk("a", "b")[1:]), "row 7: its turns do not alternate"),
        (CHAT, PRIVATE_TALKS, with_row(PUBLIC_TALKS, "talk", talk("alone")), "1 rows, such as row 7, .*not a whole"),
        (CHAT, PRIVATE_TALKS, ["user: a\nassistant: b", "words", "user: a"], "2 rows, such as row 1, .*'user: '"),
        (RECORD, PRIVATE_RECORDS, ["Subject: a\nStars: 1\n\nb", "Subject: a"], "row 1, .*as the template"),
        (RECORD, PRIVATE_RECORDS, PUBLIC_RECORDS.remove_columns("body"), "`initial_population` has no column 'body'"),
        (CHAT, PRIVATE_TALKS, PUBLIC_TALKS.rename_column("talk", "text"), "`initial_population` has no column 'talk'"),
        (CHAT, PRIVATE_TALKS.rename_column("talk", "text"), PUBLIC_TALKS, "`text_column`='talk' is not a column of"),
        (RECORD, PRIVATE_RECORDS.remove_columns("body"), PUBLIC_RECORDS, "`text_column`='body' is not a column of"),
        (
            RECORD,
            PRIVATE_RECORDS.remove_columns("stars").add_column("stars", [["a"]] * 60),
            PUBLIC_RECORDS,
            "60 rows that are not a whole record, such as row 0: one of .* is neither a string nor a number",
        ),
    ):
        generator = make_generator(config)
        with pytest.raises(ValueError, match=words):
            generator.evolve(private, initial_population=public)
        assert generator.ledger.num_releases == 0


def test_public_rows_that_are_too_long_are_left_out(make_generator, caplog):
    class Cutting(Variation):
        def truncate(self, text):
            return text[:80]

    long = with_row(PUBLIC_TALKS, "talk", talk("word " * 40, "b"))
    generator = make_generator(CHAT, variation_model=Cutting())
    generator.evolve(PRIVATE_TALKS, initial_population=long)
    assert "rows of `initial_population` are left out, because a whole conversation" in caplog.text
    assert all(form_of(CHAT).parse(text) for text in generator.initial_population)


@pytest.mark.parametrize("kind", DATA)
def test_public_rows_that_are_private_ones_are_warned_of(make_generator, kind):
    config, private, _ = DATA[kind]
    with pytest.warns(UserWarning, match="Most texts of `initial_population` are in `private` too"):
        make_generator(config).evolve(private, initial_population=private.remove_columns("client_id"))


def with_number(row, index):
    """Another number beside a record, or another greeting before a conversation."""
    return {"stars": index} if "stars" in row else {"talk": [*talk(f"Hi {index}.", "Hi."), *row["talk"]]}


@pytest.mark.parametrize("kind", DATA)
@pytest.mark.parametrize("as_public", [Dataset.to_iterable_dataset, lambda rows: rows], ids=["stream", "dataset"])
def test_private_rows_with_something_changed_beside_are_warned_of(kind, as_public):
    """They were another record, or another conversation, and so passed as public texts."""
    config, private, public = DATA[kind]
    changed = private.remove_columns("client_id").map(with_number, with_indices=True)
    with pytest.warns(UserWarning, match="are in `private` too, word for word"):
        check_public_texts(private, as_public(changed), form_of(config))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_public_texts(private, as_public(public.map(with_number, with_indices=True)), form_of(config))


def test_blank_rows_are_left_out_and_their_client_stays(make_generator):
    private = with_row(PRIVATE_RECORDS, "subject", "")
    private = with_row(with_row(private, "body", "  "), "stars", None)
    generator = make_generator(RECORD)
    with pytest.warns(UserWarning, match="`private` has blank texts"):
        generator.evolve(private, initial_population=PUBLIC_RECORDS)
    assert generator.privacy_report.num_clients == 20


def test_rows_are_read_from_files(tmp_path):
    rows = [{**row, "note": "x"} for row in PRIVATE_TALKS.to_list()]
    rows[1]["talk"] = [{**turn, "time": 3} for turn in rows[1]["talk"]]
    (tmp_path / "talks.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    PRIVATE_TALKS.to_parquet(tmp_path / "talks.parquet")
    (tmp_path / "talks.json").write_text(json.dumps(PRIVATE_TALKS.to_list()))
    form = form_of(CHAT)
    expected = [form.read((turns,)) for turns in PRIVATE_TALKS["talk"]]
    for name in ("talks.jsonl", "talks.parquet", "talks.json"):
        private = read_private_source({"source": str(tmp_path / name)}, CHAT)
        assert [form.read((turns,)) for turns in private["talk"]] == expected
    PRIVATE_RECORDS.to_csv(tmp_path / "records.csv")
    private = read_private_source({"source": str(tmp_path / "records.csv")}, RECORD)
    public = read_public_source({"source": str(tmp_path / "records.csv")}, RECORD)
    assert set(public.column_names) == set(RECORD.text_column)
    assert private.select_columns(["subject", "body"]).to_dict() == {
        name: PRIVATE_RECORDS[name][:] for name in ("subject", "body")
    }


def test_public_rows_are_streamed(make_generator):
    stream = PUBLIC_TALKS.to_iterable_dataset()
    texts = {form_of(CHAT).read((turns,)) for turns in PUBLIC_TALKS["talk"]}
    generator = make_generator(CHAT)
    generator.evolve(PRIVATE_TALKS, initial_population=stream)
    assert set(generator.initial_population) <= texts and len(generator.initial_population) == 16
    broken = with_row(PUBLIC_TALKS, "talk", talk("alone")).to_iterable_dataset()
    for public, words in (
        (broken, "not a whole conversation: row 7"),
        (stream.rename_column("talk", "x"), "no column"),
    ):
        generator = make_generator(CHAT)
        with pytest.raises(ValueError, match=words):
            generator.evolve(PRIVATE_TALKS, initial_population=public)
        assert generator.ledger.num_releases == 0


def test_an_audit_is_about_plain_texts():
    with pytest.raises(ValueError, match="`text_column`='talk' holds conversations, and an audit plants plain texts"):
        sample_targets(PRIVATE_TALKS, CHAT, 4)


def test_records_are_trained_on_as_their_template_writes_them(make_generator, tmp_path):
    generator = make_generator(RECORD)
    synthetic = generator(PRIVATE_RECORDS, initial_population=PUBLIC_RECORDS, num_samples=12)
    generator.save_pretrained(tmp_path)
    texts = load_training_texts(FinetuningArguments(dataset=str(tmp_path)))
    form = form_of(RECORD)
    expected = {form.read((row["subject"], row["stars"], row["body"])) for row in synthetic}
    assert {*texts.train["text"], *texts.validation["text"]} == expected
    assert texts.report.without_names() == generator.privacy_report
    assert find_privacy_report(texts.train).without_names() == generator.privacy_report
    # A column of it alone is trained on with the same guarantee.
    bodies = load_training_texts(FinetuningArguments(dataset=str(tmp_path), text_column="body"))
    assert {*bodies.train["text"], *bodies.validation["text"]} == set(synthetic["body"])
    assert bodies.report.without_names() == generator.privacy_report


TEMPLATE = "{% for turn in messages %}<s>{{ turn['role'] }}: {{ turn['content'] }}</s>{% endfor %}"


def test_conversations_are_trained_on_as_they_are(make_generator, llama, tmp_path):
    trl = pytest.importorskip("trl")
    generator = make_generator(CHAT)
    synthetic = generator(PRIVATE_TALKS, initial_population=PUBLIC_TALKS, num_samples=12)
    generator.save_pretrained(tmp_path / "out")
    texts = load_training_texts(FinetuningArguments(dataset=str(tmp_path / "out")))
    assert texts.train.column_names == ["messages"] and texts.report.without_names() == generator.privacy_report
    rows = [*texts.train["messages"], *texts.validation["messages"]]
    assert sorted(map(json.dumps, rows)) == sorted(map(json.dumps, synthetic["messages"]))
    model, tokenizer = llama
    tokenizer = type(tokenizer)(tokenizer_object=tokenizer.backend_tokenizer, bos_token="<s>", eos_token="</s>")
    tokenizer.pad_token, tokenizer.chat_template = "</s>", TEMPLATE
    settings = trl.SFTConfig(
        output_dir=str(tmp_path / "model"),
        max_steps=2,
        per_device_train_batch_size=4,
        logging_steps=1,
        max_length=128,
        use_cpu=True,
        bf16=False,
        save_strategy="no",
        report_to=[],
    )
    trainer = trl.SFTTrainer(
        model=type(model)(copy.deepcopy(model.config)),
        args=settings,
        train_dataset=synthetic,
        processing_class=tokenizer,
    )
    trainer.add_callback(GuaranteeCallback(trainer, synthetic))
    trainer.train()
    logged = {name: value for each in trainer.state.log_history for name, value in each.items()}
    assert np.isfinite(logged["loss"]) and logged["privacy_epsilon"] == generator.privacy_report.epsilon


def test_conversations_of_another_origin_train_without_a_guarantee(tmp_path):
    rows = Dataset.from_dict({"messages": [[*talk("a", "b"), {"role": "tool", "content": "3"}]] * 9})
    rows.to_json(tmp_path / "rows.jsonl")
    texts = load_training_texts(FinetuningArguments(dataset=str(tmp_path / "rows.jsonl")))
    assert texts.train.features["messages"] == List({"role": Value("string"), "content": Value("string")})
    assert texts.report is None and len(texts.train) + len(texts.validation) == 9


def test_a_variation_that_loses_turns_is_not_used():
    """A role that is masked would cut a conversation. Round by round, all would shrink to one exchange."""
    form = form_of(CHAT)
    long = "user: one\nassistant: two\nuser: three\nassistant: four"
    shorter, other = "user: one\nassistant: two\nuxer: three\nassistant: four", long.replace("three", "3")
    vary = variations_in_form(form, lambda texts, seed: [shorter, other])
    assert vary([long, long], 0) == [long, other]
