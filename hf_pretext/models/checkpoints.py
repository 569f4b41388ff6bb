"""Causal language models in the forms that they are saved in: whole, as an adapter of another one, or as GGUF."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..artifacts import ADAPTER_CONFIG_NAME, LOCAL_TRACES, REPORT_NAME, TRAINED_ON, TRAINING_NAME
from ..files import read_json
from .packaged import locate

ADAPTER_WEIGHTS = "adapter_model.safetensors"
FILES_OF_AN_ADAPTER = (
    *(ADAPTER_CONFIG_NAME, ADAPTER_WEIGHTS, "tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.*"),
    *("merges.txt", "*.model", "chat_template.*", "additional_chat_templates/*.jinja", REPORT_NAME, TRAINING_NAME),
)


@dataclass(frozen=True)
class Adapter:
    """An adapter of PEFT, which changes another model.

    Args:
        folder (`Path`): Its files.
        base (`str`): Name of the model that it changes, which may be an adapter itself.
        base_revision (`str`, *optional*): Revision of that model that it was trained from, if it names one.
    """

    folder: Path
    base: str
    base_revision: str | None = None

    @classmethod
    def find(cls, name: str | Path, revision: str | None = None) -> "Adapter | None":
        """Return the adapter in a folder or a repository of the Hub, or None if it holds something else.

        Raises:
            ValueError: It does not name its base model, or its base model leads back to it.
        """
        adapter = first = cls._read(name, revision)
        seen = {str(name)}
        while adapter is not None:
            if adapter.base in seen:
                raise ValueError(
                    f"The adapter {str(name)!r} names {adapter.base!r} as its base model, so it is its own base. "
                    f"Write the name of the model that it was trained from into `base_model_name_or_path` in its "
                    f"{ADAPTER_CONFIG_NAME}."
                )
            seen.add(adapter.base)
            adapter = cls._read(adapter.base, adapter.base_revision)
        return first

    @classmethod
    def _read(cls, name: str | Path, revision: str | None = None) -> "Adapter | None":
        from transformers.utils import find_adapter_config_file

        is_packaged = str(name).startswith("packaged/")
        found = None if is_packaged else find_adapter_config_file(str(name), revision=revision)
        if found is None:
            return None
        folder = Path(found).parent
        base, base_revision = base_of(folder)
        if not Path(name).is_dir():
            from huggingface_hub import snapshot_download

            patterns = list(FILES_OF_AN_ADAPTER)
            folder = Path(snapshot_download(str(name), revision=revision, allow_patterns=patterns))
        return cls(folder, base, base_revision)

    @property
    def has_tokenizer(self) -> bool:
        """Whether a tokenizer was saved with it."""
        return any(self.folder.glob("tokenizer*"))

    def fit(self, base: Any) -> None:
        """Give a base model as many embeddings as it had when the adapter was trained."""
        from safetensors import safe_open

        embedding = base.get_input_embeddings()
        name = next(name for name, module in base.named_modules() if module is embedding)
        ends = (f"{name}.weight", f"{name}.base_layer.weight", f"{name}.modules_to_save.weight")
        with safe_open(self.folder / ADAPTER_WEIGHTS, "pt") as weights:
            saved = [weights.get_slice(key).get_shape()[0] for key in weights.keys() if key.endswith(ends)]  # noqa: SIM118
        if saved and saved[0] != len(embedding.weight):
            base.resize_token_embeddings(saved[0])

    def change(self, base: Any, merge: bool = False) -> Any:
        """Return a base model with the adapter in its layers, or added to their weights. The base itself is changed.

        Raises:
            ValueError: The adapter does not change layers, or was made for another base model.
        """
        try:
            from peft import PeftModel
            from peft.utils import get_peft_model_state_dict
        except ImportError:
            raise ImportError(f"The adapter {str(self.folder)!r} needs PEFT: `pip install peft`.") from None
        try:
            model = PeftModel.from_pretrained(base, str(self.folder))
        except RuntimeError as error:
            if "size mismatch" not in str(error):
                raise  # Memory that is short is another matter.
            raise ValueError(self._does_not_fit(str(error))) from error
        if model.active_peft_config.is_prompt_learning:
            raise ValueError(
                f"The adapter {str(self.folder)!r} is of the type {model.active_peft_config.peft_type.value}, which "
                "puts a prompt before each text. Use one that changes layers, such as LoRA."
            )
        # PEFT leaves layers that the adapter knows nothing of as they are, with a warning.
        if missing := set(get_peft_model_state_dict(model, save_embedding_layers=False)) - self._names():
            raise ValueError(self._does_not_fit(f"it has no weights such as {min(missing)!r}"))
        if not merge:
            return model.get_base_model()
        merged = model.merge_and_unload()
        if any((self.folder / name).is_file() for name in LOCAL_TRACES):
            # Weights that are added up are no longer those of a report, and have the name of the base.
            setattr(merged.config, TRAINED_ON, [])
        return merged

    def _names(self) -> set[str]:
        from safetensors import safe_open

        with safe_open(self.folder / ADAPTER_WEIGHTS, "pt") as weights:
            return set(weights.keys())

    def _does_not_fit(self, reason: str) -> str:
        return (
            f"The adapter {str(self.folder)!r} was made for another model than {self.base!r}, which its "
            f"{ADAPTER_CONFIG_NAME} names as its base: {reason[:300]}. Give `base_model_name_or_path` there the model "
            "that it was trained from."
        )


def base_of(folder: Path) -> tuple[str, str | None]:
    """Read which model an adapter changes, and at which revision: what is loaded, and what has to have a guarantee.

    A relative path is one from where the training was started, or from the adapter's folder.

    Raises:
        ValueError: The configuration of the adapter does not say.
    """
    config = folder / ADAPTER_CONFIG_NAME
    try:
        values = read_json(config)
        base, revision = values["base_model_name_or_path"], values.get("revision")
    except (ValueError, KeyError, TypeError):
        base = revision = None
    if not isinstance(base, str) or not base:
        raise ValueError(f"{str(config)!r} does not name the base model of its adapter.")
    beside = folder / base
    place = str(beside) if not Path(base).is_dir() and beside.is_dir() else base
    return place, revision if isinstance(revision, str) and revision else None


def read_causal_lm(
    name: str | Path, merge: bool = False, revision: str | None = None, **options: Any
) -> tuple[Any, Any]:
    """Load a causal language model and its tokenizer from a folder or a repository of the Hub.

    An adapter is loaded with its base model, and its tokenizer is its own or that of the base model. A local folder
    may hold one GGUF file.

    Args:
        name (`str` or `Path`): The folder, the repository, or the name of a packaged model.
        merge (`bool`, *optional*, defaults to `False`): Add an adapter to the weights, to make room for another.
        revision (`str`, *optional*): Revision of a repository, `"main"` by default.
        **options: Arguments of `from_pretrained`.
    """
    from transformers import AutoModelForCausalLM

    adapter = Adapter.find(name, revision)
    if adapter is not None:
        model, _ = read_causal_lm(adapter.base, merge=True, revision=adapter.base_revision, **options)
        adapter.fit(model)
        return adapter.change(model, merge), read_tokenizer(name, revision)
    folder = locate(name)
    gguf = gguf_file(folder)
    kind: dict[str, Any] = {"gguf_file": gguf} if gguf else {"use_safetensors": True}
    kind["revision"] = revision or "main"
    model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=False, **kind, **options)
    return model, read_tokenizer(name, revision)


def read_tokenizer(name: str | Path, revision: str | None = None) -> Any:
    """Load the tokenizer of a model, which for an adapter is its own or that of its base model."""
    from transformers import AutoTokenizer

    adapter = Adapter.find(name, revision)
    if adapter is not None and not adapter.has_tokenizer:
        return read_tokenizer(adapter.base, adapter.base_revision)
    folder = locate(name) if adapter is None else adapter.folder
    gguf = gguf_file(folder)
    kind = {"gguf_file": gguf} if gguf else {}
    # Said explicitly: by default, transformers asks at the terminal whether to run a stranger's code. And where
    # mistral-common is installed, it takes that tokenizer, which cannot read special tokens as plain characters.
    safe = {"trust_remote_code": False, "mistral_format": False}
    return AutoTokenizer.from_pretrained(folder, revision=revision or "main", **safe, **kind)


def gguf_file(folder: str | Path) -> str | None:
    """Return the GGUF file of a local folder without other weights, or None if it holds none.

    Raises:
        ValueError: It holds several.
    """
    if not Path(folder).is_dir() or any(Path(folder).glob("*.safetensors")):
        return None
    names: Sequence[str] = sorted(path.name for path in Path(folder).glob("*.gguf"))
    if len(names) > 1:
        raise ValueError(
            f"The folder {str(folder)!r} holds {len(names)} GGUF files, {names}. Put the one to load into a folder of "
            "its own."
        )
    return names[0] if names else None
