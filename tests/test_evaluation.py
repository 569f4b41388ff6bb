import json
import subprocess
import sys
import traceback

import numpy as np
import pytest
import torch

from hf_pretext.evaluation import (
    NextTokenAccuracy,
    TextDistribution,
    TokenScores,
    gap_closed,
    paired_bootstrap,
    score_next_tokens,
)
from hf_pretext.evaluation.scoring import TOP_K, _score_tokens
from support.tiny import make_llama, random_texts


def slow_reference(model, tokenizer, texts):
    """One text, one position at a time: the whole distribution, sorted."""
    num_tokens, loss, hits = 0, 0.0, dict.fromkeys(TOP_K, 0)
    for text in texts:
        ids = tokenizer(text)["input_ids"]
        plain = tokenizer(text, add_special_tokens=False)["input_ids"]
        first = ids.index(plain[0]) if plain else len(ids)
        for position in range(max(first, 1), first + len(plain)):
            with torch.no_grad():
                logits = model(input_ids=torch.tensor([ids[:position]])).logits[0, -1].double()
            probabilities = torch.softmax(logits, dim=-1).tolist()
            order = sorted(range(len(probabilities)), key=lambda token: -probabilities[token])
            num_tokens += 1
            loss -= float(np.log(probabilities[ids[position]]))
            for k in TOP_K:
                hits[k] += ids[position] in order[:k]
    accuracies = {f"top_{k}_accuracy": hits[k] / num_tokens for k in TOP_K}
    cross_entropy = loss / num_tokens
    return {
        **accuracies,
        "cross_entropy": cross_entropy,
        "perplexity": np.exp(cross_entropy),
        "num_tokens": num_tokens,
    }


@pytest.fixture
def with_bos(llama):
    """The same tokenizer, but it begins and ends each text with a special token."""
    from copy import deepcopy

    from tokenizers import processors

    tokenizer = deepcopy(llama[1])
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    return tokenizer


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("batch_size", [1, 3, 64])
@pytest.mark.parametrize("has_bos", [False, True])
def test_equals_the_slow_reference(llama, with_bos, side, batch_size, has_bos, monkeypatch):
    model, tokenizer = llama[0], with_bos if has_bos else llama[1]
    monkeypatch.setattr(tokenizer, "padding_side", side)
    texts = [*random_texts(12, seed=5), "x", ""]
    found = NextTokenAccuracy().compute(predictions=texts, model=model, tokenizer=tokenizer, batch_size=batch_size)
    assert found == pytest.approx(slow_reference(model, tokenizer, texts), abs=1e-6, rel=1e-6)
    assert found["num_tokens"] > 40


@pytest.mark.slow
@pytest.mark.parametrize("side", ["right", "left"])
def test_equals_the_slow_reference_on_real_texts(side):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from hf_pretext.models.packaged import locate
    from hf_pretext.plays import load_plays

    folder = locate("packaged/SmolLM2-135M-Instruct")
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side=side)
    texts = [" ".join(text.split()[:12]) for text in load_plays()[1]["text"][:500]]
    found = score_next_tokens(model, tokenizer, texts).totals()
    assert found == pytest.approx(slow_reference(model, tokenizer, texts), abs=1e-6, rel=1e-6)


def test_special_tokens_and_what_no_token_precedes_are_not_predicted(llama, with_bos):
    model, tokenizer = llama
    num_tokens = len(tokenizer("the bank support chat", add_special_tokens=False)["input_ids"])
    without = score_next_tokens(model, tokenizer, ["the bank support chat"])
    assert without.num_tokens.tolist() == [num_tokens - 1]
    assert score_next_tokens(model, with_bos, ["the bank support chat"]).num_tokens.tolist() == [num_tokens]


def test_a_model_that_diverged_has_no_scores():
    """Where every logit is no number, no other token is likelier: that would be an accuracy of 1."""
    model, tokenizer = make_llama()
    with torch.no_grad():
        model.lm_head.weight.fill_(float("nan"))
    with pytest.raises(ValueError, match="probabilities that are not numbers"):
        score_next_tokens(model, tokenizer, ["the bank support chat"])


