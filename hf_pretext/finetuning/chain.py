"""The guarantee of a model: that of everything that it was ever trained on, as far as that can be named.

A report of a model names its weights. A model of the recipes that has none, or whose weights are others, has no known
guarantee, and neither has any model that is finetuned from it. Pretraining is not part of the chain: a model that no
recipe made counts as public, and its card says so.
"""

import hashlib
import logging
import math
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..artifacts import (
    ADAPTER_CONFIG_NAME,
    LOCAL_TRACES,
    MODEL_CONFIG_NAME,
    REPORT_NAME,
    TRAINED_ON,
    TRAINING_NAME,
)
from ..coverage import texts_of
from ..files import read_json
from ..hub import fetch_folder, is_repository
from ..models.checkpoints import Adapter, base_of
from ..models.components import written_by
from ..models.loading import cached_commits, held_model, without_revision
from ..models.packaged import PACKAGED
from ..privacy.report import PrivacyReport
from ..processes import broadcast
from .texts import TrainingTexts

if TYPE_CHECKING:
    from ..runs.run import Run

logger = logging.getLogger(__name__)

WEIGHTS = "*.safetensors"
OTHER_WEIGHTS = ("pytorch_model*", "adapter_model.bin")
"""Weights that may be loaded in the place of those that a digest is about."""

TRACES = (REPORT_NAME, TRAINING_NAME, ADAPTER_CONFIG_NAME)
"""Files by which a repository shows what a model was trained on before."""

TRAINER_FILE = "training_args.bin"
"""What `Trainer.save_model` leaves beside weights, also beside those of many public models."""


class UnknownTrainingError(ValueError):
    """A model was trained on something whose guarantee is not known."""


def digest_of_weights(folder: Path) -> str | None:
    """Compute the digest (SHA-256) of all weights in a folder. None if they are not all in safetensors."""
    files = sorted(folder.glob(WEIGHTS))
    if not files or any(any(folder.glob(pattern)) for pattern in OTHER_WEIGHTS):
        return None
    digest = hashlib.sha256()
    for path in files:
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
    if report.weights_digest is None or report.weights_digest != digest_of_weights(folder):
        logger.warning(
            "The privacy report in %r is not about the weights beside it, so no guarantee is claimed for them. "
            "Finetune the model again with the recipes, or restore its files.",
            str(folder),
        )
        return None
    return report


def report_of_model_to_be(
    texts: TrainingTexts,
    base_model: str,
    revision: str | None = None,
    base_is_public: bool = False,
) -> PrivacyReport | None:
    """Add up what is guaranteed for a model that is about to be finetuned: its base, a first stage, and its texts.

    Args:
        texts (`TrainingTexts`):
            What it will be trained on. Public texts among them, or before them, are public by the word of whoever
            trains, and the card says so. If a report comes with them, such as that of the run that chose them, it has
            to cover them, and counts as well.
        base_model (`str`): Name of the model that is finetuned.
        revision (`str`, *optional*): Its revision.
        base_is_public (`bool`, *optional*, defaults to `False`):
            Whether you vouch for it that the base model was not trained on texts of the clients, if this cannot be
            looked up.

    Returns:
        `PrivacyReport`: The sum. None, with a warning, if the guarantee of any training is not known.
    """
    if texts.report is None:
        return None
    reports = [texts.report]
    try:
        for public in (texts.first_stage, texts.public):
            if public is not None and public.report is not None:
                reports.append(public.report)
            elif public is not None and public.is_derived:
                raise UnknownTrainingError("`public_dataset` has rows of a run, but no report covers all of its rows.")
        reports += _reports_of_base(base_model, revision, base_is_public)
    except UnknownTrainingError as error:
        logger.warning("No guarantee is known for the finetuned model. %s", error)
        return None
    return PrivacyReport.of_several(reports)


def reports_of_writer(name: str | None, model: Any = None) -> list[PrivacyReport] | None:
    """Find the guarantees of what a model learned before it wrote texts for a run.

    Only what can be looked up counts: pretraining is public. If the Hub cannot be asked about a model, its files in
    the cache are, and a warning says that they need not be all. A loaded model with an adapter in its layers has the
    name of its base, by which the adapter cannot be looked up.

    Args:
        name (`str`, *optional*): Folder or repository of the model.
        model (`Any`, *optional*): What was given as the model: its name, or a loaded object.

    Returns:
        `list` of `PrivacyReport`: They are added to that of the run. None, with a warning, if the model was finetuned
        on texts whose guarantee is not known.
    """
    from transformers import PreTrainedModel

    otherwise = "No guarantee is claimed for what `expansion_model` writes."
    held = held_model(written_by(model))
    if has_adapter(held):
        logger.warning(
            "%s It was given as an object with an adapter in it, which has no name. Give the folder or repository of "
            "the adapter instead.",
            otherwise,
        )
        return None
    if isinstance(held, PreTrainedModel) and TRAINED_ON in vars(held.config):
        logger.warning("%s It was given as an object that was trained on texts of a run.", otherwise)
        return None
    is_loaded, revision = isinstance(held, PreTrainedModel), without_revision(model)[1]
    return reports_of_base(name, otherwise, is_loaded, revision)


