"""The six seams: a toy of each, a few lines outside the library, carries a whole run that is saved and loaded."""

import inspect
import json
from dataclasses import dataclass, replace

import numpy as np
import pytest

from hf_pretext import ClientPool, InMemoryClientPool, PrivateEvolutionGenerator
from hf_pretext.cli import main
from hf_pretext.clients.questions import NearestCandidates, Question
from hf_pretext.privacy import PrivacyReport
from hf_pretext.privacy.accounting import combined_multiplier, epsilon_of_gaussian
from hf_pretext.runs.folder import RunFolder
from support.tiny import random_texts

LONGEST_TOY = 20


class SwapWords:
    """A variation operator: swaps two words."""

    def vary(self, texts, seed):
        rng = np.random.default_rng(seed)
        varied = []
        for text in texts:
            words = text.split()
            first, second = rng.integers(len(words), size=2)
            words[first], words[second] = words[second], words[first]
            varied.append(" ".join(words))
        return varied


class Counting:
    """An engine: writes numbered texts."""

    def complete(self, prompts, max_new_tokens, seed, stop=None):
        return [f"text {seed % 1000} number {index}" for index in range(len(prompts))]

    def answer(self, instructions, max_new_tokens, seed):
        return self.complete(instructions, max_new_tokens, seed)

    def truncate(self, text, max_tokens):
        return " ".join(text.split()[:max_tokens])


class Best:
    """A selection rule: keeps the four candidates with the most votes."""

    def select(self, reading):
        return (reading.votes >= np.sort(reading.votes)[-4]).astype(float)


class Polls(ClientPool):
    """A client pool: eight clients who like the second candidate. Its noise is its own, so nothing is guaranteed."""

    num_clients = 8

    def _answer(self, question, mechanism):
        noise = np.random.default_rng(0).normal(size=question.num_bins) * mechanism.noise_scale
        return np.rint(8 * mechanism.units * np.eye(question.num_bins)[1] + noise).astype(np.int64)


class Twice:
    """An accountant: twice the exact epsilon."""

    name = "twice"

    def epsilon(self, noise_multipliers, delta, sampling_rate=1.0):
        if sampling_rate < 1:
            raise ValueError("A sample of the clients is not covered.")
        return 2 * epsilon_of_gaussian(combined_multiplier(noise_multipliers), delta)


@dataclass(frozen=True, eq=False)
class Sides(Question):
    """A question: on which side of a public direction are your samples? One bin a side."""

    direction: np.ndarray
    name, num_bins = "sides", 2
    description = "how many of its samples are on each side of a public direction"

    def answer(self, samples):
        right = (samples.embeddings @ self.direction.astype(np.int64) > 0).sum()
        return np.array([len(samples.owners) - right, right], dtype=float)

    def interpret(self, answer, noise_std, embeddings):
        more_on_the_right = np.tanh((answer[1] - answer[0]) / noise_std)
        return more_on_the_right * np.sign(embeddings @ self.direction)


@pytest.fixture
def run(models_folder, private, public, config, tmp_path):
    """Run with a toy instead of what the library has, save, load with the toy given again, and continue."""

    def run(clients=private, num_samples=6, **toy):
        models = {path.name: path for path in models_folder.iterdir()}
        settings = {"config": config, **toy}
        generator = PrivateEvolutionGenerator(**{**models, **settings}, run_dir=tmp_path / "run")
        texts = generator(clients, initial_population=public, num_samples=num_samples)
        generator.save_pretrained(tmp_path / "saved")
        if toy:
            (argument, _), *_ = toy.items()
            with pytest.raises(ValueError, match=f"does not say where its `{argument}` is from"):
                PrivateEvolutionGenerator.from_pretrained(tmp_path / "saved")
        loaded = PrivateEvolutionGenerator.from_pretrained(tmp_path / "saved", **toy)
        assert loaded.seeds.to_list() == generator.seeds.to_list()
        assert loaded.privacy_report == generator.privacy_report
        assert len(loaded.expand(loaded.seeds, num_samples=num_samples)) == len(set(texts["text"])) == num_samples
        return generator, tmp_path / "run"

    return run


@pytest.mark.parametrize("toy", [SwapWords, Counting, Best, Polls, Twice, Sides])
def test_a_toy_is_short(toy):
    assert len(inspect.getsource(toy).splitlines()) <= LONGEST_TOY


def test_a_variation_operator(run, public):
    _, folder = run(variation_model=SwapWords())
    _, (population, _) = RunFolder(folder).rounds()
    words = {tuple(sorted(text.split())) for text in public}
    assert all(tuple(sorted(text.split())) in words for text in population)
    assert set(population) - set(public), "some were varied"


def test_an_engine(run):
    generator, _ = run(expansion_model=Counting())
    assert all(text.startswith("text ") for text in generator.expand(generator.seeds, num_samples=3)["text"])


def test_a_selection_rule(run):
    generator, _ = run(selection=Best())
    assert [record.num_survivors for record in generator.history] == [4, 4]


def test_a_client_pool(run, config, public):
    generator, folder = run(clients=Polls(), num_samples=3)
    assert not generator.privacy_report.is_finite, "the noise is not the library's own"
    (candidates, votes), _ = RunFolder(folder).rounds()
    assert votes.argmax() == 1 and candidates[1] in generator.seeds["text"]


def test_an_accountant(run, config):
    generator, _ = run(accountant=Twice())
    report, entry = generator.privacy_report, generator.ledger.plan.entry("votes")
    assert report.accountant == "twice" and report.epsilon <= config.epsilon
    exact = epsilon_of_gaussian(entry.mechanism.noise_multiplier / np.sqrt(2), config.delta)
    assert report.epsilon == pytest.approx(2 * exact, rel=1e-6)
    assert "the accountant 'twice', which the caller gave and which is not part of the library" in report.mechanism


