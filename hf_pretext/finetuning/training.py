"""Training on synthetic texts: the guarantee in the logs, the model with its card in a folder, and its push."""

import logging
import shutil
import tempfile
import time
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback

from ..artifacts import (
    ADAPTER_CONFIG_NAME,
    FILES_OF_A_MODEL,
    ORIGIN_NAME,
    PICTURE_NAME,
    TRAINED_ON,
    TRAINING_NAME,
)
from ..files import atomic_folder, read_json, write_json
from ..hub import check_guarantee, find_privacy_report
from ..models.components import ModelSource
from ..models.packaged import PACKAGED
from ..privacy.report import PrivacyReport
from ..processes import broadcast, is_main_process
from .chain import digest_of_weights, has_adapter, origin_of, reports_of_base, with_writer
from .commands import command
from .models import push_model, write_card_of_report
from .preparing import SavesModel, take_over_resume
from .texts import PublicPart, TrainingTexts, public_name

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger(__name__)

LIBRARIES = ("hf_pretext", "transformers", "trl", "peft", "accelerate", "datasets", "torch")


class GuaranteeCallback(TrainerCallback):
    """Logs epsilon and delta of the training texts with the other figures, wherever the trainer logs.

    What the base model learned before is looked up by its name, and added. A model that does not begin as its name
    says has no known guarantee: one that is resumed from a checkpoint, or whose LoRA adapter was trained before. Each
    text has to be among those that a report names. A dataset of tokens holds no texts that could be looked up. Then
    `texts` is looked up, and that the trainer trains on these texts is for you to see to.

    The model's configuration notes that it was trained on texts of a run. So whoever generates with it, or finetunes
    it, is told that its guarantee is not known. The report of a model of the recipes says what it is.

    Args:
        trainer (`transformers.Trainer`): The trainer.
        texts (`datasets.Dataset`, *optional*):
            The texts, in the column `text`, as a generator returned them or as they were derived from such. By default
            `trainer.train_dataset`.
        source (`str` or `Path`, *optional*): Folder or repository of the Hub that they were loaded from.
    """

    def __init__(self, trainer: Any, texts: "Dataset | None" = None, source: str | Path | None = None) -> None:
        if isinstance(texts, PrivacyReport):
            raise TypeError("`texts` is a privacy report, which cannot tell what is trained on. Give the dataset.")
        self._trainer = trainer
        self._texts = texts
        self._source = source

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        """Log the guarantee once, at the beginning, or a warning if there is none."""
        report = _report_of_training(self._trainer.train_dataset, self._texts, self._source)
        has_name = hasattr(model, "config")
        if report is not None and has_name:
            if state.global_step > 0 or _is_trained(model, report):
                logger.warning(
                    "The training does not begin with the model as its name says, so what it saw is unknown."
                )
                report = None
            else:
                # The name of a model with adapters is that of its base. The adapters are what is trained.
                report = with_writer(report, reports_of_base(model.config.name_or_path, is_loaded=True))
        if has_name:
            setattr(model.config, TRAINED_ON, [] if report is None else sorted(report.release_ids))
        log_guarantee(self._trainer, report)


def _is_trained(model: Any, report: PrivacyReport) -> bool:
    """Return whether a model learned from other texts after it was loaded, as far as it shows."""
    before = vars(model.config).get(TRAINED_ON)
    if before is not None and not (before and set(before) <= set(report.release_ids)):
        return True
    # A fresh adapter of LoRA changes nothing, as its second matrix is zero.
    return has_adapter(model) and any(
        bool(weights.any()) for name, weights in model.named_parameters() if ".lora_B." in name
    )


def log_guarantee(trainer: Any, report: PrivacyReport | None) -> None:
    """Log epsilon and delta, or a warning if there is no finite guarantee."""
    if report is None or not report.is_finite:
        logger.warning(
            "No finite privacy guarantee is known for the training texts. Train on a dataset that a generator "
            "returned, or that was derived from such. If it holds tokens, give its texts to `GuaranteeCallback`."
        )
        return
    logger.info("%s", report.guarantee)
    trainer.log({"privacy_epsilon": report.epsilon, "privacy_delta": report.delta})


def _report_of_training(trained_on: Any, texts: Any, source: str | Path | None) -> PrivacyReport | None:
    from datasets import Dataset

    looked_up = [each for each in (trained_on, texts) if isinstance(each, Dataset) and _columns_of_strings(each)]
    reports = [find_privacy_report(each, source) for each in looked_up]
    # One column of strings that no report covers, such as the answers to prompts, and there is no guarantee.
    found = [
        report
        for each, report in zip(looked_up, reports, strict=True)
        if report is not None and _columns_of_strings(each) <= set(report.columns)
    ]
    return PrivacyReport.of_several(found) if found and len(found) == len(reports) else None


