"""What server and clients agree on: how questions and masked answers travel, and the size of the ring of sums.

Sums of answers live in the integers modulo 2^32 (see `masking`). The numbers of each of `n` clients lie in `[-c, c]`,
and `n * 2 c < 2^32`: nothing wraps. A number beyond `c` would be cut. That needs noise of more than `REACH` standard
deviations, which has a probability below exp(-790).
"""

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..clients.questions import QUESTIONS, Question, TokenCounts
from ..clients.samples import EMBEDDING_UNITS, quantize_embeddings
from ..privacy.mechanism import Mechanism
from ..privacy.plan import Plan
from ..settings import shortened

PROTOCOL = 6
"""Version of what server and clients agree on. In version 5, they compared terms only once a release was counted."""

MODULUS = 2**32
REACH = 40


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


def num_colluding(num_clients: int, max_colluding: float) -> int:
    """Compute how many of a run's clients may conspire with the server: at least one.

    Args:
        num_clients (`int`): The run's `num_clients`. Conspirators may all be among the fewer that the server asks.
        max_colluding (`float`): The fraction that may conspire.
    """
    return max(1, math.floor(max_colluding * num_clients + 1e-9))


def num_summed(mechanism: Mechanism, num_asked: int, conspiring: int) -> int:
    """Compute how many answers have to be in a sum: enough for its noise without those that conspire.

    Args:
        mechanism (`Mechanism`): The noise.
        num_asked (`int`): Number of clients that are asked.
        conspiring (`int`): What `num_colluding` says of the run's clients.

    Raises:
        ValueError: They are more than are asked.
    """
    enough = mechanism.num_answers_needed(num_asked)
    if enough + conspiring > num_asked:
        raise ValueError(
            f"Of {num_asked} asked clients, {conspiring} may conspire with the server (`max_colluding`, and at least "
            f"one). That leaves no room in `max_dropout`={mechanism.max_dropout:g}, which counts them as well. Raise "
            "`max_dropout`, lower `max_colluding`, or ask more of the run's clients."
        )
    return enough + conspiring


def terms_of(plan: Plan, num_clients: int, max_colluding: float, num_asked: int, run: int) -> bytes:
    """Hash what a client relies on in the settings of all others: how much noise, in how many parts, and for what.

    Noise multipliers count with six digits, as another machine may round the last one otherwise.

    Args:
        plan (`Plan`): The plan.
        num_clients (`int`): The run's `num_clients`.
        max_colluding (`float`): Fraction of them that may conspire.
        num_asked (`int`): Number of clients that are asked in this release.
        run (`int`): Flower's id of the run.
    """
    releases = [
        [
            *(each.question, each.count, each.num_bins, each.mechanism.is_signed, each.mechanism.max_dropout),
            *(each.mechanism.neighboring_relation, float(each.mechanism.clip_norm), each.mechanism.units),
            *(f"{each.mechanism.noise_multiplier:.6g}", f"{each.mechanism.sensitivity:.6g}"),
        ]
        for each in plan.releases
    ]
    return _hashed([PROTOCOL, num_clients, float(max_colluding), num_asked, run, float(plan.delta), releases])


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

    def digest(self, question: Question) -> bytes:
        """Hash the message and the question that it was read as. Clients sign it, and their masks depend on it.

        Raises:
            TypeError: The message holds something else than numbers and words.
        """
        arrays = [[array.dtype.str, array.shape, hashlib.sha256(array.tobytes()).hexdigest()] for array in self.arrays]
        return _hashed([question.name, question.num_bins, question.is_signed, dict(self.numbers), arrays])


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
        if bits == 8 and array.dtype == np.int16:
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


