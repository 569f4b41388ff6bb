"""Finetuned models: loading them before and after, their card, and their push."""

import math
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from ..artifacts import (
    ADAPTER_CONFIG_NAME,
    CARD_NAME,
    EVALUATION_NAME,
    EVALUATION_PICTURE_NAME,
    ORIGIN_NAME,
    PUBLISHED_OF_A_MODEL,
    TRAINING_NAME,
)
from ..cards import MEASURES, model_card
from ..files import read_json, write_json
from ..hub import check_guarantee, push_folder
from ..models.checkpoints import Adapter, read_causal_lm
from ..models.loading import resolve_device, resolve_dtype
from ..models.packaged import PACKAGED
from ..plots import plot_evaluation
from ..privacy.report import PrivacyReport
from .chain import report_of_model


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
    adapter = Adapter.find(folder)
    name, revision = base_model, None
    if name is None:
        name, revision = _base_of(folder) if adapter is None else (adapter.base, adapter.base_revision)
    on = resolve_device(device)
    # Both in one precision. A whole model was trained in float32, and its base may be saved in another.
    dtype = torch.float32 if adapter is None else resolve_dtype("auto", on)

    def load(place: Any, merge: bool = False, revision: str | None = None) -> Any:
        return read_causal_lm(place, merge, revision, dtype=dtype)[0].to(on)

    if adapter is None:
        return lambda: load(name, revision=revision), lambda: load(folder)
    base = load(name, merge=True, revision=revision)
    # The tokenizer of the adapter may have more tokens than the base model had.
    adapter.fit(base)
    return lambda: base, lambda: adapter.change(base)


def _base_of(folder: Path) -> tuple[str, str | None]:
    """Return the name of the model that a whole model was finetuned from, and its revision."""
    for file in (folder / ORIGIN_NAME, folder / TRAINING_NAME):
        if file.is_file():
            facts = read_json(file)
            # `training.json` is published, and names a folder by its last parts, so that it looks like a repository.
            if file.name == TRAINING_NAME and facts.get("base_model_on_hub") is None:
                break
            # Of a package it is the version, which is no revision of a repository.
            return facts["base_model"], None if facts["base_model"] in PACKAGED else facts.get("base_revision")
    raise ValueError(f"`base_model` is needed: {str(folder)!r} does not say what it was finetuned from.")


def write_model_card(folder: str | Path, repo_id: str | None = None) -> None:
    """Render the card of a finetuned model again, from the files in its folder.

    Args:
        folder (`str` or `Path`): Folder that a recipe wrote.
        repo_id (`str`, *optional*): Repository that it will be pushed to.
    """
    path = Path(folder)
    write_card_of_report(path, report_of_model(path), repo_id)


def write_card_of_report(folder: Path, report: PrivacyReport | None, repo_id: str | None = None) -> None:
    """Render the card of a model whose report is known to be about its weights, which need not be read again."""
    facts = read_json(folder / TRAINING_NAME)
    evaluation = folder / EVALUATION_NAME
    figures = read_json(evaluation) if evaluation.is_file() else None
    (folder / CARD_NAME).write_text(model_card(facts, report, figures, repo_id), encoding="utf-8")


def push_model(folder: str | Path, repo_id: str, *, publish_private_evaluation: bool = False, **options: Any) -> str:
    """Push a finetuned model, in one commit: weights, tokenizer, card, report and pictures, and no other files.

    An evaluation on private text is not covered by any guarantee: exact figures can tell what one person wrote. So it
    stays where it is. If you ask for it in words, rounded figures are published (see `rounded_evaluation`).

    Args:
        folder (`str` or `Path`): Folder that a recipe wrote.
        repo_id (`str`): Name of the repository.
        publish_private_evaluation (`bool`, *optional*, defaults to `False`):
            Publish rounded figures of an evaluation on private text.
        **options: `private`, `token`, `allow_no_guarantee`. See `hub.push_folder`.

    Returns:
        `str`: Address of the repository.

    Raises:
        ValueError: There is no finite guarantee for these weights, or the repository holds something else.
    """
    path = Path(folder)
    report = report_of_model(path)
    check_guarantee(report, options.get("allow_no_guarantee", False))
    with tempfile.TemporaryDirectory(prefix=".writing-", dir=path) as scratch:
        # What is published is put together beside the weights, which are linked and not copied.
        target = Path(scratch) / "model"
        target.mkdir()
        for file in {file for pattern in PUBLISHED_OF_A_MODEL for file in path.glob(pattern) if file.is_file()}:
            copy = target / file.relative_to(path)
            copy.parent.mkdir(exist_ok=True)
            try:
                os.link(file, copy)
            except OSError:  # Not every file system has links.
                shutil.copyfile(file, copy)
        _publish_base(target / ADAPTER_CONFIG_NAME)
        if (path / EVALUATION_NAME).is_file():
            figures = read_json(path / EVALUATION_NAME)
            if not figures["is_private"] or publish_private_evaluation:
                shown = rounded_evaluation(figures) if figures["is_private"] else figures
                write_json(target / EVALUATION_NAME, shown)
                plot_evaluation(shown, target / EVALUATION_PICTURE_NAME)
        write_card_of_report(target, report, repo_id)
        title = "Model finetuned on synthetic text"
        return push_folder(target, repo_id, "model", report, commit_message=title, **options)


def _publish_base(config: Path) -> None:
    """Name the base model of an adapter as others know it, in place of a link to the adapter's configuration.

    A packaged model has its name on the Hub, as on the card. Where on this machine a folder is, is left out.
    """
    values = read_json(config) if config.is_file() else {}
    base = values.get("base_model_name_or_path")
    if base in PACKAGED:
        name = PACKAGED[base].hub_id
    elif base is not None and Path(base).is_dir():
        # No name that a repository of someone else could have.
        name = f"./{Path(base).resolve().name}"
    else:
        return
    config.unlink()  # The link, and not the file.
    write_json(config, {**values, "base_model_name_or_path": name})


def rounded_evaluation(figures: Mapping[str, Any]) -> dict[str, Any]:
    """Round an evaluation on private text for publication. It is still not covered by any guarantee.

    Left out are the number of tokens, the measures of the texts themselves (which have extremes), and the name of the
    file. Accuracies and entropies keep two decimals, and the numbers of texts and clients one digit.

    Args:
        figures (`Mapping[str, Any]`): What `recipes/evaluate.py` wrote.
    """

    def rounded(values: Mapping[str, Any]) -> dict[str, Any]:
        shown = {name: round(values[name], 2) for name in MEASURES if name != "perplexity"}
        # From the rounded entropy, which it would otherwise give away.
        return {**shown, "perplexity": round(math.exp(shown["cross_entropy"]), 2)}

    before, after = rounded(figures["before"]), rounded(figures["after"])
    changes = {
        name: {end: round(value, 2) for end, value in figures["difference"][name].items()}
        for name in MEASURES
        if name != "perplexity"
    }
    changes["perplexity"] = {
        end: round(before["perplexity"] * math.expm1(value), 2) for end, value in changes["cross_entropy"].items()
    }
    return {
        "dataset": "private text",
        "split": "held out",
        "is_private": True,
        "covered_by_the_guarantee": False,
        "num_texts": _one_digit(figures["num_texts"]),
        "num_clients": _one_digit(figures["num_clients"]),
        "before": before,
        "after": after,
        "difference": changes,
    }


def _one_digit(number: int) -> int:
    return round(number, 1 - len(str(number)))
