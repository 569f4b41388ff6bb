"""The server's part in secure aggregation: it passes messages on, and takes the masks off the sum."""

import logging
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from flwr.app import ConfigRecord, RecordDict

from .checked_grid import CheckedGrid, demand
from .graph import find_graph
from .masking import (
    ANSWER,
    CONFIRM,
    KEYS,
    MASKS,
    SEALED_BYTES,
    SHARES,
    SIGNATURE_BYTES,
    UNMASK,
    Keys,
    Roster,
    expand,
    pieces,
)
from .shamir import SHARE_BYTES, combine, is_share

# A child of Flower's logger, which has the console.
logger = logging.getLogger(f"flwr.{__name__}")


class Sealed(NamedTuple):
    """What one client sent for the holders of its secrets.

    Args:
        holders (`list` of `int`): Their nodes.
        shares (`list` of `bytes`): A sealed message for each.
    """

    holders: list[int]
    shares: list[bytes]


class Answered(NamedTuple):
    """What one client answered.

    Args:
        masked (`np.ndarray`): Its answer under masks, uint32.
        signature (`bytes`): Its signature of the clients among which it is masked.
    """

    masked: np.ndarray
    signature: bytes


class NotEnoughError(ValueError):
    """Too few clients are left to go on. The release is lost."""


