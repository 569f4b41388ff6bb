"""What server and clients agree on: how questions and masked answers travel, and the size of the ring of sums.

Sums of answers live in the integers modulo 2^32, in Flower's SecAgg+ (Bonawitz et al. 2017, Bell et al. 2020). A
client adds `c` to each of its numbers, so that they lie in `[0, 2 c]`, and `n * 2 c < 2^32`: nothing wraps. A number
beyond `c` would be cut. That needs noise of more than `REACH` standard deviations, which has a probability below
exp(-790).
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np

from ..clients.questions import Question
from ..clients.samples import EMBEDDING_UNITS, quantize_embeddings
from ..privacy.mechanism import Mechanism
from ..settings import shortened

MODULUS = 2**32
REACH = 40

USERS_OF_MASKS = (
    "flwr.client.mod.secure_aggregation.secaggplus_mod",
    "flwr.server.workflow.secure_aggregation.secaggplus_workflow",
)
"""Modules of Flower that expand seeds into masks."""


def quantization_range(num_clients: int) -> int:
    """Compute the largest even `2 c` for which the sums of this many clients do not wrap."""
    return (MODULUS - 1) // num_clients // 2 * 2


def check_capacity(mechanism: Mechanism, num_clients: int) -> None:
    """Check that no client's answer and noise are cut, and no sum wraps.

    Raises:
        ValueError: They might: there are too many clients, or there is too much noise.
    """
    share = mechanism.share_scale(mechanism.num_answers_needed(num_clients))
    largest = mechanism.clip_norm * mechanism.units + REACH * share
    if largest > quantization_range(num_clients) // 2:
        raise ValueError(
            f"{num_clients} clients with answers of norm {mechanism.clip_norm:g} and a noise of "
            f"{mechanism.noise_std:.3g} do not fit into the 32 bits of secure aggregation. "
            "`vote_clipping`='l2' takes an eighth of 'count'. Otherwise ask fewer clients in a round."
        )


@dataclass(frozen=True)
class Encoded:
    """A question on its way to the clients.

    Args:
        arrays (`list` of `np.ndarray`): Its arrays. Quantized embeddings are int16, or int8 on a coarser grid.
        numbers (`dict` of `str` to `float`, `int`, `str` or `bool`):
            Its name and numbers, the names of the arrays, and the steps of coarser grids.
    """

    arrays: list[np.ndarray]
    numbers: dict[str, Any]


def encode(question: Question, bits: int) -> Encoded:
    """Encode a question for the clients.

    Args:
        question (`Question`): The question.
        bits (`int`): 16 for the integers that answers are computed on, exactly. 8 for a coarser grid.
    """
    numbers: dict[str, Any] = {"question": question.name}
    numbers |= {f"number.{name}": value for name, value in question.numbers().items()}
    arrays = []
    for index, (name, array) in enumerate(question.arrays().items()):
        if array.dtype == np.int16 and bits == 8:
            step = max(float(np.abs(array).max()) / 127, 1e-9)
            array, numbers[f"step.{index}"] = np.rint(array / step).astype(np.int8), step
        numbers[f"array.{index}"] = name
        arrays.append(array)
    return Encoded(arrays, numbers)


def decode(encoded: Encoded, questions: Iterable[type[Question]]) -> Question:
    """Decode what `encode` returned.

    Args:
        encoded (`Encoded`): The message.
        questions (`Iterable` of `type`): The questions that are known here.

    Raises:
        ValueError: The question is not known, or the message is malformed.
    """
    known = {each.name: each for each in questions}
    numbers = encoded.numbers
    name = numbers.get("question")
    if name not in known:
        raise ValueError(f"The question {shortened(name)} is not known here. Known are {sorted(known)}.")
    arrays = {}
    for index, array in enumerate(encoded.arrays):
        if array.dtype == np.int8:
            array = _on_the_grid(array, float(numbers[f"step.{index}"]))
        if array.dtype == np.int16 and array.ndim != 2:
            raise ValueError(f"Embeddings of shape {array.shape} are not two-dimensional.")
        arrays[str(numbers[f"array.{index}"])] = array
    prefix = "number."
    values = {each.removeprefix(prefix): value for each, value in numbers.items() if each.startswith(prefix)}
    return known[name].from_parts(arrays, values)


def _on_the_grid(coarse: np.ndarray, step: float) -> np.ndarray:
    """Quantize embeddings that were sent on a coarser grid."""
    if coarse.ndim != 2:
        raise ValueError(f"Embeddings of shape {coarse.shape} are not two-dimensional.")
    points = coarse.astype(np.float32) * np.float32(step / EMBEDDING_UNITS)
    # Rounding may have made a vector of length one a little longer.
    lengths = np.linalg.norm(points, axis=1, keepdims=True)
    return quantize_embeddings(points / np.maximum(lengths, 1))


def masks_from_seed(seed: bytes, num_range: int, dimensions: Sequence[tuple[int, ...]]) -> list[np.ndarray]:
    """Expand a seed into masks, uniform modulo 2^32, with AES-256 in counter mode.

    Flower 1.41 folds the seed to 32 bits and starts a Mersenne Twister with it (its issue 7522), which four billion
    guesses undo. This function has the same signature. `use_strong_masks` puts it in the place of Flower's on both
    sides.

    Args:
        seed (`bytes`): A secret that is used for one round only.
        num_range (`int`): The modulus, `2^32`.
        dimensions (`Sequence` of shapes): Shapes of the masks.

    Returns:
        `list` of int64 `np.ndarray`: The masks.
    """
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

    if num_range != MODULUS:
        raise ValueError(f"`num_range`={num_range} is not the modulus {MODULUS}.")
    key = hashlib.sha256(seed).digest()
    # A key makes one stream, so the counter may begin at zero.
    stream = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor()
    return [
        np.frombuffer(stream.update(bytes(4 * int(np.prod(shape)))), dtype="<u4").astype(np.int64).reshape(shape)
        for shape in dimensions
    ]


@contextmanager
def factors_of_sums() -> Iterator[list[int]]:
    """Collect the sums of the clients' factors, by which Flower divides without a check."""
    module = vars(import_module(USERS_OF_MASKS[1]))
    extract, factors = module["factor_extract"], []

    def extract_and_tell(parameters: list[np.ndarray]) -> tuple[int, list[np.ndarray]]:
        factor, rest = extract(parameters)
        factors.append(int(np.sum(factor)))
        return factor, rest

    module["factor_extract"] = extract_and_tell
    try:
        yield factors
    finally:
        module["factor_extract"] = extract


def use_strong_masks() -> None:
    """Let Flower's SecAgg+ expand seeds with `masks_from_seed`, in this process."""
    for name in USERS_OF_MASKS:
        # A package of Flower has a function with the name of its module, so that `import` finds the function.
        module = import_module(name)
        if not hasattr(module, "pseudo_rand_gen"):
            raise RuntimeError(f"{name} no longer has `pseudo_rand_gen`. Install flwr>=1.41,<1.42.")
        vars(module)["pseudo_rand_gen"] = masks_from_seed
