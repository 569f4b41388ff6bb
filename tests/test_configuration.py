import dataclasses
import json

import pytest

from hf_pretext import PrivateEvolutionConfig, __version__


def test_round_trip_through_a_folder(tmp_path):
    config = PrivateEvolutionConfig(epsilon=1.29, delta=3e-6, max_samples_per_client=16, domain="chat messages")
    config.save_pretrained(tmp_path / "new")
    assert PrivateEvolutionConfig.from_pretrained(tmp_path / "new") == config
    saved = json.loads((tmp_path / "new" / "private_evolution_config.json").read_text())
    assert saved["hf_pretext_version"] == __version__


def test_unknown_keys_are_named_in_a_warning():
    values = {"epsilon": 1.0, "delta": 1e-5, "colour": "red", "hf_pretext_version": "9.9"}
    with pytest.warns(UserWarning, match=r"'colour'.*version 9\.9"):
        assert PrivateEvolutionConfig.from_dict(values).epsilon == 1.0


def test_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        PrivateEvolutionConfig.from_pretrained(tmp_path / "nowhere")


def test_every_field_has_help_and_is_documented():
    for field in dataclasses.fields(PrivateEvolutionConfig):
        assert field.metadata["help"]
        assert f"{field.name} (`" in PrivateEvolutionConfig.__doc__


def test_delta_has_no_default():
    with pytest.raises(TypeError, match="delta"):
        PrivateEvolutionConfig(epsilon=1.0)


def test_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        PrivateEvolutionConfig(epsilon=1.0, delta=1e-5).epsilon = 2.0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epsilon": None}, "exactly one of `epsilon` and `noise_multiplier`"),
        ({"noise_multiplier": 1.0}, "exactly one of `epsilon` and `noise_multiplier`"),
        ({"epsilon": 0}, "`epsilon`=0 must be above 0"),
        ({"epsilon": -1.0}, "`epsilon`=-1.0 must be above 0"),
        ({"epsilon": float("nan")}, "`epsilon`=nan"),
        ({"epsilon": float("inf")}, "`epsilon`=inf must be finite"),
        ({"delta": 0}, "`delta`=0"),
        ({"delta": 1.0}, "`delta`=1.0 must be below 1"),
        ({"num_rounds": 0}, "`num_rounds`=0 must be at least 1"),
        ({"max_samples_per_client": 0}, "`max_samples_per_client`=0"),
        ({"population_size": 1}, "`population_size`=1"),
        ({"lookahead": -1}, "`lookahead`=-1"),
        ({"threshold": -0.1}, "`threshold`=-0.1"),
        ({"mask_probability": 0.0}, "`mask_probability`=0.0"),
        ({"top_p": 1.5}, "`top_p`=1.5 must be at most 1"),
        ({"vote_clipping": "l1"}, r"`vote_clipping`='l1' must be one of \['l2', 'count'\]"),
        ({"vote_clipping": "count", "max_samples_per_client": 2000}, "sensitivity"),
        ({"votes_per_sample": 0}, "`votes_per_sample`=0 must be at least 1"),
        ({"votes_per_sample": 33, "population_size": 32}, "`votes_per_sample`=33 is more than"),
        ({"vote_clipping": "count", "votes_per_sample": 4}, "`votes_per_sample`=4: .* one vote per sample"),
        ({"accountant": "moments"}, "`accountant`='moments'"),
        ({"client_column": "text"}, "must differ"),
        ({"domain": " "}, "`domain`"),
        ({"text_column": ""}, "`text_column`"),
    ],
)
def test_bad_values_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        PrivateEvolutionConfig(**{"epsilon": 1.0, "delta": 1e-5, **changes})


@pytest.mark.parametrize("changes", [{"num_rounds": 2.0}, {"population_size": True}, {"epsilon": "1"}, {"seed": None}])
def test_wrong_types_are_named(changes):
    with pytest.raises(TypeError, match=f"`{next(iter(changes))}`="):
        PrivateEvolutionConfig(**{"epsilon": 1.0, "delta": 1e-5, **changes})


def test_yaml_integers_are_numbers():
    assert PrivateEvolutionConfig(epsilon=1, delta=1e-5, threshold=2).epsilon == 1


@pytest.mark.parametrize(("epsilon", "population_size"), [(1.29, 1024), (7.58, 2048)])
def test_the_paper_s_settings(epsilon, population_size):
    config = PrivateEvolutionConfig.paper(epsilon=epsilon)
    expected = {
        "epsilon": epsilon,
        "delta": 3e-6,
        "num_rounds": 11,
        "population_size": population_size,
        "max_samples_per_client": 8,
        "vote_clipping": "count",
        "accountant": "rdp",
        "lookahead": 4,
        "mask_probability": 0.3,
        "variation_steps": 2,
        "temperature": 1.0,
        "top_p": 1.0,
        "max_length": 64,
        "seeds_per_prompt": 3,
        "texts_per_prompt": 1,
        "max_new_tokens": 85,
    }
    assert {name: getattr(config, name) for name in expected} == expected


def test_the_paper_s_settings_can_be_overridden():
    assert PrivateEvolutionConfig.paper(epsilon=1.29, max_samples_per_client=16).max_samples_per_client == 16


def test_sampling_is_refused_where_it_is_not_accounted_for():
    with pytest.raises(
        ValueError, match=r"`client_sampling_rate`=0.5 is accounted for under .*'add_or_remove_one' only"
    ):
        PrivateEvolutionConfig(epsilon=1.0, delta=1e-5, client_sampling_rate=0.5, neighboring_relation="replace_one")
    for rate in (0, -0.1, 1.5, float("nan")):
        with pytest.raises(ValueError, match="`client_sampling_rate`"):
            PrivateEvolutionConfig(epsilon=1.0, delta=1e-5, client_sampling_rate=rate)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"list_heading": ""}, "`list_heading`='' must be a non-empty string"),
        ({"list_heading": "Text 1"}, "`list_heading`='Text 1' must not end with a digit"),
        ({"list_heading": "Text\nmore"}, "`list_heading`=.* must be one line"),
        ({"list_heading": " Text"}, "`list_heading`=.* without blanks around it"),
        ({"list_title": "List\u2028of"}, "`list_title`=.* must be one line"),
    ],
)
def test_headings_of_the_list_prompt_are_lines(changes, message):
    with pytest.raises(ValueError, match=message):
        PrivateEvolutionConfig(epsilon=1.0, delta=1e-5, **changes)
    assert PrivateEvolutionConfig(epsilon=1.0, delta=1e-5, list_title="以下是{size}条", list_heading="样本（新）")
