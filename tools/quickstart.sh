#!/usr/bin/env bash
# Trains, tests and uses a small SIFA-Net on a data set made on the spot; a few minutes on 2 cores.
# Usage: bash tools/quickstart.sh [FOLDER], default work_dirs/quickstart
set -euo pipefail
cd "$(dirname "$0")/.."
source tools/setup_env.sh '' # a bare source would see this script's arguments
export PYTHONWARNINGS=ignore # of the upstream packages; run without it to see them
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((($(nproc) + 1) / 2))} # the other cores decode videos

out=${1:-work_dirs/quickstart}
config=configs/sifa_tiny_motion.py
data=data/motion
mkdir -p "$out"

mmsifa make-motion-dataset $data
mim train mmaction $config --work-dir "$out" --seed 0 2>&1 | tee "$out/train.log"
checkpoint=$(cat "$out/last_checkpoint")
mim test mmaction $config --checkpoint "$checkpoint" --work-dir "$out" --dump "$out/predictions.pkl" \
    2>&1 | tee "$out/test.log"

mmsifa plot "$out" --out "$out/learning_curve.png"
rc=$(mktemp) # MMAction2's picture cuts long names off
trap 'rm -f "$rc"' EXIT
echo 'savefig.bbox: tight' >"$rc"
MATPLOTLIBRC=$rc mmsifa run confusion_matrix $config "$out/predictions.pkl" --include-values \
    --label-file $data/label_map.txt --show-path "$out/confusion_matrix.png"
mmsifa predict $data/videos_val/00000_left.mp4 --config $config --checkpoint "$checkpoint" \
    --labels $data/label_map.txt

accuracy=$(grep -oE 'acc/top1: [0-9.]+' "$out/test.log" | tail -n 1)
echo "Held-out top-1 accuracy: ${accuracy#acc/top1: }"
echo "In $out: $(basename "$checkpoint"), train.log, test.log, predictions.pkl," \
    "learning_curve.png, confusion_matrix.png"
