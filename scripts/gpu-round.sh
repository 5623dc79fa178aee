#!/usr/bin/env bash
# A round on a machine with a card, nvcc and CMake, but neither Node nor a network. Steps:
#
#   pack         (on the machine with Node) lays what must travel into out/gpu: Node, packages of the tests, the addon
#   build-test   builds the CUDA library for the card that is there and runs the op tests on it
#   sanitize     the same tests under compute-sanitizer: memcheck, racecheck, initcheck
#   bench        [LEVEL...] [--short]: benchmarks of the card (all levels; --short: tiny sizes, a rehearsal)
#   peers        [LEVEL...] [--short]: the same in PyTorch, and the table of both
#
# Results go to $OUT, by default out/gpu/results: logs, and the benchmarks' lines as benchmarks/results/ keeps them.
# Every step prints a short table last and fails when something failed. Where NODE_INFINITY_CUDA_LIBRARY names a library,
# that one is measured and none is built: the emulated one rehearses a round on a machine without a card.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1
pack=out/gpu
kept=$pack/results # outlives a step, where $OUT may not
results=${OUT:-$kept}
modules=$pack/node_modules.tar.xz
library=build/cuda/node_infinity_cuda.so
# Not needed by the op tests, and large.
left_out='typescript @biomejs @img sharp cmake-js node-gyp c8 @bcoe'

pack() {
  npm run --silent build || exit 1
  mkdir -p "$pack"
  xz -6 -T0 -c "$(node -p process.execPath)" >"$pack/node.xz"
  local excludes=()
  for name in $left_out; do excludes+=("--exclude=node_modules/$name"); done
  tar --dereference "${excludes[@]}" -cf - node_modules | xz -6 -T0 >"$modules"
  cp build/Release/node_infinity.node "$pack/"
  git describe --always --dirty --exclude='*' >"$pack/revision"
  du -ch "$pack"/node.xz "$modules" "$pack"/node_infinity.node
}

# Puts the packed files where the tests look for them; harmless when repeated.
unpack() {
  mkdir -p "$results" "$kept" "$pack/bin" build/Release
  [ -x "$pack/bin/node" ] || { xz -dc "$pack/node.xz" >"$pack/bin/node" && chmod +x "$pack/bin/node"; } || exit 1
  [ -d node_modules ] || tar -xJf "$modules" || exit 1
  cp "$pack/node_infinity.node" build/Release/
  PATH=$PWD/$pack/bin:$PATH
}

build() {
  local started=$SECONDS
  # The addon travels; its headers are not looked for.
  { cmake -S . -B build/cuda -DCMAKE_BUILD_TYPE=Release -DNODE_INFINITY_CUDA=AUTO -DCMAKE_JS_INC=none &&
    cmake --build build/cuda --target node_infinity_cuda --parallel; } >"$results/build.log" 2>&1 ||
    { tail -40 "$results/build.log"; echo 'build FAILED'; exit 1; }
  [ -f "$library" ] || { tail -5 "$results/build.log"; echo 'no card was found to build for'; exit 1; }
  echo "build: $((SECONDS - started)) s, $(stat -c %s "$library") bytes"
}

# op_tests LOG PREFIX...: the op tests on the card alone.
op_tests() {
  local log=$1
  shift
  NODE_INFINITY_CUDA_LIBRARY=$PWD/$library "$@" "$PWD/$pack/bin/node" node_modules/mocha/bin/mocha.js \
    --no-color --timeout 300000 --grep 'on cuda' test/ops >"$results/$log" 2>&1
}

build_test() {
  unpack
  nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader | tee "$results/card.txt"
  build
  op_tests tests.log
  local status=$?
  sed -n '/passing/,$p' "$results/tests.log" | head -60
  exit $status
}

sanitize() {
  unpack
  [ -f "$library" ] || build
  local failed=0
  for tool in memcheck racecheck initcheck; do
    op_tests "$tool.log" compute-sanitizer --tool "$tool" --error-exitcode 9 --target-processes all || failed=1
    printf '%-10s %s; %s\n' "$tool" "$(grep -E '^ +[0-9]+ (passing|failing)' "$results/$tool.log" | xargs)" \
      "$(grep 'SUMMARY' "$results/$tool.log" | tail -1)"
  done
  exit $failed
}

# Uses the library that was named, or the one that was built, or builds it.
library() {
  [ -n "${NODE_INFINITY_CUDA_LIBRARY:-}" ] && return
  [ -f "$library" ] || build
  export NODE_INFINITY_CUDA_LIBRARY=$PWD/$library
}

typescript() { "$PWD/$pack/bin/node" node_modules/tsx/dist/cli.mjs "$@"; }

# The name of the card, as files are named: nvidia-h200.
machine_class() {
  local name=host-emulation
  case "$NODE_INFINITY_CUDA_LIBRARY" in
    *emulated*) ;;
    *) name=$(nvidia-smi --query-gpu=name --format=csv,noheader | head -1) ;;
  esac
  tr '[:upper:] ' '[:lower:]-' <<<"$name"
}

compare() {
  local ours=$kept/$1.jsonl peers=$kept/$1-peers.jsonl
  [ -f "$ours" ] || return 0
  [ -f "$peers" ] || peers=
  typescript benchmarks/card/table.ts "$ours" $peers | tee "$results/$1.txt"
}

# Splits the arguments of bench and peers into levels and options.
read_arguments() {
  levels=() options=()
  for word in "$@"; do
    case $word in
      -*) options+=("$word") ;;
      *) levels+=("$word") ;;
    esac
  done
}

bench() {
  read_arguments "$@"
  [ ${#levels[@]} -gt 0 ] || levels=(kernels block pictures train)
  unpack
  library
  local class failed=0
  class=$(machine_class)
  : >"$kept/$class.jsonl"
  for level in "${levels[@]}"; do
    timeout 240 "$PWD/$pack/bin/node" node_modules/tsx/dist/cli.mjs benchmarks/run.ts --device cuda --json \
      --filter "$level" "${options[@]}" >>"$kept/$class.jsonl" 2>"$results/$level.log" ||
      { failed=1; echo "$level FAILED:"; tail -5 "$results/$level.log"; }
    [ -s "$results/$level.log" ] || rm -f "$results/$level.log"
  done
  # A copy of the checkout without its history cannot name itself.
  sed -i "s/\"revision\":\"none\"/\"revision\":\"$(cat "$pack/revision")\"/" "$kept/$class.jsonl"
  [ "$kept" = "$results" ] || cp "$kept/$class.jsonl" "$results/"
  compare "$class"
  exit $failed
}

peers() {
  read_arguments "$@"
  unpack
  library
  local class failed=0
  class=$(machine_class)
  case "$class" in host-emulation) options+=(--device cpu) ;; esac
  timeout 570 "${PYTHON:-python3}" -B benchmarks/peers/run.py "${levels[@]}" "${options[@]}" \
    --out "$kept/$class-peers.jsonl" >"$results/peers.log" 2>&1 ||
    { failed=1; echo 'peers FAILED:'; tail -5 "$results/peers.log"; }
  [ -s "$results/peers.log" ] || rm -f "$results/peers.log"
  [ "$kept" = "$results" ] || cp "$kept/$class-peers.jsonl" "$results/"
  compare "$class"
  exit $failed
}

case "${1:-}" in
  pack) pack ;;
  build-test) build_test ;;
  sanitize) sanitize ;;
  bench | peers) "$@" ;;
  *)
    sed -n '2,14s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
    exit 2
    ;;
esac
