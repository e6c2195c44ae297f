#!/bin/bash

# Parameters
#SBATCH --account=proj42
#SBATCH --comment=demo
#SBATCH --constraint='h100&nvlink'
#SBATCH --cpus-per-task=32
#SBATCH --exclude='bad[01-02]'
#SBATCH --gres=gpu:h100:1
#SBATCH --job-name=vllm-qwen3-8b-tp1-bare-r1-dee25d7e0f
#SBATCH --licenses=gpfs
#SBATCH --mem=123392M
#SBATCH --no-requeue
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --open-mode=append
#SBATCH --output=/results/job-0/%j_0_log.out
#SBATCH --partition=gpu
#SBATCH --qos=high
#SBATCH --reservation=bench
#SBATCH --signal=USR2@1
#SBATCH --time=60

# setup
servegauge_path="${PYTHONPATH-}"
module load cuda/12.9 || { echo 'module load cuda/12.9 failed; correct `modules:` in config/platforms/bare.yaml'; exit 1; }
module load gcc || { echo 'module load gcc failed; correct `modules:` in config/platforms/bare.yaml'; exit 1; }
export SERVEGAUGE_JOB_PYTHONPATH="${PYTHONPATH-}" PYTHONPATH="$servegauge_path"

unset SLURM_EXPORT_ENV
[ -e /results/job-0/"${SLURM_JOB_ID}_submitted.pkl" ] || ln /results/job-0/[0-9a-f]*.pkl /results/job-0/"${SLURM_JOB_ID}_submitted.pkl" 2>/dev/null || true

# command
export SUBMITIT_EXECUTOR=slurm
srun --unbuffered --output /results/job-0/%j_%t_log.out --cpu-bind=none --kill-on-bad-exit=1 --cpus-per-task=32 python -u -m submitit.core._submit /results/job-0
