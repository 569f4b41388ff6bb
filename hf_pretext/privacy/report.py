"""The privacy report: what is guaranteed, to whom, by which mechanism, and under which assumptions."""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from ..artifacts import REPORT_NAME
from ..configuration import PrivateEvolutionConfig
from ..files import read_json, write_json
from ..settings import check_name, shortened
from ..version import __version__
from .accounting import assumptions_of, method_of
from .figures import rounded_up
from .ledger import PrivacyLedger, Release
from .plan import ASSUMPTION_OF_ONE_SIDE, ASSUMPTION_OF_TOKENS, TOKEN_NAMES, VOTE_NAMES, Plan
from .report_format import (
    TYPES_IN_A_REPORT,
    ReportedRelease,
    check_checksum,
    check_digest,
    checksum_of,
    read_columns,
    read_descriptions,
    read_list,
    read_releases,
    with_releases,
)
from .texts import TEXT_ALONE, CoveredTexts


@dataclass(frozen=True)
class PrivacyReport:
    """What is guaranteed, to whom, by which mechanism, under which assumptions, and about which texts or weights.

    A statement about a guarantee is about rows or weights that can be named. A report of a dataset names its texts,
    and one of a model its weights. What is not among them has no guarantee.

    Args:
        epsilon (`float`): Total privacy loss of everything released so far, under `neighboring_relation`.
        delta (`float`): The additive term of (epsilon, delta)-differential privacy.
        unit (`str`): What is protected: `"client"`, all samples of one client.
        neighboring_relation (`str`): `"add_or_remove_one"` or `"replace_one"`.
        max_samples_per_client (`int`): Cap that the library enforced.
        accountant (`str`): Name of the accountant.
        vote_clipping (`str`): `"l2"` or `"count"`.
        num_clients (`int`, *optional*): Number of clients. It counts as public.
        target_epsilon (`float`, *optional*): The budget that was asked for, for one run.
        releases (`tuple` of `ReportedRelease`): Every release, including the lost ones.
        descriptions (`dict` of `str` to `str`): What a client's vector is, by the name of the question.
        client_sampling_rate (`float`): Probability with which a client participated in a release.
        num_lost (`int`): Releases that are counted, but whose answer was lost.
        max_dropout (`float`, *optional*): Fraction of a federation's clients that may have failed to answer.
        exchange_epsilon (`float`, *optional*):
            The same loss under exchanging all texts of a client for any others. Under `"replace_one"` it is `epsilon`.
        texts_digest (`str`, *optional*): Digest of the list of texts that the report is about (see `CoveredTexts`).
        num_texts (`int`, *optional*): Number of different texts in that list.
        columns (`tuple` of `str`, *optional*, defaults to `("text",)`):
            Columns of the dataset that the report is about. It covers a row if their values belong together.
        seeds_digest (`str`, *optional*): Digest of the seeds, with their votes, that lie beside the report.
        weights_digest (`str`, *optional*): Digest of the weights of the model that the report is about.
        parts (`tuple` of `PrivacyReport`): Reports of several runs that this one adds up.
        hf_pretext_version (`str`): Version that made the report.
    """

    epsilon: float
    delta: float
    unit: str
    neighboring_relation: str
    max_samples_per_client: int
    accountant: str
    vote_clipping: str
    num_clients: int | None = None
    target_epsilon: float | None = None
    releases: tuple[ReportedRelease, ...] = ()
    descriptions: Mapping[str, str] | None = None
    client_sampling_rate: float = 1.0
    num_lost: int = 0
    max_dropout: float | None = None
    exchange_epsilon: float | None = None
    texts_digest: str | None = None
    num_texts: int | None = None
    columns: tuple[str, ...] = TEXT_ALONE
    seeds_digest: str | None = None
    weights_digest: str | None = None
    parts: tuple["PrivacyReport", ...] = ()
    hf_pretext_version: str = __version__

    @classmethod
    def from_ledger(
        cls, ledger: PrivacyLedger, config: PrivateEvolutionConfig, num_clients: int | None = None
    ) -> "PrivacyReport":
        """Write the report of all releases that the ledger counts."""
        plan = ledger.plan
        return cls(
            epsilon=ledger.epsilon(config.delta),
            delta=config.delta,
            unit=plan.unit,
            neighboring_relation=config.neighboring_relation,
            max_samples_per_client=plan.max_samples_per_client,
            accountant=plan.accountant.name,
            vote_clipping=config.vote_clipping,
            num_clients=num_clients,
            target_epsilon=config.epsilon,
            releases=tuple(
                ReportedRelease(each.id, each.question, each.num_bins, each.mechanism) for each in ledger.releases
            ),
            descriptions={entry.question: entry.description for entry in plan.releases},
            client_sampling_rate=plan.client_sampling_rate,
            num_lost=ledger.num_lost,
            max_dropout=config.max_dropout,
            exchange_epsilon=ledger.exchange_epsilon(config.delta),
        )

    @classmethod
    def of_several(cls, reports: Sequence["PrivacyReport"]) -> "PrivacyReport":
        """Add up the reports of runs whose outputs are used together.

        Epsilons and deltas are added, as if all runs were about the same clients. A report whose releases another one
        counts as well is not added again. If the relations differ, the sum is about the exchange of a client's texts,
        which adding or removing a client does not follow from.

        Args:
            reports (`Sequence` of `PrivacyReport`): At least one.
        """
        parts = _distinct([part for report in reports for part in report.parts or (report,)])
        if len(parts) == 1:
            return parts[0]

        def each(name: str) -> list[Any]:
            return [vars(part)[name] for part in parts]

        is_alike = len(set(each("neighboring_relation"))) == 1
        exchange = math.fsum(math.inf if value is None else value for value in each("exchange_epsilon"))
        epsilon = math.fsum(each("epsilon")) if is_alike else exchange
        return cls(
            epsilon=epsilon if len(set(each("unit"))) == 1 else math.inf,
            delta=math.fsum(each("delta")),
            unit=parts[0].unit,
            neighboring_relation=parts[0].neighboring_relation if is_alike else "replace_one",
            max_samples_per_client=max(each("max_samples_per_client")),
            accountant="sum",
            vote_clipping=parts[0].vote_clipping,
            releases=tuple(itertools.chain.from_iterable(each("releases"))),
            descriptions={name: words for known in each("descriptions") for name, words in (known or {}).items()},
            num_lost=sum(each("num_lost")),
            exchange_epsilon=exchange,
            parts=tuple(parts),
        )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "PrivacyReport":
        """Read what `to_dict` returned, also of the first edition. The words are made again from the figures.

        Raises:
            ValueError: A figure is missing, is not valid, or was edited.
        """
        if not isinstance(values, Mapping):
            raise ValueError(f"A privacy report that is {shortened(values)} is not valid.")
        if "releases" in values:
            check_checksum(values)
        else:
            values = with_releases(values)
        known = {each.name: values[each.name] for each in fields(cls) if each.name in values}
        known |= {name: math.inf for name in ("epsilon", "exchange_epsilon") if known.get(name, 0) is None}
        known["releases"] = read_releases(known["releases"])
        known["columns"] = read_columns(known.get("columns", TEXT_ALONE))
        known["descriptions"] = read_descriptions(known.get("descriptions"))
        parts = known["parts"] = tuple(map(cls.from_dict, read_list("parts", known.get("parts", ()))))
        for each in fields(cls):
            value, kinds = known.get(each.name, each.default), TYPES_IN_A_REPORT.get(str(each.type))
            if kinds is not None and (not isinstance(value, kinds) or isinstance(value, bool)):
                raise ValueError(f"A privacy report with `{each.name}`={shortened(value)} is not valid.")
        for name in ("texts_digest", "seeds_digest", "weights_digest"):
            check_digest(name, known.get(name))
        check_name("accountant", known["accountant"])
        report = cls(**known)
        if parts:
            total = replace(cls.of_several(parts), hf_pretext_version=report.hf_pretext_version)
            if any(part.parts for part in parts) or report.without_names() != total:
                raise ValueError("A privacy report whose figures are not the sum of its parts is not valid.")
        return report

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> "PrivacyReport":
        """Read `privacy_report.json` from a folder."""
        return cls.from_dict(read_json(Path(folder) / REPORT_NAME))

    def to_ledger(self, plan: Plan) -> PrivacyLedger:
        """Make a ledger that continues to count where this report ends.

        Args:
            plan (`Plan`): The plan of the configuration that was saved with the report.

        Raises:
            ValueError: The report is about another plan, or states a smaller epsilon than its releases cost.
        """
        genuine = math.isfinite(self.epsilon)
        earlier = [Release(each.id, each.question, each.num_bins, each.mechanism, genuine) for each in self.releases]
        ledger = PrivacyLedger(plan, None, earlier, self.num_lost)
        said, meant = (
            (self.accountant, self.client_sampling_rate, self.max_samples_per_client, self.unit),
            (plan.accountant.name, plan.client_sampling_rate, plan.max_samples_per_client, plan.unit),
        )
        are_different = len(set(self.release_ids)) == self.num_releases
        are_planned = all(
            plan.has(each.question, each.mechanism)
            and (self.descriptions or {}).get(each.question) in (None, plan.entry(each.question).description)
            for each in earlier
        )
        follows = said == meant and are_different and are_planned
        # Another version of the accountant's numerics may differ in the last digits.
        costs = ledger.epsilon(self.delta) * (1 - 1e-6) if follows else math.inf
        if self.epsilon < costs:
            raise ValueError(
                f"The privacy report (epsilon {rounded_up(self.epsilon, 6)}, {self.num_releases} releases, {said}) "
                f"and the plan of the configuration ({meant}), whose releases cost {rounded_up(costs, 6)}, do not "
                "belong together. A ledger continues with the plan that it began with. Make a new generator for "
                "another one, and add up the reports."
            )
        return ledger

    def about(self, texts: CoveredTexts, seeds_digest: str | None = None) -> "PrivacyReport":
        """Return this report as it is about these texts, and no others."""
        about = replace(self, texts_digest=texts.digest, num_texts=len(texts), columns=texts.columns)
        return replace(about, seeds_digest=seeds_digest)

    def about_weights(self, digest: str) -> "PrivacyReport":
        """Return this report as it is about the weights with this digest, and no others."""
        return replace(self.without_names(), weights_digest=digest)

    def without_names(self) -> "PrivacyReport":
        """Return the guarantee alone, without what it is about."""
        nothing = replace(self, texts_digest=None, num_texts=None, columns=TEXT_ALONE)
        return replace(nothing, seeds_digest=None, weights_digest=None)

    def covers(self, other: "PrivacyReport") -> bool:
        """Return whether every release that another report counts is counted here, so that this one may replace it."""
        return set(other.release_ids) <= set(self.release_ids)

    @property
    def num_releases(self) -> int:
        """Number of releases, of all kinds."""
        return len(self.releases)

    @property
    def num_rounds(self) -> int:
        """Number of rounds, which are the releases of votes."""
        return sum(each.question in VOTE_NAMES for each in self.releases)

    @property
    def release_ids(self) -> tuple[str, ...]:
        """The random names of all releases."""
        return tuple(each.id for each in self.releases)

    @property
    def kinds(self) -> dict[str, list[ReportedRelease]]:
        """The releases by their kind of question."""
        kinds: dict[str, list[ReportedRelease]] = {}
        for each in self.releases:
            kinds.setdefault(each.question, []).append(each)
        return kinds

    @property
    def noise_std(self) -> float | None:
        """Standard deviation of the noise in a bin of votes, or None if no votes were released."""
        return next((each.mechanism.noise_std for each in self.releases if each.question in VOTE_NAMES), None)

    @property
    def noise_multiplier(self) -> float | None:
        """Noise standard deviation over sensitivity, in each release of votes."""
        return next((each.mechanism.noise_multiplier for each in self.releases if each.question in VOTE_NAMES), None)

    @property
    def is_finite(self) -> bool:
        """Whether there is a guarantee about something that was released."""
        return self.num_releases > 0 and math.isfinite(self.epsilon)

    @property
    def guarantee(self) -> str:
        """The guarantee in words."""
        if self.num_releases == 0:
            return "Nothing about the private data has been released yet."
        if math.isinf(self.epsilon):
            return (
                "There is no guarantee: the noise did not come from the library, or there is too little of it, or the "
                "model that wrote the texts had learned from others whose guarantee is not known."
            )
        over = ""
        if self.parts:
            over = f" This is the sum of {len(self.parts)} runs, as if they were about the same clients."
        if self.target_epsilon is not None and self.epsilon > self.target_epsilon * (1 + 1e-9):
            target = rounded_up(self.target_epsilon)
            over = f" This is more than the {target} of one run, because several runs are added up."
        if self.neighboring_relation == "add_or_remove_one":
            neighbors = "adding or removing all samples of one client"
            versions = "with one client's texts as without them, and the reverse"
        else:
            neighbors = "exchanging all samples of one client for any others"
            versions = "with one client's texts as with any others in their place"
        is_a_number = self.epsilon < 700
        times = f"{rounded_up(math.exp(self.epsilon))} times (e^epsilon)" if is_a_number else "e^epsilon times"
        return (
            f"Client-level differential privacy with epsilon = {rounded_up(self.epsilon)} and delta = "
            f"{rounded_up(self.delta)}, under {neighbors}. Any set of outcomes of this run is at most {times} "
            f"as likely {versions}, plus delta.{over}{self._other_relation}"
        )

    @property
    def _other_relation(self) -> str:
        """What holds for the other way in which data sets can differ."""
        if self.neighboring_relation == "replace_one":
            return " Whether someone is a client at all is not hidden."
        if self.exchange_epsilon is None:
            return ""
        return (
            " This bounds what anyone can learn about whether a client contributed text. For what its texts are, the "
            f"bound is epsilon = {rounded_up(self.exchange_epsilon)}, under exchanging all of them for any others."
        )

    @property
    def mechanism(self) -> str:
        """The mechanism in words."""
        if self.parts:
            return " ".join(f"Run {number}: {part.mechanism}" for number, part in enumerate(self.parts, start=1))
        sampled = self.client_sampling_rate < 1
        who = f"participates with probability {self.client_sampling_rate:g} and answers" if sampled else "answers"
        lost = (
            f" {self.num_lost} of them were lost in a crash, or because too few clients answered, and are counted all "
            "the same."
            if self.num_lost
            else ""
        )
        kinds = " ".join(self._describe(question, releases) for question, releases in self.kinds.items())
        shares = (
            f" The clients of a federation added the noise. Each adds as much as suffices if up to "
            f"{100 * self.max_dropout:g}% of them fail to answer and one of the others looks at the result. "
            "Releases that lost more answers were discarded."
            if self.max_dropout is not None
            else ""
        )
        source = ", drawn from the operating system's randomness" if math.isfinite(self.epsilon) else ""
        were = "was" if self.num_releases == 1 else "were"
        return (
            f"{count_of(self.num_releases, 'noisy sum')} over all clients {were} released.{lost} In each, a client "
            f"{who} with at most {self.max_samples_per_client} of its samples. "
            f"{kinds} Every bin gets discrete Gaussian noise{source}.{shares} "
            "The epsilon of all releases together was computed "
            f"{method_of(self.accountant, self.client_sampling_rate)}."
        )

    def _describe(self, question: str, releases: list[ReportedRelease]) -> str:
        mechanism = releases[0].mechanism
        clipping = (
            "clipped to an L2 norm of 1"
            if mechanism.clip_norm == 1
            else f"counted as they are, with an L2 norm of at most {mechanism.clip_norm:g}"
        )
        words = (self.descriptions or {}).get(question, question)
        return (
            f"{count_of(len(releases), 'release')} of `{question}`: {words}, {clipping}. The noise has a standard "
            f"deviation of {mechanism.noise_std:.6g} per bin ({mechanism.noise_multiplier:.6g} times the sensitivity)."
        )

    @property
    def assumptions(self) -> tuple[str, ...]:
        """What the guarantee assumes or does not cover, a sentence each."""
        if self.parts:
            return tuple(dict.fromkeys(sentence for part in self.parts for sentence in part.assumptions))
        return (
            "Every sample of a person carries the same client id. A person with two ids is protected as two clients.",
            *((ASSUMPTION_OF_ONE_SIDE,) if self.max_dropout is None else self._assumptions_of_a_federation),
            "The number of clients, the configuration and the public models are not secret. A client whose texts are "
            "removed still counts.",
            "The embedding model treats equal batches equally, so that a client's embeddings depend on nothing else.",
            *assumptions_of(self.accountant),
            *([ASSUMPTION_OF_TOKENS] if {*self.kinds} & {*TOKEN_NAMES} else ()),
            "The console of the process that held the private text, with its warnings, belongs to the trusted side.",
            "The initial population, the domain description and every setting were chosen without looking at the "
            "private text.",
            "Which texts, seeds or models are kept is decided without looking at private text.",
            "The text on which the public models were pretrained is not protected. Neither is any evaluation on "
            "private text.",
            *(
                ["No one but the trusted process sees which clients participate in a release."]
                if self.client_sampling_rate < 1
                else []
            ),
            "Other releases about the same clients, by other runs or other programs, add to this epsilon.",
        )

    @property
    def _assumptions_of_a_federation(self) -> tuple[str, ...]:
        return (
            "The server and the clients follow the protocol, though the server may look at everything that it gets. "
            "Secure aggregation hides single answers from it, except in a simulation that leaves it out.",
            "One client may look at the results, knowing its own noise, or add none. Further clients that conspire or "
            "add no noise count as if they had not answered: they and those that do not answer are together at most "
            f"{100 * (self.max_dropout or 0):g}%.",
            "Whether and when a client answers does not depend on its text: a text that cannot be read or embedded "
            "counts for nothing, and embedding is done in time.",
            "Each person is one client of the federation. Who is asked and who answers is not secret.",
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the figures and the words as a dictionary that JSON can hold. An infinite epsilon becomes None."""
        words = {"guarantee": self.guarantee, "mechanism": self.mechanism, "assumptions": list(self.assumptions)}
        figures = {
            "num_releases": self.num_releases,
            "num_rounds": self.num_rounds,
            "noise_multiplier": self.noise_multiplier,
            "noise_std": self.noise_std,
        }
        # What reports of earlier versions do not have is left out where it says nothing.
        silent = {"exchange_epsilon": None, "columns": TEXT_ALONE}
        own = {name: value for name, value in vars(self).items() if name not in silent or value != silent[name]}
        own |= {name: None for name in ("epsilon", "exchange_epsilon") if math.isinf(own.get(name, 0))}
        own |= {"releases": [asdict(release) for release in self.releases]}
        own |= {"parts": [part.to_dict() for part in self.parts]}
        values = {**own, **figures, **words}
        return {**values, "checksum": checksum_of(values)}

    def save_pretrained(self, folder: str | Path) -> None:
        """Write `privacy_report.json` to `folder`, which is created if it does not exist."""
        path = Path(folder)
        path.mkdir(parents=True, exist_ok=True)
        write_json(path / REPORT_NAME, self.to_dict())

    def __str__(self) -> str:
        return f"{self.guarantee}\n{self.mechanism}"


def _distinct(reports: Sequence[PrivacyReport]) -> list[PrivacyReport]:
    """Drop the reports whose releases another one counts as well, at no lower an epsilon: it may be infinite."""

    def counts(one: PrivacyReport, other: PrivacyReport) -> bool:
        return one.covers(other) and one.epsilon >= other.epsilon

    kept: list[PrivacyReport] = []
    for each in reports:
        if not any(counts(other, each) for other in kept):
            kept = [*(other for other in kept if not counts(each, other)), each]
    return kept


def count_of(number: int, noun: str) -> str:
    """Write a number with its noun, in the plural if it is not one."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
