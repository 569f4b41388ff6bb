"""Labels, records and conversations in a federation: each node reads and checks its own rows."""

import json

import numpy as np
import pytest
import torch
from datasets import Dataset

from hf_pretext import InMemoryClientPool
from hf_pretext.clients.questions import (
    LabeledMeanEmbedding,
    MeanEmbedding,
    NearestCandidates,
    NearestLabeledCandidates,
)
from hf_pretext.models import load_sentence_transformer
from hf_pretext.models.embedder import TextEmbedder
from hf_pretext.privacy import PrivacyLedger
from hf_pretext.privacy.plan import SHARE_WEIGHT
from support.federation import make_federation, no_noise
from support.tiny import random_texts

LABELS = {"label-column": "kind", "labels": '{"a": "one kind", "b": "another kind"}'}
RECORDS = {"text-column": '["subject", "body"]'}
CHATS = {"text-column": "messages", "chat-roles": '["user", "assistant"]'}


def rows_of(number):
    texts = random_texts(2 * (2 + number), seed=number)
    return [
        {
            "client_id": f"c{number}",
            "text": one,
            "kind": "ab"[index % 3 == 0],
            "subject": one,
            "body": other,
            "messages": [{"role": "user", "content": one}, {"role": "assistant", "content": other}],
        }
        for index, (one, other) in enumerate(zip(texts[::2], texts[1::2], strict=True))
    ]


@pytest.fixture
def files(tmp_path):
    paths = [tmp_path / f"{number}.jsonl" for number in range(5)]
    for number, path in enumerate(paths):
        path.write_text("".join(json.dumps(row) + "\n" for row in rows_of(number)))
    return paths


@pytest.fixture
def embedder(models_folder):
    model = load_sentence_transformer(str(models_folder / "embedding_model"), torch.device("cpu"), torch.float32)
    return TextEmbedder(model)


def compare(files, models_folder, embedder, questions, counted=range(5), **changes):
    """The sums of a federation and of one process are equal, bin by bin, for each question."""
    changes = {"num-rounds": 1, "mean-fraction": 0.5, "token-fraction": 0.0, **changes}
    made = make_federation(files, models_folder / "embedding_model", noise=no_noise, **changes)
    rows = Dataset.from_list([row for number in counted for row in rows_of(number)])
    ledger = PrivacyLedger(made.ledger.plan)
    pool = InMemoryClientPool(rows, embedder, made.config, ledger.plan, no_noise)
    for question in questions:
        answer = made.pool.release(question, made.ledger)
        assert answer.any() and np.array_equal(answer, pool.release(question, ledger))
    assert [each.num_answered for each in made.pool.rounds] == [5] * len(questions)


def labeled_questions(embedder):
    points, labels = embedder(random_texts(24, seed=99)), np.arange(24) % 2
    votes = NearestLabeledCandidates.of(points, labels, 2, share_weight=SHARE_WEIGHT, max_samples=8)
    return [LabeledMeanEmbedding.of(points, 2), votes]


def test_labeled_means_and_votes_are_those_of_one_process(files, models_folder, embedder):
    compare(files, models_folder, embedder, labeled_questions(embedder), **LABELS)


@pytest.mark.parametrize("form", [RECORDS, CHATS])
def test_records_and_conversations_are_those_of_one_process(files, models_folder, embedder, form):
    points = embedder(random_texts(24, seed=99))
    compare(files, models_folder, embedder, [MeanEmbedding.of(points), NearestCandidates.of(points)], **form)


@pytest.mark.parametrize(
    ("change", "settings"),
    [
        ({"kind": "zebra"}, LABELS),
        ({"subject": ["x"]}, RECORDS),
        ({"messages": [{"role": "zebra", "content": "x"}]}, CHATS),
    ],
)
def test_rows_that_are_not_whole_are_the_node_s_own_matter(files, models_folder, embedder, change, settings, caplog):
    """A label that is not public, a record with a hole, a role that is unknown: that client contributes zero.

    It answers like the others, and its own console says what is wrong.
    """
    rows = [{**row, **change} for row in rows_of(4)]
    files[4].write_text("".join(json.dumps(row) + "\n" for row in rows))
    points = embedder(random_texts(24, seed=99))
    questions = labeled_questions(embedder) if settings is LABELS else [NearestCandidates.of(points)]
    compare(files, models_folder, embedder, questions, counted=range(4), **settings)
    assert "could not be read or embedded, or it has none, so it contributes zero" in caplog.text
