"""From names to objects: the models that vary, embed and write texts."""

from ..lazy import lazy_names

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "ModelSource": "components",
        "load_causal_lm": "loading",
        "load_masked_lm": "loading",
        "load_sentence_transformer": "loading",
        "resolve_device": "loading",
        "resolve_dtype": "loading",
    },
)
