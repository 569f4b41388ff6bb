"""A federation: the real ClientApp and the real pool, with messages handed over in one process."""

import json
import math
import shutil
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from datasets import load_from_disk
from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.common import Code, FitRes, Status, ndarrays_to_parameters
from flwr.compat.common import recorddict_compat
from scipy import stats

from hf_pretext import PrivacyReport, PrivateEvolutionGenerator
from hf_pretext.clients.questions import MeanEmbedding, NearestCandidates, Question
from hf_pretext.federated import client, masked_client, node_texts, protocol, server
from hf_pretext.federated.masking import ANSWER, MASKS, STAGES
from hf_pretext.federated.server import _is_plausible
from hf_pretext.federated.settings import FederationSettings
from hf_pretext.models import load_sentence_transformer
from hf_pretext.models.embedder import TextEmbedder
from hf_pretext.privacy import Plan, ReleaseLostError
from hf_pretext.privacy.mechanism import MIN_SCALE
from hf_pretext.privacy.noise import DiscreteGaussian
from support.federation import (
    config_of,
    in_memory_answer,
    in_memory_votes,
    make_context,
    make_federation,
    make_large_federation,
    make_run_config,
    no_noise,
)
from support.tiny import random_texts

COLLECT = ANSWER


@pytest.fixture(scope="module")
def embedding_model(models_folder):
    return models_folder / "embedding_model"


@pytest.fixture(scope="module")
def embedder(embedding_model):
    return TextEmbedder(load_sentence_transformer(str(embedding_model), torch.device("cpu"), torch.float32))


