#!/usr/bin/env bash
# Everything that needs an NVIDIA GPU, on the machine that has one: `tests/gpu.sh` prints a table and fails if a row fails.
#
# Needs Rust and the CUDA toolkit (docs/cuda.md). With PYTHON set to one that has torch and funasr, the ratios to PyTorch are
# measured as well (benches/gpu); without it that row says so and the table is not complete.
set -uo pipefail
cd "$(dirname "$0")/.."

command -v nvidia-smi >/dev/null || { echo 'tests/gpu.sh: no nvidia-smi: this machine has no NVIDIA GPU' >&2; exit 1; }
card=$(nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader | head -n 1)
export CUDA_COMPUTE_CAP="${CUDA_COMPUTE_CAP:-80}" CARGO_TERM_COLOR=never
logs="${CARGO_TARGET_DIR:-target}/gpu"
mkdir -p "$logs"

rows=() failed=0
# A name, and a command: a row of the table.
row() {
  local name="$1" log started result
  shift
  log="$logs/$(printf '%s' "$name" | tr -c 'a-z0-9\n' '-').log"
  started=$(date +%s)
  echo "== $name: $*"
  if env "$@" >"$log" 2>&1 && ! grep -q 'running 0 tests' <(grep -A1 'Running.*all-' "$log" | tail -n 1); then
    result=passed
  else
    result=FAILED failed=1
    tail -n 20 "$log"
  fi
  rows+=("| $name | $result | $(($(date +%s) - started)) s | $log |")
}

cuda=(cargo test --release --workspace --features cuda --test all)
# One test after the other: they count launches and memory.
one=(-- --nocapture --test-threads=1 --include-ignored)
row 'ops beside their references' "${cuda[@]}" gpu:: "${one[@]}"
row 'stages of every model beside FunASR, f32' FUNASR_CANDLE_TEST_DEVICE=cuda:0 "${cuda[@]}" parity:: "${one[@]}"
for dtype in f32 f16 bf16; do
  row "stages of the embedded models, $dtype" cargo run --release --features cuda -- selftest --device cuda:0 --dtype "$dtype"
  for tests in regression:: online:: sense_voice:: punctuation_realtime::; do
    row "texts, ${tests%::}, $dtype" FUNASR_CANDLE_TEST_DEVICE=cuda:0 FUNASR_CANDLE_TEST_DTYPE="$dtype" \
      "${cuda[@]}" "$tests" "${one[@]}"
  done
done
row 'kernels beside a copy' cargo bench --features cuda --bench gpu
if [ -n "${PYTHON:-}" ]; then
  row 'speed beside PyTorch' "$PYTHON" benches/gpu/compare.py --out "$logs/speed.md"
else
  rows+=('| speed beside PyTorch | not run: PYTHON names no python with torch and funasr | | |')
fi

printf '\n%s, %s\n\n| check | result | time | log |\n| --- | --- | --- | --- |\n' "$(date -u +%F)" "$card"
printf '%s\n' "${rows[@]}"
grep -h '^gpu |' "$logs"/*.log | sort -u
grep -h '^|' "$logs/kernels-beside-a-copy.log"
[ -e "$logs/speed.md" ] && cat "$logs/speed.md"
exit "$failed"
