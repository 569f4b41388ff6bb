"""What every finetuning on synthetic texts shares: reading them, logging their guarantee, and saving with a card.

The recipes build a trainer around it; `trl` and `peft` are their business. A training script of your own needs
`GuaranteeCallback` at least:

```python
trainer = Trainer(model, args, train_dataset=...)
trainer.add_callback(GuaranteeCallback(trainer, generator.privacy_report))
```
"""

import json
import logging
import os
import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback

from .cards import PICTURE_NAME, model_card
from .data import list_texts, read_texts
from .files import written_whole
from .hub import check_guarantee, check_token, fetch_folder, find_privacy_report, push_folder
from .models import ModelSource, resolve_device
from .packaged_models import PACKAGED, locate
from .privacy import REPORT_NAME, PrivacyReport
from .processes import is_main_process

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger(__name__)

TRAINING_NAME = "training.json"
FILES_OF_A_MODEL = (
    *("README.md", REPORT_NAME, PICTURE_NAME, "evaluation.*", TRAINING_NAME),
    *("*.safetensors", "*.safetensors.index.json", "adapter_config.json", "config.json", "generation_config.json"),
)
"""What must not stay in a folder when another model is saved there: above all not the guarantee of the older one."""

LIBRARIES = ("hf_pretext", "transformers", "trl", "peft", "accelerate", "datasets", "torch")


@dataclass
class FinetuningArguments:
    """What to finetune on. There is no test set among it: checkpoints are chosen on a part of the synthetic texts."""

    dataset: str = field(metadata={"help": "Synthetic texts: a dataset repository of the Hub, a folder or a file."})
    dataset_revision: str | None = field(default=None, metadata={"help": "Branch, tag or commit of the repository."})
    text_column: str = field(default="text", metadata={"help": "Column of texts."})
    validation_share: float = field(
        default=0.1,
        metadata={"help": "Share of the texts that the checkpoint is chosen by."},
    )
    license: str | None = field(default=None, metadata={"help": "Licence of the finetuned model, for its card."})
    allow_no_guarantee: bool = field(
        default=False, metadata={"help": "Push a model even if no finite guarantee of its texts is known."}
    )


@dataclass(frozen=True)
class TrainingTexts:
    """Synthetic texts, split for training, and what is guaranteed about them.

    Args:
        train (`datasets.Dataset`): Column `text`.
        validation (`datasets.Dataset`): Column `text`; for choosing a checkpoint.
        report (`PrivacyReport`, *optional*): The guarantee, where one is known.
        name (`str`): What to call the texts.
        hub_id (`str`, *optional*): Their repository on the Hub.
        revision (`str`, *optional*): Its commit.
        picture (`Path`, *optional*): The picture of the run that made them.
    """

    train: "Dataset"
    validation: "Dataset"
    report: PrivacyReport | None
    name: str
    hub_id: str | None = None
    revision: str | None = None
    picture: Path | None = None


def load_training_texts(arguments: FinetuningArguments, seed: int = 0) -> TrainingTexts:
    """Read synthetic texts, find their guarantee, and set a share of them aside for validation.

    Args:
        arguments (`FinetuningArguments`): Where they are.
        seed (`int`, *optional*, defaults to `0`): Seed of the split.

    Raises:
        FileNotFoundError: There is no such folder, file or repository.
        ValueError: There are fewer than two texts, a column is missing, or the share is not between 0 and 1.
    """
    if not 0 < arguments.validation_share < 1:
        raise ValueError(f"`validation_share`={arguments.validation_share} must lie strictly between 0 and 1.")
    name, column = arguments.dataset, arguments.text_column
    dataset = read_texts(name, column, revision=arguments.dataset_revision)
    texts = [text for text in list_texts(dataset, column, "dataset") if text.strip()]
    if len(texts) < 2:
        raise ValueError(f"`dataset`={name!r} holds {len(texts)} texts that are not blank; it needs at least 2.")
    report = find_privacy_report(dataset)
    hub_id = revision = picture = None
    if not Path(name).is_file():
        folder = fetch_folder(name, ["privacy_report.json", PICTURE_NAME], arguments.dataset_revision)
        report = report or find_privacy_report(folder)
        picture = folder / PICTURE_NAME if (folder / PICTURE_NAME).is_file() else None
        if not Path(name).exists():
            # The cache names a snapshot's folder after its commit.
            hub_id, revision = name, folder.name
    from datasets import Dataset

    # In memory, where a trainer's `map` leaves no files beside the data.
    split = Dataset.from_dict({"text": texts}).train_test_split(test_size=arguments.validation_share, seed=seed)
    return TrainingTexts(split["train"], split["test"], report, _public_name(name), hub_id, revision, picture)


