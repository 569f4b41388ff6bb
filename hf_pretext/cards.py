"""The cards of datasets and models, rendered from templates."""

import json
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from .artifacts import DATA_FILE, EVALUATION_PICTURE_NAME, PICTURE_NAME, SEEDS_FILE
from .cleaning import clean_text, one_line, valid_unicode
from .configuration import PrivateEvolutionConfig
from .privacy.figures import rounded_up
from .privacy.report import PrivacyReport
from .quality import TextQuality
from .segmentation import longest_beginning
from .templating import templates_with

PAPER = "[PrE-Text](https://huggingface.co/papers/2406.02958)"
SIZE_CATEGORIES = (
    *((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"), (10**7, "1M<n<10M")),
    *((10**8, "10M<n<100M"), (10**9, "100M<n<1B")),
)
MARKUP = "\\`*[]<>|~$&{}"
"""Characters that may be markup anywhere in a line."""

MARKUP_OF_TEXTS = MARKUP + "_()#+-.!:@="
"""These, and what may be markup at the beginning of a line or make a link or a mention."""

NUM_SAMPLES = 5
"""Texts that a card shows."""

MAX_LINES_OF_A_QUOTE = 20
"""Lines of a sample that a card shows."""

MEASURES = {
    "top_1_accuracy": "next-token accuracy",
    "top_3_accuracy": "top-3 accuracy",
    "top_5_accuracy": "top-5 accuracy",
    "top_10_accuracy": "top-10 accuracy",
    "cross_entropy": "cross-entropy (nats per token)",
    "perplexity": "perplexity",
}


def dataset_card(
    report: PrivacyReport,
    config: PrivateEvolutionConfig,
    models: Mapping[str, str | None],
    texts: Sequence[str],
    num_seeds: int,
    *,
    repo_id: str | None = None,
    license: str | None = None,
    language: str | None = None,
    federation: Mapping[str, Any] | None = None,
    labels: Sequence[Mapping[str, Any]] = (),
    quality: TextQuality | None = None,
    num_texts: int | None = None,
) -> str:
    """Render the card of a synthetic dataset.

    Args:
        report (`PrivacyReport`): What is guaranteed.
        config (`PrivateEvolutionConfig`): The settings of the run.
        models (`Mapping[str, str | None]`): What to call each model, by the argument that took it.
        texts (`Sequence[str]`): The synthetic texts, of which the first `NUM_SAMPLES` are shown.
        num_seeds (`int`): Number of seeds that they were expanded from.
        repo_id (`str`, *optional*): Repository of the Hub. None for a local folder.
        license (`str`, *optional*): License of the texts.
        language (`str`, *optional*): Their language.
        federation (`Mapping[str, Any]`, *optional*): What the releases cost the clients of a federation.
        labels (`Sequence` of `Mapping`, *optional*):
            Of each label its `name`, its `words`, its number of texts (`count`), and the `share` that its seeds have.
        quality (`TextQuality`, *optional*): What a look at the texts found.
        num_texts (`int`, *optional*): Number of synthetic texts, if `texts` are the first of them.

    Returns:
        `str`: The text of `README.md`, with its YAML header.
    """
    from huggingface_hub import DatasetCardData

    num_texts = len(texts) if num_texts is None else num_texts
    header = DatasetCardData(
        pretty_name=f"{'Differentially private synthetic' if report.is_finite else 'Synthetic'} text",
        license=license,
        language=language,
        size_categories=[_size_category(num_texts)],
        task_categories=["text-generation", *(["text-classification"] if labels else [])],
        tags=["synthetic", *_tags(report), "private-evolution", "hf_pretext"],
        configs=[
            {"config_name": "default", "data_files": DATA_FILE, "default": True},
            {"config_name": "seeds", "data_files": SEEDS_FILE},
        ],
    )
    return _render(
        "dataset_card.md.jinja",
        header=header.to_yaml(),
        report=report,
        config=config,
        models=models,
        num_texts=num_texts,
        num_seeds=num_seeds,
        samples=[_as_quote(text) for text in texts[:NUM_SAMPLES]],
        repo_id=repo_id,
        federation=federation,
        labels=labels,
        quality=quality,
    )


def selection_card(
    report: PrivacyReport,
    facts: Mapping[str, Any],
    texts: Sequence[str],
    embedding_model: str | None = None,
    source: str | None = None,
) -> str:
    """Render the card of public texts that a run chose.

    Args:
        report (`PrivacyReport`): What is guaranteed of the choice.
        facts (`Mapping[str, Any]`): How they were chosen. `selecting.SelectionFacts` lists the keys.
        texts (`Sequence[str]`): Some of the texts.
        embedding_model (`str`, *optional*): What to call the embedding model.
        source (`str`, *optional*): What to call the public texts.

    Returns:
        `str`: The text of `README.md`, with its YAML header.
    """
    from huggingface_hub import DatasetCardData

    header = DatasetCardData(
        pretty_name="Public text that a private run chose",
        size_categories=[_size_category(facts["num_selected"])],
        task_categories=["text-generation"],
        tags=[*_tags(report), "public-text", "distribution-matching", "hf_pretext"],
    )
    return _render(
        "selection_card.md.jinja",
        header=header.to_yaml(),
        report=report,
        facts=facts,
        samples=[_as_quote(text) for text in texts],
        embedding_model=embedding_model,
        source=source,
    )


def model_card(
    training: Mapping[str, Any],
    report: PrivacyReport | None,
    evaluation: Mapping[str, Any] | None = None,
    repo_id: str | None = None,
) -> str:
    """Render the card of a model that was finetuned on synthetic texts: a LoRA adapter or a whole model.

    Args:
        training (`Mapping[str, Any]`): How it was made. `finetuning.training_facts` lists the keys.
        report (`PrivacyReport`, *optional*): The guarantee of the texts, which the model inherits.
        evaluation (`Mapping[str, Any]`, *optional*): What `recipes/evaluate.py` measured.
        repo_id (`str`, *optional*): Repository of the Hub. None for a local folder.

    Returns:
        `str`: The text of `README.md`, with its YAML header.
    """
    from huggingface_hub import EvalResult, ModelCardData

    results = evaluation and [
        EvalResult(
            task_type="text-generation",
            dataset_type="private" if evaluation["is_private"] else "held-out",
            dataset_name=evaluation["dataset"],
            dataset_split=evaluation["split"],
            metric_type=name,
            metric_name=MEASURES[name],
            metric_value=round(evaluation["after"][name], 6),
        )
        for name in MEASURES
    ]
    header = ModelCardData(
        model_name=training["name"],
        license=training["license"],
        base_model=training["base_model_on_hub"],
        base_model_relation="adapter" if training["is_adapter"] else "finetune",
        library_name="peft" if training["is_adapter"] else "transformers",
        pipeline_tag="text-generation",
        datasets=training["dataset_on_hub"],
        tags=[*_tags(report), "synthetic", "hf_pretext", *(["lora"] if training["is_adapter"] else [])],
        eval_results=results or None,
    )
    return _render(
        "model_card.md.jinja",
        header=header.to_yaml(),
        training=training,
        report=report,
        evaluation=evaluation,
        measures=MEASURES,
        repo_id=repo_id,
    )


def _size_category(number: int) -> str:
    return next((name for limit, name in SIZE_CATEGORIES if number < limit), "1B<n<10B")


def _tags(report: PrivacyReport | None) -> list[str]:
    return ["differential-privacy"] if report is not None and report.is_finite else []


def _render(template: str, **values: Any) -> str:
    names = {"picture": PICTURE_NAME, "evaluation_picture": EVALUATION_PICTURE_NAME, "paper": PAPER}
    templates = templates_with(_as_words, _as_string, _as_argument, rounded_up, keep_trailing_newline=True)
    return valid_unicode(templates.get_template(template).render(**names, **values))


def _as_words(value: object, markup: str = MARKUP) -> str:
    """Show what someone else may have written as plain words in a line or in a cell of a table, without markup."""
    return "".join(f"\\{character}" if character in markup else character for character in one_line(str(value)))


def _as_string(value: object) -> str:
    """Show a name as a string literal of Python."""
    return json.dumps(one_line(str(value)), ensure_ascii=False)


def _as_argument(value: object) -> str:
    """Show a name as an argument of a shell."""
    return shlex.quote(one_line(str(value)))


def _as_quote(text: str, max_characters: int = 300) -> str:
    """Show a text as a quote that Markdown cannot read as anything else, with its lines and their indentation."""
    quoted = clean_text(text, with_lines=True)
    short = longest_beginning(quoted, lambda _: True, max_characters)
    lines = short.split("\n")[:MAX_LINES_OF_A_QUOTE]
    if len("\n".join(lines)) < len(quoted):
        lines[-1] = lines[-1].rstrip() + "..."
    # A backslash at the end keeps the line break, and spaces of this kind keep the indentation.
    return "\\\n".join(f"> {_indentation(line)}{_as_words(line, MARKUP_OF_TEXTS)}" for line in lines)


def _indentation(line: str) -> str:
    blanks = line[: len(line) - len(line.lstrip())].expandtabs(4)
    return "&nbsp;" * len(blanks)
