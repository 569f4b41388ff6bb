"""Secure aggregation: shares, the graph, and what clients refuse a server that breaks the protocol."""

import itertools
import math
import secrets
import time
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.common.serde import context_from_proto, context_to_proto, recorddict_from_proto, recorddict_to_proto
from scipy import stats

from hf_pretext.clients.questions import NearestCandidates
from hf_pretext.federated import client, graph, masked_client, masking, shamir
from hf_pretext.federated.client import RefusalError
from hf_pretext.federated.graph import Graph, find_graph, log2_tail
from hf_pretext.federated.masked_server import MaskedSum
from hf_pretext.federated.masking import ANSWER, CONFIRM, KEYS, MASKS, SHARES, STAGES, UNMASK, Keys, Roster
from hf_pretext.federated.node_ledger import NodeLedger
from hf_pretext.federated.protocol import Encoded, encode, num_colluding, num_summed, terms_of
from hf_pretext.federated.server import _message_of
from hf_pretext.federated.settings import FederationSettings
from hf_pretext.privacy import Plan, ReleaseLostError
from support.federation import LIMITS, make_large_federation, no_noise

SECRET = bytes(range(32))


@pytest.mark.parametrize(("threshold", "num_shares"), [(1, 1), (1, 4), (2, 2), (3, 5), (22, 48), (160, 200)])
def test_any_threshold_of_shares_says_what_the_secret_is(threshold, num_shares):
    rng = np.random.default_rng(threshold)
    for secret in (SECRET, bytes(32), b"\xff" * 32, secrets.token_bytes(32)):
        points = rng.choice(np.arange(1, 1000), num_shares, replace=False).tolist()
        shares = shamir.split(secret, threshold, points)
        assert all(len(share) == shamir.SHARE_BYTES and shamir.is_share(share) for share in shares.values())
        chosen = {point: shares[point] for point in rng.permutation(points)[:threshold].tolist()}
        assert shamir.combine(chosen, threshold) == secret
        assert shamir.combine(shares, threshold) == secret
        if threshold > 1:
            chosen.popitem()
            with pytest.raises(ValueError, match="do not say what the secret is"):
                shamir.combine(chosen, threshold)


def test_shares_are_values_of_a_polynomial_of_the_stated_degree():
    """The definition: an interpolation through any `t` shares meets all the others, and the secret at zero."""
    shares = {x: int.from_bytes(y, "big") for x, y in shamir.split(SECRET, 4, range(1, 10)).items()}

    def interpolated(points, at):
        total = 0
        for own in points:
            value = shares[own]
            for other in set(points) - {own}:
                value = value * (at - other) * pow(own - other, -1, shamir.PRIME) % shamir.PRIME
            total += value
        return total % shamir.PRIME

    for points in itertools.combinations(shares, 4):
        assert interpolated(points, 0) == int.from_bytes(SECRET, "big")
        assert all(interpolated(points, other) == shares[other] for other in shares)
    assert all(interpolated(points, 9) != shares[9] for points in itertools.combinations(range(1, 9), 3))


