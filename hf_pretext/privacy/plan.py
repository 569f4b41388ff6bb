"""The plan of a run: which questions the clients are asked, how often, and with how much noise."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple, Protocol, runtime_checkable

from ..configuration import PrivateEvolutionConfig
from ..settings import check_name, check_plain_words
from .accounting import ACCOUNTANTS, Accountant, calibrate, checked_epsilon, combined_multiplier, find_accountant
from .mechanism import Mechanism


class Kind(NamedTuple):
    """A kind of question: its name, and whether a client's vector can have negative entries."""

    name: str
    is_signed: bool


VOTES = Kind("votes", is_signed=False)
"""Votes for the nearest candidates, one release per round (Algorithm 2)."""

LABELED_VOTES = Kind("labeled_votes", is_signed=False)
"""Votes of samples for the nearest candidates of their own label, instead of `VOTES`."""

VOTE_NAMES = (VOTES.name, LABELED_VOTES.name)
"""Names of the questions of rounds. A plan has one of them."""

MOST_EPSILON = 700.0
"""Above this, `exp(epsilon)` is too large for a float, and an exchange of two clients has no bound worth a figure."""

SHARE_WEIGHT = 0.5
"""Most norm of what a client says of its labels beside its votes (`clients.questions.NearestLabeledCandidates`)."""

MEAN_EMBEDDING = Kind("mean_embedding", is_signed=True)
"""The mean of a client's embeddings, relative to a public mean. One release before the first round."""

LABELED_MEAN = Kind("labeled_mean", is_signed=True)
"""The same for the samples of each label, instead of `MEAN_EMBEDDING`."""

TOKEN_COUNTS = Kind("token_counts", is_signed=False)
"""How often a client's samples hold each of some public tokens. One release before the first round."""

LABELED_TOKEN_COUNTS = Kind("labeled_token_counts", is_signed=False)
"""The same for the samples of each label, instead of `TOKEN_COUNTS`."""

TOKEN_NAMES = (TOKEN_COUNTS.name, LABELED_TOKEN_COUNTS.name)
"""Names of the questions that are about tokens."""

ASSUMPTION_OF_ONE_SIDE = (
    "The process that held the private text is trusted, or all processes of one organization that did, and the "
    "network between them. This was no federation with secure aggregation."
)
"""Sentence for the assumptions of a report if there was no federation."""

ASSUMPTION_OF_TOKENS = (
    "The tokenizer reads a text alike whatever it has read before, so that a client's token counts depend on nothing "
    "else."
)

DEFAULT_TOKEN_FRACTION = 0.25
"""Fraction of the budget for token counts if the settings do not say it, and the language model can use them."""

MAX_DIMENSIONS = 4096
"""Most dimensions of the embedding model for which a mean embedding is accounted for."""

MEAN_CLIP = 0.7
"""Distance from the public mean to which the mean embedding of a client is clipped, and by which it is divided."""

STEPS_PER_UNIT = 100_000
"""Noise multipliers are rounded up to this fraction, so that they can be read off a report and accounted for again."""


@runtime_checkable
class Asked(Protocol):
    """A question of the caller, as far as the plan needs to know it (`clients.questions.Question`)."""

    name: str
    is_signed: bool
    description: str

    @property
    def num_bins(self) -> int:
        """Length of the vector."""
        ...

    def copy(self) -> Any:
        """Make it again of its public content. A `TypeError` if it has any other."""
        ...


@dataclass(frozen=True)
class PlannedRelease:
    """The releases of one kind of question in a run.

    Args:
        question (`str`): Name of the question.
        description (`str`): What the vector of a client is, in words.
        count (`int`): Number of releases in one run.
        num_bins (`int`): Most bins that are accounted for.
        fraction (`float`): Fraction of the budget that these releases use together.
        mechanism (`Mechanism`): The noise and sensitivity of each of them.
    """

    question: str
    description: str
    count: int
    num_bins: int
    fraction: float
    mechanism: Mechanism


