#!/usr/bin/env bash
# Makes the packaged speech encoder: synthetic speech, and GRID's talker s1 (CC BY 4.0), prepared by `synctalk prepare`.
#   scripts/default_encoder.sh data/grid ict_facekit_light.npz out/encoder.onnx
# Every 11th take of the clip is held out. About six minutes of one core for the corpus, then 25 of training.
set -euo pipefail
cd "$(dirname "$0")/.."
dataset="$1" head="$2" out="$3"
.venv/bin/synctalk train-audio "$dataset" -o "$out" --head "$head" --utterances 600 --variations 12 --minutes 25 --threads 1
cp "$out" trainer/synctalk_trainer/audio_visual/encoder.onnx
cp "${out%.onnx}.sync.onnx" trainer/synctalk_trainer/audio_visual/sync.onnx
