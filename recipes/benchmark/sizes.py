"""The texts, models and sizes of the benchmark, on which its stages depend."""

from dataclasses import dataclass, field

EMBEDDER, LLM = "packaged/all-MiniLM-L6-v2", "packaged/SmolLM2-135M-Instruct"


@dataclass(kw_only=True)
class Sizes:
    """What is read, how much is generated, trained and measured, and where it is kept."""

    private: list[str] = field(
        default_factory=list,
        metadata={"help": "Files of private texts, PATH or NAME=PATH. The name is a private set for `data`."},
    )
    public: str | None = field(
        default=None, metadata={"help": "File or repository of public texts. None: the benchmark's own."}
    )
    client_column: str = field(default="client_id", metadata={"help": "Column of `private` with the clients."})
    text_column: str = field(default="text", metadata={"help": "Column of `private` and `public` with the texts."})
    embedding_model: str = field(default=EMBEDDER, metadata={"help": "Sentence-transformers model."})
    expansion_model: str = field(
        default=LLM, metadata={"help": "Causal language model, which expands and is finetuned as the LLM."}
    )
    device: str | None = field(default=None, metadata={"help": "Device of the models. None: a GPU or the CPU."})
    batch_size: int = field(default=64, metadata={"help": "Texts that a model reads or writes at a time."})
    delta: float = field(default=3e-6, metadata={"help": "The additive term of (epsilon, delta)-DP."})
    llm_dtype: str = field(
        default="float32",
        metadata={"help": "dtype of the LLM. bfloat16 takes half the time on a processor that has it."},
    )
    texts_per_device: int = field(
        default=2, metadata={"help": "Texts of a client for one step of the devices' training."}
    )
    tune_devices: bool = field(
        default=True,
        metadata={"help": "Choose the devices' settings at each budget by held-out text. False: one setting for all."},
    )
    num_samples: int = field(default=256, metadata={"help": "Texts to finetune on."})
    public_fraction: float = field(
        default=0.0,
        metadata={"help": "Fraction of random public texts among those that every method finetunes on, mixed in."},
    )
    num_held_out: int = field(default=1200, metadata={"help": "Texts to score the small model on."})
    num_held_out_llm: int = field(default=300, metadata={"help": "The same for the LLM, which is slower."})
    max_length: int = field(default=48, metadata={"help": "Longest candidate, in tokens."})
    continuations_per_prompt: int = field(default=3, metadata={"help": "Continuations of one prompt, of all methods."})
    paper_population_size: int = field(default=512, metadata={"help": "N_syn of the paper's settings, scaled down."})
    paper_lookahead: int = field(default=1, metadata={"help": "K of the paper's settings. Its code has 4."})
    paper_masks_per_pass: int = field(default=4, metadata={"help": "Masks filled at a time. The paper fills one."})
    popri_rounds: int = field(default=2, metadata={"help": "Rounds of POPri. Published: 20."})
    popri_prompts: int = field(default=40, metadata={"help": "Prompts in a round of POPri. Published: 1,800."})
    popri_continuations: int = field(default=10, metadata={"help": "Continuations of each prompt, as published."})
    changes: str = field(
        default="{}", metadata={"help": "For experiments: fields of the default's configuration, as JSON."}
    )
    masked_lm: str | None = field(
        default=None, metadata={"help": "Masked model of the paper's settings. None: trained on public text."}
    )
    masked_lm_minutes: float = field(default=10.0, metadata={"help": "Training of the masked model on public text."})
    small_lm_epochs: float = field(default=0.5, metadata={"help": "Pretraining of the small model on public text."})
    small_epochs: int = field(default=2, metadata={"help": "Epochs of finetuning the small model."})
    small_rate: float = field(default=5e-4, metadata={"help": "Learning rate of the small model."})
    llm_epochs: int = field(default=1, metadata={"help": "Epochs of finetuning the LLM."})
    llm_rate: float = field(default=5e-4, metadata={"help": "Learning rate of the LoRA adapters."})
    curve: list[int] = field(
        default_factory=list, metadata={"help": "Numbers of texts to finetune on, for a curve. Empty: no curve."}
    )
    curve_best_of: list[int] = field(
        default_factory=list, metadata={"help": "`best_of` of the curve's methods. Empty: as in their settings."}
    )
    output_dir: str = field(default="build/benchmark", metadata={"help": "Folder of results, pictures and cache."})
    only_cached: bool = field(
        default=False, metadata={"help": "Train and write nothing: table and pictures of what is in the cache."}
    )
