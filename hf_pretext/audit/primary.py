"""The primary attack of an audit: what canaries of every round change in the releases, in units of the noise.

It is named beforehand, so its confidence pays for no choice. The attacker knows the canaries and the releases. Of each
canary it wants to know whether it participated.

*What is measured.* A canary adds a vector of known direction to every release (`effects`). The attacker projects the
answer onto a direction of the canary's own. The directions of all canaries are orthonormal. The scores of all
releases are added, each weighted by its effect over the variance that is claimed for its noise. That is the best
attack on Gaussian releases, and it reaches the sum of the `mu^2` of the releases. `mu` is how far the scores of
members are above the others', in standard deviations. The releases of one kind of question are read in the same way.
Under `"replace_one"` one client leaves and another comes. Two canaries have directions at right angles, so whoever
exchanges them changes `sqrt(2)` times as much.

*Why the interval is valid, and under which assumptions.* (1) The noise of different bins is independent, and Gaussian
with one variance. For the discrete Gaussian of a release this holds to all digits that matter. Along orthonormal
directions it remains so. (2) Coins are fair and independent, and each canary that participates adds what it should.
Then the difference of the means over the pooled standard deviation has a noncentral t distribution, for any number of
canaries (Johnson and Welch 1940). Its noncentrality is `mu` over the known `sqrt(1 / members + 1 / others)`. The
interval inverts that distribution. With one vote per sample it is exact, not asymptotic: variances need not be allowed
to differ, as in a test by Welch, because who participates does not change the noise. With several votes per sample the
effects of canaries differ, and it is approximate. (3) Other clients, and other canaries with a similar
direction, add to a score. Coins are independent of that, so it adds to the standard deviation, and `mu` is read too
small. The bound stays valid, but faults are harder to notice. A bin with very many votes of others is left out
(`OUTLIER`). (4) All clients participate in each release. With `client_sampling_rate` below 1, members' scores are a
mixture, and the interval is approximate.

*From `mu` to epsilon.* The scores of a member and of another target are Gaussians `mu` apart. Any mechanism that
allows this has at least the epsilon of the Gaussian mechanism with noise multiplier `1 / mu`, at the same delta. If an
assumption fails, then so may this reading. The bound of Steinke et al. (`epsilon_lower_bound`) needs fair coins only.
It holds for any mechanism, proves much less, and is a secondary reading.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

import numpy as np

from ..clients.clipping import quantize
from ..clients.questions import Question
from ..clients.questions.summing import answers_of
from ..clients.samples import Samples
from ..privacy.accounting import combined_multiplier, epsilon_of_gaussian, multiplier_of_gaussian
from ..privacy.mechanism import Mechanism
from ..privacy.plan import Plan
from .canaries import Released

OWN_DIRECTION = 0.1
"""A canary has a direction of its own if this fraction of what it adds is beyond what canaries before it span."""

OUTLIER = 8.0
"""Standard deviations of the claimed noise beyond which other clients must have voted for a canary's bin.

