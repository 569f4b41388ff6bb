"""A grid that accepts only what the protocol expects. Malformed replies count as not given."""

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from flwr.app import Message, RecordDict
from flwr.common.serde import recorddict_to_proto

# A child of Flower's logger, which has the console.
logger = logging.getLogger(f"flwr.{__name__}")

Read = TypeVar("Read")

POLL_SECONDS = 0.2
"""Least time between two looks for replies."""

LONGEST_POLL_SECONDS = 2.0
"""Most time between them. It is longer than the least one if a look takes long, so that looking is a tenth of it."""


class CheckedGrid:
    """Sends to clients and receives from them, in one release.

    One client must not be able to end the run. So replies are read one by one, and dropped, with a warning that names
    the node, if they are not what the stage of the protocol allows. Replies that are late are not read.

    Args:
        grid (`flwr.serverapp.Grid`): Flower's grid.

    Attributes:
        bytes_down, bytes_up (`Counter`): Bytes of the content of messages to and from each node, before transport.
        refusals (`list` of `str`): Why replies to `ask` count as not given.
    """

    def __init__(self, grid: Any) -> None:
        self._grid = grid
        self.bytes_down: Counter[int] = Counter()
        self.bytes_up: Counter[int] = Counter()
        self.refusals: list[str] = []

    def ask(
        self,
        action: str,
        contents: Mapping[int, RecordDict],
        timeout: float | None,
        record: str,
        read: Callable[[int, Mapping[str, Any]], Read],
    ) -> dict[int, Read]:
        """Ask nodes for one stage of the protocol, whose reply is one record. See `ask_for`.

        Args:
            action (`str`): The stage.
            contents (`Mapping` of `int` to `RecordDict`): What each node is sent.
            timeout (`float`, *optional*): Seconds to wait.
            record (`str`): The record of a reply that is read.
            read (`Callable`): Reads it: `read(node, record)`.
        """
        return self.ask_for(
            action, contents, timeout, lambda node, content: read(node, content.config_records[record])
        )

    def ask_for(
        self,
        action: str,
        contents: Mapping[int, RecordDict],
        timeout: float | None,
        read: Callable[[int, RecordDict], Read],
    ) -> dict[int, Read]:
        """Ask nodes for something.

        Args:
            action (`str`): What they are asked for.
            contents (`Mapping` of `int` to `RecordDict`): What each node is sent.
            timeout (`float`, *optional*): Seconds to wait.
            read (`Callable`): Reads a reply: `read(node, content)`. With any error the reply counts as not given.

        Returns:
            `dict`: What was read, by node.
        """
        found: dict[int, Read] = {}

        def check(request: Message, reply: Message) -> Message | None:
            node = request.metadata.dst_node_id
            if reply.has_error():
                self.refusals.append(reply.error.reason)
                logger.warning("Node %d answers with an error: %.300s", node, reply.error.reason)
                return None
            try:
                demand(reply.metadata.src_node_id == node, "it is from another node")
                found[node] = read(node, reply.content)
            except Exception as error:
                self.refusals.append("A node's reply is malformed. Is it of another version of hf_pretext?")
                logger.warning("Node %d sent a malformed reply (%.200s). It counts as not given.", node, error)
                return None
            self.bytes_up[node] += size_of(reply.content)
            return reply

        kind = f"train.{action}"
        messages = [Message(content, dst_node_id=node, message_type=kind) for node, content in contents.items()]
        self.exchange(messages, timeout, check)
        return found

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
        # Most stages send the same content to all.
        different = {id(message.content): message.content for message in sent}
        sizes = {name: size_of(content) for name, content in different.items()}
        for message in sent:
            self.bytes_down[message.metadata.dst_node_id] += sizes[id(message.content)]
        requests = dict(zip(self._grid.push_messages(sent), sent, strict=True))
        waiting, sound = {name for name in requests if name is not None}, []
        end = time.monotonic() + (timeout if timeout is not None else float("inf"))
        while waiting:
            # Looked at first: if the clock jumps, as when a machine was asleep, what has arrived is still read.
            began = time.monotonic()
            is_last = began >= end
            # One at a time: what one node sent may make the pulling of all fail.
            for name in sorted(waiting):
                arrived, reply = self._pull(name)
                if arrived:
                    waiting.remove(name)
                if reply is not None and (checked := check(requests[name], reply)) is not None:
                    sound.append(checked)
            if is_last:
                break
            if waiting:
                of_a_look = time.monotonic() - began
                time.sleep(min(max(POLL_SECONDS, 9 * of_a_look), LONGEST_POLL_SECONDS))
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


def demand(holds: bool, otherwise: str) -> None:
    """Raise a `ValueError` with these words if something does not hold."""
    if not holds:
        raise ValueError(otherwise)


def size_of(content: RecordDict) -> int:
    """Measure the content of a message, in bytes, before transport."""
    return int(recorddict_to_proto(content).ByteSize())
