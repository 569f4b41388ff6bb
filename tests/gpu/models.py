"""What the sections share: the device, timing, texts, and models that are packaged or have random weights."""

import atexit
import logging
import shutil
import tempfile
import time
from functools import cache
from pathlib import Path

import numpy as np
import torch

IS_GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if IS_GPU else "cpu")

MINILM, SMOLLM2 = "packaged/all-MiniLM-L6-v2", "packaged/SmolLM2-135M-Instruct"

WORDS = (
    "the bank support chat asks about a lost card and new loan while my clinic sends me notes on sleep food walk rain "
    "sun garden music train ticket late early morning night happy angry quiet loud small large red blue green door"
).split()

# Sizes of real models. The weights are random, which changes neither time nor memory.
ROBERTA_LARGE = {
    **{"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096},
    "vocab_size": 50265,
}
QWEN3_8B = {
    **{"hidden_size": 4096, "num_hidden_layers": 36, "num_attention_heads": 32, "intermediate_size": 12288},
    **{"num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936, "tie_word_embeddings": False},
}
LLAMA_1B = {
    **{"hidden_size": 2048, "num_hidden_layers": 16, "num_attention_heads": 32, "intermediate_size": 8192},
    **{"num_key_value_heads": 8, "head_dim": 64, "vocab_size": 128256, "tie_word_embeddings": True},
}
TINY = {
    **{"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64},
    "vocab_size": 400,
}


def synchronize():
    if IS_GPU:
        torch.cuda.synchronize()


def seconds_of(work):
    """Time one call."""
    synchronize()
    started = time.perf_counter()
    work()
    synchronize()
    return time.perf_counter() - started


def best_seconds(work, repeats=5, at_most=5.0):
    """Return the best time of several calls, after one that warms up. Fewer if they take long."""
    ended = time.perf_counter() + at_most
    times = [seconds_of(work)]
    for number in range(repeats):
        if number and time.perf_counter() > ended:
            break
        times.append(seconds_of(work))
    return min(times[1:])


@cache
def clients(number=None):
    """Return texts by client: Shakespeare's roles if they are packaged, else made up."""
    rng = np.random.default_rng(0)
    try:
        from hf_pretext.plays import load_plays

        texts = {}
        for row in load_plays()[0]:
            texts.setdefault(row["client_id"], []).append(row["text"])
    except ImportError:
        texts = {
            f"c{client}": [" ".join(rng.choice(WORDS, rng.integers(6, 60))) for _ in range(rng.integers(1, 20))]
            for client in range(1000)
        }
    return dict(list(texts.items())[:number])


@cache
def some_texts(number):
    """Return different texts."""
    return list(dict.fromkeys(text for own in clients().values() for text in own))[:number]


def packaged(name):
    """Return the folder of a packaged model, or None if its package is not there."""
    from hf_pretext.models.packaged import locate

    try:
        return Path(locate(name))
    except Exception as error:
        logging.getLogger(__name__).warning("%s is not there: %s", name, error)
        return None


@cache
def sentence_transformer(dtype):
    """Return all-MiniLM-L6-v2 on the device, or a model of its size with random weights, and its name."""
    from hf_pretext.models import load_sentence_transformer

    folder = packaged(MINILM) if IS_GPU else None
    if folder is None:
        folder = _random_encoder()
    name = "all-MiniLM-L6-v2" if "random" not in str(folder) else "random weights"
    return load_sentence_transformer(folder, DEVICE, dtype).eval(), name


@cache
def _random_encoder():
    """Write an encoder with random weights into a folder."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Pooling, Transformer
    from transformers import BertConfig, BertModel

    folder = tempfile.mkdtemp(suffix="-random")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    sizes = {**TINY, "hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12} if IS_GPU else TINY
    torch.manual_seed(0)
    BertModel(BertConfig(**sizes)).save_pretrained(f"{folder}/bert")
    byte_tokenizer().save_pretrained(f"{folder}/bert")
    modules = [Transformer(f"{folder}/bert", max_seq_length=128), Pooling(sizes["hidden_size"])]
    SentenceTransformer(modules=modules, device="cpu").save(folder)
    return Path(folder)


def byte_tokenizer(longest=512):
    """Make a tokenizer whose tokens are bytes."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    pieces = ["<s>", "<pad>", "</s>", "<mask>", "<unk>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE({piece: index for index, piece in enumerate(pieces)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    names = {"bos_token": "<s>", "eos_token": "</s>", "cls_token": "<s>", "sep_token": "</s>", "pad_token": "<pad>"}
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, mask_token="<mask>", unk_token="<unk>", model_max_length=longest, **names
    )


def random_masked_lm(dtype):
    """Return a masked language model of the size of RoBERTa-large, or a tiny one, and its tokenizer."""
    from transformers import RobertaConfig, RobertaForMaskedLM

    config = RobertaConfig(**(ROBERTA_LARGE if IS_GPU else TINY), max_position_embeddings=514, pad_token_id=1)
    return _random(RobertaForMaskedLM, config, dtype), byte_tokenizer()


def random_causal_lm(sizes, dtype):
    """Return a causal language model of the Qwen3 type with random weights, on the device."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    sizes = sizes if IS_GPU else TINY | {"num_key_value_heads": 2, "head_dim": 16}
    config = Qwen3Config(**sizes, max_position_embeddings=4096, bos_token_id=0, eos_token_id=2, pad_token_id=1)
    return _random(Qwen3ForCausalLM, config, dtype)


def _random(kind, config, dtype):
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with DEVICE:
            return kind(config).eval()
    finally:
        torch.set_default_dtype(before)


def num_weights(model):
    return sum(each.numel() for each in model.parameters())
