"""The methods that are compared, a row each.

A row says from where a method has its seeds and its texts, and how it trains a learner. No other module asks for a
method by its name, so a new method is a row in `METHODS`, and a function or two that the row names.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset

from hf_pretext import PrivateEvolutionConfig, PrivateEvolutionGenerator
from hf_pretext.clients.questions import Question
from hf_pretext.evolution.selection import SelectionRule
from hf_pretext.evolution.token_answer import TokenAnswer
from hf_pretext.runs.folder import RunFolder

from .cache import Result, fingerprint
from .client_work import Answering, Both, evolution_plan, send_texts, train_on_device
from .device_training import OnDevices
from .dp_generator import dp_generator_texts
from .hybrid import FinetuningThenDevices, FirstPart
from .on_device import DP_FEDAVG, DP_FTRL
from .popri import CandidateScores, check_popri, popri_config, popri_plan, popri_texts
from .sizes import Sizes
from .trial import ClientSide, Method, Needs, NoTraining, Trial, shared_settings
from .votes import lift_of, reading_of, true_votes, weigh
from .writer import Preferences

NUM_PUBLIC_SEEDS = 1024

FEDAVG_GRID = DP_FEDAVG.variants(num_rounds=(2, 4), clip_norms=(0.5, 1.0, 2.0), local_rates=(3.0, 100.0))
FTRL_GRID = DP_FTRL.variants(num_rounds=(2, 4, 8), clip_norms=(1.0, 2.0, 4.0), local_rates=(3.0, 100.0))
"""What the settings of the devices are chosen among, at each budget."""


def default_config(arguments: Sizes, epsilon: float, seed: int) -> PrivateEvolutionConfig:
    """Make the library's default settings, with the changes of an experiment."""
    return PrivateEvolutionConfig(
        epsilon=epsilon, **{**shared_settings(arguments, seed), **json.loads(arguments.changes)}
    )


FIRST_EDITION: dict[str, Any] = {
    "num_rounds": 3,
    "mean_fraction": 0.0,
    "token_fraction": 0.0,
    "num_tokens": 2048,
    "max_samples_per_client": 8,
    "vote_clipping": "l2",
    "accountant": "exact",
    "population_size": 1024,
    "votes_per_sample": 1,
    "smooth_votes": True,
    "threshold": 1.0,
    "new_public_share": 1.0,
    "lookahead": 0,
    "temperature": 1.0,
    "top_p": 1.0,
    "seeds_per_prompt": 8,
    "weight_seeds": True,
    "texts_per_prompt": 1,
    "best_of": 2,
}
"""What the first edition's default settings were, as far as what is learned depends on them.

The floor and the ceiling have them too. So a gap is the same one, whatever the defaults are.
"""


def first_edition_config(arguments: Sizes, epsilon: float, seed: int) -> PrivateEvolutionConfig:
    """Make the first edition's default settings."""
    return PrivateEvolutionConfig(epsilon=epsilon, **shared_settings(arguments, seed), **FIRST_EDITION)


def paper_config(arguments: Sizes, epsilon: float, seed: int) -> PrivateEvolutionConfig:
    """Make the paper's settings, scaled down."""
    return PrivateEvolutionConfig.paper(
        epsilon=epsilon,
        **shared_settings(arguments, seed),
        population_size=arguments.paper_population_size,
        lookahead=arguments.paper_lookahead,
        masks_per_pass=arguments.paper_masks_per_pass,
    )


AUG_PE: dict[str, Any] = {
    "num_rounds": 5,
    "population_size": 256,
    "accountant": "exact",
    "lookahead": 0,
    "keep_survivors": True,
    "variation_steps": 1,
    "variation_prompt": "Please rephrase the following text:\n{text}",
}
"""What Aug-PE (Xie et al. 2024, arXiv 2403.01749) does otherwise than the paper's settings, scaled down.

A language model that is prompted varies texts, survivors stay among the candidates, and a candidate is represented by
its own embedding. Votes are counts and are not smoothed, as in the paper. Published runs have 10 to 20 rounds of
thousands of candidates. They select by rank, begin with texts that the language model writes, and end with their last
candidates. Here candidates are drawn by their votes and begin with public texts, and their survivors are expanded, as
those of all other methods are.
"""