def test_scores_are_in_the_order_of_the_texts(llama):
    texts = random_texts(9, seed=6)
    together = score_next_tokens(*llama, texts, batch_size=4)
    alone = [score_next_tokens(*llama, [text]) for text in texts]
    assert together.num_tokens.tolist() == [scores.num_tokens[0] for scores in alone]
    assert together.loss == pytest.approx([scores.loss[0] for scores in alone], rel=1e-5)


def test_long_texts_are_cut_with_a_warning(llama):
    with pytest.warns(UserWarning, match="1 of 2 texts are cut to their first 8 tokens"):
        scores = score_next_tokens(*llama, ["the bank " * 30, "a new loan"], max_length=8)
    assert scores.num_tokens[0] == 7


def test_the_model_is_left_as_it_was(llama):
    model, tokenizer = llama
    model.train()
    score_next_tokens(model, tokenizer, ["a new loan"])
    assert model.training
    model.eval()


@pytest.mark.parametrize(
    ("texts", "error", "message"),
    [
        ([], ValueError, "`texts` holds no texts"),
        (["a", 3], TypeError, "row 1 is of type int"),
        ("one string", TypeError, "`texts` is one string"),
        ([""], ValueError, "no token to predict"),
    ],
)
def test_bad_texts_are_named(llama, texts, error, message):
    with pytest.raises(error, match=message):
        score_next_tokens(*llama, texts)


CANARY = "xylophone quokka marzipan"
WRITES_NOTHING = f"""
import sys
sys.path[:0] = [{str(sys.path[0])!r}]
import numpy as np
from hf_pretext.evaluation import NextTokenAccuracy, TextDistribution
texts = ["{CANARY} " + str(number) for number in range(40)]
embed = lambda texts: np.random.default_rng(0).normal(size=(len(texts), 34))
TextDistribution().compute(predictions=texts, references=texts, embed=embed)
class Stop(Exception): pass
def tokenizer(*_, **__): raise Stop
from transformers import PreTrainedConfig
class Config(PreTrainedConfig): max_position_embeddings = 8
class Model: config = Config()
try:
    NextTokenAccuracy().compute(predictions=texts, model=Model(), tokenizer=tokenizer)
except Stop:
    pass
"""


def test_texts_are_not_written_to_disk(tmp_path):
    """The library's default would leave them in a cache, at the latest where the computation fails."""
    import os

    places = {name: str(tmp_path / name) for name in ("HF_HOME", "TMPDIR", "XDG_CACHE_HOME")}
    for place in places.values():
        os.makedirs(place)
    script = tmp_path / "evaluation.py"
    script.write_text(WRITES_NOTHING)
    subprocess.run([sys.executable, str(script)], check=True, env={**os.environ, **places}, cwd=tmp_path)
    written = [path for path in tmp_path.rglob("*") if path.is_file() and path != script]
    assert not [path for path in written if b"quokka" in path.read_bytes()]


def test_gap_closed():
    assert gap_closed(0.718, 0.695, 0.730) == pytest.approx(0.657, abs=1e-3)
    with pytest.raises(ValueError, match="there is no gap"):
        gap_closed(1, 2, 2)


def simulated(rng, num_clients=60, texts_per_client=10, gain=0.02, spread=0.0):
    """Scores of two models on clients whose tokens are 100 a text; the gain varies from client to client."""
    clients = np.repeat(np.arange(num_clients), texts_per_client)
    tokens = np.full(len(clients), 100)
    base = rng.binomial(100, 0.3, size=len(clients))
    gains = rng.normal(gain, spread, size=num_clients)[clients]
    change = np.rint(100 * gains + rng.normal(0, 3, size=len(clients))).astype(int)

    def scores(hits):
        return TokenScores(tokens, 3.0 * tokens - 0.01 * hits, np.column_stack([hits] * 4))

    return scores(base), scores(base + change), clients


