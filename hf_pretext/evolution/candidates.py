"""The candidates of a round: their texts, and what represents each of them where clients vote."""

from collections.abc import Callable, Sequence
from functools import cached_property
from itertools import chain

import numpy as np

from ..clients.questions import NearestCandidates, Question
from ..configuration import PrivateEvolutionConfig
from ..privacy.plan import VOTES


class Candidates:
    """The texts that clients vote on in one round. Embeddings are computed when they are first needed.

    Args:
        round (`int`): Number of the round, from 1.
        texts (`list` of `str`): The texts.
        config (`PrivateEvolutionConfig`): Votes per sample.
        embed (`Callable`): Embeds texts as unit rows.
        look_ahead (`Callable`, *optional*):
            Makes `K` variations of each text, `K` lists after each other. Without it a text represents itself.
    """

    kind = VOTES.name

    def __init__(
        self,
        round: int,
        texts: list[str],
        config: PrivateEvolutionConfig,
        embed: Callable[[Sequence[str]], np.ndarray],
        look_ahead: Callable[[], list[str]] | None = None,
    ) -> None:
        self.round, self.texts = round, texts
        self._config, self._embed, self._look_ahead = config, embed, look_ahead

    @property
    def step(self) -> str:
        """Name of the step of the run in which clients are asked about them."""
        return f"release-{self.round}"

    @property
    def num_bins(self) -> int:
        """Number of candidates."""
        return len(self.texts)

    def ask(self) -> Question:
        """Make the question for the clients: which of these are nearest to your samples?"""
        return NearestCandidates.of(self.embeddings, self._config.votes_per_sample)

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
