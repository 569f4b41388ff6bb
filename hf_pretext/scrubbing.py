"""The command `hf-pretext scrub`: a saved run without the personal data that models wrote into its texts.

Scrubbing looks at written texts alone, so it is post-processing. The new texts have the guarantee of the old ones.
"""

import argparse
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .artifacts import PICTURE_NAME
from .pages import PAGE_NAME, load_run, quality_in, write_page
from .personal import REGION, scrub_text

if TYPE_CHECKING:
    from datasets import Dataset


def scrub(dataset: "Dataset", region: str = REGION) -> "Dataset":
    """Replace the personal data in all texts of a dataset (`personal.scrub_text`), also in records and conversations.

    Args:
        dataset (`datasets.Dataset`): Synthetic texts. What lies on disk stays as it is.
        region (`str`, *optional*, defaults to `"US"`): Country whose phone numbers are found without country code.

    Returns:
        `datasets.Dataset`: New rows. If a privacy report covers all rows of `dataset`, it covers the new ones, and
        `info.description` carries it.

    Raises:
        ImportError: `phonenumbers` is not installed.
    """
    from datasets import Dataset

    from .coverage import mark, report_of_rows, texts_of

    report = report_of_rows(dataset)
    rows = [{name: _scrubbed(value, region) for name, value in row.items()} for row in dataset.with_format(None)]
    scrubbed = Dataset.from_list(rows, features=dataset.features)
    if report is not None:
        mark(scrubbed, report, texts_of(scrubbed, columns=report.columns))
    return scrubbed


def _scrubbed(value: Any, region: str) -> Any:
    if isinstance(value, str):
        return scrub_text(value, region)
    if isinstance(value, list):
        return [_scrubbed(each, region) for each in value]
    if isinstance(value, dict):
        return {name: _scrubbed(each, region) for name, each in value.items()}
    return value


def scrub_run(folder: str | Path, output_dir: str | Path, region: str = REGION) -> int:
    """Scrub the synthetic texts of a saved run, and save it in another folder. The seeds stay as they are.

    Args:
        folder (`str` or `Path`): What `save_pretrained` or `hf-pretext generate` wrote.
        output_dir (`str` or `Path`): Folder of the new run.
        region (`str`, *optional*, defaults to `"US"`): Country whose phone numbers are found without country code.

    Returns:
        `int`: Number of texts that changed.

    Raises:
        ValueError: There are no texts, or `output_dir` is `folder`.
        ImportError: `phonenumbers` is not installed.
    """
    from .page import PageData

    source, target = Path(folder), Path(output_dir)
    if source.resolve() == target.resolve():
        raise ValueError(f"`output_dir`={str(target)!r} is the folder of the run itself. Name another one.")
    saved, notices = load_run(source)
    if saved.synthetic is None:
        raise ValueError(f"`folder`={str(source)!r} has no texts to scrub. {' '.join(notices)}")
    scrubbed = replace(saved, synthetic=scrub(saved.synthetic, region))
    scrubbed.save(target, {})
    data = PageData.load(source)
    if data is not None:
        points = [replace(each, text=scrub_text(each.text, region)) for each in data.points]
        replace(data, points=points, quality=scrubbed.quality()).save(target)
    if (source / PICTURE_NAME).is_file():  # Its map is of the texts as they were, whose places are the same.
        shutil.copyfile(source / PICTURE_NAME, target / PICTURE_NAME)
    write_page(target)
    return sum(old != new for old, new in zip(saved.synthetic, scrubbed.synthetic or (), strict=True))


def add_scrub(commands: Any) -> None:
    """Add the command to a parser."""
    command = commands.add_parser(
        "scrub",
        help="Replace addresses and numbers that models wrote into the texts of a saved run. It spends nothing.",
    )
    command.add_argument("folder", help="Folder that `generate`, `expand` or `save_pretrained` wrote.")
    command.add_argument("--output-dir", "--output_dir", required=True, help="Folder for the scrubbed run.")
    command.add_argument("--region", default=REGION, help="Country of phone numbers that have no country code.")
    command.set_defaults(run=_scrub)


def _scrub(options: argparse.Namespace) -> None:
    num_changed = scrub_run(options.folder, options.output_dir, options.region)
    were = "text was" if num_changed == 1 else "texts were"
    sys.stdout.write(f"{num_changed} {were} scrubbed. The run is in {options.output_dir}/, its page in {PAGE_NAME}.\n")
    sys.stdout.write(f"Names of people are not looked for.\n{quality_in(options.output_dir)}\n")
