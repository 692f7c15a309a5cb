#!/usr/bin/env bash
# path.sh: where the toolkit is. Sourced by every script of the recipe.
# An active virtual environment comes first, then the checkout's own .venv.

MOOER_ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../../.." && pwd)
export MOOER_ROOT
if [ -z "${VIRTUAL_ENV:-}" ] && [ -d "$MOOER_ROOT/.venv" ]; then
  export PATH="$MOOER_ROOT/.venv/bin:$PATH"
fi
export PYTHONUTF8=1 LC_ALL=C.UTF-8
if ! command -v mooer >/dev/null; then
  echo "path.sh: the command mooer is not there: run 'make install' in $MOOER_ROOT first" >&2
  exit 2
fi
