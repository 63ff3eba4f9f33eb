"""A Ray cluster of two machines, each of one processor and one GPU that is none; started as a script, it does what
`on_two_machines` was asked for."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any

SECONDS = 280


def on_two_machines(do: Callable[..., None], *arguments: Any) -> str:
    """What `do` prints, called with the address of such a cluster and the arguments, which JSON can say."""
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        "RAY_USAGE_STATS_ENABLED": "0",
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, __file__, do.__module__, do.__name__, json.dumps(arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


if __name__ == "__main__":
    import ray
    from ray.cluster_utils import Cluster

    size = {"num_cpus": 1, "num_gpus": 1, "object_store_memory": 80 * 2**20}
    cluster = Cluster(initialize_head=True, head_node_args={**size, "include_dashboard": False})
    cluster.add_node(**size)
    cluster.wait_for_nodes()
    getattr(import_module(sys.argv[1]), sys.argv[2])(cluster.address, *json.loads(sys.argv[3]))
    ray.shutdown()
    cluster.shutdown()
