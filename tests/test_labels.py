"""Texts with labels: settings, private rows, candidates, seeds, expansion, and everything that is saved of them."""

import json
import warnings
from dataclasses import replace

import numpy as np
import pytest
import yaml
from datasets import ClassLabel, Dataset, Features, Value, load_from_disk
from hypothesis import given
from hypothesis import strategies as st

from hf_pretext import PrivateEvolutionConfig, PrivateEvolutionGenerator
from hf_pretext.audit import AuditedGenerator
from hf_pretext.cli import main
from hf_pretext.clients.in_memory import InMemoryClientPool
from hf_pretext.clients.rows import LabeledText, group_by_client
from hf_pretext.clients.samples import cap_samples
from hf_pretext.data import read_dataset
from hf_pretext.data.labels import read_labels
from hf_pretext.evolution.parts import divide_public
from hf_pretext.evolution.public_texts import public_texts_of_parts
from hf_pretext.expansion import Expander, SeedTexts
from hf_pretext.finetuning import FinetuningArguments, load_training_texts
from hf_pretext.hub import find_privacy_report
from hf_pretext.labels import split_by_shares, split_evenly
from hf_pretext.privacy import Plan
from hf_pretext.runs.folder import RunFolder
from support.federation import no_noise
from support.tiny import random_texts

LABELS = {"ham": "messages that people want", "spam": "unwanted advertising"}
SIZES = {
    **{"population_size": 16, "max_length": 32, "max_new_tokens": 16, "min_words": 1, "num_rounds": 2},
    "token_fraction": 0.0,
}


def make_config(**changes):
    settings = {"epsilon": 4.0, "delta": 1e-3, **SIZES, "labels": LABELS, "label_column": "kind", **changes}
    return PrivateEvolutionConfig(**settings)


@pytest.fixture
def labeled(private):
    """Twelve clients with 1, 2, ..., 12 texts. Those of every third client are spam."""
    kinds = ["spam" if int(client.split("-")[1]) % 3 == 0 else "ham" for client in private["client_id"]]
    return private.add_column("kind", kinds)


@pytest.fixture
def make(bert, sentence_transformer, llama):
    def make(config=None, variation_model=bert, **arguments):
        arguments = {"noise": no_noise, **arguments}
        return PrivateEvolutionGenerator(
            variation_model, sentence_transformer, llama, config=config or make_config(), **arguments
        )

    return make


# Settings


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": {}}, "`labels`={} has 0 labels. Give at least 2"),
        ({"labels": {"spam": "advertising"}}, "has 1 labels. Give at least 2"),
        ({"labels": None}, "`label_column`='kind' and `labels`=None need each other"),
        ({"label_column": None}, "`label_column`=None and `labels`=.* need each other"),
        ({"label_column": "text"}, "`label_column`='text' is also the column of texts or clients"),
        ({"label_column": "client_id"}, "`label_column`='client_id' is also the column of texts or clients"),
        ({"label_column": "votes"}, "`label_column`='votes' is the name of another column"),
        ({"labels": {"spam": "two\nlines", "ham": "mail"}}, "has the description 'two.nlines', which is not valid"),
        ({"labels": {" spam": "ads", "ham": "mail"}}, "has the name ' spam', which is not valid"),
        ({"labels": {"spam": "", "ham": "mail"}}, "has the description '', which is not valid"),
        ({"labels": {"spam": "ads", "x" * 65: "mail"}}, "use one line of 1 to 64 characters"),
        ({"label_shares": {"spam": 0.5}}, r"sum must be 1"),
        ({"label_shares": {"spam": 1.0}}, r"`label_shares` names \['spam'\], but `labels` are \['ham', 'spam'\]"),
        ({"label_shares": {"spam": 1.5, "ham": -0.5}}, "must be fractions that are not negative"),
        ({"labels": None, "label_column": None, "label_shares": {"a": 1.0}}, "needs `label_column` and `labels`"),
        ({"vote_clipping": "count"}, "`vote_clipping`='count' is the paper's counting, which has no `labels`"),
        ({"population_size": 3}, "leaves 1 candidates for a label. A label needs at least 2"),
        ({"votes_per_sample": 9}, "leaves 8 candidates for a label. A label needs at least 9"),
    ],
)
def test_labels_that_mean_nothing_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        make_config(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": ["spam", "ham"]}, "must map the name of each label to a few public words"),
        ({"labels": {1: "one star", 2: "two stars"}}, "has the name 1 of type int. Names are strings: in YAML"),
        ({"label_shares": [0.5, 0.5]}, "must map the name of each label to its fraction"),
        ({"label_shares": {"ham": "half", "spam": 0.5}}, "must map the name of each label to its fraction"),
    ],
)
def test_labels_of_the_wrong_type_are_refused(changes, message):
    with pytest.raises(TypeError, match=message):
        make_config(**changes)


