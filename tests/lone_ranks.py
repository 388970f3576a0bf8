"""Ranks of one training, each started as torchrun starts the only one of a node, without torchrun itself.

torchrun imports PyTorch too, as long as a rank does; the tests that use it are about it.
"""

import os
import socket
import subprocess
import sys


def start_lone_ranks(*words: str, num_ranks: int = 2) -> list[subprocess.Popen]:
    """Start `transformerlm-train WORDS` on so many nodes of one rank; all of them are on this machine."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(num_ranks)}
    shared |= {"LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "transformerlm.cli.train", *words]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return [
        subprocess.Popen(
            command, **pipes, text=True, env={**os.environ, **shared, "RANK": rank, "GROUP_RANK": rank}
        )
        for rank in map(str, range(num_ranks))
    ]
