"""The clients that an audit is about, and the coins that decide which of them participate."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..clients.rows import group_by_client
from ..configuration import PrivateEvolutionConfig
from ..forms import Plain, form_of

if TYPE_CHECKING:
    from datasets import Dataset

CONSONANTS, VOWELS = "bcdfghjklmnpqrstvwz", "aeiou"
"""Letters of the words of a canary."""


@dataclass(frozen=True)
class Targets:
    """Clients that an audit is about.

    Args:
        texts (`tuple` of `tuple` of `str`): Samples of each, at most as many as a client may answer with.
        is_canary (`np.ndarray` of `bool`): Which of them are made up.
        is_member (`np.ndarray` of `bool`): The result of their coins: which of them participate.
    """

    texts: tuple[tuple[str, ...], ...]
    is_canary: np.ndarray
    is_member: np.ndarray

    @property
    def canaries(self) -> list[str]:
        """The text of each canary."""
        return [own[0] for own, is_canary in zip(self.texts, self.is_canary, strict=True) if is_canary]


def make_canaries(num_canaries: int, num_words: int = 4, seed: int = 0) -> list[str]:
    """Make up texts of words that do not exist, all different.

    They are so unlike any language that hardly anyone else votes for them. They are unlike one another as well, so
    that a mean embedding shows each of them in a direction of its own. (Hexadecimal numbers, for example, are all
    alike to an embedding model.)
    """
    rng = np.random.default_rng([seed, 1])
    canaries: dict[str, None] = {}
    while len(canaries) < num_canaries:
        letters = zip(
            rng.choice(list(CONSONANTS), (num_words, 3)), rng.choice(list(VOWELS), (num_words, 3)), strict=True
        )
        words = ("".join(first + second for first, second in zip(*pair, strict=True)) for pair in letters)
        canaries.setdefault(" ".join(words))
    return list(canaries)


def sample_targets(
    private: "Dataset", config: PrivateEvolutionConfig, num_canaries: int, client_share: float = 0.1, seed: int = 0
) -> tuple["Dataset", Targets]:
    """Choose the targets, flip their coins, and make the private dataset of the audited run.

    Args:
        private (`datasets.Dataset`): The private texts, as a generator takes them.
        config (`PrivateEvolutionConfig`): Names of the columns, most samples per client.
        num_canaries (`int`): Number of canaries. The samples of each are copies of one text.
        client_share (`float`, *optional*, defaults to `0.1`): Fraction of the real clients that are targets.
        seed (`int`, *optional*, defaults to `0`): Seed of all choices, so that a later step finds them again.

    Returns:
        The dataset without the targets that do not participate, and the targets.

    Raises:
        ValueError: There are no targets, `client_share` is not a fraction, or the texts are not plain.
    """
    column = check_is_plain(config)
    if not 0 <= client_share <= 1:
        raise ValueError(f"`client_share`={client_share} must lie between 0 and 1.")
    from datasets import Dataset

    rng = np.random.default_rng([seed, 0])
    # A client with blank texts only is one all the same.
    samples: dict[Any, list[str]] = {client: own or [""] for client, own in group_by_client(private, config).items()}
    clients = list(samples)
    chosen = [clients[index] for index in rng.permutation(len(clients))[: round(client_share * len(clients))]]
    canaries = make_canaries(num_canaries, seed=seed)
    texts = tuple((canary,) * config.max_samples_per_client for canary in canaries)
    texts += tuple(tuple(samples[client][: config.max_samples_per_client]) for client in chosen)
    if not texts:
        raise ValueError(f"`num_canaries`={num_canaries} and `client_share`={client_share} leave no one to audit.")
    targets = Targets(texts, np.arange(len(texts)) < num_canaries, rng.random(len(texts)) < 0.5)
    members = zip(chosen, targets.is_member[num_canaries:], strict=True)
    left_out = {client for client, is_member in members if not is_member}
    rows = [(client, text) for client, own in samples.items() if client not in left_out for text in own]
    rows += _rows_of_canaries(targets, num_canaries, samples)
    return Dataset.from_dict(
        {config.client_column: [str(client) for client, _ in rows], column: [text for _, text in rows]}
    ), targets


def check_is_plain(config: PrivateEvolutionConfig) -> str:
    """Return the column of texts. A `ValueError` if rows are records or conversations, which canaries are not."""
    form = form_of(config)
    if not isinstance(form, Plain):
        raise ValueError(
            f"`text_column`={config.text_column!r} holds {form.name}s, and an audit plants plain texts among the "
            "private ones. Audit the same settings with one column of texts. The noise and the votes are the same."
        )
    return form.column


def _rows_of_canaries(targets: Targets, num_canaries: int, clients: Collection[Any]) -> list[tuple[str, str]]:
    """Make rows of the canaries that participate, under ids that no real client has."""
    prefix = "canary"
    while any(str(client).startswith(prefix) for client in clients):
        prefix += "-"
    return [
        (f"{prefix}-{number}", text)
        for number, own in enumerate(targets.texts[:num_canaries])
        if targets.is_member[number]
        for text in own
    ]
