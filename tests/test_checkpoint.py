"""Runs that are killed for real, at every step of what they write, and go on from their folder."""

import json
import os
import shutil
import signal
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset, Value

from hf_pretext import InMemoryClientPool, PrivacyReport, PrivateEvolutionGenerator
from hf_pretext.clients.questions import NearestCandidates
from hf_pretext.privacy.accounting import combined_multiplier, epsilon_of_gaussian
from hf_pretext.privacy.ledger import ReleaseLostError
from hf_pretext.privacy.noise import DiscreteGaussian
from hf_pretext.runs.folder import RunFolder, working
from support.tiny import random_texts

NUM_ROUNDS = 3


class LoggedNoise:
    """Noise that follows from the number of the draw, and a line in a file for every draw."""

    path = None

    def __call__(self, scale, size):
        number = len(self.path.read_text().splitlines()) if self.path.exists() else 0
        with self.path.open("a") as file:
            file.write(f"{size}\n")
        return np.rint(np.random.default_rng(number).normal(size=size) * scale).astype(np.int64)


@pytest.fixture(scope="module")
def make(bert, sentence_transformer, llama, config):
    settings = {"num_rounds": NUM_ROUNDS, "population_size": 16, "max_new_tokens": 8}
    settings |= {"lookahead": 1, "reuse_lookahead": True}

    def make(run_dir, **changes):
        return PrivateEvolutionGenerator(
            bert, sentence_transformer, llama, config=replace(config, **{**settings, **changes}), run_dir=run_dir
        )

    return make


@pytest.fixture
def make_logged(make, tmp_path, monkeypatch):
    # In the place of the library's own noise, so that it counts as genuine.
    monkeypatch.setattr("hf_pretext.clients.in_memory.DiscreteGaussian", LoggedNoise)

    def make_logged(run_dir, **changes):
        LoggedNoise.path = tmp_path / f"{run_dir.name}-draws.txt"
        return make(run_dir, **changes)

    return make_logged


def draws_of(tmp_path, folder):
    path = tmp_path / f"{folder.name}-draws.txt"
    return path.read_text().splitlines() if path.exists() else []


def run_and_die(generate, dies_at, before):
    """Run in a process of its own, which kills itself before or after a file gets its name; return its exit status."""
    child = os.fork()
    if child == 0:
        named, rename = 0, os.replace

        def replace_or_die(source, target):
            nonlocal named
            named += 1
            if named == dies_at and before:
                os.kill(os.getpid(), signal.SIGKILL)
            rename(source, target)
            if named == dies_at:
                os.kill(os.getpid(), signal.SIGKILL)

        os.replace = replace_or_die
        try:
            generate()
        finally:
            os._exit(0)
    return os.waitpid(child, 0)[1]


@pytest.mark.parametrize(
    ("before", "mean_fraction", "steps"),
    [
        pytest.param(True, 0.0, 1, marks=pytest.mark.slow),
        pytest.param(False, 0.4, 1, marks=pytest.mark.slow),
        (False, 0.4, 5),
    ],
)
def test_killed_at_any_step_a_run_ends_with_the_same_texts(
    make_logged, private, public, tmp_path, before, mean_fraction, steps
):
    """Without a loss the texts are those of an undisturbed run. A release that is lost is counted and skipped."""
    num_releases = NUM_ROUNDS + (mean_fraction > 0)
    changes = {"mean_fraction": mean_fraction}
    whole = make_logged(tmp_path / "whole", **changes)(private, initial_population=public, num_samples=5)
    lost, dies_at = 0, 1 - steps
    while True:
        dies_at += steps
        folder = tmp_path / f"run-{dies_at}"

        def generate(folder=folder):
            return make_logged(folder, **changes)(private, initial_population=public, num_samples=5)

        if run_and_die(generate, dies_at, before) == 0:
            break
        ledger = json.loads((folder / "ledger.json").read_text()) if (folder / "ledger.json").exists() else None
        drawn_before = len(draws_of(tmp_path, folder))
        assert drawn_before <= (len(ledger["releases"]) if ledger else 0), "a draw that is not counted on disk"
        generator = make_logged(folder, **changes)
        texts = generator(private, initial_population=public, num_samples=5)
        draws = draws_of(tmp_path, folder)
        kept = json.loads((folder / "ledger.json").read_text())["releases"]
        assert kept[: len(ledger["releases"]) if ledger else 0] == (ledger["releases"] if ledger else []), "it changed"
        report = generator.privacy_report
        assert report.num_releases == num_releases and report.epsilon <= 4.0, "the budget holds, come what may"
        assert num_releases - report.num_lost <= len(draws) <= num_releases, "a release was drawn twice"
        lost += report.num_lost
        if report.num_lost == 0:
            assert texts["text"][:] == whole["text"][:]
    if steps > 1:
        assert dies_at > 24
        return
    # Settings, ledger, clients, the first candidates, the reserve; for each round its lookahead, place, count, votes,
    # weights and record; candidates between rounds; preferences; texts, in parts, and the dataset of them.
    num_parts = len(list((tmp_path / "whole").glob("run-1-texts-*.json")))
    # For a mean the public texts, its place, count and answer, and that it was answered.
    of_mean = 5 * (num_releases - NUM_ROUNDS)
    assert dies_at - 1 == 6 + of_mean + 6 * NUM_ROUNDS + (NUM_ROUNDS - 1) + num_parts + 1
    # Between a count and its answer is the time in which a release is lost: killed after the one, before the other.
    assert lost == num_releases


