"""Public texts that a run chooses: the draw, its memory, what is refused, and whole runs with tiny models."""

import itertools
import json
import tracemalloc
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from datasets import Dataset, load_from_disk
from scipy.stats import chisquare

from hf_pretext import PrivateEvolutionConfig, PrivateEvolutionGenerator, selecting
from hf_pretext.cli import main
from hf_pretext.data import each_row
from hf_pretext.data.sources import stream_public
from hf_pretext.evolution import reservoir
from hf_pretext.evolution.evidence import MeanReading, VotesReading
from hf_pretext.evolution.kept_evidence import LinearRatio, RunEvidence
from hf_pretext.evolution.reservoir import DifferentTexts, Reservoir, hash_stream
from hf_pretext.forms import Plain
from hf_pretext.hub import find_privacy_report
from hf_pretext.privacy import Plan
from hf_pretext.privacy.ledger import PrivacyLedger
from hf_pretext.privacy.report import PrivacyReport
from hf_pretext.saved_runs import SavedRun
from support.tiny import WORDS, random_texts

WEIGHTS = {"a": 1.0, "b": 2.0, "c": 3.0, "d": 6.0, "e": 12.0}
FALSE_ALARM = 1e-6


def sample(texts, seed, size=2):
    drawn = Reservoir(size)
    for part in itertools.batched(texts, 3) if hasattr(itertools, "batched") else [texts]:
        logarithms = np.log([WEIGHTS[text] for text in part])
        drawn.add(list(part), hash_stream(list(part), seed), logarithms)
    return [each.text for each in drawn.drawn(np.random.default_rng(seed))]


def probability(pair):
    """Of drawing these two, one after the other, each in proportion to the weights of those that are left."""
    total = sum(WEIGHTS.values())
    return sum(
        WEIGHTS[one] / total * WEIGHTS[two] / (total - WEIGHTS[one]) for one, two in itertools.permutations(pair)
    )


def test_the_reservoir_is_the_sample_of_successive_draws():
    """All ten pairs have their exact probabilities. A right reservoir fails with probability 10^-6."""
    number = 20_000
    found = Counter(frozenset(sample([*WEIGHTS], seed)) for seed in range(number))
    pairs = [frozenset(pair) for pair in itertools.combinations(WEIGHTS, 2)]
    expected = [number * probability(pair) for pair in pairs]
    assert sum(expected) == pytest.approx(number)
    assert chisquare([found[pair] for pair in pairs], expected).pvalue > FALSE_ALARM
    # The test would notice if weights were taken to another power, or not at all.
    uniform = [number / len(pairs)] * len(pairs)
    assert chisquare([found[pair] for pair in pairs], uniform).pvalue < FALSE_ALARM


def test_repetitions_and_the_order_of_a_stream_change_nothing():
    for seed in range(200):
        once = sample([*WEIGHTS], seed)
        assert once == sample([*WEIGHTS, *WEIGHTS, "a", "a"], seed) == sample(sorted(WEIGHTS, reverse=True), seed)
        assert len(set(once)) == 2


def test_extreme_weights_and_hashes_are_drawn():
    hashes = np.array([0, 1, 2**64 - 1, 2**63], dtype=np.uint64)
    drawn = Reservoir(3)
    drawn.add([*"abcd"], hashes, np.array([-1e6, 0.0, 800.0, -1e6]))
    assert {each.text for each in drawn.drawn(np.random.default_rng(0))} >= {"b", "c"}
    assert np.isfinite(reservoir._exponential(hashes)).all() and (reservoir._exponential(hashes) > 0).all()


def test_different_texts_are_counted_in_little_memory():
    """The estimate is within five standard errors, which are 0.4 %. Small numbers are exact."""
    different = DifferentTexts()
    for _ in range(3):
        different.add(hash_stream(random_texts(500), 0))
    assert different.number == len(set(random_texts(500)))
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 2**64, size=200_000, dtype=np.uint64)
    for _ in range(2):
        for part in np.array_split(rng.permutation(hashes), 10):
            different.add(part)
    assert different.number == pytest.approx(200_500, rel=5 * 0.004)
    assert len(different._smallest) == reservoir.NUM_SMALLEST


