#!/usr/bin/env bash
# Kills the gateway under a crowd of payers, on chains whose nodes misbehave, for as long as you like, and asks after each
# round whether chain, books, origin and clients tell one story. Prints a line now and then, ends with a summary; fails at the
# first violation, keeps what was written down, and prints the command that runs that round again.
#
#   tests/soak.sh [--seconds N] [--seed S] [--chains evm,cosmos,solana] [--epochs N] [--dir DIR]
#   tests/soak.sh --rounds N    one payment presented by 1,000 clients at once, N times
#
# Wants what tests/run.sh sets up: run that first. All choices come from the seed, how they fall together from the clock.
set -euo pipefail
cd "$(dirname "$0")/.."

export RIG_SECONDS=3600 RIG_SEED="" RIG_CHAINS="" RIG_EPOCHS="" RIG_DIR="" RIG_ROUNDS=""

while (($# > 0)); do
  case $1 in
    --seconds) RIG_SECONDS=$2 ;;
    --seed) RIG_SEED=$2 ;;
    --chains) RIG_CHAINS=$2 ;;
    --epochs) RIG_EPOCHS=$2 ;;
    --dir) RIG_DIR=$2 ;;
    --rounds) RIG_ROUNDS=$2 ;;
    *)
      sed -n '2,10s/^# \{0,1\}//p' "$0" >&2
      exit 64
      ;;
  esac
  (($# > 1)) || {
    echo "error: $1 wants a value" >&2
    exit 64
  }
  shift 2
done

FEATURES=(--features failpoints,dev-solana)
SOLANA_NODE=tests/solana-node

if [[ -z $RIG_CHAINS || $RIG_CHAINS == *solana* ]]; then
  cargo build --quiet --locked --manifest-path "$SOLANA_NODE/Cargo.toml" --target-dir "$SOLANA_NODE/target"
fi
if [[ ! -d tests/node-tools/node_modules ]]; then
  npm ci --prefix tests/node-tools --ignore-scripts --loglevel=error
fi
cargo test --quiet "${FEATURES[@]}" --test rig --no-run
test=soak::soak
if [[ -n $RIG_ROUNDS ]]; then
  # A thousand connections, each open at both its ends, and those to the origin and the nodes.
  ulimit -n 8192 2>/dev/null || true
  test=race::one_payment_of_a_thousand_clients
fi
# An empty seed is none.
[[ -n $RIG_SEED ]] || unset RIG_SEED
exec cargo test --quiet "${FEATURES[@]}" --test rig -- --ignored --exact --nocapture "$test"
