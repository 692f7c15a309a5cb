#!/usr/bin/env bash
# Write data/<part> for every part of the corpus; options as of utils/lhotse_data.sh.

set -euo pipefail

. ./path.sh
exec "$MOOER_ROOT/utils/lhotse_data.sh" "$@" aishell downloads/aishell train dev test
