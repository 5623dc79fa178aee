#!/usr/bin/env bash
# A round on a machine with a card, nvcc and CMake, but neither Node nor a network. Steps:
#
#   pack         (on the machine with Node) lays what must travel into out/gpu: Node, packages of the tests, the addon
#   build-test   builds the CUDA library for the card that is there; op tests, networks and golden cases on it
#   sanitize     [TOOL...] [FAMILY...]: the op tests (of some families: linear, attention, ...) under compute-sanitizer:
#                memcheck, racecheck, initcheck
#   bench        [LEVEL...] [--short]: benchmarks of the card (all levels; --short: tiny sizes, a rehearsal)
#   peers        [LEVEL...] [--short]: the same in PyTorch, and the table of both
#
# Results go to $OUT, by default out/gpu/results: logs, and the benchmarks' lines as benchmarks/results/ keeps them; levels
# that were measured by an earlier call stay. A step takes $LIMIT seconds at most (540) and says what it did not come to.
# Every step prints a short table last and fails when something failed. Where NODE_INFINITY_CUDA_LIBRARY names a library,
# that one is measured and none is built: the emulated one rehearses a round on a machine without a card.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1
pack=out/gpu
kept=$pack/results # outlives a step, where $OUT may not
results=${OUT:-$kept}
modules=$pack/node_modules.tar.xz
library=build/cuda/node_infinity_cuda.so
limit=${LIMIT:-540}
all_levels='kernels ways block pictures train'
# Not needed by the tests here, and large.
left_out='typescript @types @biomejs @img sharp cmake-js node-gyp tar undici c8 @bcoe'

mebibytes() { awk '{ sum += $1 } END { printf "%.1f MiB", sum / 1048576 }'; }

pack() {
  npm run --silent build || exit 1
  mkdir -p "$pack"
  strip -o "$pack/node" "$(node -p process.execPath)" || cp "$(node -p process.execPath)" "$pack/node" || exit 1
  xz -T0 --x86 --lzma2=preset=6 -c "$pack/node" >"$pack/node.xz" && rm "$pack/node"
  local excludes=()
  for name in $left_out; do excludes+=("--exclude=node_modules/$name"); done
  tar --dereference "${excludes[@]}" -cf - node_modules | xz -6 -T0 >"$modules"
  cp build/Release/node_infinity.node "$pack/"
  git describe --always --dirty --exclude='*' >"$pack/revision"
  local packed=("$pack/node.xz" "$modules" "$pack/node_infinity.node")
  stat -c '%s %n' "${packed[@]}"
  echo "packed $(stat -c %s "${packed[@]}" | mebibytes), checkout $(git ls-files -z | xargs -0 stat -c %s | mebibytes)," \
    "together $({ stat -c %s "${packed[@]}"; git ls-files -z | xargs -0 stat -c %s; } | mebibytes)"
}

# Puts the packed files where the tests look for them; harmless when repeated.
unpack() {
  mkdir -p "$results" "$kept" "$pack/bin" build/Release
  [ -x "$pack/bin/node" ] || { xz -dc "$pack/node.xz" >"$pack/bin/node" && chmod +x "$pack/bin/node"; } || exit 1
  [ -d node_modules ] || tar -xJf "$modules" || exit 1
  cp "$pack/node_infinity.node" build/Release/
  PATH=$PWD/$pack/bin:$PATH:/usr/local/cuda/bin
}

# Seconds that this step has left; at least one.
left() { echo $((limit - SECONDS > 1 ? limit - SECONDS : 1)); }

row() { printf '%-12s %s\n' "$@"; }

build() {
  local started=$SECONDS
  # The addon travels; its headers are not looked for.
  { cmake -S . -B build/cuda -DCMAKE_BUILD_TYPE=Release -DNODE_INFINITY_CUDA=AUTO -DCMAKE_JS_INC=none &&
    cmake --build build/cuda --target node_infinity_cuda --parallel; } >"$results/build.log" 2>&1 ||
    { tail -40 "$results/build.log"; echo 'build FAILED'; exit 1; }
  [ -f "$library" ] || { tail -5 "$results/build.log"; echo 'no card was found to build for'; exit 1; }
  row build "$((SECONDS - started)) s, $(stat -c %s "$library") bytes"
}