def reports_of_base(
    name: str | None, otherwise: str = "No guarantee is known.", is_loaded: bool = False, revision: str | None = None
) -> list[PrivacyReport] | None:
    """Find the guarantees of what a model learned before, by its name. See `reports_of_writer`.

    Args:
        name (`str`, *optional*): Folder or repository of the model.
        otherwise (`str`, *optional*): What to warn of if a guarantee is not known.
        is_loaded (`bool`, *optional*, defaults to `False`):
            Whether it was given as an object, which does not say what commit it is of. Then all commits of the
            repository that are in the cache count.
        revision (`str`, *optional*): Its revision, `"main"` by default.
    """
    try:
        if not name:
            return []
        reports = _reports_of_base(name, revision, is_public=True)
        for commit in cached_commits(name) if is_loaded and is_repository(name) else ():
            reports += [each for each in _reports_of_base(name, commit, is_public=True) if each not in reports]
        return reports
    except (FileNotFoundError, UnknownTrainingError) as error:
        # Also if the Hub lists the files that say so, and does not give them.
        logger.warning("%s %s", otherwise, error)
        return None


def with_writer(report: PrivacyReport, earlier: Sequence[PrivacyReport] | None) -> PrivacyReport:
    """Add to the report of a run what the model that writes its texts learned before, as `reports_of_writer` found."""
    if earlier is None:
        return replace(report, epsilon=math.inf, exchange_epsilon=math.inf)
    return PrivacyReport.of_several([report, *earlier]) if earlier else report


def reports_of_run(run: "Run", now: list[PrivacyReport] | None, wrote_candidates: bool) -> list[PrivacyReport] | None:
    """Add what an earlier model had learned that wrote candidates of a run, if another one continues the run.

    The seeds hold what it wrote, whichever model expands them.

    Args:
        run (`Run`): Keeps the reports of the model that it began with.
        now (`list` of `PrivacyReport`, *optional*): Those of the model that there is now. See `reports_of_writer`.
        wrote_candidates (`bool`): Whether the model writes or varies the candidates of the run.

    Returns:
        `list` of `PrivacyReport`: Those of both. None if the guarantee of one of them is not known.
    """
    if not wrote_candidates:
        return now
    now = broadcast(now)
    kept = run.kept("writer", _are_reports_of_a_writer)
    if kept is None and now != []:  # Of a public model there is nothing to keep.
        reports = None if now is None else [each.to_dict() for each in now]
        run.keep("writer", _are_reports_of_a_writer, lambda: {"reports": reports})
    if kept is None or now is None:
        return now
    earlier = kept["reports"]
    return None if earlier is None else [*now, *map(PrivacyReport.from_dict, earlier)]


def _are_reports_of_a_writer(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("reports", 0), list | None)


def has_adapter(model: Any) -> bool:
    """Return whether a loaded model has an adapter in its layers. If PEFT was never imported, none has."""
    peft = sys.modules.get("peft.tuners.tuners_utils")
    if peft is None:
        return False
    from torch.nn import Module

    return isinstance(model, Module) and any(isinstance(each, peft.BaseTunerLayer) for each in model.modules())


