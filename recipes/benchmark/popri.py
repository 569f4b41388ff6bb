"""POPri: clients score what the language model writes, and it learns from the pairs that the scores make.

After Hou et al. 2025 (ICML, arXiv 2504.16438). In a round the model writes several continuations of each of some
prompts, which show public texts. Clients score all continuations. The model is trained by direct preference
optimization (DPO) on pairs of a prompt: the continuation that ranks first against one in the middle. The reference is
always the model as it was before the first round. At the end it writes the synthetic texts.

What is scaled down to two cores: 2 rounds instead of 20, 40 prompts in a round instead of 1,800, and SmolLM2-135M
instead of Llama-3-8B. The learning rate is larger, so that the rate times the number of steps is what it was: 1e-4 for
10 steps of 8 pairs instead of 8e-7 for 1,500 steps of 24. The rest is as published: 10 continuations, rank 1 against
rank 5, three texts in a prompt, adapters of rank 16, `beta` 0.01, one epoch per round.
"""

import copy
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
from datasets import Dataset
from transformers import set_seed

from hf_pretext import PrivateEvolutionConfig, PrivateEvolutionGenerator
from hf_pretext.cleaning import is_usable
from hf_pretext.clients.pool import ClientPool
from hf_pretext.clients.questions import Question, check_question, sum_answers
from hf_pretext.clients.samples import Samples, check_quantized, quantize_embeddings
from hf_pretext.models.local_engine import LocalEngine
from hf_pretext.privacy import Plan, PlannedRelease, PrivacyLedger, calibrate_noise_multiplier
from hf_pretext.privacy.accounting import find_accountant
from hf_pretext.privacy.mechanism import Mechanism
from hf_pretext.privacy.noise import DiscreteGaussian
from hf_pretext.prompts import ListPrompt

from .cache import Result
from .learners import on_one_device
from .sizes import Sizes
from .trial import Trial, shared_settings

SCORES = "candidate_scores"
"""Name of the question."""

SLACK = 1e-6
"""Relative noise beyond the exact multiplier, which covers what the discreteness of the noise costs."""


@dataclass(frozen=True, eq=False)
class CandidateScores(Question):
    """How much better than the average a client likes each candidate.

    *What a client sends*: for each candidate the sum of its cosine similarities to the client's texts, minus the mean
    over the candidates, divided by the L2 norm of these differences. *Released*: one noisy sum of such vectors to the
    server, per round. *Unit*: the client. *Sensitivity*: a vector is clipped to an L2 norm of at most 1
    (`clients.clipping.quantize`), and has signs, so it is 1 under `"add_or_remove_one"`. *Proof that a vector depends
    on its client only*: embeddings are integers, and their products add up to less than 2^53, so float64 computes the
    sums exactly. Everything after them uses this client's sums only.

    Args:
        candidates (`np.ndarray` of shape `(m, d)`): Quantized embeddings of the candidates, int16.
    """

    candidates: np.ndarray

    name, is_signed = SCORES, True
    description = "how much better than the average of the candidates its samples like each of them"

    def __post_init__(self) -> None:
        check_quantized("candidates", self.candidates)

    @classmethod
    def of(cls, embeddings: np.ndarray) -> "CandidateScores":
        """Ask about candidates with these embeddings, of length at most one."""
        return cls(quantize_embeddings(embeddings))

    @property
    def num_bins(self) -> int:
        """Number of candidates."""
        return len(self.candidates)

    def answer(self, samples: Samples) -> np.ndarray:
        """Compute the vector of one client. See `Question`."""
        total = samples.embeddings.sum(axis=0, dtype=np.int64).astype(np.float64)
        scores = self.candidates.astype(np.float64) @ total
        centered = scores - scores.mean()
        norm = np.linalg.norm(centered)
        return centered / norm if norm else centered


class SimulatedClients(ClientPool):
    """The clients of a benchmark, whose samples are embedded already. See `ClientPool`.

    Args:
        samples (`Samples`): The samples of all clients.
    """

    def __init__(self, samples: Samples) -> None:
        self._samples = samples

    @property
    def num_clients(self) -> int:
        """Number of clients. It counts as public."""
        return len(np.unique(self._samples.owners))

    @property
    def noise_is_genuine(self) -> bool:
        """The noise is the library's own."""
        return True

    def _prepare(self, question: Question, mechanism: Mechanism) -> None:
        check_question(question, self._samples.num_dimensions)

    def _answer(self, question: Question, mechanism: Mechanism) -> np.ndarray:
        noise = DiscreteGaussian()(mechanism.noise_scale, question.num_bins)
        return sum_answers(question, self._samples, mechanism) + noise


