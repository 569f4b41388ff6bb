import pytest
import torch
from scipy.stats import chi2
from transformers import TopPLogitsWarper

from hf_pretext.models import sampling
from hf_pretext.models.sampling import sample_tokens

DRAWS = 40_000


@pytest.mark.parametrize("block", [7, 256])
@pytest.mark.parametrize("num_candidates", [(4, 20), (512, 4096)])
@pytest.mark.parametrize("top_p", [0.5, 0.9, 1.0])
@pytest.mark.parametrize("temperature", [0.7, 1.0])
def test_tokens_follow_the_distribution_that_transformers_defines(
    monkeypatch, block, num_candidates, top_p, temperature
):
    """Chi-squared on 40,000 draws; false-alarm rate 1e-6 a case."""
    monkeypatch.setattr(sampling, "BLOCK", block)
    monkeypatch.setattr(sampling, "NUM_TOP_TOKENS", num_candidates)
    logits = 2 * torch.randn(1, 50, generator=torch.Generator().manual_seed(1))
    expected = logits / temperature
    if top_p < 1:
        expected = TopPLogitsWarper(top_p)(None, expected)
    expected = DRAWS * expected.softmax(-1)[0]
    drawn = sample_tokens(logits.repeat(DRAWS, 1), temperature, top_p, torch.Generator().manual_seed(2))
    observed = drawn.bincount(minlength=50)
    assert (observed[expected == 0] == 0).all()
    likely = expected >= 5
    statistic = ((observed - expected) ** 2 / expected)[likely].sum()
    assert statistic < chi2.ppf(1 - 1e-6, df=int(likely.sum()))


@pytest.mark.parametrize("block", [3, 4, 256])
def test_excluded_tokens_are_never_drawn(monkeypatch, block):
    monkeypatch.setattr(sampling, "BLOCK", block)
    logits = torch.zeros(10_000, 8)
    logits[:, [0, 3, 7]] = -torch.inf
    assert set(sample_tokens(logits, 1.0, 1.0, torch.Generator().manual_seed(0)).tolist()) == {1, 2, 4, 5, 6}


@pytest.mark.parametrize("num_candidates", [(4,), (4, 40), (40, 45)])
def test_a_row_that_is_flat_changes_no_other_one(monkeypatch, num_candidates):
    """Sorted as a whole, a flat row has all of its tokens, and a steep one beside it those of `top_p`."""
    monkeypatch.setattr(sampling, "NUM_TOP_TOKENS", num_candidates)
    flat, steep = torch.zeros(50), torch.arange(50).float() * -2
    logits = torch.stack([flat, steep]).repeat(DRAWS // 2, 1)
    drawn = sample_tokens(logits, 1.0, 0.9, torch.Generator().manual_seed(0)).reshape(-1, 2)
    assert drawn[:, 0].bincount(minlength=50).count_nonzero() == 45
    assert set(drawn[:, 1].tolist()) == {0, 1}


def test_rows_are_drawn_independently():
    """Of two fair coins a row, agreement is within 5 standard errors of a half."""
    drawn = sample_tokens(torch.zeros(2 * DRAWS, 2), 1.0, 1.0, torch.Generator().manual_seed(0)).reshape(2, -1)
    assert abs((drawn[0] == drawn[1]).float().mean().item() - 0.5) < 5 * 0.5 / DRAWS**0.5


@pytest.mark.parametrize("top_p", [1.0, 0.9])
def test_logits_that_are_not_numbers_are_refused(top_p):
    """A cumulative sum of NaN is above no height, so that the last token would be drawn each time."""
    logits = torch.zeros(3, 1000)
    logits[1] = torch.nan
    with pytest.raises(ValueError, match="numbers that are not finite"):
        sample_tokens(logits, 1.0, top_p)
