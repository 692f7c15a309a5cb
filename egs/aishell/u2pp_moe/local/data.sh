#!/usr/bin/env bash
# Write data/<part> for every part of the corpus.
#
# Options: --max-utts N utterances of each part (0: all); --langs and --tts-utts have no meaning here.

set -euo pipefail

langs=zh
tts_utts=0
max_utts=0

. ./path.sh
. "$MOOER_ROOT/utils/parse_options.sh"

[ "$tts_utts" = 0 ] || { echo "data.sh: error: this recipe has no synthetic speech (language $langs)" >&2; exit 2; }
"$MOOER_ROOT/utils/lhotse_data.sh" --max-utts "$max_utts" aishell downloads/aishell train dev test