@dataclass(frozen=True)
class PopriSettings:
    """How POPri runs.

    Args:
        num_rounds (`int`): Rounds, with one release each.
        num_prompts (`int`): Prompts in a round.
        num_continuations (`int`): Continuations of each prompt, at least 2.
        rate (`float`, *optional*, defaults to `1e-4`): Learning rate, which falls to 3/8 of itself.
        beta (`float`, *optional*, defaults to `0.01`): How much the model may leave the reference.
        rank (`int`, *optional*, defaults to `16`): Rank of the adapters, and their `lora_alpha`.
        pairs_per_step (`int`, *optional*, defaults to `8`): Pairs of a step of the training.

    Raises:
        ValueError: There is no round or prompt, or a prompt has nothing to compare.
    """

    num_rounds: int
    num_prompts: int
    num_continuations: int
    rate: float = 1e-4
    beta: float = 0.01
    rank: int = 16
    pairs_per_step: int = 8

    def __post_init__(self) -> None:
        for name, value in (("popri_rounds", self.num_rounds), ("popri_prompts", self.num_prompts)):
            if value < 1:
                raise ValueError(f"`{name}`={value} must be at least 1.")
        if self.num_continuations < 2:
            raise ValueError(
                f"`popri_continuations`={self.num_continuations} makes no pairs: a prompt needs two continuations for "
                "one to be better than another. Set it to 2 or more. POPri has 10."
            )

    @classmethod
    def of(cls, arguments: Sizes) -> "PopriSettings":
        """Read the settings from the arguments of the benchmark."""
        return cls(arguments.popri_rounds, arguments.popri_prompts, arguments.popri_continuations)

    @property
    def rejected_rank(self) -> int:
        """Place of the rejected continuation, from 0: the fifth of ten, as in POPri, or about the middle of others."""
        return max(1, self.num_continuations // 2 - 1)


def check_popri(arguments: Sizes) -> None:
    """Raise a `ValueError` if the sizes cannot be used."""
    PopriSettings.of(arguments)


def popri_config(arguments: Sizes, epsilon: float, seed: int) -> PrivateEvolutionConfig:
    """Make the settings of POPri's prompts, which are those of PrE-Text: three texts in a prompt, nothing judged."""
    return PrivateEvolutionConfig.paper(epsilon=epsilon, **shared_settings(arguments, seed))


def popri_plan(trial: Trial) -> Plan:
    """Plan the releases: one per round, which together cost at most the budget."""
    settings, delta = PopriSettings.of(trial.arguments), trial.arguments.delta
    multiplier = calibrate_noise_multiplier(trial.budget, delta, settings.num_rounds) * (1 + SLACK)
    entry = PlannedRelease(
        SCORES,
        CandidateScores.description,
        settings.num_rounds,
        settings.num_prompts * settings.num_continuations,
        1.0,
        Mechanism(multiplier, is_signed=True),
    )
    return Plan((entry,), delta, find_accountant("exact"))


class Pair(NamedTuple):
    """A prompt, the continuation to prefer, and the one to avoid."""

    prompt: str
    chosen: str
    rejected: str


def make_pairs(
    prompts: Sequence[str],
    texts: Sequence[str],
    scores: np.ndarray,
    settings: PopriSettings,
    usable: Callable[[str], bool] = bool,
) -> list[Pair]:
    """Make one pair of the continuations of each prompt. Prompts whose two continuations are equal have none.

    Args:
        prompts (`Sequence[str]`): The prompts.
        texts (`Sequence[str]`): Their continuations, those of a prompt one after another.
        scores (`np.ndarray`): Score of each continuation.
        settings (`PopriSettings`): How many continuations a prompt has.
        usable (`Callable`, *optional*): Says whether a text may be preferred. By default, if it is not empty.

    Raises:
        ValueError: No prompt has two different continuations.
    """
    number, pairs = settings.num_continuations, []
    for index, prompt in enumerate(prompts):
        own = np.argsort(-scores[index * number : (index + 1) * number], kind="stable") + index * number
        rejected = texts[own[settings.rejected_rank]]
        chosen = next((texts[each] for each in own if usable(texts[each])), rejected)
        if chosen != rejected:
            pairs.append(Pair(prompt, chosen, rejected))
    if not pairs:
        raise ValueError(
            f"The continuations of each of {len(prompts)} prompts are all the same, so no one can be preferred. Use "
            "another `expansion_model`, or more of `popri_continuations`."
        )
    return pairs


class Policy:
    """The language model that learns: a base that stays as it is, and the weights of its adapters.

    Args:
        model (`PreTrainedModel`): The base.
        tokenizer (`PreTrainedTokenizerBase`): Its tokenizer.
        settings (`PopriSettings`): Rank of the adapters, and how they learn.
        seed (`int`): Seed of the training.
    """

    def __init__(self, model: Any, tokenizer: Any, settings: PopriSettings, seed: int) -> None:
        from peft import LoraConfig

        self._base, self._settings, self._seed = model, settings, seed
        self.tokenizer = copy.deepcopy(tokenizer)
        self.tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
        rank = settings.rank
        self._lora = LoraConfig(r=rank, lora_alpha=rank, target_modules="all-linear", task_type="CAUSAL_LM")
        self._weights: dict[str, Any] | None = None

    def learn(self, pairs: Sequence[Pair], number: int) -> None:
        """Train the adapters on the pairs of a round for one epoch. The base is the reference in every round."""
        from peft import get_peft_model_state_dict, set_peft_model_state_dict
        from trl import DPOConfig, DPOTrainer

        settings = self._settings
        set_seed(self._seed + number)
        with tempfile.TemporaryDirectory() as scratch:
            training = DPOConfig(
                output_dir=scratch,
                beta=settings.beta,
                learning_rate=settings.rate,
                lr_scheduler_type="cosine_with_min_lr",
                lr_scheduler_kwargs={"min_lr_rate": 3 / 8},
                num_train_epochs=1,
                per_device_train_batch_size=4,
                gradient_accumulation_steps=max(1, settings.pairs_per_step // 4),
                max_length=512,
                gradient_checkpointing=False,
                bf16=False,
                use_cpu=self._base.device.type == "cpu",
                save_strategy="no",
                logging_strategy="no",
                report_to=[],
                disable_tqdm=True,
                seed=self._seed + number,
            )
            trainer = DPOTrainer(
                copy.deepcopy(self._base),
                args=on_one_device(training),
                train_dataset=Dataset.from_list([pair._asdict() for pair in pairs]),
                processing_class=self.tokenizer,
                peft_config=self._lora,
            )
            if self._weights is not None:
                set_peft_model_state_dict(trainer.model, self._weights)
            trainer.train()
            weights = get_peft_model_state_dict(trainer.model)
        self._weights = {name: weight.detach().clone() for name, weight in weights.items()}

    def writer(self) -> Any:
        """Make the model as it writes now. The adapters stay beside the weights, which may be too coarse for them."""
        from peft import get_peft_model, set_peft_model_state_dict

        if self._weights is None:
            return self._base
        model = get_peft_model(copy.deepcopy(self._base), self._lora)
        set_peft_model_state_dict(model, self._weights)
        return model.get_base_model().eval()


def write_candidates(
    engine: LocalEngine, public: Sequence[str], config: PrivateEvolutionConfig, settings: PopriSettings, number: int
) -> tuple[list[str], list[str]]:
    """Write the candidates of a round.

    Args:
        engine (`LocalEngine`): The language model.
        public (`Sequence[str]`): Texts that prompts show.
        config (`PrivateEvolutionConfig`): The list prompt, and the longest text.
        settings (`PopriSettings`): How many of them.
        number (`int`): Number of the round, from 0.

    Returns:
        `tuple` of two `list` of `str`: The prompts, and the continuations of each, one prompt after another.
    """
    rng, listed, shown = np.random.default_rng([config.seed, number]), ListPrompt.of(config), config.seeds_per_prompt
    drawn = [rng.choice(len(public), size=shown, replace=False) for _ in range(settings.num_prompts)]
    prompts = [listed.write([engine.truncate(public[index], config.max_length) for index in row], 1) for row in drawn]
    asked = [prompt for prompt in prompts for _ in range(settings.num_continuations)]
    stop = listed.stop(shown + 2)
    written = engine.complete(asked, config.max_new_tokens, int(rng.integers(2**32)), stop=stop)
    return prompts, [engine.truncate(listed.read(each, 1)[0], config.max_length) for each in written]


def popri_texts(trial: Trial) -> Result:
    """Run POPri, and let the model write the texts. The seeds of the method are the public texts that prompts show."""
    settings, config, models = PopriSettings.of(trial.arguments), trial.writing_config, trial.models
    public = trial.seeds().value
    inputs = {
        **trial.inputs_of_texts(config, public["text"]),
        "settings": asdict(settings),
        "embedding_model": trial.arguments.embedding_model,
    }

    def write() -> list[str]:
        base, tokenizer = models.llm
        policy, size = Policy(base, tokenizer, settings, config.seed), trial.arguments.batch_size
        clients = SimulatedClients(trial.experiment.samples)
        ledger = PrivacyLedger(popri_plan(trial))
        for number in range(settings.num_rounds):
            engine = LocalEngine(policy.writer(), policy.tokenizer, config, size)
            prompts, texts = write_candidates(engine, public["text"], config, settings, number)
            question = CandidateScores.of(models.embed(texts))
            scores = clients.release(question, ledger)
            pairs = make_pairs(prompts, texts, scores, settings, lambda text: is_usable(text, config))
            policy.learn(pairs, number)
        writer = policy.writer(), policy.tokenizer
        generator = PrivateEvolutionGenerator(None, models.embedder, writer, config=config, batch_size=size)
        return list(generator.expand(Dataset.from_dict(public), trial.number)["text"])

    return trial.cache("texts", inputs, write)