def test_what_is_kept_is_what_follows_from_the_ledger(make, private, public, tmp_path):
    """Real noise: without any of the texts that a run kept, its ledger alone leads to the same dataset."""
    first = make(tmp_path / "run")(private, initial_population=public, num_samples=5)
    for path in (tmp_path / "run").glob("run-1-*"):
        if not path.name.startswith(("run-1-release", "run-1-clients")):
            path.unlink()
    again = make(tmp_path / "run")(private, initial_population=public, num_samples=5)
    assert again["text"][:] == first["text"][:]


def test_an_ended_run_needs_no_clients_and_a_second_one_adds_up(make, private, public, tmp_path):
    generator = make(tmp_path)
    first, second = (generator.evolve(private, initial_population=public).to_list() for _ in range(2))
    assert first != second and generator.privacy_report.num_rounds == 2 * NUM_ROUNDS
    again = make(tmp_path)
    assert again.privacy_report == replace(generator.privacy_report, num_clients=None), "known before anything is run"
    assert [again.evolve(None, initial_population=public).to_list() for _ in range(2)] == [first, second]
    assert again.privacy_report == generator.privacy_report
    assert [replace(record, seconds=0) for record in again.history] == [
        replace(record, seconds=0) for record in generator.history
    ]


def test_a_run_that_breaks_is_gone_on_with_by_the_same_generator(make, private, public, tmp_path, monkeypatch):
    generator = make(tmp_path)
    vary = generator._components.variation

    def breaks(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("hf_pretext.evolution.population.Population.next", breaks)
    with pytest.raises(KeyboardInterrupt):
        generator.evolve(private, initial_population=public)
    monkeypatch.undo()
    assert generator._components.variation is vary and generator.privacy_report.num_rounds == 1
    generator.evolve(private, initial_population=public)
    assert (generator.privacy_report.num_rounds, generator.privacy_report.num_lost) == (NUM_ROUNDS, 0)


def test_lost_releases_are_counted_reported_and_in_the_end_fatal(make, private, public, tmp_path, monkeypatch):
    """Noise that fails stands for a process that dies after the count: round after round."""

    def fails(*_):
        raise KeyboardInterrupt

    for number in range(1, NUM_ROUNDS + 1):
        generator = make(tmp_path)
        monkeypatch.setattr(DiscreteGaussian, "__call__", fails)
        with pytest.raises(KeyboardInterrupt):
            generator.evolve(private, initial_population=public)
        assert generator.privacy_report.num_lost == generator.privacy_report.num_rounds == number
    words = f"{NUM_ROUNDS} of them were lost in a crash, or because too few clients answered, and are counted"
    assert words in generator.privacy_report.mechanism
    saved = PrivacyReport.from_dict(json.loads(json.dumps(generator.privacy_report.to_dict())))
    assert saved == generator.privacy_report
    with pytest.raises(RuntimeError, match="All 3 rounds of this run were lost"):
        make(tmp_path).evolve(private, initial_population=public)


def test_several_parts_of_an_expansion_are_kept(make, private, public, tmp_path, monkeypatch):
    monkeypatch.setattr("hf_pretext.models.engine.TEXTS_AT_ONCE", 4)
    generator = make(tmp_path)
    ten = generator(private, initial_population=public, num_samples=10)
    parts = sorted(tmp_path.glob("run-1-texts-*.json"))
    assert len(parts) >= 3
    parts[-1].unlink()
    assert make(tmp_path)(private, initial_population=public, num_samples=10)["text"][:] == ten["text"][:]
    # Other seeds have nothing to do with what is kept.
    few = generator.expand(generator.seeds.select(range(3)), num_samples=10)
    assert few["text"][:] != ten["text"][:]


def test_a_mean_and_rounds_at_different_noise_through_a_whole_run(make, private, public, tmp_path):
    """The plan's epsilon is the closed form's, the report lists both kinds, and a resumed run asks nothing again."""
    generator = make(tmp_path, mean_fraction=0.4, num_rounds=2)
    texts = generator(private, initial_population=public, num_samples=5)
    kinds = [(each.question, each.mechanism.noise_multiplier) for each in generator.privacy_report.releases]
    assert [name for name, _ in kinds] == ["mean_embedding", "votes", "votes"]
    assert kinds[0][1] < kinds[1][1] == kinds[2][1]
    report = generator.privacy_report
    composed = combined_multiplier([multiplier for _, multiplier in kinds])
    assert report.epsilon == pytest.approx(epsilon_of_gaussian(composed, report.delta), abs=1e-9)
    assert 3.999 < report.epsilon <= 4 and report.num_releases == 3 and report.num_rounds == 2
    again = make(tmp_path, mean_fraction=0.4, num_rounds=2)
    assert again(None, initial_population=public, num_samples=5)["text"][:] == texts["text"][:]
    assert again.privacy_report == report


def test_the_first_candidates_are_those_that_the_mean_prefers(make, private, public, embedder, tmp_path):
    """With hardly any noise: public texts nearer to what the clients hold are drawn more often."""
    private = Dataset.from_dict({"client_id": list(range(64)), "text": [public[0]] * 64})
    generator = make(tmp_path, mean_fraction=0.9, epsilon=1e4, population_size=8)
    generator.evolve(private, initial_population=public)
    nearness = dict(zip(public, embedder(public) @ embedder(public[:1])[0], strict=True))
    chosen = np.mean([nearness[text] for text in generator.initial_population])
    assert chosen > np.mean(list(nearness.values())) + 2 * np.std(list(nearness.values())) / np.sqrt(8)
    assert public[0] in generator.initial_population


def test_a_mean_that_was_lost_is_counted_and_the_rounds_follow(make, private, public, tmp_path, monkeypatch):
    answer = InMemoryClientPool._answer

    def no_mean(self, question, mechanism):
        if question.name == "mean_embedding":
            raise ReleaseLostError("no answer")
        return answer(self, question, mechanism)

    monkeypatch.setattr(InMemoryClientPool, "_answer", no_mean)
    generator = make(tmp_path, mean_fraction=0.4)
    with pytest.warns(UserWarning, match="The question 'mean_embedding': the release was lost"):
        generator.evolve(private, initial_population=public)
    report = generator.privacy_report
    assert (report.num_releases, report.num_lost, report.num_rounds) == (NUM_ROUNDS + 1, 1, NUM_ROUNDS)


def test_a_question_of_another_run_is_refused_by_name(make, private, public, tmp_path):
    """Another plan, another question of the same name, and a ledger whose answers are to other questions."""
    make(tmp_path / "run", mean_fraction=0.4).evolve(private, initial_population=public)
    with pytest.raises(ValueError, match="`mean_fraction`=0.4 there, 0.0 here"):
        make(tmp_path / "run")
    path = tmp_path / "run" / "run-1-release-mean_embedding.json"
    path.unlink()
    path.write_text("1")
    with pytest.raises(ValueError, match="an answer to the question 'votes' where The question 'mean_embedding' asks"):
        make(tmp_path / "run", mean_fraction=0.4).evolve(private, initial_population=public)


def test_a_folder_of_the_first_edition_is_refused_by_name(make, begun):
    settings = json.loads((begun / "settings.json").read_text())
    del settings["format"]
    (begun / "settings.json").write_text(json.dumps(settings))
    with pytest.raises(ValueError, match=r"was written by another version .*format None, this one writes 2"):
        make(begun)


def test_two_at_a_time_are_refused(make, private, public, tmp_path):
    first, second = make(tmp_path), make(tmp_path)
    with working(first._folder, first.ledger), pytest.raises(RuntimeError, match="in use by another process"):
        second.evolve(private, initial_population=public)
    second.evolve(private, initial_population=public)
    first.evolve(private, initial_population=public)
    assert first.privacy_report.release_ids == second.privacy_report.release_ids, "the first draws nothing anew"


def test_an_older_ledger_is_refused_instead_of_drawing_again(make, private, public, tmp_path):
    make(tmp_path).evolve(private, initial_population=public)
    ledger = json.loads((tmp_path / "ledger.json").read_text())
    for kept in range(NUM_ROUNDS):
        (tmp_path / "ledger.json").write_text(json.dumps({**ledger, "releases": ledger["releases"][:kept]}))
        with pytest.raises(ValueError, match=f"what came after (round {kept + 1}/3|{kept} releases).* older copy"):
            make(tmp_path).evolve(private, initial_population=public)


def test_a_ledger_of_the_first_run_is_refused_after_a_second(make, private, public, tmp_path):
    """Nothing has to be drawn for the first run, whose report would leave out the second."""
    generator = make(tmp_path)
    generator.evolve(private, initial_population=public)
    older = (tmp_path / "ledger.json").read_bytes()
    generator.evolve(private, initial_population=public)
    (tmp_path / "ledger.json").write_bytes(older)
    with pytest.raises(ValueError, match=f"what came after {NUM_ROUNDS} releases.* it is an older copy"):
        make(tmp_path)
    with pytest.raises(ValueError, match=f"lacks some of the {2 * NUM_ROUNDS} releases"):
        generator.evolve(private, initial_population=public)
    assert generator.privacy_report.num_rounds == 2 * NUM_ROUNDS


def test_a_round_s_weights_are_enough_to_know_an_older_ledger_by(make, private, public, tmp_path):
    """They are written before the round's record, so a run may have died with nothing else to show for its release."""
    make(tmp_path).evolve(private, initial_population=public)
    ledger = json.loads((tmp_path / "ledger.json").read_text())
    (tmp_path / "ledger.json").write_text(json.dumps({**ledger, "releases": []}))
    for path in tmp_path.glob("run-1-*.json"):
        if path.name not in ("run-1-candidates-1.json", "run-1-clients.json", "run-1-weights-1.json"):
            path.unlink()
    with pytest.raises(ValueError, match="holds what came after round 1/3, but its ledger .* older copy"):
        make(tmp_path).evolve(private, initial_population=public)
    with pytest.raises(ValueError, match="other settings"):
        make(tmp_path, seed=5)


def test_a_folder_where_another_process_spent_meanwhile_is_not_emptied(make, private, public, tmp_path, monkeypatch):
    """It looked unspent, and then another process released something and ended."""
    make(tmp_path).evolve(private, initial_population=public)
    found, answers = RunFolder._has_spent, iter([False])
    monkeypatch.setattr(RunFolder, "_has_spent", lambda folder: next(answers, None) is not False and found(folder))
    with pytest.raises(ValueError, match="other settings"):
        make(tmp_path, seed=5)
    assert len(json.loads((tmp_path / "ledger.json").read_text())["releases"]) == NUM_ROUNDS


def test_a_ledger_that_others_went_on_with_is_not_written_over(make, private, public, tmp_path):
    """Neither by a pool that is used past the generator, nor by a generator that begins at the same time."""
    stale = make(tmp_path)
    pool = InMemoryClientPool(private, stale._components.embedder, stale.config, stale.ledger.plan)
    fresh = make(tmp_path)
    fresh.evolve(private, initial_population=public)
    before = (tmp_path / "ledger.json").read_bytes()
    with pytest.raises(RuntimeError, match="counts other releases than this ledger"):
        pool.release(NearestCandidates.of(np.eye(16, pool._samples.num_dimensions)), stale.ledger)
    assert (tmp_path / "ledger.json").read_bytes() == before
    with RunFolder(tmp_path / "new", {}).locked(), pytest.raises(RuntimeError, match="in use by another process"):
        make(tmp_path / "new")


@pytest.fixture(scope="module")
def ended(make, private, public, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ended") / "run"
    make(folder).evolve(private, initial_population=public)
    return folder


@pytest.fixture
def begun(ended, tmp_path):
    return Path(shutil.copytree(ended, tmp_path / "run"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 5}, "`seed`=0 there, 5 here"),
        ({"epsilon": 3.0}, "`epsilon`=4.0 there, 3.0 here"),
        ({"max_samples_per_client": 3, "domain": "x"}, "`domain`=None there, 'x' here, `max_samples_per_client`=8 th"),
    ],
)
def test_other_settings_are_refused_by_name(make, begun, changes, message):
    with pytest.raises(ValueError, match=message):
        make(begun, **changes)


