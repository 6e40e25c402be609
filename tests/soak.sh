#!/usr/bin/env bash
# The proof at full length: what tests/run.sh does for minutes, for as long as you like. Prints figures, and fails at the first
# violation. All choices come from the seed; how they fall together, and in which order, from the clock.
#
#   tests/soak.sh [--only PART,…] [--seed S] [--seconds N] [options of the parts]
#
#   recovery  --payments N (10000): so many payments left half-way; the next run decides the first within 5 s
#   rounds    --rounds N (200): one payment presented by 1,000 clients at 3 gateways on PostgreSQL, N times
#   kills     --seconds N (3600): kills gateways under a crowd of payers, on chains whose nodes misbehave, and asks after each
#             epoch whether chain, books, origin and clients tell one story. --chains evm,cosmos,solana; --epochs N at most;
#             --gateways N share a PostgreSQL (0: one, and a file; else as the seed says); --dir DIR keeps what was written
#   model     --transitions N (10000000): random steps of the books beside their reference model; --jobs N (2) at once
#   fuzz      --seconds N (1800) for each parser, --jobs N (2) at once
#
# By itself it runs all parts, in this order. Wants what tests/run.sh sets up: run that first.
set -euo pipefail
cd "$(dirname "$0")/.."

parts=recovery,rounds,kills,model,fuzz
seed='' seconds='' payments=10000 rounds=200 transitions=10000000 jobs=2
export RIG_CHAINS='' RIG_EPOCHS='' RIG_DIR='' RIG_GATEWAYS=''

usage() {
  sed -n '2,17s/^# \{0,1\}//p' "$0" >&2
  exit 64
}

while (($# > 0)); do
  [[ $1 == --* ]] || usage
  (($# > 1)) || {
    echo "error: $1 wants a value" >&2
    exit 64
  }
  case $1 in
    --only) parts=$2 ;;
    --seed) seed=$2 ;;
    --seconds) seconds=$2 ;;
    --payments) payments=$2 ;;
    --rounds) rounds=$2 ;;
    --transitions) transitions=$2 ;;
    --jobs) jobs=$2 ;;
    --chains) RIG_CHAINS=$2 ;;
    --epochs) RIG_EPOCHS=$2 ;;
    --gateways) RIG_GATEWAYS=$2 ;;
    --dir) RIG_DIR=$2 ;;
    *) usage ;;
  esac
  shift 2
done
for part in ${parts//,/ }; do
  [[ $part =~ ^(recovery|rounds|kills|model|fuzz)$ ]] || {
    echo "error: no part is called $part: there are recovery, rounds, kills, model and fuzz" >&2
    exit 64
  }
done
[[ -n $seed ]] || seed=$((RANDOM * 32768 + RANDOM))
[[ -n $RIG_GATEWAYS ]] || unset RIG_GATEWAYS

FEATURES=(--features failpoints,dev-solana)
SOLANA_NODE=tests/solana-node

# --- the parts ---

# rig NAME: one of the rig's long tests.
rig() {
  cargo test --quiet "${FEATURES[@]}" --test rig -- --ignored --exact --nocapture "$1"
}

part_recovery() {
  RIG_PAYMENTS=$payments rig recovery::thousands_of_unfinished_payments
}

part_rounds() {
  RIG_SEED=$seed RIG_ROUNDS=$rounds rig race::one_payment_of_a_thousand_clients
}

part_kills() {
  RIG_SEED=$seed RIG_SECONDS=${seconds:-3600} rig soak::soak
}

part_model() {
  local job pids=() failed=0
  for ((job = 0; job < jobs; job++)); do
    MODEL_TRANSITIONS=$(((transitions + jobs - 1) / jobs)) PROPTEST_RNG_SEED=$((seed + job)) \
      cargo test --quiet --release "${FEATURES[@]}" --lib -- --exact --nocapture "$MODEL" &
    pids+=($!)
  done
  for job in "${pids[@]}"; do
    wait "$job" || failed=1
  done
  return "$failed"
}

part_fuzz() {
  # The same start for all would be no more than for one: each parser has inputs of its own.
  FUZZ_SEED=$seed FUZZ_SECONDS=${seconds:-1800} cargo nextest run "${FEATURES[@]}" --test fuzz -j "$jobs" \
    --no-fail-fast --status-level fail --final-status-level pass --success-output final |
    grep --line-buffered -E 'PASS|FAIL|seed|it panicked|bytes for|Summary|FUZZ_SEED'
}

MODEL=ledger::sqlite::tests::model::any_history_leaves_the_books_as_the_reference_says

# --- setup ---

wants() {
  [[ ,$parts, == *,$1,* ]]
}

if wants rounds || { wants kills && [[ -z $RIG_CHAINS || $RIG_CHAINS == *solana* ]]; }; then
  cargo build --quiet --locked --manifest-path "$SOLANA_NODE/Cargo.toml" --target-dir "$SOLANA_NODE/target"
fi
if [[ ! -d tests/node-tools/node_modules ]]; then
  npm ci --prefix tests/node-tools --ignore-scripts --loglevel=error
fi
# Only what is wanted: each takes minutes to build.
targets=()
if wants recovery || wants rounds || wants kills; then targets+=(--test rig); fi
if wants fuzz; then targets+=(--test fuzz); fi
if ((${#targets[@]} > 0)); then cargo test --quiet "${FEATURES[@]}" "${targets[@]}" --no-run; fi
# Optimised, since it is millions of steps.
if wants model; then cargo test --quiet --release "${FEATURES[@]}" --lib --no-run; fi
# A thousand connections, each open at both its ends, and those to the origin and the nodes.
ulimit -n 16384 2>/dev/null || ulimit -n "$(ulimit -Hn)"

summary=()
for part in ${parts//,/ }; do
  echo
  echo "== $part, seed $seed"
  started=$SECONDS
  if ! "part_$part"; then
    echo "== $part FAILED after $((SECONDS - started)) s; the same again: tests/soak.sh --only $part --seed $seed"
    exit 1
  fi
  summary+=("$part: in order, $((SECONDS - started)) s")
  echo "== ${summary[-1]}"
done
echo
echo "seed $seed, violations 0"
printf '  %s\n' "${summary[@]}"
