"""What a sequence of Gaussian releases costs: accountants, and the calibration of noise to an epsilon."""

import math
from collections.abc import Callable, Sequence
from functools import cache, lru_cache
from typing import Any, Protocol, runtime_checkable

from ..settings import check_name
from .figures import rounded_up

ALIASES = {"pld": "exact"}
"""Names of accountants in configurations of the first edition."""

PRIVACY_LOSS_STEP = 3e-4
"""Grid of privacy losses. Ten releases cost about 1e-6 more on it than on dp-accounting's own, three times as fine."""

SMALLEST_MULTIPLIER, LARGEST_MULTIPLIER = 1e-6, 1e12
"""Noise multipliers that a calibration tries."""

ORDERS_OF_SAMPLES = [*range(2, 64), 128, 256, 512, 1024]
"""Orders of Rényi divergences for a sample of the clients."""


@runtime_checkable
class Accountant(Protocol):
    """Computes the epsilon of releases. Give an object of your own as `accountant` to a generator.

    A row of `ACCOUNTANTS`, or any object with these two members. What an accountant does not cover it has to refuse.

    Attributes:
        name (`str`): What reports call it.
    """

    name: str

    def epsilon(self, noise_multipliers: Sequence[float], delta: float, sampling_rate: float = 1.0) -> float:
        """Compute the epsilon of several releases of the Gaussian mechanism, about the same clients.

        Args:
            noise_multipliers (`Sequence[float]`): Noise standard deviation over L2 sensitivity, one per release.
            delta (`float`): The additive term of (epsilon, delta)-differential privacy.
            sampling_rate (`float`, *optional*, defaults to `1.0`):
                Probability with which each client participates in a release, under `"add_or_remove_one"`.

        Raises:
            ValueError: The accountant does not cover this.
        """
        ...


class ExactAccountant:
    """The exact epsilon if all clients participate, else dp-accounting's privacy loss distribution.

    Gaussian releases with multipliers `m_i` are one release with multiplier `1 / sqrt(sum of 1 / m_i^2)` (Dong, Roth
    and Su 2022, arXiv 1905.02383, corollary 3.3). Its privacy curve has a closed form (Balle and Wang 2018, arXiv
    1805.06530, theorem 8). With a sample of the clients there is none. The privacy loss distributions are then
    composed numerically, and their rounding errs on the safe side.
    """

    name = "exact"

    def epsilon(self, noise_multipliers: Sequence[float], delta: float, sampling_rate: float = 1.0) -> float:
        """Compute the smallest epsilon. See `Accountant`."""
        if sampling_rate < 1:
            return _compose("pld", tuple(noise_multipliers), delta, sampling_rate)
        return epsilon_of_gaussian(combined_multiplier(noise_multipliers), delta)


class RenyiAccountant:
    """The bound by Rényi differential privacy that the paper uses, by dp-accounting."""

    name = "rdp"

    def epsilon(self, noise_multipliers: Sequence[float], delta: float, sampling_rate: float = 1.0) -> float:
        """Compute an upper bound of epsilon. See `Accountant`."""
        return _compose("rdp", tuple(noise_multipliers), delta, sampling_rate)


ACCOUNTANTS: dict[str, Accountant] = {each.name: each for each in (ExactAccountant(), RenyiAccountant())}
"""The accountants that a configuration can name."""


def find_accountant(accountant: "str | Accountant") -> Accountant:
    """Return the accountant of a name, or an accountant itself.

    Raises:
        ValueError: No accountant has that name.
        TypeError: The object is not an accountant.
    """
    if not isinstance(accountant, str):
        if not isinstance(accountant, Accountant):
            raise TypeError(
                f"`accountant` of type {type(accountant).__name__} needs a `name` and a method `epsilon` (see "
                "`hf_pretext.privacy.Accountant`)."
            )
        check_name("accountant.name", accountant.name)
        if ACCOUNTANTS.get(ALIASES.get(accountant.name, accountant.name), accountant) is not accountant:
            raise ValueError(
                f"`accountant.name`={accountant.name!r} is the name of an accountant of the library, which reports "
                "rely on. Choose another one."
            )
        return accountant
    name = ALIASES.get(accountant, accountant)
    if name not in ACCOUNTANTS:
        raise ValueError(f"`accountant`={accountant!r} must be one of {[*ACCOUNTANTS, *ALIASES]}.")
    return ACCOUNTANTS[name]


def checked_epsilon(
    accountant: Accountant, noise_multipliers: Sequence[float], delta: float, sampling_rate: float
) -> float:
    """Ask an accountant, and refuse what is not an epsilon.

    Raises:
        ValueError: The accountant returned something else than a number of at least zero.
    """
    epsilon = float(accountant.epsilon(noise_multipliers, delta, sampling_rate))
    if not epsilon >= 0:
        raise ValueError(
            f"The accountant {accountant.name!r} returned epsilon = {epsilon}, which is not zero or above."
        )
    return epsilon


def assumptions_of(accountant: str) -> tuple[str, ...]:
    """Return what a guarantee assumes of the accountant, by its name: that one of the caller's is right."""
    if accountant in ACCOUNTANTS:
        return ()
    return (f"The accountant {accountant!r}, which is not part of the library, is right.",)


