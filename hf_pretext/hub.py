"""The Hub: the only module that talks to it. Everything it sends is public: synthetic texts, seeds, reports, cards.

A push is one commit. So a repository holds a whole run or nothing of it, and a push that broke off can be repeated.
"""

import json
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .artifacts import CARD_NAME, REPORT_NAME
from .privacy.figures import rounded_up
from .privacy.report import PrivacyReport

logger = logging.getLogger(__name__)

WAITS = (1, 4)
"""Seconds before a push is tried again."""

EMPTY_REPO = {".gitattributes", CARD_NAME}
"""Files that a repository may hold that someone made on the website and left empty."""


def push_folder(
    folder: str | Path,
    repo_id: str,
    repo_type: str,
    report: PrivacyReport | None,
    *,
    private: bool | None = None,
    token: str | None = None,
    commit_message: str = "Upload with hf_pretext",
    allow_no_guarantee: bool = False,
) -> str:
    """Push a folder to the Hub, in one commit.

    Args:
        folder (`str` or `Path`): What to push. All of it is published.
        repo_id (`str`): Name of the repository, such as `"me/jobs-dp"`. It is created if it does not exist.
        repo_type (`str`): `"dataset"` or `"model"`.
        report (`PrivacyReport`, *optional*): What is guaranteed for the content.
        private (`bool`, *optional*): Whether a new repository is private. None leaves it to the account's settings.
        token (`str`, *optional*): Token of the Hub, by default the one that you logged in with.
        commit_message (`str`, *optional*): Title of the commit.
        allow_no_guarantee (`bool`, *optional*, defaults to `False`): Push without a finite guarantee.

    Returns:
        `str`: Address of the repository.

    Raises:
        ValueError: There is no finite guarantee, or the repository holds something else than this run's content.
        PermissionError: There is no token.
        ConnectionError: The Hub answered with an error. Nothing of the content is visible there.
    """
    from huggingface_hub import HfApi

    check_guarantee(report, allow_no_guarantee)
    check_token(token, repo_id)
    api = HfApi(token=token)

    def push() -> str:
        address = api.create_repo(repo_id, repo_type=repo_type, private=private, exist_ok=True)
        api.upload_folder(
            repo_id=repo_id,
            repo_type=repo_type,
            folder_path=folder,
            commit_message=commit_message,
            ignore_patterns=["checkpoint-*", ".writing-*", "stage-*"],
            # What an earlier push of the same run left and this one does not bring.
            delete_patterns=["data/*", "seeds/*", "*.safetensors"],
            parent_commit=_check_repo_is_ours(api, repo_id, repo_type, report),
        )
        return str(address)

    try:
        return _with_patience(push)
    except ValueError:
        raise
    except Exception as error:  # The client's transport, which has changed before, has its own exceptions.
        raise ConnectionError(
            f"Pushing to {repo_id!r} broke off: {error}\nA push is one commit, so nothing of it is there. Mend what "
            "the message names, or wait, and push again."
        ) from error


def _with_patience(push: Callable[[], str]) -> str:
    """Try again after an error of the server (status 5xx). The client itself does so for some requests only."""
    from huggingface_hub.errors import HfHubHTTPError

    for seconds in WAITS:
        try:
            return push()
        except HfHubHTTPError as error:
            if error.response.status_code < 500:
                raise
            logger.warning("The Hub answered with status %d. Trying again.", error.response.status_code)
            time.sleep(seconds)
    return push()


def check_token(token: str | None, repo_id: str) -> None:
    """Raise a `PermissionError` if there is no token to push with."""
    from huggingface_hub import get_token

    if token is None and get_token() is None:
        raise PermissionError(
            f"`token`=None, and no token of the Hub was found, so {repo_id!r} cannot be pushed. Log in with "
            "`hf auth login`, set HF_TOKEN, or give `token`: one that may write (huggingface.co/settings/tokens)."
        )