class GuaranteeCallback(TrainerCallback):
    """Logs epsilon and delta of the training texts with the other figures, to wherever the trainer logs.

    Args:
        trainer (`transformers.Trainer`): The trainer.
        report (`PrivacyReport`, *optional*): The guarantee of the texts; a warning is logged where there is none.
    """

    def __init__(self, trainer: Any, report: PrivacyReport | None) -> None:
        self._trainer = trainer
        self._report = report

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """Log the guarantee once, at the beginning."""
        if self._report is None or not self._report.is_finite:
            logger.warning("No finite privacy guarantee is known for the training texts.")
            return
        logger.info("%s", self._report.guarantee)
        self._trainer.log({"privacy_epsilon": self._report.epsilon, "privacy_delta": self._report.delta})


def take_over_push(training: Any, texts: TrainingTexts, arguments: FinetuningArguments) -> dict[str, Any] | None:
    """Take the push out of a trainer's hands, and see before hours of training whether it will be possible.

    A trainer would push file by file, checkpoints and pickled arguments with them, and write a card of its own.

    Args:
        training (`transformers.TrainingArguments`): Loses `push_to_hub`; name, token and privacy are read from it.
        texts (`TrainingTexts`): Their guarantee decides whether the model may be pushed.
        arguments (`FinetuningArguments`): Say whether it may be pushed without one.

    Returns:
        `dict`: Arguments of `push_model` but for the folder, or None where there is nothing to push.

    Raises:
        ValueError: The texts have no finite guarantee.
        PermissionError: There is no token.
    """
    if not training.push_to_hub:
        return None
    training.push_to_hub = False
    check_guarantee(texts.report, arguments.allow_no_guarantee)
    target = check_push(training.hub_model_id, training.hub_token)
    return {
        **target,
        "private": training.hub_private_repo,
        "allow_no_guarantee": arguments.allow_no_guarantee,
    }


def check_push(repo_id: str | None, token: str | None) -> dict[str, Any]:
    """Return where to push, as arguments of `push_model`, if there is a name and a token for it.

    Raises:
        ValueError: There is no name.
        PermissionError: There is no token.
    """
    if repo_id is None:
        raise ValueError(
            "`hub_model_id`=None: `push_to_hub` needs the name of a repository, such as 'me/jobs-adapter'."
        )
    check_token(token, repo_id)
    return {"repo_id": repo_id, "token": token}


def train_and_save(
    trainer: Any,
    texts: TrainingTexts,
    arguments: FinetuningArguments,
    base_model: str,
    push: dict[str, Any] | None = None,
    first_stage: TrainingTexts | None = None,
) -> None:
    """Train, save the model with its card, and push it.

    Args:
        trainer (`transformers.Trainer`): The trainer, such as TRL's `SFTTrainer`.
        texts (`TrainingTexts`): What it trains on.
        arguments (`FinetuningArguments`): Licence of the model.
        base_model (`str`): Name of the model that is finetuned.
        push (`dict`, *optional*): What `take_over_push` returned.
        first_stage (`TrainingTexts`, *optional*): What the model was trained on just before.
    """
    trainer.add_callback(GuaranteeCallback(trainer, texts.report))
    started = time.perf_counter()
    trainer.train(resume_from_checkpoint=trainer.args.resume_from_checkpoint)
    seconds = time.perf_counter() - started
    validation_loss = trainer.evaluate()["eval_loss"]
    output = Path(trainer.args.output_dir)
    # All processes save, since each may hold a part of the weights, but the main one writes.
    own = written_whole(output, replaces=FILES_OF_A_MODEL)
    with own if is_main_process() else tempfile.TemporaryDirectory() as scratch:
        trainer.save_model(str(scratch))
        if is_main_process():
            facts = training_facts(trainer, texts, arguments, base_model, validation_loss, seconds)
            facts["earlier_guarantees"] = _earlier_guarantees(texts, base_model, first_stage)
            _write_beside(Path(scratch), facts, texts, base_model)
    if is_main_process():
        print(f"The model and its card are in {output}/.")
        if push:
            print(f"Pushed to {push_model(output, **push)}.")


