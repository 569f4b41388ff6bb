"""Work of tests in processes of its own: of `torchrun`, or as it starts them."""

import multiprocessing
import os
import socket
import subprocess
import sys
import time
import traceback
from pathlib import Path

SUPPORT = Path(__file__).resolve().parent
# One process imports the libraries, and each of `launch` is a copy of it: a fifth of what `torchrun` takes.
COPIED = multiprocessing.get_context("forkserver")
COPIED.set_forkserver_preload(["torch.distributed", "sentence_transformers", "hf_pretext.generator"])


def environment(**more):
    """Return this process's environment, in which `support` can be imported."""
    folders = [str(SUPPORT.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(folders), **more}


def torchrun(script, *arguments, num_processes=2):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(num_processes)]
    return subprocess.run(
        [*command, str(script), *map(str, arguments)], capture_output=True, text=True, env=environment()
    )


def launch(function, *arguments, num_processes=2):
    """Call a function in several processes with the environment of `torchrun`, until all or one of them has ended.

    Returns:
        `list[int]`: The exit code of each process. It is negative for one that was stopped because another had failed.
    """
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    told = {"WORLD_SIZE": num_processes, "LOCAL_WORLD_SIZE": num_processes, "MASTER_ADDR": "127.0.0.1"}
    processes = []
    for rank in range(num_processes):
        variables = {**os.environ, **told, "MASTER_PORT": port, "RANK": rank, "LOCAL_RANK": rank}
        processes.append(COPIED.Process(target=_work, args=(variables, function, arguments)))
        processes[-1].start()
    while any(process.is_alive() for process in processes):
        if any(process.exitcode for process in processes):
            for process in processes:
                process.kill()
        time.sleep(0.1)  # As `torchrun` does.
    return [process.exitcode for process in processes]


def command(arguments):
    """Run a command of `hf-pretext` in a process of `launch`."""
    from hf_pretext.cli import main

    assert main(arguments) == 0


def _work(variables, function, arguments):
    os.environ.update({name: str(value) for name, value in variables.items()})
    try:
        function(*arguments)
    except BaseException:
        traceback.print_exc()
        raise
