#!/usr/bin/env bash
# utils/sge.sh: run one command, or an array of jobs, on a (Sun/Univa/Open) Grid Engine and wait.
#
# Usage: utils/sge.sh [options] [JOB=A:B] LOG COMMAND [ARG ...]
#   utils/sge.sh --gpu 1 --mem 32G --time 8:00:00 exp/train.log mooer train --config conf/train.yaml
# The interface and the logs are those of utils/run.sh. The jobs are submitted as one array with
# qsub -sync y from the present folder, which the nodes must see, too, as they must see this file.
#
# Options:
#   --max-jobs N   how many jobs of the array run at the same time   (default: no limit of ours)
#   --gpu N        GPUs for each job: -l gpu=N           (default 0: none is asked for)
#   --mem X        memory for each job: -l mem_free=X    (default: the cluster's)
#   --time T       time limit: -l h_rt=T                 (default: the cluster's)
#   --threads N    cores for each job: -pe smp N         (default: the cluster's)
#   --extra "..."  more words for qsub, split at blanks, e.g. --extra "-q gpu.q -P lab"  (default none)
# The names of resources differ between clusters: where yours are others, leave --gpu, --mem, --time
# and --threads out and write them in --extra.
#
# The batch script and the queue's own output are kept in q/ beside the log. Ctrl-C deletes the jobs.

set -euo pipefail

max_jobs=
gpu=0
mem=
time=
threads=
extra=

. "$(dirname "${BASH_SOURCE[0]}")/parse_options.sh"
. "$(dirname "${BASH_SOURCE[0]}")/launch_common.sh"

Utils=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
if ! command -v qsub >/dev/null; then
  launch_fail "qsub is not on PATH: run this on a submit host, or use utils/run.sh (see cmd.sh)."
fi
launch_parse "$@"

base=$(basename "$(launch_log_of all)" .log)
queue=$(dirname "$(launch_log_of "$launch_first")")/q
mkdir -p "$queue"
script=$queue/$base.sh

for ((n = launch_first; n <= launch_last; n++)); do
  rm -f "$(launch_log_of "$n")"
done

{
  printf '#!/usr/bin/env bash\n# Written by utils/sge.sh; a job array task runs its share with utils/run.sh.\n'
  printf 'cd %q || exit 1\n' "$PWD"
  if [ -n "$launch_name" ]; then
    # shellcheck disable=SC2016  # expanded on the node
    printf 'exec %q --max-jobs 1 -- %s="$SGE_TASK_ID"' "$Utils/run.sh" "$launch_name"
  else
    printf 'exec %q --max-jobs 1 --' "$Utils/run.sh"
  fi
  printf ' %q' "$launch_log" "${launch_cmd[@]}"
  printf '\n'
} >"$script"

# A job's name may not start with a digit here, hence the j.
options=(-sync y -cwd -V -S /bin/bash -j y -o "$queue" -N "j.$base")
if [ -n "$launch_name" ]; then
  options+=(-t "$launch_first-$launch_last")
  if [ -n "$max_jobs" ]; then options+=(-tc "$max_jobs"); fi
fi
if [ "$gpu" != 0 ]; then options+=(-l "gpu=$gpu"); fi
if [ -n "$mem" ]; then options+=(-l "mem_free=$mem"); fi
if [ -n "$time" ]; then options+=(-l "h_rt=$time"); fi
if [ -n "$threads" ]; then options+=(-pe smp "$threads"); fi
read -r -a more <<<"$extra"

# The jobs are deleted by their number: qsub tells it in "Your job[-array] NUMBER...".
cancel() {
  trap '' INT TERM HUP
  local id
  id=$(grep -oE '[0-9]+' "$queue/$base.submit" 2>/dev/null | head -n 1 || true)
  if [ -n "$id" ]; then
    printf 'sge.sh: stopped; deleting Grid Engine job %s.\n' "$id" >&2
    qdel "$id" || true
  fi
  exit 130
}
trap cancel INT TERM HUP

submitted=0
qsub "${options[@]}" ${more[@]+"${more[@]}"} "$script" >"$queue/$base.submit" 2>"$queue/$base.err" &
wait "$!" || submitted=$?

# The logs come over a shared file system that may be some seconds behind.
for ((tries = 0; submitted == 0 && tries < 30; tries++)); do
  if launch_check 2>/dev/null; then exit 0; fi
  sleep 1
done
if [ -s "$queue/$base.err" ]; then
  printf 'sge.sh: qsub (exit status %s) said:\n' "$submitted" >&2
  sed 's/^/  | /' "$queue/$base.err" >&2
fi
launch_check || exit 1
if ((submitted != 0)); then
  printf 'sge.sh: the logs end well, but qsub ended with status %s; see %s.\n' "$submitted" "$queue" >&2
  exit 1
fi