def test_a_run_that_spent_nothing_may_begin_again_with_other_settings(make, private, public, tmp_path):
    with pytest.raises(ValueError, match="`config.domain`, which is None"):
        make(tmp_path).evolve(private)
    make(tmp_path, num_rounds=2, epsilon=3.0).evolve(private, initial_population=public)
    with pytest.raises(ValueError, match="`epsilon`=3.0 there, 4.0 here"):
        make(tmp_path)
    # A ledger that lost its releases does not make one of a run that spent some.
    ledger = json.loads((tmp_path / "ledger.json").read_text())
    (tmp_path / "ledger.json").write_text(json.dumps({**ledger, "releases": []}))
    with pytest.raises(ValueError, match="`epsilon`=3.0 there, 4.0 here"):
        make(tmp_path)


@pytest.mark.parametrize("num_removed", range(3))
def test_a_kill_while_an_unspent_folder_is_emptied_loses_nothing(make, private, tmp_path, monkeypatch, num_removed):
    with pytest.raises(ValueError, match="`config.domain`, which is None"):
        make(tmp_path).evolve(private)
    (tmp_path / "run-1-candidates-1.json").write_text('["A text."]')
    unlink, left = Path.unlink, [None] * num_removed

    def killed(path, **options):
        if path.suffix == ".json":
            left.pop() if left else sys.exit()
        unlink(path, **options)

    monkeypatch.setattr(Path, "unlink", killed)
    with pytest.raises(SystemExit):
        make(tmp_path, epsilon=3.0)
    monkeypatch.undo()
    assert (tmp_path / "ledger.json").is_file()
    assert make(tmp_path, epsilon=2.0).config.epsilon == 2 and (tmp_path / "settings.json").is_file()
    (tmp_path / "ledger.json").unlink()
    with pytest.raises(ValueError, match="has lost its ledger.json"):
        make(tmp_path, epsilon=2.0)


