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
from .pages import PAGE_NAME, checked, load_run, quality_in, write_page
from .personal import REGION, scrub_text

if TYPE_CHECKING:
    from datasets import Dataset

    from .page import PageData, Point
    from .saved_runs import SavedRun


def scrub(dataset: "Dataset", region: str = REGION) -> "Dataset":
    """Replace the personal data in all texts of a dataset (`personal.scrub_text`), also in records and conversations.

    Args:
        dataset (`datasets.Dataset`): Synthetic texts. What lies on disk stays as it is.
        region (`str`, *optional*, defaults to `"US"`): Country whose phone numbers are found without country code.

    Returns:
        `datasets.Dataset`: New rows. If a privacy report covers all rows of `dataset`, it covers the new ones, and
        `info.description` carries it.

    Raises:
        ValueError: `dataset` has a transform (`set_transform`), which may show other rows than its columns hold.
        ImportError: `phonenumbers` is not installed.
    """
    from datasets import Dataset

    from .coverage import mark, texts_of
    from .data.columns import has_transform
    from .hub import find_privacy_report

    if has_transform(dataset):
        raise ValueError(
            "`dataset` has a transform (`set_transform`), which may show other rows than its columns hold: its report "
            "would be about the one, and the new rows be the other. Give `dataset.with_format(None)`, or make the "
            "rows that it shows a dataset of their own."
        )
    report = find_privacy_report(dataset)
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
    """Scrub the synthetic texts and the seeds of a saved run, and save it in another folder.

    Args:
        folder (`str` or `Path`): What `save_pretrained` or `hf-pretext generate` wrote.
        output_dir (`str` or `Path`): Folder of the new run.
        region (`str`, *optional*, defaults to `"US"`): Country whose phone numbers are found without country code.

    Returns:
        `int`: Number of synthetic texts that changed.

    Raises:
        ValueError: There are no texts, `output_dir` is `folder`, or the run is audited.
        ImportError: `phonenumbers` is not installed.
    """
    from .hub import check_is_not_audited
    from .page import PageData

    source, target = Path(folder), Path(output_dir)
    if source.resolve() == target.resolve():
        raise ValueError(f"`output_dir`={str(target)!r} is the folder of the run itself. Name another one.")
    check_is_not_audited(source)
    saved, notices = load_run(source)
    if saved.synthetic is None or saved.seeds is None:
        raise ValueError(f"`folder`={str(source)!r} has no texts to scrub. {' '.join(notices)}")
    # Embeddings of the evidence may tell what is scrubbed.
    texts = {"synthetic": scrub(saved.synthetic, region), "seeds": scrub(saved.seeds, region)}
    scrubbed = replace(saved, **texts, evidence=None, region=region)
    scrubbed.save(target, {})
    data = PageData.load(source)
    if data is not None:
        points = _scrubbed_points(saved, scrubbed, data, region)
        replace(data, points=points, quality=scrubbed.quality()).save(target)
    if (source / PICTURE_NAME).is_file():  # Its map is of the texts as they were, whose places are the same.
        shutil.copyfile(source / PICTURE_NAME, target / PICTURE_NAME)
    write_page(target)
    return sum(old != new for old, new in zip(saved.synthetic, scrubbed.synthetic or (), strict=True))


def _scrubbed_points(saved: "SavedRun", scrubbed: "SavedRun", data: "PageData", region: str) -> list["Point"]:
    """Return the map with the scrubbed texts. Public texts, which are in no other file, are scrubbed as they are."""
    from .page import ShownText

    new = {
        (stage, old): each.text
        for stage in ("seeds", "synthetic")
        for old, each in zip(saved.rows_of_page(stage), scrubbed.rows_of_page(stage), strict=True)
    }
    points = []
    for point in checked(saved, data).points:
        text = new.get((point.stage, ShownText(point.text, point.note)))
        points.append(replace(point, text=scrub_text(point.text, region) if text is None else text))
    return points


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
    sys.stdout.write(f"{num_changed} {were} scrubbed, and the seeds as well. ")
    sys.stdout.write(f"The run is in {options.output_dir}/, its page in {PAGE_NAME}.\n")
    sys.stdout.write(f"Names of people are not looked for.\n{quality_in(options.output_dir)}\n")
