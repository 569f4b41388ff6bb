"""The mechanism, its accounting, and the statement of what it guarantees.

What is released: one noisy histogram of votes a round, to the server that runs the evolution and from there to
anybody. Its unit is the client (all samples of one client), neighbouring data sets differ by adding or removing one
client, and its L2 sensitivity is the clipping norm of a client's votes. Everything else (selection, variation, seeds,
expansion, models trained on the texts) is computed from those histograms and public data alone, so it is covered by
the same guarantee and costs nothing more.

One frozen object, `VoteMechanism`, gives both the noise that is drawn and the epsilon that is claimed.
"""

import json
import math
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from .configuration import ACCOUNTANTS, PrivateEvolutionConfig
from .version import __version__
from .voting import VOTE_UNITS

REPORT_NAME = "privacy_report.json"


def compute_epsilon(noise_multiplier: float, delta: float, num_rounds: int, accountant: str = "pld") -> float:
    """Compute the epsilon of several rounds of the Gaussian mechanism.

    Args:
        noise_multiplier (`float`): Standard deviation of the noise over the L2 sensitivity, in each round.
        delta (`float`): Probability with which the guarantee may fail.
        num_rounds (`int`): Number of releases; zero of them cost nothing.
        accountant (`str`, *optional*, defaults to `"pld"`):
            `"pld"` gives the exact value: `T` Gaussian releases are one of multiplier `noise_multiplier / sqrt(T)`,
            whose privacy curve has a closed form (Balle and Wang 2018, arXiv 1805.06530). `"rdp"` gives the bound by
            Rényi differential privacy that the paper uses.

    Returns:
        `float`: The smallest epsilon that the accountant proves.
    """
    _check_accounting(delta, num_rounds, accountant)
    if not noise_multiplier > 0:
        raise ValueError(
            f"`noise_multiplier`={noise_multiplier} must be positive: there is no guarantee without noise."
        )
    if num_rounds == 0:
        return 0.0
    import dp_accounting

    if accountant == "pld":
        return float(dp_accounting.get_epsilon_gaussian(noise_multiplier / math.sqrt(num_rounds), delta))
    rdp = dp_accounting.rdp.RdpAccountant()
    rdp.compose(_event(noise_multiplier, num_rounds))
    return float(rdp.get_epsilon(delta))


def calibrate_noise_multiplier(epsilon: float, delta: float, num_rounds: int, accountant: str = "pld") -> float:
    """Compute the smallest noise multiplier that gives `epsilon` after several rounds of the Gaussian mechanism.

    Args:
        epsilon (`float`): Total privacy loss that is allowed.
        delta (`float`): Probability with which the guarantee may fail.
        num_rounds (`int`): Number of releases.
        accountant (`str`, *optional*, defaults to `"pld"`): `"pld"` (exact) or `"rdp"` (the paper's).

    Returns:
        `float`: Standard deviation of each round's noise over the L2 sensitivity.
    """
    _check_accounting(delta, num_rounds, accountant)
    if not 0 < epsilon < math.inf:
        raise ValueError(f"`epsilon`={epsilon} must be positive and finite.")
    if num_rounds < 1:
        raise ValueError(f"`num_rounds`={num_rounds} must be at least 1.")
    import dp_accounting

    exact = float(dp_accounting.get_sigma_gaussian(epsilon, delta)) * math.sqrt(num_rounds)
    if accountant == "pld":
        return exact
    return float(
        dp_accounting.calibrate_dp_mechanism(
            dp_accounting.rdp.RdpAccountant,
            lambda noise_multiplier: _event(noise_multiplier, num_rounds),
            target_epsilon=epsilon,
            target_delta=delta,
            # The Rényi bound is never below the exact value, so the exact multiplier is a lower end.
            bracket_interval=dp_accounting.LowerEndpointAndGuess(0.99 * exact, 2 * exact),
            tol=1e-6 * exact,
        )
    )


