#!/usr/bin/env bash
# A Slurm array job that embeds one input on many GPUs, with no coordinator.
#
#   sbatch --array=0-7 scripts/slurm_build.sh genes.csv /shared/genes.store esm2-650m --molecule mrna
#
# Arguments behind the backbone go to `embedstore build`. Each task builds the segments that are its
# own; a task that failed or was preempted is simply submitted again. When all are done, one more
# run without --shard embeds whatever is left (nothing, as a rule) and says so.
#SBATCH --job-name=embedstore
#SBATCH --gres=gpu:1
#SBATCH --cpus-per-task=4
#SBATCH --mem=64G
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --signal=INT@120
set -euo pipefail
input=$1 store=$2 backbone=$3
shift 3
# cuda outright: a node whose driver is broken fails here, and never falls back to its CPU
exec embedstore build "$input" --store "$store" --backbone "$backbone" --offline --device cuda \
    --shard "$((SLURM_ARRAY_TASK_ID - SLURM_ARRAY_TASK_MIN))/$SLURM_ARRAY_TASK_COUNT" "$@"