def test_bootstrap_covers_the_truth():
    """Nominal 95 %. With 120 simulations, 102 or fewer hits have a probability below 1e-4 at a coverage of 94 %."""
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(120):
        before, after, clients = simulated(rng, spread=0.05)
        interval = paired_bootstrap(before, after, clients, num_resamples=400)["top_1_accuracy"]
        hits += interval["low"] <= 0.02 <= interval["high"]
    assert hits > 102


def test_texts_of_one_client_are_not_taken_for_independent():
    before, after, clients = simulated(np.random.default_rng(1), spread=0.05)
    by_client = paired_bootstrap(before, after, clients)["top_1_accuracy"]
    by_text = paired_bootstrap(before, after)["top_1_accuracy"]
    assert by_client["difference"] == by_text["difference"]
    assert by_client["high"] - by_client["low"] > 1.5 * (by_text["high"] - by_text["low"])


def test_bootstrap_of_a_model_against_itself_is_zero():
    scores, _, clients = simulated(np.random.default_rng(2))
    for interval in paired_bootstrap(scores, scores, clients).values():
        assert interval == {"difference": 0, "low": 0, "high": 0}


def test_bootstrap_refuses_other_texts():
    before, after, clients = simulated(np.random.default_rng(2))
    with pytest.raises(ValueError, match="the same texts"):
        paired_bootstrap(before, TokenScores(after.num_tokens + 1, after.loss, after.hits))
    with pytest.raises(ValueError, match="`groups` of length 3"):
        paired_bootstrap(before, after, clients[:3])


def test_an_interval_over_one_client_is_refused_and_over_few_warned_of():
    before, after, clients = simulated(np.random.default_rng(2))
    with pytest.raises(ValueError, match="An interval over clients needs two of them at least, and there are 1"):
        paired_bootstrap(before, after, ["one"] * len(clients))
    with pytest.warns(UserWarning, match="of 2 clients. An interval over fewer than 10 is too narrow"):
        paired_bootstrap(before, after, ["one", *["two"] * (len(clients) - 1)])


def test_bootstrap_does_not_depend_on_the_draws_in_memory(monkeypatch):
    before, after, clients = simulated(np.random.default_rng(2))
    at_once = paired_bootstrap(before, after, clients, num_resamples=100)
    monkeypatch.setattr("hf_pretext.evaluation.scoring.CELLS_AT_ONCE", 7 * len(set(clients)))
    shapes, concatenate = [], np.concatenate
    monkeypatch.setattr(np, "concatenate", lambda parts: shapes.append(len(parts)) or concatenate(parts))
    for name, interval in paired_bootstrap(before, after, clients, num_resamples=100).items():
        assert interval == pytest.approx(at_once[name], rel=1e-9)
    assert 15 in shapes, "100 resamples, 7 at a time"


def test_text_distribution_takes_sides_of_different_sizes():
    rng = np.random.default_rng(0)
    points = {}

    def embed(texts):
        return np.stack([points.setdefault(text, rng.normal(size=40)) for text in texts])

    synthetic, reference = random_texts(100, seed=1), random_texts(130, seed=2)
    found = TextDistribution().compute(predictions=synthetic, references=reference, embed=embed)
    assert found["frechet_distance"] > 0 and 0 <= found["recall"] <= 1 and 0 < found["mauve"] <= 1
    assert 0 < found["distinct_1"] < found["distinct_2"] <= found["distinct_3"] <= 1
    histogram = found["length_histogram"]
    assert sum(histogram["predictions"]) == pytest.approx(1) == pytest.approx(sum(histogram["references"]))


def quoted(action):
    """Return what an error says, with everything that a report of it would show."""
    with pytest.raises((TypeError, ValueError)) as caught:
        action()
    told = "".join(traceback.format_exception(caught.value)) + repr(caught.value.__context__)
    assert "quokka" not in told.replace(WRITES_NOTHING, "")
    return str(caught.value)


