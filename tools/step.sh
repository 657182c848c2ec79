#!/usr/bin/env bash
# Runs a step that may take minutes, and says what for and how long that usually takes; every 15 s (STEP_EVERY) the newest line of its output; and how long it took.
# The end of its output is shown only where it fails.
#   tools/step.sh "NAME: PURPOSE" USUALLY COMMAND...
set -euo pipefail

# step is the same for whoever sources this file; COMMAND may be a function, which ends at its first error.
step() {
  local what=$1 name=${1%%: *} usually=$2 begun=$SECONDS log status heart; shift 2
  log=$(mktemp)
  took() { printf '%d:%02d' $(((SECONDS - begun) / 60)) $(((SECONDS - begun) % 60)); }
  echo "$what; usually $usually" >&2
  while sleep "${STEP_EVERY:-15}" >/dev/null 2>&1 && kill -0 $$ 2>/dev/null; do echo "  $(took)  $name: $(tail -n 1 "$log" | cut -c1-120)" >&2; done &
  heart=$!
  set +e # not `if`: within its condition no command of a function would end it
  (set -e; "$@") >"$log" 2>&1; status=$?
  set -e
  kill "$heart"; wait "$heart" 2>/dev/null || true
  if [ $status = 0 ]; then
    echo "  $(took)  $name: done" >&2
  else
    tail -n 100 "$log" >&2
    echo "  $(took)  $name: failed" >&2
  fi
  rm -f "$log"
  return $status
}

if [ "${BASH_SOURCE[0]}" = "$0" ]; then step "$@"; fi
