"""The models that are finetuned and scored, a row each, and the models that the benchmark works with.

Packages carry the large ones. The small ones are trained on the benchmark's public text.
"""

import copy
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from sentence_transformers import SentenceTransformer
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    DataCollatorForLanguageModeling,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Trainer,
    TrainingArguments,
    set_seed,
)

from hf_pretext.files import atomic_folder
from hf_pretext.models.embedder import TextEmbedder
from hf_pretext.models.loading import resolve_device
from hf_pretext.models.packaged import locate
from hf_pretext.processes import progress_label

from .cache import Cache, fingerprint
from .given import load_public
from .honesty import runs_of_words
from .masked_lm import train_masked_lm
from .sizes import Sizes


class RememberingEmbedder(SentenceTransformer):
    """The embedding model, which embeds each text once, because the runs of a benchmark have texts in common.

    For the benchmark only: a client's embedding here depends on the batch in which it was first embedded.
    """

    def __init__(self, folder: str, device: torch.device) -> None:
        super().__init__(folder, device=str(device))
        self.embedded: dict[str, np.ndarray] = {}

    def encode(self, texts: list[str], **options: Any) -> np.ndarray:
        """Embed texts, or look up how they were embedded."""
        new = [text for text in dict.fromkeys(texts) if text not in self.embedded]
        if new:
            self.embedded.update(zip(new, super().encode(new, **options), strict=True))
        return np.stack([self.embedded[text] for text in texts])


class Models:
    """The models and the public texts, each loaded when it is first needed.

    Args:
        arguments (`Sizes`): Their sizes, and the folder of the cache.

    Attributes:
        cache (`Cache`): Results of all stages.
    """

    def __init__(self, arguments: Sizes) -> None:
        self.arguments = arguments
        self.cache = Cache(Path(arguments.output_dir) / "cache", arguments.only_cached)

    @cached_property
    def public(self) -> list[str]:
        """The public texts, on which the small and the masked model are trained."""
        return load_public(self.arguments)

    @cached_property
    def public_version(self) -> str:
        """A digest of the public texts."""
        return fingerprint(self.public)

    @cached_property
    def public_runs(self) -> set[int]:
        """The runs of words in the public texts, to find copies of them."""
        return runs_of_words(self.public)

    @cached_property
    def device(self) -> torch.device:
        """Where all models are."""
        return resolve_device(self.arguments.device)

    @cached_property
    def embedder(self) -> RememberingEmbedder:
        """The embedding model. It knows the public texts already."""
        embedder = RememberingEmbedder(str(locate(self.arguments.embedding_model)), self.device)
        self.remember("public-embeddings", self.public, embedder)
        return embedder

    @cached_property
    def plain_embedder(self) -> SentenceTransformer:
        """The embedding model as a client has it, which embeds a text every time, so that this can be timed."""
        return SentenceTransformer(str(locate(self.arguments.embedding_model)), device=str(self.device))

    def remember(self, stage: str, texts: list[str], embedder: RememberingEmbedder | None = None) -> None:
        """Let the embedding model know texts. They are read from the cache if they were embedded before."""
        embedder = embedder or self.embedder

        def embed() -> np.ndarray:
            with progress_label(stage.replace("-", " ")):
                return TextEmbedder(embedder, self.arguments.batch_size)(texts)

        inputs = {"texts": fingerprint(texts), "embedding_model": self.arguments.embedding_model}
        rows = self.cache.array(stage, inputs, embed)
        embedder.embedded.update(zip(texts, rows, strict=True))

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Embed texts as unit rows of shape `(len(texts), d)`."""
        with progress_label("Embedding"):
            return TextEmbedder(self.embedder, self.arguments.batch_size)(texts)

    @cached_property
    def llm(self) -> tuple[Any, Any]:
        """The expansion model and its tokenizer: it expands, and is finetuned."""
        folder = locate(self.arguments.expansion_model)
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=self.arguments.llm_dtype).to(self.device)
        return model, AutoTokenizer.from_pretrained(folder)

    @property
    def masked_lm(self) -> str | Path:
        """The masked model of the paper's settings, by default one that is trained on the public texts."""
        if self.arguments.masked_lm is not None:
            return self.arguments.masked_lm
        minutes = self.arguments.masked_lm_minutes
        train = partial(train_masked_lm, self.public, 60 * minutes, device=self.device)
        return self._trained("masked-lm", {"minutes": minutes}, train)

    @property
    def small_lm(self) -> Path:
        """The model of five million weights that is pretrained on the public texts."""
        epochs = self.arguments.small_lm_epochs
        train = partial(train_small_lm, self.public, epochs, device=self.device)
        return self._trained("small-lm", {"epochs": epochs}, train)

    def _trained(self, stage: str, inputs: dict[str, Any], train: Callable[[Path], None]) -> Path:
        return self.cache.model(stage, {**inputs, "public": self.public_version}, train)

    def to_finetune(self, learner: "Learner", seed: int, rank: int | None = None) -> tuple[Any, Any]:
        """Load a fresh model and its tokenizer.

        Args:
            learner (`Learner`): Which model.
            seed (`int`): Seed of its adapters, and of the training.
            rank (`int`, *optional*): Rank of LoRA adapters, by default the learner's.
        """
        set_seed(seed)
        model, tokenizer = learner.load(self)
        rank = rank or learner.rank
        return (model if rank is None else with_adapters(model, rank)).to(self.device), tokenizer