def test_errors_of_metrics_name_the_row_and_quote_nothing(llama):
    model, tokenizer = llama
    texts = [f"{CANARY} {number}" for number in range(40)]
    of = {"embed": lambda texts: np.random.default_rng(0).normal(size=(len(texts), 34))}
    for wrong in (None, 5, ["a"], float("nan")):
        mixed = [*texts[:3], wrong, *texts[3:]]
        kind = type(wrong).__name__
        for call in (
            lambda mixed=mixed: NextTokenAccuracy().compute(predictions=mixed, model=model, tokenizer=tokenizer),
            lambda mixed=mixed: NextTokenAccuracy().add_batch(predictions=mixed),
            lambda mixed=mixed: TextDistribution().compute(predictions=mixed, references=texts, **of),
            lambda mixed=mixed: TextDistribution().compute(predictions=texts, references=mixed, **of),
            lambda mixed=mixed: score_next_tokens(model, tokenizer, mixed),
        ):
            assert f"row 3 is of type {kind}" in quoted(call)
        assert f"row 0 is of type {kind}" in quoted(lambda wrong=wrong: NextTokenAccuracy().add(prediction=wrong))
    assert "one string" in quoted(
        lambda: NextTokenAccuracy().compute(predictions=CANARY, model=model, tokenizer=tokenizer)
    )


def test_lone_surrogates_are_question_marks(llama):
    model, tokenizer = llama
    with_surrogate, plain = ["a lost \ud83d card", "a new loan"], ["a lost ? card", "a new loan"]
    expected = NextTokenAccuracy().compute(predictions=plain, model=model, tokenizer=tokenizer)
    assert NextTokenAccuracy().compute(predictions=with_surrogate, model=model, tokenizer=tokenizer) == expected
    assert score_next_tokens(model, tokenizer, with_surrogate).totals() == expected
    metric = NextTokenAccuracy()
    for text in with_surrogate:
        metric.add(prediction=text)
    assert metric.compute(model=model, tokenizer=tokenizer) == expected
    seen = []

    def embed(texts):
        seen.extend(texts)
        return np.random.default_rng(0).normal(size=(len(texts), 34))

    TextDistribution().compute(predictions=with_surrogate * 20, references=with_surrogate * 20, embed=embed)
    assert set(seen) == set(plain)


@pytest.mark.parametrize(
    ("num_synthetic", "num_references", "missing"),
    [
        (20, 60, {"frechet_distance"}),
        (60, 20, {"frechet_distance"}),
        (33, 33, set()),
        (3, 60, {"frechet_distance", "precision", "recall"}),
        (1, 1, {"frechet_distance", "precision", "recall"}),
    ],
)
def test_few_texts_have_the_measures_that_can_be_computed(num_synthetic, num_references, missing):
    texts = random_texts(60, seed=1)
    found = TextDistribution().compute(
        predictions=texts[:num_synthetic],
        references=texts[:num_references],
        embed=lambda batch: np.random.default_rng(0).normal(size=(len(batch), 48)),
    )
    few = {name for name in ("frechet_distance", "precision", "recall") if found[name] is None}
    assert few == missing <= set(found.get("not_computed", {})) and found["distinct_1"] > 0
    smaller = min(num_synthetic, num_references)
    assert all(f"more texts on both sides than the {smaller} there are" in found["not_computed"][each] for each in few)
    json.dumps(found)


def test_without_mauve_the_other_measures_are_there(monkeypatch):
    monkeypatch.setitem(sys.modules, "mauve", None)
    texts = random_texts(60, seed=1)
    found = TextDistribution().compute(
        predictions=texts,
        references=texts,
        embed=lambda batch: np.random.default_rng(0).normal(size=(len(batch), 48)),
    )
    assert found["mauve"] is None and found["frechet_distance"] == pytest.approx(0, abs=1e-9)
    assert "pip install mauve-text" in found["not_computed"]["mauve"]


def test_equal_logits_share_a_place():
    """In half precision they are common. Counted as hits, they made a model look better than its likeliest token."""
    logits = torch.tensor([[1.0, 1.0, 0.0, -1.0], [3.0, 2.0, 2.0, 2.0], [0.0, 1.0, 2.0, 3.0]])
    tokens, _, *hits = _score_tokens(logits.bfloat16(), torch.tensor([0, 1, 3]))
    assert tokens == 3 and hits == pytest.approx([0.5 + 0 + 1, 1 + 2 / 3 + 1, 3, 3])
