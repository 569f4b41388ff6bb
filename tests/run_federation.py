"""`make federation`: a deployment of eight client processes, its faults, and simulations of up to 1,000 clients.

Writes `build/federation/results.json` and `simulation.png`; exits with status 1 where a claim fails. The clients are
speaking roles of Shakespeare, each with its texts in a file of its own, a SuperNode of its own, and a counting proxy
between it and the SuperLink. Some 40 minutes on two cores. With names of parts, such as `deployed ranks`, it does only
those, and adds them to the results that are there.
"""

import itertools
import json
import multiprocessing
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from hf_pretext import PrivacyReport
from hf_pretext.clients.questions import NearestCandidates
from hf_pretext.clients.samples import quantize_embeddings
from hf_pretext.federated import protocol
from hf_pretext.federated.masking import ANSWER, KEYS, SHARES, STAGES
from hf_pretext.federated.node_ledger import NodeLedger, epsilon_of
from hf_pretext.federated.node_texts import SIMULATION
from hf_pretext.federated.settings import FederationSettings
from hf_pretext.models import load_sentence_transformer
from hf_pretext.models.embedder import TextEmbedder
from hf_pretext.plays import load_plays
from hf_pretext.privacy import ReleaseLostError
from hf_pretext.runs.folder import RunFolder
from support.deployment import FOLDER, answers_without_tls, make_certificates, make_key, speaks_tls
from support.federation import in_memory_votes, make_large_federation
from support.scale import write_clients

BUILD = Path("build/federation").absolute()
APP = Path("recipes/federated").absolute()
BIN = Path(sys.executable).parent
NUM_CLIENTS = 8
# The node's markers must not be in the home folder of who runs this.
os.environ["XDG_STATE_HOME"] = str(BUILD / "state")
WITHOUT = "client-without-noise"
MAX_EPSILON = 8.0
"""What every node allows in all: the epsilon of the app in `recipes/federated`."""

SIMULATED = (10, 100, 1000)
MASKED = (10, 40, 1000)
LARGE = (8, 40, 300, 1000)
"""Clients of one process, with masks, whose sums are compared bin by bin."""

CLIENT_WITHOUT_NOISE = """
import numpy as np
from hf_pretext.federated.client import make_client_app

def no_noise(scale, size):
    return np.zeros(size, dtype=np.int64)

app = make_client_app(noise=no_noise)
"""

SERVER_WITHOUT_NOISE = """
from hf_pretext.federated.server import make_server_app

app = make_server_app(noise_is_genuine=False)
"""

MALICIOUS_CLIENT = """
import os
from flwr.clientapp import ClientApp
from hf_pretext.federated.client import app as honest

class Client(ClientApp):
    def __call__(self, message, context):
        reply = honest(message, context)
        given = reply.content.config_records.get("hf_pretext.masks", {})
        if "masked" in given and os.environ.get("SENDS") == "oversized":
            given["masked"] = bytes(10**7)
        return reply

app = Client()
"""


SERVER_OF_ROUNDS_ONLY = """
import json
from dataclasses import asdict
from pathlib import Path
import numpy as np
from flwr.serverapp import ServerApp
from hf_pretext.clients.questions import NearestCandidates
from hf_pretext.federated.server import FederatedClientPool
from hf_pretext.federated.settings import FederationSettings
from hf_pretext.privacy import Plan, PrivacyLedger

app = ServerApp()

@app.main()
def main(grid, context):
    settings, config = FederationSettings.split(context.run_config)
    ledger = PrivacyLedger(Plan.from_config(config))
    pool = FederatedClientPool(grid, context, settings, ledger.plan)
    candidates = np.random.default_rng(0).normal(size=(config.population_size, 384))
    candidates /= np.linalg.norm(candidates, axis=1, keepdims=True)
    for _ in range(config.num_rounds):
        pool.release(NearestCandidates.of(candidates.astype(np.float32)), ledger)
    Path(settings.output_dir).with_suffix(".json").write_text(json.dumps([asdict(each) for each in pool.rounds]))
"""