def aug_pe_config(arguments: Sizes, epsilon: float, seed: int) -> PrivateEvolutionConfig:
    """Make Aug-PE's settings, as far as the library has them, scaled down (see `AUG_PE`)."""
    return PrivateEvolutionConfig.paper(epsilon=epsilon, **shared_settings(arguments, seed), **AUG_PE)


@dataclass(frozen=True)
class Evolution:
    """Seeds that Private Evolution finds.

    Args:
        has_masked_lm (`bool`, *optional*, defaults to `False`):
            Whether a masked model varies candidates, and not the language model.
        selection (`SelectionRule`, *optional*): Weighs the candidates instead of the rule of the configuration.
        questions (`tuple` of `(Question, float)`, *optional*):
            Further questions, and the fraction of the budget of each. `client_table` does not measure them.
    """

    has_masked_lm: bool = False
    selection: SelectionRule | None = None
    questions: tuple[tuple[Question, float], ...] = ()

    def __call__(self, trial: Trial) -> Result:
        """Find seeds, and measure every round of the search (evaluation only, not DP).

        Returns:
            `Result`: Columns `text`, `votes`, `round` and, with smoothing, `preference`, and besides them `rounds`
            (candidates, survivors and lift of each) and `epsilon`.
        """
        inputs = self.inputs(trial)
        folder = trial.cache.path("run", inputs)
        return trial.cache("seeds", inputs, lambda: self._evolve(trial, folder))

    def inputs(self, trial: Trial) -> dict[str, Any]:
        """Return what the seeds depend on, as JSON."""
        inputs: dict[str, Any] = {
            "data": trial.experiment.version,
            "method": trial.method.name,
            "config": fingerprint(trial.config),
            "public": trial.models.public_version,
            "embedding_model": trial.arguments.embedding_model,
            # It varies the candidates, and its tokens are what the token question asks for.
            "expansion_model": trial.arguments.expansion_model,
            "llm_dtype": trial.arguments.llm_dtype,
        }
        if self.has_masked_lm:
            inputs["masked_lm"] = trial.arguments.masked_lm or Path(trial.models.masked_lm).name
        if self.selection is not None:
            inputs["selection"] = type(self.selection).__name__
        if self.questions:
            inputs["questions"] = [(question.fingerprint(), fraction) for question, fraction in self.questions]
        return inputs

    def generator(self, trial: Trial, folder: Path) -> PrivateEvolutionGenerator:
        """Make the generator of a run in a folder, which resumes the run if it is there."""
        models = trial.models
        return PrivateEvolutionGenerator(
            models.masked_lm if self.has_masked_lm else None,
            models.embedder,
            models.llm,
            config=trial.config,
            device=models.device,
            batch_size=trial.arguments.batch_size,
            run_dir=folder,
            selection=self.selection,
            questions=self.questions,
        )

    def _evolve(self, trial: Trial, folder: Path) -> dict[str, Any]:
        experiment, models = trial.experiment, trial.models
        experiment.remember()
        generator = self.generator(trial, folder)
        found = generator.evolve(experiment.private, initial_population=models.public)
        noise_std = generator.ledger.plan.entry("votes").mechanism.noise_std
        rounds = []
        for record, (candidates, votes) in zip(generator.history, RunFolder(folder).rounds(), strict=True):
            points = models.embed(candidates)
            weights = weigh(reading_of(votes, noise_std, points), trial.config, self.selection)
            lift = lift_of(weights, true_votes(experiment.samples, points))
            rounds.append({"candidates": len(candidates), "survivors": record.num_survivors, "lift": lift})
        # Asked in the second edition: how often clients hold each token of the language model.
        answer = generator.token_answer
        tokens = {} if answer is None else {"tokens": answer.to_dict()}
        return {**found.to_dict(), "rounds": rounds, "epsilon": generator.privacy_report.epsilon, **tokens}


def random_public_seeds(trial: Trial) -> Result:
    """Take random public texts as seeds. No client is asked."""
    public = trial.models.public
    chosen = np.random.default_rng(trial.seed).permutation(len(public))[:NUM_PUBLIC_SEEDS]
    texts = [public[index] for index in chosen]
    return Result({"text": texts, "votes": [1.0] * len(texts)})


