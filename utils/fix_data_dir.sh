#!/usr/bin/env bash
# utils/fix_data_dir.sh: sort the files of a data folder and drop what is not in all of them.
#
# Usage: utils/fix_data_dir.sh ARGS    (all of them are passed on; --help lists them)
#
# The same as: utils/data_dir.py fix ARGS
# The Python is, in this order: $PYTHON, the active virtual environment's, the repository's .venv.

set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=${PYTHON:-python3}
if [ -z "${PYTHON:-}" ] && [ -z "${VIRTUAL_ENV:-}" ] && [ -x "$root/.venv/bin/python" ]; then
  python=$root/.venv/bin/python
fi

PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH} exec "$python" "$root/utils/data_dir.py" fix "$@"
