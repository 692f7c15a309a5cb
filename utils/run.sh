#!/usr/bin/env bash
# utils/run.sh: run one command, or an array of jobs side by side, on this machine, each with a log.
#
# Usage: utils/run.sh [options] [JOB=A:B] LOG COMMAND [ARG ...]
#   utils/run.sh exp/train.log mooer train --config conf/train.yaml
#   utils/run.sh --max-jobs 2 JOB=1:4 exp/log/x.JOB.log mooer features --scp split4/JOB.scp
# In the log's name and in the arguments the word JOB becomes the job's number. The command is run
# as it stands, without a shell in between; for a pipe write: bash -c 'set -o pipefail; a | b'.
#
# Options:
#   --max-jobs N   how many jobs run at the same time   (default: the number of cores)
#   --gpu N        GPUs for each job     } ignored here, so that the same call works
#   --mem X        memory for each job   } with utils/slurm.sh and utils/sge.sh
#   --time T       time limit of a job   }
#   --threads N    cores for each job    }
#
# Every log starts with the command, the host and the start, and ends with the exit status and the
# end. When a job fails no new one is started; the others finish, the end of the failed log is
# printed and the exit status is 1. Ctrl-C (or TERM) ends all jobs and their children: status 130.

set -euo pipefail

max_jobs=
gpu=0
mem=
time=
threads=

. "$(dirname "${BASH_SOURCE[0]}")/parse_options.sh"
. "$(dirname "${BASH_SOURCE[0]}")/launch_common.sh"

: "$gpu" "$mem" "$time" "$threads"
if [ -z "$max_jobs" ]; then
  max_jobs=$(nproc 2>/dev/null || getconf _NPROCESSORS_ONLN 2>/dev/null || echo 1)
fi
if ! [[ $max_jobs =~ ^[1-9][0-9]*$ ]]; then
  launch_fail "--max-jobs must be a whole number from 1 on, not '$max_jobs'."
fi
launch_parse "$@"

# Every job gets a process group of its own, so that it can be ended with all its children.
set -m

# Run job $1 and write its log.
run_job() {
  local log status=0 begin=$SECONDS
  local -a cmd=("${launch_cmd[@]}")
  log=$(launch_log_of "$1")
  if [ -n "$launch_name" ]; then cmd=("${cmd[@]//"$launch_name"/$1}"); fi
  # Outlive the signal that ends the command, to write how it ended.
  trap ':' TERM INT HUP
  mkdir -p "$(dirname "$log")"
  {
    printf '# Command:'
    printf ' %q' "${cmd[@]}"
    printf '\n# Running on %s\n# Started at %s\n#\n' "$(uname -n)" "$(date)"
  } >"$log"
  "${cmd[@]}" >>"$log" 2>&1 </dev/null || status=$?
  # The closing line gets a line of its own, even if the output does not end with a newline.
  if [ -n "$(tail -c 1 "$log")" ]; then echo >>"$log"; fi
  printf '# Ended (code %s) at %s, elapsed time %s seconds\n' \
    "$status" "$(date)" "$((SECONDS - begin))" >>"$log"
  return "$status"
}

# End the jobs that still run: politely, and after five seconds for good.
stop_jobs() {
  local group groups tries
  trap '' INT TERM HUP
  # What bash itself knows: a signal may come before a job that has just started is noted anywhere else.
  groups=$(jobs -p)
  printf '%s: stopped; ending the jobs.\n' "$(basename "$0")" >&2
  for group in $groups; do
    kill -TERM -- "-$group" 2>/dev/null || true
  done
  for ((tries = 0; tries < 50; tries++)); do
    if [ -z "$(jobs -pr)" ]; then exit 130; fi
    sleep 0.1
  done
  for group in $groups; do
    kill -KILL -- "-$group" 2>/dev/null || true
  done
  exit 130
}
trap stop_jobs INT TERM HUP

# Old logs must not pass for the results of this run.
for ((n = launch_first; n <= launch_last; n++)); do
  rm -f "$(launch_log_of "$n")"
done

running=0
failed=false
for ((n = launch_first; n <= launch_last; n++)); do
  if ((running >= max_jobs)); then
    wait -n || failed=true
    running=$((running - 1))
  fi
  if [ $failed = true ]; then break; fi
  run_job "$n" </dev/null &
  running=$((running + 1))
done
while ((running > 0)); do
  wait -n || true
  running=$((running - 1))
done
wait

launch_check
