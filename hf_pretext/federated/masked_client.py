"""A client's part in secure aggregation, which trusts the server with nothing that it can check.

What is released, to the server: public keys, sealed shares, an answer under masks, a signature, and shares of the
secrets of others. For each other client it gives a share of one secret only: of the seed of its own mask if its answer
is summed, and of its key of common masks if it is not. It does so once per release, and only if all of this holds:

- the run, its settings and the client's own node are those for which it made its keys,
- it has not given this message for these keys, also to another process that began with the same state: it burns a
  stage on the disk before it replies, and the last one before it draws what it checks,
- the degree and the threshold are safe for the number of clients, and its own keys are on the roster, fresh as all
  others, and once: no others that it has made for another run, in another process, or as another node,
- enough clients have answered for their noise to be enough, it is one of them, and so are enough of the holders of its
  own secrets,
- each client whose share it gives has signed that it answered the same question, by the same terms and in the same
  run, and masked its answer with all of its holders in the same set of clients. So the server has not told it that
  some of them are gone,
- more than half of the honest clients have signed that the same clients have answered. An honest client signs one set,
  so the server gets no shares for two sets. If all clients are linked to all, every signature is checked, and there
  are enough of them. Otherwise some are, which the client draws once it has got them: then it is deceived with a
  probability of at most 2^-40 for all clients together (see `graph`).

It chooses the holders itself, so the server does not seat anyone beside it. What it cannot check is that keys on the
roster are those of other clients: a server that invents more clients than `max_colluding` could read its answer.
"""

import hashlib
from collections.abc import Mapping, Sequence
from secrets import SystemRandom, token_bytes
from typing import Any, Protocol

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from flwr.app import ConfigRecord, RecordDict

from .masking import (
    ANSWER,
    CONFIRM,
    FINGERPRINT_BYTES,
    KEY_BYTES,
    KEYS,
    MASKS,
    PAIR_BYTES,
    SEALED_BYTES,
    SHARES,
    SIGNATURE_BYTES,
    STAGES,
    UNMASK,
    Roster,
    expand,
    pieces,
    seal,
    unseal,
)
from .shamir import NO_SHARE, SHARE_BYTES, is_share, split

SEEN = "hf_pretext.keys_seen"
"""Record of the keys of earlier releases, in the state of a node."""


class Notes(Protocol):
    """What a client remembers on its disk, in all processes and runs."""

    def burn(self, keys: str, stage: str) -> None:
        """Note that a stage was answered with keys of this name, or refused in the end.

        Raises:
            ValueError: That was noted before.
        """
        ...

    def made_any(self, keys: Sequence[str]) -> bool:
        """Return whether this client has made keys of one of these names."""
        ...


