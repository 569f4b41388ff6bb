"""What server and clients agree on: how questions and masked answers travel, and the size of the ring of sums.

Sums of answers live in the integers modulo 2^32, in Flower's SecAgg+ (Bonawitz et al. 2017, Bell et al. 2020). A
client adds `c` to each of its numbers, so that they lie in `[0, 2 c]`, and `n * 2 c < 2^32`: nothing wraps. A number
beyond `c` would be cut. That needs noise of more than `REACH` standard deviations, which has a probability below
exp(-790).
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np

from ..clients.questions import QUESTIONS, Question
from ..clients.samples import EMBEDDING_UNITS, quantize_embeddings
from ..privacy.mechanism import Mechanism
from ..privacy.plan import Plan
from ..settings import shortened

PROTOCOL = 2
"""Version of what server and clients agree on. The first edition asked for votes only, and had none."""

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
            Its name and numbers, the names of the arrays, and the steps of coarser grids. Or, for a question of the
            caller, which each client was started with, its name and fingerprint.
    """

    arrays: list[np.ndarray]
    numbers: dict[str, Any]


def encode(question: Question, bits: int) -> Encoded:
    """Encode a question for the clients.

    Args:
        question (`Question`): The question.
        bits (`int`): 16 for the integers that answers are computed on, exactly. 8 for a coarser grid.
    """
    if type(question) not in QUESTIONS:
        return Encoded([], {"question": question.name, "fingerprint": question.fingerprint()})
    numbers: dict[str, Any] = {"question": question.name}
    numbers |= {f"number.{name}": value for name, value in question.numbers().items()}
    arrays = []
    for index, (name, array) in enumerate(question.arrays().items()):
        if bits == 8:
            step = max(float(np.abs(array).max()) / 127, 1e-9)
            array, numbers[f"step.{index}"] = np.rint(array / step).astype(np.int8), step
        numbers[f"array.{index}"] = name
        arrays.append(array)
    return Encoded(arrays, numbers)


def decode(encoded: Encoded, own: Iterable[Question] = ()) -> Question:
    """Decode what `encode` returned.

    Args:
        encoded (`Encoded`): The message.
        own (`Iterable` of `Question`, *optional*):
            Questions of the caller that this client was started with. Their content is not the server's to choose.

    Raises:
        ValueError: The question is not known, is another one than the client's own, or the message is malformed.
    """
    numbers, given = encoded.numbers, {each.name: each for each in own}
    name = numbers.get("question")
    if name in given:
        if numbers.get("fingerprint") != given[name].fingerprint():
            raise ValueError(f"The question {shortened(name)} is another one than the one of that name here.")
        return given[name]
    known = {each.name: each for each in QUESTIONS}
    if name not in known:
        raise ValueError(f"The question {shortened(name)} is not known here. Known are {sorted({*known, *given})}.")
    arrays = {
        str(numbers[f"array.{index}"]): _on_the_grid(array, float(numbers[f"step.{index}"]))
        if array.dtype == np.int8
        else array
        for index, array in enumerate(encoded.arrays)
    }
    prefix = "number."
    values = {each.removeprefix(prefix): value for each, value in numbers.items() if each.startswith(prefix)}
    return known[name].from_parts(arrays, values)


def announce(question: Question, plan: Plan, wanted: Mapping[str, int]) -> dict[str, Any]:
    """Describe a question and the plan to the clients, before anything is spent.

    Args:
        question (`Question`): What will be asked.
        plan (`Plan`): What the server accounts for.
        wanted (`Mapping[str, int]`):
            How many releases of each kind were left when this Flower run began. A run that is resumed has fewer than
            the plan.

    Returns:
        `dict`: What a `ConfigRecord` can hold.
    """
    own = {} if type(question) in QUESTIONS else {"fingerprint": question.fingerprint()}
    return {
        "protocol": PROTOCOL,
        "question": question.name,
        "num_bins": question.num_bins,
        "is_signed": question.is_signed,
        "num_dimensions": [array.shape[-1] for array in question.arrays().values() if not own],
        "wanted": [wanted[entry.question] for entry in plan.releases],
        **own,
        **_columns(plan),
    }


def read_wanted(asked: Mapping[str, Any]) -> dict[str, int]:
    """Read, at a client, how many answers of each kind the server wants in this run.

    Raises:
        ValueError: They are not numbers.
    """
    wanted = dict(zip(asked["questions"], asked["wanted"], strict=True))
    if any(type(number) is not int or number < 0 for number in wanted.values()):
        raise ValueError(f"The server wants {shortened(wanted)}, which are not numbers of answers.")
    return wanted


def check_announcement(
    asked: Mapping[str, Any], plan: Plan, own: Iterable[Question], num_dimensions: int
) -> Question | None:
    """Refuse, at a client, a server that asks or accounts for something else than this client answers.

    More noise than the server accounts for is fine: another machine may round the last digit otherwise.

    Args:
        asked (`Mapping[str, Any]`): What `announce` returned.
        plan (`Plan`): What this client answers by.
        own (`Iterable` of `Question`): Questions of the caller that this client was started with.
        num_dimensions (`int`): Dimensions of this client's embeddings.

    Returns:
        `Question`: The client's own question of that name, if it is not one of the library.

    Raises:
        ValueError: They differ. The message names what differs.
    """
    if asked["protocol"] != PROTOCOL:
        raise ValueError(f"The server speaks version {asked['protocol']} of the protocol, this client {PROTOCOL}.")
    question = {each.name: each for each in own}.get(asked["question"])
    if question is not None:
        decode(Encoded([], dict(asked)), [question])
    elif asked["question"] not in {each.name for each in QUESTIONS}:
        raise ValueError(f"The question {shortened(asked['question'])} is not known here.")
    if set(asked["num_dimensions"]) - {num_dimensions}:
        raise ValueError(
            f"The question has {asked['num_dimensions']} dimensions, but the embeddings here {num_dimensions}: use "
            "the embedding model that the clients use."
        )
    here = _columns(plan)
    for name in ("questions", "counts", "sensitivities"):
        if list(asked[name]) != here[name]:
            raise ValueError(
                f"The server's plan has `{name}`={shortened(list(asked[name]))}, this client's {here[name]}."
            )
    multipliers = zip(here["questions"], asked["noise_multipliers"], here["noise_multipliers"], strict=True)
    for name, there, ours in multipliers:
        if not ours >= there:
            raise ValueError(
                f"The server accounts for a noise multiplier of {there:g} of {name!r}, but this client would add "
                f"noise for {ours:g}. Start both with the same questions, fractions, accountant and version."
            )
    return question


def _columns(plan: Plan) -> dict[str, list[Any]]:
    """List what a plan accounts for, as columns of a table of releases."""
    mechanisms = [entry.mechanism for entry in plan.releases]
    return {
        "questions": [entry.question for entry in plan.releases],
        "counts": [entry.count for entry in plan.releases],
        "noise_multipliers": [float(mechanism.noise_multiplier) for mechanism in mechanisms],
        "sensitivities": [float(mechanism.sensitivity) for mechanism in mechanisms],
    }


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