def test_fewer_shares_say_nothing():
    """Two shares of three: for a fixed secret they are uniform in the field, and independent of each other.

    4,000 draws for each of two extreme secrets, 16 ranges of the field for each share, 64 for both: chi-squared, with
    a false alarm in 1e6 of each of the six tests.
    """
    for secret in (bytes(32), b"\xff" * 32):
        drawn = []
        for _ in range(4000):
            shares = shamir.split(secret, 3, [1, 2, 3])
            drawn.append([int.from_bytes(shares[point], "big") * 16 // shamir.PRIME for point in (1, 3)])
        first, second = np.array(drawn).T
        for ranges in (np.bincount(first, minlength=16), np.bincount(second, minlength=16)):
            assert stats.chisquare(ranges).pvalue > 1e-6
        both = np.bincount(8 * (first // 2) + second // 2, minlength=64)
        assert stats.chisquare(both).pvalue > 1e-6
    # And the test can fail: all three of them say what the secret is.
    assert len({shamir.combine(shamir.split(SECRET, 3, [1, 2, 3]), 3) for _ in range(10)}) == 1


def test_what_is_no_share_is_refused():
    shares = shamir.split(SECRET, 2, [1, 2, 3])
    for wrong in (shamir.NO_SHARE, shamir.PRIME.to_bytes(66, "big"), b"", bytes(67)):
        assert not shamir.is_share(wrong)
        with pytest.raises(ValueError, match="not a number of the field"):
            shamir.combine({1: shares[1], 2: wrong}, 2)
    with pytest.raises(ValueError, match="not the shares of one secret"):
        shamir.combine({1: shares[1], 2: shares[3]}, 2)
    for arguments in ((SECRET, 4, [1, 2, 3]), (SECRET, 0, [1]), (SECRET, 1, [0]), (SECRET, 1, [1, 1]), (b"x", 1, [1])):
        with pytest.raises(ValueError, match="must be|bytes, not 32"):
            shamir.split(*arguments)


def test_the_hypergeometric_tail_is_that_of_scipy():
    for total, marked, drawn in ((20, 5, 8), (999, 50, 51), (50, 50, 3), (50, 0, 3), (30, 20, 25)):
        for least in range(-1, drawn + 2):
            expected = stats.hypergeom(total, marked, drawn).sf(least - 1)
            assert 2.0 ** log2_tail(total, marked, drawn, least) == pytest.approx(expected, rel=1e-9, abs=1e-300)


PUBLISHED = {
    100: [(0.05, 0.2, 20, 6), (0.05, 0.4, 34, 6), (0.2, 0.2, 40, 21), (0.33, 0.33, 68, 34)],
    1000: [(0.05, 0.2, 50, 21), (0.05, 0.4, 88, 26), (0.2, 0.2, 98, 54), (0.33, 0.33, 286, 150)],
    10000: [(0.05, 0.2, 60, 25), (0.05, 0.4, 110, 33), (0.2, 0.2, 122, 67), (0.33, 0.33, 422, 221)],
}
"""Clients: (fraction that conspires, fraction that drops out, degree, threshold) by the bounds of Bell et al."""


@pytest.mark.parametrize("size", [100, pytest.param(1000), pytest.param(10000, marks=pytest.mark.slow)])
def test_degree_and_threshold_are_the_published_ones(size, monkeypatch):
    """Within 6.5 % or 3 clients. The published ring has even degrees, and a client holds a share itself here."""
    monkeypatch.setattr(graph, "COMPLETE_UP_TO", 50)
    monkeypatch.setattr(graph, "GRAPH_BITS", graph.PRIVACY_BITS)  # As published.
    clear_caches()
    for colluding, dropped, degree, threshold in PUBLISHED[size]:
        # With the drop-outs that are left once a server may leave some clients out.
        found = find_graph(size, num_colluding(size, colluding), size - math.floor(dropped * size))
        assert found.degree == pytest.approx(degree, rel=0.065, abs=3)
        assert found.threshold == pytest.approx(threshold, rel=0.065, abs=3)
        assert found.privacy_failure <= -40
        found.check()
    clear_caches()


def clear_caches():
    for each in (graph.find_graph, graph.num_spare):
        each.cache_clear()


def test_a_smaller_degree_or_threshold_is_not_safe():
    found = find_graph(1000, 50, 800)
    assert not found.is_complete and found.num_to_open > found.num_needed
    for changes in (
        {"threshold": found.threshold - 2},
        {"degree": found.degree - 20, "threshold": found.threshold - 10},
        {"degree": 2, "threshold": 2},
        {"degree": 0, "threshold": 1},
        {"degree": 1000, "threshold": 800},
        {"degree": 999, "threshold": 799},
        {"threshold": found.degree + 2},
    ):
        with pytest.raises(ValueError, match="is not (safe|possible)"):
            replace(found, **changes).check()
    with pytest.raises(ValueError, match="up to 200 clients are all linked"):
        Graph(200, 10, 160, 150, 80).check()
    assert find_graph(200, 10, 160) == Graph(200, 10, 160, 199, 160)


@pytest.mark.parametrize("degree", [60, 251, 500, 998])
def test_however_many_are_linked_too_few_shares_open_no_secret(degree):
    """Holders that conspire open both secrets of a client if they have enough shares, whoever else answers."""
    size, conspiring, needed = 1000, 50, 800
    law = stats.hypergeom(size - 1, conspiring, degree)
    for threshold in range(2, degree + 2):
        opened = (size - conspiring) * law.sf(threshold - 1)
        if opened > 2**-60:
            with pytest.raises(ValueError, match="is not safe"):
                Graph(size, conspiring, needed, degree, threshold).check()
    assert opened < 2**-60


def test_a_graph_in_which_nothing_bounds_who_is_left_out_is_refused():
    """The largest number that was looked at had counted as a bound."""
    for found in (Graph(201, 3, 104, 7, 6), Graph(300, 3, 154, 7, 6)):
        assert found.num_to_open > found.size


def test_few_holders_conspire_in_graphs_that_clients_draw():
    """How many of a client's holders conspire, over 5,000 draws: chi-squared against the hypergeometric law.

    A false alarm in 1e6. And none of the draws comes near the threshold.
    """
    found = find_graph(300, 60, 240)
    chosen = [masked_client.choose_holders(range(300), 299, found.degree) for _ in range(5000)]
    assert all(len(set(holders)) == found.degree and 299 not in holders for holders in chosen)
    conspiring = np.array([sum(other < 60 for other in holders) for holders in chosen])
    law = stats.hypergeom(299, 60, found.degree)
    low, high = int(law.ppf(0.005)), int(law.ppf(0.995))
    observed = np.bincount(np.clip(conspiring, low, high) - low, minlength=high - low + 1)
    expected = 5000 * np.diff([0, *law.cdf(np.arange(low, high)), 1])
    assert stats.chisquare(observed, expected).pvalue > 1e-6
    assert conspiring.max() < found.threshold - 1


def test_a_fraction_that_conspires_has_to_fit_into_the_drop_out():
    mechanism = Plan.from_config(make_large_federation(5).config).entry("votes").mechanism
    mechanism = replace(mechanism, max_dropout=0.02)
    with pytest.raises(
        ValueError, match="Of 100 asked clients, 5 may conspire .* leaves no room in `max_dropout`=0.02"
    ):
        num_summed(mechanism, 100, num_colluding(100, 0.05))
    assert num_summed(replace(mechanism, max_dropout=0.25), 1000, num_colluding(1000, 0.05)) == 800
    # And there is always one, among however few.
    assert (num_colluding(8, 0.05), num_colluding(40, 0.05), num_colluding(8, 0.0)) == (1, 2, 1)
    assert num_summed(replace(mechanism, max_dropout=0.4), 8, 1) == 6


def test_masks_are_uniform_and_follow_from_the_whole_seed():
    """Flower 1.42 folds a seed to 32 bits, by which these two give the same mask."""
    one, two = bytes(32), bytes([7, 0, 0, 0]) * 2 + bytes(24)
    ours = [masking.expand(seed, 1000) for seed in (one, two)]
    assert not (ours[0] == ours[1]).any() and ours[0].dtype == np.uint32
    assert stats.chisquare(np.bincount(masking.expand(one, 2**14) >> 28, minlength=16)).pvalue > 1e-6


def test_points_that_are_not_sound_are_refused():
    sound = [X25519PrivateKey.generate().public_key().public_bytes_raw() for _ in range(3)]
    assert Keys.from_bytes(b"".join(sound)) == tuple(sound)
    small = [bytes(32), (1).to_bytes(32, "little"), (2**255 - 20).to_bytes(32, "little")]
    for point in small:
        for number in (0, 1):
            with pytest.raises(ValueError, match="not a sound point of the curve"):
                Keys.from_bytes(b"".join([*sound[:number], point, *sound[number + 1 :]]))


def ask(made, node, stage, content, question=None, named=None):
    """Ask a client by hand. `named` is the node that the message is for by its own words."""
    content = RecordDict({**(question or {}), MASKS: ConfigRecord(content)})
    content = recorddict_from_proto(recorddict_to_proto(content))
    message = Message(content, dst_node_id=named or node, message_type=f"train.{stage}")
    message.metadata.__dict__.update(_message_id="x", _run_id=1, _src_node_id=1)
    return made.grid.apps[node](message, made.grid.contexts[node]).content.config_records[MASKS]


class Server:
    """A server that may break the protocol: it asks the clients by hand, stage by stage."""

    def __init__(self, made, num_clients=5):
        self.made, self.nodes = made, list(made.grid.contexts)[:num_clients]
        self.run = FederationSettings.split(made.grid.contexts[self.nodes[0]].run_config)[0]
        self.num_colluding = num_colluding(self.run.num_clients, self.run.max_colluding)
        self.num_needed = num_summed(made.ledger.plan.entry("votes").mechanism, num_clients, self.num_colluding)

    def ask(self, stage, contents):
        return {node: ask(self.made, node, stage, content) for node, content in contents.items()}

    def keys(self):
        given = self.ask(KEYS, dict.fromkeys(self.nodes, {"num_asked": len(self.nodes)}))
        self.public = {node: Keys.from_bytes(each["keys"]) for node, each in given.items()}
        size = len(self.nodes)
        terms = terms_of(self.made.ledger.plan, self.run.num_clients, self.run.max_colluding, size, run=1)
        self.roster = Roster(self.public, find_graph(size, self.num_colluding, self.num_needed), terms)
        return self

    def question(self, question=None):
        """A question on its way, and its digest."""
        question = question or self.made.question
        encoded = encode(question, 16)
        encoded = Encoded(encoded.arrays, {**encoded.numbers, "num_asked": len(self.nodes)})
        return _message_of(encoded), encoded.digest(question)

    def shares(self):
        self.sealed = self.ask(SHARES, dict.fromkeys(self.nodes, self.roster.to_record()))
        return self

    def inbox(self, node):
        """What others sealed for a node: their nodes, and the messages."""
        senders, sealed = [], b""
        for sender, given in self.sealed.items():
            for index, holder in enumerate(given["holders"]):
                if holder == node:
                    senders.append(sender)
                    sealed += given["sealed"][masking.SEALED_BYTES * index :][: masking.SEALED_BYTES]
        return {"sharing": self.roster.pack(set(self.nodes)), "senders": senders, "sealed": sealed}

    def answers(self, asked=None, changes=None, questions=None):
        """Let clients answer, some of them perhaps another question."""
        self.answered, self.masked = {}, {}
        for node in asked or self.nodes:
            inbox = {**self.inbox(node), **(changes or {}).get(node, {})}
            given = ask(self.made, node, ANSWER, inbox, self.question((questions or {}).get(node))[0])
            self.answered[node] = given["signature"]
            self.masked[node] = np.frombuffer(given["masked"], dtype="<u4")
        return self

    def confirm(self, answered=None, asked=None):
        contents = {node: self.confirming(node, answered or self.nodes) for node in asked or self.nodes}
        self.signed = self.ask(CONFIRM, contents)
        return self

    def confirming(self, node, answered):
        senders = [sender for sender in self.inbox(node)["senders"] if sender in answered]
        signatures = b"".join(self.answered.get(sender, bytes(64)) for sender in senders)
        return {"answered": self.roster.pack(set(answered)), "signatures": signatures}

    def unmasking(self, signers=None):
        signers = sorted(signers or self.nodes)
        signatures = b"".join(self.signed[node]["signature"] for node in signers)
        return {"signers": self.roster.pack(set(signers)), "signatures": signatures}


@pytest.fixture
def server():
    return Server(make_large_federation(5))


def test_the_server_by_hand_gets_what_the_protocol_gives(server):
    """So that what the tests below are refused is refused for the stated reason."""
    server.keys().shares().answers().confirm()
    opened = ask(server.made, 1000, UNMASK, server.unmasking())
    assert len(opened["shares"]) == 5 * shamir.SHARE_BYTES


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"threshold": 2}, "its threshold has to be 4"),
        ({"threshold": 0}, "is not possible"),
        ({"degree": 3}, "up to 200 clients are all linked to each other"),
        ({"degree": 7}, "is not possible"),
        ({"keys": b""}, "not one of different nodes, with three keys each"),
        ({"threshold": 4.0}, "are not all whole numbers"),
    ],
)
def test_a_degree_or_threshold_that_is_too_small_is_refused(server, changes, message):
    server.keys()
    with pytest.raises(RefusalError, match=message):
        ask(server.made, 1000, SHARES, {**server.roster.to_record(), **changes})


