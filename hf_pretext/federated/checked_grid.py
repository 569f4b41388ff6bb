"""A grid that accepts only what the protocol expects. Malformed replies count as not given."""

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ec import SECP384R1
from flwr.app import Message, RecordDict
from flwr.common import Code, FitRes, Status, ndarray_to_bytes, ndarrays_to_parameters
from flwr.common.secure_aggregation.secaggplus_constants import RECORD_KEY_CONFIGS, Key, Stage
from flwr.common.serde import recorddict_to_proto
from flwr.compat.common import recorddict_compat
from flwr.supercore.primitives.asymmetric import bytes_to_public_key

# A child of Flower's logger, which has the console.
logger = logging.getLogger(f"flwr.{__name__}")

LONGEST_KEY = 1_000
"""Most bytes of a public key, an encrypted share, or a share. They have a few hundred."""

POLL_SECONDS = 0.2


class CheckedGrid:
    """Sends to clients and receives from them, in a round of SecAgg+.

    One client must not be able to end the run. So replies are read one by one, and checked for what the stage of the
    protocol allows. They are made again from the parts that were checked, or dropped, with a warning that names the
    node, if they hold anything else.

    Args:
        grid (`flwr.serverapp.Grid`): Flower's grid.
        num_bins (`int`): Length of an answer.

    Attributes:
        num_answered (`int`): Number of nodes whose masked answers arrived in the latest round.
        bytes_down, bytes_up (`Counter`): Bytes of the content of messages to and from each node, before transport.
    """

    def __init__(self, grid: Any, num_bins: int) -> None:
        self._grid = grid
        self._num_bins = num_bins
        self._keys: set[bytes] = set()
        self.num_answered = 0
        self.bytes_down: Counter[int] = Counter()
        self.bytes_up: Counter[int] = Counter()

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        """Send messages, wait for the replies until `timeout` seconds have passed, and return those that are sound."""
        return self.exchange(messages, timeout, self._check)

    def exchange(
        self,
        messages: Iterable[Message],
        timeout: float | None,
        check: Callable[[Message, Message], Message | None],
    ) -> list[Message]:
        """Send messages, and return what `check(request, reply)` makes of the replies that arrive in time.

        Args:
            messages (`Iterable` of `Message`): The messages.
            timeout (`float`, *optional*): Seconds to wait.
            check (`Callable`): Returns a reply, or None if it does not count.
        """
        sent = list(messages)
        for message in sent:
            self.bytes_down[message.metadata.dst_node_id] += size_of(message.content)
        requests = dict(zip(self._grid.push_messages(sent), sent, strict=True))
        waiting, sound = {name for name in requests if name is not None}, []
        end = time.monotonic() + (timeout if timeout is not None else float("inf"))
        while waiting and time.monotonic() < end:
            # One at a time: what one node sent may make the pulling of all fail.
            for name in sorted(waiting):
                arrived, reply = self._pull(name)
                if arrived:
                    waiting.remove(name)
                if reply is not None and (checked := check(requests[name], reply)) is not None:
                    sound.append(checked)
            if waiting:
                time.sleep(POLL_SECONDS)
        for name in waiting:
            logger.warning("Node %d did not answer in %s seconds.", requests[name].metadata.dst_node_id, timeout)
        return sound

    def _pull(self, name: str) -> tuple[bool, Message | None]:
        """Return whether there is a reply, and that reply if it can be read."""
        try:
            replies = list(self._grid.pull_messages([name]))
        except (ConnectionError, TimeoutError):
            raise
        except Exception as error:
            logger.warning("A reply cannot be read, with a %s. It counts as not given.", type(error).__name__)
            return True, None
        return bool(replies), replies[0] if replies else None

    def _check(self, request: Message, reply: Message) -> Message | None:
        node = request.metadata.dst_node_id
        if reply.has_error():
            logger.warning("Node %d answers with an error: %.200s", node, reply.error.reason)
            return None
        size = size_of(reply.content)
        try:
            _demand(reply.metadata.src_node_id == node, "it is from another node")
            content = self._read(request, reply.content)
        except Exception as error:
            logger.warning("Node %d sent a malformed reply (%.200s). It counts as not given.", node, error)
            return None
        self.bytes_up[node] += size
        reply.content = content
        return reply

    def _read(self, request: Message, content: RecordDict) -> RecordDict:
        """Read what a stage allows, and make a content of only that."""
        asked = request.content.config_records[RECORD_KEY_CONFIGS]
        given = content.config_records[RECORD_KEY_CONFIGS]
        answer = recorddict_compat.fitres_to_recorddict(
            FitRes(Status(Code.OK, ""), ndarrays_to_parameters([]), 1, {}), keep_input=True
        )
        read = {
            Stage.SETUP: self._read_public_keys,
            Stage.SHARE_KEYS: self._read_encrypted_shares,
            Stage.COLLECT_MASKED_VECTORS: self._read_masked_answer,
            Stage.UNMASK: self._read_shares,
        }[asked[Key.STAGE]]
        answer.config_records[RECORD_KEY_CONFIGS] = type(given)(read(request, asked, given))
        return answer

    def _read_public_keys(self, request: Message, asked: Any, given: Any) -> dict[str, Any]:
        keys = {name: given[name] for name in (Key.PUBLIC_KEY_1, Key.PUBLIC_KEY_2)}
        for key in keys.values():
            # Honest clients give up where one key is of another curve, or there twice.
            _demand(isinstance(bytes_to_public_key(_short(key)).curve, SECP384R1), "a key of another curve")
            _demand(key not in self._keys, "a key that is there already")
            self._keys.add(key)
        return keys

    def _read_encrypted_shares(self, request: Message, asked: Any, given: Any) -> dict[str, Any]:
        neighbours = {int(name) for name in asked if name != Key.STAGE} - {request.metadata.dst_node_id}
        receivers, shares = list(given[Key.DESTINATION_LIST]), list(given[Key.CIPHERTEXT_LIST])
        _demand(set(receivers) == neighbours and len(receivers) == len(shares) == len(neighbours), "other receivers")
        return {Key.DESTINATION_LIST: receivers, Key.CIPHERTEXT_LIST: list(map(_short, shares))}

    def _read_masked_answer(self, request: Message, asked: Any, given: Any) -> dict[str, Any]:
        factor, answer = given[Key.MASKED_PARAMETERS]
        _demand(isinstance(factor, bytes) and len(factor) == 4, "no factor")
        _demand(isinstance(answer, bytes) and len(answer) == 4 * self._num_bins, "not one number per bin")
        masked = [np.frombuffer(part, dtype="<u4").astype(np.int64) for part in (factor, answer)]
        self.num_answered += 1
        return {Key.MASKED_PARAMETERS: list(map(ndarray_to_bytes, masked))}

    def _read_shares(self, request: Message, asked: Any, given: Any) -> dict[str, Any]:
        owners, shares = list(given[Key.NODE_ID_LIST]), list(given[Key.SHARE_LIST])
        wanted = [*asked[Key.ACTIVE_NODE_ID_LIST], *asked[Key.DEAD_NODE_ID_LIST]]
        _demand(owners == wanted and len(shares) == len(wanted), "shares of others")
        for share in map(_short, shares):
            # A number, and a share of each block of 16 bytes.
            _demand(len(share) > 4 and len(share) % 16 == 4, "no share")
        return {Key.NODE_ID_LIST: owners, Key.SHARE_LIST: shares}


def _short(value: Any) -> bytes:
    _demand(isinstance(value, bytes) and len(value) <= LONGEST_KEY, "a key or share is not bytes, or too long")
    return value


def _demand(holds: bool, otherwise: str) -> None:
    if not holds:
        raise ValueError(otherwise)


def size_of(content: RecordDict) -> int:
    """Measure the content of a message, in bytes, before transport."""
    return int(recorddict_to_proto(content).ByteSize())
