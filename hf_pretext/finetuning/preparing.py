"""What is checked before a base model is loaded and trained: the guarantee, the folder, the checkpoint, the push."""

from pathlib import Path
from typing import Any, Protocol

from ..artifacts import CARD_NAME, FILES_OF_A_MODEL, ORIGIN_NAME, TRAINING_NAME
from ..files import check_is_free, check_is_writable
from ..hub import check_push
from ..privacy.report import PrivacyReport
from ..processes import is_main_process
from .chain import check_is_whole, report_of_model_to_be
from .texts import TrainingTexts


class SavesModel(Protocol):
    """What the arguments of a recipe say about the model that it saves, such as `FinetuningArguments`."""

    license: str | None
    allow_no_guarantee: bool
    base_is_public: bool


def prepare_training(
    arguments: SavesModel, training: Any, texts: TrainingTexts, base_model: str, revision: str | None
) -> tuple[PrivacyReport | None, dict[str, Any] | None]:
    """Find the guarantee of a model that is about to be finetuned, and refuse what can be refused before it is loaded.

    Args:
        arguments (`SavesModel`): What to do with the model.
        training (`transformers.TrainingArguments`): Loses `push_to_hub`, and gets the folder to resume from.
        texts (`TrainingTexts`): What it will be trained on.
        base_model (`str`): Name of the model that is finetuned.
        revision (`str`, *optional*): Its revision.

    Returns:
        `tuple` of a `PrivacyReport` and a `dict`: The guarantee, or None if there is none, and what `train_and_save`
        needs to push the model, or None if it is not to be pushed.

    Raises:
        ValueError: The folder, the base model, the checkpoint or the repository cannot be used.
        PermissionError: There is no token to push with.
        ConnectionError: The Hub does not say what is there.
    """
    report = report_of_model_to_be(texts, base_model, revision, arguments.base_is_public)
    check_output(training.output_dir)
    take_over_resume(training)
    check_is_whole(base_model, revision)
    return report, take_over_push(training, report, arguments)


def check_output(folder: str | Path) -> None:
    """Raise a `ValueError` if a folder cannot be written, or holds what saving a model would remove.

    That is another model's weights, for example. What a recipe left there is replaced: a finetuned model, or what a
    training that did not end left.
    """
    path = Path(folder)
    if not any(any(path.glob(name)) for name in (TRAINING_NAME, f"checkpoint-*/{ORIGIN_NAME}")):
        # A training that was killed before its first checkpoint leaves a card.
        own = {CARD_NAME, ORIGIN_NAME} if (path / ORIGIN_NAME).is_file() else set()
        check_is_free(path, [name for name in FILES_OF_A_MODEL if name not in own])
    if is_main_process():
        check_is_writable("output_dir", path)


def is_resumed(training: Any) -> bool:
    """Return whether a training resumes from a checkpoint. On a command line, "false" says that it does not."""
    return str(training.resume_from_checkpoint or False).lower() != "false"


def take_over_resume(training: Any) -> None:
    """Put the folder of a checkpoint into `resume_from_checkpoint`, or None. "true" on a command line is the last.

    Args:
        training (`transformers.TrainingArguments`): Says from where to resume.

    Raises:
        ValueError: There is no checkpoint.
    """
    from transformers.trainer_utils import get_last_checkpoint

    if not is_resumed(training):
        training.resume_from_checkpoint = None
        return
    asked = str(training.resume_from_checkpoint)
    output = Path(training.output_dir)
    found = asked if asked.lower() != "true" else get_last_checkpoint(str(output)) if output.is_dir() else None
    if found is None or not Path(found).is_dir():
        raise ValueError(
            f"`resume_from_checkpoint`={asked} finds no checkpoint in {training.output_dir!r}. Name the folder of "
            "one, or leave it out."
        )
    training.resume_from_checkpoint = found


def take_over_push(training: Any, report: PrivacyReport | None, arguments: SavesModel) -> dict[str, Any] | None:
    """Take the push over from a trainer, and check before hours of training whether it will be possible.

    A trainer would push file by file, with checkpoints and pickled arguments, and write a card of its own.

    Args:
        training (`transformers.TrainingArguments`): Loses `push_to_hub`. Name, token and privacy are read from it.
        report (`PrivacyReport`, *optional*): Guarantee of the model, from `prepare_training`.
        arguments (`SavesModel`): Say whether it may be pushed without one.

    Returns:
        `dict`: Arguments of `push_model` except the folder, or None if there is nothing to push.

    Raises:
        ValueError: The model will have no finite guarantee, or the repository has no name or holds something else.
        PermissionError: There is no token.
        ConnectionError: The Hub does not say what is there.
    """
    if not training.push_to_hub:
        return None
    training.push_to_hub = False
    return check_push_of_model(
        training.hub_model_id,
        training.hub_token,
        report,
        private=training.hub_private_repo,
        allow_no_guarantee=arguments.allow_no_guarantee,
    )


def check_push_of_model(
    repo_id: str | None,
    token: str | None,
    report: PrivacyReport | None,
    *,
    private: bool | None = None,
    allow_no_guarantee: bool,
) -> dict[str, Any]:
    """Return where to push a model, as arguments of `push_model`, if it will be possible.

    Args:
        repo_id (`str`, *optional*): Name of the repository.
        token (`str`, *optional*): Token of the Hub, by default the one that you logged in with.
        report (`PrivacyReport`, *optional*): Guarantee of the model.
        private (`bool`, *optional*): Whether the repository is private. See `hub.push_folder`.
        allow_no_guarantee (`bool`): Whether it may be pushed without one.

    Raises:
        ValueError: There is no name, no finite guarantee, or the repository holds something else.
        PermissionError: There is no token.
        ConnectionError: The Hub does not say what is there.
    """
    if repo_id is None:
        raise ValueError(
            "`hub_model_id`=None: `push_to_hub` needs the name of a repository, such as 'me/jobs-adapter'."
        )
    options: dict[str, Any] = {"private": private, "token": token, "allow_no_guarantee": allow_no_guarantee}
    check_push(repo_id, "model", report, **options)
    return {"repo_id": repo_id, **options}