def _columns_of_strings(dataset: "Dataset") -> set[str]:
    return {name for name, feature in dataset.features.items() if _has_strings(feature)}


def _has_strings(feature: Any) -> bool:
    """Return whether a column holds strings, also in lists and dictionaries, or what may hold some."""
    if isinstance(feature, (list, dict)):
        return any(map(_has_strings, feature.values() if isinstance(feature, dict) else feature))
    return any(kind in repr(feature) for kind in ("string", "binary", "Json("))


class _TrainingCallback(TrainerCallback):
    """Logs the guarantee of a recipe's training, and writes down what it began with, also into each checkpoint."""

    def __init__(self, trainer: Any, origin: dict[str, Any], report: PrivacyReport | None) -> None:
        self._trainer = trainer
        self._origin = origin
        self._report = report

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        # Earlier, the state that keeps the log and the folders of the trackers do not exist.
        log_guarantee(self._trainer, self._report)
        output = Path(args.output_dir)
        # TRL writes a card there before the first checkpoint is whole. If the process is killed then, `check_output`
        # knows the folder by this file. Of a finished model it says what that model began with, so it stays.
        if is_main_process() and not (output / TRAINING_NAME).is_file():
            output.mkdir(parents=True, exist_ok=True)
            write_json(output / ORIGIN_NAME, self._origin)

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        if is_main_process() and folder.is_dir():
            write_json(folder / ORIGIN_NAME, self._origin)


def _is_continued(checkpoint: str | None, origin: dict[str, Any]) -> bool:
    """Return whether a training that is resumed began with the same base, texts and guarantee."""
    if checkpoint is None:
        return True
    file = Path(checkpoint) / ORIGIN_NAME
    return file.is_file() and read_json(file) == origin


def train_and_save(
    trainer: Any,
    texts: TrainingTexts,
    arguments: SavesModel,
    base_model: str,
    report: PrivacyReport | None,
    push: dict[str, Any] | None = None,
    revision: str | None = None,
    preferences: Mapping[str, Any] | None = None,
) -> None:
    """Train, save the model with its card, and push it.

    Args:
        trainer (`transformers.Trainer`): The trainer, such as TRL's `SFTTrainer`.
        texts (`TrainingTexts`): What it trains on.
        arguments (`SavesModel`): License of the model.
        base_model (`str`): Name of the model that is finetuned.
        report (`PrivacyReport`, *optional*): Guarantee of the model, from `prepare_training`.
        push (`dict`, *optional*): What `prepare_training` returned.
        revision (`str`, *optional*): Revision of the model that is finetuned, `"main"` by default.
        preferences (`Mapping[str, Any]`, *optional*): If it learns from pairs, how they were made, for its card.
    """
    take_over_resume(trainer.args)
    origin = origin_of(texts, base_model, report, revision)
    resume = trainer.args.resume_from_checkpoint
    # The main process writes the origin. On another machine, a checkpoint may lie there without it.
    if not broadcast(_is_continued(resume, origin)):
        logger.warning("The checkpoint was trained on other texts, so no guarantee is known. Begin anew without it.")
        # Nor has a training that resumes from a checkpoint of this one.
        report = origin["releases"] = None
        check_guarantee(report, push is None or push["allow_no_guarantee"])
    trainer.add_callback(_TrainingCallback(trainer, origin, report))
    started = time.perf_counter()
    trainer.train(resume_from_checkpoint=resume)
    seconds = time.perf_counter() - started
    validation_loss = trainer.evaluate()["eval_loss"]
    output = Path(trainer.args.output_dir)
    # All processes save, since each may hold a part of the weights. Only the main one writes.
    own = atomic_folder(output, replaces=FILES_OF_A_MODEL)
    with own if is_main_process() else tempfile.TemporaryDirectory() as scratch:
        trainer.save_model(str(scratch))
        if is_main_process():
            facts = training_facts(trainer, texts, arguments, base_model, validation_loss, seconds, revision)
            if preferences is not None:
                facts["learns_from_pairs"], facts["settings"] = True, {**preferences, **facts["settings"]}
            _write_beside(Path(scratch), facts, texts, origin, report)
    if is_main_process():
        print(f"The model and its card are in {output}/.")
        if push:
            print(f"Pushed to {push_model(output, **push)}.")


