"""The candidates of a round: their texts, and what represents each of them where clients vote."""

from collections.abc import Callable, Sequence
from functools import cached_property
from itertools import chain

import numpy as np

from ..clients.questions import NearestCandidates, NearestLabeledCandidates, Question
from ..configuration import PrivateEvolutionConfig
from ..privacy.plan import LABELED_VOTES, SHARE_WEIGHT, VOTES
from .parts import joined, parts_of


class Candidates:
    """The texts that clients vote on in one round. Embeddings are computed when they are first needed.

    Args:
        round (`int`): Number of the round, from 1.
        texts (`Sequence[Sequence[str]]`): The texts of each label. Without labels, of one part.
        config (`PrivateEvolutionConfig`): Votes per sample, and labels.
        embed (`Callable`): Embeds texts as unit rows.
        look_ahead (`Callable`, *optional*):
            Makes `K` variations of each text, `K` lists after each other. Without it a text represents itself.
    """

    def __init__(
        self,
        round: int,
        texts: Sequence[Sequence[str]],
        config: PrivateEvolutionConfig,
        embed: Callable[[Sequence[str]], np.ndarray],
        look_ahead: Callable[[], list[str]] | None = None,
    ) -> None:
        self.round, self.texts, self.parts = round, joined(texts), parts_of(list(map(len, texts)))
        self._config, self._embed, self._look_ahead = config, embed, look_ahead

    @property
    def step(self) -> str:
        """Name of the step of the run in which clients are asked about them."""
        return f"release-{self.round}"

    @property
    def kind(self) -> str:
        """Name of the question."""
        return (LABELED_VOTES if self._config.labels else VOTES).name

    @property
    def num_bins(self) -> int:
        """Number of candidates, and of labels whose shares are asked for."""
        return len(self.texts) + (len(self._config.label_names) if self._share_weight else 0)

    @property
    def labels(self) -> np.ndarray:
        """Number of the label of each candidate, shape `(m,)`. Without labels it is 0."""
        return np.repeat(np.arange(len(self.parts)), [part.stop - part.start for part in self.parts])

    def ask(self) -> Question:
        """Make the question for the clients: which of these are nearest to your samples?"""
        config = self._config
        if not config.labels:
            return NearestCandidates.of(self.embeddings, config.votes_per_sample)
        asked = self.embeddings, self.labels, len(config.labels), config.votes_per_sample
        return NearestLabeledCandidates.of(*asked, self._share_weight, config.max_samples_per_client)

    @property
    def _share_weight(self) -> float:
        return SHARE_WEIGHT if self._config.labels and self._config.label_shares is None else 0.0

    def votes(self, answer: np.ndarray) -> np.ndarray:
        """Return the votes of the candidates in an answer."""
        return answer[: len(self.texts)]

    def totals(self, answer: np.ndarray) -> np.ndarray:
        """Return what an answer says of the labels. Empty if their shares were not asked for."""
        return answer[len(self.texts) :]

    @cached_property
    def variations(self) -> list[list[str]]:
        """`K` lists with one variation of each text. Empty without lookahead."""
        texts = self._look_ahead() if self._look_ahead is not None else []
        return [texts[start : start + len(self.texts)] for start in range(0, len(texts), len(self.texts))]

    @cached_property
    def embeddings(self) -> np.ndarray:
        """What represents each text: its embedding, or the mean of its variations' embeddings (shape `(m, d)`)."""
        shown = self.variations or [self.texts]
        return self._embed(list(chain(*shown))).reshape(len(shown), len(self.texts), -1).mean(0)