@dataclass(frozen=True)
class VoteMechanism:
    r"""The mechanism that releases one round's histogram of votes.

    Each client contributes an integer vector of L2 norm at most `clip_norm * VOTE_UNITS` (see
    `voting.quantize_votes`); the sum over clients gets independent discrete Gaussian noise of parameter
    `noise_multiplier * clip_norm * VOTE_UNITS` in every bin.

    *The discrete noise costs what the continuous noise costs.* Under `"rdp"` this is a theorem: the discrete Gaussian
    has the concentrated differential privacy of the continuous one (Canonne, Kamath and Steinke 2020, arXiv
    2004.00010). Under `"pld"` it is the following bound. Let `s` be the noise parameter in units, `p` the discrete
    Gaussian and `q` the continuous one rounded to the nearest integer. Releasing integers with noise `q` is
    post-processing of the continuous mechanism. With `f` the continuous density,
    `q(x) / f(x)` is the integral over `|u| <= 1/2` of `cosh(x u / s^2) exp(-u^2 / (2 s^2))`, which lies between
    `1 - 1 / (24 s^2)` and `exp(x^2 / (24 s^4))`; `p` is `f` up to a factor of `1 + exp(-2 pi^2 s^2)`, which is
    1 in any arithmetic. So `|log(p / q)| <= B^2 / (24 s^2)` as long as `|x| <= B s`. With `B = 40 +
    1 / noise_multiplier` this holds for a data set and its neighbour alike, except with probability below `exp(-750)`.
    Over `n` draws in all, the discrete mechanism is therefore `(epsilon + 2 k, exp(k) delta)`-private with
    `k = n B^2 / (24 s^2)`; at the paper's settings `k` is below 1e-6.

    Args:
        noise_multiplier (`float`): Standard deviation of the noise over the sensitivity.
        clip_norm (`float`): L2 norm to which a client's votes are clipped, in votes: the sensitivity.
        max_samples_per_client (`int`): Most samples that a client votes with.
        accountant (`str`): `"pld"` or `"rdp"`.
        unit (`str`): What the guarantee protects.
        neighboring_relation (`str`): How neighbouring data sets differ.
    """

    noise_multiplier: float
    clip_norm: float
    max_samples_per_client: int = 8
    accountant: str = "pld"
    unit: str = field(default="client", init=False)
    neighboring_relation: str = field(default="add_or_remove_one", init=False)

    @classmethod
    def from_config(cls, config: PrivateEvolutionConfig) -> "VoteMechanism":
        """Calibrate the mechanism of a run, so that `config.num_rounds` releases cost at most `config.epsilon`."""
        clip_norm = 1.0 if config.vote_clipping == "l2" else float(config.max_samples_per_client)
        if config.noise_multiplier is not None:
            return cls(float(config.noise_multiplier), clip_norm, config.max_samples_per_client, config.accountant)
        assert config.epsilon is not None  # the configuration has exactly one of the two
        ideal = calibrate_noise_multiplier(config.epsilon, config.delta, config.num_rounds, config.accountant)
        # A rounded multiplier can be read off the report and accounted for again; up is the private side.
        steps = math.ceil(ideal * 1e5)
        while True:
            mechanism = cls(steps / 1e5, clip_norm, config.max_samples_per_client, config.accountant)
            if mechanism.epsilon(config.delta, [config.population_size] * config.num_rounds) <= config.epsilon:
                return mechanism
            steps += 1

    @property
    def noise_std(self) -> float:
        """Standard deviation of the noise in one bin, in votes."""
        return self.noise_multiplier * self.clip_norm

    @property
    def noise_scale(self) -> float:
        """Parameter of the discrete Gaussian, in integer units of `1 / VOTE_UNITS` votes."""
        return self.noise_std * VOTE_UNITS

    def epsilon(self, delta: float, bins_per_release: list[int]) -> float:
        """Compute the epsilon of a sequence of releases.

        Args:
            delta (`float`): Probability with which the guarantee may fail.
            bins_per_release (`list` of `int`): Number of bins of each histogram released so far.
        """
        if self.accountant == "rdp" or not bins_per_release:
            return compute_epsilon(self.noise_multiplier, delta, len(bins_per_release), self.accountant)
        reach = 40 + 1 / self.noise_multiplier
        slack = sum(bins_per_release) * reach**2 / (24 * self.noise_scale**2)
        left = delta * math.exp(-slack)
        # Noise so small that even this slack is large gives no guarantee worth the name.
        return compute_epsilon(self.noise_multiplier, left, len(bins_per_release)) + 2 * slack if left else math.inf


