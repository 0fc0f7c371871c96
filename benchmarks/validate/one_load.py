"""One load against a mock, in a process of its own whose CPU time can be told: called by instrument.py."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict
from pathlib import Path

from serving.client.request import Endpoint, Request
from serving.load.arrivals import ClosedLoop
from serving.load.generator import Conditions
from serving.load.lengths import parse_lengths
from serving.load.run import LoadPlan, run_load
from serving.load.until import Until
from serving.load.workload import Synthetic
from trtllm_kit.console import Silent


def main() -> None:
    """TRANSPORT HTTP GRPC CONCURRENCY REQUESTS TOKENS FOLDER; one line of JSON on stdout."""
    started_s = time.process_time()
    transport, http, grpc, concurrency, requests, tokens, folder = sys.argv[1:]
    plan = LoadPlan(
        workload=Synthetic(input_len=parse_lengths("32"), output_len=parse_lengths(tokens)),
        arrivals=ClosedLoop(concurrency=int(concurrency)),
        until=Until(requests=int(requests)),
        conditions=Conditions(template=Request(top_k=1, end_id=-1, request_id="load-"), timeout_s=600),
        whole=True,
    )
    result = run_load(Endpoint(http=http, grpc=grpc, transport=transport), plan, folder=Path(folder), talk=Silent())
    assert result.summary is not None
    found = {
        "tokens": result.summary.output_tokens,
        "errors": dict(result.summary.errors),
        "client": asdict(result.client),
        "cpu_s": time.process_time() - started_s,  # all but the start of the interpreter: also the summary
        "rss_mb": _peak_mb(),
    }
    print(json.dumps(found))


def _peak_mb() -> float:
    """This program's own peak; getrusage's would begin with that of the process it was forked from."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


if __name__ == "__main__":
    main()
