"""What a run is given: the private clients and the public texts, checked before anything is spent."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from .clients.copies import check_public_texts
from .clients.in_memory import InMemoryClientPool
from .clients.pool import ClientPool
from .clients.questions import Question
from .clients.samples import MOST_UNKNOWN, CountsUnknown
from .configuration import PrivateEvolutionConfig
from .coverage import check_is_public
from .data import first_rows
from .evolution.population import Tools
from .expansion import Expander
from .forms import Form, form_of, mended, variations_in_form
from .models.components import Components, ModelSource
from .privacy.noise import NoiseSource
from .privacy.plan import Plan
from .privacy.report import PrivacyReport
from .tilting import check_token_question, token_reader


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
        form = form_of(config)
        check_public_texts(private, public, form)
        warn_of_unknown(first_rows(public, form, "initial_population", 500), components.embedder)


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
    private: Any, config: PrivateEvolutionConfig, components: Components, plan: Plan, noise: NoiseSource | None
) -> ClientPool:
    """Return the clients: a pool that was given, or one of the rows of a dataset.

    Args:
        private (`datasets.Dataset` or `ClientPool`): The clients.
        config (`PrivateEvolutionConfig`): Names of the columns.
        components (`Components`): The embedding model, and the language model, whose tokenizer questions may need.
        plan (`Plan`): What they will be asked.
        noise (`NoiseSource`, *optional*): Source of the noise, for tests.

    Raises:
        ValueError: The settings are for a federation, but `private` is a dataset, or it is not valid. Or the settings
            ask about tokens of a tokenizer that is not there.
    """
    check_token_question(config, components.engine)
    if isinstance(private, ClientPool):
        return private
    if config.max_dropout is not None:
        raise ValueError(
            f"`max_dropout`={config.max_dropout} is for a federation, whose clients add the noise, but "
            "`private` is a dataset: give a `FederatedClientPool`, or leave `max_dropout` out."
        )
    return InMemoryClientPool(private, components.embedder, config, plan, noise, token_reader(components.engine))


def run_settings(
    config: PrivateEvolutionConfig,
    questions: Sequence[Question],
    sources: Mapping[str, ModelSource],
    earlier: Sequence[PrivacyReport] | None = (),
) -> dict[str, Any]:
    """List what a run folder has to agree on: the configuration, the questions, and what the models are called.

    A model that was finetuned is known by what it learned as well (`earlier`, see `reports_of_writer`), since it may
    be finetuned again under the same name.
    """
    # Folders of earlier versions do not have those of token counts.
    unused = ("hf_pretext_version", *(() if config.token_fraction else ("token_fraction", "num_tokens")))
    settings = {name: value for name, value in config.to_dict().items() if name not in unused}
    asked = {f"questions.{each.name}": each.fingerprint() for each in questions}
    models = {argument: each.label for argument, each in sources.items()}
    if earlier is None or len(earlier):
        learned = "texts without a known guarantee" if earlier is None else sorted(_release_ids(earlier))
        models["expansion_model"] = f"{models['expansion_model']}, finetuned on {learned}"
    # JSON objects are equal in any order, but labels are numbered by theirs.
    order = {"label_names": config.label_names} if config.labels else {}
    return {"config": settings, "models": models, "questions": asked, **order}


def _release_ids(reports: Sequence[PrivacyReport]) -> set[str]:
    return {name for each in reports for name in each.release_ids}


def tools_of(
    components: Components,
    expander: Expander | None,
    form: Form,
    embed: Callable[[Sequence[str]], np.ndarray],
) -> Tools:
    """Put together what a population does to public texts. What breaks the form of a row is cut off or not used.

    Args:
        components (`Components`): The models.
        expander (`Expander`, *optional*): Writes an initial population, if there is a language model.
        form (`Form`): What a row is.
        embed (`Callable`): Embeds texts as unit rows, in all processes together.
    """

    def truncate(text: str) -> str:
        return mended(form, components.truncate(text))

    def write(label: int) -> list[str]:
        assert expander is not None  # As `check_population` made sure.
        texts = expander.write_population(truncate, label)
        warn_of_unknown(texts, components.embedder, "the initial population that was written")
        return texts

    reader = token_reader(components.engine)
    return Tools(variations_in_form(form, components.variation.vary), truncate, embed, write, reader)
