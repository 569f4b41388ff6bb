"""What a run is given: the private clients and the public texts, checked before anything is spent."""

import warnings
from collections.abc import Sequence
from typing import Any

from .clients.copies import check_public_texts
from .clients.in_memory import InMemoryClientPool
from .clients.pool import ClientPool
from .clients.samples import MOST_UNKNOWN, CountsUnknown, Embedder
from .configuration import PrivateEvolutionConfig
from .coverage import check_is_public
from .data import list_texts
from .models.components import Components
from .privacy.noise import NoiseSource
from .privacy.plan import Plan


def check_population(private: Any, public: Any, config: PrivateEvolutionConfig, components: Components) -> None:
    """Refuse an initial population that is private, or that no one can write.

    Args:
        private (`datasets.Dataset` or `ClientPool`): The clients.
        public (`datasets.Dataset` or `Sequence[str]`, *optional*): The initial population.
        config (`PrivateEvolutionConfig`): The domain, and the names of columns.
        components (`Components`): The models.

    Raises:
        ValueError: There are neither public texts, nor a domain and a model to write some. Or they are not public.
    """
    if public is None:
        if config.domain is None:
            raise ValueError(
                "`initial_population`=None lets the expansion model write one from `config.domain`, which is None "
                "too. Give public texts, or describe the domain in a few public words."
            )
        components.needed_engine("`initial_population`=None, which lets the expansion model write one,")
    else:
        check_is_public("initial_population", public)
        check_public_texts(private, public, config.text_column)
        warn_of_unknown(list_texts(public, config.text_column, "initial_population"), components.embedder)


def warn_of_unknown(texts: Sequence[str], embedder: CountsUnknown, what: str = "`initial_population`") -> None:
    """Warn if the embedding model does not know the characters of public texts, which then all look alike to it.

    Args:
        texts (`Sequence[str]`): Public texts. The first 500 are looked at.
        embedder (`CountsUnknown`): The embedding model.
        what (`str`, *optional*): What the warning calls the texts.
    """
    unknown, total = embedder.count_unknown(texts[:500])
    if unknown > MOST_UNKNOWN * total:
        warnings.warn(
            f"`embedding_model` knows {1 - unknown / total:.0%} of the tokens of {what}: its tokenizer reads "
            f"{unknown / total:.0%} of them as unknown. Texts that it cannot read are all alike to it, so votes and "
            "distances say little. Use an embedding model that was trained on this script.",
            stacklevel=4,
        )


def client_pool(
    private: Any, config: PrivateEvolutionConfig, embedder: Embedder, plan: Plan, noise: NoiseSource | None
) -> ClientPool:
    """Return the clients: a pool that was given, or one of the rows of a dataset.

    Args:
        private (`datasets.Dataset` or `ClientPool`): The clients.
        config (`PrivateEvolutionConfig`): Names of the columns.
        embedder (`Embedder`): The embedding model.
        plan (`Plan`): What they will be asked.
        noise (`NoiseSource`, *optional*): Source of the noise, for tests.

    Raises:
        ValueError: The settings are for a federation, but `private` is a dataset, or it is not valid.
    """
    if isinstance(private, ClientPool):
        return private
    if config.max_dropout is not None:
        raise ValueError(
            f"`max_dropout`={config.max_dropout} is for a federation, whose clients add the noise, but "
            "`private` is a dataset: give a `FederatedClientPool`, or leave `max_dropout` out."
        )
    return InMemoryClientPool(private, embedder, config, plan, noise)
