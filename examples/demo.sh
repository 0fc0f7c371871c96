#!/usr/bin/env bash
# The whole road on this machine: build examples/tiny-llama for the cpu runtime, serve it with a real tritonserver on
# loopback, stream a completion, validate, stop. `make demo` runs it inside the environment that it has made.
set -euo pipefail
cd "$(dirname "$0")/.."

work="$TRTLLM_KIT_STORE/demo"
mkdir -p "$work"
spec="$work/trtllm-kit.yaml"

step() { printf '\n\033[1m$ %s\033[0m\n' "$*"; "$@"; }

trtllm-kit deploy stop demo >/dev/null 2>&1 || true
trap 'step trtllm-kit deploy stop demo' EXIT

step trtllm-kit init --model examples/tiny-llama --spec "$spec" --force
step trtllm-kit build model --spec "$spec" --sku cpu
step trtllm-kit deploy tiny-llama-bf16-cpu-tp1pp1-cpu --name demo
step trtllm-kit generate "class socket.socket" --deployment demo --max-tokens 48
rm -rf "$work/report"
step trtllm-kit validate demo --duration 12s --report "$work/report"
printf '\nreport: %s\n' "$work/report/report.html"
