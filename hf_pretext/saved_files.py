"""The files of a saved run that are read back: seeds, texts, token counts and evidence, and the digest of them."""

import hashlib
import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .artifacts import (
    CONFIG_NAME,
    EVIDENCE_NAME,
    LEDGER_NAME,
    MODELS_NAME,
    REPORT_NAME,
    RUN_FOLDER,
    SEEDS_FILE,
    SEEDS_NAME,
    SELECTION_NAME,
    TOKENS_NAME,
)
from .configuration import PrivateEvolutionConfig
from .coverage import report_of_rows
from .data import make_dataset
from .data.labels import class_labels
from .evolution.kept_evidence import RunEvidence
from .evolution.token_answer import TokenAnswer
from .files import read_json
from .privacy.report import PrivacyReport

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger(__name__)


NEEDED = (CONFIG_NAME, REPORT_NAME, MODELS_NAME)
"""Files without which nothing can be said of a run."""


def check_has_run(folder: Path, name: str | Path) -> None:
    """Raise a `FileNotFoundError` if a folder, or what was fetched of the repository `name`, is not a saved run."""
    missing = [each for each in NEEDED if not (folder / each).is_file()]
    if not missing:
        return
    hint = "It was written half, or is something else. Save the run again: `save_pretrained`."
    if (folder / LEDGER_NAME).is_file():
        hint = (
            "It is the folder in which a run survives (`run_dir`). Give the folder of its results, "
            f"{'which is the one above it' if folder.name == RUN_FOLDER else 'which `save_pretrained` writes'}."
        )
    elif (folder / SELECTION_NAME).is_file():
        hint = "It holds public texts that a run has chosen. Give the folder of that run."
    raise FileNotFoundError(f"The saved run {str(name)!r} lacks {', '.join(missing)}. {hint}")


def read_seeds(folder: Path, config: PrivateEvolutionConfig) -> "Dataset | None":
    """Read the seeds of a local folder or of a repository, with the names of their labels."""
    if (folder / SEEDS_FILE).is_file():
        import pyarrow.parquet

        rows = pyarrow.parquet.read_table(folder / SEEDS_FILE).to_pylist()
        return make_dataset(rows, class_labels(config))
    if not (folder / SEEDS_NAME).is_file():
        return None
    # Not `splitlines`: a text may hold other characters that end a line.
    lines = (folder / SEEDS_NAME).read_text(encoding="utf-8").split("\n")
    return make_dataset([json.loads(line) for line in lines if line], class_labels(config))


def read_texts(folder: Path, report: PrivacyReport) -> "Dataset | None":
    """Read the synthetic texts of a local folder. Texts that someone else put there are not this run's."""
    if not (folder / "state.json").is_file():
        return None
    from datasets import load_from_disk

    synthetic = load_from_disk(str(folder), keep_in_memory=True)
    covered = report_of_rows(synthetic, [folder])
    is_own = covered is not None and report.covers(covered) and set(synthetic.column_names) == set(report.columns)
    return synthetic if is_own else None


def read_tokens(folder: Path) -> TokenAnswer | None:
    """Read the token counts of a saved run, if it has any. What cannot be read is not this run's."""
    path = folder / TOKENS_NAME
    try:
        return TokenAnswer.from_dict(read_json(path)) if path.is_file() else None
    except ValueError as error:
        logger.warning("%r is not what hf_pretext writes (%s), so it is not read.", str(path), error)
        return None


def read_evidence(folder: Path) -> RunEvidence | None:
    """Read what the releases of a saved run say of any text. What cannot be read is not this run's."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    path = folder / EVIDENCE_NAME
    try:
        return RunEvidence.from_arrays(load_file(path)) if path.is_file() else None
    except (ValueError, SafetensorError) as error:
        logger.warning("%r is not what hf_pretext writes (%s), so it is not read.", str(path), error)
        return None


def write_evidence(folder: Path, evidence: RunEvidence | None) -> None:
    """Write what the releases say of any text, unless a question of the caller is part of it."""
    from safetensors.numpy import save_file

    arrays = evidence.to_arrays() if evidence is not None else None
    if arrays is not None:
        save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, folder / EVIDENCE_NAME)


def digest_of_seeds(seeds: "Dataset", answer: TokenAnswer | None = None, evidence: RunEvidence | None = None) -> str:
    """Compute the digest of seeds with all of their columns, since their votes decide which texts are written.

    So do the token counts and the evidence that belong to them, if there are any.
    """
    from datasets import ClassLabel

    # By their names, since the settings number the labels.
    labels = {name: each for name, each in seeds.features.items() if isinstance(each, ClassLabel)}
    rows = hashlib.sha256()
    for seed in seeds:
        seed |= {name: each.names[seed[name]] for name, each in labels.items()}
        rows.update(json.dumps(seed, sort_keys=True).encode() + b"\n")
    if answer is not None:
        rows.update(json.dumps(answer.to_dict(), sort_keys=True).encode() + b"\n")
    for name, array in sorted(((evidence.to_arrays() if evidence is not None else None) or {}).items()):
        rows.update(f"{name} {array.dtype.str} {array.shape}\n".encode() + array.tobytes())
    return rows.hexdigest()
