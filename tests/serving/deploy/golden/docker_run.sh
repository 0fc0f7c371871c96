#!/bin/sh
# Starts llama-fp8-h100_sxm-tp2pp1-tensorrt in the background; `docker logs -f llama-fp8-h100_sxm-tp2pp1-tensorrt` follows it, `docker stop llama-fp8-h100_sxm-tp2pp1-tensorrt` ends it.
set -eu
exec docker run --detach --name llama-fp8-h100_sxm-tp2pp1-tensorrt \
  --gpus '"device=0,1"' \
  --shm-size 8g --ulimit memlock=-1 --ulimit stack=67108864 \
  --publish 127.0.0.1:8000:8000 \
  --publish 127.0.0.1:8001:8001 \
  --publish 127.0.0.1:8002:8002 \
  --mount type=bind,readonly,source=/store/artifact,target=/artifact \
  --mount type=bind,readonly,source=/store/out,target=/deployment \
  --workdir /artifact \
  nvcr.io/nvidia/tritonserver:26.07-trtllm-python-py3 \
  /bin/sh /deployment/launch.sh
