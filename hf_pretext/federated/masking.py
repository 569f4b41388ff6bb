"""What both sides of secure aggregation compute: keys, the roster of a release, masks and sealed shares.

The protocol is that of Bell et al. 2020 (eprint 2020/704), with five messages to each client per release:

1. `KEYS`: the client makes fresh keys.
2. `SHARES`: it gets the roster of all keys, chooses the holders of its secrets (see `graph`), and shares them.
3. `ANSWER`: it gets the shares of others and the set of clients that have shared secrets, and answers under masks. It
   signs that set and the question.
4. `CONFIRM`: it gets the set of clients whose answers arrived, and the signatures of those whose shares it holds. It
   signs both sets and the question.
5. `UNMASK`: it gets the signatures of the others. It gives its shares for this one set alone.

The keys are X25519 (RFC 7748), seeds expand by AES-256 in counter mode, shares are sealed with ChaCha20-Poly1305 and
signatures are Ed25519. The keys that two clients derive also depend on the roster, so clients with different rosters
cannot read each other's shares. The roster includes the terms: the settings of the run that a client relies on. Masks
depend on the question as well, and on both nodes and both public keys: the same secret between other keys, which are
other encodings of the same point, gives another mask. So masks of clients that were asked differently do not come off.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

import numpy as np
from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from .graph import Graph
from .shamir import SHARE_BYTES

KEYS, SHARES, ANSWER, CONFIRM, UNMASK = STAGES = ("keys", "shares", "answer", "confirm", "unmask")
"""Actions of the messages of a release, in their order."""

MASKS = "hf_pretext.masks"
"""Record of what belongs to secure aggregation, in a message and in the state of a node."""

KEY_BYTES = 32
FINGERPRINT_BYTES = 8
PAIR_BYTES = 2 * SHARE_BYTES
SEALED_BYTES = PAIR_BYTES + 16
SIGNATURE_BYTES = 64


class Keys(NamedTuple):
    """The public keys of one client in one release, 32 bytes each.

    Args:
        masks (`bytes`): X25519 key of the masks that it has in common with others.
        seals (`bytes`): X25519 key by which others seal what only it may read.
        signatures (`bytes`): Ed25519 key of its signature.
    """

    masks: bytes
    seals: bytes
    signatures: bytes

    @property
    def fingerprint(self) -> bytes:
        """Name the keys, to know them again in later releases."""
        return hashlib.sha256(self.masks).digest()[:FINGERPRINT_BYTES]

    @classmethod
    def from_bytes(cls, content: bytes) -> "Keys":
        """Read three keys.

        Raises:
            ValueError: They have another length, two are equal, or one is a point of small order, whose secrets
                everyone knows.
        """
        if not isinstance(content, bytes) or len(content) != 3 * KEY_BYTES:
            raise ValueError(f"The keys of a client are not {3 * KEY_BYTES} bytes.")
        keys = cls(*(content[start : start + KEY_BYTES] for start in range(0, len(content), KEY_BYTES)))
        if len(set(keys)) < 3:
            raise ValueError("Two keys of a client are the same.")
        for key in keys[:2]:
            shared_secret(_ANY_KEY, key)
        return keys


_ANY_KEY = X25519PrivateKey.from_private_bytes(bytes(range(KEY_BYTES)))
"""A key of no one, to try whether points are sound."""


@dataclass(frozen=True)
class Roster:
    """The clients of a release and their keys, as the server passes them on.

    Args:
        keys (`Mapping` of `int` to `Keys`): Keys by node.
        graph (`Graph`): How they are linked.
        terms (`bytes`): What `terms_of` hashed. Each client computes it from its own settings.
    """

    keys: Mapping[int, Keys]
    graph: Graph
    terms: bytes

    @cached_property
    def nodes(self) -> list[int]:
        """The nodes, sorted."""
        return sorted(self.keys)

    @cached_property
    def points(self) -> dict[int, int]:
        """The point of each node's shares, from 1."""
        return {node: index + 1 for index, node in enumerate(self.nodes)}

    @cached_property
    def digest(self) -> bytes:
        """A hash over everything that clients have to agree on before they answer."""
        return hashlib.sha256(repr((sorted(self.to_record().items()), self.graph, self.terms)).encode()).digest()

    def to_record(self) -> dict[str, Any]:
        """Return what a `ConfigRecord` can hold."""
        keys = b"".join(b"".join(self.keys[node]) for node in self.nodes)
        return {
            "nodes": list(self.nodes),
            "keys": keys,
            "degree": self.graph.degree,
            "threshold": self.graph.threshold,
        }

    @classmethod
    def from_record(cls, record: Mapping[str, Any], num_colluding: int, num_needed: int, terms: bytes) -> "Roster":
        """Read what `to_record` wrote, at a client.

        Raises:
            ValueError: It is malformed, or keys are there twice.
        """
        whole = [record["degree"], record["threshold"], *record["nodes"]]
        if not all(type(each) is int for each in whole):
            raise ValueError("The nodes, the degree and the threshold of a roster are not all whole numbers.")
        graph = Graph(len(record["nodes"]), num_colluding, num_needed, record["degree"], record["threshold"])
        return _read_roster(tuple(record["nodes"]), record["keys"], graph, terms)

    def pack(self, nodes: set[int]) -> bytes:
        """Write a subset of the nodes, one bit each."""
        return np.packbits([node in nodes for node in self.nodes]).tobytes()

    def unpack(self, content: bytes) -> set[int]:
        """Read what `pack` wrote.

        Raises:
            ValueError: It has another length.
        """
        if len(content) != (len(self.nodes) + 7) // 8:
            raise ValueError("A subset of the roster has another length than the roster.")
        bits = np.unpackbits(np.frombuffer(content, dtype=np.uint8), count=len(self.nodes))
        return {node for node, bit in zip(self.nodes, bits, strict=True) if bit}

    def masked_among(self, question: bytes, sharing: set[int]) -> bytes:
        """Write what a client signs beside its answer.

        It says that this is an answer to this question, and that it is masked with all of its holders in this set.
        """
        return b"hf_pretext: masked among" + self.digest + question + self.pack(sharing)

    def summed(self, question: bytes, sharing: set[int], answered: set[int]) -> bytes:
        """Write what a client signs in the end: that these are the clients whose answers to it are summed."""
        return b"hf_pretext: summed" + self.digest + question + self.pack(sharing) + self.pack(answered)

    def is_signed(self, node: int, signature: bytes, statement: bytes) -> bool:
        """Return whether a node has signed a statement."""
        try:
            Ed25519PublicKey.from_public_bytes(self.keys[node].signatures).verify(signature, statement)
        except (InvalidSignature, ValueError):
            return False
        return True

    def common_mask(self, private: X25519PrivateKey, own: int, other: int, question: bytes, length: int) -> np.ndarray:
        """Compute the mask that a client has in common with another one.

        Args:
            private (`X25519PrivateKey`): Its private key of masks.
            own (`int`): Its node.
            other (`int`): The node of the other client.
            question (`bytes`): Digest of the question.
            length (`int`): Length of the mask.
        """
        shared = shared_secret(private, self.keys[other].masks)
        pair = sorted((own, other))
        words = _nodes(*pair) + b"".join(self.keys[node].masks for node in pair) + question
        return expand(_derive(shared, b"mask" + words, self.digest), length)

    def sealing_key(self, private: X25519PrivateKey, other: int, sender: int, receiver: int) -> bytes:
        """Compute the key of the one message of shares from a sender to a receiver. `other` is one of them."""
        ways = b"seal" + _nodes(sender, receiver)
        return _derive(shared_secret(private, self.keys[other].seals), ways, self.digest)