def method_of(accountant: str, sampling_rate: float) -> str:
    """Name the method that computed an epsilon, in words for a report."""
    if accountant == "exact":
        return (
            "numerically from dp-accounting's privacy loss distributions"
            if sampling_rate < 1
            else "by the closed form of the Gaussian mechanism"
        )
    if accountant == "rdp":
        return "as a bound by Rényi differential privacy"
    return f"by the accountant {accountant!r}, which the caller gave and which is not part of the library"


def combined_multiplier(noise_multipliers: Sequence[float]) -> float:
    """Compute the noise multiplier of the one Gaussian release that costs what all of these cost together."""
    return 1 / math.sqrt(math.fsum(1 / each**2 for each in noise_multipliers))


def epsilon_of_gaussian(noise_multiplier: float, delta: float) -> float:
    """Compute the exact epsilon of one Gaussian release (Balle and Wang 2018, arXiv 1805.06530, theorem 8).

    Args:
        noise_multiplier (`float`): Standard deviation of the noise over the L2 sensitivity.
        delta (`float`): The additive term of (epsilon, delta)-differential privacy.
    """
    log_delta = math.log(delta)
    largest = 1.0
    while _log_delta(noise_multiplier, largest) > log_delta:
        largest *= 2
        if math.isinf(largest):
            return math.inf
    return _solve(lambda epsilon: _log_delta(noise_multiplier, epsilon) - log_delta, 0.0, largest)


def multiplier_of_gaussian(epsilon: float, delta: float) -> float:
    """Compute the smallest noise multiplier of one Gaussian release that costs `epsilon`."""
    log_delta = math.log(delta)
    smallest = largest = 1.0
    while _log_delta(largest, epsilon) > log_delta:
        largest *= 2
    while _log_delta(smallest, epsilon) < log_delta:
        smallest /= 2
    return _solve(lambda multiplier: _log_delta(multiplier, epsilon) - log_delta, smallest, largest)


def compute_epsilon(
    noise_multiplier: float,
    delta: float,
    num_rounds: int,
    accountant: "str | Accountant" = "exact",
    sampling_rate: float = 1.0,
) -> float:
    """Compute the epsilon of several equal releases of the Gaussian mechanism.

    Args:
        noise_multiplier (`float`): Standard deviation of the noise over the L2 sensitivity, in each release.
        delta (`float`): The additive term of (epsilon, delta)-differential privacy.
        num_rounds (`int`): Number of releases. Zero of them cost nothing.
        accountant (`str` or `Accountant`, *optional*, defaults to `"exact"`):
            `"exact"` (also called `"pld"`) or `"rdp"`, the paper's bound.
        sampling_rate (`float`, *optional*, defaults to `1.0`):
            Probability with which each client participates in a release, under `"add_or_remove_one"`.

    Returns:
        `float`: The smallest epsilon that the accountant proves.

    Raises:
        ValueError: An argument is out of its range.
    """
    _check(delta, num_rounds, sampling_rate)
    if not noise_multiplier > 0:
        raise ValueError(
            f"`noise_multiplier`={noise_multiplier} must be positive: there is no guarantee without noise."
        )
    found = find_accountant(accountant)
    return found.epsilon([noise_multiplier] * num_rounds, delta, sampling_rate) if num_rounds else 0.0


def calibrate_noise_multiplier(
    epsilon: float,
    delta: float,
    num_rounds: int,
    accountant: "str | Accountant" = "exact",
    sampling_rate: float = 1.0,
) -> float:
    """Compute the smallest noise multiplier with which several equal releases cost `epsilon`.

    Args:
        epsilon (`float`): Total privacy loss that is allowed.
        delta (`float`): The additive term of (epsilon, delta)-differential privacy.
        num_rounds (`int`): Number of releases.
        accountant (`str` or `Accountant`, *optional*, defaults to `"exact"`): As in `compute_epsilon`.
        sampling_rate (`float`, *optional*, defaults to `1.0`): As in `compute_epsilon`.

    Returns:
        `float`: Standard deviation of each release's noise over the L2 sensitivity.

    Raises:
        ValueError: An argument is out of its range.
    """
    if num_rounds < 1:
        raise ValueError(f"`num_rounds`={num_rounds} must be at least 1.")
    return calibrate(epsilon, delta, [1 / num_rounds] * num_rounds, accountant, sampling_rate)[0]