class PrivacyLedger:
    """The list of what has been released about the private data, and what it costs in all.

    A pool of clients writes here before it hands out a histogram, so there is no release that is not counted. Releases
    about different data sets are added up as if they were about the same clients: that is never too little.

    Args:
        mechanism (`VoteMechanism`): The mechanism of every release.
    """

    def __init__(self, mechanism: VoteMechanism) -> None:
        self._mechanism = mechanism
        self._release_ids: list[str] = []
        self._bins_per_release: list[int] = []
        self._noise_was_genuine = True

    @classmethod
    def from_report(cls, report: "PrivacyReport", mechanism: VoteMechanism) -> "PrivacyLedger":
        """Go on counting where a report ends.

        Args:
            report (`PrivacyReport`): What was released so far.
            mechanism (`VoteMechanism`): The mechanism of the configuration that lies beside the report.

        Raises:
            ValueError: The report tells of another mechanism, or of a smaller epsilon than its releases cost.
        """
        ledger = cls(mechanism)
        for num_bins in report.bins_per_release:
            ledger.record(num_bins, noise_is_genuine=math.isfinite(report.epsilon))
        said = (report.noise_multiplier, report.sensitivity, report.max_samples_per_client, report.accountant)
        meant = (
            mechanism.noise_multiplier,
            mechanism.clip_norm,
            mechanism.max_samples_per_client,
            mechanism.accountant,
        )
        ledger._release_ids = list(report.release_ids)
        # Another version of the accountant's numerics may differ in the last digits.
        costs = ledger.epsilon(report.delta) * (1 - 1e-6)
        counts = {report.num_rounds, len(set(report.release_ids)), ledger.num_releases}
        if said != meant or len(counts) > 1 or report.epsilon < costs:
            raise ValueError(
                f"The privacy report (epsilon {report.epsilon:.6g}, {report.num_rounds} releases, mechanism {said}) "
                f"and the configuration's mechanism {meant}, whose {ledger.num_releases} releases cost {costs:.6g}, "
                "do not belong together. A ledger goes on with the mechanism that it began with: make a new "
                "generator for another one, and add up the two reports."
            )
        return ledger

    @property
    def release_ids(self) -> tuple[str, ...]:
        """A random name for each release, by which two reports can be told to count the same ones."""
        return tuple(self._release_ids)

    @property
    def bins_per_release(self) -> tuple[int, ...]:
        """Number of bins of each histogram released."""
        return tuple(self._bins_per_release)

    @property
    def mechanism(self) -> VoteMechanism:
        """The mechanism of every release; it cannot be exchanged."""
        return self._mechanism

    def record(self, num_bins: int, noise_is_genuine: bool = True) -> None:
        """Count one histogram as released.

        Args:
            num_bins (`int`): Its number of bins.
            noise_is_genuine (`bool`, *optional*, defaults to `True`):
                Whether the noise was the library's own; with any other there is no guarantee from here on.
        """
        self._release_ids.append(uuid.uuid4().hex[:16])
        self._bins_per_release.append(num_bins)
        self._noise_was_genuine &= noise_is_genuine

    @property
    def num_releases(self) -> int:
        """Number of histograms released."""
        return len(self._bins_per_release)

    def epsilon(self, delta: float) -> float:
        """Compute the total epsilon spent so far; infinite after a release with noise that is not the library's."""
        return self.mechanism.epsilon(delta, self._bins_per_release) if self._noise_was_genuine else math.inf