def unit(points):
    return points / np.linalg.norm(points, axis=1, keepdims=True)


def embed(texts):
    """Words as dimensions, and their number, so that texts with `rain` differ from others."""
    points = np.array([[text.count(word) for word in (*WORDS[:8], "rain", " ")] for text in texts], dtype=np.float32)
    return unit(points + 0.01)


def stub_run(slope=8.0, **config):
    settings = {"epsilon": 2.0, "delta": 1e-3, "num_rounds": 1, **config}
    config = PrivateEvolutionConfig(**settings)
    tilt = np.zeros(10)
    tilt[8] = slope
    evidence = RunEvidence(lambda: [[LinearRatio(tilt, 0.0)]], [1.0])
    report = PrivacyReport.from_ledger(PrivacyLedger(Plan.from_config(config)), config)
    return SavedRun(config, report, {}, [], Dataset.from_dict({"text": ["a"]}), evidence=evidence)


@pytest.fixture
def small(monkeypatch):
    """Streams of hundreds of texts are long."""
    monkeypatch.setattr(selecting, "FIRST_TEXTS", 400)
    monkeypatch.setattr(selecting, "TEXTS_AT_ONCE", 100)


def numbered(number, seed=0):
    """Different texts, of which some hold the word that the stub run prefers."""
    for index, text in enumerate(random_texts(number, seed)):
        yield f"{text} {index}"


def test_texts_are_drawn_in_proportion_to_the_tempered_ratio(small):
    """Of two kinds of texts, the counts of those chosen are within five standard errors of the exact ones."""
    texts = [f"rain rain {number}" for number in range(2000)] + [f"sun sun sun {number}" for number in range(6000)]
    order = np.random.default_rng(0).permutation(len(texts))
    selection = selecting.select_public(stub_run(), [texts[index] for index in order], 100, embed)
    facts = selection.facts
    assert facts.num_read == facts.num_different == 8000 and facts.num_selected == 100 and facts.num_blank == 0
    assert 0 < facts.power <= 1
    ratio = np.array(selection.dataset["preference"])
    of_kind = {kind: ratio[[text.startswith(kind) for text in selection.dataset["text"]]] for kind in ("rain", "sun")}
    rain = float(np.exp(RunEvidence.log_ratios(stub_run().evidence, embed(["rain rain 1"]))[0]))
    sun = float(np.exp(RunEvidence.log_ratios(stub_run().evidence, embed(["sun sun sun 1"]))[0]))
    np.testing.assert_allclose(of_kind["rain"], rain, rtol=1e-4)
    expected = 2000 * rain**facts.power / (2000 * rain**facts.power + 6000 * sun**facts.power)
    assert abs(len(of_kind["rain"]) / 100 - expected) < 5 * np.sqrt(expected * (1 - expected) / 100) + 0.01
    # Both kinds weigh a quarter of the stream or more, so the power need not be below what the evidence says.
    assert facts.effective_size >= 0.08 * 8000


def test_no_few_texts_stand_for_all(small):
    """However sharp the evidence is, the effective sample size of the first texts is 8 % of them."""
    for slope in (30.0, 3000.0):
        facts = selecting.select_public(stub_run(slope), numbered(3000), 20, embed).facts
        assert facts.power < 1 and facts.effective_size > 0.04 * 3000


def test_the_draw_follows_from_the_seed_and_not_from_how_a_stream_is_given(small, tmp_path):
    texts = list(numbered(1500))
    rows = Dataset.from_dict({"text": texts, "other": range(1500)})
    rows.to_json(tmp_path / "texts.jsonl")
    rows.to_parquet(tmp_path / "texts.parquet")
    (tmp_path / "folder").mkdir()
    rows.to_parquet(tmp_path / "folder" / "part.parquet")
    rows.save_to_disk(tmp_path / "saved")
    rows.to_csv(tmp_path / "texts.csv")
    given = [texts, iter(texts), rows, rows.with_format("numpy"), rows.to_iterable_dataset(), *rows.to_list()]
    given = [*given[:5], (row for row in rows.to_list())]
    names = ("texts.jsonl", "texts.parquet", "folder", "saved", "texts.csv")
    given += [str(tmp_path / "texts.jsonl"), *(tmp_path / name for name in names)]
    chosen = [selecting.select_public(stub_run(), each, 30, embed).dataset["text"][:] for each in given]
    assert all(each == chosen[0] for each in chosen) and len(set(chosen[0])) == 30 and set(chosen[0]) <= set(texts)
    other = selecting.select_public(stub_run(seed=1), texts, 30, embed).dataset["text"][:]
    assert set(other) != set(chosen[0])