def calibrate(
    epsilon: float,
    delta: float,
    fractions: Sequence[float],
    accountant: "str | Accountant" = "exact",
    sampling_rate: float = 1.0,
) -> list[float]:
    """Compute the smallest noise multipliers of releases that divide a budget.

    Args:
        epsilon (`float`): Total privacy loss that is allowed.
        delta (`float`): The additive term of (epsilon, delta)-differential privacy.
        fractions (`Sequence[float]`):
            Fraction of the budget that each release gets. The budget is `mu^2`, the sum of `1 / multiplier^2`.
        accountant (`str` or `Accountant`, *optional*, defaults to `"exact"`): As in `compute_epsilon`.
        sampling_rate (`float`, *optional*, defaults to `1.0`): As in `compute_epsilon`.

    Returns:
        `list` of `float`: One noise multiplier per release.

    Raises:
        ValueError: An argument is out of its range.
    """
    _check(delta, len(fractions), sampling_rate)
    if not 0 < epsilon < math.inf:
        raise ValueError(f"`epsilon`={epsilon} must be positive and finite.")
    _check_participation(delta, len(fractions), sampling_rate)
    found = find_accountant(accountant)
    relative = [1 / math.sqrt(fraction) for fraction in fractions]
    exact = multiplier_of_gaussian(epsilon, delta)
    if found is ACCOUNTANTS["exact"] and sampling_rate == 1:
        return [exact * each for each in relative]

    @cache
    def excess(log_scale: float) -> float:
        """How far epsilon is above what is asked for, as a ratio. In logarithms it is nearly a straight line."""
        multipliers = [math.exp(log_scale) * each for each in relative]
        return math.log(max(checked_epsilon(found, multipliers, delta, sampling_rate), 1e-300) / epsilon)

    # A bound needs more noise than the exact value, and a sample of the clients needs less.
    enough = math.log(exact)
    while excess(enough) > 0:
        enough += math.log(2)
        if enough > math.log(LARGEST_MULTIPLIER):
            raise ValueError(
                f"`epsilon`={epsilon} cannot be reached with any noise by the accountant {found.name!r}: ask for a "
                "larger one, or use the accountant 'exact'."
            )
    too_small = enough - math.log(2)
    while excess(too_small) <= 0:
        enough, too_small = too_small, too_small - math.log(2)
        if too_small < math.log(SMALLEST_MULTIPLIER):
            break  # So little noise that the discrete Gaussian is not accounted for. More is the private choice.
    log_scale = _solve(excess, too_small, enough, 1e-6)
    # The root is known to a millionth, on either side. The larger noise is the private choice.
    while excess(log_scale) > 0:
        log_scale += 1e-6
    return [math.exp(log_scale) * each for each in relative]


def _check_participation(delta: float, num_releases: int, sampling_rate: float) -> None:
    """Refuse a sample so small that no noise would be needed. The search for the least noise would not end."""
    probability = -math.expm1(num_releases * math.log1p(-sampling_rate)) if sampling_rate < 1 else 1.0
    if probability <= delta:
        raise ValueError(
            f"`client_sampling_rate`={sampling_rate:g} with `delta`={rounded_up(delta)}: a client participates in any "
            f"of {num_releases} releases with a probability of {probability:.1e}, which is not above `delta`. Such a "
            "guarantee holds without noise, and protects no one who participates. Choose a smaller `delta`, well "
            "below one over the number of clients, or a larger rate."
        )


def _compose(method: str, noise_multipliers: tuple[float, ...], delta: float, sampling_rate: float) -> float:
    return float(_composed(method, noise_multipliers, sampling_rate).get_epsilon(delta))


@lru_cache(maxsize=64)  # It takes a while, and reports ask for the same again.
def _composed(method: str, noise_multipliers: tuple[float, ...], sampling_rate: float) -> Any:
    import dp_accounting

    if method == "pld":
        accountant: Any = dp_accounting.pld.PLDAccountant(value_discretization_interval=PRIVACY_LOSS_STEP)
    else:
        # With a sample of the clients, fractional orders cost seconds and may not converge.
        accountant = dp_accounting.rdp.RdpAccountant(ORDERS_OF_SAMPLES if sampling_rate < 1 else None)
    for multiplier in dict.fromkeys(noise_multipliers):
        event: Any = dp_accounting.GaussianDpEvent(multiplier)
        if sampling_rate < 1:
            event = dp_accounting.PoissonSampledDpEvent(sampling_rate, event)
        accountant.compose(dp_accounting.SelfComposedDpEvent(event, noise_multipliers.count(multiplier)))
    return accountant


def _log_delta(noise_multiplier: float, epsilon: float) -> float:
    """Compute the logarithm of the exact delta of one Gaussian release."""
    from scipy.special import log_ndtr

    shift, slope = 0.5 / noise_multiplier, epsilon * noise_multiplier
    first, second = float(log_ndtr(shift - slope)), epsilon + float(log_ndtr(-shift - slope))
    return first + math.log(-math.expm1(second - first)) if second < first else -math.inf


def _solve(excess: Callable[[float], float], low: float, high: float, tolerance: float = 1e-13) -> float:
    from scipy.optimize import brentq

    if excess(low) <= 0:
        return low
    return float(brentq(excess, low, high, xtol=tolerance, rtol=1e-14))


def _check(delta: float, num_releases: int, sampling_rate: float) -> None:
    if not 0 < delta < 1:
        raise ValueError(f"`delta`={delta} must lie strictly between 0 and 1.")
    if num_releases < 0:
        raise ValueError(f"`num_rounds`={num_releases} must not be negative.")
    if not 0 < sampling_rate <= 1:
        raise ValueError(f"`sampling_rate`={sampling_rate} must be above 0 and at most 1.")
