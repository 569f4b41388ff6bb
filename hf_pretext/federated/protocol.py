"""What server and clients agree on: how candidates and masked votes travel, and the size of the ring of sums.

Sums of votes live in the integers modulo 2^32, in Flower's SecAgg+ (Bonawitz et al. 2017; Bell et al. 2020). A client
adds `c` to each of its numbers, so that they lie in `[0, 2 c]`, and `n * 2 c < 2^32`: nothing wraps. A number beyond
`c` would be cut; it takes noise of more than `REACH` standard deviations, which has a probability below exp(-790).
"""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module

import numpy as np

from ..privacy import VoteMechanism
from ..voting import quantize_embeddings

MODULUS = 2**32
REACH = 40

USERS_OF_MASKS = (
    "flwr.client.mod.secure_aggregation.secaggplus_mod",
    "flwr.server.workflow.secure_aggregation.secaggplus_workflow",
)
"""Modules of Flower that expand seeds into masks."""


def quantization_range(num_clients: int) -> int:
    """Compute the largest even `2 c` for which the sums of so many clients do not wrap."""
    return (MODULUS - 1) // num_clients // 2 * 2


def check_capacity(mechanism: VoteMechanism, num_clients: int) -> None:
    """Check that no client's votes and noise are cut, and no sum wraps.

    Raises:
        ValueError: They might: there are too many clients, or there is too much noise.
    """
    share = mechanism.share_scale(mechanism.num_answers_needed(num_clients))
    largest = mechanism.clip_norm * mechanism.vote_units + REACH * share
    if largest > quantization_range(num_clients) // 2:
        raise ValueError(
            f"{num_clients} clients with votes of norm {mechanism.clip_norm:g} and a noise of "
            f"{mechanism.noise_std:.3g} votes do not fit into the 32 bits of secure aggregation. "
            "`vote_clipping`='l2' takes an eighth of 'count'; else ask fewer clients in a round."
        )


def encode_candidates(candidates: np.ndarray, bits: int) -> tuple[np.ndarray, float]:
    """Encode the embeddings of candidates for the way to the clients.

    Args:
        candidates (`np.ndarray` of shape `(m, d)`): Embeddings of length at most one.
        bits (`int`): 16 for the integers that votes are computed on, exactly; 8 for a coarser grid.

    Returns:
        `tuple[np.ndarray, float]`: int16 or int8 of the same shape, and the length of one step.
    """
    quantized = quantize_embeddings(candidates)
    if bits == 16:
        return quantized.astype(np.int16), 0.0
    step = max(float(np.abs(candidates).max()) / 127, 1e-9)
    return np.rint(candidates / step).astype(np.int8), step


def decode_candidates(encoded: np.ndarray, step: float) -> np.ndarray:
    """Decode what `encode_candidates` returned into quantised embeddings, float32 of the same shape.

    Raises:
        ValueError: It is something else.
    """
    if encoded.ndim != 2 or encoded.dtype not in (np.int8, np.int16):
        raise ValueError(f"`candidates` of shape {encoded.shape} and type {encoded.dtype} are none.")
    if encoded.dtype == np.int16:
        return encoded.astype(np.float32)
    coarse = encoded.astype(np.float32) * np.float32(step)
    # Rounding may have made a vector of length one a little longer.
    lengths = np.linalg.norm(coarse, axis=1, keepdims=True)
    return quantize_embeddings(coarse / np.maximum(lengths, 1))


def masks_from_seed(seed: bytes, num_range: int, dimensions: Sequence[tuple[int, ...]]) -> list[np.ndarray]:
    """Expand a seed into masks, uniform modulo 2^32, with AES-256 in counter mode.

    Flower 1.41 folds the seed to 32 bits and starts a Mersenne Twister with it (its issue 7522), which four billion
    guesses undo. This has the same signature and takes its place, on both sides, in `use_strong_masks`.

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
    """Collect the sums of the clients' factors, by which Flower divides, and which it does not look at."""
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
        # A package of Flower has a function of the same name as its module, so that `import` finds the function.
        module = import_module(name)
        if not hasattr(module, "pseudo_rand_gen"):
            raise RuntimeError(f"{name} has no `pseudo_rand_gen` any more; install flwr>=1.41,<1.42.")
        vars(module)["pseudo_rand_gen"] = masks_from_seed