def test_a_roster_of_too_few_or_without_the_client_is_refused(server):
    server.keys()
    for kept, message in (
        (range(1001, 1005), "own keys"),
        (range(1000, 1002), "2 clients of 5 have sent keys, and 4"),
    ):
        few = Roster(
            {node: server.public[node] for node in kept}, Graph(len(kept), 1, 4, len(kept) - 1, 4), server.roster.terms
        )
        with pytest.raises(RefusalError, match=message):
            ask(server.made, 1000, SHARES, few.to_record())


def test_replayed_keys_are_refused(server):
    """Those of an earlier release, whose private part the server may know, and one client's as another's."""
    old = server.keys().shares().public
    server.keys()
    server.roster = Roster({**server.public, 1003: old[1003]}, server.roster.graph, server.roster.terms)
    with pytest.raises(RefusalError, match="keys of an earlier release"):
        ask(server.made, 1000, SHARES, server.roster.to_record())
    server.keys()
    twice = Roster({**server.public, 1003: server.public[1002]}, server.roster.graph, server.roster.terms)
    with pytest.raises(RefusalError, match="A key is there twice"):
        ask(server.made, 1000, SHARES, twice.to_record())
    with pytest.raises(RefusalError, match="this client's own keys"):
        ask(server.made, 1000, SHARES, Roster(old, server.roster.graph, server.roster.terms).to_record())


