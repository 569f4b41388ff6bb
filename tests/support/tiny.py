"""Tiny models built in code, and random texts. Nothing here needs the network."""

import gc

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import BertConfig, BertModel, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from hf_pretext.clients.questions import NearestCandidates

# The models are so small that a second thread only costs time.
torch.set_num_threads(1)
# A trainer collects garbage whenever it begins. What was imported is none.
gc.freeze()

WORDS = (
    "the bank support chat asks about a lost card and new loan while my clinic sends me notes on sleep food walk rain "
    "sun garden music train ticket late early morning night happy angry quiet loud small large red blue green door"
).split()


def random_texts(num_texts, seed=0, low=4, high=12):
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, size=rng.integers(low, high))) for _ in range(num_texts)]


def release(ledger, num_bins):
    """Count and keep a release of votes, as a pool of clients does."""
    ledger.record(NearestCandidates.of(np.zeros((num_bins, 2))))
    ledger.keep(np.zeros(num_bins))


def wordpiece_tokenizer():
    # A vocabulary that is written down: the trainer's depends on the order of a hash table.
    characters = [chr(code) for code in range(ord("!"), ord("~") + 1) if not chr(code).isupper()]
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *characters, *(f"##{each}" for each in characters)]
    pieces += [word for word in sorted(set(WORDS)) if word not in characters]
    tokenizer = Tokenizer(models.WordPiece({piece: index for index, piece in enumerate(pieces)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.decoder = decoders.WordPiece()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_max_length=64,
    )


def byte_tokenizer(with_mask):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<s>", "<pad>", "</s>", "<mask>"] if with_mask else ["<s>", "</s>"]
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator(random_texts(300), trainer)
    if not with_mask:
        return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    names = {"bos_token": "<s>", "eos_token": "</s>", "cls_token": "<s>", "sep_token": "</s>"}
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", mask_token="<mask>", model_max_length=64, **names
    )


SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}


def make_llama():
    """A causal language model without a pad token."""
    torch.manual_seed(0)
    tokenizer = byte_tokenizer(with_mask=False)
    config = LlamaConfig(
        vocab_size=len(tokenizer), max_position_embeddings=1024, bos_token_id=0, eos_token_id=1, **SIZES
    )
    return LlamaForCausalLM(config).eval(), tokenizer


def make_sentence_transformer(folder):
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Pooling, Transformer

    torch.manual_seed(0)
    tokenizer = wordpiece_tokenizer()
    BertModel(BertConfig(vocab_size=len(tokenizer), max_position_embeddings=64, **SIZES)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return SentenceTransformer(modules=[Transformer(str(folder)), Pooling(SIZES["hidden_size"])], device="cpu")
