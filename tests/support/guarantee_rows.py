"""Checks of what a report is about (rows, weights, a client's texts), and mutations that they have to catch."""

import hashlib
import json
import tempfile
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pandas
from datasets import Dataset, concatenate_datasets
from safetensors.numpy import save_file

from hf_pretext import PrivateEvolutionConfig, PrivateEvolutionGenerator, coverage
from hf_pretext.clients.rows import group_by_client
from hf_pretext.data.columns import WantedColumns, gather
from hf_pretext.finetuning import TrainingTexts, report_of_model, report_of_model_to_be
from hf_pretext.finetuning.chain import digest_of_weights
from hf_pretext.hub import find_privacy_report
from hf_pretext.privacy import Plan, PrivacyReport
from hf_pretext.settings import is_missing
from support.guarantee import ALL_IN_ONE_BIN, NUM_BINS, ONE_BIN, STANDARD_ERRORS, measure_effect, patched
from support.tiny import make_llama, make_sentence_transformer, random_texts

CONFIG = PrivateEvolutionConfig(
    epsilon=3.0, delta=1e-5, num_rounds=1, population_size=16, max_length=32, max_new_tokens=8, min_words=1
)
PRIVATE = Dataset.from_dict(
    {
        "client_id": [f"c{number // 4}" for number in range(80)],
        "text": [f"zyquokka{number} {text}" for number, text in enumerate(random_texts(80, seed=1))],
    }
)


@cache
def models():
    """Tiny models, as arguments of the generator."""
    with tempfile.TemporaryDirectory() as folder:
        embedding_model = make_sentence_transformer(folder)
    return {"variation_model": None, "embedding_model": embedding_model, "expansion_model": make_llama()}


@cache
def make_run(seed):
    """Make a run on the private texts, with 40 synthetic texts."""
    generator = PrivateEvolutionGenerator(**models(), config=CONFIG)
    return generator, generator(PRIVATE, initial_population=random_texts(64, seed=4 + seed), num_samples=40)


def check_rows(num_runs=0):
    """Rows of the run are covered, also in a folder. Private rows beside them, in memory or in a folder, are not."""
    generator, synthetic = make_run(0)
    assert find_privacy_report(synthetic) is not None
    private = PRIVATE.select_columns("text")
    mixed = concatenate_datasets([synthetic, private]).shuffle(seed=0).select(range(40))
    assert any(text in set(private["text"]) for text in mixed["text"])
    assert find_privacy_report(mixed) is None
    with tempfile.TemporaryDirectory() as folder:
        generator.save_pretrained(folder)
        assert find_privacy_report(folder) is not None
        mixed.save_to_disk(f"{folder}/mixed")
        for path in Path(folder, "mixed").iterdir():
            path.replace(Path(folder, path.name))
        assert find_privacy_report(folder) is None


def make_model(folder, report, value=1.0, facts="{}"):
    """Make the folder of a finetuned model, with its report if it has one."""
    folder.mkdir()
    save_file({"weight": np.full(3, value, dtype=np.float32)}, folder / "model.safetensors")
    (folder / "training.json").write_text(facts)
    if report is not None:
        report.about_weights(digest_of_weights(folder)).save_pretrained(folder)
    return folder


def check_chain(num_runs=0):
    """A model's guarantee covers every training before it, and is about its own weights."""
    (first, synthetic), (second, _) = make_run(0), make_run(7)
    one, two = first.privacy_report, second.privacy_report
    texts = TrainingTexts(synthetic, synthetic, two, "texts")
    with tempfile.TemporaryDirectory() as scratch:
        of_one = make_model(Path(scratch, "one"), one)
        both = report_of_model_to_be(texts, str(of_one))
        assert both is not None and abs(both.epsilon - one.epsilon - two.epsilon) < 1e-9
        of_both = make_model(Path(scratch, "both"), both, 2.0)
        again = report_of_model_to_be(texts, str(of_both))
        assert again is not None and abs(again.epsilon - both.epsilon) < 1e-9, "the same texts once more cost nothing"
        unknown = make_model(Path(scratch, "unknown"), None)
        assert report_of_model_to_be(texts, str(unknown)) is None, "what was learned before is not known"
        public = Path(scratch, "public")
        public.mkdir()
        assert report_of_model_to_be(texts, str(public)).epsilon == two.epsilon
        # The report of another model, beside weights that it is not about.
        stolen = make_model(Path(scratch, "stolen"), None, 3.0)
        (stolen / "privacy_report.json").write_bytes((of_one / "privacy_report.json").read_bytes())
        assert report_of_model(of_one) is not None and report_of_model(stolen) is None
        assert report_of_model_to_be(texts, str(stolen)) is None
        # A checkpoint, a model without weights that a digest could be about, and an adapter of an unknown model.
        checkpoint = Path(scratch, "checkpoint-8")
        checkpoint.mkdir()
        (checkpoint / "trainer_state.json").write_text("{}")
        assert report_of_model_to_be(texts, str(checkpoint)) is None
        for name in ("pytorch_model.bin", None):
            bare = make_model(Path(scratch, f"bare-{name}"), one)
            for path in bare.glob("*.safetensors"):
                path.unlink()
            if name:
                (bare / name).write_bytes(b"weights")
            one.about_weights(hashlib.sha256(b"").hexdigest()).save_pretrained(bare)
            assert report_of_model(bare) is None and report_of_model_to_be(texts, str(bare)) is None
        adapter = Path(scratch, "adapter")
        adapter.mkdir()
        (adapter / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(unknown)}))
        assert report_of_model_to_be(texts, str(adapter)) is None
        # A name whose files nobody can list, unless someone vouches for it.
        assert report_of_model_to_be(texts, "me/nowhere") is None
        assert report_of_model_to_be(texts, "me/nowhere", base_is_public=True).epsilon == two.epsilon
        # A first stage with rows of a run that its report does not cover.
        for is_derived in (False, True):
            stage = TrainingTexts(synthetic, synthetic, None, "public", is_derived=is_derived)
            assert (report_of_model_to_be(replace(texts, first_stage=stage), str(public)) is None) == is_derived
        # Without the facts of its training, as a script of one's own may save it, the report still counts.
        (of_one / "training.json").unlink()
        assert report_of_model_to_be(texts, str(of_one)).epsilon == both.epsilon