@dataclass(frozen=True)
class Plan:
    """All releases of one run, and how their cost is computed.

    The noise and the epsilon of a run come from this one object. Gaussian releases with multipliers `m_i` compose
    exactly: together they cost what one release with `mu^2 = sum of 1 / m_i^2` costs.

    Args:
        releases (`tuple` of `PlannedRelease`): The releases, one entry per kind of question, in their order.
        delta (`float`): The additive term of (epsilon, delta)-differential privacy.
        accountant (`Accountant`): Computes epsilon.
        client_sampling_rate (`float`): Probability with which a client participates in a release.
        max_samples_per_client (`int`): Most samples that a client answers with.
        unit (`str`): What the guarantee protects: `"client"`, all samples of one client.
    """

    releases: tuple[PlannedRelease, ...]
    delta: float
    accountant: Accountant
    client_sampling_rate: float = 1.0
    max_samples_per_client: int = 8
    unit: str = "client"

    @classmethod
    def from_config(
        cls,
        config: PrivateEvolutionConfig,
        questions: Sequence[tuple[Asked, float]] = (),
        accountant: Accountant | None = None,
    ) -> "Plan":
        """Plan a run, so that all of its releases together cost at most `config.epsilon`.

        `token_fraction=None` counts as 0 here. `with_token_fraction` decides it before.

        Args:
            config (`PrivateEvolutionConfig`): The settings.
            questions (`Sequence` of `(question, fraction)`, *optional*):
                Questions of the caller, each asked once before the first round, and the fraction of the budget of
                each.
            accountant (`Accountant`, *optional*): Replaces the one that `config.accountant` names.

        Raises:
            ValueError: The fractions leave nothing for the votes, or two questions have the same name.
            TypeError: Something is not a question.
        """
        relation, max_dropout = config.neighboring_relation, config.max_dropout
        num_votes = f"the {config.votes_per_sample} nearest candidates"
        nearest = "the nearest candidate" if config.votes_per_sample == 1 else num_votes
        clip_norm = 1.0 if config.vote_clipping == "l2" else float(config.max_samples_per_client)
        entries = []

        def add(
            kind: Kind, words: str, num_bins: int, fraction: float, count: int = 1, clip_norm: float = 1.0
        ) -> None:
            mechanism = Mechanism(1.0, clip_norm, kind.is_signed, relation, max_dropout)
            entries.append(PlannedRelease(kind.name, words, count, num_bins, fraction, mechanism))

        if config.mean_fraction > 0:
            words = f"the mean of its embeddings minus a public mean, divided by {MEAN_CLIP}"
            if config.labels is None:
                add(MEAN_EMBEDDING, words, MAX_DIMENSIONS, config.mean_fraction)
            else:
                words = f"{words}, for the samples of each label by their fraction of its samples"
                add(LABELED_MEAN, words, MAX_DIMENSIONS * len(config.labels), config.mean_fraction)
        if config.token_fraction:
            words = f"how often its samples hold each of {config.num_tokens} public tokens, by public weights"
            if config.labels is None:
                add(TOKEN_COUNTS, words, config.num_tokens, config.token_fraction)
            else:
                words = f"{words}, for the samples of each label"
                add(LABELED_TOKEN_COUNTS, words, config.num_tokens * len(config.labels), config.token_fraction)
        for question, fraction in questions:
            _check_question(question)
            add(Kind(question.name, question.is_signed), question.description, question.num_bins, fraction)
        rest = 1 - math.fsum(entry.fraction for entry in entries)
        _check_fractions(entries, rest)
        words = f"the votes of its samples, each for {nearest}"
        kind, num_bins = VOTES, config.population_size
        if config.labels is not None:
            kind, words = LABELED_VOTES, f"{words} of its label"
        if config.labels is not None and config.label_shares is None:
            num_bins += len(config.labels)
            words = f"{words}, and beside them its numbers of samples with each label"
        add(kind, words, num_bins, rest, config.num_rounds, clip_norm)
        plan = cls(
            tuple(entries),
            config.delta,
            find_accountant(config.accountant if accountant is None else accountant),
            float(config.client_sampling_rate),
            config.max_samples_per_client,
        )
        return plan._calibrated(config)

    def entry(self, question: str) -> PlannedRelease:
        """Return the entry of a kind of question.

        Raises:
            ValueError: The plan has no such question.
        """
        for entry in self.releases:
            if entry.question == question:
                return entry
        names = [entry.question for entry in self.releases]
        raise ValueError(f"The question {question!r} is not in the plan of this run, which has {names}.")

    @property
    def votes(self) -> PlannedRelease:
        """The entry of the votes of every round."""
        (votes,) = (entry for entry in self.releases if entry.question in VOTE_NAMES)
        return votes

    @property
    def reads_tokens(self) -> bool:
        """Whether some question is about the tokens of texts, so that the clients need the writer's tokenizer."""
        return any(entry.question in TOKEN_NAMES for entry in self.releases)

    def has(self, question: str, mechanism: Mechanism) -> bool:
        """Return whether the plan answers a kind of question with this mechanism."""
        return any(entry.question == question and entry.mechanism == mechanism for entry in self.releases)

    @property
    def num_releases(self) -> int:
        """Number of releases in one run."""
        return sum(entry.count for entry in self.releases)

    @property
    def one_run(self) -> list[tuple[Mechanism, int]]:
        """Mechanism and most bins of each release of one run."""
        return [(entry.mechanism, entry.num_bins) for entry in self.releases for _ in range(entry.count)]

    def epsilon(self, delta: float, releases: Iterable[tuple[Mechanism, int]] | None = None) -> float:
        """Compute the epsilon of releases about the same clients, by default of one run.

        Args:
            delta (`float`): The additive term of (epsilon, delta)-differential privacy.
            releases (`Iterable` of `(Mechanism, int)`, *optional*): Mechanism and number of bins of each.
        """
        spent = self.one_run if releases is None else list(releases)
        if not spent:
            return 0.0
        multipliers = [mechanism.noise_multiplier for mechanism, _ in spent]
        # That the discrete Gaussian costs no more is a theorem there.
        is_free = self.accountant is ACCOUNTANTS["rdp"] and self.client_sampling_rate == 1
        cost = 0.0 if is_free else math.fsum(mechanism.discreteness(num_bins) for mechanism, num_bins in spent)
        left = delta * math.exp(-cost)
        # Noise so small that its discreteness shows gives no guarantee worth the name.
        if not left:
            return math.inf
        return checked_epsilon(self.accountant, multipliers, left, self.client_sampling_rate) + 2 * cost

    def exchange_epsilon(self, delta: float, releases: Iterable[tuple[Mechanism, int]] | None = None) -> float:
        """Compute the epsilon for the exchange of all texts of a client for any others.

        It is that of the same noise at the sensitivity of an exchange: `sqrt(2)` times that of adding or removing a
        client, or 2 times if entries have signs (see `Mechanism`). With a sample of the clients, an exchange is a
        removal and an addition: two steps of `(e, d)` are `(2 e, (1 + exp(e)) d)` (Dwork and Roth 2014, theorem 2.2).

        Args:
            delta (`float`): The additive term of (epsilon, delta)-differential privacy.
            releases (`Iterable` of `(Mechanism, int)`, *optional*): As in `epsilon`.
        """
        spent = self.one_run if releases is None else list(releases)
        if self.client_sampling_rate == 1:
            return self.epsilon(delta, [(mechanism.for_exchange(), num_bins) for mechanism, num_bins in spent])
        step, epsilon = delta / 2, self.epsilon(delta, spent)
        while epsilon < MOST_EPSILON and (1 + math.exp(epsilon)) * step > delta:
            step = 0.999 * delta / (1 + math.exp(epsilon))
            epsilon = self.epsilon(step, spent) if step else math.inf
        return 2 * epsilon if epsilon < MOST_EPSILON else math.inf

    @property
    def noise_multiplier(self) -> float:
        """Multiplier of the one Gaussian release that costs what one run costs (without sampling)."""
        return combined_multiplier([mechanism.noise_multiplier for mechanism, _ in self.one_run])

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as a dictionary that JSON can hold, with the accountant's name."""
        entries = [asdict(entry) for entry in self.releases]
        others = ("delta", "client_sampling_rate", "max_samples_per_client", "unit")
        return {
            "releases": entries,
            "accountant": self.accountant.name,
            **{each: getattr(self, each) for each in others},
        }

    def differences(self, values: Mapping[str, Any]) -> list[str]:
        """List how a plan that `to_dict` wrote differs from this one, each difference by name."""
        own, other = _flat(self.to_dict()), _flat(values)
        return [
            f"`{name}`={other.get(name)!r} there, {own.get(name)!r} here"
            for name in sorted({*own, *other})
            if own.get(name) != other.get(name)
        ]

    def _calibrated(self, config: PrivateEvolutionConfig) -> "Plan":
        """Set the noise multipliers from `config.epsilon`, or from `config.noise_multiplier` of each vote."""
        if config.noise_multiplier is not None:
            votes = self.votes
            scale = float(config.noise_multiplier) * math.sqrt(votes.fraction / votes.count)
            ideal = [scale / math.sqrt(entry.fraction / entry.count) for entry in self.releases]
            # The multiplier that was asked for, and not what rounding makes of it.
            ideal[self.releases.index(votes)] = float(config.noise_multiplier)
            return self._with_multipliers(ideal)
        assert config.epsilon is not None  # The configuration has exactly one of the two.
        fractions = [entry.fraction / entry.count for entry in self.releases for _ in range(entry.count)]
        found = calibrate(config.epsilon, config.delta, fractions, self.accountant, self.client_sampling_rate)
        first = [sum(entry.count for entry in self.releases[:index]) for index in range(len(self.releases))]
        steps = [math.ceil(found[index] * STEPS_PER_UNIT) for index in first]
        while True:
            plan = self._with_multipliers([number / STEPS_PER_UNIT for number in steps])
            if plan.epsilon(config.delta) <= config.epsilon:
                return plan
            steps = [number + 1 for number in steps]

    def _with_multipliers(self, multipliers: Sequence[float]) -> "Plan":
        entries = [
            replace(entry, mechanism=replace(entry.mechanism, noise_multiplier=multiplier))
            for entry, multiplier in zip(self.releases, multipliers, strict=True)
        ]
        return replace(self, releases=tuple(entries))


