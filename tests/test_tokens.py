"""The question about tokens in a run: its plan, its public list, the clients' tokens, and what the answer is for."""

import json
import logging
import re
from dataclasses import replace

import numpy as np
import pytest
from datasets import Dataset

from hf_pretext import InMemoryClientPool, PrivateEvolutionConfig, PrivateEvolutionGenerator
from hf_pretext.cli import main
from hf_pretext.clients.samples import cap_samples
from hf_pretext.evolution.population import Population
from hf_pretext.evolution.token_answer import TokenAnswer
from hf_pretext.evolution.token_list import TokenList, counts_of
from hf_pretext.models.local_engine import LocalEngine
from hf_pretext.models.token_reader import TokenizerReader
from hf_pretext.privacy import Plan, plan
from hf_pretext.privacy.plan import with_token_fraction
from hf_pretext.saved_runs import SavedRun
from support.federation import no_noise
from support.tiny import random_texts

SETTINGS = {
    **{"epsilon": 4.0, "delta": 1e-3, "num_rounds": 2, "population_size": 16, "max_length": 32},
    **{"max_new_tokens": 16, "min_words": 1, "token_fraction": 0.3, "num_tokens": 60},
}
LABELS = {"ham": "messages that people want", "spam": "unwanted advertising"}


def make_config(**changes):
    return PrivateEvolutionConfig(**{**SETTINGS, **changes})


@pytest.fixture
def make(bert, sentence_transformer, llama):
    def make(config=None, engine=llama, **arguments):
        arguments = {"noise": no_noise, **arguments}
        return PrivateEvolutionGenerator(
            bert, sentence_transformer, engine, config=config or make_config(), **arguments
        )

    return make


@pytest.fixture
def reader(llama):
    return TokenizerReader(llama[1])


# The plan


def test_the_plan_has_one_release_of_token_counts_and_still_costs_epsilon():
    entries = Plan.from_config(make_config(mean_fraction=0.2)).releases
    assert [(each.question, each.count, each.num_bins, each.fraction) for each in entries[:2]] == [
        ("mean_embedding", 1, 4096, 0.2),
        ("token_counts", 1, 60, 0.3),
    ]
    labeled = Plan.from_config(make_config(labels=LABELS, label_column="kind")).entry("labeled_token_counts")
    assert labeled.num_bins == 120 and not labeled.mechanism.is_signed
    for config in (make_config(), make_config(neighboring_relation="replace_one"), make_config(mean_fraction=0.3)):
        assert 3.99 < Plan.from_config(config).epsilon(1e-3) <= 4.0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"token_fraction": 1.0}, "`token_fraction`=1.0 must be below 1. It is a fraction of the budget"),
        ({"token_fraction": -0.1}, "`token_fraction`=-0.1 must be at least 0"),
        ({"token_fraction": 0.6, "mean_fraction": 0.4}, "do not fit the budget: they leave nothing for the votes"),
        ({"num_tokens": 1}, "`num_tokens`=1 must be at least 2"),
    ],
)
def test_settings_that_cannot_be_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        Plan.from_config(make_config(**changes))


def test_the_default_depends_on_public_facts_only(monkeypatch):
    """On the settings and on what the language model can do: it does not change when a client comes or goes."""
    unset = make_config(token_fraction=None)
    monkeypatch.setattr(plan, "DEFAULT_TOKEN_FRACTION", 0.0)
    assert not Plan.from_config(unset).reads_tokens and with_token_fraction(unset, True) == unset
    monkeypatch.setattr(plan, "DEFAULT_TOKEN_FRACTION", 0.25)
    decided = [with_token_fraction(each, True).token_fraction for each in (unset, make_config(), make_config())]
    assert decided == [0.25, 0.3, 0.3]
    assert with_token_fraction(unset, False).token_fraction == 0
    assert with_token_fraction(replace(unset, max_dropout=0.2), True).token_fraction == 0
    assert with_token_fraction(PrivateEvolutionConfig.paper(), True).token_fraction == 0