@pytest.fixture(scope="module")
def candidates(embedder):
    return embedder(random_texts(24, seed=99))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Five clients with 2 to 14 samples, and a file of all of them."""
    folder = tmp_path_factory.mktemp("clients")
    paths = [folder / f"{number}.jsonl" for number in range(5)]
    for number, path in enumerate(paths):
        rows = [{"client_id": f"c{number}", "text": text} for text in random_texts(2 + 3 * number, seed=number)]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "all.jsonl").write_text("".join(path.read_text() for path in paths))
    return paths


@pytest.mark.parametrize(("bits", "votes_per_sample"), [(16, 1), (8, 1), (16, 3)])
def test_the_sum_is_that_of_the_in_memory_pool_bin_by_bin(
    files, embedding_model, embedder, candidates, bits, votes_per_sample
):
    settings = {"candidate-bits": bits, "votes-per-sample": votes_per_sample}
    made = make_federation(files, embedding_model, noise=no_noise, **settings)
    question = NearestCandidates.of(candidates, votes_per_sample)
    received = protocol.decode(protocol.encode(question, bits))
    expected = in_memory_answer(files, embedder, made.config, received)
    votes = made.release(candidates)
    assert votes.any() and np.array_equal(votes, expected)
    assert made.config.votes_per_sample == votes_per_sample
    assert not PrivacyReport.from_ledger(made.ledger, made.config).is_finite, "injected noise is no guarantee"


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("num_lost", [1, 2])
def test_as_many_as_stated_may_drop_out_and_no_more(files, embedding_model, embedder, candidates, stage, num_lost):
    """Of five clients with `max_dropout` 0.4, three answers are noise enough, and one client may conspire.

    So four are needed, at every stage of the protocol.
    """
    lost = {1000, 1001}.intersection(range(1000, 1000 + num_lost))

    def drop(node, at, reply):
        return None if node in lost and at == stage else reply

    made = make_federation(files, embedding_model, noise=no_noise, meddle=drop, **{"round-timeout": 0.1})
    if num_lost == 2:
        with pytest.raises(ReleaseLostError, match="4 are needed"):
            made.release(candidates)
        assert (made.ledger.num_releases, made.ledger.num_lost) == (1, 1)
        assert not made.pool.rounds[0].is_released
        return
    # Votes that arrived count, also of those who fell silent afterwards.
    counted = files if stage in ("confirm", "unmask") else files[num_lost:]
    assert np.array_equal(made.release(candidates), in_memory_votes(counted, embedder, made.config, candidates))
    assert made.pool.rounds[0].num_answered == len(counted)


def other(content):
    return RecordDict({MASKS: ConfigRecord(content)})


def remade(change):
    def make(given):
        return other({**given, **change(given)})

    return make


MALFORMED = {
    "nothing at all": ("keys", lambda given: RecordDict()),
    "a key that is too short": ("keys", remade(lambda given: {"keys": given["keys"][:-1]})),
    "keys of a megabyte": ("keys", remade(lambda given: {"keys": given["keys"] + b" " * 2**20})),
    "one key twice": ("keys", remade(lambda given: {"keys": 2 * given["keys"][:32] + given["keys"][64:]})),
    "a point that everyone knows": ("keys", remade(lambda given: {"keys": bytes(32) + given["keys"][32:]})),
    "a key of another type": ("keys", remade(lambda given: {"keys": 5})),
    "a share for nobody": ("shares", remade(lambda given: {"holders": [*given["holders"][:-1], 77]})),
    "a share for itself": ("shares", remade(lambda given: {"holders": [*given["holders"][:-1], 1002]})),
    "one share too few": ("shares", remade(lambda given: {"sealed": given["sealed"][148:]})),
    "one vote too few": (COLLECT, remade(lambda given: {"masked": given["masked"][4:]})),
    "a hundred megabytes of votes": (COLLECT, remade(lambda given: {"masked": bytes(10**8)})),
    "votes of another type": (COLLECT, remade(lambda given: {"masked": "1234" * 25})),
    "a signature of nothing": (COLLECT, remade(lambda given: {"signature": given["signature"][::-1]})),
    "a signature of something else": ("confirm", remade(lambda given: {"signature": given["signature"][::-1]})),
    "one opening too few": ("unmask", remade(lambda given: {"shares": given["shares"][66:]})),
    "shares of another field": ("unmask", remade(lambda given: {"shares": b"\xff" * len(given["shares"])})),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_reply_counts_as_not_given(files, embedding_model, embedder, candidates, name):
    stage, make = MALFORMED[name]

    def meddle(node, at, reply):
        if node == 1002 and at == stage:
            reply.content = make(reply.content.config_records[MASKS])
        return reply

    made = make_federation(files, embedding_model, noise=no_noise, meddle=meddle)
    counted = files if stage in ("confirm", "unmask") else files[:2] + files[3:]
    votes = made.release(candidates)
    assert np.array_equal(votes, in_memory_votes(counted, embedder, made.config, candidates))


def test_a_share_that_is_wrong_in_substance_spoils_its_round_and_not_the_run(files, embedding_model, candidates):
    """It cannot be told from a sound one, but the sum under a mask that did not come off can."""
    rounds = iter(range(100))

    def lie(node, at, reply):
        if node == 1002 and at == "unmask" and next(rounds) == 0:
            given = reply.content.config_records[MASKS]
            reply.content = other({"shares": given["shares"][:-2] + b"xy"})
        return reply

    made = make_federation(files, embedding_model, meddle=lie)
    with pytest.raises(ReleaseLostError):
        made.release(candidates)
    assert np.abs(made.release(candidates)).max() < 60
    assert (made.ledger.num_releases, made.ledger.num_lost) == (2, 1)


def test_the_server_sees_masked_votes_only(files, embedding_model, candidates):
    """What single clients sent: uniform in the ring, another vector every round, and nothing beside it.

    The votes are the same in every round, and without noise. 16 equal ranges of the ring: a false alarm in 1e6.
    """
    made = make_federation(files, embedding_model, noise=no_noise)
    for _ in range(20):
        made.release(candidates)
    sent = [each.content for each in made.grid.seen if each.stage == COLLECT]
    assert len(sent) == 100
    vectors = []
    for content in sent:
        assert list(content) == [MASKS] and set(content[MASKS]) == {"masked", "signature"}
        vectors.append(np.frombuffer(content[MASKS]["masked"], dtype="<u4"))
    assert len({vector.tobytes() for vector in vectors}) == 100
    ranges = np.bincount(np.concatenate(vectors) >> 28, minlength=16)
    assert stats.chisquare(ranges).pvalue > 1e-6
    # And nobody's error, metric or number of examples travels at other stages.
    assert all(list(each.content) == [each.stage if each.stage == client.KNOWS else MASKS] for each in made.grid.seen)


@pytest.mark.parametrize("num_dropped", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_noise_of_the_sum_is_what_is_accounted_for(files, embedding_model, candidates, num_dropped):
    """With as few answers as are needed, all but two are enough. 96 bins, 7 rounds: five standard errors."""

    def drop(node, at, reply):
        return None if node < 1000 + num_dropped and at == COLLECT else reply

    made = make_federation(files, embedding_model, meddle=drop, **{"round-timeout": 0.01, "population-size": 96})
    many = np.concatenate([candidates, -candidates, candidates[::-1], -candidates[::-1]])
    draws = np.array([made.release(many) for _ in range(7)])
    # Four answers are needed, and two of them are enough: one may conspire with the server, and another one that
    # knows its own noise learns no more.
    claimed = math.sqrt((5 - num_dropped) / 2) * votes_of(made.config).noise_std
    spread = (draws - draws.mean(axis=0)).std() * math.sqrt(7 / 6)
    assert abs(spread / claimed - 1) < 5 / math.sqrt(2 * draws.size)
    report = PrivacyReport.from_ledger(made.ledger, made.config, 5)
    assert report.is_finite and "up to 40% of them fail to answer and one of the others looks" in report.mechanism
    assert any("Secure aggregation hides single answers" in each for each in report.assumptions)


def votes_of(config):
    return Plan.from_config(config).entry("votes").mechanism


def pmf(variance, reach):
    weights = np.exp(-(np.arange(-reach, reach + 1) ** 2) / (2 * variance))
    return weights / weights.sum()


@pytest.mark.parametrize("variance", [0.3, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("num_shares", [2, 3, 7])
def test_a_sum_of_discrete_gaussians_is_one_up_to_the_stated_factor(variance, num_shares):
    """The bound of `Mechanism`'s docstring, where it is large enough to be seen: by exact convolution."""
    share = pmf(variance, 60)
    total = share
    for _ in range(num_shares - 1):
        total = np.convolve(total, share)
    ratio = np.log(total / pmf(variance * num_shares, len(total) // 2))[len(total) // 2 - 12 : len(total) // 2 + 13]
    bound = 5 * (num_shares - 1) * math.exp(-(math.pi**2) * variance)
    assert np.abs(ratio).max() <= bound + 1e-12
    # At the smallest share that is allowed, it is zero in any arithmetic.
    assert 10**6 * math.exp(-(math.pi**2) * MIN_SCALE**2) == 0.0


def test_shares_sum_to_the_discrete_gaussian():
    """40,000 sums of five shares of the smallest scale, chi-squared: a false alarm in 1e6."""
    draws = sum(DiscreteGaussian()(MIN_SCALE, 40_000) for _ in range(5))
    scale = MIN_SCALE * math.sqrt(5)
    reach = int(4 * scale)
    expected = 40_000 * pmf(scale**2, 10 * reach)[9 * reach : 11 * reach + 1]
    observed = np.bincount(np.clip(draws, -reach, reach) + reach, minlength=2 * reach + 1)
    expected[[0, -1]] += (40_000 - expected.sum()) / 2
    assert stats.chisquare(observed, expected).pvalue > 1e-6


def test_shares_too_small_to_be_accounted_for_are_refused():
    mechanism = votes_of(config_of(**{"noise-multiplier": 0.001}))
    with pytest.raises(ValueError, match="below 16: their sum is not accounted for"):
        mechanism.share_scale(9)
    with pytest.raises(ValueError, match="do not fit into the 32 bits"):
        protocol.check_capacity(votes_of(config_of(**{"noise-multiplier": 500.0})), 2000)


@pytest.mark.parametrize(("num_clients", "needed"), [(3, 2), (5, 3), (8, 5), (10, 6), (1000, 600)])
def test_answers_needed_are_more_than_half(num_clients, needed):
    assert votes_of(config_of()).num_answers_needed(num_clients) == needed
    assert replace(votes_of(config_of()), max_dropout=0.0).num_answers_needed(7) == 7


def ask(made, node, content, message_type="train.keys"):
    message = Message(content, dst_node_id=node, message_type=message_type)
    message.metadata.__dict__.update(_message_id="x", _run_id=1, _src_node_id=1)
    return made.grid.apps[node](message, made.grid.contexts[node])


SETUP = {"num_asked": 5}


@pytest.mark.parametrize("number", [2, 6, 0, -5, True, 5.0, "5"])
def test_a_client_refuses_to_be_one_of_another_number_of_clients(files, embedding_model, number):
    made = make_federation(files, embedding_model)
    ask(made, 1000, other(SETUP))
    with pytest.raises(client.RefusalError):
        ask(made, 1000, other({"num_asked": number}))


def test_a_client_with_private_text_sends_no_vote_without_a_mask(files, embedding_model):
    made = make_federation(files, embedding_model, **{"secure-aggregation": False})
    with pytest.raises(client.RefusalError, match="Answers without a mask are for simulations"):
        ask(made, 1000, RecordDict(), "train.plain")


def test_a_client_answers_the_protocol_s_messages_only(files, embedding_model):
    made = make_federation(files, embedding_model)
    for kind in ("train.default", "train", "evaluate", "query"):
        with pytest.raises(ValueError, match=f"{kind.partition('.')[0]}.* (registered|is not part of the protocol)"):
            ask(made, 1000, other(SETUP), kind)


@pytest.mark.parametrize(
    ("node_config", "message"),
    [
        ({"max-epsilon": 1.0}, "`max-epsilon`=1 of this node is less than this run's"),
        ({"max-delta": 1e-6}, "`max-delta`=1e-06 of this node is less than this run's 1e-05"),
        ({"private": None}, "`private` is not in the node's configuration"),
    ],
)
def test_a_node_s_own_configuration_bounds_what_a_run_may_cost(files, embedding_model, node_config, message):
    made = make_federation(files, embedding_model)
    context = made.grid.contexts[1000]
    for name, value in node_config.items():
        context.node_config.pop(name, None)
        context.node_config.update({name: value} if value is not None else {})
    with pytest.raises(client.RefusalError, match=message):
        ask(made, 1000, other(SETUP))


def test_no_server_chooses_the_file_that_a_node_reads(files, embedding_model):
    made = make_federation(files, embedding_model, **{"simulated-private": str(files[0])})
    del made.grid.contexts[1000].node_config["private"]
    with pytest.raises(client.RefusalError, match="`simulated_private` is for simulations"):
        ask(made, 1000, other(SETUP))
    made.grid.contexts[1000].node_config["partition-id"] = 0
    with pytest.raises(client.RefusalError, match="which no server may choose.*HF_PRETEXT_SIMULATION=1"):
        ask(made, 1000, other(SETUP))


def test_a_client_votes_no_oftener_than_the_run_has_rounds(files, embedding_model, candidates):
    made = make_federation(files, embedding_model, **{"num-rounds": 2})
    for _ in range(2):
        made.release(candidates)
    with pytest.raises(ReleaseLostError, match="0 of 5 clients answered"):
        made.release(candidates)
    assert made.ledger.num_releases == 3
    reasons = {each.reason for each in made.grid.seen if each.reason}
    assert len(reasons) == 1 and "this client has answered all of them" in reasons.pop()


def test_whether_a_client_answers_does_not_depend_on_its_texts(files, embedding_model, embedder, tmp_path, candidates):
    """Texts that cannot be read vote for nothing; only what is no secret, such as a missing file, is told."""
    secret = tmp_path / "secret.jsonl"
    secret.write_text('{"client_id": "xylophone", "text": "quokka marzipan"}\n{"client_id": "other", "text": 5}\n')
    two = tmp_path / "two.jsonl"
    two.write_text('{"client_id": "xylophone", "text": "quokka"}\n{"client_id": "zebra", "text": "marzipan"}\n')
    broken = tmp_path / "broken.jsonl"
    broken.write_text('{"quokka')
    made = make_federation(
        [secret, two, broken, tmp_path / "quokka-is-missing.jsonl", *files[:3]], embedding_model, noise=no_noise
    )
    votes = made.release(candidates)
    assert np.array_equal(votes, in_memory_votes(files[:3], embedder, made.config, candidates))
    assert made.pool.rounds[0].num_answered == 6
    (reason,) = {each.reason for each in made.grid.seen if each.reason}
    assert "The file that `private` names in the node's configuration does not exist" in reason
    assert not any(word in reason for word in ("quokka", "marzipan", "xylophone", "zebra"))


def test_an_error_of_a_client_is_not_told(files, embedding_model, candidates, monkeypatch):
    def fails(*_):
        raise KeyError("quokka")

    monkeypatch.setattr(client, "sum_answers", fails)
    made = make_federation(files, embedding_model)
    with pytest.raises(ReleaseLostError):
        made.release(candidates)
    (reason,) = {each.reason for each in made.grid.seen if each.reason}
    assert "The client failed. Its own log says more." in reason and "Key" not in reason


@pytest.mark.parametrize("own", [0, 2, 2**31])
def test_a_mask_that_is_not_the_agreed_one_spoils_the_round(files, embedding_model, candidates, monkeypatch, own):
    """One client puts another number before its votes, as a wrong mask would."""
    expand, calls = masked_client.expand, []

    def expand_another(seed, length):
        calls.append(own)
        return expand(seed, length) + np.uint32((own - 1) % 2**32 if len(calls) == 1 else 0)

    monkeypatch.setattr(masked_client, "expand", expand_another)
    made = make_federation(files, embedding_model)
    with pytest.raises(ReleaseLostError):
        made.release(candidates)
    assert len(calls) == 5
    made.release(candidates)


def silent(node, at, reply):
    """A client that says what it knows, and then answers nothing."""
    return reply if at == client.KNOWS else None


def test_clients_that_never_answer_cost_nothing(files, embedding_model, candidates):
    made = make_federation(files, embedding_model, meddle=lambda *_: None, **{"round-timeout": 0.01})
    with pytest.raises(ValueError, match="0 of 5 clients will answer the question 'votes', and 4 are needed. Nothing"):
        made.release(candidates)
    assert made.ledger.num_releases == 0


def test_a_run_stops_before_rounds_that_would_be_lost_as_well(files, embedding_model, candidates):
    made = make_federation(files, embedding_model, meddle=silent, **{"round-timeout": 0.01})
    for _ in range(2):
        with pytest.raises(ReleaseLostError):
            made.release(candidates)
    with pytest.raises(RuntimeError, match="2 rounds in a row were lost"):
        made.release(candidates)
    assert made.ledger.num_releases == 2


def test_a_client_without_texts_adds_its_noise(files, embedding_model, embedder, tmp_path, candidates):
    empty = tmp_path / "empty.jsonl"
    empty.write_text('{"client_id": "x", "text": " "}\n')
    made = make_federation([*files, empty], embedding_model, noise=no_noise)
    with pytest.warns(UserWarning, match="blank texts"):
        votes = made.release(candidates)
    assert np.array_equal(votes, in_memory_votes(files, embedder, made.config, candidates))
    assert made.pool.rounds[0].num_answered == 6


def test_who_joins_late_takes_the_place_of_one_that_left(files, embedding_model, embedder, candidates):
    """And no more clients are asked than the run has, among whom the noise is divided."""
    made = make_federation(files, embedding_model, noise=no_noise, **{"num-clients": 4})

    def votes_are_of(*numbers):
        expected = in_memory_votes([files[number] for number in numbers], embedder, made.config, candidates)
        return np.array_equal(made.release(candidates), expected) and made.pool.rounds[-1].num_asked == 4

    late = made.grid.contexts.pop(1001)
    assert votes_are_of(0, 2, 3, 4)
    made.grid.contexts[1001] = late
    assert votes_are_of(0, 2, 3, 4)
    made.grid.contexts.pop(1003)
    assert votes_are_of(0, 1, 2, 4)
    for node in (1000, 1001):
        made.grid.contexts.pop(node)
    with pytest.raises(TimeoutError, match="2 clients are connected, and 4 are needed"):
        made.release(candidates)
    assert made.ledger.num_releases == 3, "nothing is spent where nobody was asked"


def test_a_simulation_without_masks(files, embedding_model, embedder, candidates, monkeypatch):
    monkeypatch.setenv(node_texts.SIMULATION, "1")
    changes = {"secure-aggregation": False, "simulated-private": str(files[0].parent / "all.jsonl")}
    made = make_federation(files, embedding_model, noise=no_noise, **changes)
    for number, node in enumerate(made.grid.contexts):
        made.grid.contexts[node] = make_context(
            make_run_config(embedding_model, **{"num-clients": 5, **changes}), node, **{"partition-id": number}
        )
    votes = made.release(candidates)
    assert np.array_equal(votes, in_memory_votes(files, embedder, made.config, candidates))


def test_the_server_app_makes_a_dataset_and_a_lost_round_is_skipped(files, models_folder, tmp_path):
    """The whole of a run, in which the second of three rounds loses four clients of five."""
    public = tmp_path / "public.jsonl"
    public.write_text("".join(json.dumps({"text": text}) + "\n" for text in random_texts(40, seed=7)))
    collected = []

    def drop(node, at, reply):
        collected.extend([node] if at == COLLECT else [])
        return None if at == COLLECT and 5 < len(collected) <= 9 else reply

    changes = {
        "output-dir": str(tmp_path / "out"),
        "variation-model": str(models_folder / "variation_model"),
        "expansion-model": str(models_folder / "expansion_model"),
        "initial-population": str(public),
        "num-rounds": 3,
        "lookahead": 0,
        "max-new-tokens": 8,
        "min-words": 1,
        "max-length": 32,
        "round-timeout": 0.3,
    }
    made = make_federation(files, models_folder / "embedding_model", meddle=drop, **changes)
    run_config = make_run_config(models_folder / "embedding_model", **{"num-clients": 5, **changes})
    with pytest.warns(UserWarning, match="Round 2/3: the release was lost"):
        server.make_server_app()(made.grid, make_context(run_config))
    assert len(load_from_disk(str(tmp_path / "out"))) == 4
    rounds = json.loads((tmp_path / "out" / "federation.json").read_text())
    assert [(each["num_answered"], each["is_released"]) for each in rounds] == [(5, True), (1, False), (5, True)]
    report = PrivacyReport.from_pretrained(tmp_path / "out")
    assert (report.num_rounds, report.num_lost, report.max_dropout, report.num_clients) == (3, 1, 0.4, 5)
    card = (tmp_path / "out" / "README.md").read_text()
    assert "| bytes to a client |" in card and "4 of 5" in card
    # Without its run folder it would be another run, of which no client is asked in vain.
    shutil.rmtree(tmp_path / "out" / "run")
    asked = len(collected)
    with pytest.raises(ValueError, match="holds the report of another run"):
        server.make_server_app()(made.grid, make_context(run_config))
    assert len(collected) == asked


def test_a_dataset_does_not_take_the_place_of_a_federation(private, public, bert, sentence_transformer):
    config = replace(config_of(), num_rounds=1)
    generator = PrivateEvolutionGenerator(bert, sentence_transformer, config=config)
    with pytest.raises(ValueError, match="`max_dropout`=0.4 is for a federation"):
        generator.evolve(private, initial_population=public)
    assert generator.ledger.num_releases == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num-client": 5}, "unknown keys: \\['num_client'\\]"),
        ({"num-clients": 2}, "`num_clients`=2 must be at least 3"),
        ({"num-samples": 0}, "`num_samples`=0"),
        ({"candidate-bits": 12}, "`candidate_bits`=12 must be one of"),
        ({"round-timeout": -1.0}, "`round_timeout`=-1.0"),
        ({"expansion-model": ""}, "`expansion_model`='' must be a non-empty string"),
        ({"secure-aggregation": 1}, "`secure_aggregation`=1 must be true or false"),
        ({"max-dropout": 0.5}, "`max_dropout`=0.5 must be below 0.5"),
        ({"client-sampling-rate": 0.5}, "`client_sampling_rate`=0.5 saves noise if no one sees"),
    ],
)
def test_settings_are_checked(changes, message):
    with pytest.raises((ValueError, TypeError), match=message):
        FederationSettings.split(make_run_config("model", **changes))
    with pytest.raises(ValueError, match="lacks the keys \\['max_dropout'\\]"):
        values = make_run_config("model")
        del values["max-dropout"]
        FederationSettings.split(values)


