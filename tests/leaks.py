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

from hf_pretext import PrivateEvolutionConfig, PrivateEvolutionGenerator, clients, noise
from hf_pretext.data import read_dataset
from hf_pretext.voting import VOTE_UNITS

embedded: list[np.ndarray] = []
embed_each_client, quantize = clients.embed_clients, clients.quantize_embeddings


def quantize_and_remember(embeddings: np.ndarray) -> np.ndarray:
    embedded.append(embeddings)
    return quantize(embeddings)


def embed_and_remember(*arguments: object) -> np.ndarray:
    clients.quantize_embeddings = quantize_and_remember
    try:
        return embed_each_client(*arguments)
    finally:
        clients.quantize_embeddings = quantize


clients.embed_clients = embed_and_remember
secrets: list[np.ndarray] = []


def remember(function: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
    def remembering(*arguments: object) -> np.ndarray:
        secrets.append(function(*arguments))
        return secrets[-1]

    return remembering


clients.cast_votes = remember(clients.cast_votes)
noise.DiscreteGaussian.__call__ = remember(noise.DiscreteGaussian.__call__)
config = PrivateEvolutionConfig(
    epsilon=4.0, delta=1e-3, num_rounds=2, population_size=16, max_length=32, min_words=1, max_new_tokens=8
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
        for form in (row, quantize(row[None])[0], quantize(row[None])[0].astype(np.int64), row.astype(np.float64)):
            needles.append(form.tobytes()[:24].hex())
        needles.append(json.dumps(row.tolist())[1:60].encode().hex())
assert len(secrets) == 4
for secret in secrets:
    # Whole vectors: where nobody voted, the noise is what was released, so a part of it may well be in the ledger.
    for vector in (secret, secret / VOTE_UNITS):
        values = vector.tolist()
        needles.append(vector.tobytes().hex())
        needles += [form.encode().hex() for form in (str(values)[1:-1], ",".join(map(str, values)), str(vector))]
(folder / "needles.json").write_text(json.dumps({"needles": needles, "opened": sorted(opened)}))
