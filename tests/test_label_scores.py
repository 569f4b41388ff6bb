"""What a mean by label says of texts: its direction, scores that seeds carry, their weights, the judge of texts."""

import numpy as np
import pytest
from datasets import Dataset
from test_labels import LABELS, labeled, make, make_config  # noqa: F401

from hf_pretext import PrivateEvolutionGenerator
from hf_pretext.evolution.label_scores import (
    LabelScores,
    is_scores,
    margins,
    tilt_direction,
)
from hf_pretext.expansion import Expander, SeedTexts
from hf_pretext.hub import find_privacy_report
from hf_pretext.seed_texts import EFFECTIVE_SEEDS_OF_LABELS


def cosine(a, b):
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


@pytest.fixture
def anisotropic():
    """Public points that vary a lot in a few directions, and the shift of their mean by a tilt `exp(t x)`."""
    rng = np.random.default_rng(0)
    scales = np.concatenate([np.full(4, 0.3), np.full(60, 0.05)])
    points = rng.normal(size=(4000, 64)) * scales
    direction = rng.normal(size=64)
    weights = np.exp(points @ direction)
    return points, direction, (weights[:, None] * points).sum(axis=0) / weights.sum() - points.mean(axis=0)


def test_the_direction_is_that_of_the_tilt_which_moves_the_mean_so(anisotropic):
    """The shift itself points where points vary most."""
    points, direction, shift = anisotropic
    found = tilt_direction(shift, 0.0, points)
    assert cosine(found, direction) > 0.9 > 0.6 > cosine(shift, direction)


def test_noise_is_not_blown_up_where_points_hardly_vary(anisotropic):
    """The ridge follows the noise: the direction classifies better than that of an inverse without it."""
    points, direction, shift = anisotropic
    rng = np.random.default_rng(1)
    noise_std = 0.5 * np.sqrt((shift @ shift) / len(shift))
    covariance = np.cov(points.T)
    agreements = []
    for _ in range(8):
        noisy = shift + rng.normal(scale=noise_std, size=len(shift))
        found, plain = tilt_direction(noisy, noise_std, points), np.linalg.solve(covariance, noisy)
        agreements.append([np.corrcoef(points @ each, points @ direction)[0, 1] for each in (found, plain)])
    with_ridge, without = np.mean(agreements, axis=0)
    assert with_ridge > without + 0.05


def test_a_shift_of_noise_alone_has_no_direction(anisotropic):
    """It would prefer texts at random, as sharply as that of a label of which clients hold texts."""
    points, _, shift = anisotropic
    rng = np.random.default_rng(3)
    draws = [tilt_direction(rng.normal(scale=2.0, size=len(shift)), 2.0, points) for _ in range(200)]
    assert sum(each.any() for each in draws) <= 24
    assert not tilt_direction(shift, 1e3, points).any() and not tilt_direction(shift, 0.0, np.ones_like(points)).any()
    assert tilt_direction(shift, 1e-3, points).any()


def test_labels_of_which_nothing_is_known_do_not_compete_with_each_other():
    scores = np.array([[0.5, -1.0, 0.0, 0.0], [-1.0, -0.5, 0.0, 0.0]])
    np.testing.assert_array_equal(margins(scores), [[0.5, -1.5, -0.5, -0.5], [-1.0, -0.5, 0.5, 0.5]])
    assert (margins(np.zeros((2, 3))) > 0).all()


def test_seeds_carry_the_scores_of_all_texts():
    """Exactly if they span the space. With fewer seeds, exactly for texts that are mixtures of them."""
    rng = np.random.default_rng(0)
    directions, offset = rng.normal(size=(12, 3)), rng.normal(size=3)
    seeds, others = rng.normal(size=(40, 12)), rng.normal(size=(50, 12))
    found = LabelScores(seeds, seeds @ directions + offset).of(others)
    np.testing.assert_allclose(found, others @ directions + offset, atol=1e-8)
    few, shares = seeds[:6], rng.dirichlet(np.ones(6), size=50)
    found = LabelScores(few, few @ directions + offset).of(shares @ few)
    np.testing.assert_allclose(found, shares @ few @ directions + offset, atol=1e-8)
    one = LabelScores(seeds[:1], seeds[:1] @ directions).of(others)
    np.testing.assert_allclose(one, np.tile(seeds[:1] @ directions, (50, 1)))


def test_a_margin_is_above_zero_for_the_best_label_only():
    scores = np.array([[1.0, 3.0, 2.0], [0.0, 0.0, -5.0]])
    np.testing.assert_array_equal(margins(scores), [[-2, 1, -1], [0, 0, -5]])


def test_what_is_kept_of_scores_is_checked():
    assert is_scores((2, 2), [[0.5, 1], [-3.0, 0.0]])
    for wrong in ([[0.5, 1]], [[0.5], [1.0]], [[0.5, "a"], [0, 0]], [[float("nan"), 0], [0, 0]], None):
        assert not is_scores((2, 2), wrong)


def scored_seeds():
    """Seeds of two labels that differ in one direction, in which the label's name is what counts."""
    return Dataset.from_dict(
        {
            "text": ["ham seed", "both seed", "spam seed", "spam other"],
            "kind": ["ham", "ham", "spam", "spam"],
            "votes": [1.0] * 4,
            "preference": [1.0, 50.0, 1.0, 2.0],
            "share": [0.5] * 4,
            "label_scores": [[2.0, -2.0], [0.0, 0.0], [-2.0, 2.0], [-2.0, 2.0]],
        }
    )


