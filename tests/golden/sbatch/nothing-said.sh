#!/bin/bash

# Parameters
#SBATCH --comment=demo
#SBATCH --job-name=vllm-qwen3-8b-tp1-plain-r1-566c261dff
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --open-mode=append
#SBATCH --output=/results/job-0/%j_0_log.out
#SBATCH --requeue
#SBATCH --signal=USR2@1
#SBATCH --time=60

unset SLURM_EXPORT_ENV
[ -e /results/job-0/"${SLURM_JOB_ID}_submitted.pkl" ] || ln /results/job-0/[0-9a-f]*.pkl /results/job-0/"${SLURM_JOB_ID}_submitted.pkl" 2>/dev/null || true

# command
export SUBMITIT_EXECUTOR=slurm
srun --unbuffered --output /results/job-0/%j_%t_log.out --cpu-bind=none --kill-on-bad-exit=1 python -u -m submitit.core._submit /results/job-0