def test_settings_with_labels_round_trip_and_do_not_follow_the_caller_s_mapping(tmp_path):
    """Through JSON and YAML, in the order of the labels, in any script."""
    labels = {
        "jähe": "plötzliche Wünsche",
        "広告": "宣伝のメッセージ",
        "हिंदी": "हिंदी में संदेश",
        "C++": "code (C++) & more",
    }
    config = make_config(labels=labels, label_shares=dict.fromkeys(labels, 0.25))
    labels["more"] = "later"
    config.save_pretrained(tmp_path)
    for other in (
        PrivateEvolutionConfig.from_pretrained(tmp_path),
        PrivateEvolutionConfig.from_dict(yaml.safe_load(yaml.safe_dump(config.to_dict(), sort_keys=False))),
        replace(config),
    ):
        assert other == config and other.label_names == config.label_names == list(labels)[:4]


def test_a_plan_says_what_is_released_of_labels():
    """Bins for the shares are there only if they are asked for. The epsilon is the same: no budget is divided."""
    plans = [Plan.from_config(each) for each in (make_config(), make_config(label_shares={"ham": 1.0, "spam": 0.0}))]
    assert [plan.votes.num_bins for plan in plans] == [18, 16]
    assert [plan.votes.question for plan in plans] == ["labeled_votes"] * 2
    without = Plan.from_config(PrivateEvolutionConfig(epsilon=4.0, delta=1e-3, num_rounds=2))
    assert {plan.votes.mechanism for plan in plans} == {without.votes.mechanism}
    assert "its numbers of samples with each label" in plans[0].votes.description


@given(total=st.integers(0, 10_000), shares=st.lists(st.floats(0, 1), min_size=2, max_size=9))
def test_numbers_by_shares_add_up_and_are_within_one(total, shares):
    if sum(shares) < 1e-9:
        shares = [1.0, *shares]
    numbers = split_by_shares(total, shares)
    assert sum(numbers) == total
    for number, share in zip(numbers, shares, strict=True):
        assert abs(number - total * share / sum(shares)) < 1 + 1e-6 and (share or not number)


def test_candidates_are_divided_evenly():
    assert split_evenly(10, 3) == [4, 3, 3] and split_evenly(7, 1) == [7]
    assert make_config(labels={**LABELS, "other": "all else"}).candidates_per_label == [6, 5, 5]


# Private rows


def test_labels_are_read_by_their_names():
    """As strings, as a `ClassLabel` of another order, or as numbers if the labels are called by numbers."""
    names = ["spam", "ham"]
    strings = Dataset.from_dict({"kind": names})
    numbered = Dataset.from_dict({"kind": [0, 1]}, features=Features({"kind": ClassLabel(names=["ham", "spam"])}))
    assert read_labels("private", strings, "kind", list(LABELS)) == [1, 0]
    assert read_labels("private", numbered, "kind", list(LABELS)) == [0, 1]
    assert read_labels("private", Dataset.from_dict({"kind": [5, 1]}), "kind", ["1", "5"]) == [1, 0]