def test_questions_travel_as_what_answers_are_computed_on(candidates):
    exact = NearestCandidates.of(candidates, 3)
    for question in (exact, MeanEmbedding.of(candidates)):
        again = protocol.decode(protocol.encode(question, 16))
        assert type(again) is type(question) and again.numbers() == question.numbers()
        for name, array in question.arrays().items():
            assert array.dtype == np.int16 and np.array_equal(again.arrays()[name], array)
    encoded = protocol.encode(exact, 8)
    assert encoded.arrays[0].dtype == np.int8
    coarse = protocol.decode(encoded).candidates
    assert np.abs(coarse - exact.candidates.astype(int)).max() <= encoded.numbers["step.0"] / 2 + 1
    for arrays in ([np.zeros(3, np.int8)], [np.zeros(3, np.int16)]):
        with pytest.raises(ValueError, match="two-dimensional"):
            protocol.decode(replace(encoded, arrays=arrays))
    with pytest.raises(ValueError, match="The question 'favorite color' is not known here. Known are"):
        protocol.decode(replace(encoded, numbers={"question": "favorite color"}))


MEAN_AND_VOTES = {"mean-fraction": 0.5, "num-rounds": 2}


@pytest.mark.parametrize("bits", [16, 8])
def test_a_mean_and_votes_are_those_of_the_in_memory_pool_bin_by_bin(
    files, embedding_model, embedder, candidates, bits
):
    """The run of one mean and two rounds of votes at different noise: here without noise, under masks."""
    changes = {**MEAN_AND_VOTES, "candidate-bits": bits}
    made = make_federation(files, embedding_model, noise=no_noise, **changes)
    mean, votes = MeanEmbedding.of(candidates), NearestCandidates.of(candidates)
    multipliers = [entry.mechanism.noise_multiplier for entry in made.ledger.plan.releases]
    assert multipliers[0] < multipliers[1]
    for question in (mean, votes, votes):
        received = protocol.decode(protocol.encode(question, bits))
        answer = made.pool.release(question, made.ledger)
        assert answer.any() and np.array_equal(answer, in_memory_answer(files, embedder, made.config, received))
    assert [each.question for each in made.pool.rounds] == ["mean_embedding", "votes", "votes"]
    # Each kind no more often than the plan says: neither a fourth answer nor a second mean.
    for question in (votes, mean):
        with pytest.raises(ReleaseLostError):
            made.pool.release(question, made.ledger)
    reasons = {each.reason for each in made.grid.seen if each.reason}
    assert len(reasons) == 2 and all("this client has answered all of them" in reason for reason in reasons)


