"""The methods that the benchmark compares with: what they release has the sensitivity and noise that they claim."""

import json
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from test_benchmark import tiny  # noqa: F401 - a fixture

from hf_pretext import PrivateEvolutionConfig
from hf_pretext.clients.questions import check_question, sum_answers
from hf_pretext.clients.samples import Samples, quantize_embeddings
from hf_pretext.models.local_engine import LocalEngine
from hf_pretext.privacy import PrivacyLedger, calibrate_noise_multiplier
from hf_pretext.prompts import ListPrompt
from recipes.benchmark import client_work, comparison, device_training, dp_generator, popri, trial
from recipes.benchmark.arguments import BenchmarkArguments
from recipes.benchmark.client_table import client_table
from recipes.benchmark.dp_generator import DPFinetuning, examples_of, finetune_privately, losses_of_examples
from recipes.benchmark.hybrid import SYNTHETIC_FRACTION, split_budget
from recipes.benchmark.learners import LEARNERS, with_adapters
from recipes.benchmark.methods import FEDAVG_GRID, FTRL_GRID, METHODS
from recipes.benchmark.on_device import DP_FEDAVG
from recipes.benchmark.popri import CandidateScores, PopriSettings, SimulatedClients, make_pairs, popri_plan
from recipes.benchmark.trial import Trial
from support.tiny import make_llama, random_texts

DELTA = 3e-6


def unit_rows(number, dimensions=16, seed=0):
    points = np.random.default_rng(seed).normal(size=(number, dimensions))
    return points / np.linalg.norm(points, axis=1, keepdims=True)


def samples_of(counts, seed=1):
    return Samples(
        np.repeat(np.arange(len(counts)), counts),
        quantize_embeddings(np.concatenate([unit_rows(count, seed=[seed, row]) for row, count in enumerate(counts)])),
    )


def trial_of(name, **sizes):
    arguments = BenchmarkArguments(data=["plays"], **sizes)
    return Trial(SimpleNamespace(arguments=arguments), METHODS[name], 1.29, 0)


# POPri


def test_scores_of_a_client_are_centered_and_have_norm_one_whatever_it_holds():
    question = CandidateScores.of(unit_rows(30))
    check_question(question, 16)
    mechanism = popri_plan(trial_of("popri")).releases[0].mechanism
    assert mechanism.is_signed and mechanism.clip_norm == 1
    limit = mechanism.clip_norm * mechanism.units
    for count in (1, 2, 8, 200):
        own = samples_of([count], seed=count)
        vector = question.answer(own)
        assert abs(vector.mean()) < 1e-12 and np.linalg.norm(vector) == pytest.approx(1)
        assert (vector < 0).any()
        total = sum_answers(question, own, mechanism)
        assert 0.99 * limit < math.sqrt(int((total.astype(object) ** 2).sum())) <= limit


def test_a_client_changes_the_sum_of_scores_by_its_own_vector_and_nothing_else():
    question, everyone = CandidateScores.of(unit_rows(30)), samples_of([3, 1, 8])
    mechanism = popri_plan(trial_of("popri")).releases[0].mechanism
    alone = sum(sum_answers(question, own, mechanism) for _, own in everyone.each_client())
    assert np.array_equal(sum_answers(question, everyone, mechanism), alone)


def test_scores_are_those_of_cosines():
    candidates, texts = unit_rows(20), unit_rows(5, seed=7)
    expected = (candidates @ texts.T).sum(axis=1)
    expected -= expected.mean()
    client = Samples(np.zeros(5, dtype=np.int64), quantize_embeddings(texts))
    found = CandidateScores.of(candidates).answer(client)
    assert np.corrcoef(found, expected)[0, 1] > 0.9999
    # A client that likes all candidates alike says nothing.
    same = CandidateScores.of(np.tile(candidates[:1], (4, 1)))
    assert not same.answer(client).any()