class CountingProxy:
    """Passes connections on to a port, and counts the bytes of each direction."""

    def __init__(self, port):
        self.up = self.down = 0
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            near, _ = self._listener.accept()
            far = socket.create_connection(("127.0.0.1", self._target))
            for source, sink, name in ((near, far, "up"), (far, near, "down")):
                threading.Thread(target=self._pass_on, args=(source, sink, name), daemon=True).start()

    def _pass_on(self, source, sink, name):
        try:
            while data := source.recv(65536):
                setattr(self, name, getattr(self, name) + len(data))
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            pass


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def start(name, *command, **environment):
    log = (BUILD / f"{name}.log").open("ab")
    places = {"FLWR_HOME": str(BUILD / "flwr"), "FLWR_TELEMETRY_ENABLED": "0", "OMP_NUM_THREADS": "1"}
    # Seconds between looks of a node for its next message. Flower's own value is 1.
    places["FLWR_SUPEREXEC_TASK_POLL_INTERVAL"] = "0.5"
    return subprocess.Popen(
        [command[0] if Path(command[0]).is_absolute() else BIN / command[0], *map(str, command[1:])],
        env={**os.environ, **places, "PATH": f"{BIN}:{os.environ['PATH']}", **environment},
        stdout=log,
        stderr=log,
        start_new_session=True,
    )


