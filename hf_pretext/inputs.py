"""What a run is given: the private clients and the public texts, checked before anything is spent."""

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from .clients.copies import check_public_texts
from .clients.in_memory import InMemoryClientPool
from .clients.pool import ClientPool
from .clients.questions import Question, check_question
from .clients.samples import MOST_UNKNOWN, CountsUnknown
from .configuration import PrivateEvolutionConfig
from .coverage import check_is_public
from .data import check_source, first_rows
from .evolution.population import Population, Tools
from .expansion import Expander
from .forms import Form, form_of, mended, variations_in_form
from .models.components import Components, ModelSource
from .models.engine import TextEngine
from .privacy.noise import NoiseSource
from .privacy.plan import Plan, with_token_fraction
from .privacy.report import PrivacyReport
from .processes import ALONE, Group, broadcast, is_main_process
from .runs.folder import RunFolder
from .tilting import can_tilt, check_token_question, token_reader


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
        check_source(public, "initial_population")
        if iter(public) is public:  # Its beginning is looked at before all of it is read.
            raise TypeError("`initial_population` can be read only once. Give a list of texts or a dataset.")
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


def decided(
    config: PrivateEvolutionConfig,
    questions: Sequence[tuple[Question, float]],
    engine: TextEngine | None,
    run_dir: str | Path | None,
) -> PrivateEvolutionConfig:
    """Decide what the settings leave to the library, the same in every process.

    A run that is resumed has decided it when it began, whatever the models of now can do.

    Args:
        config (`PrivateEvolutionConfig`): The settings.
        questions (`Sequence` of `(Question, float)`): Questions of the caller, with their fractions of the budget.
        engine (`TextEngine`, *optional*): The language model.
        run_dir (`str` or `Path`, *optional*): Folder of the run.
    """
    if config.token_fraction is not None:
        return config
    kept = RunFolder(run_dir).token_fraction if run_dir is not None and is_main_process() else None
    taken = math.fsum(fraction for _, fraction in questions)
    fresh = with_token_fraction(config, can_tilt(engine), taken).token_fraction
    return replace(config, token_fraction=broadcast(fresh if kept is None else kept))


def clients_of(
    private: Any,
    population: Population,
    config: PrivateEvolutionConfig,
    components: Components,
    plan: Plan,
    noise: NoiseSource | None,
    questions: Sequence[Question] = (),
) -> ClientPool | None:
    """Return the clients, in each process that answers for some of them, and None in the others.

    The tokens that they are asked about are chosen first, before the tokenizer has read any private text.

    Raises:
        ValueError: As `client_pool`. Or the settings ask about tokens of a tokenizer that is not there, or that does
            not read a text alike every time. Or some processes have the dataset and others do not. Or a question of
            the caller, or a pool that was given, does not fit.
    """
    if questions or isinstance(private, ClientPool):
        # All of them, before the first one spends anything.
        num_dimensions, reader = components.embedder(["A text."]).shape[1], token_reader(components.engine)
        if isinstance(private, ClientPool):
            private.check_dimensions(num_dimensions)
        for question in questions:
            check_question(question.copy(), num_dimensions, "" if reader is None else reader.fingerprint)
    check_token_question(config, components.engine)
    if config.token_fraction:
        population.choose_tokens()
    group = _holders(private)
    return None if group is None else client_pool(private, config, components, plan, noise, group)


def _holders(private: Any) -> Group | None:
    """Return the processes that have the private dataset: all of them, or the main one alone. None if it is another.

    Raises:
        ValueError: Some others have it.
    """
    group = Group.of_launch()
    is_pool = isinstance(private, ClientPool)
    held = group.gather(private is not None and not is_pool)
    if all(held):
        return group
    if any(held[1:]):
        raise ValueError(
            f"`private` is a dataset in the processes {np.flatnonzero(held).tolist()} of {group.size}. Give it to all "
            "of them, which then divide the clients, or to the main process (0) alone, and None to the others."
        )
    return ALONE if is_main_process() else None


def client_pool(
    private: Any,
    config: PrivateEvolutionConfig,
    components: Components,
    plan: Plan,
    noise: NoiseSource | None,
    group: Group = ALONE,
) -> ClientPool:
    """Return the clients: a pool that was given, or one of the rows of a dataset.

    Args:
        private (`datasets.Dataset` or `ClientPool`): The clients.
        config (`PrivateEvolutionConfig`): Names of the columns.
        components (`Components`): The embedding model, and the language model, whose tokenizer questions may need.
        plan (`Plan`): What they will be asked.
        noise (`NoiseSource`, *optional*): Source of the noise, for tests.
        group (`Group`, *optional*): The processes that divide the rows of a dataset.

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
    reader = token_reader(components.engine)
    return InMemoryClientPool(private, components.embedder, config, plan, noise, reader, group)


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

    def write(label: int, run: int) -> list[str]:
        assert expander is not None  # As `check_population` made sure.
        texts = expander.write_population(truncate, label, run)
        warn_of_unknown(texts, components.embedder, "the initial population that was written")
        return texts

    reader = token_reader(components.engine)
    return Tools(variations_in_form(form, components.variation.vary), truncate, embed, write, reader)