def _reports_of_base(
    base_model: str, revision: str | None, is_public: bool, adapters: tuple[str, ...] = ()
) -> list[PrivacyReport]:
    """Find the reports of a base model, which has none if it is public.

    Raises:
        UnknownTrainingError: It was finetuned before, and the guarantee of that is not known.
    """
    if base_model in PACKAGED:
        return []
    if base_model in adapters:
        raise UnknownTrainingError(f"The adapter {base_model!r} names itself as its base model.")
    if not Path(base_model).is_dir() and not _is_listed(base_model, revision):
        if is_public:
            _check_cache(base_model, revision)
            return []
        raise UnknownTrainingError(
            f"Whether `model_name_or_path`={base_model!r} was finetuned before cannot be looked up on the Hub. Go "
            "online, or say `base_is_public=True` if it never saw text of the clients."
        )
    folder = fetch_folder(base_model, [*TRACES, MODEL_CONFIG_NAME], revision, repo_type="model")
    own = LOCAL_TRACES if Path(base_model).is_dir() else (REPORT_NAME, TRAINING_NAME)
    is_adapter = (folder / ADAPTER_CONFIG_NAME).is_file()
    if not any((folder / name).is_file() for name in own):
        _check_untraced(base_model, folder, is_public)
        # An adapter that no recipe made, of a model that a recipe may have made.
        above = (*adapters, base_model)
        return _reports_of_base(*_base_of(folder), is_public, above) if is_adapter else []
    report = report_of_model(fetch_folder(base_model, [*TRACES, WEIGHTS], revision, repo_type="model"))
    if report is None:
        raise UnknownTrainingError(
            f"The model {base_model!r} was finetuned before, on texts whose guarantee is not known. Begin with its "
            "own base model."
        )
    # The base that lies there now may be another one than that of its training.
    above = (*adapters, base_model)
    return [report, *(_reports_of_base(*_base_of(folder), True, above) if is_adapter else ())]


def check_is_whole(base_model: str, revision: str | None = None) -> None:
    """Refuse to finetune an adapter, which a trainer does not load with its base.

    Raises:
        ValueError: It is one.
    """
    adapter = Adapter.find(base_model, revision)
    if adapter is not None:
        raise ValueError(
            f"`model_name_or_path`={base_model!r} is an adapter of {adapter.base!r}, and a trainer begins with a "
            "whole model. Give the base model. To learn from the texts of several runs, join them "
            "(`datasets.concatenate_datasets`). Their guarantees are added up."
        )


def _check_untraced(base_model: str, folder: Path, is_public: bool) -> None:
    """Look for other signs that a model without a report was trained.

    Raises:
        UnknownTrainingError: There is one.
    """
    if _says_trained(folder):
        raise UnknownTrainingError(
            f"The model {base_model!r} was trained on texts of a run ({TRAINED_ON} in its configuration), and no "
            "report names its weights. The recipes write one."
        )
    if not is_public and Path(base_model).is_dir() and (folder / TRAINER_FILE).is_file():
        raise UnknownTrainingError(
            f"`model_name_or_path`={base_model!r} was saved by a trainer ({TRAINER_FILE}), and on what is not "
            "known. Say `base_is_public=True` if it never saw text of the clients."
        )


def _check_cache(repo_id: str, revision: str | None) -> None:
    """Look for traces of a training in the cache, in the place of a Hub that cannot be asked.

    Raises:
        UnknownTrainingError: There are some.
    """
    from huggingface_hub import try_to_load_from_cache

    for name in (*TRACES, MODEL_CONFIG_NAME) if is_repository(repo_id) else ():
        cached = try_to_load_from_cache(repo_id, name, revision=revision)
        if isinstance(cached, str) and (name in TRACES or _says_trained(Path(cached).parent)):
            raise UnknownTrainingError(
                f"The model {repo_id!r} was finetuned before: its {name} is in the cache. Whether a guarantee is "
                "known of that cannot be looked up on the Hub. Go online."
            )
    logger.warning(
        "Whether %r was finetuned before cannot be looked up on the Hub. It counts as a public model that knows "
        "nothing of the clients. Go online if you are not sure.",
        repo_id,
    )


def _is_listed(repo_id: str, revision: str | None) -> bool:
    """Return whether the Hub says which files a repository has. A cache may lack those that count here."""
    from huggingface_hub import HfApi

    try:
        return bool(HfApi().list_repo_files(repo_id, revision=revision))
    except Exception as error:  # The client's transport has its own exceptions.
        logger.info("The files of %s cannot be listed: %s", repo_id, error)
        return False


def _says_trained(folder: Path) -> bool:
    file = folder / MODEL_CONFIG_NAME
    return file.is_file() and TRAINED_ON in read_json(file)


def _base_of(folder: Path) -> tuple[str, str | None]:
    try:
        return base_of(folder)
    except ValueError as error:
        raise UnknownTrainingError(str(error)) from None


def origin_of(
    texts: TrainingTexts, base_model: str, report: PrivacyReport | None, revision: str | None = None
) -> dict[str, Any]:
    """Describe what a training began with, for its checkpoints."""

    def digest(of: TrainingTexts) -> str:
        return texts_of(of.train, columns=of.train.column_names).digest

    return {
        "base_model": base_model,
        **({} if revision in (None, "main") else {"base_revision": revision}),
        **({} if texts.first_stage is None else {"first_stage": digest(texts.first_stage)}),
        "texts": digest(texts),
        "releases": None if report is None else sorted(report.release_ids),
    }