class MaskedSum:
    """Sums the answers of clients under masks, for one release.

    It loses the release rather than open a sum of too few. Clients check that for themselves.

    Args:
        grid (`CheckedGrid`): The way to the clients.
        nodes (`list` of `int`): The clients that are asked.
        num_needed (`int`): Number of answers that have to be in the sum.
        num_colluding (`int`): Number of clients that may conspire with the server.
        terms (`bytes`): What `terms_of` says of the run and the number of clients that are asked.
        num_bins (`int`): Length of an answer.
        timeout (`float`): Seconds that a client has for one message.
        seen (`set` of `bytes`):
            Fingerprints of the keys of earlier releases, to which those of this one are added. Clients refuse a roster
            with an old key, so a client that sends one is dropped.

    Attributes:
        answered (`set` of `int`): The clients whose masked answers arrived.
        num_to_open (`int`):
            Number of answers without which no mask comes off. It depends on how many clients sent keys.
    """

    def __init__(
        self,
        grid: CheckedGrid,
        nodes: list[int],
        num_needed: int,
        num_colluding: int,
        terms: bytes,
        num_bins: int,
        timeout: float,
        seen: set[bytes],
    ) -> None:
        self._grid = grid
        self._nodes = nodes
        self._num_needed = num_needed
        self._num_colluding = num_colluding
        self._terms = terms
        self._length = num_bins + 1
        self._seen = seen
        self._timeout = timeout
        self.answered: set[int] = set()
        self.num_to_open = find_graph(len(nodes), num_colluding, num_needed).num_to_open

    def ask(self, question: RecordDict, digest: bytes) -> np.ndarray:
        """Ask a question, and return the sum of the answers.

        Args:
            question (`RecordDict`): The question.
            digest (`bytes`): Its digest.

        Returns:
            `np.ndarray` of shape `(num_bins,)`: int64.

        Raises:
            ValueError: Too few clients answered, or their shares do not take the masks off.
        """
        roster = self._collect_keys()
        sealed = self._collect_shares(roster)
        masked = self._collect_answers(roster, sealed, question, digest)
        signatures = self._collect_signatures(roster, sealed, masked, digest)
        shares = self._collect_openings(roster, sealed, signatures)
        return self._open(roster, sealed, masked, shares, digest)

    def _collect_keys(self) -> Roster:
        request = _message({"num_asked": len(self._nodes)})
        seen: set[bytes] = set()

        def read(node: int, given: Mapping[str, Any]) -> Keys:
            keys = Keys.from_bytes(given["keys"])
            demand(not seen & {*keys}, "a key that is there already")
            demand(keys.fingerprint not in self._seen, "a key of an earlier release")
            seen.update(keys)
            self._seen.add(keys.fingerprint)
            return keys

        keys = self._grid.ask(KEYS, dict.fromkeys(self._nodes, request), self._timeout, MASKS, read)
        self._require(len(keys), self._num_needed, "have sent keys")
        graph = find_graph(len(keys), self._num_colluding, self._num_needed)
        self.num_to_open = graph.num_to_open
        self._require(len(keys), self.num_to_open, "have sent keys")
        return Roster(keys, graph, self._terms)

    def _collect_shares(self, roster: Roster) -> dict[int, Sealed]:
        degree = roster.graph.degree

        def read(node: int, given: Mapping[str, Any]) -> Sealed:
            holders = list(given["holders"])
            are_others = {*holders} <= roster.keys.keys() - {node}
            demand(are_others and len(holders) == len({*holders}) == degree, "other holders")
            return Sealed(holders, list(pieces(given["sealed"], SEALED_BYTES, degree)))

        request = _message(roster.to_record())
        sealed = self._grid.ask(SHARES, dict.fromkeys(roster.nodes, request), self._timeout, MASKS, read)
        self._require(len(sealed), roster.graph.num_to_open, "have shared their secrets")
        return sealed

    def _collect_answers(
        self, roster: Roster, sealed: Mapping[int, Sealed], question: RecordDict, digest: bytes
    ) -> dict[int, Answered]:
        sharing, senders = roster.pack(set(sealed)), _senders(sealed)
        statement = roster.masked_among(digest, set(sealed))
        shares = {
            (sender, holder): share for sender, own in sealed.items() for holder, share in zip(*own, strict=True)
        }

        def request(node: int) -> RecordDict:
            own = b"".join(shares[sender, node] for sender in senders[node])
            record = ConfigRecord({"sharing": sharing, "senders": senders[node], "sealed": own})
            return RecordDict({**question, MASKS: record})

        def read(node: int, given: Mapping[str, Any]) -> Answered:
            (masked,) = pieces(given["masked"], 4 * self._length, 1)
            demand(roster.is_signed(node, given["signature"], statement), "a signature of something else")
            return Answered(np.frombuffer(masked, dtype="<u4").astype(np.uint32), given["signature"])

        requests = {node: request(node) for node in sealed}
        answers = self._grid.ask(ANSWER, requests, self._timeout, MASKS, read)
        self.answered = set(answers)
        self._require(len(answers), roster.graph.num_to_open, "answered")
        return answers

    def _collect_signatures(
        self, roster: Roster, sealed: Mapping[int, Sealed], masked: Mapping[int, Answered], digest: bytes
    ) -> dict[int, bytes]:
        answered, senders = set(masked), _senders(sealed)
        statement, packed = roster.summed(digest, set(sealed), answered), roster.pack(set(masked))

        def request(node: int) -> RecordDict:
            signed = b"".join(masked[sender].signature for sender in senders[node] if sender in masked)
            return _message({"answered": packed, "signatures": signed})

        def read(node: int, given: Mapping[str, Any]) -> bytes:
            (signature,) = pieces(given["signature"], SIGNATURE_BYTES, 1)
            demand(roster.is_signed(node, signature, statement), "a signature of something else")
            return signature

        requests = {node: request(node) for node in masked}
        signatures = self._grid.ask(CONFIRM, requests, self._timeout, MASKS, read)
        self._require(len(signatures), self._num_needed, "have confirmed whose answers are summed")
        return signatures

    def _collect_openings(
        self, roster: Roster, sealed: Mapping[int, Sealed], signatures: Mapping[int, bytes]
    ) -> dict[int, dict[int, bytes]]:
        """Return the shares of the secret of each client, by their points: of its seed, or of its key of masks."""
        owners = {node: [node, *senders] for node, senders in _senders(sealed).items()}

        def read(node: int, given: Mapping[str, Any]) -> list[bytes]:
            return list(pieces(given["shares"], SHARE_BYTES, len(owners[node])))

        signers = sorted(signatures)[: self._num_needed]
        request = _message(
            {
                "signers": roster.pack(set(signers)),
                "signatures": b"".join(signatures[node] for node in signers),
            }
        )
        given = self._grid.ask(UNMASK, dict.fromkeys(signatures, request), self._timeout, MASKS, read)
        found: dict[int, dict[int, bytes]] = {node: {} for node in sealed}
        for holder, shares in given.items():
            for owner, share in zip(owners[holder], shares, strict=True):
                if is_share(share):
                    found[owner][roster.points[holder]] = share
        return found

    def _open(
        self,
        roster: Roster,
        sealed: Mapping[int, Sealed],
        masked: Mapping[int, Answered],
        shares: Mapping[int, Mapping[int, bytes]],
        digest: bytes,
    ) -> np.ndarray:
        total = np.zeros(self._length, dtype=np.uint32)
        for answer in masked.values():
            total += answer.masked
        linked = {node: {*senders, *sealed[node].holders} for node, senders in _senders(sealed).items()}
        for node in sealed:
            secret = combine(shares[node], roster.graph.threshold)
            if node in masked:
                total -= expand(secret, self._length)
                continue
            key = X25519PrivateKey.from_private_bytes(secret)
            is_own = key.public_key().public_bytes_raw() == roster.keys[node].masks
            demand(is_own, "the shares of a key are not those of the client's key")
            for other in linked[node] & masked.keys():
                common = roster.common_mask(key, node, other, digest, self._length)
                total = total - common if other > node else total + common
        # A mask that did not come off leaves this number as it should be with a chance of 2^-32.
        demand(int(total[0]) == len(masked), "masks did not come off the sum")
        return total[1:].astype(np.int32).astype(np.int64)

    def _require(self, number: int, needed: int, what: str) -> None:
        if number < needed:
            raise NotEnoughError(f"{number} of {len(self._nodes)} clients {what}, and {needed} are needed.")


def _senders(sealed: Mapping[int, Sealed]) -> dict[int, list[int]]:
    """Return by whom each client was chosen as a holder, among those that have shared their secrets."""
    senders: dict[int, list[int]] = {node: [] for node in sealed}
    for sender, own in sorted(sealed.items()):
        for holder in own.holders:
            if holder in senders:
                senders[holder].append(sender)
    return senders


def _message(values: dict[str, Any]) -> RecordDict:
    return RecordDict({MASKS: ConfigRecord(values)})