@lru_cache(maxsize=2)
def _read_roster(nodes: tuple[int, ...], keys: bytes, graph: Graph, terms: bytes) -> Roster:
    """Read a roster once: a client reads it at every stage, and simulated clients read the same one."""
    length = 3 * KEY_BYTES
    if list(nodes) != sorted(set(nodes)) or len(keys) != len(nodes) * length:
        raise ValueError("The roster is not one of different nodes, with three keys each.")
    found = [Keys(*pieces(each, KEY_BYTES, 3)) for each in pieces(keys, length, len(nodes))]
    if len({key for each in found for key in each}) < 3 * len(found):
        raise ValueError("A key is there twice in the roster.")
    return Roster(dict(zip(nodes, found, strict=True)), graph, terms)


def shared_secret(private: X25519PrivateKey, public: bytes) -> bytes:
    """Compute what two X25519 keys share.

    Raises:
        ValueError: The public key is not one, or is a point of small order.
    """
    try:
        return private.exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError:
        raise ValueError("A public key is not a sound point of the curve.") from None


def _nodes(*nodes: int) -> bytes:
    return b"".join(node.to_bytes(8, "big") for node in nodes)


def _derive(secret: bytes, words: bytes, digest: bytes) -> bytes:
    return HKDF(algorithm=hashes.SHA256(), length=32, salt=digest, info=words).derive(secret)


def seal(key: bytes, content: bytes) -> bytes:
    """Encrypt and authenticate. A key seals one message, so its nonce may be zero."""
    return ChaCha20Poly1305(key).encrypt(bytes(12), content, None)


def unseal(key: bytes, content: bytes) -> bytes | None:
    """Decrypt. None if it was not sealed with this key."""
    try:
        return ChaCha20Poly1305(key).decrypt(bytes(12), content, None)
    except InvalidTag:
        return None


def expand(seed: bytes, length: int) -> np.ndarray:
    """Expand a seed into a mask, uniform modulo 2^32, with AES-256 in counter mode.

    Args:
        seed (`bytes` of length 32): A secret that is used for one mask only.
        length (`int`): Length of the mask.

    Returns:
        `np.ndarray` of shape `(length,)`: uint32.
    """
    # A key makes one stream, so the counter may begin at zero.
    stream = Cipher(algorithms.AES(seed), modes.CTR(bytes(16))).encryptor()
    return np.frombuffer(stream.update(bytes(4 * length)), dtype="<u4").astype(np.uint32)


def pieces(content: bytes, length: int, number: int) -> Sequence[bytes]:
    """Cut bytes into pieces of one length.

    Raises:
        ValueError: They are not bytes, or not that many.
    """
    if not isinstance(content, bytes) or len(content) != number * length:
        raise ValueError(f"A message does not hold {number} pieces of {length} bytes.")
    return [content[start : start + length] for start in range(0, len(content), length)]