class MaskedRelease:
    """One release, as a client sees it. Its state stays in the memory of the client's node between messages.

    Args:
        state (`RecordDict`): The state of the node.
        node (`int`): The client's own node.
        run (`int`): Flower's id of the run.
        notes (`Notes`): Remembers, on the disk, which stages were answered or refused in the end.

    Raises:
        ValueError: By all methods: the server asks for something that is not safe, or not next. The messages hold
            public facts only.
    """

    def __init__(self, state: RecordDict, node: int, run: int, notes: Notes) -> None:
        self._records = state.config_records
        self._node = node
        self.run = run
        self._notes = notes
        self._state: dict[str, Any] = dict(self._records.get(MASKS, {}))

    @property
    def num_asked(self) -> int:
        """Number of clients that were asked, among whom the noise is divided."""
        return int(self._state["num_asked"])

    def make_keys(self, num_asked: int, num_needed: int, num_colluding: int, terms: bytes) -> dict[str, Any]:
        """Begin a release with fresh keys. A release that was under way is over."""
        masks, seals, signatures = (
            X25519PrivateKey.generate(),
            X25519PrivateKey.generate(),
            Ed25519PrivateKey.generate(),
        )
        self._state = {"num_asked": num_asked, "num_needed": num_needed, "num_colluding": num_colluding}
        self._state |= {"terms": terms, "of": f"run {self.run} at node {self._node}"}
        self._state |= {
            "masks": masks.private_bytes_raw(),
            "seals": seals.private_bytes_raw(),
            "signatures": signatures.private_bytes_raw(),
        }
        public = b"".join(key.public_key().public_bytes_raw() for key in (masks, seals, signatures))
        self._save(KEYS, public=public)
        self._burn_stage(KEYS)
        return {"keys": public}

    def share(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """Choose the holders of the own secrets, and seal their shares."""
        self._expect(SHARES)
        roster = self._read_roster(asked)
        holders = choose_holders(roster.nodes, self._node, roster.graph.degree)
        seed = token_bytes(KEY_BYTES)
        points = [roster.points[node] for node in (self._node, *holders)]
        of_seed, of_key = (split(each, roster.graph.threshold, points) for each in (seed, self._state["masks"]))
        private, sealed = self._private("seals"), []
        for holder in holders:
            key = roster.sealing_key(private, holder, self._node, holder)
            sealed.append(seal(key, of_seed[roster.points[holder]] + of_key[roster.points[holder]]))
        self._burn_stage(SHARES)
        self._save(SHARES, **roster.to_record(), holders=holders, seed=seed, own=of_seed[points[0]])
        return {"holders": holders, "sealed": b"".join(sealed)}

    def receive(self, asked: Mapping[str, Any]) -> None:
        """Read the shares of others, and check whom the own answer would be summed with."""
        self._expect(ANSWER)
        roster = self._roster()
        sharing, senders = roster.unpack(asked["sharing"]), list(asked["senders"])
        self._check_answering(roster, sharing)
        if len(set(senders)) != len(senders) or not set(senders) <= sharing - {self._node}:
            raise ValueError("Shares come from clients that have not shared any.")
        private, held = self._private("seals"), []
        for sender, sealed in zip(senders, pieces(asked["sealed"], SEALED_BYTES, len(senders)), strict=True):
            pair = unseal(roster.sealing_key(private, sender, sender, self._node), sealed)
            # What another client sealed wrongly is not the server's fault, so this client continues without it.
            held.append(pair if pair is not None and len(pair) == PAIR_BYTES else 2 * NO_SHARE)
        self._state |= {"sharing": asked["sharing"], "senders": senders, "held": b"".join(held)}
        # Before the answer is counted, and its noise is drawn.
        self._burn_stage(ANSWER)

    def mask(self, answer: np.ndarray, question: bytes) -> dict[str, Any]:
        """Put the own answer, of whole numbers, under masks. `receive` comes first.

        Args:
            answer (`np.ndarray`): The answer.
            question (`bytes`): Digest of the question that it answers.
        """
        roster, senders = self._roster(), self._state["senders"]
        # One that is known to be 1 comes first. Its sum says whether all masks came off.
        masked = np.concatenate([[1], answer]).astype(np.int64).astype(np.uint32)
        masked = masked + expand(self._state["seed"], len(masked))
        private, sharing = self._private("masks"), roster.unpack(self._state["sharing"])
        for other in ({*self._state["holders"]} & sharing) | set(senders):
            common = roster.common_mask(private, self._node, other, question, len(masked))
            masked = masked + common if self._node > other else masked - common
        self._save(ANSWER, seed=b"", question=question)
        signature = self._sign(roster.masked_among(question, sharing))
        return {"masked": masked.astype("<u4").tobytes(), "signature": signature}

    def confirm(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """Sign the set of clients whose answers are summed."""
        self._expect(CONFIRM)
        roster = self._roster()
        answered, sharing = roster.unpack(asked["answered"]), roster.unpack(self._state["sharing"])
        if not answered <= sharing:
            raise ValueError("The server sums answers of clients that have not shared their secrets.")
        self._check_answering(roster, answered)
        owners = [node for node in self._state["senders"] if node in answered]
        signatures = pieces(asked["signatures"], SIGNATURE_BYTES, len(owners))
        question = self._state["question"]
        statement = roster.masked_among(question, sharing)
        for owner, signature in zip(owners, signatures, strict=True):
            if not roster.is_signed(owner, signature, statement):
                raise ValueError(
                    "A client has masked its answer among other clients than this client, or answers another question."
                )
        self._burn_stage(CONFIRM)
        self._save(CONFIRM, answered=asked["answered"])
        return {"signature": self._sign(roster.summed(question, sharing, answered))}

    def unmask(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """Forget everything, and give the shares that take the masks off the sum."""
        self._expect(UNMASK)
        roster = self._roster()
        answered, signers = roster.unpack(self._state["answered"]), roster.unpack(asked["signers"])
        needed = roster.graph.num_needed
        if not signers <= answered or len(signers) < needed:
            raise ValueError(
                f"{len(signers)} clients have signed whose answers are summed, and {needed} that have answered must."
            )
        statement = roster.summed(self._state["question"], roster.unpack(self._state["sharing"]), answered)
        signatures = pieces(asked["signatures"], SIGNATURE_BYTES, len(signers))
        # Before the draw, so that a server cannot try again until no forged signature is drawn.
        self._burn_stage(UNMASK)
        known, self._state = self._state, {}
        self._save(UNMASK)
        given = list(zip(sorted(signers), signatures, strict=True))
        checked = given if roster.graph.is_complete else SystemRandom().sample(given, roster.graph.num_checked)
        for signer, signature in checked:
            if not roster.is_signed(signer, signature, statement):
                raise ValueError("A client has signed another set of answers than this client, or nothing.")
        shares = [known["own"]]
        pairs = pieces(known["held"], PAIR_BYTES, len(known["senders"]))
        for sender, pair in zip(known["senders"], pairs, strict=True):
            share = pair[:SHARE_BYTES] if sender in answered else pair[SHARE_BYTES:]
            shares.append(share if is_share(share) else NO_SHARE)
        return {"shares": b"".join(shares)}

    def _expect(self, stage: str) -> None:
        """Refuse what is not the next stage: each is answered once."""
        done = self._state.get("stage", UNMASK)
        following = STAGES[(STAGES.index(done) + 1) % len(STAGES)]
        if stage != following:
            raise ValueError(f"The stage {stage!r} is not next at this client, but {following!r}.")
        if stage != KEYS and self._state["of"] != f"run {self.run} at node {self._node}":
            raise ValueError("This client made its keys for another run or node.")

    def _burn_stage(self, stage: str) -> None:
        """Answer a stage once. The state alone does not see to it: two processes may begin with the same state."""
        self._notes.burn(_name_of(self._state["public"]), stage)

    def _read_roster(self, asked: Mapping[str, Any]) -> Roster:
        roster = self._roster(asked)
        if self._node not in roster.keys or b"".join(roster.keys[self._node]) != self._state["public"]:
            raise ValueError("The roster does not hold this client's own keys.")
        others = [_name_of(b"".join(keys)) for node, keys in roster.keys.items() if node != self._node]
        if self._notes.made_any(others):
            raise ValueError(
                "The roster holds other keys that this client has made, in another process or run: its answer would "
                "be summed twice."
            )
        if not self._state["num_needed"] <= len(roster.nodes) <= self.num_asked:
            raise ValueError(
                f"{len(roster.nodes)} clients of {self.num_asked} have sent keys, and {self._state['num_needed']} are "
                "needed."
            )
        roster.graph.check()
        if roster.graph.num_to_open > len(roster.nodes):
            raise ValueError(
                f"{len(roster.nodes)} clients are fewer than the {roster.graph.num_to_open} that must answer."
            )
        self._check_fresh(roster)
        return roster

    def _check_fresh(self, roster: Roster) -> None:
        """Refuse keys of earlier releases, whose private parts the server may know."""
        prints = [keys.fingerprint for keys in roster.keys.values()]
        seen: bytes = dict(self._records.get(SEEN, {})).get("fingerprints", b"")
        known = {seen[at : at + FINGERPRINT_BYTES] for at in range(0, len(seen), FINGERPRINT_BYTES)}
        if known & set(prints):
            raise ValueError("The roster holds keys of an earlier release.")
        self._records[SEEN] = ConfigRecord({"fingerprints": seen + b"".join(prints)})

    def _check_answering(self, roster: Roster, nodes: set[int]) -> None:
        """Refuse a sum of too few, or one that this client or the holders of its secrets are not in."""
        needed = roster.graph.num_to_open
        if self._node not in nodes:
            raise ValueError("This client is not among those whose answers are summed.")
        if len(nodes) < needed:
            raise ValueError(f"{len(nodes)} clients would be summed, and {needed} are needed.")
        living = len(nodes.intersection(self._state["holders"]))
        if living + 1 < roster.graph.threshold:
            raise ValueError(
                f"{living} of the {roster.graph.degree} clients that hold this client's secrets are left, and "
                f"{roster.graph.threshold - 1} are needed."
            )

    def _roster(self, record: Mapping[str, Any] | None = None) -> Roster:
        own = [self._state[name] for name in ("num_colluding", "num_needed", "terms")]
        return Roster.from_record(self._state if record is None else record, *own)

    def _sign(self, statement: bytes) -> bytes:
        return Ed25519PrivateKey.from_private_bytes(self._state["signatures"]).sign(statement)

    def _private(self, name: str) -> X25519PrivateKey:
        return X25519PrivateKey.from_private_bytes(self._state[name])

    def _save(self, stage: str, **values: Any) -> None:
        self._state |= {"stage": stage, **values}
        self._records[MASKS] = ConfigRecord(self._state)


def _name_of(keys: bytes) -> str:
    return hashlib.sha256(keys).hexdigest()[:32]


def choose_holders(nodes: Sequence[int], own: int, degree: int) -> list[int]:
    """Choose who holds a client's secrets: a uniform subset of the other nodes, which no one else can predict."""
    return sorted(SystemRandom().sample([node for node in nodes if node != own], degree))
