#!/usr/bin/env bash
# cmd.sh: how jobs are started. utils/run.sh on this machine, utils/slurm.sh or utils/sge.sh on a cluster;
# all three take the same arguments, so this line is all there is to change.

export MOOER_CMD="$MOOER_ROOT/utils/run.sh"