def test_a_point_that_everyone_knows_in_the_roster_is_refused(server):
    server.keys()
    bad = Roster(
        {**server.public, 1003: server.public[1003]._replace(seals=bytes(32))},
        server.roster.graph,
        server.roster.terms,
    )
    with pytest.raises(RefusalError, match="not a sound point of the curve"):
        ask(server.made, 1000, SHARES, bad.to_record())


def test_two_rosters_do_not_fit_together(server):
    """The server gives one client a key of its own in the place of a neighbor's. The shares of others stay sealed."""
    server.keys()
    own = X25519PrivateKey.generate().public_key().public_bytes_raw()
    other = Roster(
        {**server.public, 1003: server.public[1003]._replace(masks=own)}, server.roster.graph, server.roster.terms
    )
    rosters = {node: (other if node == 1000 else server.roster).to_record() for node in server.nodes}
    server.sealed = server.ask(SHARES, rosters)
    server.answers()
    state = server.made.grid.contexts[1001].state.config_records[MASKS]
    pair = masking.PAIR_BYTES
    held = [state["held"][pair * index :][:pair] for index in range(4)]
    assert [each == 2 * shamir.NO_SHARE for each in held] == [True, False, False, False]
    for node in (1000, 1001):
        with pytest.raises(RefusalError, match="has masked its answer among other clients than this client"):
            ask(server.made, node, CONFIRM, server.confirming(node, server.nodes))


@pytest.mark.parametrize("stage", STAGES[1:])
def test_no_stage_is_answered_twice_or_out_of_turn(server, stage):
    """Shares are given once: a second set of clients to be summed finds nothing to open."""
    contents = {
        SHARES: lambda: server.roster.to_record(),
        ANSWER: lambda: server.inbox(1000),
        CONFIRM: lambda: server.confirming(1000, server.nodes),
        UNMASK: lambda: server.unmasking(),
    }
    for step in (server.keys, server.shares, server.answers, server.confirm)[: STAGES.index(stage)]:
        step()
    if stage != ANSWER:
        ask(server.made, 1000, stage, contents[stage]())
    else:
        server.answers([1000])
    for again in STAGES[1 : STAGES.index(stage) + 1]:
        with pytest.raises(RefusalError, match=f"The stage '{again}' is not next at this client"):
            ask(server.made, 1000, again, contents[again]())
    if stage not in (CONFIRM, UNMASK):
        with pytest.raises(RefusalError, match="The stage 'unmask' is not next"):
            ask(server.made, 1000, UNMASK, {})


@pytest.mark.parametrize(
    ("answered", "message"),
    [
        ((1000, 1001), "2 clients would be summed, and 4 are needed"),
        ((1001, 1002, 1003, 1004), "This client is not among those whose answers are summed"),
    ],
)
def test_a_sum_of_too_few_or_without_the_client_is_refused(server, answered, message):
    server.keys().shares().answers()
    with pytest.raises(RefusalError, match=message):
        ask(server.made, 1000, CONFIRM, server.confirming(1000, answered))


def test_a_client_that_shared_nothing_is_not_summed(server):
    server.keys().shares()
    server.nodes.remove(1004)
    server.sealed.pop(1004)
    server.answers()
    with pytest.raises(RefusalError, match="have not shared their secrets"):
        ask(server.made, 1000, CONFIRM, server.confirming(1000, {1000, 1001, 1002, 1004}))


def test_shares_for_two_sets_are_refused(server):
    """The server tells some clients that one of them is gone. They sign another set, and open nothing."""
    server.keys().shares().answers()
    all_of_them, without = [1000, 1001, 1002, 1003, 1004], [1000, 1001, 1002, 1003]
    server.confirm(all_of_them, [1000, 1001])
    first = server.signed
    server.confirm(without, [1002, 1003])
    server.signed |= first
    for node in server.signed:
        with pytest.raises(RefusalError, match="2 clients have signed whose answers are summed, and 4"):
            ask(server.made, node, UNMASK, server.unmasking([1000, 1001]))
        with pytest.raises(RefusalError, match="has signed another set of answers than this client"):
            ask(server.made, node, UNMASK, server.unmasking([1000, 1001, 1002, 1003]))


def test_a_client_that_was_told_that_its_holders_are_gone_is_not_opened(server):
    """The server tells one client that one of its holders is gone, so it has fewer masks, and sums them after all.

    The client itself is not asked any more. The holders of its secrets see that it has signed another set.
    """
    server.keys().shares()
    senders = [1001, 1002, 1003]
    kept = [server.inbox(1000)["senders"].index(sender) for sender in senders]
    sealed = b"".join(server.inbox(1000)["sealed"][masking.SEALED_BYTES * at :][: masking.SEALED_BYTES] for at in kept)
    told = {"sharing": server.roster.pack({1000, *senders}), "senders": senders, "sealed": sealed}
    server.answers(changes={1000: told})
    for holder in (1001, 1002, 1003, 1004):
        with pytest.raises(RefusalError, match="has masked its answer among other clients than this client"):
            ask(server.made, holder, CONFIRM, server.confirming(holder, server.nodes))
    # Without that client, they go on.
    assert ask(server.made, 1001, CONFIRM, server.confirming(1001, [1001, 1002, 1003, 1004]))["signature"]


def test_signatures_of_an_earlier_release_or_of_one_client_for_three_are_refused(server):
    server.keys().shares().answers().confirm()
    old = server.signed
    server.keys().shares().answers().confirm()
    current = server.signed
    before = {
        node: ConfigRecord(dict(server.made.grid.contexts[node].state.config_records[MASKS])) for node in server.nodes
    }
    for node, signed in ((1000, old), (1001, dict.fromkeys(server.nodes, current[1000]))):
        server.signed = signed
        with pytest.raises(RefusalError, match="has signed another set"):
            ask(server.made, node, UNMASK, server.unmasking())
        # It has forgotten the shares, and refuses even if the state that it had is put back.
        server.signed = current
        records = server.made.grid.contexts[node].state.config_records
        assert set(records[MASKS]) == {"stage"}
        with pytest.raises(RefusalError, match="The stage 'unmask' is not next"):
            ask(server.made, node, UNMASK, server.unmasking())
        records[MASKS] = before[node]
        with pytest.raises(RefusalError, match="was asked for the stage 'unmask' with these keys already"):
            ask(server.made, node, UNMASK, server.unmasking())