@pytest.mark.parametrize("relation", ["add_or_remove_one", pytest.param("replace_one", marks=pytest.mark.slow)])
def test_the_noise_of_a_mean_is_its_own(files, embedding_model, candidates, relation):
    """24 answers of 32 bins each: five standard errors. A mean has signs: replacing a client takes twice as much."""
    changes = {"mean-fraction": 0.9, "num-rounds": 1, "neighboring-relation": relation}
    made = make_federation(files, embedding_model, **changes)
    question = MeanEmbedding.of(candidates)
    draws = []
    for _ in range(24):
        draws.append(made.pool.release(question, made.ledger))
        for context in (made.pool._context, *made.grid.contexts.values()):
            context.run_id += 1
    draws = np.array(draws)
    mechanism = made.ledger.plan.entry("mean_embedding").mechanism
    assert mechanism.noise_multiplier == pytest.approx(1 / 3)
    assert mechanism.sensitivity == (1 if relation == "add_or_remove_one" else 2)
    claimed = math.sqrt(5 / 2) * mechanism.noise_std
    spread = (draws - draws.mean(axis=0)).std() * math.sqrt(24 / 23)
    assert abs(spread / claimed - 1) < 5 / math.sqrt(2 * draws.size)


@dataclass(frozen=True, eq=False)
class Toy(Question):
    """On which side of a direction a client's samples are. It fails for a client that has none on the one side."""

    direction: np.ndarray
    words: str = "sides"
    name, num_bins = "sides", 2
    description = "how many of its samples are on each side of a public direction"

    def answer(self, samples):
        is_right = samples.embeddings.astype(float) @ self.direction > 0
        if len(is_right) == 2:
            raise ValueError("two texts")
        return np.array([float(is_right.sum()), float((~is_right).sum())])