class Engine:
    """Writes texts that begin with `ham`, `both` or `spam`, whatever it is shown."""

    def complete(self, shown, max_new_tokens, seed, stop=None):
        rng = np.random.default_rng(seed)
        return [f"{rng.choice(['ham', 'both', 'spam'])} {rng.integers(2**40)}" for _ in shown]

    def truncate(self, text, max_tokens):
        return text


def embed(texts):
    angle = np.array([{"ham": 0.0, "both": np.pi / 4, "spam": np.pi / 2}[text.split()[0]] for text in texts])
    return np.stack([np.cos(angle), np.sin(angle)], axis=1)


@pytest.mark.parametrize(("best_of", "most"), [(2, 0.5), (4, 0.1)])
def test_a_text_is_kept_if_it_fits_its_label_better_than_the_others(best_of, most):
    """Even if the preferences of the label's own seeds are for texts that fit both."""
    config = make_config(best_of=best_of)
    rows = list(Expander(Engine(), config, embed).rows(SeedTexts.of(scored_seeds(), config), 60))
    for label, name in enumerate(LABELS):
        written = [row["text"].split()[0] for row in rows if row["kind"] == label]
        assert set(written) <= {name, "both"} and written.count("both") <= most * len(written)
    assert len(rows) == 60
    everything = make_config(best_of=1)
    rows = list(Expander(Engine(), everything, embed).rows(SeedTexts.of(scored_seeds(), everything), 60))
    assert {row["text"].split()[0] for row in rows} == {"ham", "both", "spam"}


def test_a_prompt_shows_no_seed_that_fits_another_label_better():
    """Unless all are so. And the preferences let no few of those that are shown stand for all."""
    seeds = scored_seeds()
    wrong = seeds.remove_columns("kind").add_column("kind", ["spam", "ham", "spam", "ham"])
    texts = SeedTexts.of(wrong, make_config())
    assert texts.with_label(1).texts == ["spam seed"]
    assert texts.with_label(0).texts == ["both seed", "spam other"], "none of them fits, so all are shown"
    plain = SeedTexts.of(wrong.remove_columns("label_scores"), make_config())
    assert plain.with_label(1).texts == ["ham seed", "spam seed"]
    np.testing.assert_allclose(plain.with_label(0).weights, [1.0, 2 / 50])
    weights = texts.with_label(0).weights
    assert weights.sum() ** 2 / (weights**2).sum() >= 2 * EFFECTIVE_SEEDS_OF_LABELS


@pytest.mark.parametrize("wrong", [[1.0], [1.0, float("nan")], [1.0, 2.0, 3.0]])
def test_scores_that_are_not_those_of_the_labels_are_refused(wrong):
    seeds = scored_seeds().remove_columns("label_scores").add_column("label_scores", [[0.0, 0.0]] * 3 + [wrong])
    with pytest.raises(ValueError, match="`seeds` has a column 'label_scores' that does not hold a list of 2 finite"):
        SeedTexts.of(seeds, make_config())


def test_a_column_of_labels_cannot_have_the_name_of_the_scores():
    with pytest.raises(ValueError, match="`label_column`='label_scores' is the name of another column"):
        make_config(label_column="label_scores")


def test_scores_stay_with_the_seeds(make, labeled, public, models_folder, tmp_path):  # noqa: F811
    """In a run, when it resumes, saved and loaded. Texts from changed ones have no guarantee."""
    config = make_config(mean_fraction=0.5, epsilon=500.0)
    generator = make(config, run_dir=tmp_path / "run")
    seeds = generator.evolve(labeled, initial_population=public)
    assert is_scores((len(seeds), 2), seeds["label_scores"][:])
    assert "label_scores" not in make(make_config()).evolve(labeled, initial_population=public).column_names
    (tmp_path / "run" / "run-1-label-scores.json").unlink()
    again = make(config, run_dir=tmp_path / "run").evolve(labeled, initial_population=public)
    assert again.to_dict() == seeds.to_dict()

    scores = LabelScores(generator.embed(seeds["text"][:]), np.array(seeds["label_scores"]))
    made = generator.expand(seeds, num_samples=12)
    fits = margins(scores.of(generator.embed(made["text"][:])))[range(12), made["kind"][:]]
    assert (fits > -1e-6).all() and find_privacy_report(made) is not None

    changed = [[second, first] for first, second in seeds["label_scores"]]
    others = seeds.remove_columns("label_scores").add_column("label_scores", changed)
    assert find_privacy_report(generator.expand(others, num_samples=2)) is None

    generator.expand(seeds, num_samples=12)
    generator.save_pretrained(tmp_path / "saved")
    given = {name: str(models_folder / name) for name in ("embedding_model", "expansion_model")}
    saved = PrivateEvolutionGenerator.from_pretrained(tmp_path / "saved", variation_model=None, **given)
    assert saved.seeds.to_dict() == seeds.to_dict()
    assert find_privacy_report(saved.expand(saved.seeds, num_samples=2)) is not None