@dataclass(frozen=True)
class LearnerSettings:
    """What the arguments say about a learner.

    Args:
        rate (`float`): Learning rate.
        epochs (`float`): Epochs of finetuning.
        num_held_out (`int`): Number of held-out texts that it is scored on.
        version (`float` or `str`): What the model before finetuning depends on.
    """

    rate: float
    epochs: float
    num_held_out: int
    version: float | str


@dataclass(frozen=True)
class Learner:
    """A model that is finetuned and scored.

    Args:
        name (`str`): Its name in arguments and results.
        words (`str`): What it is, for pictures and tables.
        load (`Callable`): Loads a fresh model and its tokenizer.
        settings (`Callable`): Reads its settings from the arguments.
        rank (`int`, *optional*): Rank of the LoRA adapters that are finetuned. By default all weights are.
    """

    name: str
    words: str
    load: Callable[[Models], tuple[Any, Any]]
    settings: Callable[[Sizes], LearnerSettings]
    rank: int | None = None


def load_small(models: Models) -> tuple[Any, Any]:
    """Load the small model."""
    folder = models.small_lm
    return AutoModelForCausalLM.from_pretrained(folder, dtype="float32"), AutoTokenizer.from_pretrained(folder)


def copy_llm(models: Models) -> tuple[Any, Any]:
    """Copy the expansion model, because the expansion uses it as well."""
    model, tokenizer = models.llm
    return copy.deepcopy(model), tokenizer


def small_settings(arguments: Sizes) -> LearnerSettings:
    """Read the settings of the small model."""
    return LearnerSettings(
        arguments.small_rate, arguments.small_epochs, arguments.num_held_out, arguments.small_lm_epochs
    )


def llm_settings(arguments: Sizes) -> LearnerSettings:
    """Read the settings of the LLM."""
    version = f"{arguments.expansion_model} {arguments.llm_dtype}"
    return LearnerSettings(arguments.llm_rate, arguments.llm_epochs, arguments.num_held_out_llm, version)


LEARNERS = {
    learner.name: learner
    for learner in (
        Learner("small", "small model, all weights", load_small, small_settings),
        Learner("llm", "expansion model, LoRA", copy_llm, llm_settings, rank=4),
    )
}
"""All learners, by their names."""


def with_adapters(model: Any, rank: int) -> Any:
    """Freeze a model and add LoRA adapters to all of its linear layers."""
    from peft import LoraConfig, get_peft_model

    lora = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type="CAUSAL_LM")
    return get_peft_model(model, lora)


def on_one_device(training: TrainingArguments) -> TrainingArguments:
    """Let a trainer use one GPU where there are more. On all of them its batches would be as many times as large."""
    _ = training.device  # Which counts the GPUs.
    training._n_gpu = min(1, training._n_gpu)
    return training


def finetune(
    model: Any, tokenizer: Any, texts: Sequence[str], rate: float, epochs: float, batch_size: int = 16
) -> Any:
    """Train a causal language model on texts with transformers' `Trainer`.

    Args:
        model (`PreTrainedModel` or `PeftModel`): The model. It is changed.
        tokenizer (`PreTrainedTokenizerBase`): Its tokenizer.
        texts (`Sequence[str]`): The texts, of which the first 96 tokens count.
        rate (`float`): Learning rate, which falls linearly to zero.
        epochs (`float`): Number of epochs.
        batch_size (`int`, *optional*, defaults to `16`): Texts per step.

    Returns:
        The trained model.
    """
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    rows = [{"input_ids": tokenizer(text, truncation=True, max_length=96)["input_ids"]} for text in texts]
    collator = DataCollatorForLanguageModeling(tokenizer, mlm=False)
    # The trainer makes its output folder even if it saves nothing.
    with tempfile.TemporaryDirectory() as scratch:
        training = TrainingArguments(
            output_dir=scratch,
            num_train_epochs=epochs,
            per_device_train_batch_size=batch_size,
            learning_rate=rate,
            lr_scheduler_type="linear",
            train_sampling_strategy="group_by_length",
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            use_cpu=model.device.type == "cpu",
        )
        Trainer(model, on_one_device(training), train_dataset=Dataset.from_list(rows), data_collator=collator).train()
    return model.eval()


def train_small_lm(texts: Sequence[str], epochs: float, folder: Path, device: torch.device) -> None:
    """Pretrain a small causal model on public text, and save it with its tokenizer in a folder.

    Args:
        texts (`Sequence[str]`): Public texts.
        epochs (`float`): Number of epochs.
        folder (`Path`): Folder for the model.
        device (`torch.device`): Where it is trained.
    """
    tokenizer = train_tokenizer(texts)
    set_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=8192,
            hidden_size=256,
            intermediate_size=704,
            num_hidden_layers=4,
            num_attention_heads=4,
            max_position_embeddings=256,
            tie_word_embeddings=True,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
        )
    )
    model = finetune(model.to(device), tokenizer, texts, 2e-3, epochs, batch_size=32)
    with atomic_folder(folder) as scratch:
        model.save_pretrained(scratch)
        tokenizer.save_pretrained(scratch)


def train_tokenizer(texts: Sequence[str]) -> PreTrainedTokenizerFast:
    """Learn a vocabulary of 8,192 byte pairs from public text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    special = ["<pad>", "<bos>", "<eos>"]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=8192, special_tokens=special, initial_alphabet=alphabet)
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A <eos>", special_tokens=[("<bos>", 1), ("<eos>", 2)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>")