def training_facts(
    trainer: Any,
    texts: TrainingTexts,
    arguments: SavesModel,
    base_model: str,
    validation_loss: float,
    seconds: float,
    revision: str | None = None,
) -> dict[str, Any]:
    """Collect what the card of a finetuned model says about its training."""
    args, model, first = trainer.args, trainer.model, texts.first_stage
    adapters: dict[str, Any] = getattr(model, "peft_config", {})
    is_adapter = bool(adapters)
    settings: dict[str, Any] = {"steps": trainer.state.global_step, "epochs": args.num_train_epochs}
    settings |= {"learning rate": args.learning_rate, "schedule": str(args.lr_scheduler_type.value)}
    settings["sequences per step"] = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
    settings["longest sequence (tokens)"] = vars(args).get("max_length")
    if is_adapter:
        adapter = next(iter(adapters.values()))
        settings |= {"LoRA r": adapter.r, "LoRA alpha": adapter.lora_alpha}
        settings["LoRA modules"] = _targets(adapter)
    source = ModelSource.of(base_model, revision=revision)
    packaged = PACKAGED.get(base_model)
    is_on_hub = packaged is None and not Path(base_model).exists()
    return {
        "name": Path(args.output_dir).resolve().name,
        "is_adapter": is_adapter,
        "license": arguments.license,
        "base_model": public_name(base_model),
        "base_model_on_hub": packaged.hub_id if packaged else base_model if is_on_hub else None,
        "base_revision": source.revision,
        "dataset": texts.name,
        "dataset_on_hub": texts.hub_id,
        "dataset_revision": texts.revision,
        "has_picture": texts.picture is not None,
        "num_texts": texts.num_synthetic,
        "is_selected": texts.is_selected,
        "num_validation_texts": len(texts.validation),
        **({} if texts.public is None else {"public": _facts_of(texts.public, texts.public.num_texts)}),
        **({} if first is None else {"first_stage": _facts_of(first, len(first.train))}),
        "settings": settings,
        "validation_loss": validation_loss,
        "num_processes": args.world_size,
        "seconds": round(seconds, 1),
        "versions": ", ".join(f"{name} {metadata.version(name)}" for name in LIBRARIES if _is_installed(name)),
        "command": command(),
    }


def _targets(adapter: Any) -> str:
    """Name what an adapter changes: by a regular expression, by names, or where it names parameters, by those."""
    targets = adapter.target_modules or adapter.target_parameters or ()
    return targets if isinstance(targets, str) else ", ".join(sorted(targets))


def _facts_of(public: PublicPart | TrainingTexts, number: int) -> dict[str, Any]:
    """Return what the card says of public texts that were mixed in, or that came before."""
    about = {"name": public.name, "revision": public.revision, "num_texts": number}
    return {**about, "has_report": public.report is not None, "is_selected": public.is_selected}


def _write_beside(
    folder: Path, facts: dict[str, Any], texts: TrainingTexts, origin: dict[str, Any], report: PrivacyReport | None
) -> None:
    """Write what goes with the weights into their folder."""
    adapter_config, base_model = folder / ADAPTER_CONFIG_NAME, origin["base_model"]
    if "base_revision" in origin:
        # A branch may move on.
        origin["base_revision"] = facts["base_revision"] or origin["base_revision"]
    if Path(base_model).is_dir():
        # Whoever loads the model again may be in another folder.
        origin["base_model"] = str(Path(base_model).absolute())
    if (base_model in PACKAGED or Path(base_model).is_dir()) and adapter_config.is_file():
        # PEFT wrote down where on this machine the packaged model was unpacked, or a path from this folder.
        values = read_json(adapter_config)
        values["base_model_name_or_path"] = origin["base_model"]
        write_json(adapter_config, values)
    elif "base_revision" in origin and adapter_config.is_file():
        # Else whoever loads the adapter puts it on the weights of `main`.
        write_json(adapter_config, {**read_json(adapter_config), "revision": origin["base_revision"]})
    write_json(folder / ORIGIN_NAME, origin)
    # A trainer writes its arguments pickled. No one is to unpickle them.
    (folder / "training_args.bin").unlink(missing_ok=True)
    write_json(folder / TRAINING_NAME, facts)
    digest = digest_of_weights(folder)
    if report is not None and digest is None:
        logger.warning("The weights are not in safetensors, so no report can name them, and none is written.")
    named = report.about_weights(digest) if report is not None and digest is not None else None
    if named is not None:
        named.save_pretrained(folder)
    if texts.picture is not None:
        shutil.copyfile(texts.picture, folder / PICTURE_NAME)
    write_card_of_report(folder, named)


def _is_installed(name: str) -> bool:
    try:
        return bool(metadata.version(name))
    except metadata.PackageNotFoundError:
        return False