@pytest.mark.parametrize(
    "column",
    [
        Dataset.from_dict({"kind": ["ham", "a secret diagnosis", "ham", None]}),
        Dataset.from_dict({"kind": ["ham", "Ham", "spam", " ham"]}),
        Dataset.from_dict({"kind": [0, 1, 0, 1]}),
        Dataset.from_dict({"kind": [True, False, True, False]}),
        Dataset.from_dict({"kind": [["ham"], ["spam"], [], ["ham"]]}),
        Dataset.from_dict({"kind": [0, 2, 0, 2]}, features=Features({"kind": ClassLabel(names=["ham", "spam", "x"])})),
        Dataset.from_dict({"kind": [0, -1, 0, -1]}, features=Features({"kind": ClassLabel(names=["ham", "spam"])})),
    ],
)
def test_rows_whose_label_is_not_public_are_refused_before_anything_is_spent(make, column):
    """The message says how many rows and which is the first. It quotes neither label nor text."""
    ids, texts = ["a", "b", "c", "d"], ["a lost card", "my secret text", "a new loan", "late train"]
    rows = column.add_column("client_id", ids).add_column("text", texts)
    generator = make()
    with pytest.raises(
        ValueError, match=r"`private` has \d rows, such as row \d, whose label in column 'kind'"
    ) as told:
        generator.evolve(rows, initial_population=random_texts(40))
    assert "secret" not in str(told.value) and "Ham" not in str(told.value)
    assert generator.ledger.num_releases == 0
    with pytest.raises(ValueError, match="`label_column`='kind' is not a column of `private`"):
        generator.evolve(rows.remove_columns("kind"), initial_population=random_texts(40))


def test_labels_stay_with_their_texts(labeled, embedder):
    """Through blank texts, the cap, and clients whose texts cannot be embedded."""
    config = make_config(max_samples_per_client=4)
    rows = Dataset.from_list([{"client_id": "client-1", "text": "  ", "kind": "spam"}, *labeled])
    failing = random_texts(3, seed=9)
    rows = Dataset.from_list([*rows, *({"client_id": "z", "text": text, "kind": "ham"} for text in failing)])
    with pytest.warns(UserWarning, match="blank texts"):
        groups = group_by_client(rows, config)
    expected = {}
    for row in rows:
        own = expected.setdefault(row["client_id"], [])
        own += [LabeledText(row["text"], list(config.labels).index(row["kind"]))] if row["text"].strip() else []
    assert groups == expected

    class Fails(type(embedder)):
        def __call__(self, texts):
            if set(texts) & set(failing):
                raise RuntimeError
            return super().__call__(texts)

    embedder = Fails(embedder.model if hasattr(embedder, "model") else embedder._model, batch_size=16)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        samples = InMemoryClientPool(rows, embedder, config, Plan.from_config(config))._samples
    clients = list(groups)
    for client, own in samples.each_client():
        number = int(clients[client].split("-")[1])
        assert own.labels.tolist() == [int(number % 3 == 0)] * min(number, 4)
    assert len(samples.owners) == len(samples.labels) == 1 + 2 + 3 + 9 * 4
    assert "array" not in repr(samples) and "labels" not in repr(samples)


def test_a_subset_has_two_samples_of_one_text_with_two_labels():
    """Each has a rank of its own, whatever the order of the rows. One sample more exchanges one at most."""
    samples = [LabeledText(text, label) for text in random_texts(12) for label in (0, 1)]
    rng = np.random.default_rng(0)
    for seed in range(20):
        whole = cap_samples("client", samples, 8, seed)
        order = [samples[index] for index in rng.permutation(len(samples))]
        assert set(cap_samples("client", order, 8, seed)) == set(whole) and len(set(whole)) == 8
        assert len(set(whole) - set(cap_samples("client", samples[1:], 8, seed))) <= 1


# Candidates


