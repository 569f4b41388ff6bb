"""The wall: what a server may ask of the private side, and how every answer is counted."""

import logging
import warnings
from abc import ABC, abstractmethod
from typing import Any, final

import numpy as np

from ..configuration import PrivateEvolutionConfig
from ..privacy.bill import better_votes_per_sample
from ..privacy.figures import rounded_up
from ..privacy.ledger import CountsAlone, PrivacyLedger
from ..privacy.mechanism import Mechanism
from ..privacy.plan import Plan
from .questions import Question

logger = logging.getLogger(__name__)


class ClientPool(CountsAlone, ABC):
    """The clients, as far as a server may see them: a public number of them, and one operation.

    `release` takes a question, and returns the noisy sum of the clients' vectors. What it releases, to whoever holds
    the pool: the sum over the clients of integer vectors whose L2 norm is bounded, plus discrete Gaussian noise. The
    unit is the client, and the sensitivity is that of the question's `Mechanism`. Nothing else leaves: no text, no
    embedding, no clean sum, no distance, in no log and no error message.

    `release` is final, so that no pool can forget to count. A subclass writes `num_clients` and `_answer`, and may
    write `_prepare`. There is no guarantee about its releases, because the library cannot know its noise.
    """

    def __init_subclass__(cls, **arguments: Any) -> None:
        super().__init_subclass__(**arguments)
        if cls.release is not ClientPool.release:
            raise TypeError(f"{cls.__name__} must not replace `release`, which counts every release. Write `_answer`.")

    @property
    @abstractmethod
    def num_clients(self) -> int:
        """Number of clients. It counts as public."""

    @property
    def plan(self) -> Plan | None:
        """The plan that the pool was made for. None if it answers by any plan."""
        return None

    @property
    def noise_is_genuine(self) -> bool:
        """Whether `_answer` adds the library's own noise. If not, there is no guarantee about anything released."""
        return False

    def _prepare(self, question: Question, mechanism: Mechanism) -> None:  # noqa: B027 - nothing is a good default
        """Refuse, before anything is spent, a question that cannot be answered. By default nothing is refused."""

    def check_dimensions(self, num_dimensions: int) -> None:  # noqa: B027 - nothing is a good default
        """Refuse, before the first release, clients whose embedding model is another one than the server's.

        Not every question is about embeddings, so the first that is may be asked after others were paid for.

        Args:
            num_dimensions (`int`): Dimensions of the server's embeddings.

        Raises:
            ValueError: Those of the clients have others.
        """

    @abstractmethod
    def _answer(self, question: Question, mechanism: Mechanism) -> np.ndarray:
        """Sum the clients' contributions and add the noise. The release is counted already.

        Only `release` calls it: what it returns has to be counted before and kept after.

        Args:
            question (`Question`): What is asked.
            mechanism (`Mechanism`): Norm, units, and noise.

        Returns:
            `np.ndarray` of shape `(question.num_bins,)`: The noisy sum, in integer units, int64.

        Raises:
            ReleaseLostError: There is no answer. The release stays counted.
        """

    @final
    def release(self, question: Question, ledger: PrivacyLedger) -> np.ndarray:
        """Prepare, count, answer with noise, keep, and only then return the answer.

        Args:
            question (`Question`): What is asked. It has to be in the ledger's plan.
            ledger (`PrivacyLedger`): Counts the release, and keeps its answer.

        Returns:
            `np.ndarray` of shape `(question.num_bins,)`: The noisy sum, float64.

        Raises:
            ValueError: The question or the pool does not follow the plan, or the question cannot be answered. Nothing
                is spent.
            ReleaseLostError: The release is counted, but there is no answer.
        """
        if not isinstance(question, Question):
            raise TypeError(f"A question of type {type(question).__name__} must be a subclass of `Question`.")
        if self.plan is not None and (differences := ledger.plan.differences(self.plan.to_dict())):
            raise ValueError(
                f"This pool was made for another plan than the ledger's: {', '.join(differences[:3])}. Make it with "
                "`generator.ledger.plan`."
            )
        # A copy, which no one keeps: what a question notes down while it reads private text ends with it.
        asked = question.copy()
        mechanism = ledger.mechanism(asked)
        self._prepare(asked, mechanism)
        # From here on it is spent, whatever happens: a process that ends now leaves a release that is counted.
        ledger.record(asked, self.noise_is_genuine)
        noisy = self._answer(asked, mechanism) / mechanism.units
        ledger.keep(noisy)
        return noisy

    def costs(self) -> dict[str, Any] | None:
        """Return what the releases so far cost the clients, for the card. None if no network lies between."""
        return None


def warn_of_delta(delta: float, num_clients: int) -> None:
    """Warn if `delta` is too large to mean anything for this many clients."""
    if delta >= 1 / num_clients:
        warnings.warn(
            f"`delta`={rounded_up(delta)} is not below one over the number of clients ({num_clients}). A mechanism "
            "that publishes one random client's text would satisfy such a guarantee. Choose a `delta` well below "
            f"{1 / num_clients:.1e}.",
            stacklevel=4,
        )


def warn_of_few_clients(config: PrivateEvolutionConfig, plan: Plan, num_clients: int) -> None:
    """Log a warning if the noise is large for this many clients, and more votes per sample would stand out better."""
    better = better_votes_per_sample(config, plan, num_clients)
    if better is not None:
        logger.warning(
            "There are %d clients, which is few for this noise: with `votes_per_sample`=%d instead of %d, the same "
            "guarantee shows more of what they hold.",
            num_clients,
            better,
            config.votes_per_sample,
        )