UP = Toy(np.arange(32.0) - 12)


def test_a_question_of_the_caller_is_answered_by_every_client(files, embedding_model, embedder):
    """Also by the one for whom it fails: whether it answers must not depend on its texts."""
    made = make_federation(files, embedding_model, noise=no_noise, questions=[(UP, 0.5)])
    answer = made.pool.release(UP, made.ledger)
    assert made.pool.rounds[0].num_answered == 5 and not any(each.reason for each in made.grid.seen)
    with pytest.warns(UserWarning, match="failed for some clients"):
        expected = in_memory_answer(files, embedder, made.config, UP, [(UP, 0.5)])
    assert answer.any() and np.array_equal(answer, expected)


class Half:
    """An accountant of the server's own."""

    name = "half"

    def epsilon(self, noise_multipliers, delta, sampling_rate=1.0):
        return 10 / min(noise_multipliers)


OF_NO_CLIENT = dict.fromkeys(range(5), ())


class Wide(Toy):
    """The same with another number of bins, which nothing but the plan says."""

    num_bins = 3

    def answer(self, samples):
        return np.append(super().answer(samples), 0.0)


@pytest.mark.parametrize(
    ("of_server", "question", "message"),
    [
        ({"questions": [(UP, 0.5)], "of_clients": OF_NO_CLIENT}, UP, "The question 'sides' is not known here"),
        ({"questions": [(UP, 0.5)], "of_clients": OF_NO_CLIENT}, None, "The server's plan has `questions`="),
        (
            {"questions": [(UP, 0.5)], "of_clients": dict.fromkeys(range(5), [(UP, 0.6)])},
            UP,
            "accounts for a noise multiplier of 0.57735 of 'sides', but this client would add noise for 0.471405",
        ),
        (
            {"questions": [(UP, 0.5)], "of_clients": dict.fromkeys(range(5), [(Toy(-UP.direction), 0.5)])},
            UP,
            "The question 'sides' is another one than the one of that name here",
        ),
        ({"accountant": Half(), "epsilon": 1.0}, None, "accounts for a noise multiplier of 10"),
        (
            {"questions": [(UP, 0.5)], "of_clients": dict.fromkeys(range(5), [(Wide(UP.direction), 0.5)])},
            None,
            "agree on the questions .* but not on the numbers of bins",
        ),
        ({"questions": [(Toy(np.ones(5)), 0.5)]}, Toy(np.ones(5)), "The question 'sides' fails on made-up samples"),
    ],
)
def test_clients_that_answer_by_another_plan_are_not_asked(
    files, embedding_model, candidates, of_server, question, message
):
    """Other questions, fractions, content, accountant or dimensions: refused before anything is spent."""
    without = ("noise-multiplier",) if "epsilon" in of_server else ()
    made = make_federation(files, embedding_model, without=without, **{"num-rounds": 3, **of_server})
    with pytest.raises(ValueError, match=f"0 of 5 clients will answer .* Nothing was spent.*{message}"):
        made.pool.release(question or NearestCandidates.of(candidates), made.ledger)
    assert made.ledger.num_releases == 0


