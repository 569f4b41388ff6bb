"""Live figures of a run: what trackers get while it goes on, and what they never get."""

import math
import warnings
from dataclasses import dataclass

import numpy as np
import pytest
import yaml
from accelerate.tracking import GeneralTracker

from hf_pretext import PrivateEvolutionGenerator
from hf_pretext.cli import main
from hf_pretext.clients.questions import Question
from hf_pretext.runs.tracking import Trackers


class Notes:
    """A tracker of one's own."""

    def __init__(self, works_until=100):
        self.lines, self._works_until = [], works_until

    def log(self, values, step=None):
        if len(self.lines) >= self._works_until:
            raise ConnectionError("The website is down.")
        self.lines.append((step, values))


def evolve(models_folder, config, private, public, **arguments):
    names = ("variation_model", "embedding_model")
    generator = PrivateEvolutionGenerator(**{name: models_folder / name for name in names}, config=config, **arguments)
    return generator, generator.evolve(private, initial_population=public)


def test_epsilon_and_rounds_are_shown_while_the_run_goes_on(models_folder, config, private, public):
    notes = Notes()
    generator, _ = evolve(models_folder, config, private, public, report_to=notes)
    assert [(step, {name.partition("/")[0] for name in values}) for step, values in notes.lines] == [
        (1, {"privacy"}),
        (1, {"evolution"}),
        (2, {"privacy"}),
        (2, {"evolution"}),
    ]
    (first, last) = (notes.lines[index][1] for index in (0, 2))
    assert 0 < first["privacy/epsilon"] < last["privacy/epsilon"] == generator.privacy_report.epsilon
    assert last["privacy/delta"] == config.delta
    rounds = [notes.lines[index][1] for index in (1, 3)]
    for record, shown in zip(generator.history, rounds, strict=True):
        assert shown == {
            **{"evolution/round": record.round, "evolution/num_candidates": record.num_candidates},
            "evolution/num_above_threshold": record.num_above_threshold,
            **{"evolution/num_survivors": record.num_survivors, "evolution/seconds": record.seconds},
        }


def test_what_the_writer_had_learned_before_is_in_the_shown_epsilon(models_folder, config, private, public):
    notes = Notes()
    generator, _ = evolve(models_folder, config, private, public)
    ledger, earlier = generator.ledger, generator.privacy_report
    trackers = Trackers(notes)
    for trackers.earlier in ((), [earlier], None):
        with trackers:
            trackers.log_release(ledger, 1)
    alone, after, unknown = (values["privacy/epsilon"] for _, values in notes.lines)
    assert alone == earlier.epsilon and after == 2 * alone and math.isinf(unknown)
    assert notes.lines[1][1]["privacy/delta"] == 2 * config.delta


def test_nothing_is_sent_that_depends_on_an_answer_but_the_records(models_folder, config, private, public):
    """With other noise and other clients, all figures of privacy are the same, and there are no others but records."""
    sent = []
    for texts in (private, private.map(lambda row: {"text": "other words " + row["text"][::-1]})):
        notes = Notes()
        generator, _ = evolve(models_folder, config, texts, public, report_to=[notes])
        known = {f"evolution/{name}" for name in vars(generator.history[0])}
        for _, values in notes.lines:
            assert all(isinstance(value, float) for value in values.values())
            assert set(values) <= known - {"evolution/votes"} or set(values) == {"privacy/epsilon", "privacy/delta"}
        sent.append([line for line in notes.lines if "privacy/epsilon" in line[1]])
    assert sent[0] == sent[1]


def test_a_tracker_that_fails_does_not_end_a_run(models_folder, config, private, public, caplog):
    broken, whole = Notes(works_until=1), Notes()
    generator, seeds = evolve(models_folder, config, private, public, report_to=[broken, whole])
    assert generator.ledger.num_releases == 2 and len(seeds) and len(whole.lines) == 4
    assert caplog.text.count("gets no more figures: The website is down.") == 1


def test_a_resumed_run_shows_what_was_spent_before(models_folder, config, private, public, tmp_path):
    first, again = Notes(), Notes()
    for notes in (first, again):
        evolve(models_folder, config, private, public, report_to=notes, run_dir=tmp_path / "run")
    assert again.lines == first.lines


