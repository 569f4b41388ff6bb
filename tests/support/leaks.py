"""What `test_nothing_private_is_written_anywhere` runs: a run from private file to saved dataset, watched.

Writes `needles.json`: the beginning of every private embedding, every clean histogram and every noise, in each form
that the library computes, and the files that Python opened for writing outside of the places that the test searches.
Files that are removed or replaced are copied aside first, so that the test finds them.
"""

import json
import os
import shutil
import sys
from pathlib import Path

folder, models, home = Path(sys.argv[1]), Path(sys.argv[2]), Path.cwd()
opened: set[str] = set()


def keep_copy(path: str | bytes) -> None:
    place = Path(os.fsdecode(path)).absolute()
    if home in place.parents and place.is_file():
        shutil.copyfile(place, home / "removed" / str(len(list((home / "removed").iterdir()))))


def watch(event: str, arguments: tuple) -> None:
    if event in ("os.remove", "os.rename"):
        # Of a renaming, what it replaces; what is renamed stays.
        keep_copy(arguments[0] if event == "os.remove" else arguments[1])
    if event != "open" or not isinstance(arguments[0], (str, bytes)):
        return
    path, mode, flags = arguments
    writes = any(letter in (mode or "") for letter in "wax+") or flags & (os.O_WRONLY | os.O_RDWR)
    place = Path(os.fsdecode(path)).absolute()
    if writes and home not in place.parents and "__pycache__" not in place.parts and Path("/dev") not in place.parents:
        opened.add(str(place))


(home / "removed").mkdir()
sys.addaudithook(watch)

from collections.abc import Callable

import numpy as np

from hf_pretext import PrivateEvolutionConfig, PrivateEvolutionGenerator
from hf_pretext.clients import in_memory, samples
from hf_pretext.data import read_dataset
from hf_pretext.privacy import noise
from hf_pretext.privacy.mechanism import UNITS

embedded: list[np.ndarray] = []
embed_each_client, quantize = samples.embed_clients, samples.quantize_embeddings


def quantize_and_remember(embeddings: np.ndarray) -> np.ndarray:
    embedded.append(embeddings)
    return quantize(embeddings)


def embed_and_remember(*arguments: object) -> samples.Samples:
    samples.quantize_embeddings = quantize_and_remember
    try:
        return embed_each_client(*arguments)
    finally:
        samples.quantize_embeddings = quantize


in_memory.embed_clients = embed_and_remember
read: list[np.ndarray] = []


def read_and_remember(*arguments: object) -> samples.Samples:
    with_tokens = read_tokens(*arguments)
    read.extend(with_tokens.tokens)
    return with_tokens


read_tokens, in_memory.with_tokens = in_memory.with_tokens, read_and_remember
secrets: list[np.ndarray] = []


def remember(function: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
    def remembering(*arguments: object) -> np.ndarray:
        secrets.append(function(*arguments))
        return secrets[-1]

    return remembering


in_memory.sum_answers = remember(in_memory.sum_answers)
noise.DiscreteGaussian.__call__ = remember(noise.DiscreteGaussian.__call__)
config = PrivateEvolutionConfig(
    epsilon=4.0,
    delta=1e-3,
    num_rounds=2,
    mean_fraction=0.3,
    population_size=16,
    max_length=32,
    min_words=1,
    max_new_tokens=8,
)
generator = PrivateEvolutionGenerator(
    *(str(models / name) for name in ("variation_model", "embedding_model", "expansion_model")),
    config=config,
    run_dir=home / "out" / "run",
)
private = read_dataset(folder / "private.jsonl", "text", "client_id")
public = read_dataset(folder / "public.json", "text")
generator(private, initial_population=public, num_samples=5)
generator.save_pretrained(home / "out")
needles = []
for rows in embedded:
    for row in rows:
        on_grid = quantize(row[None])[0]
        for form in (row, on_grid, on_grid.astype(np.int64), on_grid.astype(np.float32), row.astype(np.float64)):
            needles.append(form.tobytes()[:24].hex())
        needles.append(json.dumps(row.tolist())[1:60].encode().hex())
assert max(map(len, read)) > 12
for tokens in read:
    if len(tokens) > 12:  # A few tokens in a row may be those of a public text.
        needles += [tokens.tobytes().hex(), str(tokens.tolist())[1:-1].encode().hex()]
        needles.append(",".join(map(str, tokens.tolist())).encode().hex())
assert len(secrets) == 8  # A clean sum and its noise, of a mean, of token counts, and of two rounds.
for secret in secrets:
    # Whole vectors: if no one voted for a bin, its noise is what was released, so parts may well be in the ledger.
    for vector in (secret, secret / UNITS):
        values = vector.tolist()
        needles.append(vector.tobytes().hex())
        needles += [form.encode().hex() for form in (str(values)[1:-1], ",".join(map(str, values)), str(vector))]
(folder / "needles.json").write_text(json.dumps({"needles": needles, "opened": sorted(opened)}))