@pytest.mark.parametrize(("size", "colluding", "needed"), [(300, 15, 240), (1000, 50, 800), (1000, 50, 551)])
def test_signatures_that_are_checked_tell_an_honest_majority(size, colluding, needed):
    """By exact fractions: the smallest number of draws for which all clients together are rarely deceived."""
    found, too_few = find_graph(size, colluding, needed), (size + colluding) // 2
    deceived = lambda number: Fraction(size * math.comb(too_few, number), math.comb(needed, number))  # noqa: E731
    assert deceived(found.num_checked) <= Fraction(1, 2**40) < deceived(found.num_checked - 1)
    assert find_graph(200, 10, 160).num_checked == 160
    # Two sets of that many signatures would have more clients in common than conspire.
    assert 2 * (too_few + 1) - size > colluding


def test_forged_signatures_in_a_sparse_graph_are_found(monkeypatch):
    """A little more than half are genuine. Each of thirty clients finds one that is not, but for a chance of 2^-40."""
    monkeypatch.setattr(graph, "COMPLETE_UP_TO", 50)
    server = Server(make_large_federation(100, **{"max-dropout": 0.3}), 100).keys().shares().answers().confirm()
    linked = server.roster.graph
    assert not linked.is_complete and linked.num_checked < linked.num_needed
    signed, too_few = server.signed, (linked.size + linked.num_colluding) // 2
    forged = {"signature": bytes(64)}
    server.signed = {node: signed[node] if node < 1000 + too_few else forged for node in server.nodes}
    given = server.nodes[: linked.num_needed]
    for node in server.nodes[:30]:
        with pytest.raises(RefusalError, match="has signed another set"):
            ask(server.made, node, UNMASK, server.unmasking(given))
    server.signed = signed
    assert ask(server.made, server.nodes[30], UNMASK, server.unmasking(given))["shares"]
    checked = []
    monkeypatch.setattr(Roster, "is_signed", lambda self, node, *_: checked.append(node) or True)
    ask(server.made, server.nodes[31], UNMASK, server.unmasking(given))
    assert len(checked) == len(set(checked)) == linked.num_checked


def test_a_client_without_the_holders_of_its_secrets_is_not_summed(monkeypatch):
    """In a sparse graph: the server lets enough clients live, but few of the victim's own choice."""
    monkeypatch.setattr(graph, "COMPLETE_UP_TO", 50)
    server = Server(make_large_federation(100, **{"max-dropout": 0.3}), 100).keys()
    assert not server.roster.graph.is_complete
    victim = server.nodes[0]
    server.sealed = {victim: ask(server.made, victim, SHARES, server.roster.to_record())}
    holders = list(server.sealed[victim]["holders"])
    assert len(holders) == server.roster.graph.degree
    gone = set(holders[: 100 - server.roster.graph.num_to_open])
    sharing = server.roster.pack(set(server.nodes) - gone)
    with pytest.raises(RefusalError, match="of the .* clients that hold this client's secrets are left"):
        ask(server.made, victim, ANSWER, {"sharing": sharing, "senders": [], "sealed": b""})


def test_no_one_is_seated_beside_a_client(monkeypatch):
    """The client chooses its holders itself, and each time others, whatever the roster is."""
    monkeypatch.setattr(graph, "COMPLETE_UP_TO", 50)
    server = Server(make_large_federation(100, **{"max-dropout": 0.3}), 100)
    chosen = []
    for _ in range(3):
        server.keys()
        chosen.append(tuple(ask(server.made, 1000, SHARES, server.roster.to_record())["holders"]))
    assert len(set(chosen)) == 3 and all(1000 not in holders for holders in chosen)


@pytest.mark.parametrize("num_clients", [8, 40])
def test_sums_are_those_of_one_process_bin_by_bin(num_clients):
    made = make_large_federation(num_clients)
    total = made.release()
    assert total.any() and np.array_equal(total, made.expected(range(num_clients)))


def test_nodes_may_have_any_number_that_flower_gives():
    """Those of real SuperNodes are random, of 64 bits without a sign."""
    made = make_large_federation(8, first=2**64 - 4 - 2**32)
    contexts = made.grid.contexts
    for number, (node, context) in enumerate(list(contexts.items())[:4]):
        contexts[2**number] = contexts.pop(node)
        made.grid.apps[2**number] = made.grid.apps[node]
        context.node_id = 2**number
    assert np.array_equal(made.release(), made.expected(range(8)))
    assert max(contexts) > 2**63


PAIRS = list(itertools.combinations(STAGES, 2))


@pytest.mark.parametrize(
    "pair", [each if each == (SHARES, CONFIRM) else pytest.param(each, marks=pytest.mark.slow) for each in PAIRS]
)
def test_a_fifth_may_drop_between_any_two_stages(pair, monkeypatch):
    """Of 100 clients, in a sparse graph: a tenth at each of two stages. The sum is the right one, or it is lost."""
    monkeypatch.setattr(graph, "COMPLETE_UP_TO", 50)
    lost = {stage: set(range(1000 + 10 * index, 1010 + 10 * index)) for index, stage in enumerate(pair)}
    made = make_large_federation(
        100,
        meddle=lambda node, stage, reply: None if node in lost.get(stage, ()) else reply,
        **{"max-dropout": 0.33, "round-timeout": 0.01},
    )
    counted = set(range(100)) - {
        node - 1000 for stage in pair if stage in (KEYS, SHARES, ANSWER) for node in lost[stage]
    }
    assert np.array_equal(made.release(), made.expected(counted))
    assert made.pool.rounds[0].num_answered == len(counted)