def test_a_question(run, private, public, embedder, config):
    direction = NearestCandidates.of(embedder(public)).candidates[0]
    question = Sides(direction - np.rint(embedder(public).mean(axis=0) * 2048).astype(np.int16))
    generator, _ = run(questions=[(question, 0.5)])
    kinds = [(each.question, each.num_bins) for each in generator.ledger.releases]
    assert kinds == [("sides", 2), ("votes", 32), ("votes", 32)]
    assert generator.privacy_report.epsilon <= config.epsilon
    assert "how many of its samples are on each side" in generator.privacy_report.mechanism
    # A question of the same name that asks something else is another question.
    other = Sides(-question.direction)
    with pytest.raises(ValueError, match="run with other settings: `questions.sides`="):
        run(questions=[(other, 0.5)])


def test_an_object_that_is_none_is_refused_by_name(run, config):
    with pytest.raises(TypeError, match="`selection` of type object needs a method `select`"):
        run(selection=object())
    with pytest.raises(TypeError, match="`accountant` of type object needs a `name` and a method `epsilon`"):
        run(accountant=object())
    with pytest.raises(TypeError, match="`questions`"):
        run(questions=[(object(), 0.5)])
    with pytest.raises(ValueError, match="A sample of the clients is not covered"):
        run(accountant=Twice(), config=replace(config, client_sampling_rate=0.5))


@pytest.mark.parametrize("name", ["selection", "accountant", "questions"])
def test_commands_that_release_nothing_ask_for_no_object_of_the_releases(run, models_folder, tmp_path, name, capsys):
    """`expand` goes on with the plan, so what the plan is made of has to be given to it in Python."""
    toys = {"selection": Best(), "accountant": Twice(), "questions": [(Sides(np.eye(32)[0]), 0.3)]}
    generator, _ = run(**{name: toys[name]})
    embedding, llm = (str(models_folder / f"{kind}_model") for kind in ("embedding", "expansion"))
    saved, options = str(tmp_path / "saved"), ["--num-samples", "3", "--embedding-model", embedding, "--output-dir"]
    (tmp_path / "public.jsonl").write_text("\n".join(json.dumps({"text": each}) for each in random_texts(60, seed=4)))
    status = main(["select", saved, "--public", str(tmp_path / "public.jsonl"), *options, str(tmp_path / "chosen")])
    if name == "questions":
        assert status == 2 and "whose run asked questions of your own" in capsys.readouterr().err
    else:
        assert PrivacyReport.from_pretrained(tmp_path / "chosen").epsilon == generator.privacy_report.epsilon
    status = main(["expand", "--seeds", saved, "--expansion-model", llm, *options, str(tmp_path / "more")])
    if name == "selection":
        assert PrivacyReport.from_pretrained(tmp_path / "more").epsilon == generator.privacy_report.epsilon
    else:
        assert status == 2 and f"does not say where its `{name}` is from" in capsys.readouterr().err


@dataclass(frozen=True, eq=False)
class Wrong(Sides):
    """A question whose vector is longer than it says."""

    name = "wrong"

    def answer(self, samples):
        return np.ones(3)


def test_all_questions_are_tried_before_the_first_is_asked(models_folder, private, public, config):
    """The mean would be paid for, and the question after it refused."""
    models = {path.name: path for path in models_folder.iterdir()}
    settings = {"config": replace(config, mean_fraction=0.3), "questions": [(Wrong(np.ones(16)), 0.2)]}
    generator = PrivateEvolutionGenerator(**models, **settings)
    with pytest.raises(ValueError, match="The question 'wrong' makes a vector of shape"):
        generator.evolve(private, initial_population=public)
    assert generator.ledger.num_releases == 0


def test_a_pool_of_another_embedding_model_is_refused_before_it_is_asked(models_folder, private, public, config):
    """Token counts need no embeddings: they would be paid for, and the votes refused."""

    class Short:
        max_length = 32

        def cuts(self, texts):
            return False

        def __call__(self, texts):
            return np.eye(7, dtype=np.float32)[[len(text) % 7 for text in texts]]

    models = {path.name: path for path in models_folder.iterdir()}
    generator = PrivateEvolutionGenerator(**models, config=config)
    pool = InMemoryClientPool(private, Short(), config, generator.ledger.plan)
    with pytest.raises(ValueError, match="`private` is a pool whose embeddings have 7 dimensions"):
        generator.evolve(pool, initial_population=public)
    assert generator.ledger.num_releases == 0


class AtRandom:
    """A selection rule that is another one each time."""

    def __init__(self):
        self.rng = np.random.default_rng()

    def select(self, reading):
        return self.rng.uniform(0.1, 1, size=len(reading.votes))


@pytest.mark.parametrize("smooth", [False, True])
def test_what_a_rule_chose_is_kept(models_folder, private, public, config, tmp_path, smooth):
    """A run that resumes goes on with the seeds of its candidates, and all processes with the same."""
    models = {path.name: path for path in models_folder.iterdir()}
    config = replace(config, smooth_votes=smooth, new_public_share=float(smooth))
    seeds = [
        PrivateEvolutionGenerator(**models, config=config, selection=AtRandom(), run_dir=tmp_path / "run").evolve(
            private, initial_population=public
        )
        for _ in range(2)
    ]
    assert seeds[0].to_dict() == seeds[1].to_dict()