def test_damaged_texts_are_written_again(tmp_path):
    folder = RunFolder(tmp_path)
    write = lambda: folder.dataset("run-1-texts", [{"text": "A."}], {"text": Value("string")})  # noqa: E731
    write()
    (path,) = tmp_path.glob("*.arrow")
    whole = path.read_bytes()
    for damaged in (b"", whole[:-1] + b"x"):
        path.write_bytes(damaged)
        assert write()["text"][:] == ["A."] and path.read_bytes() == whole
    written = path.stat().st_ino
    write()
    assert path.stat().st_ino == written and [each.suffix for each in tmp_path.iterdir()] == [".arrow"]


def test_a_second_run_is_announced_with_what_it_will_cost(make, private, public, tmp_path):
    generator = make(tmp_path)
    generator.evolve(private, initial_population=public)
    with pytest.warns(UserWarning, match=r"run 2 of this generator .* epsilon from 4 to 6\.\d+"):
        generator.evolve(private, initial_population=public)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = make(tmp_path)
        for _ in range(2):
            again.evolve(private, initial_population=public)


def test_a_run_that_begins_again_without_its_folder_is_announced(make, private, public, monkeypatch):
    """It failed after a release, so the call that repeats it spends that again."""
    generator = make(None)
    monkeypatch.setattr("hf_pretext.evolution.population.Population.next", lambda *_: sys.exit())
    with pytest.raises(SystemExit):
        generator.evolve(private, initial_population=public)
    monkeypatch.undo()
    with pytest.warns(UserWarning, match=r"another run of this .* without a `run_dir` nothing of it is kept"):
        generator.evolve(private, initial_population=public)


