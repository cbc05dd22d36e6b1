#!/usr/bin/env bash
# Stops the SLURM that up.sh started in FOLDER, by its recorded process ids, and takes its links out of /etc/slurm.
#
#   workflow/slurm_testbed/down.sh FOLDER
set -euo pipefail

folder=$(cd "${1:?usage: down.sh FOLDER}" && pwd)

for name in run/slurmd-node1 run/slurmd-node2 run/slurmctld run/slurmdbd db/db run/munged; do
  file=$folder/$name.pid
  [ -s "$file" ] || continue
  process=$(cat "$file")
  kill "$process" 2>/dev/null || true
  for _ in $(seq 100); do
    kill -0 "$process" 2>/dev/null || break
    sleep .1
  done
  rm -f "$file"
done
for link in /etc/slurm/*; do
  case $(readlink "$link") in "$folder"/*) rm "$link" ;; esac
done