def test_public_texts_without_labels_may_get_any_label():
    texts = [f"text {number}" for number in range(20)]
    first, second = divide_public(texts, [8, 8])
    assert set(first) == set(second) == set(texts) and not set(first[:8]) & set(second[:8])
    assert divide_public(texts[:3], [8, 8]) == [texts[:3], [*texts[2:3], *texts[:2]]]


def test_public_texts_with_labels_are_candidates_of_their_own():
    config = make_config()
    rows = [{"text": f"{kind} {number}", "kind": kind} for number in range(30) for kind in LABELS]
    for public in (Dataset.from_list(rows), Dataset.from_list(rows).to_iterable_dataset()):
        ham, spam = public_texts_of_parts(public, str, config)
        assert len(ham) == len(spam) == 30
        assert all(text.startswith("ham") for text in ham) and all(text.startswith("spam") for text in spam)


@pytest.mark.parametrize(
    ("kinds", "message"),
    [
        (["ham"] * 40, "`initial_population` holds 0 different texts with the label 'spam'"),
        (["ham"] * 39 + ["spam"], "`initial_population` holds 1 different texts with the label 'spam'"),
        (["ham", "spam"] * 19 + ["eggs"] * 2, "`initial_population` has 2 rows, such as row 38, whose label"),
        (["ham", "spam"] * 19 + [None, "ham"], "`initial_population` has 1 rows, such as row 38, whose label"),
    ],
)
def test_a_label_without_candidates_is_refused_before_anything_is_spent(make, labeled, kinds, message):
    generator = make()
    public = Dataset.from_dict({"text": [f"{text} {row}" for row, text in enumerate(random_texts(40))], "kind": kinds})
    with warnings.catch_warnings(), pytest.raises(ValueError, match=message):
        warnings.simplefilter("ignore")
        generator.evolve(labeled, initial_population=public)
    assert generator.ledger.num_releases == 0


def test_a_part_evolves_towards_the_texts_of_its_own_label(make, embedder, tmp_path):
    """Without noise, seeds of a label are nearer to the private texts of that label than those of the other."""
    words = {"ham": "garden sun food walk rain", "spam": "loan card bank new lost"}
    rng = np.random.default_rng(0)
    rows = [
        {"client_id": f"{kind}-{number}", "text": " ".join(rng.permutation(words[kind].split())), "kind": kind}
        for kind in LABELS
        for number in range(40)
    ]
    public = [" ".join(rng.permutation(each.split())) for each in words.values() for _ in range(60)]
    public += random_texts(100, seed=3)
    config = make_config(num_rounds=3, population_size=40)
    seeds = make(config, run_dir=tmp_path).evolve(Dataset.from_list(rows), initial_population=public)
    votes = np.zeros((2, 2))
    for row in seeds:
        for other, each in enumerate(words.values()):
            votes[row["kind"], other] += row["votes"] * (set(row["text"].split()) <= set(each.split()))
    assert votes[0, 0] > 5 * votes[0, 1] and votes[1, 1] > 5 * votes[1, 0]
    assert seeds.features["kind"] == ClassLabel(names=list(LABELS))
    for share in set(zip(seeds["kind"], seeds["share"], strict=True)):
        assert share[1] == pytest.approx(0.5, abs=1e-4)
    for number in (1, 2, 3):
        candidates = json.loads((tmp_path / f"run-1-candidates-{number}.json").read_text())
        assert [len(set(part)) for part in candidates] == [20, 20]
    assert [len(each) for each, _ in RunFolder(tmp_path).rounds()] == [40, 40, 40]


