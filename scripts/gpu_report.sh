#!/usr/bin/env bash
# Measures on a GPU, in parts of at most nine minutes: oracles, the optimizer's step, memory, the
# largest model, training; tests first. Every part leaves JSON, CSV, Markdown and PNG files and is
# not run again; the last one sets all figures beside their goals. docs/gpu.md has the details.
# usage: scripts/gpu_report.sh [--sizes full|tiny] [--output FOLDER] [--archive FILE] [--seconds N]
#          [PART...]
#        scripts/gpu_report.sh [--sizes full|tiny] --list
# Without a PART all are run that are not done. After N seconds none goes on: what is left is said, and
# the exit status is 1. On a machine without network run scripts/gpu_wheels.sh elsewhere, and
# bring .wheels/ along. PYTHON names the interpreter (python3).
set -uo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
sizes=full output=runs/gpu archive='' list='' most=540 seconds=''
wanted=()
while [ $# -gt 0 ]; do
  case $1 in
    --sizes) sizes=$2; shift 2 ;;
    --output) output=$2; shift 2 ;;
    --archive) archive=$2; shift 2 ;;
    --seconds) seconds=$2; shift 2 ;;
    --list) list=yes; shift ;;
    -*) echo "error: $1 is unknown: see the head of $0" >&2; exit 2 ;;
    *) wanted+=("$1"); shift ;;
  esac
done
case $sizes in
  full) source scripts/gpu_parts_full.sh ;;
  tiny) source scripts/gpu_parts_tiny.sh ;;
  *) echo "error: --sizes $sizes: full or tiny" >&2; exit 2 ;;
esac
known=$(compgen -A function part_ | sed 's/^part_//')
if [ -n "$list" ]; then
  printf '%s\n' "${PARTS[@]}"
  exit 0
fi
[ ${#wanted[@]} -gt 0 ] || wanted=("${PARTS[@]}")
for part in "${wanted[@]}"; do
  grep -qx -- "${part%%:*}" <<<"$known" && grep -qx -- "$part" <<<"$(printf '%s\n' "${PARTS[@]}")" || {
    echo "error: $part is no part: see $0 --sizes $sizes --list" >&2
    exit 2
  }
done

source scripts/gpu_environment.sh
failed=0
for part in "${wanted[@]}"; do
  folder=$output/${part//:/-}
  if [ -f "$folder/done" ] && [ "$part" != summary ]; then
    echo "$part: done before"
    continue
  fi
  limit=$most
  if [ -n "$seconds" ] && [ $((seconds - SECONDS - 30)) -lt $limit ]; then
    limit=$((seconds - SECONDS - 30)) # the rest is for what ends late, and for packing
  fi
  if [ "$limit" -lt 20 ]; then
    echo "$part: left, no time"
    failed=1
    continue
  fi
  mkdir -p "$folder"
  rm -f "$folder/failed"
  started=$SECONDS
  # A shell of its own, whose process group ends with it when the time is up.
  export -f "part_${part%%:*}"
  export sizes output folder python rest=${part#*:}
  timeout --kill-after=15 "$limit" bash -c "set -euo pipefail; part_${part%%:*}" \
    >"$folder/log.txt" 2>&1
  status=$?
  if [ $status -eq 0 ]; then
    echo "$((SECONDS - started)) s" >"$folder/done"
    echo "$part: done in $((SECONDS - started)) s"
  else
    echo "exit status $status after $((SECONDS - started)) s" >"$folder/failed"
    echo "$part: FAILED with exit status $status after $((SECONDS - started)) s; the log ends with"
    tail -n 12 "$folder/log.txt" | cut -c1-400
    failed=1
    # Ranks have sessions of their own, and end some seconds after their launcher; until then they
    # hold memory of the GPU.
    [ $status -ne 124 ] || sleep 15
  fi
  # After every part: what is done must not be lost with the machine.
  [ -z "$archive" ] || tar -czf "$archive" --exclude='*.lock' --exclude=tokenizer "$output"
done
exit $failed
