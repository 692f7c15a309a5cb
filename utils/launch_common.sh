#!/usr/bin/env bash
# utils/launch_common.sh: what utils/run.sh, utils/slurm.sh and utils/sge.sh share. Sourced, not run.
#
# launch_parse [JOB=A:B] LOG COMMAND [ARG ...]
#   sets launch_name (JOB, or empty), launch_first, launch_last, launch_log and launch_cmd.
# launch_log_of N      print the log's path of job N
# launch_check         read the last line of every log; on a failure print what failed and return 1

launch_fail() {
  printf '%s: %s\n' "$(basename "$0")" "$1" >&2
  exit 2
}

launch_parse() {
  launch_name=""
  launch_first=1
  launch_last=1
  if [[ ${1-} =~ ^([A-Za-z_][A-Za-z0-9_]*)=([0-9]+)(:([0-9]+))?$ ]]; then
    launch_name=${BASH_REMATCH[1]}
    launch_first=$((10#${BASH_REMATCH[2]}))
    launch_last=$((10#${BASH_REMATCH[4]:-${BASH_REMATCH[2]}}))
    if ((launch_first < 1 || launch_last < launch_first)); then
      launch_fail "bad range '$1': write $launch_name=FIRST:LAST with 1 <= FIRST <= LAST."
    fi
    shift
  fi
  if [ $# -lt 2 ]; then
    launch_fail "a log file and a command are needed: [options] [JOB=1:4] LOG COMMAND [ARG ...] (see --help)."
  fi
  launch_log=$1
  shift
  # shellcheck disable=SC2034  # for the script that sources this
  launch_cmd=("$@")
  if [ -n "$launch_name" ] && [[ $launch_log != *"$launch_name"* ]] && ((launch_last > launch_first)); then
    launch_fail "the log '$launch_log' must hold the word $launch_name, or all jobs would write one file."
  fi
  mkdir -p "$(dirname "$(launch_log_of "$launch_first")")"
}

launch_log_of() {
  if [ -n "$launch_name" ]; then
    printf '%s\n' "${launch_log//"$launch_name"/$1}"
  else
    printf '%s\n' "$launch_log"
  fi
}

launch_check() {
  local n log last failed=0 first_bad="" total=$((launch_last - launch_first + 1))
  for ((n = launch_first; n <= launch_last; n++)); do
    log=$(launch_log_of "$n")
    last=$(tail -n 1 "$log" 2>/dev/null || true)
    if [[ $last != "# Ended (code 0)"* ]]; then
      failed=$((failed + 1))
      if [ -z "$first_bad" ] && [ -e "$log" ]; then first_bad=$log; fi
    fi
  done
  if ((failed == 0)); then return 0; fi
  if [ -z "$first_bad" ]; then
    printf '%s: none of %s jobs wrote its log %s; the queue may have refused them.\n' \
      "$(basename "$0")" "$total" "$launch_log" >&2
    return 1
  fi
  {
    printf '%s: %s of %s jobs failed or never ran. The last lines of %s:\n' \
      "$(basename "$0")" "$failed" "$total" "$first_bad"
    tail -n 20 "$first_bad" | sed 's/^/  | /'
    printf '%s: failed; the whole log is in %s\n' "$(basename "$0")" "$first_bad"
  } >&2
  return 1
}
