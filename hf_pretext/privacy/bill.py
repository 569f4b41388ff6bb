"""The bill of a plan: what each release costs, and what will stand out of its noise. It touches no private text."""

import math
from dataclasses import fields

from ..configuration import PrivateEvolutionConfig
from .advice import CHOSEN, settings_for, votes_that_stand_out
from .figures import rounded_up
from .plan import LABELED_MEAN, MEAN_CLIP, MEAN_EMBEDDING, TOKEN_NAMES, VOTE_NAMES, Plan, PlannedRelease
from .report import count_of

USUAL_DIMENSIONS = 384
"""Dimensions of all-MiniLM-L6-v2, the paper's embedding model, with which the bill illustrates a mean."""

USUAL_TOKENS = 50
"""Different public tokens of a client that writes a few short texts, with which the bill illustrates their counts."""

STANDS_OUT = 2.0
"""Standard deviations of the noise from which something stands out."""


def bill(config: PrivateEvolutionConfig, plan: Plan, num_clients: int | None = None) -> str:
    """Write the bill of a plan, in words and as a Markdown table.

    Args:
        config (`PrivateEvolutionConfig`): The settings.
        plan (`Plan`): Their plan.
        num_clients (`int`, *optional*): Number of clients. It counts as public.
    """
    epsilon = plan.epsilon(plan.delta)
    neighbors = "adding or removing" if config.neighboring_relation == "add_or_remove_one" else "exchanging"
    lines = [
        f"{count_of(plan.num_releases, 'release')}, together epsilon = {rounded_up(epsilon)} at delta = "
        f"{rounded_up(plan.delta)}, under {neighbors} all samples of one client. Nothing was spent, no private text "
        "was read.",
        "",
        "| question | releases | bins, at most | of the budget | noise multiplier | noise per bin | epsilon alone |",
        "|---|---|---|---|---|---|---|",
        *(_row(entry, plan) for entry in plan.releases),
        "",
        "The budget is the sum of 1 / multiplier^2 over all releases. The noise per bin is a standard deviation. "
        "What stands out of it:",
        "",
        *(f"- {_what_stands_out(entry, config, plan, num_clients)}" for entry in plan.releases),
    ]
    if num_clients is not None:
        if plan.delta >= 1 / num_clients:
            lines.append(
                f"- Warning: `delta`={rounded_up(plan.delta)} is not below one over the number of clients. Choose it "
                f"well below {1 / num_clients:.1e}."
            )
        better = better_votes_per_sample(config, plan, num_clients)
        if better is not None:
            lines.append(
                f"- With {num_clients:,} clients, `votes_per_sample`={better} instead of {config.votes_per_sample} "
                "stands out better, under the same guarantee."
            )
        lines += _advice(config, num_clients)
    return "\n".join(lines)


def better_votes_per_sample(config: PrivateEvolutionConfig, plan: Plan, num_clients: int) -> int | None:
    """Return how many votes per sample stand out better from the noise, or None if the setting is good enough.

    Measured in `recipes/benchmark/EXPERIMENTS.md`, 11. It is for the owner of the data to set: chosen by the library,
    it would change how every client votes when a client is added, by more than the sensitivity.
    """
    better = votes_that_stand_out(config, plan, num_clients)
    return better if config.vote_clipping == "l2" and better >= 2 * config.votes_per_sample else None


def _advice(config: PrivateEvolutionConfig, num_clients: int) -> list[str]:
    """Say what the rule would set, if the settings have a budget, no labels, and are not the paper's."""
    if config.epsilon is None or config.vote_clipping == "count" or config.labels is not None:
        return []
    own = {each.name: vars(config)[each.name] for each in fields(config) if each.init and each.name not in CHOSEN}
    advised = settings_for(num_clients, **own)
    words = ", ".join(f"`{name}`={advised[name]}" for name in CHOSEN)
    return [
        f"- For about {num_clients:,} clients at this budget, we recommend {words}. Token counts need a language "
        "model that is loaded here. Write these into the settings to use them."
    ]


def _row(entry: PlannedRelease, plan: Plan) -> str:
    mechanism = entry.mechanism
    alone = plan.epsilon(plan.delta, [(mechanism, entry.num_bins)] * entry.count)
    cells = [
        entry.question,
        entry.count,
        f"{entry.num_bins:,}",
        f"{entry.fraction:.0%}",
        f"{mechanism.noise_multiplier:.4g}",
        f"{mechanism.noise_std:.4g}",
        rounded_up(alone),
    ]
    return "| " + " | ".join(map(str, cells)) + " |"


def _what_stands_out(
    entry: PlannedRelease, config: PrivateEvolutionConfig, plan: Plan, num_clients: int | None
) -> str:
    participating = None if num_clients is None else num_clients * plan.client_sampling_rate
    if entry.question in VOTE_NAMES:
        return _about_votes(entry, config, participating)
    if entry.question in (MEAN_EMBEDDING.name, LABELED_MEAN.name):
        return _about_mean(entry, participating)
    if entry.question in TOKEN_NAMES:
        return _about_tokens(entry, participating)
    return (
        f"`{entry.question}`: a client contributes a vector of length {entry.mechanism.clip_norm:g} at most. Entries "
        f"of the sum stand out from {STANDS_OUT * entry.mechanism.noise_std:.3g} on."
    )


def _about_votes(entry: PlannedRelease, config: PrivateEvolutionConfig, participating: float | None) -> str:
    mechanism = entry.mechanism
    spread = config.max_samples_per_client * config.votes_per_sample
    vote = 1.0 if config.vote_clipping == "count" else 1 / math.sqrt(spread)
    num_whole, num_single = (
        math.ceil(STANDS_OUT * mechanism.noise_std / each) for each in (mechanism.clip_norm, vote)
    )
    words = (
        f"`{entry.question}`: a candidate stands out if {num_whole:,} clients give it all of their votes, or "
        f"{num_single:,} clients give it one of their {spread} each."
    )
    if participating is None:
        return words
    average = participating * vote * spread / config.population_size
    return (
        f"{words} If each of {participating:,.0f} clients casts that many votes, a candidate gets {average:.3g} on "
        f"average, which is {average / mechanism.noise_std:.2g} times the noise."
    )


def _about_mean(entry: PlannedRelease, participating: float | None) -> str:
    length = entry.mechanism.noise_std * math.sqrt(USUAL_DIMENSIONS) * MEAN_CLIP
    words = (
        f"`{entry.question}`: in {USUAL_DIMENSIONS} dimensions the noise has a length of {length:.3g} in all, so "
        f"of {length:.3g} over the number of clients in their mean."
    )
    if participating is None:
        return words
    return (
        f"{words} With {participating:,.0f} clients that is {length / participating:.2g}, where a client is at most "
        f"{MEAN_CLIP} away from the public mean."
    )


def _about_tokens(entry: PlannedRelease, participating: float | None) -> str:
    noise, alone = entry.mechanism.noise_std, 1 / math.sqrt(USUAL_TOKENS)
    words = (
        f"`{entry.question}`: a token stands out if {math.ceil(STANDS_OUT * noise / alone):,} clients use it, each "
        f"with {USUAL_TOKENS - 1} other tokens once."
    )
    if participating is None:
        return words
    needed = STANDS_OUT * noise / alone / participating
    if needed < 1:
        return f"{words} Of {participating:,.0f} clients that is {needed:.2g} of all."
    return f"{words} There are {participating:,.0f} clients, so few tokens can stand out."