def announce(
    question: Question, plan: Plan, wanted: Mapping[str, int], terms: bytes, num_dimensions: int | None = None
) -> dict[str, Any]:
    """Describe a question and the plan to the clients, before anything is spent.

    Args:
        question (`Question`): What will be asked.
        plan (`Plan`): What the server accounts for.
        wanted (`Mapping[str, int]`):
            How many releases of each kind were left when this Flower run began. A run that is resumed has fewer than
            the plan.
        terms (`bytes`): What `terms_of` says of the plan, with no clients asked so far.
        num_dimensions (`int`, *optional*): Dimensions of the server's embeddings, about which later questions are.

    Returns:
        `dict`: What a `ConfigRecord` can hold.
    """
    own = {} if type(question) in QUESTIONS else {"fingerprint": question.fingerprint()}
    return {
        "protocol": PROTOCOL,
        "question": question.name,
        "num_bins": question.num_bins,
        "is_signed": question.is_signed,
        "num_dimensions": [
            *(array.shape[-1] for array in question.arrays().values() if array.dtype == np.int16 and not own),
            *([] if num_dimensions is None else [num_dimensions]),
        ],
        "tokenizer": question.tokenizer if isinstance(question, TokenCounts) else "",
        "wanted": [wanted[entry.question] for entry in plan.releases],
        "terms": terms,
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
    asked: Mapping[str, Any],
    plan: Plan,
    own: Iterable[Question],
    terms: bytes,
    num_dimensions: int,
    tokenizer: str = "",
) -> Question | None:
    """Refuse, at a client, a server that asks or accounts for something else than this client answers.

    Whatever clients sign later is compared here, before anything is spent.

    Args:
        asked (`Mapping[str, Any]`): What `announce` returned.
        plan (`Plan`): What this client answers by.
        own (`Iterable` of `Question`): Questions of the caller that this client was started with.
        terms (`bytes`): What `terms_of` says of this client's plan, with no clients asked so far.
        num_dimensions (`int`): Dimensions of this client's embeddings.
        tokenizer (`str`, *optional*): Fingerprint of this client's tokenizer. Empty if it has none.

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
            f"The server's embeddings have {asked['num_dimensions']} dimensions, but those here {num_dimensions}: use "
            "the embedding model that the clients use."
        )
    if asked["tokenizer"] not in ("", tokenizer):
        raise ValueError(
            f"The question is about tokens of a tokenizer with the fingerprint {shortened(asked['tokenizer'])}, but "
            f"the one here has {tokenizer!r}. `tokenizer` has to be that of `expansion_model`."
        )
    here = _columns(plan)
    for name in ("questions", "counts", "sensitivities"):
        if list(asked[name]) != here[name]:
            raise ValueError(
                f"The server's plan has `{name}`={shortened(list(asked[name]))}, this client's {here[name]}."
            )
    multipliers = zip(here["questions"], asked["noise_multipliers"], here["noise_multipliers"], strict=True)
    for name, there, ours in multipliers:
        if not ours >= there or f"{ours:.6g}" != f"{there:.6g}":
            raise ValueError(
                f"The server accounts for a noise multiplier of {there:g} of {name!r}, but this client would add "
                f"noise for {ours:g}. Start both with the same questions, fractions, accountant and versions."
            )
    if asked["terms"] != terms:
        raise ValueError(
            f"The server and this client agree on the questions {here['questions']} and their noise, but not on the "
            "numbers of bins, `delta`, `num-clients`, `max-colluding` or other settings. Start both with the same "
            "questions and settings."
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


def _hashed(content: Any) -> bytes:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).digest()


def _on_the_grid(coarse: np.ndarray, step: float) -> np.ndarray:
    """Quantize embeddings that were sent on a coarser grid."""
    if coarse.ndim != 2:
        raise ValueError(f"Embeddings of shape {coarse.shape} are not two-dimensional.")
    points = coarse.astype(np.float32) * np.float32(step / EMBEDDING_UNITS)
    # Rounding may have made a vector of length one a little longer.
    lengths = np.linalg.norm(points, axis=1, keepdims=True)
    return quantize_embeddings(points / np.maximum(lengths, 1))
