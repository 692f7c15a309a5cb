#!/usr/bin/env bash
# utils/lhotse_data.sh: Kaldi data directories of a corpus that lhotse knows.
#
# Usage, in a recipe's directory: utils/lhotse_data.sh [--option value ...] CORPUS FOLDER PART ...
#   CORPUS   lhotse's name of it, such as aishell or librispeech (lhotse prepare --help lists them)
#   FOLDER   where the corpus lies
#   PART     as lhotse calls it; becomes data/PART
# lhotse is no part of the default installation: make install EXTRAS=corpora

set -euo pipefail

max_utts=0   # utterances of each part; 0 takes all (for tests)
langs=       # what staged scripts say to every recipe; these corpora have one language,
tts_utts=0   # and no synthetic speech: more than 0 is refused
jobs=4       # threads of lhotse, where it has them

. "$(dirname "${BASH_SOURCE[0]}")/parse_options.sh"

corpus=${1:?"which corpus? see the comments in $0"}
folder=${2:?"where is $1? see the comments in $0"}
shift 2
tools=$(dirname "${BASH_SOURCE[0]}")

[ "$tts_utts" = 0 ] || { echo "lhotse_data.sh: error: $corpus ($langs) has no synthetic speech: --tts-utts 0" >&2; exit 2; }
command -v lhotse >/dev/null || { echo "lhotse_data.sh: error: lhotse is not installed: make install EXTRAS=corpora" >&2; exit 2; }
[ -d "$folder" ] || { echo "lhotse_data.sh: error: no corpus in $folder: run stage 0, or link it there" >&2; exit 2; }

manifests=data/manifests
options=()
known=$(lhotse prepare "$corpus" --help)
if [[ $known == *--num-jobs* ]]; then options+=(--num-jobs "$jobs"); fi
if [[ $known == *--dataset-parts* ]]; then for part in "$@"; do options+=(--dataset-parts "$part"); done; fi
mkdir -p "$manifests"
lhotse prepare "$corpus" "$folder" "$manifests" ${options[@]+"${options[@]}"}
"$tools/lhotse_to_kaldi.py" "$manifests" data "$@" --max-utts "$max_utts"
