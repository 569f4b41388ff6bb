"""Is what a client adds a function of its own texts alone, bit by bit, on this machine?"""

import time

import numpy as np
import torch
from models import DEVICE, IS_GPU, clients, seconds_of, sentence_transformer, some_texts

from hf_pretext.clients.questions import NearestCandidates
from hf_pretext.clients.samples import EMBEDDING_UNITS, embed_clients, quantize_embeddings
from hf_pretext.models.embedder import TextEmbedder

CAP, SEED = 8, 0
DTYPES = {"checkpoint": "auto", "float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
SHAPES = [(64, 16), (64, 32), (64, 64), (64, 128), (256, 32), (256, 64), (256, 128), (64, 256)]


def embedded(some, embedder):
    """Return the embeddings of each client."""
    return [own.embeddings for _, own in embed_clients(some, embedder, CAP, SEED).each_client()]


def locality(seconds):
    """Embed clients alone and together, and texts in batches of one shape with other texts beside them."""
    ended = time.monotonic() + seconds
    found = {"clients": {}, "one_shape": {}}
    names = list(DTYPES) if IS_GPU else ["float32"]
    for name in names:
        model, of = sentence_transformer(DTYPES[name])
        found["model"] = of
        embedder = TextEmbedder(model, batch_size=64)
        number = 120 if IS_GPU else 6
        some = clients(number)
        whole = embedded(some, embedder)
        turned = embedded(dict(reversed(list(some.items()))), embedder)[::-1]
        alone = [embedded({client: own}, embedder)[0] for client, own in list(some.items())[::4]]
        found["clients"][name] = {
            "dtype": str(next(model.parameters()).dtype),
            "number": number,
            "same_in_another_order": sum(map(np.array_equal, whole, turned)),
            "alone_number": len(alone),
            "same_alone": sum(map(np.array_equal, whole[::4], alone)),
        }
        found["one_shape"][name] = one_shape(model, SHAPES if IS_GPU else [(8, 16)], ended)
    if any(
        each["same_alone"] != each["alone_number"] or each["same_in_another_order"] != each["number"]
        for each in found["clients"].values()
    ):
        found["failed"] = "What a client adds depends on the others."
    found["rates"] = rates(ended)
    found["against_the_cpu"] = against_the_cpu()
    return found


def one_shape(model, shapes, ended):
    """Return for each shape how often a text's row changed with its place or with the rows beside it."""
    found = {}
    for index, (rows, length) in enumerate(shapes):
        if index > 1 and time.monotonic() > ended:
            found[f"{rows} x {length}"] = "no time"
            continue
        ids, mask = tokens_of(model, some_texts(4 * rows), rows, length)
        expected = forward(model, ids, mask)
        generator = torch.Generator().manual_seed(0)
        wrong = 0
        for turn in range(6):
            order = torch.randperm(rows - 1, generator=generator)
            order = torch.cat([order, torch.tensor([rows - 1])])  # The last row is one token and padding.
            moved = forward(model, ids[order], mask[order])
            wrong += int((moved != expected[order.to(DEVICE)]).any(1).sum())
            # A few rows among rows of one token only.
            few = torch.zeros(rows, dtype=torch.bool)
            few[torch.randperm(rows, generator=generator)[: 1 + turn]] = True
            lonely_mask = torch.where(few[:, None], mask, mask[-1:])
            lonely = forward(model, torch.where(few[:, None], ids, ids[-1:]), lonely_mask)
            wrong += int((lonely != expected)[few.to(DEVICE)].any(1).sum())
        found[f"{rows} x {length}"] = wrong
    return found


def tokens_of(model, texts, rows, length):
    """Return token ids and masks of a full batch of texts of at most this many tokens, and a row of one token."""
    tokenizer = model.tokenizer
    batch = tokenizer(
        texts, padding="max_length", truncation=True, max_length=length, return_tensors="pt", split_special_tokens=True
    )
    ids, mask = batch["input_ids"][:rows].clone(), batch["attention_mask"][:rows].clone()
    ids[-1, 1:], mask[-1, 1:] = tokenizer.pad_token_id, 0
    return ids, mask


@torch.inference_mode()
def forward(model, ids, mask):
    features = {"input_ids": ids.to(DEVICE), "attention_mask": mask.to(DEVICE)}
    if "token_type_ids" in model.tokenizer.model_input_names:
        features["token_type_ids"] = torch.zeros_like(features["input_ids"])
    return model(features)["sentence_embedding"]


def rates(ended):
    """Return texts a second: client by client, and one large sorted batch after another."""
    found = {}
    some = clients(600 if IS_GPU else 6)
    capped = [text for own in some.values() for text in own[:CAP]]
    for name in ("float32", "float16", "bfloat16") if IS_GPU else ("float32",):
        if time.monotonic() > ended:
            break
        model, _ = sentence_transformer(DTYPES[name])
        for size in (64, 256):
            embedder = TextEmbedder(model, batch_size=size)
            embedder(capped[:300])
            found[f"{name}, sorted, {size}"] = len(capped) / seconds_of(lambda embedder=embedder: embedder(capped))
        by_client = seconds_of(lambda embedder=embedder: embed_clients(some, embedder, CAP, SEED))
        found[f"{name}, client by client"] = len(capped) / by_client
    return {name: round(rate) for name, rate in found.items()}


def against_the_cpu():
    """Compare embeddings here with those of the CPU in float32, in integer units."""
    model, _ = sentence_transformer(torch.float32)
    texts = some_texts(300 if IS_GPU else 8)
    there = quantize_embeddings(TextEmbedder(model)(texts))
    try:
        here = quantize_embeddings(TextEmbedder(model.to("cpu"))(texts))
    finally:
        model.to(DEVICE)
    differences = np.abs(here.astype(int) - there.astype(int))
    candidates = quantize_embeddings(TextEmbedder(model)(some_texts(900)[-256:] if IS_GPU else texts))
    question = NearestCandidates(candidates)
    other = np.mean(question.nearest(here) != question.nearest(there))
    return {
        "units_per_length_one": EMBEDDING_UNITS,
        "largest_difference_in_units": int(differences.max()),
        "fraction_of_entries_that_differ": float((differences > 0).mean()),
        "fraction_of_votes_that_differ": float(other),
    }


def votes(seconds):
    """Compare the scores of votes with integer arithmetic: of the library on the CPU, and of a product on the card."""
    rng = np.random.default_rng(0)
    points = rng.normal(size=(4000 if IS_GPU else 200, 384))
    points = quantize_embeddings(points / np.linalg.norm(points, axis=1, keepdims=True))
    samples, candidates = points[: len(points) * 3 // 4], points[len(points) * 3 // 4 :]
    exact = 2 * samples.astype(np.int64) @ candidates.T.astype(np.int64) - (candidates.astype(np.int64) ** 2).sum(1)
    question = NearestCandidates(candidates)
    found = {
        "samples": len(samples),
        "candidates": len(candidates),
        "library_votes_that_differ": int((question.nearest(samples)[:, 0] != exact.argmax(1)).sum()),
    }
    if found["library_votes_that_differ"]:
        found["failed"] = "Votes are not exact."
    left = torch.cat([torch.tensor(samples).float(), torch.ones(len(samples), 1)], 1).to(DEVICE)
    right = torch.tensor(question._right).to(DEVICE)
    before = torch.get_float32_matmul_precision()
    for name, precision in (("float32", "highest"), ("TF32", "high")):
        torch.set_float32_matmul_precision(precision)
        scores = (left @ right).cpu().numpy()
        found[f"scores_of_the_card_that_differ_in_{name}"] = int((scores != exact).sum())
    torch.set_float32_matmul_precision(before)
    return found