The canary's score is then left out of this release. Its own vote is too small to decide that.
"""

LARGEST_MU = 10.0
"""A larger mu is read as this one. It says that there is no noise to speak of."""

QUANTILES = 2000
"""Number of quantiles of the chi-squared distribution by which a noncentral t distribution is computed."""


@dataclass(frozen=True)
class MuReading:
    """What the primary attack measured.

    Args:
        question (`str`): The kind of question, or all kinds together.
        mu (`float`): Difference of members' and others' scores in standard deviations.
        low (`float`): Lower end of its interval, at least zero.
        high (`float`): Upper end.
        error (`float`): Standard error of `mu`.
        claimed_mu (`float`): What the plan of the run claims.
        refuting_mu (`float`): Above which the lower end refutes the claimed epsilon. An accountant that is not exact
            claims more than `claimed_mu` costs.
        epsilon_lower_bound (`float`): The epsilon of `low`.
        claimed_epsilon (`float`): What the plan claims for these releases, at the same delta.
        confidence (`float`): Probability with which the lower bound holds. That of the interval misses twice as much.
        num_targets (`int`): Number of canaries.
        num_members (`int`): How many of them participated.
    """

    question: str
    mu: float
    low: float
    high: float
    error: float
    claimed_mu: float
    refuting_mu: float
    epsilon_lower_bound: float
    claimed_epsilon: float
    confidence: float
    num_targets: int
    num_members: int

    @property
    def is_refuted(self) -> bool:
        """Whether the bound is above the claim."""
        return self.epsilon_lower_bound > self.claimed_epsilon

    @property
    def power_against_halved_noise(self) -> float:
        """Probability that the claim is refuted if the noise is half, and canaries have the effect measured here."""
        from scipy.optimize import brentq

        freedom, refuting, miss = self.num_targets - 2, self.refuting_mu / self.error, 1 - self.confidence
        border = brentq(lambda t: _exceeds(t, refuting, freedom) - miss, -10, 3 * refuting + 50)
        return _exceeds(border, 2 * self.mu / self.error, freedom)

    def to_dict(self) -> dict[str, Any]:
        """Return the figures as a dictionary that JSON can hold."""
        figures = {"is_refuted": self.is_refuted, "power_against_halved_noise": self.power_against_halved_noise}
        return {**asdict(self), **figures}


def read_mu(
    scores: np.ndarray, is_member: np.ndarray, plan: Plan, question: str | None = None, confidence: float = 0.975
) -> MuReading:
    """Read the scores of canaries as mu, and hold it against what the plan of the run claims.

    Args:
        scores (`np.ndarray` of shape `(n,)`): What `canary_scores` returns.
        is_member (`np.ndarray` of shape `(n,)`): The results of fair and independent coins.
        plan (`Plan`): The plan of the run.
        question (`str`, *optional*): The kind of question that the scores are about. By default all kinds together.
        confidence (`float`, *optional*, defaults to `0.975`): Probability with which the lower bound holds.

    Raises:
        ValueError: There are fewer than two members, or fewer than two others.
    """
    entries = plan.releases if question is None else (plan.entry(question),)
    releases = [(entry.mechanism, entry.num_bins) for entry in entries for _ in range(entry.count)]
    exchanges = entries[0].mechanism.neighboring_relation == "replace_one"
    found = (*mu_interval(scores, is_member, confidence), _error(int(is_member.sum()), len(scores)))
    mu, low, high, error = (math.sqrt(2 if exchanges else 1) * each for each in found)
    claimed_epsilon = plan.epsilon(plan.delta, releases)
    return MuReading(
        question or " and ".join(entry.question for entry in entries),
        *(mu, low, high, error),
        refuting_mu=1 / multiplier_of_gaussian(claimed_epsilon, plan.delta),
        claimed_mu=1 / combined_multiplier([mechanism.noise_multiplier for mechanism, _ in releases]),
        epsilon_lower_bound=epsilon_of_gaussian(1 / low, plan.delta) if low else 0.0,
        claimed_epsilon=claimed_epsilon,
        confidence=confidence,
        num_targets=len(scores),
        num_members=int(is_member.sum()),
    )


def mu_interval(scores: np.ndarray, is_member: np.ndarray, confidence: float) -> tuple[float, float, float]:
    """Compute the difference of two means in standard deviations, and its exact interval for Gaussian scores.

    Args:
        scores (`np.ndarray` of shape `(n,)`): The scores.
        is_member (`np.ndarray` of shape `(n,)`): Which of them should be higher.
        confidence (`float`): Probability with which the lower end holds, and with which the upper end holds.

    Returns:
        `tuple` of three `float`: The difference, the lower end and the upper end. The ends are at least zero.

    Raises:
        ValueError: There are fewer than two members, or fewer than two others.
    """
    from scipy.optimize import brentq

    check_coins(is_member)
    members, others = scores[is_member], scores[~is_member]
    difference, freedom = float(members.mean() - others.mean()), len(scores) - 2
    squares = sum(float(((part - part.mean()) ** 2).sum()) for part in (members, others))
    spread = max(math.sqrt(squares / freedom), abs(difference) / LARGEST_MU, 1e-12)
    error = _error(len(members), len(scores))
    observed = difference / spread / error

    def end(tail: float) -> float:
        """Find the largest noncentrality that makes the observed difference too large, or zero."""
        if _exceeds(observed, 0.0, freedom) >= tail:
            return 0.0
        return error * float(brentq(lambda it: _exceeds(observed, it, freedom) - tail, 0.0, 4 * abs(observed) + 50))

    return difference / spread, end(1 - confidence), end(confidence)


def check_coins(is_member: np.ndarray) -> None:
    """Raise a `ValueError` if there are fewer than two members, or fewer than two others."""
    num_members, num_others = int(is_member.sum()), int((~is_member).sum())
    if min(num_members, num_others) < 2:
        raise ValueError(
            f"`is_member` has {num_members} members and {num_others} others. Use more targets: it needs two of each."
        )


def _error(num_members: int, num_targets: int) -> float:
    """Compute the standard error of the difference of two means, in standard deviations of a score."""
    return math.sqrt(1 / num_members + 1 / (num_targets - num_members))


def _exceeds(observed: float, noncentrality: float, freedom: int) -> float:
    """Compute the probability that a noncentral t variable exceeds a value.

    It is the average of a Gaussian probability over the quantiles of the estimated standard deviation, which has no
    numerical trouble at large values.
    """
    from scipy.special import ndtr

    return float(ndtr(noncentrality - observed * _deviations(freedom)).mean())


@cache
def _deviations(freedom: int) -> np.ndarray:
    from scipy.stats import chi2

    return np.sqrt(chi2.ppf((np.arange(QUANTILES) + 0.5) / QUANTILES, freedom) / freedom)


def canary_scores(released: Sequence[Released], canaries: Samples) -> np.ndarray:
    """Score canaries by releases: along a direction of its own each, weighted by what the noise is claimed to be.

    Args:
        released (`Sequence[Released]`): Releases in which each canary was asked.
        canaries (`Samples`): The samples of each canary.

    Returns:
        `np.ndarray` of shape `(n,)`: A score for each canary. Those of members should be higher.
    """
    scores = np.zeros(int(canaries.owners[-1]) + 1)
    for question, mechanism, answer in released:
        added = effects(question, canaries, mechanism)
        directions = own_directions(added)
        along = np.einsum("bn,bn->n", directions, added)
        found = answer @ directions
        found -= np.median(found)
        found[np.abs(found) > OUTLIER * mechanism.noise_std] = 0
        scores += along * found / mechanism.noise_std**2
    return scores


def effects(question: Question, canaries: Samples, mechanism: Mechanism) -> np.ndarray:
    """Compute what each canary adds to a release if it participates, shape `(num_bins, n)`."""
    answers = quantize(answers_of(question, canaries, question.num_bins), mechanism.clip_norm, mechanism.units)
    added = np.zeros((question.num_bins, int(canaries.owners[-1]) + 1))
    added[answers.bins, answers.clients] = answers.values / mechanism.units
    return added


def own_directions(added: np.ndarray) -> np.ndarray:
    """Find orthonormal directions that are nearest to what each canary adds (Löwdin 1950).

    Noise along orthonormal directions is independent. Canaries are taken in an order in which each adds as much
    as possible beyond what those before it span. One that adds nearly nothing has no direction of its own. It gets
    zeros, and its score says nothing about this release.

    Args:
        added (`np.ndarray` of shape `(num_bins, n)`): What each canary adds.

    Returns:
        `np.ndarray` of shape `(num_bins, n)`: Unit columns at right angles, or zeros.
    """
    from scipy.linalg import qr

    gram, lengths = added.T @ added, np.linalg.norm(added, axis=0)
    if not (gram - np.diag(np.diag(gram))).any():  # Each canary alone in its bins, as with one vote per sample.
        return added / np.where(lengths > 0, lengths, 1.0)
    upper, order = qr(added, mode="r", pivoting=True)
    beyond = np.abs(np.diag(upper))
    is_own = order[: len(beyond)][beyond > OWN_DIRECTION * max(float(lengths.max()), 1e-9)]
    directions = np.zeros_like(added)
    values, vectors = np.linalg.eigh(gram[np.ix_(is_own, is_own)])
    directions[:, is_own] = added[:, is_own] @ (vectors / np.sqrt(values)) @ vectors.T
    return directions