@dataclass(frozen=True)
class PrivacyReport:
    """What is guaranteed, to whom, by which mechanism, and under which assumptions.

    Args:
        epsilon (`float`): Total privacy loss of everything released so far.
        delta (`float`): Probability with which the guarantee may fail.
        unit (`str`): What is protected: `"client"`, all samples of one client.
        neighboring_relation (`str`): `"add_or_remove_one"`.
        noise_multiplier (`float`): Noise standard deviation over sensitivity, in each round.
        num_rounds (`int`): Number of histograms released.
        max_samples_per_client (`int`): Cap that the library enforced.
        accountant (`str`): `"pld"` or `"rdp"`.
        sensitivity (`float`): L2 norm of one client's votes in one round, in votes.
        noise_std (`float`): Standard deviation of the noise in one bin, in votes.
        vote_clipping (`str`): `"l2"` or `"count"`.
        num_clients (`int`, *optional*): Number of clients; it counts as public.
        target_epsilon (`float`, *optional*): The budget that was asked for, one run's worth.
        release_ids (`tuple` of `str`): A random name for each histogram; what two reports do not share adds up.
        bins_per_release (`tuple` of `int`): Number of bins of each histogram.
        hf_pretext_version (`str`): Version that made the report.
    """

    epsilon: float
    delta: float
    unit: str
    neighboring_relation: str
    noise_multiplier: float
    num_rounds: int
    max_samples_per_client: int
    accountant: str
    sensitivity: float
    noise_std: float
    vote_clipping: str
    num_clients: int | None = None
    target_epsilon: float | None = None
    release_ids: tuple[str, ...] = ()
    bins_per_release: tuple[int, ...] = ()
    hf_pretext_version: str = __version__

    @classmethod
    def from_ledger(
        cls, ledger: PrivacyLedger, config: PrivateEvolutionConfig, num_clients: int | None = None
    ) -> "PrivacyReport":
        """Write the report of all that the ledger counts."""
        mechanism = ledger.mechanism
        return cls(
            epsilon=ledger.epsilon(config.delta),
            delta=config.delta,
            unit=mechanism.unit,
            neighboring_relation=mechanism.neighboring_relation,
            noise_multiplier=mechanism.noise_multiplier,
            num_rounds=ledger.num_releases,
            max_samples_per_client=mechanism.max_samples_per_client,
            accountant=mechanism.accountant,
            sensitivity=mechanism.clip_norm,
            noise_std=mechanism.noise_std,
            vote_clipping=config.vote_clipping,
            num_clients=num_clients,
            target_epsilon=config.epsilon,
            release_ids=ledger.release_ids,
            bins_per_release=ledger.bins_per_release,
        )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "PrivacyReport":
        """Read what `to_dict` returned; the words are not read but made anew from the figures."""
        known = {name: values[name] for name in (each.name for each in fields(cls)) if name in values}
        epsilon = math.inf if known["epsilon"] is None else known["epsilon"]
        lists = {name: tuple(known.get(name, ())) for name in ("release_ids", "bins_per_release")}
        return cls(**{**known, **lists, "epsilon": epsilon})

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> "PrivacyReport":
        """Read `privacy_report.json` from a folder."""
        return cls.from_dict(json.loads((Path(folder) / REPORT_NAME).read_text(encoding="utf-8")))

    def covers(self, other: "PrivacyReport") -> bool:
        """Tell whether every release that another report counts is counted here, so that this one may replace it."""
        return set(other.release_ids) <= set(self.release_ids) and (other.num_rounds == 0 or bool(other.release_ids))

    @property
    def is_finite(self) -> bool:
        """Whether there is a guarantee about something that was released."""
        return self.num_rounds > 0 and math.isfinite(self.epsilon)

    @property
    def guarantee(self) -> str:
        """The guarantee in words."""
        if self.num_rounds == 0:
            return "Nothing about the private data has been released yet."
        if math.isinf(self.epsilon):
            return "There is no guarantee: the noise did not come from the library, or there is too little of it."
        over = ""
        if self.target_epsilon is not None and self.epsilon > self.target_epsilon * (1 + 1e-9):
            over = f" This is more than the {self.target_epsilon:g} of one run, because several runs are added up."
        return (
            f"Client-level differential privacy with epsilon = {self.epsilon:.4g} and delta = {self.delta:g}, under "
            f"adding or removing all samples of one client: with or without any one client's text, any outcome of "
            f"this run is at most {math.exp(min(self.epsilon, 700)):.4g} times (e^epsilon) as likely, up to a "
            f"probability of delta.{over}"
        )

    @property
    def mechanism(self) -> str:
        """The mechanism in words."""
        clipping = (
            "the vote vector of each client is scaled to L2 norm 1"
            if self.vote_clipping == "l2"
            else f"each sample counts one vote, so a client's votes have an L2 norm of at most {self.sensitivity:g}"
        )
        return (
            f"{self.num_rounds} histograms of nearest-neighbour votes were released. In each, a client votes with at "
            f"most {self.max_samples_per_client} of its samples, {clipping}, and every bin gets discrete Gaussian "
            f"noise with a standard deviation of {self.noise_std:.6g} votes ({self.noise_multiplier:.6g} times the "
            f"sensitivity), drawn from the operating system's randomness. The epsilon of all releases together was "
            f"computed with the {self.accountant.upper()} accountant."
        )

    @property
    def assumptions(self) -> tuple[str, ...]:
        """What the guarantee assumes or does not cover, a sentence each."""
        return (
            "Every sample of a person carries the same client id; a person with two ids is protected as two clients.",
            "The process that held the private text is trusted: this was a simulation in one process, not a "
            "federation with secure aggregation.",
            "The number of clients, the configuration and the public models are not secret: what is hidden is which "
            "samples a client has, or whether it has any.",
            "The embedding model treats equal batches equally, so that a client's embeddings are its own affair.",
            "The console of the process that held the private text, with its warnings, belongs to the trusted side.",
            "The initial population, the domain description and every setting were chosen without looking at the "
            "private text.",
            "The text on which the public models were pretrained is not protected, and neither is any evaluation on "
            "private text.",
            "Other releases about the same clients, by other runs or other programs, add to this epsilon.",
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the figures and the words as a dictionary that JSON can hold; an infinite epsilon becomes None."""
        words = {"guarantee": self.guarantee, "mechanism": self.mechanism, "assumptions": list(self.assumptions)}
        epsilon = self.epsilon if math.isfinite(self.epsilon) else None
        lists = {"release_ids": list(self.release_ids), "bins_per_release": list(self.bins_per_release)}
        return {**asdict(self), **lists, "epsilon": epsilon, **words}

    def save_pretrained(self, folder: str | Path) -> None:
        """Write `privacy_report.json` to `folder`, which is made where it does not exist."""
        path = Path(folder)
        path.mkdir(parents=True, exist_ok=True)
        (path / REPORT_NAME).write_text(json.dumps(self.to_dict(), indent=2) + "\n", encoding="utf-8")

    def __str__(self) -> str:
        return f"{self.guarantee}\n{self.mechanism}"


def _event(noise_multiplier: float, num_rounds: int) -> Any:
    import dp_accounting

    return dp_accounting.SelfComposedDpEvent(dp_accounting.GaussianDpEvent(noise_multiplier), num_rounds)


def _check_accounting(delta: float, num_rounds: int, accountant: str) -> None:
    if not 0 < delta < 1:
        raise ValueError(f"`delta`={delta} must lie strictly between 0 and 1.")
    if num_rounds < 0:
        raise ValueError(f"`num_rounds`={num_rounds} must not be negative.")
    if accountant not in ACCOUNTANTS:
        raise ValueError(f"`accountant`={accountant!r} must be one of {list(ACCOUNTANTS)}.")
