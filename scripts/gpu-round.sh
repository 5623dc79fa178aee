#!/usr/bin/env bash
# A round on a machine with a card, nvcc and CMake, but neither Node nor a network. Steps:
#
#   pack         (on the machine with Node) lays what must travel into out/gpu: Node, the packages that tests need, the addon
#   build-test   builds the CUDA library for the card that is there and runs the op tests on it
#   sanitize     the same tests under compute-sanitizer: memcheck, racecheck, initcheck
#
# Results go to $OUT, by default out/gpu/results; every step prints a short table last and fails when something failed.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1
pack=out/gpu
results=${OUT:-$pack/results}
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
  du -ch "$pack"/node.xz "$modules" "$pack"/node_infinity.node
}

# Puts the packed files where the tests look for them; harmless when repeated.
unpack() {
  mkdir -p "$results" "$pack/bin" build/Release
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

case "${1:-}" in
  pack) pack ;;
  build-test) build_test ;;
  sanitize) sanitize ;;
  *)
    sed -n '2,8s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
    exit 2
    ;;
esac
