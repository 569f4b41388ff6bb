"""A language model that learns to write from what the clients answered, by preference optimization.

The model writes several texts after one prompt, as it does in an expansion. What the clients of a run answered says
which of them is more like theirs. A LoRA adapter learns from such pairs, by direct preference optimization (DPO,
huggingface.co/papers/2305.18290), as POPri does in rounds (huggingface.co/papers/2504.16438). In each round the model
writes with what it has learned so far, and the reference is always the base model without the adapter.

Nothing here reads private text. It is post-processing of answers that were released, and of texts written from them,
so it spends no budget. The adapter has the guarantee of the run, and of what its base model had learned before.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .artifacts import PICTURE_NAME
from .configuration import PrivateEvolutionConfig
from .evolution.token_answer import TokenAnswer
from .expansion import Continued, Expander
from .finetuning.texts import TrainingTexts, public_name
from .hub import check_is_not_audited, fetch_folder
from .models.engine import TextEngine
from .models.packaged import locate
from .processes import progress_label
from .saved_runs import SavedRun
from .seed_texts import SeedTexts
from .selecting import embed_together
from .tilting import reads_tokens, token_scores

if TYPE_CHECKING:
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer, ModelConfig

FEWEST_PAIRS = 16
"""Fewest pairs of a round. An adapter that learned from fewer would know them by heart."""

LEAST_SPREAD = 1e-6
"""Standard deviation in nats below which figures are equal but for rounding, and say nothing."""

COLUMNS = ("prompt", "chosen", "rejected")


@dataclass
class PreferenceArguments:
    """From which run to learn, and how many texts are compared."""

    run: str = field(metadata={"help": "Saved run whose clients' answers rank texts: a folder or a repository."})
    run_revision: str | None = field(default=None, metadata={"help": "Branch, tag or commit of the repository."})
    embedding_model: str | None = field(
        default=None, metadata={"help": "Embedding model that the texts are ranked by. By default that of the run."}
    )
    num_prompts: int = field(default=256, metadata={"help": "Prompts of a round. Each makes one pair at most."})
    continuations: int = field(default=4, metadata={"help": "Texts that are written after a prompt and ranked."})
    num_rounds: int = field(default=2, metadata={"help": "Rounds of writing, ranking and training."})
    writing_batch_size: int = field(default=64, metadata={"help": "Texts that are written or embedded at a time."})
    validation_share: float = field(
        default=0.1, metadata={"help": "Fraction of the last round's pairs for the validation loss."}
    )
    license: str | None = field(default=None, metadata={"help": "License of the adapter, for its card."})
    base_is_public: bool = field(
        default=False,
        metadata={"help": "You vouch that the base model saw no text of the clients, if this cannot be looked up."},
    )
    allow_no_guarantee: bool = field(
        default=False, metadata={"help": "Push an adapter even if no finite guarantee of the run is known."}
    )

    def __post_init__(self) -> None:
        smallest = {"num_prompts": FEWEST_PAIRS, "continuations": 2, "num_rounds": 1, "writing_batch_size": 1}
        for name, least in smallest.items():
            if vars(self)[name] < least:
                raise ValueError(f"`{name}`={vars(self)[name]} must be at least {least}.")
        if not 0 < self.validation_share < 1:
            raise ValueError(f"`validation_share`={self.validation_share} must lie strictly between 0 and 1.")


class PairWriter:
    """Writes pairs of texts, of which what the clients answered prefers one.

    A text is ranked by two figures, each divided by its standard deviation: the logarithm of the preference of the
    seeds near it (or how much better it fits its label, by a mean for each label), and how much its tokens are those
    that the clients use more often than the model. Either of them is enough. The best text of a prompt is the chosen
    one, and the middle one is rejected: against the worst, a model learns more about what is broken than about what
    is good.

    Args:
        seeds (`datasets.Dataset`): Seeds of a run, as `evolve` returned them.
        config (`PrivateEvolutionConfig`): Settings of the run, by which prompts are written.
        embed (`Callable`): Embeds texts as unit rows.
        answer (`TokenAnswer`, *optional*): What the clients of that run said about tokens.
        num_prompts (`int`, *optional*, defaults to `256`): Prompts of a round. Each makes one pair at most.
        continuations (`int`, *optional*, defaults to `4`): Texts that are written after a prompt and ranked.

    Raises:
        ValueError: The run says nothing by which texts could be ranked.
    """

    def __init__(
        self,
        seeds: "Dataset",
        config: PrivateEvolutionConfig,
        embed: Callable[[Sequence[str]], np.ndarray],
        answer: TokenAnswer | None = None,
        num_prompts: int = 256,
        continuations: int = 4,
    ) -> None:
        self._seeds, self.config, self._embed, self._answer = SeedTexts.of(seeds, config), config, embed, answer
        self._num_prompts, self._continuations = num_prompts, continuations
        _check_evidence(self._seeds, answer)

    def write(self, engine: TextEngine, round_number: int = 1) -> "Dataset":
        """Write pairs with any language model, on this machine or on another.

        Args:
            engine (`TextEngine`): The model, which writes as it does by itself, without a tilt of its tokens.
            round_number (`int`, *optional*, defaults to `1`): Another number gives other prompts.

        Returns:
            `datasets.Dataset`: Columns `prompt`, `chosen` and `rejected` (`str`). A text ends with the heading that
            follows it in the list, by which an expansion knows where it ends.

        Raises:
            ValueError: There are fewer than 16 pairs, because texts are not usable, or no better than others.
        """
        from datasets import Dataset

        expander = Expander(engine, self.config, self._embed)
        rows: list[dict[str, str]] = []
        for label, number in self._numbers():
            seeds = self._seeds if self.config.label_column is None else self._seeds.with_label(label)
            continued = expander.continue_prompts(seeds, number, self._continuations, label, round_number)
            ranked = [each for each in continued if len(each.texts) > 1]
            texts = [text for each in ranked for text in each.texts]
            rows += _pairs(ranked, self._scores(expander, engine, seeds, label, texts)) if texts else []
        if len(rows) < FEWEST_PAIRS:
            raise ValueError(
                f"Only {len(rows)} of `num_prompts`={self._num_prompts} prompts have two usable texts of which one is "
                f"better than the other, and training needs at least {FEWEST_PAIRS} pairs. Raise `num_prompts` or "
                "`continuations`, or use a language model that writes more usable texts. If all texts are equally "
                "good, the run says nothing about them."
            )
        return Dataset.from_list(rows)

    def _numbers(self) -> Iterator[tuple[int, int]]:
        """Divide the prompts among the labels, as an expansion divides its texts."""
        if self.config.label_column is None:
            return iter([(0, self._num_prompts)])
        numbers = self._seeds.numbers(self._num_prompts, None)
        return ((label, number) for label, number in enumerate(numbers) if number)

    def _scores(
        self, expander: Expander, engine: TextEngine, seeds: SeedTexts, label: int, texts: list[str]
    ) -> np.ndarray:
        """Say of each text how good it is, by all that the clients answered."""
        scores = np.zeros(len(texts))
        judge = expander.evidence(seeds, label)
        if judge is not None:
            values = judge(self._embed(texts))
            scores += _standardized(np.log(values) if seeds.scored is None else values)
        if self._answer is not None and reads_tokens(self._answer, engine):
            scores += _standardized(token_scores(engine, self._answer, label, texts))
        return scores


def _check_evidence(seeds: SeedTexts, answer: TokenAnswer | None) -> None:
    """Raise a `ValueError` if nothing that the clients answered can rank texts."""
    preference = seeds.preference
    if seeds.scored is None and (preference is None or not np.ptp(preference)) and answer is None:
        raise ValueError(
            "The run says nothing by which texts could be ranked: its seeds have no different values of `preference`, "
            "and it has no token counts. Their releases were lost, or `smooth_votes` and `token_fraction` are off. "
            "Finetune on its texts instead (`recipes/finetune_llm.py`)."
        )


def _standardized(values: np.ndarray) -> np.ndarray:
    """Divide values by their standard deviation. Minus infinity, of a text that is never kept, stays."""
    spread = float(values[np.isfinite(values)].std()) if np.isfinite(values).any() else 0.0
    return values / spread if spread > LEAST_SPREAD else np.where(np.isfinite(values), 0.0, values)


def _pairs(continued: Sequence[Continued], scores: np.ndarray) -> Iterator[dict[str, str]]:
    """Make a pair of the best and of the middle text of each prompt. Texts that are equally good make none."""
    start = 0
    for prompt, texts, end in continued:
        own = scores[start : start + len(texts)]
        start += len(texts)
        order = np.argsort(-own, kind="stable")
        best, middle = order[0], order[len(order) // 2]
        if own[best] > own[middle]:
            # A trainer appends the end of the text to both, which so comes after the heading.
            yield dict(zip(COLUMNS, (prompt, *(f"{texts[index]}\n{end}" for index in (best, middle))), strict=True))


def last_trainer(
    writer: PairWriter,
    model: Any,
    tokenizer: Any,
    lora: Any,
    training: "DPOConfig",
    num_rounds: int,
    validation_share: float = 0.1,
    batch_size: int = 64,
) -> "DPOTrainer":
    """Write, rank and train in rounds, up to the training of the last one, which is left to the caller.

    Args:
        writer (`PairWriter`): Writes the pairs of each round.
        model (`PreTrainedModel`): A causal language model on the device of the training. It gets an adapter.
        tokenizer (`PreTrainedTokenizerBase`): Its tokenizer.
        lora (`peft.LoraConfig`): The adapter.
        training (`trl.DPOConfig`): Settings of the training of each round.
        num_rounds (`int`): Number of rounds.
        validation_share (`float`, *optional*, defaults to `0.1`): Fraction of a round's pairs that are set aside.
        batch_size (`int`, *optional*, defaults to `64`): Texts that are written at a time.

    Returns:
        `trl.DPOTrainer`: Its `train_dataset` and `eval_dataset` are the pairs of the last round.

    Raises:
        ValueError: There are too few pairs, or they are longer than `training.max_length`.
    """
    import copy

    from peft import get_peft_model
    from transformers import set_seed
    from trl import DPOTrainer

    from .models.local_engine import LocalEngine

    set_seed(training.seed)
    adapted = get_peft_model(model, lora)
    # The rounds before the last leave nothing on disk.
    earlier = copy.copy(training)
    earlier.save_strategy, earlier.eval_strategy, earlier.load_best_model_at_end = "no", "no", False
    for number in range(1, num_rounds + 1):
        engine = LocalEngine(adapted.get_base_model().eval(), tokenizer, writer.config, batch_size)
        pairs = writer.write(engine, number).train_test_split(test_size=validation_share, seed=training.seed)
        trainer = DPOTrainer(
            adapted,
            args=training if number == num_rounds else earlier,
            train_dataset=pairs["train"],
            eval_dataset=pairs["test"],
            processing_class=tokenizer,
        )
        # A copy of the adapter as it is now. Without it, the reference is the base model, in every round.
        adapted.delete_adapter("ref")
        for tokens, part in ((trainer.train_dataset, "train"), (trainer.eval_dataset, "test")):
            _check_lengths(tokens, len(pairs[part]), training.max_length)
        if number < num_rounds:
            trainer.train()
    return trainer


def _check_lengths(tokens: "Dataset", num_pairs: int, max_length: int | None) -> None:
    """Refuse pairs that a trainer would cut or drop: without its end, a text is not the one that was ranked."""
    longest = max(
        (len(row["prompt_ids"]) + max(len(row["chosen_ids"]), len(row["rejected_ids"])) for row in tokens), default=0
    )
    if max_length is not None and (longest > max_length or len(tokens) < num_pairs):
        raise ValueError(
            f"`max_length`={max_length} is less than the tokens of some prompts with a text after them, which would "
            "be cut. Leave it open with `max_length`=None (`null` in YAML), or show fewer seeds in a prompt."
        )


def finetune_writer(arguments: PreferenceArguments, training: "DPOConfig", model: "ModelConfig") -> None:
    """Train a LoRA adapter of a causal language model to write as the clients of a run prefer, and save it.

    The adapter is saved with its card and guarantee, and pushed if that is asked for. Expand the seeds of the run with
    it: `from_pretrained(run, expansion_model=adapter)`, or `hf-pretext expand --seeds run --expansion-model adapter`.

    Args:
        arguments (`PreferenceArguments`): The run, and what to compare.
        training (`trl.DPOConfig`): Settings of the training.
        model (`trl.ModelConfig`): The base, its revision and quantization, and the adapter.

    Raises:
        ValueError: The base model is an adapter or served, the run has no seeds or no evidence, or there are too few
            pairs.
    """
    from transformers import AutoTokenizer
    from trl import get_peft_config, get_quantization_config

    from .finetuning.bases import load_base
    from .finetuning.preparing import prepare_training
    from .finetuning.training import train_and_save

    _check_base(str(model.model_name_or_path), model.model_revision)
    _check_training(training)
    check_is_not_audited(arguments.run)
    saved = SavedRun.load(arguments.run, arguments.run_revision)
    writer, texts = _writer_of(saved, arguments, training), _texts_of(saved, arguments)
    name, revision = str(model.model_name_or_path), model.model_revision
    report, push = prepare_training(arguments, training, texts, name, revision)
    base = str(locate(name))
    quantization = get_quantization_config(model)
    model.use_peft = True
    loaded = load_base(
        base,
        training,
        revision,
        dtype=model.dtype,
        attn_implementation=model.attn_implementation,
        quantization_config=quantization,
        device_map=None,
    )
    # Each process also writes with it, before its trainer would move it.
    stays = quantization is not None or loaded.device.type != "cpu"
    trainer = last_trainer(
        writer,
        loaded if stays else loaded.to(training.device),
        AutoTokenizer.from_pretrained(base, revision=revision, trust_remote_code=False),
        get_peft_config(model),
        training,
        arguments.num_rounds,
        arguments.validation_share,
        arguments.writing_batch_size,
    )
    texts = replace(texts, train=_pairs_of(trainer.train_dataset), validation=_pairs_of(trainer.eval_dataset))
    about = {
        "rounds": arguments.num_rounds,
        "prompts per round": arguments.num_prompts,
        "texts compared per prompt": arguments.continuations,
        "loss": " + ".join(training.loss_type),
        "beta": training.beta,
    }
    train_and_save(trainer, texts, arguments, name, report, push, revision, preferences=about)


def _check_base(name: str, revision: str | None) -> None:
    """Refuse a model that cannot be the reference of its own training."""
    from .models.checkpoints import Adapter
    from .models.remote_engine import is_remote

    if is_remote(name):
        raise ValueError(
            f"`model_name_or_path`={name!r} is a server, and training needs weights on this machine. Give a Hub id or "
            "a folder. Pairs alone can be written with any engine (`hf_pretext.preferences.PairWriter`)."
        )
    adapter = Adapter.find(name, revision)
    if adapter is not None:
        raise ValueError(
            f"`model_name_or_path`={name!r} is an adapter of {adapter.base!r}. The reference of this training is the "
            "base model without an adapter, so an adapter does not fit. Give the base model."
        )


def _check_training(training: "DPOConfig") -> None:
    """Refuse settings of a training that do not go with rounds, in which the model also writes."""
    from .finetuning.bases import is_sharded
    from .finetuning.preparing import is_resumed

    if training.precompute_ref_log_probs:
        raise ValueError(
            "`precompute_ref_log_probs`=True would take the adapter of the round before as the reference. Leave it "
            "out: with one epoch per round it saves nothing."
        )
    if is_resumed(training):
        raise ValueError(
            f"`resume_from_checkpoint`={training.resume_from_checkpoint!r}: a checkpoint does not hold the rounds "
            "before it. Begin again without it."
        )
    if is_sharded(training):
        raise ValueError(
            "FSDP and DeepSpeed divide the model among processes, and here each process writes with the whole model. "
            "Use `recipes/configs/accelerate/ddp.yaml`, or load it in 4 bits (`load_in_4bit`)."
        )


def _writer_of(saved: SavedRun, arguments: PreferenceArguments, training: "DPOConfig") -> PairWriter:
    """Make what writes the pairs, before the language model is loaded."""
    from .models.embedder import TextEmbedder
    from .models.loading import load_sentence_transformer, resolve_dtype

    if saved.seeds is None:
        raise ValueError(
            f"`run`={arguments.run!r} has no seeds that its report covers, so nothing of it can be imitated. Give a "
            "folder of `save_pretrained` or a repository of `push_to_hub`, as it was written."
        )
    name = arguments.embedding_model or saved.sources["embedding_model"].loadable
    if name is None:
        raise ValueError(
            f"`run`={arguments.run!r} does not say where its embedding model is from. Give it: `embedding_model`."
        )

    _check_evidence(SeedTexts.of(saved.seeds, saved.config), saved.token_answer)
    loaded = load_sentence_transformer(name, training.device, resolve_dtype("auto", training.device))
    embedder = TextEmbedder(loaded, arguments.writing_batch_size)

    def embed(texts: Sequence[str]) -> np.ndarray:
        with progress_label("Embedding"):
            return embed_together(embedder, texts)

    sizes = (arguments.num_prompts, arguments.continuations)
    return PairWriter(saved.seeds, saved.config, embed, saved.token_answer, *sizes)


def _texts_of(saved: SavedRun, arguments: PreferenceArguments) -> TrainingTexts:
    """Describe what is learned from. The pairs, which are not there yet, follow from the seeds."""
    name, hub_id, commit = arguments.run, None, None
    folder = fetch_folder(name, [PICTURE_NAME], arguments.run_revision)
    if not Path(name).exists():
        # The cache names a snapshot's folder after its commit.
        hub_id, commit = name, folder.name
    picture = folder / PICTURE_NAME
    named = (public_name(name), hub_id, commit, picture if picture.is_file() else None, True)
    assert saved.seeds is not None  # As `_writer_of` made sure.
    return TrainingTexts(saved.seeds, saved.seeds, saved.report, *named)


def _pairs_of(dataset: "Dataset") -> "Dataset":
    """Return the pairs that a trainer has added its tokens to."""
    return dataset.select_columns(list(COLUMNS))
