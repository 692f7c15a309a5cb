#!/usr/bin/env bash
# utils/stages.sh: what every staged script does around its stages. Sourced after the options are read.
#
# It reads the variables stage, stop_stage, exp (the experiment's directory), nj and launcher, and gives the script:
#   die MESSAGE                   end with an error
#   if begin N TITLE; then        a stage; true when it is asked for. Its time goes to $exp/timing.tsv
#   end_stage                     after the last stage
#   tee_log NAME COMMAND ...      a long command, its progress on the terminal and in $exp/log/NAME.log
#   plot PICTURE DIR ...          draw what lies in these directories
#   states OPTION ... -- DATA OUT ...   shards of data directories, in $nj jobs of $launcher and a closing call

# Said here so that a script that forgets one of them hears of it.
: "${stage:?}" "${stop_stage:?}" "${exp:?}" "${nj:?}" "${launcher:?}"

Script_name=$(basename "${BASH_SOURCE[1]}")

die() { printf '%s: error: %s\n' "$Script_name" "$*" >&2; exit 2; }

# Options end at the first word that is none: what stands behind it would be lost.
[ $# -eq 0 ] || die "unexpected '$1': options are --name value, see $0 --help"
for Number in "$stage" "$stop_stage"; do
  [[ $Number =~ ^[0-9]$ ]] || die "unknown stage '$Number': stages are 0 to 9, see $0 --help"
done
[ "$stage" -le "$stop_stage" ] || die "--stage $stage lies behind --stop-stage $stop_stage"

begin() {
  end_stage
  if [ "$1" -lt "$stage" ] || [ "$1" -gt "$stop_stage" ]; then return 1; fi
  Stage_number=$1 Stage_title=$2 Stage_start=$SECONDS
  printf '\n=== stage %s: %s (%s) ===\n' "$1" "$2" "$(date +%T)" >&2
}

end_stage() {
  [ -n "${Stage_number:-}" ] || return 0
  mkdir -p "$exp"
  printf '%s\t%s\t%s\n' "$Stage_number" "$Stage_title" "$((SECONDS - Stage_start))" >>"$exp/timing.tsv"
  printf '=== stage %s took %s s ===\n' "$Stage_number" "$((SECONDS - Stage_start))" >&2
  Stage_number=
}

tee_log() {
  local name=$1
  shift
  mkdir -p "$exp/log"
  "$@" 2> >(tee -a "$exp/log/$name.log" >&2)
}

states() {
  local options=() log=$exp/log/states.JOB.log
  while [ "$1" != -- ]; do options+=("$1"); shift; done
  shift
  if [ "$nj" -gt 1 ]; then
    printf 'encoding in %s jobs; watch: tail -f %s\n' "$nj" "$PWD/${log/JOB/1}" >&2
    "$launcher" --max-jobs "$nj" "JOB=1:$nj" "$log" mooer states "$@" --job JOB --nj "$nj" --threads 1 "${options[@]}"
  fi
  mooer states "$@" "${options[@]}"
}

plot() { "$MOOER_ROOT/utils/plot.py" "$@" >&2; }