@pytest.mark.parametrize(
    "changes",
    [
        {"mean_fraction": 0.3},
        {"smooth_votes": False, "new_public_share": 0.0, "best_of": 1},
        {"lookahead": 2, "reuse_lookahead": True, "new_public_share": 0.5, "keep_survivors": True},
        {"votes_per_sample": 3, "label_shares": {"ham": 0.25, "spam": 0.75}},
        {"labels": {**LABELS, "other": "all else"}, "neighboring_relation": "replace_one"},
        {"domain": "messages", "new_public_share": 0.0},
        {"client_sampling_rate": 0.9},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_all_ways_of_a_run_know_labels(make, labeled, public, changes, bert):
    """With a label that no client has, too: its share is zero, and it gets no text."""
    config = make_config(**changes)
    generator = make(config, None if config.domain else bert, noise=None)
    seeds = generator.evolve(labeled, initial_population=None if config.domain else public)
    assert set(seeds["kind"]) == set(range(len(config.labels)))
    synthetic = generator.expand(seeds, num_samples=9, label_shares=None if "other" not in config.labels else EQUAL)
    assert len(synthetic) == 9 and synthetic.features["kind"].names == list(config.labels)
    assert find_privacy_report(synthetic) is not None
    assert [record.num_candidates for record in generator.history] == [16, 16]


EQUAL = {"ham": 1 / 3, "spam": 1 / 3, "other": 1 / 3}


def test_words_of_a_label_stand_in_the_prompts():
    """For the initial population, and then with seeds of that label only."""
    prompts = []

    class Engine:
        def complete(self, shown, max_new_tokens, seed, stop=None):
            prompts.extend(shown)
            return [f"a {random_texts(1, seed=len(prompts) + number)[0]} {number}" for number, _ in enumerate(shown)]

        def answer(self, instructions, max_new_tokens, seed):
            return [f"{random_texts(1, seed=seed + number)[0]} {number}" for number, _ in enumerate(instructions)]

        def truncate(self, text, max_tokens):
            return text

    config = make_config(domain="mail")
    expander = Expander(Engine(), config, lambda texts: np.ones((len(texts), 2)) / np.sqrt(2))
    written = [expander.write_population(str, label) for label in (0, 1)]
    assert [len(each) for each in written] == [8, 8]
    assert "(mail: messages that people want):" in prompts[0] and "(mail: unwanted advertising):" in prompts[-1]
    prompts.clear()
    seeds = Dataset.from_dict(
        {
            "text": [f"{kind} seed {number}" for kind in LABELS for number in range(9)],
            "kind": [kind for kind in LABELS for _ in range(9)],
            "share": [0.75] * 9 + [0.25] * 9,
        }
    )
    rows = list(expander.rows(SeedTexts.of(seeds, config), 40))
    assert [row["kind"] for row in rows].count(0) == 30 and len({row["text"] for row in rows}) == 40
    assert len({row["kind"] for row in rows[:10]}) == 2, "the labels are mixed"
    for prompt in prompts:
        (kind,) = [name for name, words in LABELS.items() if words in prompt]
        (other,) = set(LABELS) - {kind}
        assert f"\n{kind} seed" in prompt and f"{other} seed" not in prompt


def test_the_best_are_judged_by_the_seeds_of_their_label():
    """The seeds of one label prefer what those of the other do not."""
    config = make_config(best_of=4)

    class Engine:
        def complete(self, shown, max_new_tokens, seed, stop=None):
            rng = np.random.default_rng(seed)
            return [f"{rng.choice(['left', 'right'])} {rng.integers(2**40)}" for _ in shown]

        def truncate(self, text, max_tokens):
            return text

    def embed(texts):
        return np.array([[1.0, 0.0] if text.startswith("left") else [0.0, 1.0] for text in texts])

    seeds = Dataset.from_dict(
        {
            "text": ["left seed", "right seed"] * 2,
            "kind": ["ham", "ham", "spam", "spam"],
            "preference": [5.0, 0.2, 0.2, 5.0],
            "share": [0.5] * 4,
        }
    )
    rows = list(Expander(Engine(), config, embed).rows(SeedTexts.of(seeds, config), 60))
    left = {label: [row["text"].startswith("left") for row in rows if row["kind"] == label] for label in (0, 1)}
    assert np.mean(left[0]) > 0.9 and np.mean(left[1]) < 0.1


# Seeds and what is made of them


@pytest.fixture
def run(make, labeled, public, tmp_path):
    generator = make(run_dir=tmp_path / "run")
    return generator, generator.evolve(labeled, initial_population=public), tmp_path


def test_shares_are_the_clients_and_can_be_changed_without_spending(run, labeled):
    generator, seeds, _ = run
    numbers = np.minimum(np.arange(1, 13), 8)
    expected = numbers[2::3].sum() / numbers.sum()
    share = dict(zip(seeds["kind"], seeds["share"], strict=True))
    assert share[1] == pytest.approx(expected, abs=1e-3)
    made = generator.expand(seeds, num_samples=20)
    assert made["kind"].count(1) == round(20 * expected)
    spent = generator.ledger.num_releases
    balanced = generator.expand(seeds, num_samples=20, label_shares={"ham": 0.5, "spam": 0.5})
    assert balanced["kind"].count(0) == balanced["kind"].count(1) == 10
    one = generator.expand(seeds, num_samples=5, label_shares={"ham": 0.0, "spam": 1.0})
    assert set(one["kind"]) == {1} and generator.ledger.num_releases == spent == 2
    for dataset in (made, balanced, one):
        assert len(set(dataset["text"])) == len(dataset)
        assert find_privacy_report(dataset).covers(generator.privacy_report)
        assert find_privacy_report(dataset).columns == ("text", "kind")


def test_a_label_that_is_exchanged_is_not_covered(run):
    generator, seeds, _ = run
    made = generator.expand(seeds, num_samples=12)
    swapped = Dataset.from_dict({"text": made["text"], "kind": [1 - kind for kind in made["kind"]]}, made.features)
    swapped.info.description = made.info.description
    assert find_privacy_report(swapped) is None


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        ({"ham": 0.7, "spam": 0.7}, "their sum must be 1"),
        ({"ham": 1.0}, "`label_shares` names"),
        ({"ham": 0.5, "eggs": 0.5}, "`label_shares` names"),
    ],
)
def test_bad_shares_are_refused_before_anything_is_spent(make, labeled, public, shares, message):
    generator = make()
    with pytest.raises(ValueError, match=message):
        generator(labeled, public, num_samples=5, label_shares=shares)
    assert generator.ledger.num_releases == 0
    plain = make(PrivateEvolutionConfig(epsilon=4.0, delta=1e-3, **SIZES))
    with pytest.raises(ValueError, match="the settings have no `labels`"):
        plain(labeled, public, num_samples=5, label_shares={"ham": 0.5, "spam": 0.5})


