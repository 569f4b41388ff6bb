"""The mechanism, its accounting, and the statement of what it guarantees.

What is released: one noisy histogram of votes a round, to the server that runs the evolution and from there to
anybody. Its unit is the client (all samples of one client). Neighbouring data sets differ by adding or removing one
client, and the L2 sensitivity is the clipping norm of a client's votes; under `"replace_one"` they differ by
exchanging one client, and the sensitivity is `sqrt(2)` times that. Everything else (selection, variation, seeds,
expansion, models trained on the texts) is computed from those histograms and public data alone, so it is covered by
the same guarantee and costs nothing more.

One frozen object, `VoteMechanism`, gives both the noise that is drawn and the epsilon that is claimed.
"""

import json
import math
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from .configuration import ACCOUNTANTS, PrivateEvolutionConfig, shortened
from .files import write_durably
from .version import __version__
from .voting import VOTE_UNITS, VOTE_UNITS_OF_A_FEDERATION

REPORT_NAME = "privacy_report.json"

MIN_SHARE_SCALE = 16.0
"""Smallest parameter of a client's share of the noise, in units: sums of such shares are as good as one draw."""


def compute_epsilon(
    noise_multiplier: float, delta: float, num_rounds: int, accountant: str = "pld", sampling_rate: float = 1.0
) -> float:
    """Compute the epsilon of several rounds of the Gaussian mechanism, on all clients or on a Poisson sample of them.

    Args:
        noise_multiplier (`float`): Standard deviation of the noise over the L2 sensitivity, in each round.
        delta (`float`): Probability with which the guarantee may fail.
        num_rounds (`int`): Number of releases; zero of them cost nothing.
        accountant (`str`, *optional*, defaults to `"pld"`):
            `"pld"` gives the exact value: `T` Gaussian releases are one of multiplier `noise_multiplier / sqrt(T)`,
            whose privacy curve has a closed form (Balle and Wang 2018, arXiv 1805.06530). With a sample of the
            clients it is dp-accounting's privacy loss distribution, whose rounding errs on the safe side. `"rdp"`
            gives the bound by Rényi differential privacy that the paper uses.
        sampling_rate (`float`, *optional*, defaults to `1.0`):
            Probability with which each client takes part in a round, under `"add_or_remove_one"`.

    Returns:
        `float`: The smallest epsilon that the accountant proves.
    """
    _check_accounting(delta, num_rounds, accountant, sampling_rate)
    if not noise_multiplier > 0:
        raise ValueError(
            f"`noise_multiplier`={noise_multiplier} must be positive: there is no guarantee without noise."
        )
    if num_rounds == 0:
        return 0.0
    import dp_accounting

    if accountant == "pld" and sampling_rate == 1:
        return float(dp_accounting.get_epsilon_gaussian(noise_multiplier / math.sqrt(num_rounds), delta))
    event: Any = dp_accounting.GaussianDpEvent(noise_multiplier)
    if sampling_rate < 1:
        event = dp_accounting.PoissonSampledDpEvent(sampling_rate, event)
    book = dp_accounting.pld.PLDAccountant() if accountant == "pld" else dp_accounting.rdp.RdpAccountant()
    book.compose(dp_accounting.SelfComposedDpEvent(event, num_rounds))
    return float(book.get_epsilon(delta))