@pytest.mark.parametrize(
    "stage", [pytest.param(KEYS), *(pytest.param(each, marks=pytest.mark.slow) for each in STAGES[1:])]
)
def test_more_that_drop_out_lose_the_release(stage, monkeypatch):
    monkeypatch.setattr(graph, "COMPLETE_UP_TO", 50)
    made = make_large_federation(
        100,
        meddle=lambda node, at, reply: None if at == stage and node < 1070 else reply,
        **{"max-dropout": 0.33, "round-timeout": 0.01},
    )
    with pytest.raises(ReleaseLostError):
        made.release()
    assert (made.ledger.num_releases, made.ledger.num_lost) == (1, 1)


def test_noise_is_enough_without_those_that_conspire():
    """Of 40 clients two may conspire: as many more answers are needed, and each adds no less noise."""
    made = make_large_federation(40, noise=None, **{"max-dropout": 0.2})
    mechanism = made.ledger.plan.entry("votes").mechanism
    scale = mechanism.share_scale(mechanism.num_answers_needed(40))
    needed = num_summed(mechanism, 40, num_colluding(40, 0.05))
    assert needed == 34 and (needed - 2 - 1) * scale**2 >= mechanism.noise_scale**2 * (1 - 1e-12)
    made.release()
    assert made.pool.rounds[0].num_needed == 34


def test_settings_that_change_between_rounds_are_refused():
    made = make_large_federation(5)
    made.release()
    for context in made.grid.contexts.values():
        context.run_config = {**context.run_config, "num-clients": 6}
    with pytest.raises(ReleaseLostError):
        made.release()
    reasons = {each.reason for each in made.grid.seen if each.reason}
    assert len(reasons) == 1 and "The run's settings are others than at its first question" in reasons.pop()


def fork(server, node=1000):
    """Return a client's state as a second process of its node would find it."""
    return context_from_proto(context_to_proto(server.made.grid.contexts[node]))


def test_answers_to_different_questions_are_not_summed(server):
    """The server asks the victim for votes that are noisier than what it asks the others for."""
    other = NearestCandidates.of(-server.made.question.arrays()["candidates"].astype(float) / 2**11)
    server.keys().shares().answers(questions={1000: other})
    for node in server.nodes:
        with pytest.raises(RefusalError, match="or answers another question"):
            ask(server.made, node, CONFIRM, server.confirming(node, server.nodes))


def test_a_question_is_signed_with_all_of_its_content(server):
    message, digest = server.question()
    assert server.question()[1] == digest and len(digest) == 32
    question = server.made.question
    encoded = encode(question, 16)
    numbers = {**encoded.numbers, "num_asked": 5}
    assert Encoded(encoded.arrays, numbers).digest(question) == digest
    for changed in (
        Encoded(encoded.arrays, {**numbers, "num_asked": 6}),
        Encoded([encoded.arrays[0] + 1], numbers),
        Encoded([encoded.arrays[0].reshape(48, -1)], numbers),
        Encoded([encoded.arrays[0].view(np.uint16)], numbers),
    ):
        assert changed.digest(question) != digest
    with pytest.raises(TypeError):
        Encoded(encoded.arrays, {**numbers, "more": b"x"}).digest(question)


@pytest.mark.parametrize(
    "changes", [{"noise-multiplier": 0.5}, {"max-dropout": 0.45}, {"max-colluding": 0.1}, {"num-clients": 6}]
)
def test_clients_with_different_settings_are_not_summed(server, changes):
    """The server tells the victim other settings, by which the others should add more noise than they do."""
    context = server.made.grid.contexts[1000]
    context.run_config = {**context.run_config, **changes}
    server.keys().shares().answers()
    for node in server.nodes:
        with pytest.raises(RefusalError, match="has masked its answer among other clients than this client"):
            ask(server.made, node, CONFIRM, server.confirming(node, server.nodes))


@pytest.mark.parametrize("stage", STAGES[1:])
def test_a_release_keeps_its_settings_run_and_node(server, stage):
    for step in (server.keys, server.shares, server.answers, server.confirm)[: STAGES.index(stage)]:
        step()
    context = server.made.grid.contexts[1000]
    settings = context.run_config
    context.run_config = {**settings, "max-dropout": 0.45}
    with pytest.raises(RefusalError, match="The run's settings are others than at its first question"):
        ask(server.made, 1000, stage, {})
    context.run_config, context.run_id = settings, 2
    with pytest.raises(RefusalError, match="made its keys for another run or node"):
        ask(server.made, 1000, stage, {})
    context.run_id = 1
    with pytest.raises(RefusalError, match="made its keys for another run or node"):
        ask(server.made, 1000, stage, {}, named=1001)


def test_a_mask_belongs_to_one_pair_of_keys():
    """An X25519 key with its top bit flipped is the same point, so a conspirator can copy another's secrets."""
    private = {node: X25519PrivateKey.generate() for node in (1, 2, 3)}
    public = {node: Keys(key.public_key().public_bytes_raw(), bytes(32), bytes(32)) for node, key in private.items()}
    copied = public[1].masks[:31] + bytes([public[1].masks[31] ^ 128])
    roster = Roster({**public, 3: public[3]._replace(masks=copied)}, find_graph(3, 1, 3), bytes(32))

    def mask(own, other, question=bytes(32), among=roster):
        return among.common_mask(private[own], own, other, question, 100)

    assert masking.shared_secret(private[2], copied) == masking.shared_secret(private[2], public[1].masks)
    assert np.array_equal(mask(2, 1), mask(1, 2)) and not np.array_equal(mask(2, 3), mask(2, 1))
    assert not np.array_equal(mask(2, 1), mask(2, 1, question=bytes(31) + b"1"))
    flipped = Roster({**public, 1: public[1]._replace(masks=copied)}, roster.graph, bytes(32))
    for changed in (flipped, replace(roster, terms=bytes(31) + b"1")):
        assert not np.array_equal(mask(2, 1), mask(2, 1, among=changed))


