"""Settings that follow from public numbers: about how many clients there are, and how large the budget is.

The rule is for whoever writes the settings down, before anything private is read. The library does not apply it by
itself, and never to a number that it counted: what is asked of all clients must not change when one comes or goes.
"""

from typing import Any, NamedTuple

from ..configuration import PrivateEvolutionConfig
from .plan import Plan, share_of_rest


class Step(NamedTuple):
    """What is asked from a strength on.

    Args:
        strength (`float`):
            Expected clients that participate, over the noise of one release of votes that has all of the budget.
        mean_fraction (`float`): Fraction of the budget for the mean embedding.
        token_fraction (`float`): Fraction of the budget for token counts, if the language model can use them.
        num_rounds (`int`): Rounds of votes, which divide the rest.
    """

    strength: float
    mean_fraction: float
    token_fraction: float
    num_rounds: int


STEPS = (
    Step(200.0, mean_fraction=0.0, token_fraction=0.25, num_rounds=3),
    Step(0.0, mean_fraction=0.4, token_fraction=0.0, num_rounds=2),
)
"""The rule. A thousand clients at epsilon 1.29 and delta 3e-6 have a strength of 316, three hundred one of 95.

One vector per client, such as a mean, stands out of noise that drowns a thousand bins of votes. So few clients give it
a part of the budget. Token counts have thousands of bins, and few clients say nothing by them. Many clients are asked
what the defaults ask. Both were compared with others by models that were trained on the texts
(`recipes/benchmark/EXPERIMENTS.md`, 24 and 25).
"""

CHOSEN = ("mean_fraction", "token_fraction", "num_rounds", "votes_per_sample")
"""Settings that the rule chooses."""


def votes_that_stand_out(config: PrivateEvolutionConfig, plan: Plan, num_clients: int) -> int:
    """Compute how many votes per sample stand out from the noise: 300 times the noise over the number of clients.

    It may be none. Measured in `recipes/benchmark/EXPERIMENTS.md`, 11.
    """
    noise = plan.votes.mechanism.noise_std_of_sum(max(3, num_clients))
    wanted = int(300 * noise / (plan.client_sampling_rate * num_clients))
    return min(wanted, 16, config.candidates_per_label[-1] // 8)


def settings_for(
    expected_clients: int, *, epsilon: float, delta: float, can_tilt: bool = True, **settings: Any
) -> dict[str, Any]:
    """Choose settings by the rule, to be written down and given to `PrivateEvolutionConfig`.

    ```python
    config = PrivateEvolutionConfig(**settings_for(300, epsilon=1.29, delta=3e-6))
    ```

    Args:
        expected_clients (`int`): About how many clients participate. An estimate that counts as public.
        epsilon (`float`): The budget.
        delta (`float`): The additive term of (epsilon, delta)-differential privacy.
        can_tilt (`bool`, *optional*, defaults to `True`):
            Whether the language model shows its tokenizer and takes a bias of tokens.
        **settings: Other settings. What is given here is not chosen by the rule.

    Returns:
        `dict`: All of these, and `mean_fraction`, `token_fraction`, `num_rounds` and `votes_per_sample`.

    Raises:
        ValueError: `expected_clients` is not a positive integer, or a setting is not valid.
    """
    if type(expected_clients) is not int or expected_clients < 1:
        raise ValueError(f"`expected_clients`={expected_clients!r} must be a positive integer.")
    strength = _strength(expected_clients, {**settings, "epsilon": epsilon, "delta": delta})
    step = next(each for each in STEPS if strength >= each.strength)
    tokens, mean_fraction = step.token_fraction, settings.get("mean_fraction", step.mean_fraction)
    if settings.get("token_fraction") is not None and "mean_fraction" not in settings:
        mean_fraction = share_of_rest(mean_fraction, settings["token_fraction"])
    if mean_fraction > step.mean_fraction:
        tokens = share_of_rest(tokens, mean_fraction)
    # The clients of a federation have no tokenizer.
    is_useful = can_tilt and settings.get("max_dropout") is None
    chosen = {
        "epsilon": epsilon,
        "delta": delta,
        "mean_fraction": mean_fraction,
        "token_fraction": tokens if is_useful else 0.0,
        "num_rounds": step.num_rounds,
        **settings,
    }
    config = PrivateEvolutionConfig(**chosen)
    votes = votes_that_stand_out(config, Plan.from_config(config), expected_clients)
    return {**chosen, "votes_per_sample": settings.get("votes_per_sample", max(votes, 1))}


def _strength(expected_clients: int, settings: dict[str, Any]) -> float:
    """Compute how far the clients stand out of the noise of one release of votes that has all of the budget."""
    alone = {"mean_fraction": 0.0, "token_fraction": 0.0, "num_rounds": 1}
    plan = Plan.from_config(PrivateEvolutionConfig(**{**settings, **alone}))
    mechanism = plan.votes.mechanism
    noise = mechanism.noise_std_of_sum(max(3, expected_clients))  # Three are the fewest of a federation.
    return plan.client_sampling_rate * expected_clients * mechanism.clip_norm / noise