@pytest.fixture
def installed(monkeypatch):
    """A tracker that accelerate knows by name and that is installed."""
    made = []

    class Board(GeneralTracker):
        name, requires_logging_directory, main_process_only = "trackio", True, True

        def __init__(self, run_name, logging_dir):
            super().__init__()
            self.run_name, self.logging_dir, self.did = run_name, logging_dir, []
            made.append(self)

        tracker = property(lambda self: self)
        start = lambda self: self.did.append("start")  # noqa: E731
        finish = lambda self: self.did.append("finish")  # noqa: E731
        store_init_configuration = lambda self, values: None  # noqa: E731

        def log(self, values, step=None, **_):
            self.did.append(step)

    monkeypatch.setitem(__import__("accelerate.tracking").tracking.LOGGER_TYPE_TO_CLASS, "trackio", Board)
    monkeypatch.setattr("accelerate.tracking.get_available_trackers", lambda: ["trackio"])
    return made


@pytest.mark.parametrize("report_to", ["trackio", "all", ["trackio"]])
def test_a_tracker_of_accelerate_is_started_and_finished(installed, models_folder, config, private, public, report_to):
    evolve(models_folder, config, private, public, report_to=report_to)
    (board,) = installed
    assert board.did == ["start", 1, 1, 2, 2, "finish"] and (board.run_name, board.logging_dir) == (
        "hf_pretext",
        "runs",
    )


@dataclass(frozen=True)
class Fragile(Question):
    """A question of the caller that fails for some clients, by what they hold."""

    name, is_signed, num_bins = "fragile", False, 1

    def answer(self, samples):
        if len(samples.owners) == 6:
            raise KeyError("quokka")
        return np.ones(1)


def test_the_private_side_warns_when_trackers_are_finished(installed, models_folder, config, private, public):
    """Some send what the console shows, and which clients a question fails for depends on what they hold."""
    made = []

    def show(message, *_, **__):
        made.append((str(message), installed[0].did[-1]))

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = show
        evolve(models_folder, config, private, public, report_to="trackio", questions=[(Fragile(), 0.2)])
    assert [did for words, did in made if "failed for some clients" in words] == ["finish"]


def test_noise_of_others_has_no_finite_epsilon(models_folder, config, private, public):
    notes = Notes()
    zeros = lambda scale, size: np.zeros(size, dtype=np.int64)  # noqa: E731
    generator, _ = evolve(models_folder, config, private, public, report_to=notes, noise=zeros)
    shown = [values["privacy/epsilon"] for _, values in notes.lines if "privacy/epsilon" in values]
    assert shown == [math.inf, math.inf] and generator.ledger.epsilon(config.delta, 0) == 0


def test_a_file_of_settings_names_a_tracker(installed, models_folder, config, private, public, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    private.to_json("private.jsonl")
    settings = {name: str(models_folder / name) for name in ("variation_model", "embedding_model", "expansion_model")}
    settings |= {"private": "private.jsonl", "domain": "chats", "num_samples": 2, "output_dir": "out", "delta": 1e-3}
    settings |= {"epsilon": 4, "num_rounds": 1, "population_size": 8, "lookahead": 0, "min_words": 1, "max_length": 16}
    settings |= {"token_fraction": 0, "max_new_tokens": 8, "report_to": "trackio"}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(settings))
    assert main(["generate", "--config", "run.yaml"]) == 0
    assert installed[0].did == ["start", 1, 1, "finish"]


@pytest.mark.parametrize(
    ("report_to", "error", "message"),
    [
        ("tracio", ValueError, "`report_to`='tracio' is not a tracker that accelerate knows. Known are .*trackio"),
        ("comet_ml", ImportError, "`report_to`='comet_ml' is not installed. Install it .`pip install comet_ml`"),
        (3, TypeError, "`report_to` of type int must be a name"),
        ([np.zeros(3)], TypeError, "`report_to` holds a ndarray, which is no name and has no `log`"),
    ],
)
def test_a_tracker_that_is_not_there_is_refused_before_a_model_is_loaded(report_to, error, message, config):
    with pytest.raises(error, match=message):
        PrivateEvolutionGenerator("no such model", config=config, report_to=report_to)


@pytest.mark.parametrize("report_to", [None, "none", []])
def test_nothing_is_tracked_by_default(report_to):
    with Trackers(report_to) as trackers:
        assert trackers._open == []


def test_trackio_keeps_the_figures(models_folder, config, private, public, tmp_path, monkeypatch):
    """The tracker itself, with its own database, if it is installed."""
    pytest.importorskip("trackio")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path))
    evolve(models_folder, config, private, public, report_to="trackio")
    from trackio.sqlite_storage import SQLiteStorage

    (run,) = SQLiteStorage.get_runs("hf_pretext")
    logged = SQLiteStorage.get_logs("hf_pretext", run)
    assert [each["privacy/epsilon"] for each in logged if "privacy/epsilon" in each]