def test_without_a_language_model_nothing_is_asked_about_tokens(make, private, public, monkeypatch):
    monkeypatch.setattr(plan, "DEFAULT_TOKEN_FRACTION", 0.25)
    unset = make_config(token_fraction=None)
    generator = make(unset, engine=None)
    generator.evolve(private, initial_population=public)
    assert set(generator.privacy_report.kinds) == {"votes"} and generator.token_answer is None
    assert make(unset).ledger.plan.entry("token_counts").fraction == 0.25


def test_the_plan_is_printed_before_anything_is_read(tmp_path, capsys, monkeypatch):
    path = tmp_path / "run.yaml"
    path.write_text("epsilon: 1.29\ndelta: 3.0e-6\ntoken_fraction: 0.2\nexpansion_model: nowhere/at-all\n")
    main(["plan", "--config", str(path), "--num-clients", "1000"])
    printed = capsys.readouterr().out
    assert re.search(r"\| token_counts \| 1 \| [\d,]+ \| 20% \|", printed)
    assert re.search(
        r"`token_counts`: a token stands out if \d+ clients use it, each with 49 other tokens once", printed
    )
    monkeypatch.setattr(plan, "DEFAULT_TOKEN_FRACTION", 0.25)
    for model, is_asked in (("nowhere/at-all", True), ("", False)):
        path.write_text(f"epsilon: 1.29\ndelta: 3.0e-6\nexpansion_model: {model}\n")
        main(["plan", "--config", str(path)])
        assert ("token_counts" in capsys.readouterr().out) == is_asked


def test_the_plan_for_a_server_has_both_cases(tmp_path, capsys):
    path = tmp_path / "run.yaml"
    path.write_text("epsilon: 1.29\ndelta: 3.0e-6\nexpansion_model: http://localhost:1/v1#x\n")
    main(["plan", "--config", str(path)])
    first, with_counts, without = re.split("\nIf .*:\n", capsys.readouterr().out)
    assert "The run asks its server" in first
    assert "| token_counts | 1 |" in with_counts and "token_counts" not in without
    path.write_text("noise_multiplier: 5.5\ndelta: 3.0e-6\nexpansion_model: http://localhost:1/v1#x\n")
    main(["plan", "--config", str(path)])
    assert "If not:" not in capsys.readouterr().out  # There is one case.


def test_the_default_never_raises_epsilon():
    """Who sets the noise of votes has no budget that a release more would be taken from."""
    config = PrivateEvolutionConfig(noise_multiplier=5.5, delta=3e-6)
    assert with_token_fraction(config, True) == with_token_fraction(config, False)
    assert with_token_fraction(config, True).token_fraction == 0


def test_the_default_leaves_half_of_the_rest_to_the_votes(make):
    config = make_config(token_fraction=None, mean_fraction=0.8)
    entries = make(config).ledger.plan.releases
    assert [entry.fraction for entry in entries] == pytest.approx([0.8, 0.1, 0.1])
    assert with_token_fraction(config, True, 0.1).token_fraction == pytest.approx(0.05)


# The public list


def test_the_list_is_of_the_most_frequent_public_tokens(reader):
    texts = [*random_texts(40, seed=5), "two\nlines", "Original Text Sample 3"]
    made = TokenList.of(texts, reader, make_config())
    counts = counts_of(texts, made.tokens, reader).sum(axis=0)
    assert len(made.tokens) == 60 and (np.diff(counts) <= 0).all() and counts[-1] >= 1
    ties = np.flatnonzero(np.diff(counts) == 0)
    assert all(made.tokens[index] < made.tokens[index + 1] for index in ties)
    left_out = {*reader("Original Text Sample 3"), *reader.special, *reader("")}
    assert not left_out & set(made.tokens)
    assert not any("\n" in reader.decode(token) for token in made.tokens)
    assert made == TokenList.from_dict(json.loads(json.dumps(made.to_dict())))


def test_special_tokens_in_a_text_are_read_as_characters(reader):
    """So no text can count as the end of a text."""
    assert not reader.special & set(reader("a lost card</s> and <s> more"))
    assert reader.special


@pytest.mark.parametrize("public", [["a lost card"], ["\n", "a lost card"], ["1", "2"]])
def test_public_texts_that_say_too_little_are_refused_before_anything_is_spent(make, private, public):
    generator = make()
    with pytest.raises(ValueError, match="`initial_population` (holds 1 different texts|has 0 different tokens)"):
        generator.evolve(private, initial_population=public)
    assert generator.ledger.num_releases == 0


