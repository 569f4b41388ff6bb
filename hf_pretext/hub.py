"""The Hub: the only module that talks to it. Everything it sends is public: synthetic texts, seeds, reports, cards.

A push is one commit. So a repository holds a whole run or nothing of it, and a push that broke off can be repeated.
"""

import json
import logging
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .artifacts import (
    AUDIT_NAME,
    AUDIT_SETTINGS_NAME,
    CARD_NAME,
    DATA_FILE,
    REPORT_NAME,
    SEEDS_FILE,
    SEEDS_NAME,
    TOKENS_NAME,
    WEIGHTS_AND_TOKENIZER,
)
from .coverage import report_of_rows
from .data import read_texts
from .data.sources import is_repository
from .privacy.figures import rounded_up
from .privacy.report import PrivacyReport
from .privacy.texts import HASH_BYTES, PATTERN, file_name

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger(__name__)

WAITS = (1, 4)
"""Seconds before a push is tried again."""

EMPTY_REPO = {".gitattributes", CARD_NAME}
"""Files that a repository may hold that someone made on the website and left empty."""

EMPTY_SPACE = EMPTY_REPO | {"index.html", "style.css"}
"""The same for a static Space, which begins with the Hub's own page. Until someone works on it, it has one commit."""


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
        repo_type (`str`): `"dataset"`, `"model"`, or `"space"` for a static one.
        report (`PrivacyReport`, *optional*): What is guaranteed for the content.
        private (`bool`, *optional*):
            Whether a new repository is private. `None` leaves it to the account's settings, and on the Hub's own that
            is public. With `True` a repository that exists must be private.
        token (`str`, *optional*): Token of the Hub, by default the one that you logged in with.
        commit_message (`str`, *optional*): Title of the commit.
        allow_no_guarantee (`bool`, *optional*, defaults to `False`): Push without a finite guarantee.

    Returns:
        `str`: Address of the repository.

    Raises:
        ValueError: There is no finite guarantee, or the repository holds something else than this run's content, or
            is public and should not be.
        PermissionError: There is no token.
        ConnectionError: The Hub answered with an error, or its answer was lost. All of the content is there, or
            nothing.
    """
    from huggingface_hub import HfApi

    check_guarantee(report, allow_no_guarantee)
    check_token(token, repo_id)
    api = HfApi(token=token)
    # What an earlier push of the same run left and this one does not bring, such as the adapter before a whole model.
    earlier = ["data/*", "seeds/*", "*.safetensors", "evaluation.*", TOKENS_NAME, PATTERN]
    earlier += WEIGHTS_AND_TOKENIZER if repo_type == "model" else ()

    def push() -> str:
        sdk = "static" if repo_type == "space" else None
        address = api.create_repo(repo_id, repo_type=repo_type, private=private, exist_ok=True, space_sdk=sdk)
        api.upload_folder(
            repo_id=repo_id,
            repo_type=repo_type,
            folder_path=folder,
            commit_message=commit_message,
            ignore_patterns=["checkpoint-*", ".writing-*", "stage-*"],
            delete_patterns=earlier,
            parent_commit=_check_repo_is_ours(api, repo_id, repo_type, report, private),
        )
        return str(address)

    try:
        return _with_patience(push)
    except ValueError:
        raise
    except Exception as error:  # The client's transport, which has changed before, has its own exceptions.
        raise ConnectionError(
            f"Pushing to {repo_id!r} broke off: {error}\nA push is one commit: all of it is there, or nothing. Look "
            "there, fix what the message names, or wait, and push again."
        ) from error


def _with_patience(push: Callable[[], str]) -> str:
    """Try again after an error that passes. The client itself does so for some requests only."""
    waits = list(WAITS)
    lost: Exception | None = None
    while True:
        try:
            return push()
        except ValueError as error:
            if lost is None:
                raise
            raise ConnectionError(f"{lost}. Then it was refused, as the first try may have arrived: {error}") from lost
        except Exception as error:
            if not waits or not _passes(error):
                raise
            lost = error
            logger.warning("The push broke off: %s. Trying again.", error)
            time.sleep(waits.pop(0))


_OF_THE_NETWORK = {
    "requests": ("ConnectionError", "Timeout"),
    "httpx": ("TransportError",),
    "httpx2": ("TransportError",),
}
"""Errors of the libraries by which the Hub's client may have sent a request."""