def stop(process):
    """Kill a process and the children that it started."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()


class Deployment:
    """A SuperLink and its SuperNodes, each a process of its own.

    Answers without noise have no epsilon, so nodes that give them hold copies of the texts, with ledgers of their own.
    """

    def __init__(self, *options, texts="client"):
        self.port = free_port()
        self.texts = texts
        self.nodes, self.proxies = {}, {}
        home = BUILD / "flwr"
        home.mkdir(parents=True, exist_ok=True)
        (home / "config.toml").write_text(
            f'[superlink]\ndefault = "here"\n[superlink.here]\naddress = "127.0.0.1:{self.port}"\ninsecure = true\n'
        )
        options = [*options, "--insecure", "--disable-runtime-dependency-installation", "--host", "127.0.0.1"]
        self.link = start("superlink", "flower-superlink", *options, "--port", self.port)
        wait_until(lambda: can_connect(self.port), 60, "the SuperLink")

    def start_node(self, number, **environment):
        """Start the node of a client, whose texts are in a file, and which allows one run."""
        proxy = self.proxies.setdefault(number, CountingProxy(self.port))
        config = f'private="{client_file(number, self.texts)}" max-epsilon={MAX_EPSILON} max-delta=1e-5'
        self.nodes[number] = start(
            f"node-{number}",
            *("flower-supernode", "--insecure", "--superlink", f"127.0.0.1:{proxy.port}"),
            *("--port", free_port(), "--node-config", config),
            **environment,
        )

    def kill_node(self, number):
        stop(self.nodes.pop(number))

    def run(self, name, app, federation_config=None, **run_config):
        """Start a run; its results come to lie in a folder of that name."""
        simulation = ["--federation-config", federation_config] if federation_config else []
        values = {"output-dir": str(BUILD / name), **run_config}
        # TOML, whose strings, numbers and booleans are those of JSON.
        pairs = " ".join(f"{key}={json.dumps(value)}" for key, value in values.items())
        return start(f"{name}-run", "flwr", "run", app, "--run-config", pairs, *simulation, "--stream")

    def stop(self):
        for process in (*self.nodes.values(), self.link):
            stop(process)


def can_connect(port):
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def wait_until(holds, seconds, what, process=None):
    end = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > end or (process is not None and process.poll() is not None and not holds()):
            raise TimeoutError(f"{what} did not come about in {seconds} s; see the logs in {BUILD}")
        time.sleep(0.2)


def client_file(number, texts="client"):
    return BUILD / f"{texts}-{number}.jsonl"


def log_of(name):
    return (BUILD / f"{name}.log").read_text(errors="replace")


def releases(name):
    path = BUILD / name / "run" / "ledger.json"
    try:
        return json.loads(path.read_text())["releases"]
    except (OSError, ValueError):
        return []


def write_inputs():
    """Give each client one role's speeches; a public file holds speeches of roles that nobody has."""
    private, held_out = load_plays()
    samples = {}
    for text, client in zip(private["text"], private["client_id"], strict=True):
        samples.setdefault(client, []).append(text)
    roles = sorted(samples, key=lambda client: -len(samples[client]))[: NUM_CLIENTS + 2]
    for number, role in enumerate(roles):
        rows = ({"client_id": role, "text": text} for text in samples[role])
        client_file(number).write_text("".join(json.dumps(row) + "\n" for row in rows))
        shutil.copy(client_file(number), client_file(number, WITHOUT))
    (BUILD / "public.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in held_out["text"]))
    rows = zip(private["client_id"], private["text"], strict=True)
    (BUILD / "everybody.jsonl").write_text(
        "".join(json.dumps({"client_id": client, "text": text}) + "\n" for client, text in rows)
    )


def make_app(name, **sides):
    """Make a variant of the app in `recipes/federated`, with a module of its own for each side that differs.

    Each process of a client imports its side alone: the server's imports torch, which takes seconds.
    """
    folder = BUILD / name
    shutil.copytree(APP, folder, dirs_exist_ok=True)
    toml = (folder / "pyproject.toml").read_text()
    for side, code in sides.items():
        toml = toml.replace(f"hf_pretext.federated.{side}:app", f"{name}_{side}:app")
        (folder / f"{name}_{side}.py").write_text(code)
    (folder / "pyproject.toml").write_text(toml)
    return folder


def settings_of(**changes):
    import tomllib

    values = tomllib.loads((APP / "pyproject.toml").read_text())["tool"]["flwr"]["app"]["config"]
    return FederationSettings.split({**values, **changes})


def embedder():
    return TextEmbedder(load_sentence_transformer("packaged/all-MiniLM-L6-v2", torch.device("cpu"), torch.float32))


def compare_sums(deployment):
    """Without noise, the sum under masks is that of the in-memory pool; and what candidates cost on the wire."""
    app = make_app("without_noise", client=CLIENT_WITHOUT_NOISE, server=SERVER_WITHOUT_NOISE)
    found = {}
    for size in (64, 1024):
        before = {number: (proxy.up, proxy.down) for number, proxy in deployment.proxies.items()}
        name = f"without-noise-{size}"
        changes = {"num-rounds": 1, "population-size": size, "num-samples": 1}
        process = deployment.run(name, app, **{"initial-population": str(BUILD / "public.jsonl"), **changes})
        wait_until(lambda name=name: (BUILD / name / "README.md").exists(), 600, name, process)
        process.wait()
        ((candidates, votes),) = RunFolder(BUILD / name / "run").rounds()
        embed, clients = embedder(), map(client_file, range(NUM_CLIENTS))
        expected = in_memory_votes(clients, embed, settings_of(**changes)[1], embed(candidates))
        (each,) = json.loads((BUILD / name / "federation.json").read_text())
        traffic = [
            (proxy.up - before[number][0], proxy.down - before[number][1])
            for number, proxy in deployment.proxies.items()
        ]
        found[size] = {
            "num_candidates": len(candidates),
            "sum_is_equal": bool(np.array_equal(votes, expected) and votes.any()),
            "seconds_of_the_round": each["seconds"],
            "message_bytes_up": each["bytes_up"],
            "message_bytes_down": each["bytes_down"],
            "wire_bytes_up": float(np.mean([up for up, _ in traffic])),
            "wire_bytes_down": float(np.mean([down for _, down in traffic])),
        }
    return found


def on_the_wire(sums):
    """Tell what a candidate costs, by the difference of two sizes, and what is on the wire besides.

    A candidate's cost is read off the messages, byte by byte: on the wire the heartbeats, which go on as long as a
    round takes, blur it.
    """
    small, large = sums[64], sums[1024]
    more = large["num_candidates"] - small["num_candidates"]
    found = {}
    for way, needs in (("down", 384 * 2), ("up", 4)):
        cost = (large[f"message_bytes_{way}"] - small[f"message_bytes_{way}"]) / more
        found[way] = {
            "bytes_per_candidate": cost,
            "needed_per_candidate": needs,
            "ratio": cost / needs,
            "overhead_of_flower": [
                each[f"wire_bytes_{way}"] - cost * each["num_candidates"] for each in (small, large)
            ],
        }
    return found


def run_with_faults(deployment):
    """One run of six rounds, in which clients die, join, and send too much; it ends in a dataset.

    In the first one all clients embed their texts, and nothing happens in the second one.
    """
    name, app = "with-faults", make_app("malicious", client=MALICIOUS_CLIENT)
    changes = {"num-rounds": 6, "round-timeout": 60.0, "num-samples": 24}

    def begin():
        return deployment.run(name, app, **changes)

    def in_round(number):
        wait_until(lambda: len(releases(name)) >= number, 900, f"round {number}", process)

    def after_round(number):
        wait_until(lambda: rounds_done() >= number, 900, f"the end of round {number}", process)

    def rounds_done():
        made = releases(name)
        return len(made) if made and made[-1]["answer"] is not None else len(made) - 1

    process = begin()
    in_round(3)
    time.sleep(4)
    for number in (0, 1):
        deployment.kill_node(number)  # Two of eight, in the middle of round 3: within the stated dropout.
    after_round(3)
    deployment.start_node(8)  # Joins late.
    deployment.start_node(0, SENDS="oversized")
    in_round(5)
    time.sleep(4)
    for number in (3, 4, 5, 6):
        if number in deployment.nodes:
            deployment.kill_node(number)  # Beyond it: the round is refused, and then there are too few.
    process.wait()
    before = log_of(f"{name}-run")
    rounds_before = (BUILD / name / "federation.json").read_text()
    for number in (1, 3, 4, 5, 6):
        deployment.start_node(number)
    process = begin()
    wait_until(lambda: (BUILD / name / "README.md").exists() and process.poll() is not None, 1800, "the end")
    report = PrivacyReport.from_pretrained(BUILD / name)
    earlier = json.loads(rounds_before)
    asked = [each["num_asked"] for each in earlier]
    answered = [each["num_answered"] for each in earlier]
    spent = [
        epsilon_of([(answer.mechanism, answer.num_bins) for answer in NodeLedger(client_file(number)).answers()], 1e-5)
        for number in range(NUM_CLIENTS + 1)
    ]
    return {
        "spent_by_nodes": spent,
        "asked_before_the_restart": asked,
        "answered_before_the_restart": answered,
        "seconds_before_the_restart": [each["seconds"] for each in earlier],
        "rounds_after_the_restart": json.loads((BUILD / name / "federation.json").read_text()),
        "survived_two_of_eight": asked[2] == 8 and answered[2] == 6,
        "late_joiner_asked": asked[3] == 8,
        "dropped_the_oversized": answered[3] == 7 and "does not hold 1 pieces of" in before,
        "releases": len(releases(name)),
        "refused": sum(release["answer"] is None for release in releases(name)),
        "epsilon": report.epsilon,
        "target_epsilon": report.target_epsilon,
        "num_lost": report.num_lost,
    }


def effect_of_eight_bits():
    """Tell which share of speeches votes for another candidate when candidates travel in 8 bits instead of 16."""
    lines = (BUILD / "everybody.jsonl").read_text().splitlines()[:2000]
    public = [json.loads(line)["text"] for line in (BUILD / "public.jsonl").read_text().splitlines()[:1024]]
    embed = embedder()
    samples = quantize_embeddings(embed([json.loads(line)["text"] for line in lines]))
    question = NearestCandidates.of(embed(public))
    nearest = [protocol.decode(protocol.encode(question, bits)).nearest(samples)[:, 0] for bits in (16, 8)]
    return float(np.mean(nearest[0] != nearest[1]))


def simulate(deployment, app, num_clients, is_masked):
    """Measure the seconds of a round among simulated clients, after a first one in which they embed their texts."""
    name = f"simulated-{num_clients}-{'masked' if is_masked else 'plain'}"
    run_config = {
        "num-clients": num_clients,
        "secure-aggregation": is_masked,
        "simulated-private": str(BUILD / "everybody.jsonl"),
        "max-dropout": 0.25,
        "population-size": 256,
        "num-rounds": 3 if num_clients < 1000 else 2,
        "round-timeout": 1500.0,
    }
    size = f"num-supernodes={num_clients} client-resources-num-cpus=1 init-args-num-cpus=2"
    process = deployment.run(name, app, size, **run_config)
    try:
        wait_until((BUILD / f"{name}.json").exists, 2400, name, process)
    except TimeoutError as error:
        print(error, flush=True)
        return None
    process.wait()
    rounds = json.loads((BUILD / f"{name}.json").read_text())
    assert all(each["num_answered"] == num_clients for each in rounds), rounds
    seconds = [each["seconds"] for each in rounds]
    return {"clients": num_clients, "masked": is_masked, "first_round": seconds[0], "round": min(seconds[1:])}


def compare_large_sums():
    """Sums under masks in one process, without Flower's transport, at 1,024 candidates of 384 dimensions."""
    found = []
    for number in LARGE:
        made = make_large_federation(
            number, num_bins=1024, num_dimensions=384, **{"max-dropout": 0.27, "round-timeout": 1.0}
        )
        used = resource.getrusage(resource.RUSAGE_SELF)
        total = made.release()
        now = resource.getrusage(resource.RUSAGE_SELF)
        (each,) = made.pool.rounds
        found.append(
            {
                "clients": number,
                "sum_is_equal": bool(total.any() and np.array_equal(total, made.expected(range(number)))),
                "bytes_up": each.bytes_up,
                "bytes_down": each.bytes_down,
                "seconds": each.seconds,
                "cpu_seconds": now.ru_utime + now.ru_stime - used.ru_utime - used.ru_stime,
            }
        )
        print(found[-1], flush=True)
    return found


def drop_a_fifth(number=1000):
    """A tenth of the clients drops out at each of two stages, for each pair of stages: right sums, or lost."""
    pairs = list(itertools.combinations(STAGES, 2))
    found = []
    # Each pair takes one core, and a spawned process inherits no threads.
    with ProcessPoolExecutor(os.cpu_count(), multiprocessing.get_context("spawn")) as pool:
        for each in tqdm(pool.map(drop_at, pairs, [number] * len(pairs)), "Dropping", len(pairs), unit="pair"):
            found.append(each)
            print(each, flush=True)
    return found


def drop_at(stages, number):
    """A tenth of the clients drops out at each of the stages."""
    started = time.perf_counter()
    tenth = number // 10
    lost = {stage: set(range(1000 + tenth * index, 1000 + tenth * (index + 1))) for index, stage in enumerate(stages)}
    made = make_large_federation(
        number,
        meddle=lambda node, stage, reply: None if node in lost.get(stage, ()) else reply,
        **{"max-dropout": 0.27, "round-timeout": 0.01},
    )
    early = [lost[stage] for stage in stages if stage in (KEYS, SHARES, ANSWER)]
    counted = set(range(number)) - {node - 1000 for nodes in early for node in nodes}
    try:
        outcome = "right" if np.array_equal(made.release(), made.expected(counted)) else "wrong"
    except ReleaseLostError:
        outcome = "lost" if made.ledger.num_lost == 1 else "not counted"
    seconds = time.perf_counter() - started
    return {"stages": stages, "outcome": outcome, "answered": made.pool.rounds[0].num_answered, "seconds": seconds}


def deploy(number=4):
    """Run one release by the scripts of the guide: TLS, SuperNodes that are let in by keys, and one without a key."""
    secrets, home = BUILD / "secrets", BUILD / "flwr"
    make_certificates(secrets)
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir()
    port, ca = free_port(), secrets / "ca.crt"
    address = f"127.0.0.1:{port}"
    toml = (FOLDER / "config.toml").read_text().replace("server.example:8000", address)
    (home / "config.toml").write_text(toml.replace("ca.crt", str(ca)))
    texts = f"deployed-{port}"  # With ledgers of their own, also if this is done again.
    server = {"CERTIFICATES": str(secrets), "HOST": "127.0.0.1", "PORT": str(port)}
    processes = [start("deployed-superlink", FOLDER / "superlink.sh", **server)]
    try:
        wait_until(lambda: can_connect(port), 120, "the SuperLink with TLS", processes[0])
        for each in range(number + 1):
            key = secrets / f"client-{each}"
            make_key(key)
            if each < number:  # The last one has a key that no one has registered.
                registered = start("deployed-register", "flwr", "supernode", "register", key.with_suffix(".pub"))
                if registered.wait():
                    raise RuntimeError(f"A SuperNode could not be registered: see the logs in {BUILD}")
            shutil.copy(client_file(each), client_file(each, texts))
            node = start(
                f"deployed-node-{each}",
                FOLDER / "supernode.sh",
                **{"SUPERLINK": address, "CA": str(ca), "KEY": str(key), "PORT": str(free_port())},
                **{"PRIVATE": str(client_file(each, texts)), "MAX_EPSILON": "8.0", "MAX_DELTA": "1e-5"},
                MIN_CLIENTS=str(number),
            )
            processes.append(node)
        app, name = make_app("deployed_rounds", server=SERVER_OF_ROUNDS_ONLY), "deployed"
        values = {"output-dir": str(BUILD / name), "num-clients": number, "num-rounds": 1, "round-timeout": 150.0}
        pairs = " ".join(f"{key}={json.dumps(value)}" for key, value in values.items())
        processes.append(start(f"{name}-run", "flwr", "run", app, "--run-config", pairs, "--stream"))
        wait_until((BUILD / f"{name}.json").exists, 900, name, processes[-1])
        rounds = json.loads((BUILD / f"{name}.json").read_text())
        return {
            "clients": number,
            "rounds": rounds,
            "is_encrypted": speaks_tls(port, ca) and not answers_without_tls(port),
            "answers_counted": [len(NodeLedger(client_file(each, texts)).answers()) for each in range(number + 1)],
            "log_of_the_unregistered": log_of(f"deployed-node-{number}")[-2000:],
        }
    finally:
        for process in processes:
            stop(process)


def cpu_of_a_message():
    """Measure what Flower's process for each message takes before it does anything, in seconds of one core."""
    found = {}
    for name, code in {
        "empty": "pass",
        "flower": "import flwr.supernode.cli.flwr_clientapp, flwr.clientapp",
        "flower_and_app": "import flwr.supernode.cli.flwr_clientapp, hf_pretext.federated.client",
    }.items():
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-c", code], check=True)
        now = resource.getrusage(resource.RUSAGE_CHILDREN)
        found[name] = now.ru_utime + now.ru_stime - used.ru_utime - used.ru_stime
    messages = len(STAGES) * NUM_CLIENTS
    return {
        "cpu_seconds_of_imports": found,
        "messages_of_a_round": messages,
        "seconds_of_imports_on_two_cores": messages * found["flower_and_app"] / 2,
    }


def run_scale(kind, folder, num_processes=1):
    """Run `tests/support/scale.py` in one process or several of one thread each, and read what each wrote."""
    script, out = Path(__file__).with_name("support") / "scale.py", folder / f"{kind}-{num_processes}"
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", num_processes]
    command = [*(launcher if num_processes > 1 else []), script, folder, out, kind]
    log = (BUILD / f"scale-{out.name}.log").open("wb")
    subprocess.run(
        [sys.executable, *map(str, command)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=log,
        stderr=log,
        check=True,
    )
    return [json.loads(Path(f"{out}-{rank}.json").read_text()) for rank in range(num_processes)]


def stream_millions(sizes=(100_000, 1_000_000)):
    """Measure clients of one sample, streamed from Arrow in one process, and fit what 100 million of them take."""
    folder, found = BUILD / "millions", []
    folder.mkdir(exist_ok=True)
    for size in sizes:
        write_clients(folder / "clients.arrow", size)
        (each,) = run_scale("words", folder)
        found.append({key: value for key, value in each.items() if key != "votes"})
        print(found[-1], flush=True)
    (folder / "clients.arrow").unlink()
    small, large = found
    more = large["clients"] - small["clients"]
    slopes = {
        name: (large[name] - small[name]) / more for name in ("seconds_to_embed", "seconds_of_a_round", "peak_memory")
    }
    hundred_million = {name: large[name] + slope * (1e8 - large["clients"]) for name, slope in slopes.items()}
    return {"measured": found, "per_client": slopes, "fit_for_100_million": hundred_million}


def divide_among_ranks():
    """Two processes against one, of one thread each: the real embedding model, and votes of 300,000 samples."""
    folder = BUILD / "ranks"
    folder.mkdir(exist_ok=True)
    load_plays()[0].save_to_disk(folder / "plays")
    write_clients(folder / "clients.arrow", 300_000)
    found = {}
    for kind, what in (("model", "seconds_to_embed"), ("words", "seconds_of_a_round")):
        one, two = run_scale(kind, folder), run_scale(kind, folder, 2)
        found[what] = {
            "one": one[0][what],
            "two": max(each[what] for each in two),
            "speedup": one[0][what] / max(each[what] for each in two),
            "sums_are_equal": all(each["votes"] == one[0]["votes"] for each in two),
        }
    return found


def attack():
    """Run the tests of servers and clients that break the protocol, the slow ones as well."""
    files = ["tests/test_masks.py", "tests/test_federated_forms.py", "tests/test_ranks.py"]
    log = (BUILD / "attacks.log").open("wb")
    command = [sys.executable, "-m", "pytest", "-q", "-m", "", "-n", "2", "--dist", "loadfile", *files]
    ended = subprocess.run(command, stdout=log, stderr=log, check=False)
    return {"status": ended.returncode, "summary": log_of("attacks").strip().splitlines()[-1]}


def seconds_of(simulated, number):
    """Return the seconds of a masked round after the first, or infinity if there is none."""
    found = [each["round"] for each in simulated if each["clients"] == number and each["masked"]]
    return found[0] if found else float("inf")


def plot(simulated, path):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for is_masked, label in ((False, "sums in the clear"), (True, "sums under masks")):
        points = [each for each in simulated if each["masked"] == is_masked]
        axes.plot([each["clients"] for each in points], [each["round"] for each in points], "o-", label=label)
    axes.set(
        xscale="log", yscale="log", xlabel="simulated clients", ylabel="seconds of a round", title="Two cores, Ray"
    )
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)


def small_parts():
    """Parts that need no deployment of eight clients, by their names in the results."""
    return {
        "deployed": deploy,
        "large": compare_large_sums,
        "dropped": drop_a_fifth,
        "attacks": attack,
        "votes_changed_by_8_bits": effect_of_eight_bits,
        "millions": stream_millions,
        "ranks": divide_among_ranks,
    }


def eight_clients():
    """Sums and faults among eight SuperNodes."""
    deployment = Deployment(texts=WITHOUT)
    try:
        for number in range(NUM_CLIENTS):
            deployment.start_node(number)
        sums = compare_sums(deployment)
        print(json.dumps(sums, indent=2), flush=True)
    finally:
        deployment.stop()
    deployment = Deployment()
    try:
        for number in range(NUM_CLIENTS):
            deployment.start_node(number)
        faults = run_with_faults(deployment)
        print(json.dumps(faults, indent=2), flush=True)
    finally:
        deployment.stop()
    first, second, *_ = faults["seconds_before_the_restart"]
    profile = {"first_round": first, "round": second, **cpu_of_a_message()}
    return {"sums": sums, "faults": faults, "on_the_wire": on_the_wire(sums), "eight_supernodes": profile}


def simulations():
    """Rounds of simulated clients, in the clear and under masks."""
    plan = [(number, False) for number in SIMULATED] + [(number, True) for number in MASKED]
    app = make_app("rounds_only", server=SERVER_OF_ROUNDS_ONLY)
    os.environ[SIMULATION] = "1"
    deployment = Deployment("--simulation")
    try:
        tried = [simulate(deployment, app, *each) for each in tqdm(plan, "Simulating", unit="federation")]
    finally:
        deployment.stop()
    return [each for each in tried if each is not None]


def claims_of(results):
    """Say which claims hold, of the parts that were done."""
    found = {}
    if sums := results.get("sums"):
        faults, wire = results["faults"], results["on_the_wire"]
        found |= {
            "the sums are those of the in-memory pool": all(each["sum_is_equal"] for each in sums.values()),
            "two of eight may die in a round": faults["survived_two_of_eight"],
            "a round that lost more is refused and counted": faults["refused"] == faults["num_lost"] == 1,
            "an oversized message ends nothing": faults["dropped_the_oversized"],
            "who joins late is asked": faults["late_joiner_asked"],
            "the guarantee holds": faults["epsilon"] <= faults["target_epsilon"],
            "every node has a ledger, and keeps its limit": 0 < min(faults["spent_by_nodes"])
            and max(faults["spent_by_nodes"]) <= MAX_EPSILON,
            "bytes are at most 1.1 times what the vectors need": max(each["ratio"] for each in wire.values()) <= 1.1,
        }
    if deployed := results.get("deployed"):
        rounds, number = deployed["rounds"], deployed["clients"]
        found |= {
            "a deployment with TLS releases": all(each["is_released"] for each in rounds) and deployed["is_encrypted"],
            "a SuperNode without a registered key is not asked": deployed["answers_counted"]
            == [len(rounds)] * number + [0],
        }
    if simulated := results.get("simulated"):
        found |= {
            "1,000 clients were simulated": any(each["clients"] == 1000 for each in simulated),
            "a masked round of 40 clients takes under 4 s": seconds_of(simulated, 40) < 4,
            "a masked round of 1,000 clients takes under 150 s": seconds_of(simulated, 1000) < 150,
        }
    if large := results.get("large"):
        found |= {
            "sums are equal at 8, 40, 300 and 1,000": [each["sum_is_equal"] for each in large] == [True] * len(LARGE),
            "a client uploads at most 60 kB and downloads at most 1.0 MB": max(each["bytes_up"] for each in large)
            <= 6e4
            and max(each["bytes_down"] for each in large) <= 1e6,
        }
    if dropped := results.get("dropped"):
        outcomes = {each["outcome"] for each in dropped}
        found["a fifth of 1,000 may drop between any two stages"] = outcomes <= {"right", "lost"}
    if attacks := results.get("attacks"):
        found["servers that break the protocol are refused"] = attacks["status"] == 0
    if millions := results.get("millions"):
        found["a million clients were streamed"] = millions["measured"][-1]["clients"] == 1_000_000
    if ranks := results.get("ranks"):
        found["two processes have the sums of one"] = all(each["sums_are_equal"] for each in ranks.values())
        found["two processes are 1.8 times as fast"] = min(each["speedup"] for each in ranks.values()) >= 1.8
    return found


def main(names):
    started = time.perf_counter()
    seconds = {}
    parts = small_parts()
    if unknown := set(names) - {*parts, "eight_clients", "simulated"}:
        raise SystemExit(f"There are no parts {sorted(unknown)}.")
    before = BUILD / "results.json"
    results = json.loads(before.read_text()) if names and before.is_file() else {}
    if not names:
        shutil.rmtree(BUILD, ignore_errors=True)
    BUILD.mkdir(parents=True, exist_ok=True)
    write_inputs()
    chosen = names or ["eight_clients", *parts, "simulated"]
    if "eight_clients" in chosen:
        results |= eight_clients()
        seconds["eight_clients"] = time.perf_counter() - started
    for name, measure in parts.items():
        if name in chosen:
            began = time.perf_counter()
            results[name] = measure()
            seconds[name] = time.perf_counter() - began
            print(json.dumps({name: results[name]}, indent=2), flush=True)
    if "simulated" in chosen:
        began = time.perf_counter()
        results["simulated"] = simulations()
        seconds["simulated"] = time.perf_counter() - began
        plot(results["simulated"], BUILD / "simulation.png")
    results["claims"] = claims_of(results)
    results["seconds_of_parts"] = results.get("seconds_of_parts", {}) | seconds
    results["seconds"] = round(sum(results["seconds_of_parts"].values()), 1)
    (BUILD / "results.json").write_text(json.dumps(results, indent=2) + "\n")
    print(json.dumps(results, indent=2))
    return 0 if all(results["claims"].values()) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