def check_hidden_texts(num_runs):
    """Exchanging a client's texts changes a release by what the report's second epsilon is computed from, not less."""
    direction = ONE_BIN - np.eye(NUM_BINS)[7]
    with_one, with_other = measure_effect(ALL_IN_ONE_BIN, ["bin 7"] * 1000, direction, num_runs)
    spread = np.sqrt((with_one.var(ddof=1) + with_other.var(ddof=1)) / 2)
    effect = (with_one.mean() - with_other.mean()) / spread
    error = np.sqrt(2 / num_runs + effect**2 / (4 * num_runs))
    config = PrivateEvolutionConfig(noise_multiplier=1.0, delta=1e-5, population_size=NUM_BINS, num_rounds=1)
    plan = Plan.from_config(config)
    claimed = 1 / plan.entry("votes").mechanism.for_exchange().noise_multiplier
    assert abs(effect - claimed) < STANDARD_ERRORS * error, f"effect {effect:.3f} +- {error:.3f}, not {claimed:.3f}"
    assert plan.exchange_epsilon(1e-5) > plan.epsilon(1e-5)


def check_numbers(num_runs=0):
    """What a client's row reads as does not depend on the rows of others, which may make floats of a column."""
    config = PrivateEvolutionConfig(epsilon=3.0, delta=1e-5, text_column=["stars", "note"])
    row, other = {"client_id": "a", "stars": 5, "note": "fine"}, {"client_id": "b", "stars": 4.5, "note": "so so"}
    alone = group_by_client(Dataset.from_list([row]), config)["a"]
    # pandas makes floats of the whole column, as any table of all clients would.
    among = Dataset.from_pandas(pandas.DataFrame([row, other]))
    assert group_by_client(among, config)["a"] == alone
    read = WantedColumns.of(None, "client_id", ("stars", "note")).dataset("rows", gather([row, other], row))
    assert group_by_client(read, config)["a"] == alone


def _any_row_counts():
    return patched(
        "hf_pretext.privacy.texts.CoveredTexts.contains", lambda self, hashes: np.ones(len(hashes), dtype=bool)
    )


def _the_folder_s_report_is_taken():
    def found(dataset, folders=(), text_column="text"):
        marks = coverage.marks_of(dataset)
        return marks[0] if marks else next((PrivacyReport.from_pretrained(place) for place in folders), None)

    return patched("hf_pretext.hub.report_of_rows", found)


def _report_as_it_lies_there(folder):
    return PrivacyReport.from_pretrained(folder) if (folder / "privacy_report.json").is_file() else None


MUTATIONS = {
    "rows are not looked up": (_any_row_counts, check_rows),
    "a report is taken for whatever rows lie beside it": (_the_folder_s_report_is_taken, check_rows),
    "what a base model learned is forgotten": (
        lambda: patched("hf_pretext.finetuning.chain._reports_of_base", lambda *_: []),
        check_chain,
    ),
    "a report is taken for other weights": (
        lambda: patched("hf_pretext.finetuning.chain.report_of_model", _report_as_it_lies_there),
        check_chain,
    ),
    "numbers are written as the type of their column has them": (
        lambda: patched("hf_pretext.forms.record.as_text", lambda value: "" if is_missing(value) else str(value)),
        check_numbers,
    ),
    "texts are hidden at the epsilon of presence": (
        lambda: patched("hf_pretext.privacy.mechanism.Mechanism.for_exchange", lambda self: self),
        check_hidden_texts,
    ),
}
"""What may go wrong: how to make it so, and the check that has to fail then."""

CHECKS = (check_rows, check_chain, check_hidden_texts, check_numbers)
