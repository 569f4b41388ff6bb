"""What an audit says: all readings, at a confidence that pays for their number, and a verdict in words."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..clients.samples import Samples
from ..privacy.figures import rounded_up
from ..privacy.plan import Plan
from .bounds import AuditReading, read_scores
from .canaries import Released
from .primary import MuReading, canary_scores, read_mu

PRIMARY_FRACTION = 0.5
"""Fraction of the allowed false alarms that the primary attack has for itself. The secondary ones share the rest."""

CANARIES = "canaries, any mechanism"
"""Name of the secondary attack that reads the scores of the primary one without any assumption about the noise."""


@dataclass(frozen=True)
class Audit:
    """The readings of an audit.

    Of audits of a run that keeps its claim, at most `1 - confidence` call it refuted. The primary attack, named
    beforehand, has half of these false alarms for itself. All others share the other half equally (Bonferroni).

    Args:
        claimed_epsilon (`float`): What the plan of the run claims.
        delta (`float`): At which delta.
        confidence (`float`): Of all readings together.
        primary (`MuReading`): The primary attack: canaries that are among the candidates of every round, by all
            releases together.
        kinds (`tuple` of `MuReading`): The same attack by each kind of question, if there are several.
        secondary (`tuple` of `AuditReading`): Other attacks, by bounds that hold for any mechanism.
        scores (`Mapping` of `str` to two arrays): Scores of members and of others, by the name of the reading.
    """

    claimed_epsilon: float
    delta: float
    confidence: float
    primary: MuReading
    kinds: tuple[MuReading, ...]
    secondary: tuple[AuditReading, ...]
    scores: Mapping[str, tuple[np.ndarray, np.ndarray]]

    @property
    def refuting(self) -> list[tuple[str, float, float]]:
        """Name, bound and claim of the readings that refute what is claimed, the primary one first."""
        mus = [(f"mu of {e.question}", e.epsilon_lower_bound, e.claimed_epsilon) for e in (self.primary, *self.kinds)]
        others = [(each.attack, each.epsilon_lower_bound, self.claimed_epsilon) for each in self.secondary]
        return [(name, bound, claim) for name, bound, claim in [*mus, *others] if bound > claim]

    @property
    def epsilon_lower_bound(self) -> float:
        """The largest bound on the epsilon of the whole run."""
        bounds = [each.epsilon_lower_bound for each in (self.primary, *self.kinds)]
        return max(bounds + [each.epsilon_lower_bound for each in self.secondary])

    @property
    def verdict(self) -> str:
        """What the audit says, in words."""
        first = self.primary
        claim = f"The run claims epsilon {rounded_up(self.claimed_epsilon)} at delta {rounded_up(self.delta)}"
        measured = f"The primary attack measured mu = {first.mu:.2f}, and the plan has {first.claimed_mu:.2f}."
        if self.refuting:
            shown = [f"{name} (at least {bound:.3g} instead of {of:.3g})" for name, bound, of in self.refuting]
            return (
                f"Refuted. {claim}, but more is shown by {'; '.join(shown)}. {measured} At most "
                f"{1 - self.confidence:.0%} of audits of a run that keeps its claim end like this. Check the noise, "
                "the clipping and the accounting, and repeat the audit with new coins."
            )
        power = math.floor(100 * min(first.power_against_halved_noise, 0.99)) / 100
        return (
            f"Not refuted. {claim}. {measured} So epsilon is at least {first.epsilon_lower_bound:.2f}. If "
            f"canaries have the effect measured here, half of the noise is noticed with a probability of about "
            f"{power:.0%}. A smaller fault may remain unnoticed, and so may one that these attacks do not look for."
        )

    @property
    def table(self) -> str:
        """The readings as Markdown tables."""
        interval = 2 * self.primary.confidence - 1
        lines = [
            f"Primary attack, named beforehand: {self.primary.num_targets} canaries that are among the candidates of "
            f"every round. {self.primary.num_members} of them participated. Its bound holds with a confidence of "
            f"{self.primary.confidence:.1%}, and those of all other attacks together with the same.\n",
            f"| releases | claimed mu | measured mu [{interval:.0%} interval] | epsilon is at least | claimed |",
            "|---|---|---|---|---|",
        ]
        for number, each in enumerate((self.primary, *self.kinds)):
            name = each.question if number else f"**{each.question}** (primary)"
            lines.append(
                f"| {name} | {each.claimed_mu:.3f} | {each.mu:.3f} [{each.low:.3f}, {each.high:.3f}] | "
                f"{each.epsilon_lower_bound:.3f} | {each.claimed_epsilon:.3f} |"
            )
        if self.kinds:
            lines.append(f"\nThe interval of one kind of question has a confidence of {2 * self._each - 1:.1%}.")
        lines += [
            f"\nSecondary attacks, each bound with a confidence of {self._each:.1%}:\n",
            "| attack on | targets | right guesses | epsilon is at least | AUC [95 % interval] |",
            "|---|---|---|---|---|",
        ]
        for other in self.secondary:
            lines.append(
                f"| {other.attack} | {other.num_targets} | {other.num_correct} of {other.num_guesses} | "
                f"{other.epsilon_lower_bound:.3f} | {other.auc:.3f} [{other.auc_low:.3f}, {other.auc_high:.3f}] |"
            )
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Return the figures as a dictionary that JSON can hold, without any target's score."""
        return {
            "claimed_epsilon": self.claimed_epsilon,
            "delta": self.delta,
            "confidence": self.confidence,
            "epsilon_lower_bound": self.epsilon_lower_bound,
            "refuted_by": [name for name, _, _ in self.refuting],
            "verdict": self.verdict,
            "primary": self.primary.to_dict(),
            "kinds": [each.to_dict() for each in self.kinds],
            "secondary": [each.to_dict() for each in self.secondary],
        }

    @property
    def _each(self) -> float:
        return confidence_of_each(self.confidence, len(self.kinds) + len(self.secondary))