def load_before_and_after(
    folder: Path, base_model: str | None = None, device: str | None = None
) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """Return two functions that load a model before and after finetuning, in this order.

    Args:
        folder (`Path`): Folder of a LoRA adapter, whose base model is then loaded once, or of a whole model.
        base_model (`str`, *optional*): Name of the model before finetuning; by default what the folder says.
        device (`str`, *optional*): Where the models go; by default an accelerator or the CPU.

    Raises:
        ValueError: The folder does not say what it was finetuned from.
    """
    adapter, facts = folder / "adapter_config.json", folder / TRAINING_NAME
    name = base_model
    if name is None and adapter.is_file():
        name = json.loads(adapter.read_text(encoding="utf-8"))["base_model_name_or_path"]
    elif name is None and facts.is_file():
        name = json.loads(facts.read_text(encoding="utf-8"))["base_model"]
    if name is None:
        raise ValueError(f"`base_model` is needed: {str(folder)!r} does not say what it was finetuned from.")

    def load(place: Any) -> Any:
        from transformers import AutoModelForCausalLM

        return AutoModelForCausalLM.from_pretrained(place, use_safetensors=True).to(resolve_device(device))

    if not adapter.is_file():
        return lambda: load(locate(name)), lambda: load(folder)
    from peft import PeftModel

    base = load(locate(name))
    return lambda: base, lambda: PeftModel.from_pretrained(base, str(folder))


def run_recipe(main: Callable[..., None], parser: Any) -> None:
    """Run a recipe's `main` with what its `TrlParser` reads; what the user can mend is told in one line.

    Args:
        main (`Callable`): Takes the parsed dataclasses.
        parser (`trl.TrlParser`): Reads `--config FILE.yaml`, whose unknown keys are an error, and the command line.
    """
    try:
        main(*parser.parse_args_and_config())
    except (ValueError, TypeError, OSError, ImportError) as error:
        logger.debug("The recipe failed.", exc_info=True)
        sys.exit(f"{Path(sys.argv[0]).name}: {error}")


def _earlier_guarantees(texts: TrainingTexts, base_model: str, first_stage: TrainingTexts | None) -> list[str]:
    """Collect the guarantees of texts that the model learned before; their epsilons may add to that of `texts`."""
    folder = None
    if base_model not in PACKAGED:
        try:
            folder = fetch_folder(base_model, [REPORT_NAME, TRAINING_NAME], repo_type="model")
        except FileNotFoundError:
            logger.info("Whether %s has a privacy report of its own could not be seen.", base_model)
    reports, guarantees = [first_stage.report] if first_stage else [], []
    if folder is not None and (folder / TRAINING_NAME).is_file():
        guarantees += json.loads((folder / TRAINING_NAME).read_text(encoding="utf-8"))["earlier_guarantees"]
        reports.append(find_privacy_report(folder))
        if reports[-1] is None:
            guarantees.append("No guarantee is known for the texts that its base model was finetuned on.")
    counted = [report for report in reports if report is not None]
    return guarantees + [
        report.guarantee for report in counted if texts.report is None or not texts.report.covers(report)
    ]