def test_memory_is_flat(small):
    """Ten times as many texts take no more memory, but for what is chosen and the hashes of 65,536 texts (512 kB)."""
    peaks = []
    for number in (3_000, 30_000):
        stream = (f"{' '.join(WORDS[index % 40 : index % 40 + 5])} rain {index}" for index in range(number))
        tracemalloc.start()
        selecting.select_public(stub_run(), stream, 50, embed)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] - peaks[0] < 1.2e6, peaks


def test_no_more_than_a_batch_of_a_file_is_in_memory(tmp_path):
    with (tmp_path / "texts.jsonl").open("w") as file:
        for number in range(40_000):
            file.write(json.dumps({"text": f"{number} " + "rain " * 50}) + "\n")
    size = (tmp_path / "texts.jsonl").stat().st_size
    tracemalloc.start()
    rows = each_row(stream_public(str(tmp_path / "texts.jsonl"), Plain("text")), Plain("text"), "public")
    assert sum(1 for _ in rows) == 40_000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < size / 10


def fail(texts):
    raise AssertionError("nothing is embedded")


@pytest.mark.parametrize(
    ("public", "number", "message"),
    [
        (lambda: numbered(50), 100, r"`public` ends after 50 rows, of which 50 are different.*`num_samples`=100"),
        (lambda: list(numbered(50)), 100, r"`public` has 50 texts, fewer than `num_samples`=100"),
        (lambda: itertools.cycle(numbered(50)), 100, r"`public` repeats itself: of its first 4000 rows, 50 are diff"),
        (lambda: itertools.repeat(" "), 1, "of its first 4000 rows, 0 are different texts that are not blank"),
        (lambda: ["", " ", "one"] * 50, 2, r"ends after 150 rows, of which 1 are different texts that are not blank"),
        (lambda: numbered(10), 0, "`num_samples`=0 must be a positive integer"),
        (lambda: Dataset.from_dict({"body": ["a"] * 9}), 5, r"`public` has no column 'text' of texts, but \['body'\]"),
        (lambda: ({"body": "a"} for _ in range(9)), 5, r"`public` has no column 'text' of texts, but \['body'\]"),
        (lambda: "nothing.jsonl", 5, "`public`: There is no file or folder 'nothing.jsonl'"),
    ],
)
def test_what_cannot_be_chosen_from_is_refused_before_anything_is_embedded(small, public, number, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        selecting.select_public(stub_run(), public(), number, fail)


@pytest.mark.parametrize("public", [[1, 2, 3], {"text": ["a"]}])
def test_what_holds_no_texts_is_refused(small, public):
    with pytest.raises(TypeError, match="`public`"):
        selecting.select_public(stub_run(), public, 1, fail)


def test_files_that_are_damaged_are_named(small, tmp_path):
    (tmp_path / "bad.jsonl").write_text('{"text": "a"}\n{"text": \n')
    with pytest.raises(ValueError, match=r"bad.jsonl' is not valid .jsonl. Line 2 is not a record"):
        selecting.select_public(stub_run(), tmp_path / "bad.jsonl", 1, fail)
    (tmp_path / "latin.jsonl").write_bytes(b'{"text": "caf\xe9"}\n')
    with pytest.raises(ValueError, match=r"latin.jsonl' cannot be read as .jsonl"):
        selecting.select_public(stub_run(), tmp_path / "latin.jsonl", 1, fail)


def test_a_stream_that_repeats_itself_later_is_said_once(small):
    stream = itertools.chain(numbered(600), itertools.islice(itertools.cycle(numbered(600)), 1500))
    with pytest.warns(UserWarning, match=r"of \d+ texts so far, some 600 are different") as told:
        facts = selecting.select_public(stub_run(), stream, 5, embed).facts
    assert sum("repeats itself" in str(each.message) for each in told) == 1
    assert facts.num_read == 2100 and facts.num_different == 600
    with pytest.warns(UserWarning), pytest.raises(ValueError, match=r"of its first 6000 rows, 600 are different"):
        selecting.select_public(stub_run(), itertools.cycle(numbered(600)), 5, embed)


def test_too_many_for_what_the_run_prefers_is_said(small):
    with pytest.warns(UserWarning, match="more than half of the effective number of texts"):
        selecting.select_public(stub_run(30.0), numbered(1000), 500, embed)


def test_a_run_that_says_nothing_is_refused_and_one_that_says_the_same_of_all_warns(small):
    with pytest.raises(ValueError, match="it has no evidence.*`smooth_votes`=True or a `mean_fraction`"):
        selecting.select_public(replace(stub_run(), evidence=None), numbered(9), 1, fail)
    with pytest.raises(ValueError, match="`evolve` comes first"):
        selecting.select_public(replace(stub_run(), seeds=None), numbered(9), 1, fail)
    with pytest.warns(UserWarning, match="says the same of all public texts"):
        selecting.select_public(stub_run(0.0), numbered(900), 5, embed)
    with pytest.raises(ValueError, match="`embedding_model` has 3 dimensions, but the clients .* a space of 10"):
        selecting.select_public(stub_run(), numbered(900), 5, lambda texts: np.ones((len(texts), 3)))


def readings(seed):
    rng = np.random.default_rng(seed)
    points = unit(rng.standard_normal((80, 6)))
    mean = MeanReading(rng.standard_normal(6), points.mean(axis=0), lambda: points)
    return [mean, VotesReading(3 * points[:, 0] + rng.standard_normal(80), 1.0, lambda: points)], points


def test_saved_evidence_says_what_the_live_one_says():
    """Also with labels, whose average it is, weighted by how common they are."""
    parts, points = zip(*(readings(seed) for seed in range(2)), strict=True)
    for own, shares in ((parts[:1], [1.0]), (parts, [0.25, 0.75]), (parts, [0.0, 1.0])):
        live = RunEvidence.of(own, shares)
        expected = np.log(
            sum(
                share * np.prod([each.ratios(points[0]) for each in part], axis=0)
                for part, share in zip(own, shares, strict=True)
            )
        )
        saved = RunEvidence.from_arrays(live.to_arrays())
        for each in (live, saved):
            np.testing.assert_allclose(each.log_ratios(points[0]), expected, rtol=1e-5, atol=1e-5)
            assert each.num_dimensions == 6


def test_evidence_keeps_the_mean_of_the_clients():
    mean = np.linspace(-1, 1, 6)
    kept = RunEvidence(lambda: [[LinearRatio(np.ones(6), 0.0)]], [1.0], mean)
    np.testing.assert_array_equal(RunEvidence.from_arrays(kept.to_arrays()).mean, mean)
    assert RunEvidence(lambda: [[LinearRatio(np.ones(6), 0.0)]], [1.0]).mean is None
    of_two_labels = RunEvidence(lambda: [[LinearRatio(np.ones(6), 0.0)]] * 2, [0.5, 0.5], mean)
    assert of_two_labels.mean is None, "of which label?"


def test_evidence_that_is_none_is_refused():
    good = RunEvidence.of([readings(0)[0]], [1.0]).to_arrays()
    with pytest.raises(ValueError, match="a mean has other dimensions"):
        RunEvidence.from_arrays({**good, "mean": np.ones(5)})
    for bad in ({}, {**good, "x": good["shares"]}, {**good, "0.0.slope": np.full(6, np.nan)}, {"shares": np.ones(2)}):
        with pytest.raises(ValueError, match="no evidence of a run"):
            RunEvidence.from_arrays(bad)


@pytest.fixture
def run(models_folder, private, public, config, tmp_path):
    names = {name: str(models_folder / name) for name in ("variation_model", "embedding_model", "expansion_model")}
    generator = PrivateEvolutionGenerator(**names, config=replace(config, mean_fraction=0.3))
    generator(private, initial_population=public, num_samples=12)
    generator.save_pretrained(tmp_path / "run")
    return generator


def test_a_whole_run_chooses_public_texts_with_its_guarantee(run, small, tmp_path, capsys):
    public = [f"{text} {number}" for number, text in enumerate(random_texts(900, seed=7))]
    spent = run.privacy_report.epsilon
    selected = run.select(public, 40)
    assert set(selected["text"]) <= set(public) and len(set(selected["text"])) == 40
    assert run.privacy_report.epsilon == spent
    usual = np.exp(run._evidence.log_ratios(run.embed(public))).mean()
    assert np.mean(selected["preference"]) > usual, "what the evidence prefers is chosen more often"
    report = find_privacy_report(selected)
    assert report.release_ids == run.privacy_report.release_ids and report.num_texts == 40
    # The same from the shell, of a saved run and a file.
    Dataset.from_dict({"text": public}).to_json(tmp_path / "public.jsonl")
    command = ["select", str(tmp_path / "run"), "--public", str(tmp_path / "public.jsonl"), "--num-samples", "40"]
    assert main([*command, "--output-dir", str(tmp_path / "selected"), "--device", "cpu"]) == 0
    assert "copies" in capsys.readouterr().out
    saved = load_from_disk(tmp_path / "selected")
    assert saved["text"][:] == selected["text"][:]
    assert find_privacy_report(tmp_path / "selected").epsilon == spent
    facts = json.loads((tmp_path / "selected" / "selection.json").read_text())
    assert facts["kind"] == "selected public texts" and facts["num_read"] == facts["num_different"] == 900
    card = (tmp_path / "selected" / "README.md").read_text()
    assert (
        "copied as they are" in card
        and "None of them is synthetic" in card
        and "The guarantee is about the choice" in card
    )
    assert str(tmp_path) not in card and "epsilon = 4" in card
    # A generator that continues the saved run chooses the same.
    again = PrivateEvolutionGenerator.from_pretrained(tmp_path / "run")
    assert again.select(public, 40)["text"][:] == selected["text"][:]


def test_selected_texts_replace_no_run_and_synthetic_ones_are_not_public(run, small, tmp_path, capsys):
    Dataset.from_dict({"text": list(numbered(900))}).to_json(tmp_path / "public.jsonl")
    command = ["select", str(tmp_path / "run"), "--num-samples", "5", "--public"]
    assert main([*command, str(tmp_path / "public.jsonl"), "--output-dir", str(tmp_path / "run")]) == 2
    assert "holds a run. Choose another folder" in capsys.readouterr().err
    assert main([*command, str(tmp_path / "run"), "--output-dir", str(tmp_path / "out")]) == 2
    assert "is synthetic text of a run, and not public" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    with pytest.raises(ValueError, match="`public` is synthetic text of a run"):
        run.select(run._synthetic, 5)
    (tmp_path / "run" / "audit_settings.json").write_text("{}")
    assert main([*command, str(tmp_path / "public.jsonl"), "--output-dir", str(tmp_path / "out")]) == 2
    assert "holds an audited run" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_evidence_that_was_changed_is_not_read(run, tmp_path, caplog):
    from safetensors.numpy import load_file, save_file

    path = tmp_path / "run" / "evidence.safetensors"
    arrays = load_file(path)
    arrays["0.0.offset"] = arrays["0.0.offset"] + 1
    save_file(arrays, path)
    assert SavedRun.load(tmp_path / "run").seeds is None
    assert "are not those that its privacy report names" in caplog.text
    path.write_bytes(b"none")
    assert SavedRun.load(tmp_path / "run").evidence is None


def test_a_run_without_smoothing_says_so(models_folder, private, public, config, small):
    names = {name: str(models_folder / name) for name in ("variation_model", "embedding_model", "expansion_model")}
    generator = PrivateEvolutionGenerator(**names, config=replace(config, smooth_votes=False, new_public_share=0.0))
    with pytest.raises(ValueError, match="`evolve` comes first"):
        generator.select(public, 5)
    generator.evolve(private, initial_population=public)
    with pytest.raises(ValueError, match="it has no evidence"):
        generator.select(public, 5)
