#!/usr/bin/env bash
# Trains on machines reached by SSH that share a directory (or a bucket) and hold this checkout at the same path.
#
#   launch/ssh.sh "host1 host2 host3" --mode=train --gin_file=gin/runs/opencoder_1p5b.gin --workdir=/shared/run
#
# The first host coordinates, on PORT (default 1234). When any process stops, all stop; they are started again after a
# preemption (exit code 75) without end, after a failure MAX_FAILURES times in a row. Ctrl-C saves and stops everywhere.
set -uo pipefail

read -r -a hosts <<<"${1:?give the hosts, in quotes}"
shift
directory=$(cd "$(dirname "$0")/.." && pwd)
port=${PORT:-1234}
max_failures=${MAX_FAILURES:-3}
flags=$(printf '%q ' "$@")
stopped=

start() { # one process per host; their local ssh processes go to `children`
  children=()
  local index
  for index in "${!hosts[@]}"; do
    # A terminal (-tt) hands the signal on when this side ends.
    ssh -tt -o BatchMode=yes -o ServerAliveInterval=30 "${hosts[index]}" \
      "cd $(printf %q "$directory") && PYTHON=\${PYTHON:-.venv/bin/python} \
       launch/run.sh --distributed=${hosts[0]}:$port,${#hosts[@]},$index $flags" </dev/null &
    children+=($!)
  done
}

trap 'stopped=1; kill -TERM "${children[@]}" 2>/dev/null' INT TERM
failures=0
while [ -z "$stopped" ]; do
  start
  worst=0
  for child in "${children[@]}"; do
    wait "$child"
    code=$?
    # 75 says less than another failure, and more than 0.
    if [ "$code" -ne 0 ] && { [ "$worst" -eq 0 ] || [ "$worst" -eq 75 ]; }; then worst=$code; fi
  done
  [ "$worst" -eq 0 ] && exit 0
  if [ "$worst" -eq 75 ]; then
    failures=0
  else
    failures=$((failures + 1))
    [ "$failures" -ge "$max_failures" ] && exit "$worst"
  fi
  sleep 5
done
exit 130
