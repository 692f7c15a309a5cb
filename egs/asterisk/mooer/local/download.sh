#!/usr/bin/env bash
# Bring the prompts, the sentences for TTS and the TTS engines into the cache, checked by SHA-256.
#
# Options: --langs "en es" the prompts wanted, --tts-utts N no sentences and engines when 0.

set -euo pipefail

langs="en es"
tts_utts=3000

. ./path.sh
. "$MOOER_ROOT/utils/parse_options.sh"

# Transcripts of all five languages are needed for the split; they come with `asterisk-text`.
packages=(asterisk-text "asterisk-sounds:$(tr -s ' ' , <<<"${langs% }")")
if [ "$tts_utts" -gt 0 ]; then packages+=(fortunes flite espeak-ng); fi
"$MOOER_ROOT/tools/fetch.py" "${packages[@]}"