def test_the_list_does_not_depend_on_private_texts(make, private, public, tmp_path):
    """Rare private words are not on it, and other private texts leave it as it is, to the last weight."""
    lists = []
    for name, texts in (("a", private["text"]), ("b", ["zyzzyva quokka " * 9] * len(private))):
        own = Dataset.from_dict({"client_id": private["client_id"], "text": list(texts)})
        make(run_dir=tmp_path / name).evolve(own, initial_population=public)
        lists.append((tmp_path / name / "run-1-tokens.json").read_text())
    assert lists[0] == lists[1]


# The clients


def test_the_answer_is_the_sum_of_what_clients_count(make, private, public, reader):
    """Compared with a loop over clients: their subsets, their tokens below a heading, weights, and norm one."""
    generator = make()
    generator.evolve(private, initial_population=public)
    answer, expected = generator.token_answer, 0.0
    clients = {client: [] for client in private["client_id"]}
    for row in private:
        clients[row["client_id"]].append(row["text"])
    for client, own in clients.items():
        counts = counts_of(cap_samples(client, own, 8, 0), answer.tokens.tolist(), reader).sum(axis=0)
        expected = expected + counts * answer.weights / np.linalg.norm(counts * answer.weights)
    np.testing.assert_allclose(answer.counts, expected[None], atol=1e-4)
    entry = generator.ledger.plan.entry("token_counts")
    assert (answer.noise_std, answer.num_clients) == (entry.mechanism.noise_std, 12)
    assert answer.tokenizer == reader.fingerprint


def test_each_label_has_a_row(make, private, public):
    kinds = ["spam" if int(client.split("-")[1]) % 3 == 0 else "ham" for client in private["client_id"]]
    generator = make(make_config(labels=LABELS, label_column="kind"))
    generator.evolve(private.add_column("kind", kinds), initial_population=public)
    counts = generator.token_answer.counts
    assert counts.shape == (2, 60) and (counts.sum(axis=1) > 1).all()
    # Four of twelve clients write spam, and nothing else.
    assert np.linalg.norm(counts[0]) > np.linalg.norm(counts[1])


def test_records_are_read_as_they_are_written(make, reader):
    config = make_config(text_column=("subject", "body"))
    rows = {"client_id": list("aabbcc"), "subject": ["a lost card"] * 6, "body": random_texts(6)}
    public = Dataset.from_dict({"subject": random_texts(40, seed=3), "body": random_texts(40, seed=4)})
    generator = make(config)
    generator.evolve(Dataset.from_dict(rows), initial_population=public)
    answer = generator.token_answer
    texts = [f"subject: a lost card\nbody: {body}" for body in rows["body"]]
    counts = counts_of(texts, answer.tokens.tolist(), reader)
    expected = [counts[start : start + 2].sum(axis=0) * answer.weights for start in (0, 2, 4)]
    np.testing.assert_allclose(answer.counts[0], sum(each / np.linalg.norm(each) for each in expected), atol=1e-4)


def test_a_pool_without_a_tokenizer_is_refused_before_anything_is_spent(make, private, public, embedder):
    generator = make()
    pool = InMemoryClientPool(private, embedder, generator.config, generator.ledger.plan)
    with pytest.raises(ValueError, match="is about tokens, but these clients have no tokenizer"):
        generator.evolve(pool, initial_population=public)
    assert generator.ledger.num_releases == 0


class OtherReader(TokenizerReader):
    """The tokenizer of another language model."""

    fingerprint = "another"


def test_a_pool_with_another_tokenizer_is_refused_before_anything_is_spent(make, private, public, embedder, llama):
    generator = make()
    other = OtherReader(llama[1])
    pool = InMemoryClientPool(private, embedder, generator.config, generator.ledger.plan, None, other)
    with pytest.raises(ValueError, match="but the clients have one with 'another'. Give both sides the tokenizer of"):
        generator.evolve(pool, initial_population=public)
    assert generator.ledger.num_releases == 0


class Answers:
    """An engine of the caller that shows no tokenizer."""

    def complete(self, prompts, max_new_tokens, seed, stop=None):
        return ["a lost card"] * len(prompts)

    def answer(self, instructions, max_new_tokens, seed):
        return ["a lost card"] * len(instructions)

    def truncate(self, text, max_tokens):
        return text


