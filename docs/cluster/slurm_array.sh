#!/bin/bash
# Eight GPUs, each with its share of the observations: sbatch slurm_array.sh
# Submitted again, it goes on where it was: what is finished is left alone.
#SBATCH --job-name=lmaps
#SBATCH --array=0-7
#SBATCH --gres=gpu:1
#SBATCH --cpus-per-task=4
#SBATCH --mem=16G
#SBATCH --time=04:00:00
#SBATCH --signal=TERM@120
#SBATCH --requeue
#SBATCH --output=lmaps-%A_%a.log

set -euo pipefail
source "$HOME/lmaps/bin/activate"
export OMP_NUM_THREADS="${SLURM_CPUS_PER_TASK:-4}"

# --shard is that of the array task. exec: the signal of --signal reaches lmaps itself, which
# finishes its level, keeps a checkpoint and ends with exit code 143.
exec srun lmaps batch black_hole/uvfits \
    --data 'obs/*.uvfits' \
    --samples 8 \
    --batch-size 64 \
    --device cuda \
    --out results
