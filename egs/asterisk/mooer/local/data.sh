#!/usr/bin/env bash
# Write data/<lang>/{train,dev,test} from the prompts, and data/tts/text from the fortunes.
#
# Options: --langs "en es", --tts-utts N sentences, --max-utts N utterances of each set (0: all).

set -euo pipefail

langs="en es"
tts_utts=3000
max_utts=0

. ./path.sh
. "$MOOER_ROOT/utils/parse_options.sh"

read -r -a wanted <<<"$langs"
python local/prepare_asterisk.py --langs "${wanted[@]}" --out data --max-utts "$max_utts"
if [ "$tts_utts" -gt 0 ]; then
  python local/fortune_sentences.py --out data/tts --max "$tts_utts"
fi
