"""The command `hf-pretext report`: the page of a saved run, as a file or as a static Space of the Hub."""

import argparse
import json
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .artifacts import AUDIT_NAME, EVALUATION_NAME, HISTORY_NAME, METRICS_NAME, PAGE_NAME

if TYPE_CHECKING:
    from .page import Excluded, PageData
    from .saved_runs import SavedRun

NEEDED_OF_EVALUATION = ("difference", "before", "after", "num_texts", "num_clients")
NEEDED_OF_AUDIT = ("verdict", "claimed_epsilon", "epsilon_lower_bound", "confidence")

CARD_OF_A_SPACE = """\
---
title: {title}
emoji: 🔏
colorFrom: blue
colorTo: yellow
sdk: static
app_file: index.html
pinned: false
tags:
- hf_pretext
- synthetic
---

The page of a run of `hf_pretext`. `index.html` needs no network, and `privacy_report.json` has the figures.
"""


def page_of(
    folder: str | Path,
    *,
    evaluation: str | Path | None = None,
    audit: str | Path | None = None,
    is_published: bool = False,
) -> str:
    """Write the page of a saved run, as HTML.

    Args:
        folder (`str` or `Path`): What `save_pretrained` or `hf-pretext generate` wrote.
        evaluation (`str` or `Path`, *optional*):
            What `recipes/evaluate.py` wrote. By default `evaluation.json` in the folder, if there is one.
        audit (`str` or `Path`, *optional*):
            What `recipes/audit.py` wrote. By default `audit.json` in the folder, if there is one.
        is_published (`bool`, *optional*, defaults to `False`):
            Leave out what the guarantee does not cover, which is the evaluation, the audit and other figures.

    Raises:
        FileNotFoundError: A file of the run is missing.
        ValueError: A file is not what this library writes, or an audited run is to be published.
    """
    from .hub import check_is_not_audited
    from .page import Excluded, PageData

    path = Path(folder)
    if is_published:
        check_is_not_audited(path, audit)
    saved, notices = load_run(path)
    data = PageData.load(path)
    if data is None:
        notices.append(
            "This run was saved by another version of hf_pretext, without a map and without its timings. "
            "Save it again with this version to get them."
        )
        data = PageData(quality=saved.quality())
    data = checked(saved, data, with_public=not is_published)
    saved = saved.published() if is_published else saved
    if any(each.stage == "public" for each in data.points):
        notices.append("The public texts come from page.json. The report does not name them, so they are unchecked.")
    excluded = Excluded() if is_published else _excluded(path, evaluation, audit)
    from jinja2 import TemplateError

    try:
        return saved.page(data, notices, excluded)
    except (TemplateError, TypeError, ValueError, KeyError, AttributeError) as error:
        raise ValueError(
            f"Some figures in {str(path)!r} are not what hf_pretext writes ({error}). If they are from "
            "elsewhere, such as an evaluation of another version, move them away. Else save the run again."
        ) from error


def checked(saved: "SavedRun", data: "PageData", with_public: bool = True) -> "PageData":
    """Leave out of what lies beside a saved run what is not of this run: no digest names the texts of its map.

    Args:
        saved (`SavedRun`): The run, whose texts are those that its report names.
        data (`PageData`): What was read from its folder.
        with_public (`bool`, *optional*, defaults to `True`): Keep the public texts, which cannot be checked.
    """
    from .page import ShownText

    own = {stage: set(saved.rows_of_page(stage)) for stage in ("seeds", "synthetic")}
    points = [
        each
        for each in data.points
        if (with_public if each.stage == "public" else ShownText(each.text, each.note) in own[each.stage])
    ]
    quality = data.quality
    if quality is not None:
        words = saved.words_shown()  # They come from the texts themselves.
        quality = replace(quality, **words) if words is not None else None
    return replace(data, points=points, quality=quality)


def write_page(folder: str | Path, output: str | Path | None = None, **options: Any) -> Path:
    """Write the page of a saved run to a file. See `page_of`.

    Args:
        folder (`str` or `Path`): What `save_pretrained` or `hf-pretext generate` wrote.
        output (`str` or `Path`, *optional*): The file to write, by default `report.html` in the folder.
        **options: Other arguments of `page_of`.

    Returns:
        `Path`: The file.
    """
    from .files import atomic_write

    path = Path(folder) / PAGE_NAME if output is None else Path(output)
    if path.is_dir():
        raise ValueError(f"`output`={str(path)!r} is a folder. Name the file to write, such as report.html.")
    page = page_of(folder, **options)
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(path, page, for_others=True)
    return path


def push_page(
    folder: str | Path,
    repo_id: str,
    *,
    private: bool | None = None,
    token: str | None = None,
    allow_no_guarantee: bool = False,
) -> str:
    """Push the page of a saved run as a static Space of the Hub, in one commit.

    The page is published without what the guarantee does not cover (`is_published` of `page_of`).

    Args:
        folder (`str` or `Path`): What `save_pretrained` or `hf-pretext generate` wrote.
        repo_id (`str`): Name of the Space, such as `"me/jobs-dp-page"`. It is created if it does not exist.
        private (`bool`, *optional*): Whether a new Space is private. See `hub.push_folder`.
        token (`str`, *optional*): Token of the Hub, by default the one that you logged in with.
        allow_no_guarantee (`bool`, *optional*, defaults to `False`): Push even without a finite guarantee.

    Returns:
        `str`: Address of the Space.

    Raises:
        ValueError: There is no finite guarantee, the run is audited, or the Space holds something else.
        PermissionError: There is no token.
        ConnectionError: The push broke off.
    """
    import tempfile

    from .hub import check_guarantee, push_folder
    from .privacy.report import PrivacyReport

    _check_folder(Path(folder))
    report = PrivacyReport.from_pretrained(folder)
    check_guarantee(report, allow_no_guarantee)
    page = page_of(folder, is_published=True)
    with tempfile.TemporaryDirectory() as scratch:
        (Path(scratch) / "index.html").write_text(page, encoding="utf-8")
        title = json.dumps(repo_id.rpartition("/")[2])
        (Path(scratch) / "README.md").write_text(CARD_OF_A_SPACE.format(title=title), encoding="utf-8")
        report.save_pretrained(scratch)
        options: dict[str, Any] = {"private": private, "token": token, "allow_no_guarantee": allow_no_guarantee}
        return push_folder(scratch, repo_id, "space", report, commit_message="The page of a run", **options)


