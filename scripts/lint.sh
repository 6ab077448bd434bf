#!/usr/bin/env bash
# The static checks: style, types, import direction, C++ format.
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/setup.sh --dev
bin=.venv/bin
"$bin/ruff" check .
"$bin/ruff" format --check .
"$bin/mypy"
"$bin/lint-imports"
git ls-files 'submodules/*.cpp' 'submodules/*.h' 'submodules/*.inl' 'submodules/*.cu' 'submodules/*.cuh' |
  xargs -r "$bin/clang-format" --dry-run --Werror
