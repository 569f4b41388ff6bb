"""Expansion by a model behind an address: real servers, and one that fails in chosen ways."""

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from huggingface_hub import InferenceClient

from hf_pretext import PrivateEvolutionGenerator
from hf_pretext.expansion import Expander
from hf_pretext.models.remote_engine import RemoteEngine
from support.tiny import random_texts

SERVERS = {
    "transformers": ["--device", "cpu", "--dtype", "float32"],
    "vllm": ["--dtype", "float32", "--max-model-len", "512"],
}
"""Commands whose `serve` speaks the API of OpenAI, and what they are told besides the model and the address."""

NO_VLLM = pytest.mark.skipif(shutil.which("vllm") is None, reason="vLLM is not installed; it was never run here.")


@pytest.fixture(scope="module", params=["transformers", pytest.param("vllm", marks=NO_VLLM)])
def address(request, models_folder, tmp_path_factory):
    """A real server on loopback, with the tiny causal model, which is told to sample."""
    folder = tmp_path_factory.mktemp("served")
    shutil.copytree(models_folder / "expansion_model", folder, dirs_exist_ok=True)
    generation = json.loads((folder / "generation_config.json").read_text())
    (folder / "generation_config.json").write_text(json.dumps({**generation, "do_sample": True}))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    log = (tmp_path_factory.mktemp("serve") / "log").open("wb")
    command = [shutil.which(request.param) or Path(sys.executable).parent / request.param, "serve", folder]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    server = subprocess.Popen(
        [*map(str, command), "--host", "127.0.0.1", "--port", str(port), *SERVERS[request.param]],
        env=environment,
        stdout=log,
        stderr=log,
    )
    end = time.monotonic() + (120 if request.param == "transformers" else 600)
    while True:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5)
            break
        except OSError:
            assert server.poll() is None and time.monotonic() < end, Path(log.name).read_text()
            time.sleep(0.2)
    yield f"http://127.0.0.1:{port}/v1#{folder}"
    server.kill()
    server.wait()


def test_a_real_server_expands_seeds_and_varies_texts(
    address, sentence_transformer, config, private, public, tmp_path
):
    config = replace(config, num_rounds=2, population_size=8, lookahead=0, max_new_tokens=8)
    generator = PrivateEvolutionGenerator(None, sentence_transformer, address, config=config, batch_size=2)
    synthetic = generator(private, initial_population=public, num_samples=4)
    assert len(set(synthetic["text"])) == 4
    assert generator._sources["expansion_model"].published().name is None, (
        "the path of a local folder is not published"
    )
    assert "127.0.0.1" not in json.dumps([model.to_dict() for model in generator._sources.values()])
    generator.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"where its `expansion_model` is from: .* a server \(of "):
        PrivateEvolutionGenerator.from_pretrained(tmp_path, embedding_model=sentence_transformer)