def calibrate_noise_multiplier(
    epsilon: float, delta: float, num_rounds: int, accountant: str = "pld", sampling_rate: float = 1.0
) -> float:
    """Compute the smallest noise multiplier that gives `epsilon` after several rounds of the Gaussian mechanism.

    Args:
        epsilon (`float`): Total privacy loss that is allowed.
        delta (`float`): Probability with which the guarantee may fail.
        num_rounds (`int`): Number of releases.
        accountant (`str`, *optional*, defaults to `"pld"`): `"pld"` (exact) or `"rdp"` (the paper's).
        sampling_rate (`float`, *optional*, defaults to `1.0`): Probability with which a client takes part in a round.

    Returns:
        `float`: Standard deviation of each round's noise over the L2 sensitivity.
    """
    _check_accounting(delta, num_rounds, accountant, sampling_rate)
    if not 0 < epsilon < math.inf:
        raise ValueError(f"`epsilon`={epsilon} must be positive and finite.")
    if num_rounds < 1:
        raise ValueError(f"`num_rounds`={num_rounds} must be at least 1.")
    import dp_accounting

    exact = float(dp_accounting.get_sigma_gaussian(epsilon, delta)) * math.sqrt(num_rounds)
    if accountant == "pld" and sampling_rate == 1:
        return exact

    def excess(noise_multiplier: float) -> float:
        return compute_epsilon(noise_multiplier, delta, num_rounds, accountant, sampling_rate) - epsilon

    # Rényi's bound takes more noise than the exact value for all clients, a sample of them takes less.
    enough = exact if accountant == "pld" else 2 * exact
    while excess(enough) > 0:
        enough *= 2
    too_small = enough / 2
    while excess(too_small) <= 0:
        enough, too_small = too_small, too_small / 2
    from scipy.optimize import brentq

    root = float(brentq(excess, too_small, enough, xtol=1e-6 * enough))
    # The root is known to a millionth, on either side; up is the private one.
    while excess(root) > 0:
        root *= 1 + 1e-6
    return root