def test_those_that_conspire_are_counted_among_all_clients_of_the_run():
    """The server asks 51 of 1,000 clients: the victim, and 50 that conspire with it."""
    made = make_large_federation(3, **{"num-clients": 1000, "max-dropout": 0.25})
    for number in (3, 51, 199):
        with pytest.raises(RefusalError, match=f"Of {number} asked clients, 50 may conspire with the server"):
            ask(made, 1000, KEYS, {"num_asked": number})
    assert ask(made, 1000, KEYS, {"num_asked": 200})["keys"]
    assert made.grid.contexts[1000].state.config_records[MASKS]["num_needed"] == 200


def test_one_that_conspires_gets_no_two_sets_of_a_few_clients(server):
    """Of five clients, one signs two sets of three, whose other members have nothing in common."""
    server.keys().shares().answers()
    for chosen in ((1000, 1001, 1004), (1002, 1003, 1004)):
        for node in chosen:
            with pytest.raises(RefusalError, match="3 clients would be summed, and 4 are needed"):
                ask(server.made, node, CONFIRM, server.confirming(node, chosen))


@pytest.mark.parametrize(
    ("limit", "message"),
    [
        ({"min-clients": 6}, "5 clients are fewer than `min-clients`=6 of this node"),
        ({"min-colluding": 2}, "safe from 1 clients that conspire with its server, fewer than `min-colluding`=2"),
    ],
)
def test_an_owner_may_ask_for_a_larger_crowd(server, limit, message):
    server.made.grid.contexts[1000].node_config = limit
    with pytest.raises(RefusalError, match=message):
        ask(server.made, 1000, KEYS, {"num_asked": 5})
    with pytest.raises(ValueError, match=f"4 of 5 clients will answer|{message}"):
        server.made.grid.contexts[1001].node_config = limit
        server.made.release()
    assert server.made.ledger.num_releases == 0, "it is refused before anything is spent"


def test_an_owner_who_wants_a_larger_crowd_costs_no_release():
    """Of eight clients, one is away, so another one that answers among eight only is not asked. Six are enough."""
    away = lambda node, at, reply: None if node == 1000 and at == client.KNOWS else reply  # noqa: E731
    made = make_large_federation(8, meddle=away, **{"max-dropout": 0.45, "round-timeout": 0.01})
    made.grid.contexts[1001].node_config = {"min-clients": 8}
    made.release()
    assert [(each.num_asked, each.is_released) for each in made.pool.rounds] == [(6, True)]
    made.grid.contexts[1002].node_config = {"min-clients": 6}
    made.release()
    assert made.pool.rounds[-1].num_asked == 6, "six are there"
    few = make_large_federation(8, meddle=away, **{"max-dropout": 0.45, "round-timeout": 0.01})
    for context in few.grid.contexts.values():
        context.node_config = {"min-clients": 8}
    with pytest.raises(
        ValueError, match="Nothing was spent. The first refusal: 7 clients are fewer than `min-clients`=8"
    ):
        few.release()
    assert few.ledger.num_releases == 0


@pytest.mark.parametrize("stage", STAGES[1:])
@pytest.mark.parametrize("is_private", [False, True])
def test_two_processes_of_a_node_give_one_reply(server, stage, is_private, monkeypatch, tmp_path):
    """Flower starts a process for each message. Both may begin with the same state of the node."""
    if is_private:
        texts = tmp_path / "texts.jsonl"
        texts.write_text("{}")
        server.made.grid.contexts[1000].node_config = {"private": str(texts), **LIMITS}
    for step in (server.keys, server.shares, server.answers, server.confirm)[: STAGES.index(stage)]:
        step()
    second = fork(server)
    question = server.question()[0] if stage == ANSWER else None
    asked = {
        SHARES: lambda: server.roster.to_record(),
        ANSWER: lambda: server.inbox(1000),
        CONFIRM: lambda: server.confirming(1000, server.nodes),
        UNMASK: lambda: server.unmasking(),
    }[stage]()
    ask(server.made, 1000, stage, asked, question)
    server.made.grid.contexts[1000] = second
    if is_private:
        monkeypatch.setattr(client, "_BURNT", set())  # Another process has another one.
    with pytest.raises(RefusalError, match=f"was asked for the stage '{stage}' with these keys already"):
        ask(server.made, 1000, stage, asked, question)
    if is_private:
        assert len(NodeLedger(texts).answers()) == (stage != SHARES)


@pytest.mark.parametrize("run", [1, 2])
def test_the_same_texts_are_in_a_sum_once(server, tmp_path, run):
    """A server that shows a node to itself, as a node of another run, or two SuperNodes of one text and ledger.

    The sum would hold the text twice, for one entry in the ledger a run.
    """
    texts = tmp_path / "texts.jsonl"
    texts.write_text('{"text": "a"}')
    for node in (1000, 1001):
        server.made.grid.contexts[node].node_config = {"private": str(texts), **LIMITS}
    server.made.grid.contexts[1001].run_id = run
    server.keys()
    for node in (1000, 1001):
        with pytest.raises(RefusalError, match="other keys that this client has made"):
            ask(server.made, node, SHARES, server.roster.to_record())
    assert not NodeLedger(texts).answers()


def test_more_answers_are_needed_where_some_may_be_left_out():
    """What cards and errors say is what opens a mask, and not what the noise alone needs."""
    asked = MaskedSum(None, list(range(1000)), 800, 50, bytes(32), 4, 1.0, set())
    assert asked.num_to_open == find_graph(1000, 50, 800).num_to_open == 813


def test_answers_of_two_runs_are_not_summed(server):
    server.made.grid.contexts[1004].run_id = 2
    server.keys().shares().answers()
    statement = server.roster.masked_among(server.question()[1], set(server.nodes))
    is_signed = [server.roster.is_signed(node, server.answered[node], statement) for node in server.nodes]
    assert is_signed == [True, True, True, True, False]


@pytest.mark.parametrize(("size", "max_dropout"), [(201, 0.06), (250, 0.05)])
def test_as_many_clients_as_there_are_can_open_a_release(size, max_dropout):
    """The smallest safe degree would ask for more answers than there are clients."""
    mechanism = Plan.from_config(make_large_federation(5).config).entry("votes").mechanism
    colluding = num_colluding(size, 0.05 if max_dropout > 0.05 else 0.02)
    needed = num_summed(replace(mechanism, max_dropout=max_dropout), size, colluding)
    found = find_graph(size, colluding, needed)
    assert found.num_to_open <= size
    found.check()