def check_guarantee(report: PrivacyReport | None, allow_no_guarantee: bool) -> None:
    """Raise a `ValueError` if there is no finite guarantee, unless that was asked for explicitly."""
    if allow_no_guarantee or (report is not None and report.is_finite):
        return
    found = "no privacy report was found" if report is None else report.guarantee
    raise ValueError(
        f"This content has no finite privacy guarantee ({found}), so it is not pushed: readers of the Hub could "
        "learn what single clients wrote. If it may be published all the same, say `allow_no_guarantee=True`."
    )


def fetch_folder(
    name: str | Path,
    patterns: list[str],
    revision: str | None = None,
    token: str | None = None,
    repo_type: str = "dataset",
) -> Path:
    """Return a local folder, or fetch the files of a repository that match patterns.

    Raises:
        FileNotFoundError: `name` is neither a folder nor a repository that can be read.
    """
    if Path(name).is_dir():
        return Path(name)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(
            snapshot_download(str(name), repo_type=repo_type, allow_patterns=patterns, revision=revision, token=token)
        )
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, ConnectionError) as error:
        raise FileNotFoundError(
            f"{str(name)!r} is neither a folder nor a {repo_type} repository of the Hub that can be read: {error}"
        ) from error


def find_privacy_report(source: Any, revision: str | None = None, token: str | None = None) -> PrivacyReport | None:
    """Find the guarantee of a dataset: in its `info`, in its folder, or in its repository.

    Args:
        source (`datasets.Dataset`, `str` or `Path`): A dataset that a generator made, a folder, or a repository.
        revision (`str`, *optional*): Revision of the repository.
        token (`str`, *optional*): Token of the Hub.

    Returns:
        `PrivacyReport`, or None if there is none.

    Raises:
        ValueError: The dataset has more rows than the generator wrote: it was joined with others, whose origin is
            unknown.
    """
    if not isinstance(source, (str, Path)):
        return report_of_description(source.info.description or "", source.num_rows)
    folder = fetch_folder(source, [REPORT_NAME], revision, token)
    return PrivacyReport.from_pretrained(folder) if (folder / REPORT_NAME).is_file() else None


_MARK = "privacy_report.json: "


def description_of_report(report: PrivacyReport, num_rows: int) -> str:
    """Write a report as the description of a dataset's `info`, for people and for `find_privacy_report`."""
    return f"{report}\n{_MARK}{json.dumps({'num_rows': num_rows, 'report': report.to_dict()})}"


def report_of_description(description: str, num_rows: int) -> PrivacyReport | None:
    """Read what `description_of_report` wrote. See `find_privacy_report`."""
    found = [json.loads(line[len(_MARK) :]) for line in description.splitlines() if line.startswith(_MARK)]
    if not found:
        return None
    if len(found) > 1 or num_rows > found[0]["num_rows"]:
        raise ValueError(
            f"The dataset carries {len(found)} privacy reports, the first one about {found[0]['num_rows']} texts, but "
            f"has {num_rows} rows: it was joined from several, and no guarantee is known for all of them."
        )
    return PrivacyReport.from_dict(found[0]["report"])


def _check_repo_is_ours(api: Any, repo_id: str, repo_type: str, report: PrivacyReport | None) -> str | None:
    """Refuse a repository that holds something else, and return its latest commit."""
    info = api.repo_info(repo_id, repo_type=repo_type)
    names = {sibling.rfilename for sibling in info.siblings or ()}
    if names <= EMPTY_REPO:
        return info.sha
    if REPORT_NAME not in names:
        raise ValueError(
            f"`repo_id`={repo_id!r} exists and holds other files, such as {sorted(names - EMPTY_REPO)[0]!r}, which a "
            "push would mix with its own. Choose another name, or delete that repository."
        )
    path = api.hf_hub_download(repo_id, REPORT_NAME, repo_type=repo_type, revision=info.sha)
    there = PrivacyReport.from_dict(json.loads(Path(path).read_text(encoding="utf-8")))
    if report is None or not report.covers(there):
        raise ValueError(
            f"`repo_id`={repo_id!r} exists and holds the privacy report of another run (epsilon "
            f"{rounded_up(there.epsilon)}, {there.num_releases} releases). If both runs saw the same clients, their "
            "epsilons add up, and a push would hide the older one. Choose another name, or delete that repository."
        )
    return info.sha