def test_seeds_without_labels_or_shares_are_refused(run):
    generator, seeds, _ = run
    with pytest.raises(TypeError, match="`seeds` is a list of texts, but the settings have labels"):
        generator.expand(seeds["text"][:], num_samples=2)
    with pytest.raises(ValueError, match="`label_column`='kind' is not a column of `seeds`"):
        generator.expand(seeds.remove_columns("kind"), num_samples=2)
    with pytest.raises(ValueError, match="has no column 'share'.*Give `label_shares`"):
        generator.expand(seeds.remove_columns("share"), num_samples=2)
    ham = seeds.select(np.flatnonzero(np.array(seeds["kind"]) == 0))
    with pytest.raises(ValueError, match=r"no seed with the labels \['spam'\]"):
        generator.expand(ham, num_samples=2, label_shares={"ham": 0.5, "spam": 0.5})
    assert set(generator.expand(ham, num_samples=4)["kind"]) == {0}
    relabeled = seeds.remove_columns("kind").add_column("kind", [1 - kind for kind in seeds["kind"]])
    relabeled = relabeled.cast_column("kind", seeds.features["kind"])
    made = generator.expand(relabeled, num_samples=2)
    assert find_privacy_report(made) is None, "seeds with other labels are not the generator's own"


def test_a_run_with_labels_resumes(run, make, labeled, public):
    """At the end, and from every step on: the same seeds and texts, and no release is drawn again."""
    generator, seeds, tmp_path = run
    made = generator.expand(seeds, num_samples=12)
    folder = tmp_path / "run"
    steps = [path for path in sorted(folder.glob("run-1-*.json")) if "release" not in path.name]
    for path in [None, *steps]:
        if path is not None and path.name != "run-1-clients.json":
            path.unlink()
        again = make(run_dir=folder)
        found = again.evolve(labeled, initial_population=public)
        assert found.to_dict() == seeds.to_dict() and again.ledger.num_releases == 2
    assert again.expand(found, num_samples=12).to_dict() == made.to_dict()
    reordered = make_config(labels=dict(reversed(LABELS.items())))
    with pytest.raises(ValueError, match="holds a run with other settings: `label_names`"):
        make(reordered, run_dir=folder)


