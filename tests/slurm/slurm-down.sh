#!/usr/bin/env bash
# Cancel all jobs, stop what slurm-up.sh started, by the process ids that it noted, and undo the nodes' networks. The
# packages stay. It may be called in any state, also after a crash.
set -uo pipefail

ROOT=${SERVEGAUGE_SLURM_ROOT:-/tmp/servegauge-slurm}
. "$(dirname "$0")/networks.sh"

# stop PIDFILE [COMMAND]: TERM, then KILL after ten seconds. The command's name guards against a number used again.
stop() {
  local pid tries
  [ -s "$1" ] || return 0
  pid=$(<"$1")
  if [ "$(cat "/proc/$pid/comm" 2>/dev/null)" = "$2" ]; then
    kill -TERM "$pid"
    for tries in $(seq 100); do
      kill -0 "$pid" 2>/dev/null || break
      sleep 0.1
    done
    kill -0 "$pid" 2>/dev/null && kill -KILL "$pid"
  fi
  rm -f "$1"
}

if ! [ -d "$ROOT/run" ]; then
  echo "slurm-down: there is no cluster in $ROOT"
  exit 0
fi
timeout 10 scancel --user="$(id -un)" 2>/dev/null
for file in "$ROOT"/run/slurmd.*.pid; do stop "$file" slurmd; done
stop "$ROOT/run/slurmctld.pid" slurmctld
stop "$ROOT/run/slurmdbd.pid" slurmdbd
stop "$ROOT/run/mariadb.pid" mariadbd
# Jobs that a killed slurmd left behind are ended by their slurmstepd, which notices within seconds.
networks_down
rm -rf "$ROOT/spool" "$ROOT/state"
echo "slurm-down: the cluster in $ROOT is stopped"