def test_only_the_clients_of_the_same_plan_are_asked(files, embedding_model, candidates):
    """One of five was started without the question. Its noise would be less than what is accounted for."""
    made = make_federation(files, embedding_model, questions=[(UP, 0.9)], of_clients={3: ()})
    made.release(candidates)
    assert {each.node for each in made.grid.seen if each.stage == COLLECT} == {1000, 1001, 1002, 1004}
    assert made.pool.rounds[0].num_asked == 4


def test_a_server_that_asks_for_more_than_its_plan_is_refused(files, embedding_model, candidates):
    """More bins than were accounted for, and a mean that the run's settings do not have."""
    made = make_federation(files, embedding_model)
    mechanism = votes_of(made.config)
    wide = NearestCandidates.of(np.concatenate([candidates, candidates]))
    with pytest.raises(ValueError, match="0 of 5 clients will answer .*with 48 bins"):
        made.pool._prepare(wide, mechanism)
    made.pool._prepare(NearestCandidates.of(candidates), mechanism)
    assert asked_all_the_same(made, wide, mechanism) == {"with 48 bins"}
    assert asked_all_the_same(made, MeanEmbedding.of(candidates), mechanism) == {"is not in the plan"}


def asked_all_the_same(made, question, mechanism):
    """Ask a question that clients refuse, and return the words that tell how."""
    made.grid.seen.clear()
    with pytest.raises(ReleaseLostError):
        made.pool._answer(question, mechanism)
    reasons = [each.reason or "" for each in made.grid.seen if each.stage == COLLECT]
    assert len(reasons) == len(made.grid.contexts)
    return {words for words in ("with 48 bins", "is not in the plan") for reason in reasons if words in reason}