def quality_in(folder: str | Path) -> str:
    """Return what a look at the texts of a saved run found, in a few lines. Empty if it has none."""
    from .page import PageData

    data = PageData.load(Path(folder))
    return "" if data is None or data.quality is None else data.quality.summary


def _check_folder(path: Path) -> None:
    """Refuse what is not the folder of a saved run, and say what is missing."""
    from .saved_files import check_has_run

    if not path.is_dir():
        raise FileNotFoundError(
            f"`folder`={str(path)!r} is not a folder. Name what `hf-pretext generate` or `save_pretrained` wrote."
        )
    check_has_run(path, path)


def load_run(folder: str | Path) -> "tuple[SavedRun, list[str]]":
    """Read a saved run, and say what of it is missing.

    Raises:
        FileNotFoundError: A file of the run is missing.
        ValueError: A file is not what this library writes.
    """
    from .saved_runs import SavedRun

    path = Path(folder)
    _check_folder(path)
    if not (path / HISTORY_NAME).is_file():
        raise FileNotFoundError(
            f"`folder`={str(path)!r} lacks {HISTORY_NAME}, so it holds no seeds yet, or was written half. Save the "
            "run after `evolve`."
        )
    try:
        saved = SavedRun.load(path)
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise ValueError(
            f"A file in {str(path)!r} is not what hf_pretext writes: it is damaged, or from another version "
            f"({type(error).__name__}). Save the run again."
        ) from error
    notices = []
    if saved.seeds is None:
        notices.append("The seeds are missing, or are not those of this run. So neither they nor texts are shown.")
    elif saved.synthetic is None:
        notices.append(
            "There are no synthetic texts here that belong to this run: none were written yet, they were changed, or "
            "others were put in their place."
        )
    return saved, notices


def _excluded(path: Path, evaluation: str | Path | None, audit: str | Path | None) -> "Excluded":
    """Read the figures that the guarantee does not cover."""
    from .page import Excluded

    metrics = _figures(path / METRICS_NAME, (), is_needed=False)
    plain = {name: value for name, value in (metrics or {}).items() if isinstance(value, (int, float, str))}
    return Excluded(
        _figures(Path(evaluation or path / EVALUATION_NAME), NEEDED_OF_EVALUATION, is_needed=evaluation is not None),
        _figures(Path(audit or path / AUDIT_NAME), NEEDED_OF_AUDIT, is_needed=audit is not None),
        plain or None,
    )


def _figures(path: Path, names: tuple[str, ...], *, is_needed: bool) -> Mapping[str, Any] | None:
    from .files import read_json

    if not path.is_file():
        if is_needed:
            raise FileNotFoundError(f"{str(path)!r} is not a file.")
        return None
    try:
        values = read_json(path)
    except ValueError as error:
        raise ValueError(f"{str(path)!r} is not JSON that can be read. Move it away, or write it again.") from error
    if not isinstance(values, dict) or any(name not in values for name in names):
        raise ValueError(f"{str(path)!r} lacks some of {list(names)}. Move it away, or write it again.")
    return values


def add_private_repo(parser: Any) -> None:
    """Add the option that makes what a command pushes private."""
    parser.add_argument(
        *("--private-repo", "--private_repo"),
        action="store_true",
        default=None,
        help="Push to a private repository. By default a new one is as your account's settings say, usually public.",
    )


def add_report(commands: Any) -> None:
    """Add the command to a parser."""
    report = commands.add_parser(
        "report",
        help="Write the page of a saved run: one HTML file that needs no network. It shows nothing private, unless an "
        "evaluation or audit on private text lies in the folder, which is then marked as not covered.",
    )
    report.add_argument("folder", help="Folder that `generate`, `expand` or `save_pretrained` wrote.")
    report.add_argument("--output", help="The file to write. By default report.html in the folder.")
    report.add_argument("--evaluation", help="evaluation.json of `recipes/evaluate.py`, shown as not covered.")
    report.add_argument("--audit", help="audit.json of `recipes/audit.py`, shown as not covered.")
    report.add_argument(
        *("--push-to-space", "--push_to_space"),
        metavar="REPO",
        help="Push the page to this static Space of the Hub, without what the guarantee does not cover.",
    )
    add_private_repo(report)
    report.set_defaults(run=_report)


def _report(options: argparse.Namespace) -> None:
    from .hub import check_is_not_audited

    if options.push_to_space is not None:
        check_is_not_audited(options.folder, options.audit)
    path = write_page(options.folder, options.output, evaluation=options.evaluation, audit=options.audit)
    sys.stdout.write(f"The page is in {path}. Open it in any browser.\n")
    if options.push_to_space is not None:
        sys.stdout.write(
            f"Pushed to {push_page(options.folder, options.push_to_space, private=options.private_repo)}.\n"
        )
