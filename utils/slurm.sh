#!/usr/bin/env bash
# utils/slurm.sh: run one command, or an array of jobs, on a Slurm cluster and wait for the end.
#
# Usage: utils/slurm.sh [options] [JOB=A:B] LOG COMMAND [ARG ...]
#   utils/slurm.sh --gpu 1 --mem 32G --time 8:00:00 exp/train.log mooer train --config conf/train.yaml
# The interface and the logs are those of utils/run.sh. The jobs are submitted as one array with
# sbatch --wait from the present folder, which the nodes must see, too, as they must see this file.
#
# Options:
#   --max-jobs N   how many jobs of the array run at the same time   (default: no limit of ours)
#   --gpu N        GPUs for each job                (default 0: none is asked for)
#   --mem X        memory for each job, e.g. 16G    (default: the cluster's)
#   --time T       time limit, e.g. 8:00:00         (default: the cluster's)
#   --threads N    cores for each job               (default: the cluster's)
#   --extra "..."  more words for sbatch, split at blanks, e.g. --extra "-p gpu -A lab"  (default none)
#
# The batch script and Slurm's own output are kept in q/ beside the log. Ctrl-C cancels the jobs.

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
if ! command -v sbatch >/dev/null; then
  launch_fail "sbatch is not on PATH: run this on a Slurm login node, or use utils/run.sh (see cmd.sh)."
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
  printf '#!/usr/bin/env bash\n# Written by utils/slurm.sh; a job array task runs its share with utils/run.sh.\n'
  printf 'cd %q || exit 1\n' "$PWD"
  if [ -n "$launch_name" ]; then
    # shellcheck disable=SC2016  # expanded on the node
    printf 'exec %q --max-jobs 1 -- %s="$SLURM_ARRAY_TASK_ID"' "$Utils/run.sh" "$launch_name"
  else
    printf 'exec %q --max-jobs 1 --' "$Utils/run.sh"
  fi
  printf ' %q' "$launch_log" "${launch_cmd[@]}"
  printf '\n'
} >"$script"

options=(--wait --job-name="$base" --open-mode=append)
if [ -n "$launch_name" ]; then
  options+=(--array="$launch_first-$launch_last${max_jobs:+%$max_jobs}" --output="$queue/$base.%a.out")
else
  options+=(--output="$queue/$base.out")
fi
if [ "$gpu" != 0 ]; then options+=(--gres="gpu:$gpu"); fi
if [ -n "$mem" ]; then options+=(--mem="$mem"); fi
if [ -n "$time" ]; then options+=(--time="$time"); fi
if [ -n "$threads" ]; then options+=(--cpus-per-task="$threads"); fi
read -r -a more <<<"$extra"

# sbatch --wait leaves the jobs alone when it is interrupted, so cancel them by the number it told.
cancel() {
  trap '' INT TERM HUP
  local id
  id=$(grep -oE '[0-9]+' "$queue/$base.submit" 2>/dev/null | head -n 1 || true)
  if [ -n "$id" ]; then
    printf 'slurm.sh: stopped; cancelling Slurm job %s.\n' "$id" >&2
    scancel "$id" || true
  fi
  exit 130
}
trap cancel INT TERM HUP

submitted=0
sbatch "${options[@]}" ${more[@]+"${more[@]}"} "$script" >"$queue/$base.submit" 2>"$queue/$base.err" &
wait "$!" || submitted=$?

# The logs come over a shared file system that may be some seconds behind.
for ((tries = 0; submitted == 0 && tries < 30; tries++)); do
  if launch_check 2>/dev/null; then exit 0; fi
  sleep 1
done
if [ -s "$queue/$base.err" ]; then
  printf 'slurm.sh: sbatch (exit status %s) said:\n' "$submitted" >&2
  sed 's/^/  | /' "$queue/$base.err" >&2
fi
launch_check || exit 1
if ((submitted != 0)); then
  printf 'slurm.sh: the logs end well, but sbatch ended with status %s; see %s.\n' "$submitted" "$queue" >&2
  exit 1
fi