def test_a_run_with_labels_is_saved_and_continued(run, make, models_folder):
    generator, seeds, tmp_path = run
    made = generator.expand(seeds, num_samples=12)
    generator.save_pretrained(tmp_path / "saved")
    card = (tmp_path / "saved" / "README.md").read_text()
    assert "| spam | unwanted advertising |" in card and "text-classification" in card
    table = card[card.index("| label |") :].splitlines()
    assert table[:2] == ["| label | description | texts | share among the private texts |", "|---|---|---|---|"]
    assert len(table[2].split("|")) == len(table[3].split("|")) == 6 and table[4] == ""
    given = {"variation_model": None, "noise": no_noise}
    given |= {name: str(models_folder / name) for name in ("embedding_model", "expansion_model")}
    other = PrivateEvolutionGenerator.from_pretrained(tmp_path / "saved", **given)
    assert other.config == generator.config and other.seeds.features == seeds.features
    assert other.seeds.to_dict() == seeds.to_dict()
    assert other._synthetic.to_dict() == made.to_dict() and other._synthetic.features == made.features
    more = other.expand(other.seeds, num_samples=10, label_shares={"ham": 0.5, "spam": 0.5})
    assert more["kind"].count(1) == 5 and find_privacy_report(more) is not None
    assert find_privacy_report(tmp_path / "saved") is not None
    texts = load_training_texts(FinetuningArguments(dataset=str(tmp_path / "saved")))
    assert texts.report is not None and texts.report.covers(generator.privacy_report)


def test_what_is_not_there_yet_is_refused_by_name(make):
    with pytest.raises(ValueError, match="are not audited yet"):
        AuditedGenerator(["a canary"], config=make_config())


def test_labels_are_the_same_column_type_everywhere(run):
    generator, seeds, _ = run
    made = generator.expand(seeds, num_samples=6)
    expected = Features({"text": Value("string"), "kind": ClassLabel(names=list(LABELS))})
    assert made.features == expected
    assert list(seeds.features) == ["text", "kind", "round", "votes", "preference", "share"]


@pytest.mark.parametrize(("suffix", "has_kind"), [(".csv", True), (".jsonl", False), (".parquet", True)])
def test_the_command_reads_labels_from_files(models_folder, labeled, public, tmp_path, capsys, suffix, has_kind):
    """Those of the private file, and those of the public one if it has any."""
    kinds = [list(LABELS)[row % 2] for row in range(len(public))]
    columns = {"text": public, **({"kind": kinds} if has_kind else {})}
    for name, dataset in {"private": labeled, "public": Dataset.from_dict(columns)}.items():
        write = {".csv": dataset.to_csv, ".jsonl": dataset.to_json, ".parquet": dataset.to_parquet}[suffix]
        write(tmp_path / f"{name}{suffix}")
    settings = {
        **{"private": f"{tmp_path}/private{suffix}", "initial_population": f"{tmp_path}/public{suffix}"},
        **{name: str(models_folder / name) for name in ("variation_model", "embedding_model", "expansion_model")},
        **{"output_dir": str(tmp_path / "out"), "num_samples": 6, **SIZES, "epsilon": 2, "delta": 0.001},
        **{"labels": LABELS, "label_column": "kind", "label_shares": {"ham": 0.5, "spam": 0.5}},
    }
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(settings, sort_keys=False))
    assert main(["plan", "--config", str(path), "--num-clients", "12"]) == 0
    assert "labeled_votes" in capsys.readouterr().out
    assert main(["generate", "--config", str(path)]) == 0
    made = load_from_disk(str(tmp_path / "out"))
    assert sorted(made["kind"]) == [0, 0, 0, 1, 1, 1] and made.features["kind"].names == list(LABELS)
    candidates = json.loads((tmp_path / "out" / "run" / "run-1-candidates-1.json").read_text())
    of_label = [set(public[number::2]) if has_kind else set(public) for number in (0, 1)]
    assert all(set(part) <= own for part, own in zip(candidates, of_label, strict=True))


