"""Every file name of a run folder, a saved run, a pushed repository and a finetuned model."""

CONFIG_NAME = "private_evolution_config.json"
REPORT_NAME = "privacy_report.json"
MODELS_NAME = "models.json"
SEEDS_NAME = "seeds.jsonl"
HISTORY_NAME = "history.json"
TOKENS_NAME = "token_counts.json"
EVIDENCE_NAME = "evidence.safetensors"
"""What the releases of a run say of any text."""

CARD_NAME = "README.md"
PICTURE_NAME = "run.png"
PAGE_NAME = "report.html"
PAGE_DATA_NAME = "page.json"
CROISSANT_NAME = "croissant.json"
DATASET_FILES = ("data-*.arrow", "state.json", "dataset_info.json")
"""What `Dataset.save_to_disk` writes."""

SELECTION_NAME = "selection.json"
"""How public texts were chosen."""

FILES_OF_A_RUN = (
    *(CARD_NAME, PICTURE_NAME, PAGE_NAME, PAGE_DATA_NAME, SEEDS_NAME, HISTORY_NAME, TOKENS_NAME, EVIDENCE_NAME),
    *(SELECTION_NAME, *DATASET_FILES),
)
"""Files of a saved run that must go when another run without them is saved in the same folder."""

FIRST_WRITER = "first_expansion_model"
"""In `models.json`: the model that wrote candidates, if another one expanded the seeds later."""

RUN_FOLDER = "run"
"""Subfolder of the results in which the commands keep a run's own folder."""

LEDGER_NAME = "ledger.json"
SETTINGS_NAME = "settings.json"
FEDERATION_NAME = "federation.json"
METRICS_NAME = "metrics.json"

BUDGET_SUFFIX = ".budget.json"
"""What a federation's node appends to the name of its private texts for the name of its ledger."""

STATE_FOLDER = "hf_pretext"
"""Subfolder of the user's state folder, in which a node marks its newest answer."""

DATA_FILE = "data/train-00000-of-00001.parquet"
SEEDS_FILE = "seeds/train-00000-of-00001.parquet"

TRAINING_NAME = "training.json"
ORIGIN_NAME = "training_origin.json"
"""In a checkpoint, beside a finetuned model, and in the folder of a training: what it began with. It stays local."""

LOCAL_TRACES = (REPORT_NAME, TRAINING_NAME, ORIGIN_NAME, "trainer_state.json")
"""Files by which a folder, which may be a checkpoint, shows what a model was trained on before."""

TRAINED_ON = "hf_pretext_trained_on"
"""Key of a model's configuration: names of the releases behind what it was trained on, if `GuaranteeCallback` saw it.

It goes wherever the model goes, and says that a report is to be looked for. By itself it promises nothing.
"""

EVALUATION_NAME = "evaluation.json"
EVALUATION_PICTURE_NAME = "evaluation.png"
ADAPTER_CONFIG_NAME = "adapter_config.json"
MODEL_CONFIG_NAME = "config.json"
WEIGHTS_AND_TOKENIZER = (
    *("*.safetensors", "*.safetensors.index.json", MODEL_CONFIG_NAME, "generation_config.json", ADAPTER_CONFIG_NAME),
    *("tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt", "*.model"),
    *("chat_template.*", "additional_chat_templates/*.jinja"),
)
FILES_OF_A_MODEL = (
    *WEIGHTS_AND_TOKENIZER,
    *(CARD_NAME, REPORT_NAME, PICTURE_NAME, "evaluation.*", TRAINING_NAME, ORIGIN_NAME),
)
"""Files of a model that must go when another one is saved in the same folder, above all the older guarantee."""

PUBLISHED_OF_A_MODEL = (*WEIGHTS_AND_TOKENIZER, REPORT_NAME, TRAINING_NAME, PICTURE_NAME)
"""Files of a model's folder that a push publishes. Others may lie there, such as a copy of a held-out file."""

AUDIT_NAME = "audit.json"
AUDIT_PICTURE_NAME = "audit.png"
AUDIT_SETTINGS_NAME = "audit_settings.json"
