#!/usr/bin/env bash
# Write the hashed locks of envs/ anew: one <name>.txt for each <name>.in, or only for those named. Needs `pip install uv`.
# A line `# uv: ...` in an .in file gives further arguments. PyTorch's CPU builds must be in an index or a folder that
# UV_FIND_LINKS (or PIP_FIND_LINKS) names.
set -euo pipefail
cd "$(dirname "$0")"
links="${UV_FIND_LINKS:-${PIP_FIND_LINKS:-}}"
if [ $# -eq 0 ]; then set -- *.in extra/*.in pack/*.in; fi
for input in "$@"; do
  read -ra further <<< "$(sed -n 's/^# uv: //p' "$input")"
  # Only those that ask for a CPU build: a folder of this machine's must not reach the other locks.
  if grep -q '^[^#]*+cpu' "$input"; then export UV_FIND_LINKS="$links"; else unset UV_FIND_LINKS; fi
  # No annotations and no header: a lock names packages and hashes, not the machine that resolved it.
  uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
    ${further[@]+"${further[@]}"} "$input" -o "${input%.in}.txt"
  echo "envs/${input%.in}.txt"
done