@pytest.mark.parametrize("num_rounds", [1, 2, 20])
def test_the_rounds_of_popri_cost_the_budget_and_no_more(num_rounds):
    plan = popri_plan(trial_of("popri", popri_rounds=num_rounds))
    assert plan.num_releases == num_rounds
    assert 1.29 * 0.9999 < plan.epsilon(DELTA) <= 1.29
    multiplier = plan.releases[0].mechanism.noise_multiplier
    assert multiplier == pytest.approx(calibrate_noise_multiplier(1.29, DELTA, num_rounds), rel=1e-5)


def test_the_noise_of_the_scores_is_drawn_and_counted():
    plan = popri_plan(trial_of("popri", popri_prompts=400))
    question, own = CandidateScores.of(unit_rows(4000)), samples_of([1])
    ledger = PrivacyLedger(plan)
    noisy = [SimulatedClients(own).release(question, ledger) for _ in range(2)]
    noise = noisy[0] - question.answer(own)
    # The standard deviation of 4,000 draws is off by 8 % once in 10^12 runs.
    assert noise.std() == pytest.approx(plan.releases[0].mechanism.noise_std, rel=0.08)
    assert not np.array_equal(*noisy) and ledger.num_releases == 2
    assert ledger.epsilon(DELTA) == pytest.approx(1.29, rel=1e-4)


def test_pairs_are_the_first_against_the_fifth_of_ten():
    settings = PopriSettings(2, 2, 10)
    texts = [f"text {number}" for number in range(20)]
    scores = np.concatenate([np.arange(10), -np.arange(10)]).astype(float)
    pairs = make_pairs(["a", "b"], texts, scores, settings)
    assert pairs == [("a", "text 9", "text 5"), ("b", "text 10", "text 14")]
    assert [PopriSettings(1, 1, number).rejected_rank for number in (2, 3, 4, 10)] == [1, 1, 1, 4]


def test_continuations_that_are_all_the_same_are_refused():
    with pytest.raises(ValueError, match="no one can be preferred"):
        make_pairs(["a"], ["same"] * 4, np.arange(4.0), PopriSettings(1, 1, 4))
    # Prompts that have two different ones are enough.
    assert len(make_pairs(["a", "b"], ["x", "x", "y", "z"], np.arange(4.0), PopriSettings(1, 2, 2))) == 1


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"popri_continuations": 1}, "`popri_continuations`=1 makes no pairs"),
        ({"popri_rounds": 0}, "`popri_rounds`=0"),
        ({"popri_prompts": 0}, "`popri_prompts`=0"),
    ],
)
def test_a_round_that_can_teach_nothing_is_refused_before_anything_is_loaded(sizes, message, monkeypatch):
    monkeypatch.setattr(comparison, "Models", None)
    with pytest.raises(ValueError, match=message):
        comparison.load_experiments(BenchmarkArguments(data=["plays"], methods=["popri"], **sizes))


def test_the_model_learns_to_prefer_and_the_reference_stays():
    """After two rounds on the same pairs the chosen texts are likelier than the rejected ones, by more than before."""
    model, tokenizer = make_llama()
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    policy = popri.Policy(model, tokenizer, PopriSettings(2, 8, 2, rate=1e-2, beta=0.1), seed=0)
    pairs = [popri.Pair(f"{text} ", "red green", "blue loud") for text in random_texts(8)]

    def margin(writer):
        def likelihood(answer):
            ids = torch.tensor([tokenizer(pairs[0].prompt + answer)["input_ids"]])
            return -float(writer(input_ids=ids, labels=ids).loss) * ids.shape[1]

        with torch.no_grad():
            return likelihood(pairs[0].chosen) - likelihood(pairs[0].rejected)

    margins = [margin(policy.writer())]
    for number in range(2):
        policy.learn(pairs, number)
        margins.append(margin(policy.writer()))
    assert margins[0] < margins[1] < margins[2]
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())


