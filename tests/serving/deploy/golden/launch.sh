#!/bin/sh
# Starts the server of llama-fp8-h100_sxm-tp2pp1-tensorrt. The working directory is the artifact's root, where model_repository/ lies.
set -eu
exec \
  mpirun --allow-run-as-root --oversubscribe -n 1 tritonserver --model-repository=model_repository --disable-auto-complete-config --http-port=8000 --grpc-port=8001 --metrics-port=8002 --backend-config=python,shm-region-prefix-name=prefix0_ --exit-timeout-secs=30 : \
  -n 1 tritonserver --model-repository=model_repository --disable-auto-complete-config --http-port=8000 --grpc-port=8001 --metrics-port=8002 --backend-config=python,shm-region-prefix-name=prefix1_ --exit-timeout-secs=30 --model-control-mode=explicit --load-model=tensorrt_llm
