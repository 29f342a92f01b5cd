#!/usr/bin/env bash
# Trains under Slurm: `[GPUS=16] bash tools/slurm_train.sh PARTITION JOB_NAME CONFIG [ARGS...]`.
#
# ARGS go to MMAction2's train.py. Environment variables: GPUS in all (8), GPUS_PER_NODE (8, or GPUS
# where they are fewer), CPUS_PER_TASK (5), SRUN_ARGS, and PYTHON, MASTER_PORT, OMP_NUM_THREADS (1).
set -euo pipefail
if [ $# -lt 3 ]; then
    echo "usage: [GPUS=8] [GPUS_PER_NODE=8] [CPUS_PER_TASK=5] [SRUN_ARGS=...]" \
        "bash $0 PARTITION JOB_NAME CONFIG [ARGS...]" >&2
    exit 2
fi
partition=$1 job=$2 config=$3
shift 3

GPUS=${GPUS:-8}
GPUS_PER_NODE=${GPUS_PER_NODE:-$((GPUS < 8 ? GPUS : 8))}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}                       # for each of the ranks
export MASTER_PORT=${MASTER_PORT:-$((20000 + RANDOM % 10000))}     # jobs may share a node
export PYTHONPATH=$(dirname "$0")/..${PYTHONPATH:+:$PYTHONPATH}    # a checkout need not be installed

# shellcheck disable=SC2086 # SRUN_ARGS are several
exec srun --partition="$partition" --job-name="$job" --gres=gpu:"$GPUS_PER_NODE" \
    --ntasks="$GPUS" --ntasks-per-node="$GPUS_PER_NODE" --cpus-per-task="${CPUS_PER_TASK:-5}" \
    --kill-on-bad-exit=1 ${SRUN_ARGS:-} \
    "${PYTHON:-python}" -u -m mmsifa run train "$config" --launcher slurm "$@"
