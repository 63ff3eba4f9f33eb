"""Preparation on a local Ray cluster of two machines: the bytes of one process, one worker killed in the middle."""

import json
import os
import subprocess
import sys
from dataclasses import asdict, replace
from importlib.util import find_spec
from pathlib import Path

import pytest
from preparing import contents, write_corpus

from textvae.data.prepare.cluster import RayWorkers
from textvae.data.prepare.pipeline import PrepareOptions, prepare

HERE = Path(__file__).parent
MACHINES = """
import json, sys
import ray
from ray.cluster_utils import Cluster
from preparing import encode_or_die
from textvae.data.prepare import pipeline
from textvae.data.prepare.cluster import RayWorkers
from textvae.data.sources.records import FieldNames

size = {"num_cpus": 1, "object_store_memory": 80 * 2**20}
cluster = Cluster(initialize_head=True, head_node_args={**size, "include_dashboard": False})
cluster.add_node(**size)
cluster.wait_for_nodes()
pipeline.encode = encode_or_die
for given in json.loads(sys.argv[1]):
    options = pipeline.PrepareOptions(**given | {"fields": FieldNames(**given["fields"])})
    try:
        pipeline.prepare(options, workers=RayWorkers(cluster.address))
    except ValueError as error:
        print("refused:", error)
ray.shutdown()
cluster.shutdown()
"""


@pytest.mark.slow
@pytest.mark.skipif(find_spec("ray") is None, reason="pip install 'textvae[ray]'")
def test_a_cluster_writes_what_one_process_writes_though_a_worker_is_killed(
    tmp_path: Path, encoder_folder: str
) -> None:
    source = write_corpus(tmp_path / "corpus", 60)
    bad = tmp_path / "bad"
    bad.mkdir()
    (bad / "bad.jsonl").write_text("{broken", encoding="utf-8")
    one = PrepareOptions(
        str(source), str(tmp_path / "one"), encoder_folder, vocabulary_size=380, max_sentence_tokens=48
    )
    prepare(one)
    refused = replace(one, source=str(bad), out=str(tmp_path / "refused"))
    (tmp_path / "cluster").mkdir()
    many = replace(one, out=str(tmp_path / "cluster" / "many"))
    paths = os.pathsep.join([str(HERE), os.environ["PYTHONPATH"]])
    environment = os.environ | {"PYTHONPATH": paths, "RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", MACHINES, json.dumps([asdict(refused), asdict(many)])]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "bad.jsonl, line 1: not valid JSON" in done.stdout
    assert (tmp_path / "cluster" / "killed").exists()
    assert contents(tmp_path / "cluster" / "many") == contents(tmp_path / "one")


@pytest.mark.skipif(find_spec("ray") is not None, reason="Ray is installed")
def test_without_ray_it_is_said_how_to_get_it() -> None:
    with pytest.raises(ValueError, match=r"pip install 'textvae\[ray\]'"):
        RayWorkers("auto")