def test_other_clients_or_public_texts_are_refused(make, private, public, tmp_path, monkeypatch):
    monkeypatch.setattr("hf_pretext.evolution.population.Population.next", lambda *_: sys.exit())
    with pytest.raises(SystemExit):
        make(tmp_path).evolve(private, initial_population=public)
    others = private.filter(lambda row: row["client_id"] != "client-3")
    with pytest.raises(ValueError, match="`private` has 11 clients, but the run in `run_dir` began with 12"):
        make(tmp_path).evolve(others, initial_population=public)
    with pytest.raises(ValueError, match="`initial_population` is not the one"):
        make(tmp_path).evolve(private, initial_population=random_texts(60, seed=8))
    assert make(tmp_path).privacy_report.num_rounds == 1


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("ledger.json", None, "has lost its ledger.json"),
        ("ledger.json", "{}", "is not a ledger"),
        ("ledger.json", '{"format": 2, "plan": {}, "releases": []}', "`plan.accountant`=None there, 'exact' here"),
        ("ledger.json", '{"format": 2, "plan": {}, "releases": {}}', "is not a ledger"),
        ("ledger.json", '{"plan": {}, "releases": []}', "is not a ledger"),
        ("ledger.json", "[" * 10_000, "is not a ledger"),
        (
            "ledger.json",
            '{"plan": {}, "releases": [{"id": "a", "num_bins": -9, "noise_is_genuine": true, "answer": null}]}',
            "is not a ledger",
        ),
        ("settings.json", '"x"', "other settings"),
        ("settings.json", None, "holds other files, such as 'ledger.json'"),
        ("settings.json", "\ud800", "is not what hf_pretext writes"),
        ("run-1-candidates-1.json", '{"__class__": "os.system"}', "is not what hf_pretext writes"),
        ("run-1-candidates-2.json", "[1, 2]", "is not what hf_pretext writes"),
        ("run-1-candidates-2.json", '["one"]', "the ledger has"),
        ("run-1-record-1.json", '{"round": 1}', "is not what hf_pretext writes"),
        ("run-1-release-1.json", "-1", "is not what hf_pretext writes"),
        ("run-1-release-3.json", "17", "is an older copy"),
    ],
)
def test_a_folder_that_was_tampered_with_is_refused(make, begun, private, public, name, content, message):
    (begun / name).unlink()
    if content is not None:
        (begun / name).write_bytes(content.encode("utf-8", "surrogatepass"))
    with pytest.raises(ValueError, match=message):
        make(begun).evolve(private, initial_population=public)


