#!/usr/bin/env bash
# Trains on a TPU slice from a queued resource, and asks for another one whenever it is preempted.
#
#   PROJECT=p ZONE=us-east5-a TYPE=v5p-256 launch/tpu.sh NAME \
#     --mode=train --gin_file=gin/runs/opencoder_8b.gin --workdir=gs://BUCKET/opencoder_8b
#
# TYPE counts TensorCores on v4 and v5p (v5p-256: 128 chips) and chips on v5e and v6e. RUNTIME is the TPU software
# version. SPOT=1 takes preemptible capacity. The flags behind NAME are those of run.py.
set -euo pipefail
cd "$(dirname "$0")/.." || exit

name=${1:?give a name for the slice}
shift
: "${PROJECT:?}" "${ZONE:?}" "${TYPE:?}"
runtime=${RUNTIME:-v2-alpha-tpuv5}
max_failures=${MAX_FAILURES:-3} # in a row, on a slice that is still there
where=(--project="$PROJECT" --zone="$ZONE")

state() {
  gcloud compute tpus queued-resources describe "$name" "${where[@]}" --format='value(state.state)' 2>/dev/null || echo NONE
}

obtain() { # waits until the slice is there
  while :; do
    case "$(state)" in
    ACTIVE) return ;;
    NONE)
      gcloud compute tpus queued-resources create "$name" --node-id="$name" "${where[@]}" \
        --accelerator-type="$TYPE" --runtime-version="$runtime" ${SPOT:+--spot}
      ;;
    SUSPENDED | SUSPENDING | FAILED) release ;;
    esac
    sleep 30
  done
}

release() {
  gcloud compute tpus queued-resources delete "$name" "${where[@]}" --force --quiet
}

everywhere() { # runs a command on all hosts of the slice
  gcloud compute tpus tpu-vm ssh "$name" "${where[@]}" --worker=all --command="$1"
}

install() {
  local archive
  archive=$(mktemp --suffix=.tar.gz)
  git archive --format=tar.gz --output="$archive" HEAD
  gcloud compute tpus tpu-vm scp "$archive" "$name:opencoder.tar.gz" "${where[@]}" --worker=all
  rm "$archive"
  everywhere 'mkdir -p opencoder && tar -xzf opencoder.tar.gz -C opencoder && cd opencoder &&
    python3 -m venv .venv && .venv/bin/pip install --quiet -r requirements-tpu.txt'
}

flags=$(printf '%q ' "$@")
failures=0
while :; do
  obtain
  if install && everywhere "cd opencoder && PYTHON=.venv/bin/python launch/run.sh --distributed=auto $flags"; then
    echo "finished: the slice $name is still there; delete it with"
    echo "  gcloud compute tpus queued-resources delete $name ${where[*]} --force"
    exit 0
  fi
  if [ "$(state)" = ACTIVE ]; then
    failures=$((failures + 1))
    if [ "$failures" -ge "$max_failures" ]; then
      echo "failed $failures times on a healthy slice: read the log above" >&2
      exit 1
    fi
  else
    failures=0
  fi
  sleep 10
done