def private_seeds(trial: Trial) -> Result:
    """Take the private texts as seeds, without privacy."""
    texts = trial.experiment.private_texts
    return Result({"text": texts, "votes": [1.0] * len(texts)})


def seeds_of_the_defaults(trial: Trial) -> Result:
    """Take the seeds that the library's default settings find. They are found once for both methods."""
    return replace(trial, method=METHODS["default"]).seeds()


def expand(trial: Trial, preferences: Preferences | None = None) -> Result:
    """Let the language model write texts like the seeds.

    Args:
        trial (`Trial`): The trial.
        preferences (`Preferences`, *optional*): How it learns to write from the clients' answers before that, if so.
    """
    seeds, number, config = trial.seeds().value, trial.number, trial.writing_config
    shown = {name: seeds[name] for name in ("text", "votes", "preference") if name in seeds}
    known = [shown, seeds["tokens"]] if "tokens" in seeds else shown
    inputs = {**trial.inputs_of_texts(config, known), **({} if preferences is None else preferences.inputs)}

    def write() -> list[str]:
        models, size = trial.models, trial.arguments.batch_size
        answer = TokenAnswer.from_dict(seeds["tokens"]) if "tokens" in seeds else None
        llm = models.llm if preferences is None else preferences.train(models, shown, answer, config)
        generator = PrivateEvolutionGenerator(None, models.embedder, llm, config=config, batch_size=size)
        generator.token_answer = answer
        return list(generator.expand(Dataset.from_dict(shown), number)["text"])

    return trial.cache("texts", inputs, write)


def public_texts(trial: Trial) -> Result:
    """Draw public texts."""
    return Result(_draw(trial, trial.models.public))


def selected_public_texts(trial: Trial) -> Result:
    """Choose public texts by what the releases of the defaults' run say of them, which costs no budget of its own.

    This is distribution matching (Wang et al. 2023, arXiv 2305.12132). A few texts are chosen more sharply than many,
    so each number of them is chosen by itself.
    """
    run, evolution = replace(trial, method=METHODS["default"]), Evolution()
    inputs, number = evolution.inputs(run), trial.num_texts or trial.number
    folder = trial.cache.path("run", inputs)

    def choose() -> list[str]:
        run.seeds()  # Until its run has ended, no other process works in its folder.
        with trial.cache.alone(folder):
            generator = evolution.generator(run, folder)
            generator.evolve(trial.experiment.private, initial_population=trial.models.public)
        return list(generator.select(trial.models.public, number)["text"])

    return trial.cache("selected", {**inputs, "number": number}, choose)


def private_texts(trial: Trial) -> Result:
    """Draw private texts, without privacy."""
    return Result(_draw(trial, trial.experiment.private_texts))


def _draw(trial: Trial, texts: Sequence[str]) -> list[str]:
    order = np.random.default_rng([trial.seed, 1]).permutation(len(texts))
    return [texts[index] for index in order[: trial.number]]


ANSWERS = ClientSide("on the clients", "noisy sums of votes", "client", Answering(evolution_plan))
ANSWERS_WITH_TOKENS = replace(ANSWERS, leaves="noisy sums of votes and of token counts")
SCORES = ClientSide("on the clients", "noisy sums of scores", "client", Answering(popri_plan, CandidateScores.of))
CHANGES = ClientSide("on the clients", "noisy sums of changes of weights", "client", train_on_device)
BOTH = replace(
    CHANGES,
    leaves="noisy sums of votes, of token counts and of changes of weights",
    measure=Both(Answering(evolution_plan), train_on_device),
)
CENTRAL = ClientSide("in one process", "the texts", "client, all its texts as one example", send_texts)
NO_PRIVACY = ClientSide("in one process", "the texts", "none, no privacy", send_texts)

# It wants an older dp-accounting than it can do with.
NEEDS_PFL = Needs("pfl", "pip install --no-deps pfl prv-accountant")
NEEDS_OPACUS = Needs("opacus", "pip install 'hf_pretext[benchmark]'")