def test_variations_that_were_tampered_with_are_refused(make, begun, private, public):
    (begun / "run-1-candidates-2.json").unlink()
    (begun / "run-1-lookahead-1.json").write_text('["one"]')
    with pytest.raises(ValueError, match="run-1-lookahead-1.json' is not what hf_pretext writes"):
        make(begun).evolve(private, initial_population=public)


@pytest.mark.parametrize("name", [".lock", "run-2-candidates-1.json", "ledger.json"])
def test_links_that_lead_out_of_the_folder_are_refused(make, begun, name, tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (begun / name).unlink(missing_ok=True)
    (begun / name).symlink_to(victim)
    with pytest.raises(ValueError, match="holds links"):
        make(begun)
    assert victim.read_text() == "mine"


def test_a_folder_of_something_else_is_refused(make, tmp_path):
    (tmp_path / "package.json").write_text("{}")
    with pytest.raises(ValueError, match="holds other files, such as 'package.json'"):
        make(tmp_path)


def test_a_saved_run_has_no_run_folder(make, private, public, tmp_path):
    generator = make(None)
    generator.evolve(private, initial_population=public)
    generator.save_pretrained(tmp_path / "saved")
    with pytest.raises(ValueError, match="`run_dir`=.* cannot continue a saved run"):
        PrivateEvolutionGenerator.from_pretrained(tmp_path / "saved", run_dir=tmp_path / "run")


CANARIES = ("xylophone quokka marzipan", "Zanzibar-7731", "owner-of-the-quokka")


def test_nothing_private_is_written_anywhere(models_folder, public, tmp_path):
    """Every byte that a run writes, in its folders, its temporary files, its caches and on its streams.

    Texts, ids, embeddings, clean histograms and noise are searched for, in what is left and in what was removed or
    replaced on the way.
    """
    texts = [f"{CANARIES[0]} and {CANARIES[1]}"] * 3 + random_texts(40, seed=9)
    clients = [CANARIES[2]] * 3 + [f"c{number // 2}" for number in range(40)]
    home = tmp_path / "home"
    for name in ("tmp", "cache", "out"):
        (home / name).mkdir(parents=True)
    Dataset.from_dict({"text": texts, "client_id": clients}).to_json(tmp_path / "private.jsonl")
    (tmp_path / "public.json").write_text(json.dumps([{"text": text} for text in public]))
    script = Path(__file__).parent / "support/leaks.py"
    places = {"HOME": home, "TMPDIR": home / "tmp", "HF_HOME": home / "cache", "XDG_CACHE_HOME": home / "cache"}
    environment = {**os.environ, **{name: str(place) for name, place in places.items()}}
    command = [sys.executable, str(script), str(tmp_path), str(models_folder)]
    done = subprocess.run(command, cwd=home, env=environment, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    told = json.loads((tmp_path / "needles.json").read_text())
    assert len(told["needles"]) > 40 and set(told["opened"]) == set()
    needles = [bytes.fromhex(needle) for needle in told["needles"]] + [text.encode() for text in CANARIES]
    haystack = {path: path.read_bytes() for path in home.rglob("*") if path.is_file()}
    assert any(path.name == "ledger.json" for path in haystack) and any(path.suffix == ".arrow" for path in haystack)
    haystack["stdout"], haystack["stderr"] = done.stdout, done.stderr
    found = [(str(place), needle) for place, content in haystack.items() for needle in needles if needle in content]
    assert not found
    steps = [f"{step}-{number}" for step in ("candidates", "record", "release", "weights") for number in (1, 2)]
    steps += ["release-mean_embedding", "release-token_counts", "tokens", "first-questions"]
    names = [
        ".lock",
        "ledger.json",
        "settings.json",
        *(path.name for path in (home / "out" / "run").glob("run-1-texts-*.arrow")),
        *(
            f"run-1-{step}.json"
            for step in [*steps, "clients", "preferences", "public", "reserve", "texts-1", "texts-tilt"]
        ),
    ]
    assert {path.name for path in (home / "out" / "run").iterdir()} == set(names)
    shutil.rmtree(home)


def test_once_all_is_released_another_model_may_write(make, private, public, tmp_path):
    """Nothing is drawn again, and what the first model wrote is not taken for the second one's."""
    first = make(tmp_path / "run", min_words=1)
    seeds = first.evolve(private, initial_population=public)
    first.expand(seeds, num_samples=3)
    ledger = (tmp_path / "run" / "ledger.json").read_bytes()
    written = {path.name for path in (tmp_path / "run").glob("*texts*.json")}
    changes = {"temperature": 0.7, "seeds_per_prompt": 2, "max_new_tokens": 12}
    second = make(tmp_path / "run", **changes)
    # Nothing is asked: the clients may be elsewhere.
    assert second.evolve(None, initial_population=public).to_dict() == seeds.to_dict()
    synthetic = second.expand(second.seeds, num_samples=3)
    assert len(synthetic) == 3 and (tmp_path / "run" / "ledger.json").read_bytes() == ledger
    added = {path.name for path in (tmp_path / "run").glob("*texts*.json")} - written
    assert added and all(name.startswith("run-1-texts-") for name in added)
    again = make(tmp_path / "run", **changes)
    again.evolve(None, initial_population=public)
    assert again.expand(again.seeds, num_samples=3)["text"][:] == synthetic["text"][:]
    assert {path.name for path in (tmp_path / "run").glob("*texts*.json")} == written | added


def test_before_all_is_released_another_model_is_refused(make, private, public, tmp_path, monkeypatch):
    generator = make(tmp_path / "run")
    release, asked = InMemoryClientPool.release, []

    def once(self, question, ledger):
        asked.append(question)
        if len(asked) > 1:
            raise KeyboardInterrupt
        return release(self, question, ledger)

    monkeypatch.setattr("hf_pretext.runs.run.ClientPool.release", once)
    with pytest.raises(KeyboardInterrupt):
        generator.evolve(private, initial_population=public)
    with pytest.raises(ValueError, match=r"`temperature`=1.0 there, 0.7 here.*once the run's last answer is released"):
        make(tmp_path / "run", temperature=0.7)


def test_settings_of_the_evolution_may_never_change(make, private, public, tmp_path):
    make(tmp_path / "run").evolve(private, initial_population=public)
    with pytest.raises(ValueError, match="`lookahead`=1 there, 2 here"):
        make(tmp_path / "run", lookahead=2, temperature=0.7)


def test_an_expansion_that_fails_says_how_to_continue(make, private, public, tmp_path):
    generator = make(None, min_words=40)
    seeds = generator.evolve(private, initial_population=public)
    with pytest.raises(RuntimeError, match=r"another model spends nothing again.*same `run_dir`.*hf-pretext expand"):
        generator.expand(seeds, num_samples=3)
