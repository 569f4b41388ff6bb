"""Models of the benchmark: those that are packaged, and the small ones that are trained on its public text."""

import copy
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from benchmark_data import public_texts
from benchmark_stages import NotInCacheError, Stages, fingerprint
from datasets import Dataset
from masked_lm import train_masked_lm
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

from hf_pretext.embedding import TextEmbedder
from hf_pretext.files import written_whole
from hf_pretext.packaged_models import locate

if TYPE_CHECKING:
    from benchmark import BenchmarkArguments

EMBEDDER, LLM = "packaged/all-MiniLM-L6-v2", "packaged/SmolLM2-135M-Instruct"


class RememberingEmbedder(SentenceTransformer):
    """The embedding model, which embeds a text once: the runs of a benchmark share their texts.

    For the benchmark alone: a client's embedding here depends on the batch that it was first embedded in.
    """

    def __init__(self, folder: str) -> None:
        super().__init__(folder, device="cpu")
        self.embedded: dict[str, np.ndarray] = {}

    def encode(self, texts: list[str], **options: Any) -> np.ndarray:
        """Embed texts, or remember how they were embedded."""
        new = [text for text in dict.fromkeys(texts) if text not in self.embedded]
        if new:
            self.embedded.update(zip(new, super().encode(new, **options), strict=True))
        return np.stack([self.embedded[text] for text in texts])


class Models:
    """The models, loaded when they are first needed; the small and the masked one are trained on public text."""

    def __init__(self, arguments: "BenchmarkArguments") -> None:
        self.arguments = arguments
        self.stages = Stages(Path(arguments.output_dir) / "cache", arguments.only_cached)

    @cached_property
    def public(self) -> list[str]:
        """The public texts, which the small and the masked model are trained on."""
        return public_texts(Path(self.arguments.output_dir) / "packages")

    @cached_property
    def embedder(self) -> RememberingEmbedder:
        """all-MiniLM-L6-v2, as in the paper, which knows the public texts already."""
        embedder = RememberingEmbedder(str(locate(EMBEDDER)))
        self.remember("public-embeddings", self.public, embedder)
        return embedder

    def remember(self, stage: str, texts: list[str], embedder: RememberingEmbedder | None = None) -> None:
        """Let the embedding model know texts, from the cache where they were embedded before."""
        embedder = embedder or self.embedder
        place = self.stages.place(stage, {"texts": fingerprint(texts)}).with_suffix(".npy")
        if not place.is_file():
            np.save(place, TextEmbedder(embedder)(texts, f"{stage.replace('-', ' ')}"))
        embedder.embedded.update(zip(texts, np.load(place), strict=True))

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Embed texts as unit rows of shape `(len(texts), d)`."""
        return TextEmbedder(self.embedder)(texts, "Embedding")

    @cached_property
    def llm(self) -> Any:
        """SmolLM2-135M-Instruct and its tokenizer: it expands, and is finetuned."""
        return (
            AutoModelForCausalLM.from_pretrained(locate(LLM), dtype=self.arguments.llm_dtype),
            AutoTokenizer.from_pretrained(locate(LLM)),
        )

    @property
    def masked_lm(self) -> str | Path:
        """all-MiniLM-L6-v2 trained as a masked language model on the public texts (`masked_lm`)."""
        if self.arguments.masked_lm is not None:
            return self.arguments.masked_lm
        minutes = self.arguments.masked_lm_minutes
        return self._trained("masked-lm", {"minutes": minutes}, partial(train_masked_lm, self.public, 60 * minutes))

    @property
    def small_lm(self) -> Path:
        """The model of five million weights that is pretrained on the public texts."""
        epochs = self.arguments.small_lm_epochs
        return self._trained("small-lm", {"epochs": epochs}, partial(train_small_lm, self.public, epochs))

    def _trained(self, stage: str, inputs: dict[str, Any], train: Callable[[Path], None]) -> Path:
        folder = self.stages.place(stage, {**inputs, "public": fingerprint(self.public)})
        if not (folder / "config.json").is_file():
            if self.stages.only_cached:
                raise NotInCacheError(folder.name)
            train(folder)
        return folder

    def to_finetune(self, setting: str, seed: int, rank: int | None = None) -> tuple[Any, Any]:
        """Load a fresh model: the small one, or SmolLM2 with LoRA adapters; with a `rank`, either has adapters."""
        set_seed(seed)
        if setting == "small":
            model = AutoModelForCausalLM.from_pretrained(self.small_lm, dtype="float32")
            tokenizer = AutoTokenizer.from_pretrained(self.small_lm)
        else:
            model, tokenizer = copy.deepcopy(self.llm[0]), self.llm[1]
            rank = rank or 4
        if rank is not None:
            from peft import LoraConfig, get_peft_model

            lora = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type="CAUSAL_LM")
            model = get_peft_model(model, lora)
        return model, tokenizer


def finetune(
    model: Any, tokenizer: Any, texts: Sequence[str], rate: float, epochs: float, batch_size: int = 16
) -> Any:
    """Train a causal language model on texts with transformers' `Trainer`."""
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    rows = [{"input_ids": tokenizer(text, truncation=True, max_length=96)["input_ids"]} for text in texts]
    training = TrainingArguments(
        output_dir="unused",
        num_train_epochs=epochs,
        per_device_train_batch_size=batch_size,
        learning_rate=rate,
        lr_scheduler_type="linear",
        train_sampling_strategy="group_by_length",
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        use_cpu=True,
    )
    collator = DataCollatorForLanguageModeling(tokenizer, mlm=False)
    Trainer(model, training, train_dataset=Dataset.from_list(rows), data_collator=collator).train()
    return model.eval()


def train_small_lm(texts: Sequence[str], epochs: float, folder: Path) -> None:
    """Pretrain a small causal model, five million weights and a vocabulary of its own, on public text."""
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
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>")
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
    model = finetune(model, fast, texts, 2e-3, epochs, batch_size=32)
    with written_whole(folder) as scratch:
        model.save_pretrained(scratch)
        fast.save_pretrained(scratch)