def test_candidates_are_written_for_each_prompt_and_fit():
    model, tokenizer = make_llama()
    config = PrivateEvolutionConfig.paper(epsilon=1.29, max_length=8, max_new_tokens=16)
    engine, settings = LocalEngine(model, tokenizer, config), PopriSettings(1, 3, 4)
    prompts, texts = popri.write_candidates(engine, random_texts(20), config, settings, 0)
    assert len(prompts) == len(set(prompts)) == 3 and len(texts) == 12
    assert all(engine.count_tokens(text) <= 8 for text in texts)
    assert (prompts, texts) == popri.write_candidates(engine, random_texts(20), config, settings, 0)
    assert prompts != popri.write_candidates(engine, random_texts(20), config, settings, 1)[0]


# The generator that DP-SGD finetunes


CLIENTS = [random_texts(1 + client % 4, seed=client) for client in range(40)]


def trained(epsilon=1.29, clients=CLIENTS, seed=0, **changes):
    pytest.importorskip("opacus", reason="opacus is not installed: see the Makefile")
    model, tokenizer = make_llama()
    torch.manual_seed(0)
    model = with_adapters(model, 8)
    before = adapters(model)
    settings = DPFinetuning(**{"num_steps": 1, "sampling_rate": 1.0, "max_tokens": 48, **changes})
    examples = examples_of(tokenizer, clients, ListPrompt(), settings.max_tokens)
    return adapters(finetune_privately(model, examples, settings, epsilon, DELTA, seed)) - before


def adapters(model):
    return torch.nn.utils.parameters_to_vector(w for w in model.parameters() if w.requires_grad).detach().clone()


@pytest.fixture
def plain_steps(monkeypatch):
    """Steps as large as the noisy gradient itself, not Adam's."""
    monkeypatch.setattr(torch.optim, "Adam", torch.optim.SGD)


def test_the_noise_of_dp_sgd_is_what_our_own_accounting_asks_for(plain_steps):
    """The texts are one token each, which teaches nothing. So the change is noise alone."""
    change = trained(clients=[[""]] * 40, max_tokens=1, rate=1.0)
    expected = calibrate_noise_multiplier(1.29, DELTA, 1) / 40
    assert len(change) > 5_000
    assert float(change.std()) == pytest.approx(expected, rel=0.06)


@pytest.mark.parametrize(("num_steps", "rate"), [(2, 0.5), (3, 1.0)])
def test_several_steps_on_samples_are_accounted_for_together(num_steps, rate, plain_steps):
    change = trained(clients=[[""]] * 40, max_tokens=1, rate=1.0, num_steps=num_steps, sampling_rate=rate)
    multiplier = calibrate_noise_multiplier(1.29, DELTA, num_steps, sampling_rate=rate)
    assert float(change.std()) == pytest.approx(multiplier / (40 * rate) * math.sqrt(num_steps), rel=0.06)


@pytest.mark.parametrize("texts", [["red"], random_texts(30, seed=99), ["green " * 2000]])
def test_a_client_moves_the_sum_of_gradients_by_the_clip_norm_at_most(texts, plain_steps):
    """With the same noise, one client more changes what is released by its clipped gradient, however much it holds."""
    clip = 1e-3
    without, with_client = (
        trained(clients=clients, clip_norm=clip, rate=float(len(clients)))
        for clients in (CLIENTS[:-1], [*CLIENTS[:-1], texts])
    )
    assert 0.5 * clip < float((with_client - without).norm()) < 1.01 * clip


def test_the_loss_of_an_example_depends_on_no_other_example():
    logits, labels = torch.randn(3, 6, 11), torch.randint(0, 11, (3, 6))
    labels[0, 2:] = labels[1, 4:] = dp_generator.IGNORED
    together = losses_of_examples(logits, labels)
    alone = torch.cat([losses_of_examples(logits[row : row + 1], labels[row : row + 1]) for row in range(3)])
    assert torch.allclose(together, alone)
    expected = torch.nn.functional.cross_entropy(logits[0, :1], labels[0, 1:2])
    assert float(together[0]) == pytest.approx(float(expected))