CRAFTED = {
    "floats of other dimensions": ("mean_embedding", {"center": np.zeros((1, 7))}, {}),
    "too many dimensions": ("mean_embedding", {"center": np.zeros((1, 32, 32), np.int16)}, {}),
    "strings": ("mean_embedding", {"center": np.array([["a"] * 32])}, {}),
    "no row": ("mean_embedding", {"center": np.zeros((0, 32), np.int16)}, {}),
    "other dimensions": ("mean_embedding", {"center": np.zeros((1, 31), np.int16)}, {}),
    "votes below zero": ("votes", {"candidates": np.zeros((24, 32), np.int16)}, {"votes_per_sample": -1}),
    "votes in words": ("votes", {"candidates": np.zeros((24, 32), np.int16)}, {"votes_per_sample": "x"}),
    "half a vote": ("votes", {"candidates": np.zeros((24, 32), np.int16)}, {"votes_per_sample": 1.5}),
    "candidates that are floats": ("votes", {"candidates": np.zeros((24, 32))}, {"votes_per_sample": 1}),
    "a field too many": ("votes", {"candidates": np.zeros((24, 32), np.int16), "more": np.zeros(3)}, {}),
    "a name as a number": ("votes", {"candidates": np.zeros((24, 32), np.int16)}, {"is_signed": True}),
}


