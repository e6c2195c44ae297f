#!/bin/bash
# On the node: bash unpack.sh [TARGET], default /tmp/gpu. Lays the pack out; safe to repeat.
# PYTHON: the node's Python 3.12 that has PyTorch 2.11 for CUDA 13 (default: python3).
set -euo pipefail
B=$(cd "$(dirname "$0")" && pwd); G=${1:-/tmp/gpu}; PY=$(command -v "${PYTHON:-python3}")
( cd "$B" && sha256sum --quiet -c SHA256SUMS )
is="$("$PY" -c 'import sys, torch; print(f"{sys.version_info[0]}.{sys.version_info[1]}, torch {torch.__version__}")' 2>&1 | tail -1 || true)"
case "$is" in "3.12, torch 2.11."*) ;; *)
  echo "unpack.sh: the pack is for Python 3.12 with torch 2.11; $PY says: $is. Name another: PYTHON=..." >&2; exit 2 ;;
esac
rm -rf "$G/sglang"; mkdir -p "$G/sglang" "$G/venv-sglang/bin"
xz -dc "$B/sglang.tar.xz" | tar -xf - --no-same-owner -C "$G/sglang"
# What the platform's file calls a venv: a python that finds the packages, and what SGLang must know of this pack.
# Its compiled kernels lie in one folder, whatever folder for compiled code a study names: what is not there it compiles into it.
cat > "$G/venv-sglang/bin/python" << END
#!/bin/sh
export PYTHONPATH="$G/sglang\${PYTHONPATH:+:\$PYTHONPATH}" SGLANG_IS_FLASHINFER_AVAILABLE=false
export TVM_FFI_CACHE_DIR="$G/sglang/kernels" HF_HUB_OFFLINE=1
exec "$PY" "\$@"
END
chmod +x "$G/venv-sglang/bin/python"
echo "laid out in $G; next: $G/venv-sglang/bin/python $B/smoke.py"
