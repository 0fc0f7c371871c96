#!/usr/bin/env bash
# Three nights of a small matrix on this machine: build and promote; an upstream change rebuilt, compared and promoted;
# a harmful one rejected. `make demo-nightly` runs it inside the environment that it has made.
set -euo pipefail
cd "$(dirname "$0")"

work="$TRTLLM_KIT_STORE/demo-nightly"
rm -rf "$work"
mkdir -p "$work"
cp -r tiny-llama nightly.yaml "$work"
export TRTLLM_KIT_STORE="$work/store"
examples="$PWD"
cd "$work"

step() { printf '\n\033[1m$ %s\033[0m\n' "$*"; "$@"; }
change() { printf '\n\033[1m# %s\033[0m\n' "$1"; python "$examples/change_layer.py" tiny-llama "${@:2}"; }

step trtllm-kit nightly plan
step trtllm-kit nightly run
step trtllm-kit nightly run

change "upstream releases weights that differ a little" model.layers.1.mlp.down_proj.weight 1.01
step trtllm-kit nightly plan
step trtllm-kit nightly run

change "upstream releases a checkpoint with one damaged layer" model.layers.2.mlp.down_proj.weight 6
status=0
step trtllm-kit nightly run --only '*-int8_wo-*' || status=$?
[ "$status" = 7 ] || { echo "a rejected candidate should end with 7, this ended with $status"; exit 1; }
step trtllm-kit artifact refs
printf '\nreports:\n'
printf '%s\n' "$work"/nightly-report/*/report.html