class Scripted(ThreadingHTTPServer):
    """A server that answers the requests of each prompt with the next of that prompt's statuses, and counts."""

    def __init__(self, statuses=(), lacks=(), models=("served",), text=" and on", finish_reason="length"):
        self.statuses, self.lacks, self.models, self.context = list(statuses), lacks, models, None
        self.text, self.finish_reason, self.answers = text, finish_reason, []
        self.requests, self.at_once, self.most_at_once, self.lock = [], 0, 0, threading.Lock()
        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def address(self):
        return f"http://127.0.0.1:{self.server_port}/v1"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        more = {"max_model_len": self.server.context} if self.server.context else {}
        self.answer(200, {"data": [{"id": name, **more} for name in self.server.models]})

    def do_POST(self):
        server = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        path = self.path.removeprefix("/v1/")
        words = body.get("prompt") or body["messages"][0]["content"]
        if words == "A":  # The one token that an engine asks for when it is made.
            fine = {"text": "."} if "prompt" in body else {"message": {"content": "."}}
            self.answer(404 if path in server.lacks else 200, {"choices": [fine]})
            return
        with server.lock:
            server.at_once += 1
            server.most_at_once = max(server.most_at_once, server.at_once)
            server.requests.append((path, body, dict(self.headers)))
            status = 404 if path in server.lacks else server.statuses.pop(0) if server.statuses else 200
        time.sleep(0.02)
        with server.lock:
            server.at_once -= 1
        text = {"text": words + server.text} if "prompt" in body else {"message": {"content": words + server.text}}
        told = {"choices": [{**text, "finish_reason": server.finish_reason}]}
        self.answer(status, server.answers.pop(0) if server.answers else told)

    def answer(self, status, content):
        self.send_response(status)
        if status == 429:
            self.send_header("Retry-After", "0")
        payload = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_header("Content-Length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload)

    def log_message(self, *_):
        pass


@pytest.fixture
def impatient(monkeypatch):
    """Wait for no time between repetitions."""
    monkeypatch.setattr("urllib3.util.retry.Retry.sleep", lambda *_: None)


def test_answers_come_in_order_with_bounded_requests_and_seeds_of_their_own(config):
    server = Scripted()
    generate = RemoteEngine(server.address, config, max_requests=3)
    prompts = random_texts(20)
    assert generate.complete(prompts, 8, seed=1, stop="END") == [f"{prompt} and on" for prompt in prompts]
    assert server.most_at_once == 3
    bodies = [body for _, body, _ in server.requests]
    assert {body["model"] for body in bodies} == {"served"} and len({body["seed"] for body in bodies}) == 20
    assert bodies[0]["max_tokens"] == 8 and bodies[0]["stop"] == ["END"] and bodies[0]["temperature"] == 1.0
    assert not any("Authorization" in headers for _, _, headers in server.requests), "a token went to a stranger"


def test_a_client_brings_its_token(config):
    server = Scripted()
    RemoteEngine(InferenceClient(base_url=server.address, token="hf_mine"), config).complete(["a"], 8, seed=0)
    assert server.requests[-1][2]["Authorization"] == "Bearer hf_mine"


@pytest.mark.parametrize("status", [429, 503])
def test_what_fails_for_a_passing_reason_is_repeated(config, impatient, status):
    server = Scripted(statuses=[status] * 4)
    assert RemoteEngine(server.address, config).complete(["a", "b"], 8, seed=0) == ["a and on", "b and on"]
    assert len(server.requests) == 6


def test_a_server_that_stays_busy_ends_the_call_by_name(config, impatient):
    server = Scripted(statuses=[503] * 1000)
    with pytest.raises(ConnectionError, match=r"completions answered with status 503"):
        RemoteEngine(server.address, config, max_requests=2).complete(["a"] * 100, 8, seed=0)
    assert len(server.requests) < 40, "prompts were asked for after the call had failed"


@pytest.mark.parametrize(
    "answer", [{"error": "no model"}, {"choices": []}, {"choices": ["a"]}, [1], b"<html>Bad gateway</html>"]
)
@pytest.mark.parametrize("kind", ["complete", "answer"])
def test_what_is_no_completion_is_named(config, answer, kind):
    """Gateways answer so, with status 200."""
    server = Scripted()
    engine = RemoteEngine(server.address, config)
    server.answers = [answer]
    with pytest.raises(
        ConnectionError, match="answered without a completion: .* With `run_dir`, the same call resumes"
    ):
        getattr(engine, kind)(["a"], 8, seed=0)


def test_a_request_that_is_refused_is_not_repeated(config):
    server = Scripted(statuses=[400])
    with pytest.raises(ValueError, match="answered with status 400"):
        RemoteEngine(server.address, config).complete(["a"], 8, seed=0)
    assert len(server.requests) == 1


def test_a_server_without_completions_is_asked_in_chat(config):
    server = Scripted(lacks=["completions"])
    generate = RemoteEngine(server.address, config, max_requests=1)
    assert generate.complete(["a", "b"], 8, seed=0) == ["a and on", "b and on"]
    assert [path for path, _, _ in server.requests] == ["chat/completions", "chat/completions"]
    assert generate.answer(["c"], 8, seed=0) == ["c and on"]


@pytest.mark.parametrize(
    ("text", "finish_reason", "expected"),
    [
        ("one\n", "stop", "one\nSample 5"),  # Most servers leave out the stop string.
        ("one\nSample 5", "stop", "one\nSample 5"),  # Some do not.
        ("one, and the model ended", "stop", "one, and the model ended"),
        ("one\n", "length", "one\n"),
    ],
)
def test_the_stop_string_that_a_server_leaves_out_is_there_again(config, text, finish_reason, expected):
    server = Scripted(text=text, finish_reason=finish_reason)
    assert RemoteEngine(server.address, config).complete([" "], 8, seed=0, stop="Sample 5") == [f" {expected}"]


@pytest.mark.parametrize(
    ("finish_reason", "expected"), [("stop", " good food! will come again\n"), ("length", " good food!")]
)
def test_a_line_that_a_server_ended_is_whole(config, finish_reason, expected):
    server = Scripted(text="good food! will come again" if finish_reason == "stop" else "good food!")
    server.finish_reason = finish_reason
    assert RemoteEngine(server.address, config).complete([" "], 8, seed=0, stop="\n") == [expected]


@pytest.mark.parametrize("suffix", ["", "#served"])
def test_prompts_beyond_the_context_of_a_server_are_refused_before_anything_is_asked(suffix, config):
    server = Scripted()
    server.context = 200
    engine = RemoteEngine(f"{server.address}{suffix}", config)
    engine.check_context(200)
    with pytest.raises(ValueError, match="more than the 100 that `expansion_model`='served' reads at its server"):
        server.context = 100
        Expander(RemoteEngine(f"{server.address}{suffix}", config), config, None)
    assert not server.requests


def test_a_server_with_several_models_has_to_be_told_which(config):
    server = Scripted(models=("one", "two"))
    with pytest.raises(ValueError, match=r"serves 2 models. Name one of them after a '#': '.*/v1#one'"):
        RemoteEngine(server.address, config)
    assert RemoteEngine(f"{server.address}#two", config).model == "two"


def test_an_address_where_nobody_is_and_a_client_without_one_are_named(config, impatient):
    with pytest.raises(ConnectionError, match=r"http://127.0.0.1:1/v1/models could not be reached"):
        RemoteEngine("http://127.0.0.1:1/v1", config)
    with pytest.raises(ValueError, match="has no address. Make it with `base_url`"):
        RemoteEngine(InferenceClient(model="Qwen/Qwen3-8B"), config)


def test_a_model_that_the_server_does_not_have_is_refused_when_the_generator_is_made(config):
    """With its name in the address, nothing had been asked until the budget was spent."""
    server = Scripted(lacks=("completions", "chat/completions"))
    with pytest.raises(ValueError, match="answered with status 404"):
        RemoteEngine(f"{server.address}#mistyped", config)
    with pytest.raises(ConnectionError, match="could not be reached"):
        RemoteEngine("http://127.0.0.1:1/v1#Qwen/Qwen3-8B", config)


def test_texts_are_cut_by_words(config):
    generate = RemoteEngine(Scripted().address, config)
    assert generate.truncate("one two three", 4) == "one two three"
    assert generate.truncate("one two three four five", 4) == "one two three"
