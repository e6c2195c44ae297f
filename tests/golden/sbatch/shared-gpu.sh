#!/bin/bash

# Parameters
#SBATCH --comment=demo
#SBATCH --gres=gpu:1
#SBATCH --job-name=vllm-qwen3-8b-tp1-n3-shared-vgpu-r1-dfa50a1d0e
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
