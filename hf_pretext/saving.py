"""What a generator does with its latest run once it is there: save it, and push it."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .hub import check_guarantee
from .processes import is_main_process
from .saved_runs import SavedRun


class SavesRuns(ABC):
    """Saves and pushes the latest run of a generator."""

    @property
    @abstractmethod
    def _saved_run(self) -> SavedRun:
        """Everything of the latest run that is saved."""

    @abstractmethod
    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Embed public texts."""

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the latest run. Nothing of it is private. With several processes, all of them call it.

        Args:
            folder (`str` or `Path`):
                Gets the settings, `models.json` (which names local models by their path), `privacy_report.json`, the
                seeds of the latest run, its rounds, `evidence.safetensors` for `select`, and, for texts expanded from
                the seeds, the texts (for `datasets.load_from_disk`), the card `README.md`, the picture and the page
                (see `artifacts`).

        Raises:
            ValueError: The folder holds the report of another run, or of one that has spent more. Or it holds files of
                others that would be replaced, such as a `README.md`.
        """
        saved = self._saved_run
        maps = saved.maps(self.embed)
        if is_main_process():
            saved.save(folder, maps)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool | None = None,
        token: str | None = None,
        commit_message: str = "Differentially private synthetic text",
        license: str | None = None,
        language: str | None = None,
        allow_no_guarantee: bool = False,
    ) -> str | None:
        """Push the latest run as a dataset repository, in one commit. With several processes, all of them call it.

        `load_dataset(repo_id)` gives the synthetic texts, and `load_dataset(repo_id, "seeds")` the seeds.
        `from_pretrained(repo_id)` continues the run. The page in the repository publishes some of the public texts.

        Args:
            repo_id (`str`): Name of the repository, such as `"me/jobs-dp"`.
            private (`bool`, *optional*): Whether a new repository is private. See `hub.push_folder`.
            token (`str`, *optional*): Token of the Hub, by default the one that you logged in with.
            commit_message (`str`, *optional*): Title of the commit.
            license (`str`, *optional*): License of the texts for the card, such as `"cc0-1.0"`.
            language (`str`, *optional*): Their language for the card, such as `"en"`.
            allow_no_guarantee (`bool`, *optional*, defaults to `False`): Push even without a finite guarantee.

        Returns:
            `str`: Address of the repository, or None in other processes than the main one.

        Raises:
            ValueError: There are no texts of own seeds, no finite guarantee, or the repository holds something else,
                or is public and should not be.
            PermissionError: There is no token.
            ConnectionError: The push broke off. Nothing of it is on the Hub, and it can be repeated.
        """
        saved = self._saved_run
        if saved.synthetic is None or saved.seeds is None:
            raise ValueError("There is nothing to push: call the generator, or `expand` its own seeds, first.")
        check_guarantee(saved.report, allow_no_guarantee)
        maps = saved.maps(self.embed)
        if not is_main_process():
            return None
        options: dict[str, Any] = {"private": private, "token": token, "allow_no_guarantee": allow_no_guarantee}
        options["commit_message"] = commit_message
        return saved.push(repo_id, maps, license=license, language=language, **options)