def test_examples_are_bounded_and_one_per_client():
    """What is the same for all clients, the title of the list and its first heading, is not learned."""
    _, tokenizer = make_llama()
    input_ids, labels = examples_of(tokenizer, [["red"], ["green " * 500]], ListPrompt(), 32)
    assert input_ids.shape == labels.shape and len(input_ids) == 2
    learned = labels[1] != dp_generator.IGNORED
    assert (labels[1] == input_ids[1])[learned].all() and (input_ids[0] == input_ids[1])[~learned].all()
    assert "green" in tokenizer.decode(input_ids[1][learned][:8]) and learned.sum() == 32


def test_texts_behind_noise_that_a_seed_makes_again_are_not_shown():
    assert not trial_of("dp-generator").may_be_shown()
    assert trial_of("default").may_be_shown() and trial_of("popri").may_be_shown()


def test_an_unusable_continuation_is_never_preferred():
    """Scores are mostly noise, and a blank text is as near to a client's as any."""
    texts, scores = ["", "two words", "many more words", "other words here"], np.array([9.0, 8.0, 1.0, 0.0])
    (pair,) = make_pairs(["a"], texts, scores, PopriSettings(1, 1, 4), lambda text: len(text.split()) > 2)
    assert (pair.chosen, pair.rejected) == ("many more words", "two words")


def test_steps_in_parts_are_those_of_whole_batches(plain_steps, monkeypatch):
    whole = trained(epsilon=50.0, rate=1.0)
    monkeypatch.setattr(dp_generator, "EXAMPLES_AT_ONCE", 7)
    assert torch.allclose(trained(epsilon=50.0, rate=1.0), whole, atol=1e-6)


def test_a_step_for_which_no_client_is_drawn_is_noise(plain_steps, monkeypatch):
    monkeypatch.setattr(dp_generator, "calibrate_noise_multiplier", lambda *_, **__: 2.0)
    assert float(trained(sampling_rate=1e-6, rate=1.0).std()) == pytest.approx(2.0, rel=0.06)


@pytest.mark.parametrize(
    ("method", "command"),
    [("dp-generator", "pip install 'hf_pretext.benchmark"), ("dp-ftrl", "--no-deps pfl"), ("hybrid", "--no-deps pfl")],
)
def test_a_missing_package_is_named_before_anything_is_loaded(method, command, monkeypatch):
    monkeypatch.setattr(trial, "find_spec", lambda name: None)
    monkeypatch.setattr(comparison, "Models", None)
    with pytest.raises(ValueError, match=command):
        comparison.load_experiments(BenchmarkArguments(data=["plays"], methods=[method]))


# Devices, and the hybrid


@pytest.mark.parametrize("epsilon", [0.5, 1.29, 7.58])
@pytest.mark.parametrize("fraction", [0.1, 0.5, 0.9])
def test_the_two_parts_of_a_budget_add_up_exactly(epsilon, fraction):
    first, second = split_budget(epsilon, DELTA, fraction)
    assert 0 < first < epsilon and 0 < second < epsilon

    def squared_mu(part):
        return 1 / calibrate_noise_multiplier(part, DELTA, 1) ** 2

    assert squared_mu(first) + squared_mu(second) == pytest.approx(squared_mu(epsilon), rel=1e-6)
    assert squared_mu(first) == pytest.approx(fraction * squared_mu(epsilon), rel=1e-6)


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.5])
def test_a_part_without_a_budget_is_refused(fraction):
    with pytest.raises(ValueError, match="`fraction`"):
        split_budget(1.29, DELTA, fraction)


def test_both_halves_of_the_hybrid_have_their_part():
    hybrid = trial_of("hybrid")
    first, second = split_budget(1.29, DELTA, SYNTHETIC_FRACTION)
    assert hybrid.config == replace(METHODS["default"].config(hybrid.arguments, 1.29, 0), epsilon=first)
    assert hybrid.method.training.epsilon(hybrid) == second
    assert trial_of("dp-ftrl").method.training.epsilon(trial_of("dp-ftrl")) == 1.29


