#!/usr/bin/env bash
# Write data/<part> for every part of the corpus; options as of utils/lhotse_data.sh.

set -euo pipefail

. ./path.sh
exec "$MOOER_ROOT/utils/lhotse_data.sh" "$@" librispeech downloads/LibriSpeech train-clean-100 train-clean-360 train-other-500 dev-clean dev-other test-clean test-other
