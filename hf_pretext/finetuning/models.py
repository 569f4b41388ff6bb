"""Finetuned models: loading them before and after, their card, and their push."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..artifacts import ADAPTER_CONFIG_NAME, CARD_NAME, EVALUATION_NAME, TRAINING_NAME
from ..cards import model_card
from ..files import read_json
from ..hub import check_guarantee, find_privacy_report, push_folder
from ..models.loading import resolve_device
from ..models.packaged import locate


def load_before_and_after(
    folder: Path, base_model: str | None = None, device: str | None = None
) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """Return two functions that load a model before and after finetuning, in this order.

    Args:
        folder (`Path`): Folder of a LoRA adapter, whose base model is then loaded once, or of a whole model.
        base_model (`str`, *optional*): Name of the model before finetuning, by default what the folder says.
        device (`str`, *optional*): Device of the models, by default an accelerator or the CPU.

    Raises:
        ValueError: The folder does not say what it was finetuned from.
    """
    adapter, facts = folder / ADAPTER_CONFIG_NAME, folder / TRAINING_NAME
    name = base_model
    if name is None and adapter.is_file():
        name = read_json(adapter)["base_model_name_or_path"]
    elif name is None and facts.is_file():
        name = read_json(facts)["base_model"]
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


def write_model_card(folder: str | Path, repo_id: str | None = None) -> None:
    """Render the card of a finetuned model again, from the files in its folder.

    Args:
        folder (`str` or `Path`): Folder that a recipe wrote.
        repo_id (`str`, *optional*): Repository that it will be pushed to.
    """
    path = Path(folder)
    facts = read_json(path / TRAINING_NAME)
    evaluation = path / EVALUATION_NAME
    figures = read_json(evaluation) if evaluation.is_file() else None
    card = model_card(facts, find_privacy_report(path), figures, repo_id)
    (path / CARD_NAME).write_text(card, encoding="utf-8")


def push_model(folder: str | Path, repo_id: str, **options: Any) -> str:
    """Push a finetuned model's folder, in one commit, without its checkpoints.

    Args:
        folder (`str` or `Path`): Folder that a recipe wrote.
        repo_id (`str`): Name of the repository.
        **options: `private`, `token`, `allow_no_guarantee`. See `hub.push_folder`.

    Returns:
        `str`: Address of the repository.
    """
    report = find_privacy_report(folder)
    check_guarantee(report, options.get("allow_no_guarantee", False))
    write_model_card(folder, repo_id)
    return push_folder(folder, repo_id, "model", report, commit_message="Model finetuned on synthetic text", **options)
