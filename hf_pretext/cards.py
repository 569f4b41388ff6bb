"""The dataset card, rendered from a template."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from .configuration import PrivateEvolutionConfig
from .privacy import PrivacyReport

PICTURE_NAME = "run.png"

SIZE_CATEGORIES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))


def dataset_card(
    report: PrivacyReport,
    config: PrivateEvolutionConfig,
    models: Mapping[str, str | None],
    texts: Sequence[str],
    num_seeds: int,
) -> str:
    """Render the card of a synthetic dataset.

    Args:
        report (`PrivacyReport`): What is guaranteed.
        config (`PrivateEvolutionConfig`): The settings of the run.
        models (`Mapping[str, str | None]`): Name of each model, by the argument that took it.
        texts (`Sequence[str]`): The synthetic texts.
        num_seeds (`int`): Number of seeds that they were expanded from.

    Returns:
        `str`: The text of `README.md`, with its YAML header.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    templates = Environment(
        loader=PackageLoader("hf_pretext"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return templates.get_template("dataset_card.md.jinja").render(
        report=report,
        config=config,
        models={argument: _public_name(name) for argument, name in models.items()},
        num_texts=len(texts),
        num_seeds=num_seeds,
        samples=[_as_quote(text) for text in texts[:5]],
        size_category=next((name for limit, name in SIZE_CATEGORIES if len(texts) < limit), "n>1M"),
        picture=PICTURE_NAME,
    )


def _public_name(name: str | None) -> str | None:
    """Name a model without saying where on this machine it lies."""
    return "/".join(Path(name).parts[-2:]) if name and Path(name).is_dir() else name


def _as_quote(text: str, max_characters: int = 300) -> str:
    """Show a text as one quoted line that Markdown cannot read as anything else."""
    line = " ".join(text.split())
    if len(line) > max_characters:
        line = line[:max_characters].rstrip() + "..."
    escaped = "".join(f"\\{character}" if character in "\\`*_{}[]()#+-.!|<>~$" else character for character in line)
    return f"> {escaped}"