def with_token_fraction(config: PrivateEvolutionConfig, can_tilt: bool, taken: float = 0.0) -> PrivateEvolutionConfig:
    """Decide `config.token_fraction` if it is None, so that the settings say what is released.

    That depends on public facts only: the settings, and what the language model can do. It does not depend on the
    clients, so adding one of them changes neither the plan nor the noise. With `noise_multiplier` it is 0, since a
    release more would raise epsilon. Else it is at most half of what the other first questions leave.

    Args:
        config (`PrivateEvolutionConfig`): The settings.
        can_tilt (`bool`): Whether there is a language model that shows its tokenizer and takes a bias for tokens.
        taken (`float`, *optional*, defaults to 0.0): Fraction of the budget for questions of the caller.

    Returns:
        `PrivateEvolutionConfig`: Settings whose `token_fraction` is a number, or None if the default is 0 for all.
    """
    if config.token_fraction is not None or not DEFAULT_TOKEN_FRACTION:
        return config
    # The clients of a federation have no tokenizer.
    is_useful = can_tilt and config.max_dropout is None and config.noise_multiplier is None
    share = share_of_rest(DEFAULT_TOKEN_FRACTION, config.mean_fraction + taken) if is_useful else 0.0
    return replace(config, token_fraction=share)


def share_of_rest(fraction: float, taken: float) -> float:
    """Return a fraction of the budget, but at most half of what others leave, so that votes get the other half."""
    return max(min(fraction, round((1 - taken) / 2, 6)), 0.0)