def test_numbers_of_labels_in_parquet_have_the_names_that_datasets_notes(labeled, tmp_path):
    """As `to_parquet` and `push_to_hub` write them: numbers in the rows, and names beside them."""
    names = sorted(LABELS, reverse=True)
    features = Features({**labeled.features, "kind": ClassLabel(names=names)})
    numbered = labeled.cast(features)
    assert isinstance(numbered[0]["kind"], int)
    numbered.to_parquet(tmp_path / "rows.parquet")
    read = read_dataset(tmp_path / "rows.parquet", "text", "kind")
    assert read["kind"][:] == labeled["kind"][:]


def test_the_command_refuses_labels_that_are_not_public(models_folder, labeled, public, tmp_path, capsys):
    labeled.to_json(tmp_path / "private.jsonl")
    Dataset.from_dict({"text": public}).to_json(tmp_path / "public.jsonl")
    lines = [f"{name}: {models_folder / name}" for name in ("variation_model", "embedding_model", "expansion_model")]
    lines += [f"private: {tmp_path}/private.jsonl", f"initial_population: {tmp_path}/public.jsonl"]
    lines += [f"output_dir: {tmp_path}/out", "num_samples: 4", "epsilon: 2", "delta: 0.001", "label_column: kind"]
    lines += [f"{name}: {value}" for name, value in SIZES.items()]
    lines += ["labels: {ham: messages, eggs: recipes}"]
    (tmp_path / "run.yaml").write_text("\n".join(lines))
    assert main(["generate", "--config", str(tmp_path / "run.yaml")]) == 2
    assert "rows, such as row" in capsys.readouterr().err
    assert json.loads((tmp_path / "out" / "run" / "ledger.json").read_text())["releases"] == []


def test_saved_seeds_keep_their_labels_whatever_the_settings_say_later(make, labeled, public, tmp_path, caplog):
    """Labels are saved as numbers. Other names for these would be false labels, under the guarantee of the true."""
    generator = make()
    generator(labeled, initial_population=public, num_samples=4)
    generator.save_pretrained(tmp_path)
    components = generator._components
    given = {"variation_model": components.variation, "embedding_model": components.embedder._model}
    given["expansion_model"] = components.engine
    turned = dict(reversed(LABELS.items()))
    for changes in ({"labels": turned}, {"labels": {"a": "b", "c": "d"}}, {"text_column": ("a", "b")}):
        with pytest.raises(ValueError, match="by which its seeds are read"):
            PrivateEvolutionGenerator.from_pretrained(tmp_path, config=make_config(**changes), **given)
    reworded = make_config(labels=dict.fromkeys(LABELS, "other words"), text_column="body")
    assert PrivateEvolutionGenerator.from_pretrained(tmp_path, config=reworded, **given).seeds is not None
    path = tmp_path / "private_evolution_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "labels": turned}))
    assert PrivateEvolutionGenerator.from_pretrained(tmp_path, **given).seeds is None
    assert "are not those that its privacy report names" in caplog.text