class ShowsOnly(Answers):
    """One that shows its tokenizer, and takes no bias."""

    def token_reader(self):
        return TokenizerReader(None)


@pytest.mark.parametrize(
    ("engine", "message"),
    [
        (None, "but there is no `expansion_model`"),
        (Answers(), "but `expansion_model` does not show its tokenizer"),
        (ShowsOnly(), "but `expansion_model` of type ShowsOnly takes no bias of tokens"),
    ],
)
def test_a_question_that_is_of_no_use_is_refused_before_anything_is_spent(make, private, public, engine, message):
    generator = make(engine=engine)
    with pytest.raises(ValueError, match=f"`token_fraction`=0.3 spends budget on the tokens .* {message}"):
        generator.evolve(private, initial_population=public)
    assert generator.ledger.num_releases == 0


def test_a_run_whose_answers_are_all_there_needs_no_tokenizer(make, private, public, tmp_path):
    """Another language model, also a served one, may write from the seeds of a run that was killed while it wrote."""
    seeds = make(run_dir=tmp_path / "run", noise=None).evolve(private, initial_population=public)
    again = make(run_dir=tmp_path / "run", noise=None, engine=Answers())
    assert again.evolve(None, initial_population=public).to_list() == seeds.to_list()
    assert again.token_answer is not None


# What a run keeps, and what is saved


def test_a_run_that_was_killed_reads_the_answer_again(make, private, public, tmp_path):
    whole = make(run_dir=tmp_path / "run", noise=None)
    seeds = whole.evolve(private, initial_population=public)
    (tmp_path / "run" / "run-1-weights-2.json").unlink()
    again = make(run_dir=tmp_path / "run", noise=None)
    assert again.evolve(None, initial_population=public).to_list() == seeds.to_list()
    assert again.ledger.num_releases == 3
    assert again.token_answer.to_dict() == whole.token_answer.to_dict()


def test_another_tokenizer_in_the_same_folder_is_refused_before_it_is_asked(make, private, public, tmp_path):
    class Interrupted(Exception):
        pass

    def interrupting(scale, size):
        raise Interrupted

    generator = make(run_dir=tmp_path / "run")
    generator._noise = interrupting
    kept = tmp_path / "run" / "run-1-tokens.json"
    with pytest.raises(RuntimeError, match="The release is counted as spent"):
        generator.evolve(private, initial_population=public)
    asked = json.loads(kept.read_text())
    kept.write_text(json.dumps({**asked, "tokenizer": "another"}))
    (tmp_path / "run" / "run-1-release-token_counts.json").unlink()
    with pytest.raises(ValueError, match="`expansion_model` has another tokenizer than the one with which the run"):
        make(run_dir=tmp_path / "run").evolve(private, initial_population=public)


def test_a_saved_run_keeps_its_answer(make, private, public, tmp_path, bert, sentence_transformer, llama):
    generator = make(noise=None)
    generator.expand(generator.evolve(private, initial_population=public), num_samples=8)
    generator.save_pretrained(tmp_path / "saved")
    models = {"variation_model": bert, "embedding_model": sentence_transformer, "expansion_model": llama}
    again = PrivateEvolutionGenerator.from_pretrained(tmp_path / "saved", **models)
    assert again.token_answer.to_dict() == generator.token_answer.to_dict()
    assert again.seeds is not None and again.privacy_report == generator.privacy_report
    again.save_pretrained(tmp_path / "saved")
    card = (tmp_path / "saved" / "README.md").read_text()
    assert "`token_counts`: how often its samples hold each of 60 public tokens" in " ".join(card.split())
    # Counts that someone edits would decide what is written under the guarantee of the seeds.
    path = tmp_path / "saved" / "token_counts.json"
    values = json.loads(path.read_text())
    values["counts"][0][0] += 1.0
    path.write_text(json.dumps(values))
    edited = PrivateEvolutionGenerator.from_pretrained(tmp_path / "saved", **models)
    assert edited.seeds is None and edited.token_answer is None
    path.unlink()
    assert PrivateEvolutionGenerator.from_pretrained(tmp_path / "saved", **models).seeds is None


