#!/bin/bash
# Submits a night: one array of cells for each SKU, and the report when all of them have ended, however they did.
set -euo pipefail
cd /home/me/slurm
mkdir -p logs

if squeue --me --noheader --name=trtllm-nightly-report | grep -q .; then
  echo "the last night is still at work" >&2
  exit 0
fi

TRTLLM_KIT_NIGHT=$(date -u +%Y%m%dT%H%M%SZ)-slurm
export TRTLLM_KIT_NIGHT

after=afterany
failed=0
for sku in cpu l40s h100_sxm; do
  if id=$(sbatch --parsable "$sku.sbatch"); then
    after+=:${id%%;*}
  else
    echo "the cells of $sku were not taken" >&2
    failed=4
  fi
done
if [[ $after != afterany ]]; then
  sbatch --dependency="$after" report.sbatch
fi
exit "$failed"
