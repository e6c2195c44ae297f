#!/usr/bin/env bash
# Write the hashed locks of envs/ anew: one envs/<name>.txt for each envs/<name>.in. Needs `pip install uv`.
set -euo pipefail
cd "$(dirname "$0")/../envs"
for input in *.in; do
  # No annotations and no header: a lock names packages and hashes, not the machine that resolved it.
  uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
    "$input" -o "${input%.in}.txt"
  echo "envs/${input%.in}.txt"
done