def test_what_was_left_to_the_library_is_saved_as_it_was_decided(
    make, private, public, tmp_path, bert, sentence_transformer, llama, monkeypatch
):
    """The settings come back as they were given, and the plan as it was, whatever the default and the models are."""
    monkeypatch.setattr(plan, "DEFAULT_TOKEN_FRACTION", 0.2)
    unset = make_config(token_fraction=None)
    generator = make(unset, noise=None)
    generator.expand(generator.evolve(private, initial_population=public), num_samples=4)
    generator.save_pretrained(tmp_path / "saved")
    assert generator.config == unset and generator.token_answer is not None
    monkeypatch.setattr(plan, "DEFAULT_TOKEN_FRACTION", 0.3)
    for engine in (llama, Answers(), None):
        models = {"variation_model": bert, "embedding_model": sentence_transformer, "expansion_model": engine}
        again = PrivateEvolutionGenerator.from_pretrained(tmp_path / "saved", **models)
        assert again.config == unset and again.privacy_report == generator.privacy_report
        assert again.ledger.plan == generator.ledger.plan
    path = tmp_path / "saved" / "private_evolution_config.json"
    values = json.loads(path.read_text())
    for decided in (None, "no", {"token_fraction": "no"}):
        path.write_text(json.dumps({**values, "decided": decided}))
        with pytest.raises((ValueError, TypeError), match="do not belong together|`token_fraction`"):
            PrivateEvolutionGenerator.from_pretrained(tmp_path / "saved", **models)


def test_a_run_without_the_question_takes_the_place_of_its_answer(make, private, public, tmp_path):
    """An older answer in the same folder would tilt what is written from other seeds."""
    generator = make(noise=None)
    generator.evolve(private, initial_population=public)
    generator.save_pretrained(tmp_path / "saved")
    assert (tmp_path / "saved" / "token_counts.json").is_file()
    generator._token_answer = None
    generator.save_pretrained(tmp_path / "saved")
    assert not (tmp_path / "saved" / "token_counts.json").is_file()


def test_an_answer_can_be_given_to_a_new_generator_only(make, private, public):
    first, other = make(), make()
    seeds = first.evolve(private, initial_population=public)
    other.token_answer = TokenAnswer.from_dict(json.loads(json.dumps(first.token_answer.to_dict())))
    assert len(other.expand(seeds, num_samples=4)) == 4 and other.token_answer.num_clients == 12
    with pytest.raises(ValueError, match="`token_answer` of a generator with seeds of its own is that of their run"):
        first.token_answer = None


ANSWER = TokenAnswer.of(TokenList((3, 5), (1.0, 2.0), "t"), np.array([0.5, -0.5]), 1.5, 9).to_dict()


@pytest.mark.parametrize(
    "changes",
    [
        {"counts": [[1.0]]},
        {"counts": []},
        {"counts": [[1.0, float("nan")]]},
        {"tokens": [3, 3]},
        {"tokens": [-1, 3]},
        {"tokens": ["3", "5"]},
        {"weights": [1.0, 0.0]},
        {"weights": [1.0, 1e7]},
        {"tokens": [3, 10**30]},
        {"counts": [[1.0, 10**400]]},
        {"noise_std": None},
        {"num_clients": -1},
        {"tokenizer": None},
    ],
)
def test_an_answer_from_elsewhere_is_checked(changes):
    assert TokenAnswer.from_dict(ANSWER).to_dict() == ANSWER
    with pytest.raises(ValueError, match="Token counts .* not valid"):
        TokenAnswer.from_dict({**ANSWER, **changes})
    for value in (None, [], "counts", {}):
        with pytest.raises(ValueError, match="Token counts .* not valid"):
            TokenAnswer.from_dict(value)


def test_an_unreadable_answer_beside_saved_seeds_is_not_theirs(make, private, public, tmp_path, caplog):
    generator = make(noise=None)
    generator.evolve(private, initial_population=public)
    generator.save_pretrained(tmp_path)
    (tmp_path / "token_counts.json").write_text('{"tokens": []}')
    saved = SavedRun.load(tmp_path)
    assert saved.seeds is None and saved.token_answer is None
    assert "token_counts.json' is not what hf_pretext writes" in caplog.text


# What a tokenizer must not tell