@pytest.mark.parametrize("name", CRAFTED)
def test_a_crafted_question_does_not_tell_who_has_text(
    files, embedding_model, candidates, tmp_path, monkeypatch, name
):
    """All clients refuse it alike, also one whose file holds nothing."""
    empty = tmp_path / "empty.jsonl"
    empty.write_text('{"client_id": "x", "text": " "}\n')
    made = make_federation([*files, empty], embedding_model, **{"mean-fraction": 0.5, "num-rounds": 2})
    kind, arrays, numbers = CRAFTED[name]
    question = MeanEmbedding.of(candidates) if kind == "mean_embedding" else NearestCandidates.of(candidates)
    with pytest.warns(UserWarning, match="blank"):
        made.pool._prepare(question, made.ledger.mechanism(question))
    numbers = {"question": kind} | {f"number.{key}": value for key, value in numbers.items()}
    numbers |= {f"array.{index}": key for index, key in enumerate(arrays)}
    monkeypatch.setattr(server, "encode", lambda *_: protocol.Encoded(list(arrays.values()), numbers))
    made.grid.seen.clear()
    with pytest.raises(ReleaseLostError):
        made.pool._answer(question, made.ledger.mechanism(question))
    reasons = [each.reason for each in made.grid.seen if each.stage == COLLECT]
    assert len(reasons) == 6 and all("RefusalError" in reason for reason in reasons) and len(set(reasons)) == 1
    counted = [client.ANSWERED in context.state.config_records for context in made.grid.contexts.values()]
    assert not any(counted), "and none counts it"


def test_records_of_arrays_do_not_unpickle():
    """What a client reads from the server: an array with objects in it is refused."""
    from flwr.common import bytes_to_ndarray, ndarray_to_bytes

    with pytest.raises(ValueError, match="[Oo]bject arrays cannot be"):
        bytes_to_ndarray(ndarray_to_bytes(np.array([{}], dtype=object)))
    assert ArrayRecord([np.zeros(2)]).to_numpy_ndarrays()[0].shape == (2,)


def test_a_reply_without_a_mask_that_is_no_answer_does_not_end_a_simulation():
    """Of four clients, one sends too few bins and one sends no numbers. Two are enough for the noise."""

    def meddle(node, stage, reply):
        if stage != "plain" or node > 1001:
            return reply
        wrong = np.zeros(3) if node == 1000 else np.full(24, np.nan)
        record = FitRes(Status(Code.OK, ""), ndarrays_to_parameters([wrong]), 1, {})
        reply.content = recorddict_compat.fitres_to_recorddict(record, keep_input=False)
        return reply

    changes = {"secure-aggregation": False, "max-dropout": 0.45, "max-colluding": 0.01}
    made = make_large_federation(8, meddle=meddle, **changes)
    assert np.array_equal(made.release(), made.expected(range(2, 8)))
    assert made.pool.rounds[0].num_answered == 6


def test_a_sum_with_hardly_any_noise_is_plausible():
    """A part of the noise is smallest among the most answers, and clients of a run that fits are told so before."""
    mechanism = replace(votes_of(config_of(**{"noise-multiplier": 0.02, "max-dropout": 0.2})), max_dropout=0.2)
    enough = mechanism.num_answers_needed(500)
    mechanism.share_scale(enough)
    with pytest.raises(ValueError):
        mechanism.share_scale(enough + 60)
    total = np.zeros(24, dtype=np.int64)
    assert _is_plausible(total, 500, 500, mechanism)
    assert not _is_plausible(total + 2**30, 3, 500, mechanism)
