#!/usr/bin/env bash
# On the day that a GPU is at hand: trace, proof, repair, distillation and speed on
# CUDA; six minutes. What was seen so far stands in docs/gpu.md.
#
#     bash benchmarks/gpu.sh [OUTPUT.md]
#
# Wants PyTorch with CUDA, torchvision and torch-pruning in the Python that PYTHON names.
set -euo pipefail
cd "$(dirname "$0")"
export PYTHONPATH="../src:${PYTHONPATH:-}"
timeout 360 "${PYTHON:-python}" gpu.py "${1:-../docs/gpu.md}"