@dataclass(frozen=True)
class VoteMechanism:
    r"""The mechanism that releases one round's histogram of votes.

    Each client that takes part contributes an integer vector of L2 norm at most `clip_norm * vote_units` (see
    `voting.quantize_votes`); the sum over clients gets independent discrete Gaussian noise of parameter
    `noise_multiplier * sensitivity * vote_units` in every bin.

    *The sensitivity.* Adding or removing a client changes the sum by one such vector: by at most `clip_norm`.
    Exchanging one changes it by the difference of two, `|a - b|^2 = |a|^2 + |b|^2 - 2 <a, b>`, and votes are not
    negative, so this is at most `2 clip_norm^2`: the sensitivity is `sqrt(2) clip_norm`, not twice the norm.

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
    `k = n B^2 / (24 s^2)`; at the paper's settings `k` is below 1e-6. With a sample of the clients the outputs are
    mixtures of such distributions, which are as near to each other as their parts, and the same `k` is added under
    either accountant.

    *A sum of shares costs what one draw costs.* In a federation (`max_dropout`) each client adds discrete Gaussian
    noise of parameter `s_1 = s / sqrt(m - 1)`, where `m` answers are needed for a round to count: a client that looks
    on knows its own share, and the others' are enough without it. Clients stay in the federation with their noise;
    what is added or removed is all that one of them holds. Take discrete Gaussians
    of variance parameters `a` and `b`, and `r = a b / (a + b)`. Their sum takes the value `z` with a probability
    proportional to `exp(-z^2 / (2 (a + b)))` times the sum over all integers `x` of `exp(-(x - c)^2 / (2 r))`, with
    `c = z a / (a + b)`. By Poisson summation this second factor is the same for every `c`, up to a factor between
    `1 - h` and `1 + h` with `h < 2.1 exp(-2 pi^2 r)`. So the sum is the discrete Gaussian of parameter `a + b`, up to
    a factor that `r >= a / 2` puts within `exp(5 exp(-pi^2 a))` and its inverse; this is how Kairouz, Liu and Steinke
    2021 (arXiv 2102.06387, section 4) analyse it. With `s_1` at least `MIN_SHARE_SCALE`, which is insisted on, all
    factors together are 1 in any arithmetic. Answers beyond `m` add noise that costs nothing.

    Args:
        noise_multiplier (`float`): Standard deviation of the noise over the sensitivity.
        clip_norm (`float`): L2 norm to which a client's votes are clipped, in votes: the sensitivity.
        max_samples_per_client (`int`): Most samples that a client votes with.
        accountant (`str`): `"pld"` or `"rdp"`.
        client_sampling_rate (`float`): Probability with which a client takes part in a round.
        neighboring_relation (`str`): How neighbouring data sets differ: `"add_or_remove_one"` or `"replace_one"`.
        max_dropout (`float`, *optional*): Share of a federation's clients that may fail to answer.
        votes_per_sample (`int`): Candidates that a sample votes for; the norm of a client's votes is the same.
        unit (`str`): What the guarantee protects.
    """

    noise_multiplier: float
    clip_norm: float
    max_samples_per_client: int = 8
    accountant: str = "pld"
    client_sampling_rate: float = 1.0
    neighboring_relation: str = "add_or_remove_one"
    max_dropout: float | None = None
    votes_per_sample: int = 1
    unit: str = field(default="client", init=False)

    @classmethod
    def from_config(cls, config: PrivateEvolutionConfig) -> "VoteMechanism":
        """Calibrate the mechanism of a run, so that `config.num_rounds` releases cost at most `config.epsilon`."""
        clip_norm = 1.0 if config.vote_clipping == "l2" else float(config.max_samples_per_client)
        rate = float(config.client_sampling_rate)
        rest = (
            clip_norm,
            config.max_samples_per_client,
            config.accountant,
            rate,
            config.neighboring_relation,
            config.max_dropout,
            config.votes_per_sample,
        )
        if config.noise_multiplier is not None:
            return cls(float(config.noise_multiplier), *rest)
        assert config.epsilon is not None  # the configuration has exactly one of the two
        ideal = calibrate_noise_multiplier(config.epsilon, config.delta, config.num_rounds, config.accountant, rate)
        # A rounded multiplier can be read off the report and accounted for again; up is the private side.
        steps = math.ceil(ideal * 1e5)
        while True:
            mechanism = cls(steps / 1e5, *rest)
            if mechanism.epsilon(config.delta, [config.population_size] * config.num_rounds) <= config.epsilon:
                return mechanism
            steps += 1

    @property
    def sensitivity(self) -> float:
        """Largest L2 change of a histogram between neighbouring data sets, in votes."""
        return self.clip_norm * (math.sqrt(2) if self.neighboring_relation == "replace_one" else 1.0)

    @property
    def noise_std(self) -> float:
        """Standard deviation of the noise in one bin, in votes."""
        return self.noise_multiplier * self.sensitivity

    @property
    def noise_scale(self) -> float:
        """Parameter of the discrete Gaussian, in integer units of `1 / vote_units` votes."""
        return self.noise_std * self.vote_units

    @property
    def vote_units(self) -> int:
        """Integer units that make one vote."""
        return VOTE_UNITS if self.max_dropout is None else VOTE_UNITS_OF_A_FEDERATION

    def num_answers_needed(self, num_clients: int) -> int:
        """Compute how many of a federation's clients have to answer for a round to count: more than half."""
        if self.max_dropout is None:
            raise ValueError("`max_dropout`=None has no answer to count: this is not the mechanism of a federation.")
        # Nobody's share of a half is to round to a half; and a tenth of ten is one, not one and a bit.
        return max(math.ceil((1 - self.max_dropout) * num_clients - 1e-9), num_clients // 2 + 1)

    def noise_std_of_sum(self, num_clients: int) -> float:
        """Compute the standard deviation of the noise in one bin, in votes, if all clients answer.

        A federation's is larger than `noise_std`, which is left if so many fail that a round only just counts. How
        many did is not asked for here: fewer answers mean less noise than this.
        """
        if self.max_dropout is None:
            return self.noise_std
        return self.noise_std * math.sqrt(num_clients / (self.num_answers_needed(num_clients) - 1))

    def share_scale(self, num_answers: int) -> float:
        """Compute the parameter of one client's share of the noise, in units, if so many answers are needed.

        All of them but one are enough, whosever that one is: who takes part knows its own share.

        Raises:
            ValueError: It is too small for sums of shares to be accounted for as one draw, or nobody else answers.
        """
        if num_answers < 2:
            raise ValueError(f"`num_answers`={num_answers} hides nobody from that client; at least 2 are needed.")
        scale = self.noise_scale / math.sqrt(num_answers - 1)
        if scale < MIN_SHARE_SCALE:
            raise ValueError(
                f"`noise_multiplier`={self.noise_multiplier} over {num_answers} clients makes shares of {scale:.3g} "
                f"units, below {MIN_SHARE_SCALE:g}: their sum is not accounted for. Take more noise, or fewer clients."
            )
        return scale

    def epsilon(self, delta: float, bins_per_release: list[int]) -> float:
        """Compute the epsilon of a sequence of releases.

        Args:
            delta (`float`): Probability with which the guarantee may fail.
            bins_per_release (`list` of `int`): Number of bins of each histogram released so far.
        """
        if not bins_per_release:
            return 0.0

        def of_continuous_noise(delta: float) -> float:
            return compute_epsilon(
                self.noise_multiplier, delta, len(bins_per_release), self.accountant, self.client_sampling_rate
            )

        if self.accountant == "rdp" and self.client_sampling_rate == 1:
            return of_continuous_noise(delta)
        reach = 40 + 1 / self.noise_multiplier
        slack = sum(bins_per_release) * reach**2 / (24 * self.noise_scale**2)
        left = delta * math.exp(-slack)
        # Noise so small that even this slack is large gives no guarantee worth the name.
        return of_continuous_noise(left) + 2 * slack if left else math.inf


@dataclass(frozen=True)
class Release:
    """One histogram that was released, or that was about to be when its process ended.

    Args:
        id (`str`): A random name, by which two reports can be told to count the same release.
        num_bins (`int`): Number of bins.
        noise_is_genuine (`bool`): Whether the noise was the library's own.
        votes (`tuple` of `float`, *optional*): The noisy histogram; None where it was lost, or is kept elsewhere.
    """

    id: str
    num_bins: int
    noise_is_genuine: bool = True
    votes: tuple[float, ...] | None = None

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Release":
        """Read a release that a ledger wrote; anything else is a `ValueError`, `TypeError` or `KeyError`."""
        name, num_bins, genuine, votes = (values[each.name] for each in fields(cls))
        kept = None if votes is None else tuple(map(float, votes))
        sizes_agree = kept is None or (len(kept) == num_bins and all(map(math.isfinite, kept)))
        is_size = isinstance(num_bins, int) and not isinstance(num_bins, bool) and num_bins > 0
        if not (isinstance(name, str) and is_size and isinstance(genuine, bool) and sizes_agree):
            raise ValueError
        return cls(name, num_bins, genuine, kept)


class PrivacyLedger:
    """The releases about the private data, and what they cost in all.

    A pool of clients counts a release here before it draws the noise, and hands the histogram out once it is kept
    here (`record`, then `keep`). So there is no release that is not counted, not one that a crash lost before anybody
    saw it either, and none that has to be drawn again. Releases about different data sets are added up as if they were
    about the same clients: that is never too little.

    Args:
        mechanism (`VoteMechanism`): The mechanism of every release.
        path (`Path`, *optional*):
            File that holds mechanism and releases: it is written durably at every step, and gone on with where it
            exists. Nothing in it is private.

    Raises:
        ValueError: The file was written with another mechanism, or is not what a ledger writes.
    """

    def __init__(self, mechanism: VoteMechanism, path: Path | None = None) -> None:
        self._mechanism = mechanism
        self._path = path
        self._elsewhere: PrivacyReport | None = None
        self._releases: list[Release] = []
        if path is not None and path.is_file():
            self.reload()
        else:
            self._write()

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
        genuine = math.isfinite(report.epsilon)
        ledger._releases = [
            Release(name, num_bins, genuine)
            for name, num_bins in zip(report.release_ids, report.bins_per_release, strict=False)
        ]
        ledger._elsewhere = report
        said, meant = (
            tuple(getattr(holder, name) for name in _SHARED_WITH_THE_REPORT) for holder in (report, mechanism)
        )
        # Another version of the accountant's numerics may differ in the last digits.
        costs = ledger.epsilon(report.delta) * (1 - 1e-6)
        counts = {report.num_rounds, len(set(report.release_ids)), len(report.bins_per_release)}
        if said != meant or len(counts) > 1 or report.epsilon < costs:
            raise ValueError(
                f"The privacy report (epsilon {report.epsilon:.6g}, {report.num_rounds} releases, mechanism {said}) "
                f"and the configuration's mechanism {meant}, whose {ledger.num_releases} releases cost {costs:.6g}, "
                "do not belong together. A ledger goes on with the mechanism that it began with: make a new "
                "generator for another one, and add up the two reports."
            )
        return ledger

    @property
    def mechanism(self) -> VoteMechanism:
        """The mechanism of every release; it cannot be exchanged."""
        return self._mechanism

    @property
    def releases(self) -> tuple[Release, ...]:
        """All releases in their order, the lost ones among them."""
        return tuple(self._releases)

    @property
    def num_releases(self) -> int:
        """Number of releases, the lost ones among them."""
        return len(self._releases)

    @property
    def num_lost(self) -> int:
        """Number of releases that are counted, but whose histogram was lost."""
        elsewhere, lost_elsewhere = (
            (self._elsewhere.num_rounds, self._elsewhere.num_lost) if self._elsewhere else (0, 0)
        )
        return lost_elsewhere + sum(release.votes is None for release in self._releases[elsewhere:])

    def record(self, num_bins: int, noise_is_genuine: bool = True) -> None:
        """Count one release, before its noise is drawn; with a file, this is there in writing on return.

        Args:
            num_bins (`int`): Its number of bins.
            noise_is_genuine (`bool`, *optional*, defaults to `True`):
                Whether the noise is the library's own; with any other there is no guarantee from here on.

        Raises:
            RuntimeError: The file counts other releases than this object, so writing it would lose some of them.
        """
        if self._path is not None and self._read(self._path) != self._releases:
            raise RuntimeError(
                f"{str(self._path)!r} counts other releases than this ledger, because something else went on with it. "
                "`reload` it first, and let one generator at a time work on a run folder."
            )
        self._releases.append(Release(uuid.uuid4().hex[:16], num_bins, noise_is_genuine))
        self._write()

    def keep(self, votes: np.ndarray) -> None:
        """Keep the noisy histogram of the latest release, before anybody gets it; with a file, in writing.

        Args:
            votes (`np.ndarray` of shape `(num_bins,)`): The noisy histogram.

        Raises:
            ValueError: The latest release has another number of bins, or is kept already.
        """
        latest = self._releases[-1]
        if latest.votes is not None or votes.shape != (latest.num_bins,):
            raise ValueError(f"`votes` of shape {votes.shape} are not those of the release that was recorded last.")
        self._releases[-1] = replace(latest, votes=tuple(votes.tolist()))
        self._write()

    def epsilon(self, delta: float) -> float:
        """Compute the total epsilon spent so far; infinite after a release with noise that is not the library's."""
        if not all(release.noise_is_genuine for release in self._releases):
            return math.inf
        return self.mechanism.epsilon(delta, [release.num_bins for release in self._releases])

    def reload(self) -> None:
        """Read the file again, which another process may have gone on with; without a file there is nothing to do.

        Raises:
            ValueError: The file was written with another mechanism, or is not what a ledger writes.
        """
        if self._path is not None:
            self._releases = self._read(self._path)

    def _read(self, path: Path) -> list[Release]:
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            releases = [Release.from_dict(release) for release in content["releases"]]
            meant = dict(content["mechanism"])
        except (ValueError, KeyError, TypeError, RecursionError):
            raise ValueError(
                f"{str(path)!r} is not what a ledger writes, so it is not known what was spent. Bring back its latest "
                "copy (an older one counts too little); or take it that the whole budget of that run is spent, and "
                "choose another folder for a new one."
            ) from None
        differing = [name for name, value in asdict(self._mechanism).items() if meant.get(name) != value]
        if differing:
            name = differing[0]
            raise ValueError(
                f"{str(path)!r} was written with the mechanism's `{name}`={meant.get(name)!r}, not "
                f"{getattr(self._mechanism, name)!r}. A ledger goes on with the mechanism that it began with: choose "
                "another folder, and add up the two reports."
            )
        return releases

    def _write(self) -> None:
        if self._path is not None:
            content = {"mechanism": asdict(self._mechanism), "releases": [asdict(each) for each in self._releases]}
            write_durably(self._path, json.dumps(content) + "\n")


@dataclass(frozen=True)
class PrivacyReport:
    """What is guaranteed, to whom, by which mechanism, and under which assumptions.

    Args:
        epsilon (`float`): Total privacy loss of everything released so far.
        delta (`float`): Probability with which the guarantee may fail.
        unit (`str`): What is protected: `"client"`, all samples of one client.
        neighboring_relation (`str`): `"add_or_remove_one"` or `"replace_one"`.
        noise_multiplier (`float`): Noise standard deviation over sensitivity, in each round.
        num_rounds (`int`): Number of histograms released.
        max_samples_per_client (`int`): Cap that the library enforced.
        accountant (`str`): `"pld"` or `"rdp"`.
        sensitivity (`float`): Largest L2 change of one histogram between neighbouring data sets, in votes.
        noise_std (`float`): Standard deviation of the noise in one bin, in votes.
        vote_clipping (`str`): `"l2"` or `"count"`.
        num_clients (`int`, *optional*): Number of clients; it counts as public.
        target_epsilon (`float`, *optional*): The budget that was asked for, one run's worth.
        release_ids (`tuple` of `str`): A random name for each histogram; what two reports do not share adds up.
        bins_per_release (`tuple` of `int`): Number of bins of each histogram.
        client_sampling_rate (`float`): Probability with which a client took part in a round.
        num_lost (`int`): Releases that are counted, but whose histogram was lost when a process ended.
        max_dropout (`float`, *optional*): Share of a federation's clients that may have failed to answer in a round.
        votes_per_sample (`int`): Candidates that a sample voted for, or all, where there were fewer.
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
    client_sampling_rate: float = 1.0
    num_lost: int = 0
    max_dropout: float | None = None
    votes_per_sample: int = 1
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
            sensitivity=mechanism.sensitivity,
            noise_std=mechanism.noise_std,
            vote_clipping=config.vote_clipping,
            num_clients=num_clients,
            target_epsilon=config.epsilon,
            release_ids=tuple(release.id for release in ledger.releases),
            bins_per_release=tuple(release.num_bins for release in ledger.releases),
            client_sampling_rate=mechanism.client_sampling_rate,
            num_lost=ledger.num_lost,
            max_dropout=mechanism.max_dropout,
            votes_per_sample=mechanism.votes_per_sample,
        )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "PrivacyReport":
        """Read what `to_dict` returned; the words are not read but made anew from the figures.

        Raises:
            ValueError: A figure is missing, or is none.
        """
        known = {each.name: values[each.name] for each in fields(cls) if each.name in values}
        lists = {name: tuple(known.get(name, ())) for name in ("release_ids", "bins_per_release")}
        known = {**known, **lists, "epsilon": math.inf if known.get("epsilon") is None else known["epsilon"]}
        for each in fields(cls):
            kinds = _TYPES_IN_A_REPORT[str(each.type)]
            parts = known.get(each.name, each.default)
            for part in parts if isinstance(parts, tuple) else (parts,):
                if not isinstance(part, kinds) or isinstance(part, bool):
                    raise ValueError(f"A privacy report with `{each.name}`={shortened(part)} is none.")
        if not all(num_bins > 0 for num_bins in known["bins_per_release"]):
            raise ValueError("A privacy report with `bins_per_release` that are not all positive is none.")
        return cls(**known)

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
        neighbors = (
            "adding or removing all samples of one client: with or without any one client's text"
            if self.neighboring_relation == "add_or_remove_one"
            else "exchanging all samples of one client for any others: whatever any one client's text is"
        )
        return (
            f"Client-level differential privacy with epsilon = {rounded_up(self.epsilon)} and delta = "
            f"{self.delta:g}, under {neighbors}, any outcome of this run is at most "
            f"{rounded_up(math.exp(min(self.epsilon, 700)))} times (e^epsilon) as likely, up to a probability of "
            f"delta.{over}"
        )

    @property
    def mechanism(self) -> str:
        """The mechanism in words."""
        clipping = (
            "the vote vector of each client is scaled to L2 norm 1"
            if self.vote_clipping == "l2"
            else f"each sample counts one vote, which makes an L2 norm of at most {self.max_samples_per_client}"
        )
        spread = f", each for its {self.votes_per_sample} nearest candidates" if self.votes_per_sample > 1 else ""
        sampled = self.client_sampling_rate < 1
        who = f"takes part with probability {self.client_sampling_rate:g} and votes" if sampled else "votes"
        lost = (
            f" (of which {self.num_lost} were lost in a crash, or for want of answers, and are counted all the same)"
            if self.num_lost
            else ""
        )
        shares = (
            f" The clients of a federation added it, each a share that suffices if up to {self.max_dropout:.0%} of "
            "them fail to answer and one of the others looks on; rounds that lost more were discarded."
            if self.max_dropout is not None
            else ""
        )
        return (
            f"{self.num_rounds} histograms of nearest-neighbour votes were released{lost}. In each, a client {who} "
            f"with at most {self.max_samples_per_client} of its samples{spread}, {clipping}, and every bin gets "
            f"discrete Gaussian noise with a standard deviation of {self.noise_std:.6g} votes "
            f"({self.noise_multiplier:.6g} times the sensitivity), drawn from the operating system's randomness."
            f"{shares} The epsilon of all releases together was computed with the {self.accountant.upper()} "
            "accountant."
        )

    @property
    def assumptions(self) -> tuple[str, ...]:
        """What the guarantee assumes or does not cover, a sentence each."""
        return (
            "Every sample of a person carries the same client id; a person with two ids is protected as two clients.",
            *(
                [
                    "The process that held the private text is trusted: this was a simulation in one process, not a "
                    "federation with secure aggregation."
                ]
                if self.max_dropout is None
                else [
                    "The server and the clients follow the protocol, though the server may look at all that it gets; "
                    "secure aggregation hides single votes from it (a simulation can leave that out; its card says so)"
                    ".",
                    "One client may look at the results, knowing its own noise, or add none. Further clients that "
                    "conspire or add no noise count as if they had not answered: they and those that do not answer "
                    f"are together at most {self.max_dropout:.0%}.",
                    "Whether and when a client answers does not depend on its text: a text that cannot be read or "
                    "embedded votes for nothing, and embedding is done in time.",
                    "Each person is one client of the federation; who is asked and who answers is not secret.",
                ]
            ),
            "The number of clients, the configuration and the public models are not secret: what is hidden is which "
            "samples a client has, or whether it has any.",
            "The embedding model treats equal batches equally, so that a client's embeddings are its own affair.",
            "The console of the process that held the private text, with its warnings, belongs to the trusted side.",
            "The initial population, the domain description and every setting were chosen without looking at the "
            "private text.",
            "The text on which the public models were pretrained is not protected, and neither is any evaluation on "
            "private text.",
            *(
                ["Nobody but the trusted process sees which clients take part in a round."]
                if self.client_sampling_rate < 1
                else []
            ),
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


def rounded_up(value: float, digits: int = 4) -> str:
    """Show a positive number with so many digits, and never as less than it is: what an epsilon is due."""
    if not 0 < value < math.inf:
        return f"{value:g}"
    step = 10.0 ** (math.floor(math.log10(value)) + 1 - digits)
    # A thousandth of a step is what floating point may add to a number that has these digits.
    return f"{math.ceil(value / step - 1e-3) * step:.{digits}g}"


_TYPES_IN_A_REPORT: dict[str, tuple[type, ...]] = {
    "<class 'float'>": (int, float),
    "<class 'int'>": (int,),
    "<class 'str'>": (str,),
    "int | None": (int, type(None)),
    "float | None": (int, float, type(None)),
    "tuple[str, ...]": (str,),
    "tuple[int, ...]": (int,),
}

_SHARED_WITH_THE_REPORT = (
    "noise_multiplier",
    "sensitivity",
    "max_samples_per_client",
    "accountant",
    "client_sampling_rate",
    "neighboring_relation",
    "max_dropout",
    "votes_per_sample",
)


def _check_accounting(delta: float, num_rounds: int, accountant: str, sampling_rate: float) -> None:
    if not 0 < delta < 1:
        raise ValueError(f"`delta`={delta} must lie strictly between 0 and 1.")
    if num_rounds < 0:
        raise ValueError(f"`num_rounds`={num_rounds} must not be negative.")
    if accountant not in ACCOUNTANTS:
        raise ValueError(f"`accountant`={accountant!r} must be one of {list(ACCOUNTANTS)}.")
    if not 0 < sampling_rate <= 1:
        raise ValueError(f"`sampling_rate`={sampling_rate} must be above 0 and at most 1.")