METHODS = {
    method.name: method
    for method in (
        Method("none", "#999999", "not finetuned", NoTraining(), reads_private=False),
        Method("public-only", "#56B4E9", "random public texts", texts=public_texts, reads_private=False),
        Method(
            "expand-only",
            "#E69F00",
            "texts written from random public ones",
            texts=expand,
            seeds=random_public_seeds,
            config=first_edition_config,
            reads_private=False,
            gap_end="floor",
        ),
        Method(
            "dp-fedavg",
            "#A0522D",
            "devices train, by DP-FedAvg",
            OnDevices(FEDAVG_GRID),
            spends_budget=True,
            check=NEEDS_PFL,
            client=CHANGES,
        ),
        Method(
            "dp-ftrl",
            "#B8A900",
            "devices train, by DP-FTRL",
            OnDevices(FTRL_GRID),
            spends_budget=True,
            check=NEEDS_PFL,
            client=CHANGES,
        ),
        Method(
            "dp-generator",
            "#8C6BB1",
            "texts of a language model that DP-SGD finetunes, with central data",
            texts=dp_generator_texts,
            seeds=random_public_seeds,
            config=first_edition_config,
            spends_budget=True,
            noise_is_genuine=False,
            check=NEEDS_OPACUS,
            client=CENTRAL,
        ),
        Method(
            "popri",
            "#E31A1C",
            "texts of a language model that learns from clients' scores",
            texts=popri_texts,
            seeds=random_public_seeds,
            config=popri_config,
            spends_budget=True,
            check=check_popri,
            client=SCORES,
        ),
        Method(
            "paper",
            "#D55E00",
            "the paper's settings, scaled down",
            texts=expand,
            seeds=Evolution(has_masked_lm=True),
            config=paper_config,
            has_rounds=True,
            spends_budget=True,
            client=ANSWERS,
        ),
        Method(
            "aug-pe",
            "#66A61E",
            "Aug-PE's settings, scaled down",
            texts=expand,
            seeds=Evolution(),
            config=aug_pe_config,
            spends_budget=True,
            client=ANSWERS,
        ),
        Method(
            "first-edition",
            "#F0A3FF",
            "the first edition's default settings",
            texts=expand,
            seeds=Evolution(),
            config=first_edition_config,
            has_rounds=True,
            has_best_of=True,
            spends_budget=True,
            client=ANSWERS,
        ),
        Method(
            "default",
            "#009E73",
            "the library's default settings",
            texts=expand,
            seeds=Evolution(),
            config=default_config,
            has_rounds=True,
            has_best_of=True,
            spends_budget=True,
            client=ANSWERS_WITH_TOKENS,
        ),
        Method(
            "hybrid",
            "#1B4D3E",
            "texts by half of the budget, then DP-FTRL on the devices by the other half",
            FinetuningThenDevices(FTRL_GRID),
            check=NEEDS_PFL,
            texts=expand,
            seeds=Evolution(),
            config=FirstPart(default_config),
            spends_budget=True,
            client=BOTH,
        ),
        Method(
            "selected-public",
            "#7F3C8D",
            "public texts that the default settings' run chooses",
            texts=selected_public_texts,
            config=default_config,
            spends_budget=True,
            client=ANSWERS_WITH_TOKENS,
        ),
        Method(
            "default-preferred",
            "#004D40",
            "the defaults, written by a model that learned from pairs which the clients' answers rank",
            texts=partial(expand, preferences=Preferences()),
            seeds=seeds_of_the_defaults,
            config=default_config,
            has_best_of=True,
            spends_budget=True,
            client=ANSWERS_WITH_TOKENS,
        ),
        Method(
            "expand-private",
            "#0072B2",
            "texts written from the private ones, without privacy",
            texts=expand,
            seeds=private_seeds,
            config=first_edition_config,
            gap_end="ceiling",
            client=NO_PRIVACY,
        ),
        Method(
            "finetune-private",
            "#CC79A7",
            "private texts, without privacy",
            texts=private_texts,
            gap_end="private",
            client=NO_PRIVACY,
        ),
    )
}
"""All methods, by their names, in the order of tables and legends."""


def floor_and_ceiling() -> tuple[Method, Method]:
    """Return the two methods between which the others close a gap."""
    return end_of_gap("floor"), end_of_gap("ceiling")


def end_of_gap(name: str) -> Method:
    """Return the method that is an end of a gap (see `Method.gap_end`)."""
    return next(method for method in METHODS.values() if method.gap_end == name)