def _passes(error: Exception) -> bool:
    """Return whether an error may be gone soon: of the server (status 5xx or 429), of the network, or a timeout."""
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    if isinstance(error, HfHubHTTPError):
        return error.response.status_code >= 500 or error.response.status_code == 429
    # A library that was never imported raised nothing.
    loaded = {name: sys.modules[name] for name in _OF_THE_NETWORK if name in sys.modules}
    kinds = [vars(module)[kind] for name, module in loaded.items() for kind in _OF_THE_NETWORK[name]]
    is_of_the_network = isinstance(error, (ConnectionError, TimeoutError, *kinds))
    return is_of_the_network and not isinstance(error, OfflineModeIsEnabled)


def check_token(token: str | None, repo_id: str) -> None:
    """Raise a `PermissionError` if there is no token to push with."""
    from huggingface_hub import get_token

    if token is None and get_token() is None:
        raise PermissionError(
            f"`token`=None, and no token of the Hub was found, so {repo_id!r} cannot be pushed. Log in with "
            "`hf auth login`, set HF_TOKEN, or give `token`: one that may write (huggingface.co/settings/tokens)."
        )


def check_push(
    repo_id: str,
    repo_type: str,
    report: PrivacyReport | None,
    *,
    private: bool | None = None,
    token: str | None = None,
    allow_no_guarantee: bool = False,
) -> None:
    """Refuse a push before hours of work whose result it would publish.

    Args:
        repo_id (`str`): Name of the repository. There may be none of that name yet.
        repo_type (`str`): `"dataset"`, `"model"` or `"space"`.
        report (`PrivacyReport`, *optional*): What will be guaranteed for the content.
        private (`bool`, *optional*): As in `push_folder`.
        token (`str`, *optional*): Token of the Hub, by default the one that you logged in with.
        allow_no_guarantee (`bool`, *optional*, defaults to `False`): Push without a finite guarantee.

    Raises:
        ValueError: There is no finite guarantee, no repository can have that name, or it holds something else, or is
            public and should not be.
        PermissionError: There is no token.
        ConnectionError: The Hub does not say what is there.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RepositoryNotFoundError

    check_guarantee(report, allow_no_guarantee)
    check_token(token, repo_id)
    try:
        _check_repo_is_ours(HfApi(token=token), repo_id, repo_type, report, private)
    except RepositoryNotFoundError:
        return  # The push creates it.
    except ValueError:
        raise
    except Exception as error:  # As in `push_folder`.
        raise ConnectionError(
            f"Nothing was begun, as the Hub does not say whether {repo_id!r} may be pushed to: {error}\nWait, or push "
            "when all is done."
        ) from error


def check_guarantee(report: PrivacyReport | None, allow_no_guarantee: bool) -> None:
    """Raise a `ValueError` if there is no finite guarantee, unless that was asked for explicitly."""
    if allow_no_guarantee or (report is not None and report.is_finite):
        return
    found = "no privacy report was found" if report is None else report.guarantee
    raise ValueError(
        f"This content has no finite privacy guarantee ({found}), so it is not pushed: readers of the Hub could "
        "learn what single clients wrote. If it may be published all the same, say `allow_no_guarantee=True`."
    )


def is_audited(folder: str | Path) -> bool:
    """Return whether a folder holds an audited run, also one whose audit did not end."""
    return any((Path(folder) / name).is_file() for name in (AUDIT_NAME, AUDIT_SETTINGS_NAME))


def check_is_not_audited(folder: str | Path, audit: str | Path | None = None) -> None:
    """Raise a `ValueError` if the run in a folder is audited, or is to be shown with an audit."""
    if audit is not None or is_audited(folder):
        raise ValueError(
            f"{str(folder)!r} holds an audited run. Its texts were written with planted samples, and what an audit "
            "finds is about private data. It is neither published nor made a run that can be. Use a run without an "
            "audit."
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


def is_of_a_run(source: str) -> bool:
    """Return whether a privacy report lies beside texts: in their repository, or where a run or a copy has it."""
    if is_repository(source):
        return (fetch_folder(source, [REPORT_NAME]) / REPORT_NAME).is_file()
    inner = {Path(file).parent.name for file in (DATA_FILE, SEEDS_FILE)}
    places = []
    # A file of the Hub's cache is a link to another folder than that of its report.
    for path in {Path(source).absolute(), Path(source).resolve()}:
        places += [path, *([path.parent] if path.name in {SEEDS_NAME, *inner} else [])]
        places += [path.parent.parent] if path.parent.name in inner else []
    return any((place / REPORT_NAME).is_file() for place in places)


def find_privacy_report(
    source: "Dataset | str | Path",
    name: str | Path | None = None,
    *,
    revision: str | None = None,
    token: str | None = None,
    text_column: str | Sequence[str] | None = None,
) -> PrivacyReport | None:
    """Find the guarantee of all rows of a dataset. See `coverage.report_of_rows`.

    Args:
        source (`datasets.Dataset`, `str` or `Path`): A dataset, or a folder or repository that holds one.
        name (`str` or `Path`, *optional*):
            Folder or repository that the dataset was loaded from, such as `"me/jobs-dp"`, with the report and the list
            of its texts. A dataset that a generator returned, or that was loaded from a folder, knows it.
        revision (`str`, *optional*): Revision of the repository.
        token (`str`, *optional*): Token of the Hub.
        text_column (`str` or `Sequence[str]`, *optional*):
            Columns that the guarantee is to be about, by default those that the report names.

    Returns:
        `PrivacyReport`: The report, or the sum of several. None if a single row is not covered, or, with a warning, if
        the rows are of an audited run, whose clients are planted.
    """
    if isinstance(source, (str, Path)) and Path(source).is_file():
        return None  # No report lies beside a file.
    own = [] if isinstance(source, (str, Path)) else [Path(file["filename"]).parent for file in source.cache_files]
    name = source if isinstance(source, (str, Path)) else name
    if audited := next(filter(is_audited, [*own, *([] if name is None else [name])]), None):
        logger.warning("%r holds an audited run. No guarantee is claimed for its texts.", str(audited))
        return None
    folders = [] if name is None or Path(name).is_file() else [fetch_guarantee(name, revision, token)]
    if isinstance(source, (str, Path)):
        columns = text_column or _columns_of(folders[0])
        source = read_texts(
            source,
            None,
            other_columns=[columns] if isinstance(columns, str) else columns,
            revision=revision,
            token=token,
        )
    return report_of_rows(source, folders, text_column)


def _columns_of(folder: Path) -> Sequence[str]:
    """Return what the report in a folder is about. Without one, only marks of the dataset name the columns."""
    is_there = (folder / REPORT_NAME).is_file()
    return PrivacyReport.from_pretrained(folder).columns if is_there else ()


def fetch_guarantee(name: str | Path, revision: str | None = None, token: str | None = None) -> Path:
    """Return a local folder, or fetch the report and the list of texts of a dataset repository.

    A list of another size than the report names is not fetched.
    """
    folder = fetch_folder(name, [REPORT_NAME], revision, token)
    if Path(name).is_dir() or not (folder / REPORT_NAME).is_file():
        return folder
    report = PrivacyReport.from_pretrained(folder)
    if report.texts_digest is None:
        return folder
    from huggingface_hub import HfApi

    file = file_name(report.texts_digest)
    try:
        infos: list[Any] = HfApi(token=token).get_paths_info(str(name), [file], repo_type="dataset", revision=revision)
    except Exception as error:  # The client's transport has its own exceptions. Offline, a cache may have the file.
        logger.info("The size of %s could not be determined: %s", file, error)
        return folder
    if [info.size for info in infos] != [(report.num_texts or 0) * HASH_BYTES]:
        logger.warning("%s in %r does not have the size that the privacy report names.", file, str(name))
        return folder
    return fetch_folder(name, [REPORT_NAME, file], revision, token)


def _is_untouched(api: Any, repo_id: str) -> bool:
    return len(api.list_repo_commits(repo_id, repo_type="space")) == 1


def _check_repo_is_ours(
    api: Any, repo_id: str, repo_type: str, report: PrivacyReport | None, private: bool | None
) -> str | None:
    """Refuse a repository that holds something else or is public and should not be, and return its latest commit."""
    info = api.repo_info(repo_id, repo_type=repo_type)
    if private and not info.private:
        raise ValueError(
            f"`private`=True, but {repo_id!r} exists and is public. Make it private in its settings on the Hub, or "
            "choose another name."
        )
    names = {sibling.rfilename for sibling in info.siblings or ()}
    if names <= EMPTY_REPO or (repo_type == "space" and names <= EMPTY_SPACE and _is_untouched(api, repo_id)):
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
