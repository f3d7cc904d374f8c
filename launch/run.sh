#!/usr/bin/env bash
# Runs run.py with the given flags and tells apart what its exit code 0 leaves open. Exits with
#   0   the recipe is finished
#   75  it was stopped (SIGTERM: preemption, maintenance), saved, and wants the same command again
#   *   it failed
# SIGTERM goes on to run.py, also when this script is process 1 of a container.
set -uo pipefail
cd "$(dirname "$0")/.." || exit

log=$(mktemp)
tail -f "$log" >&2 &
tail=$!
"${PYTHON:-python3}" run.py "$@" 2>"$log" &
child=$!
trap 'kill -TERM "$child"' TERM INT

wait "$child"
code=$?
while kill -0 "$child" 2>/dev/null; do # a signal ends `wait`, not the child
  wait "$child"
  code=$?
done
sleep 1 # for tail to print the last lines
kill "$tail"
if [ "$code" -eq 0 ] && ! tail -n 1 "$log" | grep -q 'recipe finished$'; then
  code=75
fi
rm -f "$log"
exit "$code"