def _check_question(question: Asked) -> None:
    if not isinstance(question, Asked):
        raise TypeError(f"`questions` holds a {type(question).__name__}, which is not a `Question`.")
    check_name("name", question.name)
    check_plain_words("description", question.description)
    if not question.name[0].isalpha():  # Steps of a run whose names are numbers are its rounds.
        raise ValueError(f"The question {question.name!r} needs a `name` that begins with a letter.")
    if type(question.num_bins) is not int or question.num_bins < 1:
        raise ValueError(
            f"The question {question.name!r} has `num_bins`={question.num_bins!r}, which must be a positive `int`."
        )
    question.copy()
    if type(question.is_signed) is not bool:
        raise TypeError(
            f"The question {question.name!r} has `is_signed`={question.is_signed!r}, which must be a bool."
        )


def _check_fractions(entries: Sequence[PlannedRelease], rest: float) -> None:
    for entry in entries:
        if not 0 < entry.fraction < 1:
            raise ValueError(
                f"The question {entry.question!r} gets `fraction`={entry.fraction} of the budget, which must lie "
                "strictly between 0 and 1."
            )
    if rest <= 1e-9:
        taken = {entry.question: entry.fraction for entry in entries}
        raise ValueError(f"The fractions {taken} do not fit the budget: they leave nothing for the votes. Lower them.")
    names = [entry.question for entry in entries]
    if len({*names, *VOTE_NAMES}) < len(names) + len(VOTE_NAMES):
        raise ValueError(f"The questions {[*names, *VOTE_NAMES]} must have different names.")


def _flat(values: Any, name: str = "plan") -> dict[str, Any]:
    """List nested values by their names. Entries of a plan are named after their questions."""
    if isinstance(values, Mapping):
        pairs = [(str(key), value) for key, value in values.items()]
    elif isinstance(values, (list, tuple)):
        pairs = [
            (str(each.get("question", index)) if isinstance(each, Mapping) else str(index), each)
            for index, each in enumerate(values)
        ]
    else:
        return {name: values}
    return {key: value for inner, each in pairs for key, value in _flat(each, f"{name}.{inner}").items()}