def test_a_line_that_a_crash_cut_burns_nothing_and_spoils_nothing(tmp_path):
    ledger = NodeLedger(tmp_path / "texts.jsonl")
    list_of_stages = tmp_path / "texts.jsonl.budget.json.stages"
    list_of_stages.write_text("one keys\ntwo ke")
    assert not ledger.burn("one keys") and ledger.burn("two keys") and ledger.burn("two shares")
    assert not ledger.burn("two keys") and not ledger.burn("two shares")


def test_old_keys_of_one_client_end_no_run():
    """It sends those of its first release again and again. The server drops it, before others refuse the roster."""
    old = {}

    def replay(node, stage, reply):
        if node == 1003 and stage == KEYS:
            reply.content.config_records[MASKS] = ConfigRecord(
                {"keys": old.setdefault("keys", reply.content.config_records[MASKS]["keys"])}
            )
        return reply

    made = make_large_federation(8, meddle=replay)
    assert np.array_equal(made.release(), made.expected(range(8)))
    for _ in range(3):
        assert np.array_equal(made.release(), made.expected(set(range(8)) - {3}))
    assert made.ledger.num_lost == 0


def test_a_clock_that_jumps_changes_nothing(monkeypatch):
    """The clock of the day, by a day at every look, forwards and back. Waiting goes by another one."""
    jumps, now = itertools.cycle([86_400.0, -90_000.0]), time.time()
    monkeypatch.setattr(time, "time", lambda: now + next(jumps))
    made = make_large_federation(5, **{"round-timeout": 5.0})
    for _ in range(2):
        assert np.array_equal(made.release(), made.expected(range(5)))


def test_a_machine_that_was_asleep_still_reads_what_has_arrived(monkeypatch):
    """The clock of waiting jumps by a day at every look: no time is left, but all answers are there."""
    days = itertools.count()
    monkeypatch.setattr(time, "monotonic", lambda: 86_400.0 * next(days))
    made = make_large_federation(5)
    assert np.array_equal(made.release(), made.expected(range(5))) and made.pool.rounds[0].num_answered == 5


@pytest.mark.parametrize("stage", STAGES)
def test_a_late_reply_is_dropped_and_its_client_is_asked_again(stage, monkeypatch):
    """It arrives when the next stage has begun. Its answer is summed if that one was in time, and never later."""
    made, late = make_large_federation(8, **{"max-dropout": 0.4, "round-timeout": 0.3}), {}
    grid, stages = made.grid, []
    push, pull = grid.push_messages, grid.pull_messages

    def hold(node, at, reply):
        if node == 1003 and at == stage and len(stages) <= len(STAGES) + 1:  # In the first release.
            late.update(reply=reply, stages=len(stages))
            return None
        return reply

    def push_counted(messages):
        stages.append(1)
        return push(messages)

    def pull_late(names):
        if late and len(stages) > late["stages"]:
            grid.replies.update({name: late["reply"] for name, each in grid.replies.items() if each is None})
        return pull(names)

    grid.meddle = hold
    monkeypatch.setattr(grid, "push_messages", push_counted)
    monkeypatch.setattr(grid, "pull_messages", pull_late)
    counted = set(range(8)) - ({3} if stage in (KEYS, SHARES, ANSWER) else set())
    assert np.array_equal(made.release(), made.expected(counted)) and late
    late.clear()
    assert np.array_equal(made.release(), made.expected(range(8)))
    assert [each.num_answered for each in made.pool.rounds] == [len(counted), 8] and made.ledger.num_lost == 0


def test_who_did_not_answer_is_asked_last():
    """Of nine clients eight are asked. The ninth takes the place of the one that is slow, as long as there is one."""
    made = make_large_federation(
        9,
        meddle=lambda node, stage, reply: None if node == 1003 and stage == KEYS else reply,
        **{"num-clients": 8, "max-dropout": 0.4, "round-timeout": 0.3},
    )
    assert np.array_equal(made.release(), made.expected(set(range(8)) - {3}))
    for _ in range(2):
        assert np.array_equal(made.release(), made.expected(set(range(9)) - {3}))


def test_a_mask_that_the_server_hides_from_a_client_loses_the_release(monkeypatch):
    """In a sparse graph it keeps one sealed share from its holder, who then has a mask less than who chose it."""
    monkeypatch.setattr(graph, "COMPLETE_UP_TO", 50)
    made = make_large_federation(100, **{"max-dropout": 0.3, "round-timeout": 5.0})
    push, hidden = made.grid.push_messages, []

    def push_less(messages):
        for message in messages:
            record = message.content.config_records.get(MASKS, {})
            if message.metadata.dst_node_id == 1000 and "sealed" in record:
                chosen = made.grid.contexts[1000].state.config_records[MASKS]["holders"]
                senders = list(record["senders"])
                at = next(index for index, sender in enumerate(senders) if sender not in chosen)
                hidden.append(senders.pop(at))
                start, end = (masking.SEALED_BYTES * each for each in (at, at + 1))
                record["senders"], record["sealed"] = senders, record["sealed"][:start] + record["sealed"][end:]
        return push(messages)

    monkeypatch.setattr(made.grid, "push_messages", push_less)
    with pytest.raises(ReleaseLostError):
        made.release()
    assert hidden and (made.ledger.num_releases, made.ledger.num_lost) == (1, 1)


def test_nothing_of_flower_is_mended():
    """Its secure aggregation is not used. A release changes no module of it."""
    import sys

    before = {name: dict(vars(module)) for name, module in sys.modules.items() if name.startswith("flwr.")}
    make_large_federation(5, no_noise).release()
    for name, own in before.items():
        now = vars(sys.modules[name])
        assert all(now[key] is value for key, value in own.items() if callable(value)), name