def training_facts(
    trainer: Any,
    texts: TrainingTexts,
    arguments: FinetuningArguments,
    base_model: str,
    validation_loss: float,
    seconds: float,
) -> dict[str, Any]:
    """Collect what the card of a finetuned model says about its training."""
    args, model = trainer.args, trainer.model
    is_adapter = hasattr(model, "peft_config")
    settings: dict[str, Any] = {"steps": trainer.state.global_step, "epochs": args.num_train_epochs}
    settings |= {"learning rate": args.learning_rate, "schedule": str(args.lr_scheduler_type.value)}
    settings["sequences per step"] = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
    settings["longest sequence (tokens)"] = getattr(args, "max_length", None)
    if is_adapter:
        adapter = next(iter(model.peft_config.values()))
        settings |= {"LoRA r": adapter.r, "LoRA alpha": adapter.lora_alpha}
        settings["LoRA modules"] = ", ".join(sorted(adapter.target_modules))
    source = ModelSource.of(base_model, model)
    packaged = PACKAGED.get(base_model)
    is_on_hub = packaged is None and not Path(base_model).exists()
    return {
        "name": Path(args.output_dir).resolve().name,
        "is_adapter": is_adapter,
        "license": arguments.license,
        "base_model": _public_name(base_model),
        "base_model_on_hub": packaged.hub_id if packaged else base_model if is_on_hub else None,
        "base_revision": source.revision,
        "dataset": texts.name,
        "dataset_on_hub": texts.hub_id,
        "dataset_revision": texts.revision,
        "has_picture": texts.picture is not None,
        "num_texts": len(texts.train),
        "num_validation_texts": len(texts.validation),
        "settings": settings,
        "validation_loss": validation_loss,
        "num_processes": args.world_size,
        "seconds": round(seconds, 1),
        "versions": ", ".join(f"{name} {metadata.version(name)}" for name in LIBRARIES if _is_installed(name)),
        "command": _command(),
    }


def write_model_card(folder: str | Path, repo_id: str | None = None) -> None:
    """Render the card of a finetuned model again, from what lies in its folder.

    Args:
        folder (`str` or `Path`): Folder that a recipe wrote.
        repo_id (`str`, *optional*): Repository that it is to be pushed to.
    """
    path = Path(folder)
    facts = json.loads((path / TRAINING_NAME).read_text(encoding="utf-8"))
    evaluation = path / "evaluation.json"
    figures = json.loads(evaluation.read_text(encoding="utf-8")) if evaluation.is_file() else None
    card = model_card(facts, find_privacy_report(path), figures, repo_id)
    (path / "README.md").write_text(card, encoding="utf-8")


def push_model(folder: str | Path, repo_id: str, **options: Any) -> str:
    """Push a finetuned model's folder, in one commit, without its checkpoints.

    Args:
        folder (`str` or `Path`): Folder that a recipe wrote.
        repo_id (`str`): Name of the repository.
        **options: `private`, `token`, `allow_no_guarantee`; see `hub.push_folder`.

    Returns:
        `str`: Address of the repository.
    """
    report = find_privacy_report(folder)
    check_guarantee(report, options.get("allow_no_guarantee", False))
    write_model_card(folder, repo_id)
    return push_folder(folder, repo_id, "model", report, commit_message="Model finetuned on synthetic text", **options)


def _write_beside(folder: Path, facts: dict[str, Any], texts: TrainingTexts, base_model: str) -> None:
    """Put what goes with the weights beside them."""
    adapter_config = folder / "adapter_config.json"
    if base_model in PACKAGED and adapter_config.is_file():
        # PEFT wrote down where on this machine the packaged model was unpacked.
        values = json.loads(adapter_config.read_text(encoding="utf-8"))
        values["base_model_name_or_path"] = base_model
        adapter_config.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    # Arguments of a trainer are written by it, pickled; nobody is to unpickle them.
    (folder / "training_args.bin").unlink(missing_ok=True)
    (folder / TRAINING_NAME).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    if texts.report is not None:
        texts.report.save_pretrained(folder)
    if texts.picture is not None:
        shutil.copyfile(texts.picture, folder / PICTURE_NAME)
    write_model_card(folder)


def _public_name(name: str) -> str:
    return "/".join(Path(name).resolve().parts[-2:]) if Path(name).exists() and Path(name).is_absolute() else name


def _command() -> str:
    launcher = "torchrun" if int(os.environ.get("WORLD_SIZE", "1")) > 1 else "accelerate launch"
    return f"{launcher} recipes/{Path(sys.argv[0]).name} {shlex.join(map(_public_name, sys.argv[1:]))}".strip()


def _is_installed(name: str) -> bool:
    try:
        return bool(metadata.version(name))
    except metadata.PackageNotFoundError:
        return False
