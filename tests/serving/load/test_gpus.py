"""GPUs beside a run, by the real pynvml on a library that stands in for the driver's: no GPU has proven it."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler to make the library with")
def test_every_second_of_a_run_has_what_the_driver_says(kit, start_mock) -> None:
    source, library = Path(__file__).with_name("nvml_stand_in.c"), kit.folder / "libnvidia-ml.so.1"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source], check=True)
    mock = start_mock("--ttft-ms", "5", "--itl-ms", "5")
    asked = ("--url", f"http://{mock.http}", "--transport", "engine-http", "--rate", "8", "--duration", "3s")
    asked += ("--check", "throughput", "--slo", "ttft:5s")
    outcome = kit.run("validate", *asked, "--report", "r", LD_LIBRARY_PATH=str(kit.folder))
    assert outcome.code in (0, 7), outcome.err
    (run,) = (kit.folder / "r" / "runs").glob("*req-per-s")
    samples = [json.loads(line)["gpus"] for line in (run / "server.jsonl").read_text().splitlines()]
    assert len(samples) >= 2
    powers = [first.pop("power_w") for first, _ in samples]
    assert powers[0] >= 301 and powers == sorted(set(powers)), "each sample is a new reading, in watts"
    whole = {"sm_clock_mhz": 1980, "memory_clock_mhz": 2619, "memory_used_bytes": 70 << 30, "utilization_percent": 97}
    part = {"memory_used_bytes": 5 << 30, "utilization_percent": 3}
    assert samples == [[whole, part]] * len(samples), "what a GPU does not tell is left out"
    page = (kit.folder / "r" / "report.html").read_text()
    assert "GPU power" in page