class Words:
    """A tokenizer that numbers words as it meets them, and forgets what it read long ago if it has a memory."""

    fingerprint, special = "words", frozenset()

    def __init__(self, memory=None):
        self.known, self.read, self.memory = {}, [], memory

    def __call__(self, text):
        self.read.append(text)
        if self.memory is not None and len(self.read) % self.memory == 0:
            self.known.clear()
        return [self.known.setdefault(word, len(self.known)) for word in text.split()]

    def decode(self, token):
        return "x"


def test_the_list_is_chosen_before_the_tokenizer_reads_private_texts(make, private, public, monkeypatch):
    """So a tokenizer that numbers words as it meets them has numbered those of the list, whoever the clients are."""
    answers = []
    for own in (private, private.filter(lambda row: row["client_id"] != "client-1")):
        words = Words()
        monkeypatch.setattr(LocalEngine, "token_reader", lambda engine, words=words: words)
        generator = make()
        generator.evolve(own, initial_population=public)
        first_private = min(words.read.index(text) for text in own["text"] if text in words.read)
        assert first_private > max(words.read.index(text) for text in public)
        answers.append(generator.token_answer.counts)
    assert 0 < np.linalg.norm(answers[0] - answers[1]) <= 1.0001
    assert any("tokenizer reads a text alike" in each for each in generator.privacy_report.assumptions)


def test_a_tokenizer_that_reads_a_text_in_two_ways_is_refused(make, private, public, monkeypatch):
    generator = make()
    words = Words(memory=5)
    monkeypatch.setattr(LocalEngine, "token_reader", lambda engine: words)
    with pytest.raises(ValueError, match="reads the same public text as other tokens after it has read others"):
        generator.evolve(private, initial_population=public)
    assert generator.ledger.num_releases == 0 and not set(private["text"]) & set(words.read)


def test_the_length_of_a_private_text_is_not_logged(reader, caplog, monkeypatch):
    monkeypatch.setattr(reader._tokenizer, "model_max_length", 512)
    monkeypatch.setattr(reader._tokenizer, "deprecation_warnings", {})
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    assert len(reader("secret " * 1000)) > 512
    assert caplog.text == ""


# Runs that go on


@pytest.mark.parametrize("engine", ["one that cannot", None])
def test_another_model_continues_a_released_run_and_spends_nothing(make, private, public, tmp_path, engine, caplog):
    """By default as well: what was decided when the run began holds, whatever the models of now can do."""
    unset = make_config(token_fraction=None)
    seeds = make(unset, run_dir=tmp_path / "run", noise=None).evolve(private, initial_population=public)
    again = make(unset, engine=engine and Answers(), run_dir=tmp_path / "run", noise=None)
    assert again.ledger.num_releases == 3
    assert again.evolve(None, initial_population=public).to_list() == seeds.to_list()
    assert again.ledger.num_releases == 3 and again.config == unset
    if engine is not None:
        again.expand(again.seeds, num_samples=1)
        assert "does not learn from their counts" in caplog.text


def test_a_run_that_began_without_tokens_goes_on_without(make, private, public, tmp_path):
    unset = make_config(token_fraction=None)
    make(unset, engine=None, run_dir=tmp_path / "run", noise=None).evolve(private, initial_population=public)
    again = make(unset, run_dir=tmp_path / "run", noise=None)
    assert not again.ledger.plan.reads_tokens and again.ledger.num_releases == 2


def test_an_older_ledger_is_refused_once_a_first_question_was_answered(make, private, tmp_path, monkeypatch):
    """Also where the run writes its population, and was killed before the first round."""

    def interrupted(*_):
        raise KeyboardInterrupt

    config, folder = make_config(domain="messages", lookahead=1), tmp_path / "run"
    generator = make(config, run_dir=folder, noise=None)
    older = (folder / "ledger.json").read_bytes()
    with monkeypatch.context() as patched:
        patched.setattr(Population, "represent", interrupted)
        with pytest.raises(KeyboardInterrupt):
            generator.evolve(private)
    assert generator.ledger.num_releases == 1
    (folder / "ledger.json").write_bytes(older)
    with pytest.raises(ValueError, match="its ledger does not count that release: it is an older copy"):
        make(config, run_dir=folder, noise=None).evolve(private)
