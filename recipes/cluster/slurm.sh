#!/bin/bash
# One run on one node with eight GPUs, continued until it is finished.
#   sbatch recipes/cluster/slurm.sh --config recipe.yaml --out /shared/runs/mine
# Slurm sends SIGTERM five minutes before the time limit and before it takes the node away. Skipwise then saves the last
# complete step and ends with 75 ("try again later"); this script puts itself into the queue again. The first attempt starts
# the run, and --resume lets every later one go on with it. Any other failure is not repeated.
# Written from the manuals of Slurm; it was not run on a Slurm cluster.
#SBATCH --job-name=skipwise
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=04:00:00
#SBATCH --signal=B:TERM@300
#SBATCH --requeue
#SBATCH --open-mode=append

srun skipwise extend "$@" --processes 8 --resume &
step=$!
trap 'scancel --signal=TERM "$SLURM_JOB_ID.0"' TERM  # srun itself would need two signals
wait "$step"; code=$?
while kill -0 "$step" 2>/dev/null; do wait "$step"; code=$?; done  # the trap interrupts the first wait

if [ "$code" -eq 75 ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
