"""The guarantee of a model: that of everything that it was ever trained on, as far as that can be named.

A report of a model names its weights. A model of the recipes that has none, or whose weights are others, has no known
guarantee, and neither has any model that is finetuned from it. Pretraining is not part of the chain: a model that no
recipe made counts as public, and its card says so.
"""

import hashlib
import logging
from pathlib import Path

from ..artifacts import REPORT_NAME, TRAINING_NAME
from ..hub import fetch_folder
from ..models.packaged import PACKAGED
from ..privacy.report import PrivacyReport
from .texts import TrainingTexts

logger = logging.getLogger(__name__)

WEIGHTS = "*.safetensors"


def digest_of_weights(folder: Path) -> str:
    """Compute the digest (SHA-256) of all weights in a folder."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob(WEIGHTS)):
        of_file = hashlib.sha256()
        with path.open("rb") as file:
            while part := file.read(2**24):
                of_file.update(part)
        digest.update(of_file.digest())
    return digest.hexdigest()


def report_of_model(folder: Path) -> PrivacyReport | None:
    """Read the guarantee of a finetuned model from its folder. None, with a warning, if its weights are others."""
    if not (folder / REPORT_NAME).is_file():
        return None
    report = PrivacyReport.from_pretrained(folder)
    if report.weights_digest != digest_of_weights(folder):
        logger.warning(
            "The privacy report in %r is not about the weights beside it, so no guarantee is claimed for them. "
            "Finetune the model again with the recipes, or restore its files.",
            str(folder),
        )
        return None
    return report


def report_of_model_to_be(
    texts: TrainingTexts, base_model: str, revision: str | None = None, first_stage: TrainingTexts | None = None
) -> PrivacyReport | None:
    """Add up what is guaranteed for a model that is about to be finetuned: its base, a first stage, and its texts.

    Args:
        texts (`TrainingTexts`): What it will be trained on.
        base_model (`str`): Name of the model that is finetuned.
        revision (`str`, *optional*): Its revision.
        first_stage (`TrainingTexts`, *optional*): Public texts that it is trained on first. If they are known to be
            synthetic, their report counts.

    Returns:
        `PrivacyReport`: The sum. None, with a warning, if the guarantee of any training is not known.
    """
    reports = [each.report for each in (texts, first_stage) if each is not None and each.report is not None]
    if texts.report is None:
        return None
    folder = _folder_of_base(base_model, revision)
    if folder is not None:
        earlier = report_of_model(folder)
        if earlier is None:
            logger.warning(
                "`model_name_or_path`=%r was finetuned before, on texts whose guarantee is not known. So nothing is "
                "known for a model that is finetuned from it. Begin with its own base model.",
                base_model,
            )
            return None
        reports.append(earlier)
    return PrivacyReport.of_several(reports)


def _folder_of_base(base_model: str, revision: str | None) -> Path | None:
    """Return the folder of a base model that was finetuned before, by what lies beside its weights, or None."""
    if base_model in PACKAGED:
        return None
    try:
        folder = fetch_folder(base_model, [REPORT_NAME, TRAINING_NAME], revision, repo_type="model")
        if not any((folder / name).is_file() for name in (REPORT_NAME, TRAINING_NAME)):
            return None
        return fetch_folder(base_model, [REPORT_NAME, TRAINING_NAME, WEIGHTS], revision, repo_type="model")
    except FileNotFoundError:
        logger.warning(
            "Whether `model_name_or_path`=%r was finetuned before could not be determined. It counts as public.",
            base_model,
        )
        return None
