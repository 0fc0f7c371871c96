"""The Ray executor on a real cluster of two nodes. Tests run in this order: the last one loses a node."""

from __future__ import annotations

import os
import re
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from builder.depot import Depot
from serving.nightly.executors.protocol import CellTask, Finish
from serving.nightly.executors.ray import RayExecutor
from trtllm_kit.console import Silent
from trtllm_kit.errors import HostError

pytestmark = pytest.mark.usefixtures("disconnected")

MATRIX = """\
depot: {depot}
base:
  model: {model}
  target: {{sku: cpu}}
  build: {{max_batch_size: 2, max_seq_len: 128}}
  evaluation: {{enabled: false}}
matrix:
  precision: [bf16, int8_wo]
executor: {{{executor}}}
"""


def task(name: str, sku: str = "cpu", **fields: Any) -> CellTask:
    return CellTask(night="n", identifier=name, sku=sku, spec={}, depot="memory://", **fields)


def shell(text: str) -> tuple[str, ...]:
    """In place of the kit's command on a node; it finds `--attempt N` in $1 and $2."""
    return ("/bin/sh", "-c", text, "sh")


def run(executor: RayExecutor, *tasks: CellTask) -> dict[str, Finish]:
    return {finish.task.identifier: finish for finish in executor.run(tasks, Silent())}


def test_the_same_matrix_comes_to_the_same_digests_as_on_this_machine(
    kit: Any, cluster: Any, node_store: Path, tiny_llama: Path
) -> None:
    digests = {}
    for kind, executor in {"local": "kind: local", "ray": f"kind: ray, address: '{cluster.address}'"}.items():
        depot = kit.folder / f"depot-{kind}"
        path = kit.folder / f"{kind}.yaml"
        path.write_text(MATRIX.format(depot=depot, model=tiny_llama, executor=executor))
        done = kit.ok("nightly", "run", "-f", str(path), "--output", "json")
        assert done.json  # nothing of Ray's is on stdout
        records = Depot.open(str(depot)).read_all().values()
        digests[kind] = {row.record.current.digest for row in records if row.record.current}
    assert digests["ray"] == digests["local"]
    assert len(digests["ray"]) == 2
    built = {path.name for path in (node_store / "artifacts").iterdir()}
    assert built == digests["ray"]  # on the nodes, and not here


def test_cells_that_no_node_can_run_are_refused_at_once(cluster: Any) -> None:
    refused = RayExecutor(address=cluster.address).preflight(
        [
            task("fits", memory_bytes=1 << 20),
            task("nobody-has-it", "b200_sxm"),
            task("no-gpu", gpus=1),
            task("too-large", memory_bytes=1 << 50),
        ]
    )
    assert refused.keys() == {"nobody-has-it", "no-gpu", "too-large"}
    assert refused["nobody-has-it"] == "no node of the Ray cluster has sku=b200_sxm; there is cpu"
    assert "1 GPUs are needed" in refused["no-gpu"]
    assert "1125899.9 GB of RAM are needed" in refused["too-large"]


def test_ends_are_told_apart_and_tried_again_by_the_table(cluster: Any, tmp_path: Path) -> None:
    script = 'echo "error: it went wrong" >&2; case $(cat) in *killed*) kill -9 $$;; *host*) exit 4;; *) exit 3;; esac'
    ends = run(RayExecutor(address=cluster.address, command=shell(script)), task("spec"), task("host"), task("killed"))
    assert {name: (end.exit_code, end.attempts) for name, end in ends.items()} == {
        "spec": (3, 1),
        "host": (4, 2),
        "killed": (137, 3),
    }
    assert {end.words for end in ends.values()} == {"it went wrong"}
    assert {end.node for end in ends.values()} == {os.uname().nodename}


def test_a_command_that_a_node_lacks_is_said_and_no_traceback(cluster: Any) -> None:
    (end,) = run(RayExecutor(address=cluster.address, command=("/nowhere/kit",)), task("a")).values()
    assert (end.exit_code, end.attempts) == (HostError.exit_code, 2)
    assert end.words == "the node cannot run it: FileNotFoundError: [Errno 2] No such file or directory: '/nowhere/kit'"


def test_closing_the_run_ends_what_runs_on_the_nodes(cluster: Any, tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    script = f"case $(cat) in *quick*) exit 0;; esac; echo $$ > {pids}; exec sleep 600"
    ends = RayExecutor(address=cluster.address, command=shell(script)).run([task("quick"), task("long")], Silent())
    assert next(ends).task.identifier == "quick"
    until(pids.exists)
    ends.close()  # type: ignore[attr-defined]
    until(lambda: not alive(int(pids.read_text())))


@pytest.mark.parametrize(
    ("address", "mode", "words"),
    [
        ("127.0.0.1:1", "token", "no Ray cluster answers at 127.0.0.1:1"),
        ("ray://127.0.0.1:1", "token", "no Ray cluster answers at ray://127.0.0.1:1"),
        ("here", "token", "no Ray cluster answers at here"),
        ("the cluster", "disabled", "Ray without authentication: RAY_AUTH_MODE is not 'token'"),
    ],
)
def test_a_cluster_that_cannot_or_may_not_be_used_is_named(
    cluster: Any, monkeypatch: pytest.MonkeyPatch, address: str, mode: str, words: str
) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", mode)
    with pytest.raises(HostError, match=re.escape(words)):
        RayExecutor(address=cluster.address if address == "the cluster" else address).preflight([])


def test_an_old_ray_is_refused(cluster: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    monkeypatch.setattr(ray, "__version__", "2.53.1")
    with pytest.raises(HostError, match=r"Ray 2\.53\.1 is too old"):
        RayExecutor(address=cluster.address).preflight([])


def test_a_lost_node_costs_a_retry_and_nothing_else(cluster: Any, tmp_path: Path) -> None:
    """Then the label that only it had is offered by nobody, and what wants it does not wait for ever."""
    go = tmp_path / "go"
    script = f"cat > /dev/null; touch {tmp_path}/started-$$; while [ ! -e {go} ]; do sleep 0.1; done"
    (second,) = cluster.worker_nodes

    def lose() -> None:
        until(lambda: len(list(tmp_path.glob("started-*"))) == 2)
        pids = [int(path.name.partition("-")[2]) for path in tmp_path.glob("started-*")]
        cluster.remove_node(second, allow_graceful=False)
        until(lambda: not all(alive(pid) for pid in pids))
        go.touch()

    killer = threading.Thread(target=lose)
    killer.start()
    ends = run(RayExecutor(address=cluster.address, command=shell(script)), task("a"), task("b"))
    killer.join()
    assert {end.exit_code for end in ends.values()} == {0}
    assert sorted(end.attempts for end in ends.values()) == [1, 2]

    spare = RayExecutor(address=cluster.address, sku_label="spare", node_wait_s=1.0, command=shell("exit 0"))
    (end,) = run(spare, task("a", "l40s")).values()
    assert end.exit_code == HostError.exit_code
    assert re.fullmatch(
        r"no node of the Ray cluster has spare=l40s; there is no node with that label, for \d+ s", end.words
    )


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def until(condition: Any) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)