def test_grids_hold_all_combinations_and_what_was_used_before():
    assert len(FEDAVG_GRID) == len(set(FEDAVG_GRID)) and len(FTRL_GRID) == len(set(FTRL_GRID))
    before = {("DP-FedAvg", 2, 1.0, 100.0), ("DP-FTRL", 4, 2.0, 100.0)}
    assert before <= {tuple(each.settings.values()) for each in (*FEDAVG_GRID, *FTRL_GRID)}


def test_devices_get_the_settings_that_are_best_on_held_out_text(tiny, monkeypatch, tmp_path):  # noqa: F811
    pytest.importorskip("pfl", reason="pfl is not installed: see the Makefile")
    used = []

    def train(model, tokenizer, clients, algorithm, epsilon, delta, seed):
        used.append((algorithm.clip_norm, epsilon, seed))
        with torch.no_grad():
            for weight in model.parameters():
                weight += abs(algorithm.clip_norm - 1.0)  # The farther from 1, the worse.
        return model

    monkeypatch.setattr(device_training, "train_on_devices", train)
    grid = DP_FEDAVG.variants((2,), (3.0, 1.0, 2.0), (100.0,))
    monkeypatch.setitem(METHODS, "dp-fedavg", replace(METHODS["dp-fedavg"], training=device_training.OnDevices(grid)))
    results = comparison.compare(tiny("dp-fedavg", epsilons=[1.29, 7.58]))
    for epsilon in (1.29, 7.58):
        # Each is tried once, with the first random seed. Then both seeds take the best.
        tried = [(clip, epsilon, device_training.TUNING_SEED) for clip in (1.0, 3.0, 2.0)]
        of_budget = [each for each in used if each[1] == epsilon]
        assert of_budget == [*tried, (1.0, epsilon, 0), (1.0, epsilon, 1)] and len(results["table"]) == 2
    assert len(list((tmp_path / "out" / "cache").glob("tuning-*.json"))) == 6
    used.clear()
    comparison.compare(tiny("dp-fedavg", epsilons=[3.0], tune_devices=False))
    assert used == [(1.0, 3.0, 0), (1.0, 3.0, 1)], "without a choice they get the algorithm's own settings"


def test_devices_do_not_train_for_every_number_of_texts():
    arguments = BenchmarkArguments(data=["plays"], methods=["hybrid", "popri", "dp-ftrl"], curve=[64, 128])
    jobs = list(comparison.list_curve([SimpleNamespace(name="plays", arguments=arguments)], arguments))
    assert {each.method.name for each, _ in jobs} == {"popri"}


# From end to end


def test_methods_run_from_end_to_end(tiny, monkeypatch, tmp_path):  # noqa: F811
    """Every method of this page on tiny models, with its own settings where they are small enough."""
    for package in ("pfl", "opacus"):
        pytest.importorskip(package, reason=f"{package} is not installed: see the Makefile")
    changes = {"population_size": 16, "num_rounds": 2, "min_words": 1, "seeds_per_prompt": 2, "best_of": 1}
    config = METHODS["aug-pe"].config
    small = {"min_words": 1, "population_size": 16, "num_rounds": 2}
    for name in ("aug-pe", "popri", "dp-generator"):
        config = METHODS[name].config
        monkeypatch.setitem(
            METHODS,
            name,
            replace(METHODS[name], config=lambda *given, config=config: replace(config(*given), **small)),
        )
    grid = FTRL_GRID[:1]
    hybrid = METHODS["hybrid"]
    monkeypatch.setitem(METHODS, "hybrid", replace(hybrid, training=type(hybrid.training)(grid)))
    names = ("popri", "aug-pe", "dp-generator", "hybrid")
    sizes = {"popri_prompts": 4, "popri_continuations": 3, "seeds": [0], "continuations_per_prompt": 1}
    results = comparison.compare(tiny(*names, changes=json.dumps(changes), **sizes))
    rows = {row["method"]: row for row in results["table"]}
    assert set(rows) == set(names)
    for row in rows.values():
        assert row["epsilon"] == 1.29 and 0 < row["cross_entropy"]["mean"] < 20 and row["frechet"]["mean"] > 0
    cache = tmp_path / "out" / "cache"
    texts = {each["inputs"]["method"]: each for each in map(read, cache.glob("texts-*.json"))}
    assert set(texts) == set(names) and all(len(each["value"]) == 40 for each in texts.values())
    spent = {each["inputs"]["method"]: each["value"]["epsilon"] for each in map(read, cache.glob("seeds-*.json"))}
    assert spent["aug-pe"] <= 1.29 and spent["hybrid"] <= split_budget(1.29, DELTA, SYNTHETIC_FRACTION)[0]


