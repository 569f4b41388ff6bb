"""Round trips through a Hub that really answers over HTTP, with the unmodified clients, each in a fresh cache."""

import json
import subprocess
import sys

import pytest
import requests
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

from hf_pretext import hub
from support.hub_server import HubServer
from support.processes import SUPPORT, environment
from support.tiny import random_texts


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory, models_folder):
    """Push in one process and pull in another."""
    folder = tmp_path_factory.mktemp("hub")
    (folder / "public.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in random_texts(20, seed=8)))
    with HubServer(folder / "server") as server:
        for action in ("push", "pull"):
            told = environment(**server.environment(folder / f"home-{action}"))
            done = subprocess.run(
                [sys.executable, SUPPORT / "hub_client.py", action, folder, models_folder],
                env=told,
                capture_output=True,
                text=True,
            )
            assert done.returncode == 0, done.stderr[-5000:]
    return [json.loads((folder / f"{action}ed.json").read_text()) for action in ("push", "pull")]


def test_dataset_comes_back_equal(outcomes):
    pushed, pulled = outcomes
    assert pulled["more"] == pushed["more"] and len(pulled["more"]) == 50
    assert pulled["seeds"] == pulled["restored seeds"] == pushed["seeds"]
    assert pulled["report"] == pushed["report"] == pushed["report of texts"] and pulled["config equal"]
    assert pulled["found report"] == pulled["loaded report"] == pushed["report"]


def test_labels_come_back_with_their_names(outcomes):
    pushed, pulled = outcomes
    assert pulled["labeled"] == pushed["labeled"] and pulled["labeled seeds"] == pushed["labeled seeds"]
    assert pulled["names of labels"] == [["ham", "spam"]] * 2 and pulled["labeled report"]
    assert sorted(pulled["more labeled"]) == [0, 0, 1, 1]


def test_the_command_expands_published_seeds_and_pushes_what_it_wrote(outcomes):
    pushed, pulled = outcomes
    assert pulled["expanded"] == [0, 6, ["text", "kind"], pushed["labeled report"]]


def test_a_repository_with_foreign_rows_has_no_report(outcomes):
    _, pulled = outcomes
    assert pulled["report of a mixed repository"] is pulled["training on it"] is False


def test_models_come_back_equal(outcomes):
    pushed, pulled = outcomes
    for name in ("adapter tensors", "small tensors", "adapter card", "small card"):
        assert pulled[name] == pushed[name], name
    assert any("lora" in name for name in pulled["adapter tensors"])


def test_an_adapter_is_put_on_the_weights_that_it_was_trained_from(outcomes):
    """The base has moved on since. Its last layer has other weights on `main`."""
    pushed, pulled = outcomes
    assert pulled["pinned tensors"] == pushed["before"] == pushed["tensors of the first commit"]
    assert f'from_pretrained("me/base", revision="{pushed["first commit"]}")' in pulled["pinned text"]


def test_what_a_model_learned_is_looked_up_at_its_own_commit(outcomes):
    pushed, _ = outcomes
    assert (pushed["reports of an earlier commit"], pushed["reports of main"]) == (1, 0)
    assert pushed["reports by its name with that commit"] == 1


def test_a_model_is_loaded_at_the_commit_that_its_name_gives(outcomes):
    """A run notes the commits of its models, and is resumed with these."""
    pushed, _ = outcomes
    assert pushed["by name with commit"] == pushed["tensors of the first commit"]
    assert pushed["label"] == f"me/base ({pushed['first commit']})"


def test_a_private_repository_is_private(outcomes):
    pushed, _ = outcomes
    assert pushed["private"] == [0, True, False]


def test_cards_say_what_is_guaranteed(outcomes):
    _, pulled = outcomes
    assert pulled["card"]["license"] == "cc0-1.0" and pulled["card"]["language"] == "en"
    assert [each["config_name"] for each in pulled["card"]["configs"]] == ["default", "seeds"]
    assert 'load_dataset("me/jobs-dp", "seeds"' in pulled["card text"]
    assert pulled["adapter card"]["datasets"] == "me/jobs-dp" and pulled["adapter card"]["license"] == "apache-2.0"
    assert pulled["small card"]["library_name"] == "transformers"
    assert pulled["adapter card"]["library_name"] == "peft"
    assert "post-processing" in pulled["adapter text"] and "epsilon = 4" in pulled["adapter text"]
    assert "There is no guarantee" in pulled["no guarantee card"]


def test_nothing_but_the_results_is_pushed(outcomes):
    _, pulled = outcomes
    for files in pulled["files"].values():
        assert not [name for name in files if "checkpoint" in name or name.endswith((".bin", ".pt", ".arrow"))]
        assert {"README.md", "privacy_report.json", "run.png"} <= set(files)
    assert {"data/train-00000-of-00001.parquet", "croissant.json", "report.html"} <= set(pulled["files"]["me/jobs-dp"])


def test_the_page_of_a_run_becomes_a_static_space(outcomes):
    pushed, _ = outcomes
    assert all(address.endswith("/spaces/me/jobs-page") for address in pushed["page address"])
    assert {"README.md", "index.html", "privacy_report.json"} <= set(pushed["page files"])
    assert "50 synthetic texts with a privacy guarantee" in pushed["page"]
    assert "\nsdk: static\n" in pushed["page card"] and '\ntitle: "jobs-page"\n' in pushed["page card"]
    kind, message = pushed["page over a game"]
    assert kind == "ValueError" and "holds other files" in message


def test_a_push_that_breaks_leaves_nothing_and_can_be_repeated(outcomes):
    pushed, _ = outcomes
    kind, message = pushed["cut connection"]
    assert kind == "ConnectionError" and "push again" in message
    assert pushed["files after the cut"] == [".gitattributes"]
    assert pushed["two 500s"] is None


# The transport of the installed client: httpx2, or httpx before huggingface_hub 2.
CLIENT = sys.modules.get("httpx2") or sys.modules["httpx"]


def answered(status):
    request = CLIENT.Request("POST", "http://hub")
    return HfHubHTTPError("refused", response=CLIENT.Response(status, request=request))


@pytest.mark.parametrize(
    ("error", "passes"),
    [
        *((answered(status), passes) for status, passes in ((500, True), (429, True), (403, False), (412, False))),
        (CLIENT.ReadError("cut"), True),
        (CLIENT.ConnectTimeout("late"), True),
        (CLIENT.RemoteProtocolError("cut"), True),
        (requests.ConnectionError("cut"), True),
        (requests.Timeout("late"), True),
        (ConnectionResetError("cut"), True),
        (OfflineModeIsEnabled("offline"), False),
        (ValueError("the repository of another run"), False),
    ],
    ids=repr,
)
def test_a_push_is_tried_again_after_what_passes(monkeypatch, error, passes):
    monkeypatch.setattr(hub, "WAITS", (0, 0))
    answers = [error, error, "address"]

    def push():
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    if passes:
        assert hub._with_patience(push) == "address"
    else:
        with pytest.raises(type(error)):
            hub._with_patience(push)
        assert len(answers) == 2


def test_a_push_that_is_refused_after_a_lost_answer_may_have_arrived(monkeypatch):
    """To be told to delete the repository would be to delete what was pushed."""
    monkeypatch.setattr(hub, "WAITS", (0, 0))
    answers = [TimeoutError("timed out"), ValueError("it holds other files")]
    with pytest.raises(ConnectionError, match=r"timed out. Then .* the first try may have arrived: it holds other"):
        hub._with_patience(lambda: (_ for _ in ()).throw(answers.pop(0)))


def test_bad_tokens_are_named(outcomes):
    pushed, _ = outcomes
    assert pushed["no token"][0] == "PermissionError" and "hf auth login" in pushed["no token"][1]
    assert pushed["wrong token"][0] == "ConnectionError" and "401" in pushed["wrong token"][1]


def test_a_repository_of_something_else_is_refused(outcomes):
    pushed, pulled = outcomes
    assert pushed["other files"][0] == "ValueError" and "'cat.png'" in pushed["other files"][1]
    assert pushed["another run"][0] == "ValueError" and "their epsilons add up" in pushed["another run"][1]
    assert pulled["after a push of the restored"] == 45


def test_what_would_be_refused_is_refused_before_the_work(outcomes):
    pushed, _ = outcomes
    assert pushed["early, a new repository"] is None and pushed["early, its own"] is None
    assert (
        pushed["early, another run"][0] == "ValueError" and "their epsilons add up" in pushed["early, another run"][1]
    )
    for when in ("early", "late"):
        assert pushed[f"{when}, public"][0] == "ValueError" and "exists and is public" in pushed[f"{when}, public"][1]
    assert pushed["early, no name"][0] == "HFValidationError"
    assert "'cat.png'" in pushed["early, other files"] and pushed["early, nothing written"]
    assert pushed["model over cats"][0] == "ValueError" and "'cat.png'" in pushed["model over cats"][1]
    assert not pushed["trained before it was refused"]


def test_no_guarantee_no_push_unless_told_so(outcomes):
    pushed, _ = outcomes
    assert pushed["no guarantee"][0] == "ValueError" and "allow_no_guarantee=True" in pushed["no guarantee"][1]
    assert pushed["no guarantee, repo"] is False
    assert pushed["model of no guarantee"][0] == "ValueError"


def test_what_cannot_be_restored_is_named(outcomes):
    _, pulled = outcomes
    assert (
        pulled["no models"][0] == "ValueError"
        and "from_pretrained(..., variation_model=...)" in pulled["no models"][1]
    )
    assert pulled["no repository"][0] == "FileNotFoundError" and "'me/nothing'" in pulled["no repository"][1]