# The library that was named, or the one that an earlier step built, or a new one.
library() {
  [ -n "${NODE_INFINITY_CUDA_LIBRARY:-}" ] && return
  [ "${1:-}" != anew ] && [ -f "$library" ] || build
  export NODE_INFINITY_CUDA_LIBRARY=$PWD/$library
  cublaslt
}

# Where the loader knows no cuBLASLt, the one that PyTorch brought.
cublaslt() {
  [ -n "${NODE_INFINITY_CUBLASLT:-}" ] || ldconfig -p 2>/dev/null | grep -q libcublasLt.so && return
  local packages found
  packages=$("${PYTHON:-python3}" -c 'import importlib.util as u, os; print(os.path.dirname(os.path.dirname(u.find_spec("torch").origin)))' 2>/dev/null) || return
  found=$(find "$packages/nvidia" "$packages/torch/lib" -name 'libcublasLt.so.*' 2>/dev/null | sort -V | tail -1)
  [ -n "$found" ] && export NODE_INFINITY_CUBLASLT=$found && row cuBLASLt "$found"
}

typescript() { "$PWD/$pack/bin/node" node_modules/tsx/dist/cli.mjs "$@"; }

# run_tests NAME SECONDS PREFIX... -- ARGUMENTS: mocha, and a row of the table; the log is NAME.log.
run_tests() {
  local name=$1 seconds=$2 prefix=() started=$SECONDS status
  shift 2
  while [ "$1" != -- ]; do prefix+=("$1") && shift; done
  shift
  timeout "$seconds" "${prefix[@]}" "$PWD/$pack/bin/node" node_modules/mocha/bin/mocha.js --no-color --timeout 300000 "$@" \
    >"$results/$name.log" 2>&1
  status=$?
  sed -n '/^ *[0-9]* failing/,$p' "$results/$name.log" | head -60
  local note=$(grep -E '^ +[0-9]+ (passing|failing|pending)' "$results/$name.log" | sed 's/ (.*//' | xargs)
  [ $status -eq 124 ] && note="ran past $seconds s; name less"
  [ -n "$note" ] || note="ended without a count: $(tail -1 "$results/$name.log")"
  row "$name" "$((SECONDS - started)) s, $note $(grep -o 'ERROR SUMMARY.*' "$results/$name.log" | tail -1)"
  return $status
}

build_test() {
  unpack
  nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader 2>/dev/null | tee "$results/card.txt"
  library anew
  local failed=0 started
  # Tensors of the op tests lie between guard zones, which are looked at after every test.
  run_tests ops "$(left)" -- --grep 'on cuda' test/ops || failed=1
  run_tests networks "$(left)" -- test/core/{card_memory,product_routes,program}.test.ts test/tokenizer/measured.test.ts \
    test/transformer/{bf16,block_commands,folded_norms,recordings}.test.ts test/pipeline/card.test.ts test/training/card.test.ts test/benchmarks/card.test.ts || failed=1
  started=$SECONDS
  NODE_INFINITY_DEBUG=guard timeout "$(left)" "$PWD/$pack/bin/node" node_modules/tsx/dist/cli.mjs test/conformance/run.ts \
    --dir test/fixtures/goldens --device cuda >"$results/conformance.log" 2>&1 || failed=1
  grep '^FAIL' "$results/conformance.log" | head -20
  row conformance "$((SECONDS - started)) s, $(tail -1 "$results/conformance.log")"
  exit $failed
}