def confidence_of_each(confidence: float, number: int) -> float:
    """Compute the confidence of each secondary reading, so that all of them together have their part of the misses."""
    return 1 - (1 - confidence) * (1 - PRIMARY_FRACTION) / number


def read_audit(
    plan: Plan,
    released: Sequence[Released],
    canaries: Samples,
    is_member: np.ndarray,
    attacks: Mapping[str, tuple[np.ndarray, np.ndarray]],
    confidence: float = 0.95,
) -> Audit:
    """Read the primary attack, and all others, of an audit.

    Args:
        plan (`Plan`): The plan of the audited run, which is the claim.
        released (`Sequence[Released]`): What it released (`AuditedGenerator.released`).
        canaries (`Samples`): The samples of each canary (`AuditedGenerator.canary_samples`).
        is_member (`np.ndarray` of shape `(n,)`): The coins of the canaries.
        attacks (`Mapping` of `str` to two arrays): Scores and coins of each other attack, by its name.
        confidence (`float`, *optional*, defaults to `0.95`): Of all readings together.

    Raises:
        ValueError: Nothing was released, or there are too few canaries.
    """
    if not released:
        raise ValueError("`released` is empty: an audit needs at least one release that was not lost.")
    of_kind: dict[str, np.ndarray] = {}
    for name in dict.fromkeys(each.question.name for each in released):
        of_kind[name] = canary_scores([each for each in released if each.question.name == name], canaries)
    return read_audit_scores(plan, of_kind, is_member, attacks, confidence)


def read_audit_scores(
    plan: Plan,
    of_kind: Mapping[str, np.ndarray],
    is_member: np.ndarray,
    attacks: Mapping[str, tuple[np.ndarray, np.ndarray]],
    confidence: float = 0.95,
) -> Audit:
    """Read an audit from the canaries' scores by each kind of question. See `read_audit`."""
    scores = sum(of_kind.values(), np.zeros(len(is_member)))
    kinds = list(of_kind) if len(plan.releases) > 1 else []
    others = {CANARIES: (scores, is_member), **attacks}
    each = confidence_of_each(confidence, len(kinds) + len(others))
    primary = read_mu(scores, is_member, plan, confidence=1 - (1 - confidence) * PRIMARY_FRACTION)
    return Audit(
        plan.epsilon(plan.delta),
        plan.delta,
        confidence,
        primary,
        tuple(read_mu(of_kind[name], is_member, plan, name, each) for name in kinds),
        tuple(read_scores(name, *pair, plan.delta, each) for name, pair in others.items()),
        {name: (values[coins], values[~coins]) for name, (values, coins) in others.items()},
    )
