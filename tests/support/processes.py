"""Scripts of `tests/support` as processes of their own."""

import os
import subprocess
import sys
from pathlib import Path

SUPPORT = Path(__file__).resolve().parent


def environment(**more):
    """Return this process's environment, in which `support` can be imported."""
    folders = [str(SUPPORT.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(folders), **more}


def torchrun(script, *arguments, num_processes=2):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(num_processes)]
    return subprocess.run(
        [*command, str(script), *map(str, arguments)], capture_output=True, text=True, env=environment()
    )
