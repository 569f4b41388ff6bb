"""A question that is asked once, before the first round."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..clients.questions import Question


@dataclass(frozen=True)
class FirstQuestion:
    """A question that is asked once, before the first round.

    Args:
        kind (`str`): Name of the question.
        ask (`Callable`): Makes the question, when it has not been answered yet.
        read (`Callable`): Takes in the noisy answer.
        num_bins (`int`, *optional*): Bins of an answer that is kept, if it is checked before the question is made.
    """

    kind: str
    ask: Callable[[], Question]
    read: Callable[[np.ndarray], None]
    num_bins: int | None = None

    @property
    def step(self) -> str:
        """Name of the step of the run in which the clients are asked."""
        return f"release-{self.kind}"
