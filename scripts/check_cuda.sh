#!/usr/bin/env bash
# Compiles the CUDA code for every architecture, without a GPU; -v prints each kernel.
set -euo pipefail
cd "$(dirname "$0")/.."
exec .venv/bin/python -W ignore -m scripts.check_cuda "$@"
