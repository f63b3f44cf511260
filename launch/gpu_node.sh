#!/usr/bin/env bash
# Checks, measures and trains on one machine with GPUs.
#
#   launch/gpu_node.sh                                   # all of it
#   launch/gpu_node.sh --dry_run                         # print the commands alone
#   STEPS=train CONFIG=configs/dit_s_cifar.py launch/gpu_node.sh
#
# "check" compares the GPU's numbers with the CPU's, "benchmark" measures train steps beside
# PyTorch, "train" trains a run, or resumes it. Rows go to $RESULTS/*.jsonl, and the run to
# $RESULTS/run. The first command that fails ends the script.
set -euo pipefail

# Variables: set them in the environment, or here.
PYTHON="${PYTHON:-python}"                  # with the package, an extra for GPUs, and PyTorch
STEPS="${STEPS:-check benchmark train}"     # what to do, in this order
RESULTS="${RESULTS:-runs/gpu_node}"
CASES="${CASES:-}"                          # networks of benchmarks/peers.py; none: all for GPUs
MINUTES="${MINUTES:-0.5}"                   # of timing a network
CONFIG="${CONFIG:-configs/uvit_cifar.py}"
TRAIN_ARGS="${TRAIN_ARGS:-}"                # e.g. "--config.data.data_dir=/data"

cd "$(dirname "$0")/.."
dry_run=
case "${1:-}" in
  --dry_run) dry_run=1 ;;
  "") ;;
  *) echo "usage: [VARIABLE=VALUE ..] launch/gpu_node.sh [--dry_run]" >&2; exit 2 ;;
esac

run() {
  echo "+ $*"
  [[ -n "$dry_run" ]] || "$@"
}

[[ -n "$dry_run" ]] || mkdir -p "$RESULTS"
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
for step in $STEPS; do
  case "$step" in
    check)
      run "$PYTHON" benchmarks/backend.py "--out=$RESULTS/backend.jsonl" ;;
    benchmark)
      cases=()
      for name in $CASES; do cases+=("--case=$name"); done
      run "$PYTHON" benchmarks/peers.py --task=train "--minutes=$MINUTES" "${cases[@]}" \
        "--out=$RESULTS/peers.jsonl" ;;
    train)
      # shellcheck disable=SC2086  # several arguments
      run "$PYTHON" -m ddaepp_jax.main "--config=$CONFIG" "--workdir=$RESULTS/run" $TRAIN_ARGS ;;
    *)
      echo "STEPS: no step $step; use check, benchmark, train" >&2; exit 2 ;;
  esac
done