WEIGHTS_OF_DEVICES = 19_712
"""Of adapters of rank 1 of the small model: for each layer 4 matrices of 256 to 256, and 3 of 256 and 704."""


def test_the_page_has_the_bytes_of_today_s_settings():
    assert WEIGHTS_OF_DEVICES == 4 * (4 * 2 * 256 + 3 * (256 + 704))
    page = (Path(client_work.__file__).parent / "README.md").read_text()
    table = [cells for line in page.splitlines() if len(cells := line.strip("| ").split(" | ")) == 7]
    rows = {name: cells for cells in table for name in cells[0].split(", ")}
    found = {}
    plans = {**dict.fromkeys(("paper", "aug-pe", "first-edition", "default", "hybrid"), client_work.evolution_plan)}
    for name, make_plan in {**plans, "popri": popri_plan}.items():
        releases = [client_work.bytes_of(entry, 384) for entry in make_plan(trial_of(name)).releases]
        found[name] = [sum(each) for each in zip(*releases, strict=True)]
    for name in ("dp-fedavg", "dp-ftrl", "hybrid"):
        times = max(each.num_participations for each in METHODS[name].training.algorithms)
        size = times * WEIGHTS_OF_DEVICES * client_work.BYTES_OF_A_WEIGHT
        found[name] = [size + more for more in found.get(name, [0, 0])]
    assert {name: rows[name][3:5] for name in found} == {
        name: list(map(client_work._in_words, each)) for name, each in found.items()
    }
    for name in found:
        assert METHODS[name].client.leaves == rows[name][2] or name == "hybrid"


def read(path):
    return json.loads(path.read_text())


def test_the_table_of_clients_has_what_arrays_weigh(tiny, monkeypatch):  # noqa: F811
    pytest.importorskip("pfl", reason="pfl is not installed: see the Makefile")
    monkeypatch.setattr(client_work, "TIMES", 1)
    names = ("none", "popri", "dp-ftrl", "default", "hybrid", "dp-generator", "finetune-private")
    arguments = tiny(*names, popri_prompts=4, popri_continuations=5, popri_rounds=3, seeds=[0])
    lines = client_table(arguments).splitlines()
    rows = {line.split(" | ")[0].strip("| "): line.split(" | ") for line in lines[2:]}
    assert set(rows) == set(names)
    assert rows["none"][2:6] == ["nothing", "0", "0", "0"]
    # Three rounds of 20 sums of four bytes, about 20 embeddings of 32 numbers of two bytes.
    assert rows["popri"][3:5] == ["240 B", "3.84 kB"]
    model, _ = LEARNERS["tiny"].load(None)
    size = 4 * sum(each.numel() for each in with_adapters(model, 1).parameters() if each.requires_grad)
    assert rows["dp-ftrl"][3] == rows["dp-ftrl"][4] == client_work._in_words(size)
    assert float(rows["dp-ftrl"][5]) > 0 and float(rows["default"][5]) > 0
    # 4,096 tokens and three rounds of 1,024 votes.
    assert rows["default"][3] == client_work._in_words(4 * (4096 + 3 * 1024))
    assert rows["hybrid"][3] == client_work._in_words(4 * (4096 + 3 * 1024) + size)
    assert rows["dp-generator"][2] == "the texts" and rows["finetune-private"][6].startswith("none")