sanitize() {
  local tools=() files=() failed=0 word
  for word in "$@"; do
    case $word in
      memcheck | racecheck | initcheck) tools+=("$word") ;;
      *) files+=(test/ops/"$word"*.test.ts) ;;
    esac
  done
  [ ${#tools[@]} -gt 0 ] || tools=(memcheck racecheck initcheck)
  [ ${#files[@]} -gt 0 ] || files=(test/ops)
  unpack
  library
  local i
  for i in "${!tools[@]}"; do
    run_tests "${tools[i]}" $(($(left) / (${#tools[@]} - i))) \
      compute-sanitizer --tool "${tools[i]}" --error-exitcode 9 --target-processes all -- \
      --grep 'on cuda' "${files[@]}" || failed=1
  done
  exit $failed
}

# The name of the card, as files are named: nvidia-h200.
machine_class() {
  local name=host-emulation
  case "$NODE_INFINITY_CUDA_LIBRARY" in
    *emulated*) ;;
    *) name=$(nvidia-smi --query-gpu=name --format=csv,noheader | head -1) ;;
  esac
  tr '[:upper:] ' '[:lower:]-' <<<"$name"
}

# gather NAME: the lines of all levels that were measured so far, in their order.
gather() {
  local level
  for level in $all_levels; do cat "$kept/levels/$1.$level" 2>/dev/null; done >"$kept/$1.jsonl"
  # A copy of the checkout without its history cannot name itself.
  sed -i "s/\"revision\":\"none\"/\"revision\":\"$(cat "$pack/revision")\"/" "$kept/$1.jsonl"
  [ "$kept" = "$results" ] || cp "$kept/$1.jsonl" "$results/"
}

# compare NAME LEVEL...: the whole table goes to NAME.txt, that of the levels is printed.
compare() {
  local files=("$kept/$1.jsonl") name=$1
  shift
  [ -s "${files[0]}" ] || return 0
  [ -s "$kept/$name-peers.jsonl" ] && files+=("$kept/$name-peers.jsonl")
  typescript benchmarks/card/table.ts "${files[@]}" >"$results/$name.txt"
  typescript benchmarks/card/table.ts "${files[@]}" "$@"
}

# measure NAME LEVEL COMMAND...: a level's lines in place of those of an earlier call.
measure() {
  local name=$1 level=$2 status
  shift 2
  timeout "$(left)" "$@" >"$kept/levels/$name.$level" 2>"$results/$name.$level.log" && { rm "$results/$name.$level.log"; return; }
  status=$?
  [ $status -eq 124 ] && echo "$level: no time was left; call this step with it alone" || echo "$level FAILED:"
  tail -5 "$results/$name.$level.log"
  return 1
}

# Splits the arguments of bench and peers into levels and options.
read_arguments() {
  levels=() options=()
  local word
  for word in "$@"; do
    case $word in
      -*) options+=("$word") ;;
      *) levels+=("$word") ;;
    esac
  done
  [ ${#levels[@]} -gt 0 ] || read -ra levels <<<"$all_levels"
}

bench() {
  read_arguments "$@"
  unpack
  library
  mkdir -p "$kept/levels"
  local class level failed=0
  class=$(machine_class)
  for level in "${levels[@]}"; do
    measure "$class" "$level" "$PWD/$pack/bin/node" node_modules/tsx/dist/cli.mjs benchmarks/run.ts --device cuda --json \
      --filter "$level" "${options[@]}" || failed=1
  done
  gather "$class"
  compare "$class" "${levels[@]}"
  exit $failed
}

peers() {
  read_arguments "$@"
  unpack
  library
  mkdir -p "$kept/levels"
  local class level failed=0
  class=$(machine_class)
  case "$class" in host-emulation) options+=(--device cpu) ;; esac
  for level in "${levels[@]}"; do
    [ "$level" = ways ] && continue
    measure "$class-peers" "$level" "${PYTHON:-python3}" -B benchmarks/peers/run.py "$level" "${options[@]}" || failed=1
  done
  gather "$class-peers"
  compare "$class" "${levels[@]}"
  exit $failed
}

case "${1:-}" in
  pack) pack ;;
  build-test) build_test ;;
  sanitize | bench | peers) "$@" ;;
  *)
    sed -n '2,18s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
    exit 2
    ;;
esac
