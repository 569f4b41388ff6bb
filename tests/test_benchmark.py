"""The utility benchmark: its settings parse, its stages are kept, its tables say what the rows say."""

import sys
from pathlib import Path

import numpy as np
import pytest
from trl import TrlParser

RECIPES = Path(__file__).parent.parent / "recipes"


@pytest.fixture(scope="module")
def benchmark():
    # Other scripts of the folder are imported by name, but `evaluate` must stay the library.
    import evaluate  # noqa: F401

    before = list(sys.path)
    sys.path.insert(0, str(RECIPES))
    try:
        import benchmark
    finally:
        sys.path[:] = before
    return benchmark


@pytest.mark.parametrize("name", ["small", "full"])
def test_the_settings_parse_and_a_key_nobody_knows_is_an_error(benchmark, name, tmp_path):
    parser = TrlParser((benchmark.BenchmarkArguments,))
    path = RECIPES / "configs" / "benchmark" / f"{name}.yaml"
    (arguments,) = parser.parse_args_and_config(["--config", str(path)])
    assert {benchmark.FLOOR, benchmark.CEILING, *benchmark.PRIVATE_METHODS} <= set(arguments.methods)
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(path.read_text() + "\nnum_sampels: 1\n")
    with pytest.raises(ValueError, match="num_sampels"):
        parser.parse_args_and_config(["--config", str(wrong)])
    with pytest.raises(ValueError, match="'finetune-publc'"):
        benchmark.BenchmarkArguments(data=["plays"], methods=["finetune-publc"])


def test_the_paper_s_method_is_the_paper_s_preset_but_for_what_is_scaled_down(benchmark, tmp_path):
    from dataclasses import asdict

    from hf_pretext import PrivateEvolutionConfig

    arguments = benchmark.BenchmarkArguments(data=["plays"], output_dir=str(tmp_path))
    config = benchmark.Benchmark("plays", arguments, benchmark.Models(arguments)).config("paper", 1.29, 0)
    paper = asdict(PrivateEvolutionConfig.paper(epsilon=1.29))
    changed = {name for name, value in asdict(config).items() if value != paper[name]}
    scaled = {"population_size", "lookahead", "masks_per_pass", "max_length", "max_new_tokens", "min_words"}
    assert changed <= scaled


def test_a_stage_is_made_once_for_the_same_inputs(benchmark, tmp_path):
    import benchmark_stages

    made = []
    stages = benchmark_stages.Stages(tmp_path)
    for inputs in ({"a": 1}, {"a": 1}, {"a": 2}):
        stages("stage", inputs, lambda: made.append(1) or len(made))
    assert len(made) == 2
    assert benchmark_stages.Stages(tmp_path)("stage", {"a": 1}, None)["value"] == 1
    # A table of what is in the cache makes nothing.
    cached = benchmark_stages.Stages(tmp_path, only_cached=True)
    assert benchmark_stages.made(lambda: cached("stage", {"a": 1}, None))[0]["value"] == 1
    assert benchmark_stages.made(lambda: cached("stage", {"a": 3}, lambda: made.append(1))) == [] and len(made) == 2
    with pytest.raises(RuntimeError):
        stages("stage", {"a": 3}, lambda: (_ for _ in ()).throw(RuntimeError))
    assert not stages.place("stage", {"a": 3}).with_suffix(".json").exists()


def test_the_table_places_methods_between_floor_and_ceiling(benchmark, tmp_path):
    import benchmark_plots
    import benchmark_results

    figures = {benchmark.FLOOR: (0.10, 6.0), "default": (0.12, 5.7), benchmark.CEILING: (0.14, 5.5)}
    rows = [
        {
            **{"data": "plays", "setting": "llm", "method": method, "seed": seed, "frechet": 0.1, "seconds": 1.0},
            **{"epsilon": 1.29 if method == "default" else None},
            **{"accuracy": accuracy + 0.001 * seed, "cross_entropy": nats},
        }
        for method, (accuracy, nats) in figures.items()
        for seed in (-1, 0, 1)
    ]
    lifts = [{"data": "plays", "paper": 2.0, "default": 9.0}]
    results = benchmark_results.summarize(rows, lifts)
    default = next(row for row in results["table"] if row["method"] == "default")
    assert default["gap_closed_accuracy"]["mean"] == pytest.approx(0.5)
    assert default["gap_closed_cross_entropy"]["mean"] == pytest.approx(0.6)
    # Student's t for three seeds: 4.303 times the standard deviation over the square root of three.
    assert default["accuracy"]["high"] == pytest.approx(0.12 + 4.303 * 0.001 / np.sqrt(3), rel=1e-5)
    table = benchmark_results.as_markdown(results)
    assert "| plays | llm | 1.29 | default | 0.1200 [0.1175, 0.1225] | 5.700" in table and "| 4.5 |" in table
    assert benchmark_plots.NOT_DP in table
    assert default["seconds"] == 3.0
    benchmark_plots.plot_scores(results, tmp_path / "benchmark.png")
    assert (tmp_path / "benchmark.png").stat().st_size > 10_000
    readme = tmp_path / "README.md"
    (tmp_path / "recipes").mkdir()
    (tmp_path / "maps.png").write_bytes(b"a picture")
    readme.write_text(f"above\n{benchmark_results.TABLE_BEGINS}\nold\n{benchmark_results.TABLE_ENDS}\nbelow\n")
    benchmark_results.write_into_readme(results, tmp_path, readme)
    lines = readme.read_text().splitlines()
    assert benchmark_plots.NOT_DP in lines[2]
    assert lines[0] == "above" and lines[-1] == "below" and "old" not in lines
    assert "| default, epsilon 1.29 | 0.1200 ± 0.0025; 5.700 ± 0.000 |" in lines
    # The floor of the same seed is taken off, and its accuracy moves with the seed as that of the default does.
    assert "| *gap closed: default, epsilon 1.29* | 0.50 ± 0.00; 0.60 ± 0.00 |" in lines
    assert (tmp_path / "recipes" / "benchmark.png").is_file()
    assert (tmp_path / "recipes" / "benchmark-maps.png").read_bytes() == b"a picture"
    # Where the ceiling is within the noise of the floor, no share of the way is shown, and seeds that lack are.
    for row in rows:
        row["accuracy"] += 0.1 * row["seed"] * (row["method"] == benchmark.CEILING)
    written = benchmark_results.headline(benchmark_results.summarize(rows[:-1], lifts))
    assert "| *gap closed: default, epsilon 1.29* | not told apart; 0.60 ± 0.00 |" in written
    assert "| expand-private | 0.0895 ± 0.6417; 5.500 ± 0.000 (seeds: 2) |" in written
    readme.write_text("no place for a table")
    with pytest.raises(ValueError, match="lacks the lines"):
        benchmark_results.write_into_readme(results, tmp_path, readme)


def test_pictures_of_rounds_and_maps_are_drawn(benchmark, tmp_path):
    import benchmark_plots

    rounds = [
        {"data": "mail", "method": "paper", "epsilon": epsilon, "round": number, "lift": 1.5, "survivors": 30}
        for epsilon in (1.29, 7.58)
        for number in (1, 2)
    ]
    benchmark_plots.plot_rounds(rounds, tmp_path / "rounds.png")
    points = np.random.default_rng(0).standard_normal((3, 20, 8))
    groups = dict(zip(("held-out private", "seeds", "synthetic"), points, strict=True))
    benchmark_plots.plot_maps({("mail", "paper"): groups, ("mail", "default"): groups}, tmp_path / "maps.png")
    assert all((tmp_path / name).stat().st_size > 10_000 for name in ("rounds.png", "maps.png"))
