#!/usr/bin/env bash
# Everything that only a GPU can tell, in one command: builds the CUDA kernels, tests them, looks for
# bad memory accesses and races, measures, and writes benchmarks/results/gpu_<device>_<date>.md.
#
#   bash tools/gpu_check.sh
#
# Runs in the root of a bare checkout, without a network. Needs a Python with torch (its CUDA build),
# pytest and setuptools, and nvcc; Triton for sparse convolution, compute-sanitizer for memory checks;
# for the benchmarks what reading data needs (opencv, scipy, pyarrow, numba).
# PYTHON chooses the interpreter. Logs are left in work_dirs/gpu_check. A step that fails is named, the
# others still run, and the exit status is 1.
set -euo pipefail

PYTHON=${PYTHON:-python3}
LOGS=work_dirs/gpu_check
# Seconds after which a step has failed.
BUILD_S=600 TEST_S=600 SANITIZER_S=300 BENCH_S=600
# Small cases of every op; the memory checks slow kernels down some hundred times.
SMALL="test_op_equals or test_one_site or test_affine_end"
# Lines of a log that the report quotes.
QUOTED=60

failed=()
steps=""
quotes=""

say() { printf 'gpu_check: %s\n' "$*"; }

# note NAME STATUS SECONDS: a row of the report.
note() {
  steps+="| $1 | $2 | $3 |"$'\n'
  say "$1: $2 ($3 s)"
}

# quote NAME FILE: the end of a log, for the report.
quote() {
  quotes+=$'\n'"## $1"$'\n\n'"$(tail -n "$QUOTED" "$2" | tr -d '\r' | sed 's/^/    /')"$'\n'
}

# step NAME LIMIT COMMAND...: runs it, and says loudly when it fails.
step() {
  local name=$1 limit=$2 log status=0 began=$SECONDS
  shift 2
  log="$LOGS/${name// /_}.log"
  say "$name ..."
  timeout --kill-after=10 "$limit" "$@" >"$log" 2>&1 || status=$?
  if [ "$status" -eq 0 ]; then
    note "$name" passed $((SECONDS - began))
  else
    local why="FAILED with status $status"
    [ "$status" -eq 124 ] && why="FAILED: took more than $limit s"
    failed+=("$name")
    note "$name" "$why" $((SECONDS - began))
    tail -n 25 "$log" >&2
    printf 'gpu_check: STEP FAILED: %s (%s); log: %s\n' "$name" "$why" "$log" >&2
  fi
  quote "$name" "$log"
  return "$status"
}

stop() {
  printf 'gpu_check: STEP FAILED: %s\n' "$*" >&2
  exit 1
}

[ -d ops/csrc ] || stop "start: run this in the root of the repository"
mkdir -p "$LOGS" benchmarks/results
export PYTHONPATH="$PWD:$PWD/ops${PYTHONPATH:+:$PYTHONPATH}"
export PYTHONUNBUFFERED=1

"$PYTHON" - >"$LOGS/machine.txt" 2>"$LOGS/machine.err" <<'END' || { cat "$LOGS/machine.err" >&2; stop "machine: a Python with torch and a CUDA device is needed (PYTHON=$PYTHON)"; }
import importlib.util, platform, sys
from importlib.metadata import PackageNotFoundError, version
import torch

if not torch.cuda.is_available():
    sys.exit(f"torch {torch.__version__} finds no CUDA device")
device = torch.cuda.get_device_properties(0)
print(device.name)
print(f"{device.total_memory / 2**30:.0f} GiB, compute capability {device.major}.{device.minor}")
print(f"{platform.system()} {platform.machine()}, Python {platform.python_version()}")
print(f"torch {torch.__version__} (CUDA {torch.version.cuda})")
for name in ("triton", "setuptools", "ninja", "pytest", "hypothesis", "numpy"):
    try:
        print(f"{name} {version(name)}")
    except PackageNotFoundError:
        print(f"{name} is not installed")
END
{
  nvcc --version 2>/dev/null | tail -n 2 || echo "nvcc was not found"
  nvidia-smi --query-gpu=driver_version,clocks.max.sm,power.limit --format=csv 2>/dev/null ||
    echo "nvidia-smi was not found"
} >>"$LOGS/machine.txt"
cat "$LOGS/machine.txt"
device=$(head -n 1 "$LOGS/machine.txt" | tr '[:upper:] ' '[:lower:]_' | tr -cd 'a-z0-9_')
commit=$(git rev-parse HEAD 2>/dev/null || echo "unknown (no git)")
[ -z "$(git status --porcelain 2>/dev/null)" ] || commit+=", with changes"
report="benchmarks/results/gpu_${device}_$(date +%F).md"

write_report() {
  {
    echo "# GPU check: $(head -n 1 "$LOGS/machine.txt"), $(date -u '+%F %H:%M UTC')"
    printf '\nCommand: bash tools/gpu_check.sh, commit %s.\n\n' "$commit"
    sed 's/^/    /' "$LOGS/machine.txt"
    printf '\n| step | status | seconds |\n| --- | --- | --- |\n%s%s' "$steps" "$quotes"
  } >"$report"
  say "report: $report"
}
trap write_report EXIT

step build "$BUILD_S" env PERCEPTION3D_BUILD=cuda "$PYTHON" setup.py build_ext --inplace ||
  stop "build: without kernels there is nothing to test"
step load 120 "$PYTHON" -c "
from perception3d_ops import library, points_in_boxes, reduce_rows, sparse_conv, sparse_maps
import torch
assert library.COMPILED, 'the compiled library was not loaded'
has = torch._C._dispatch_has_kernel_for_dispatch_key
for name in ('voxel_keys', 'reduce_rows', 'submanifold_table', 'strided_map_bits', 'sparse_conv'):
    assert has(f'perception3d::{name}', 'CUDA'), f'{name} has no kernel of CUDA'
print(library.compiled_file())
" || stop "load: the library was built without CUDA kernels"

# Other files than this one use packages that a bare machine may lack.
files=(tests/ops/test_gpu.py)
if "$PYTHON" -c "import hypothesis" 2>/dev/null; then
  mapfile -t files < <(grep -lE 'pytest\.mark\.gpu' tests/ops/*.py | sort)
fi
pytest=("$PYTHON" -m pytest -m gpu -W default -p no:cacheprovider -q)
step tests "$TEST_S" "${pytest[@]}" -rs --durations=10 "${files[@]}" || true
if ! grep -qE '[1-9][0-9]* passed' "$LOGS/tests.log"; then
  failed+=("tests: none of them ran")
fi

if command -v compute-sanitizer >/dev/null; then
  for tool in memcheck racecheck; do
    # Without its own allocator torch asks for exact sizes, so that nothing hides in spare room.
    step "$tool" "$SANITIZER_S" env PYTORCH_NO_CUDA_MEMORY_CACHING=1 \
      compute-sanitizer --tool "$tool" --error-exitcode 9 --print-limit 20 \
      "${pytest[@]}" tests/ops/test_gpu.py -k "$SMALL" || true
  done
else
  note "memcheck, racecheck" "left out: compute-sanitizer was not found" 0
fi

step benchmarks "$BENCH_S" "$PYTHON" -m benchmarks cuda || true

if [ "${#failed[@]}" -gt 0 ]; then
  stop "$(printf '%s; ' "${failed[@]}")"
fi
command -v compute-sanitizer >/dev/null || say "the memory checks were left out"
say "all other steps passed"
