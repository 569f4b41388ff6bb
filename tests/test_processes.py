"""Two processes that really run: the same population, one draw of noise a round, one report."""

import json

import numpy as np
import pytest

from hf_pretext.evaluation import score_next_tokens
from hf_pretext.processes import broadcast, is_main_process, map_over_processes, num_processes
from support import two_processes
from support.processes import SUPPORT, launch, torchrun
from support.tiny import random_texts


def test_alone_everything_is_done_here():
    assert (num_processes(), is_main_process(), broadcast("value")) == (1, True, "value")
    assert map_over_processes(lambda share: [item + 1 for item in share], [1, 2, 3]) == [2, 3, 4]
    assert map_over_processes(lambda share, seed: [seed] * len(share), [1, 2], seed=7) == [7, 7]


@pytest.fixture(scope="module", params=["copies", pytest.param("torchrun", marks=pytest.mark.slow)])
def outcomes(request, tmp_path_factory, models_folder):
    folder = tmp_path_factory.mktemp("two")
    if request.param == "copies":
        assert launch(two_processes.main, folder, models_folder) == [0, 0]
    else:
        done = torchrun(SUPPORT / "two_processes.py", folder, models_folder)
        assert done.returncode == 0, done.stderr
    return [json.loads((folder / f"outcome-{rank}.json").read_text()) for rank in (0, 1)]


def test_two_processes_end_with_the_same_texts_and_report(outcomes):
    first, second = outcomes
    assert first["world_size"] == second["world_size"] == 2
    for name in ("initial_population", "seeds", "synthetic", "labeled", "report"):
        assert first[name] == second[name], name
    assert len({row["text"] for row in first["labeled"]["synthetic"]}) == 8
    assert np.shape(first["labeled"]["token_counts"]["counts"]) == (2, 40)
    assert len(set(first["synthetic"])) == len(first["synthetic"]) == 20


def test_noise_is_drawn_once_a_round_in_the_main_process(outcomes):
    first, second = outcomes
    assert (first["draws"], second["draws"]) == (first["report"]["num_rounds"], 0)


def test_two_processes_go_on_from_one_run_folder(outcomes):
    assert [(outcome["same_again"], outcome["drawn_again"]) for outcome in outcomes] == [(True, 0)] * 2


def test_other_processes_hold_no_private_text_and_do_their_share(outcomes):
    first, second = outcomes
    assert (first["had_private"], second["had_private"]) == (True, False)
    # The expansion's prompts and the candidates to vary are shared evenly.
    assert second["prompts"] > 0 and abs(first["prompts"] - second["prompts"]) <= 0.2 * first["prompts"]
    assert second["varied"] > 0 and abs(first["varied"] - second["varied"]) <= 0.2 * first["varied"]


def test_scores_do_not_depend_on_the_number_of_processes(outcomes, llama):
    alone = score_next_tokens(*llama, random_texts(15, seed=5)).totals()
    assert outcomes[0]["totals"] == outcomes[1]["totals"] == pytest.approx(alone, rel=1e-6)


def test_results_come_in_the_order_of_the_items(outcomes):
    assert all(outcome["doubled"] == list(2 * np.arange(7)) for outcome in outcomes)
    # Processes that drew from one seed would write the same texts.
    assert all(len(set(outcome["seeds_of_shares"])) == 2 for outcome in outcomes)
