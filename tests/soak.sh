#!/usr/bin/env bash
# Kills the gateway under a crowd of payers, on chains whose nodes misbehave, for as long as you like, and asks after each
# round whether chain, books, origin and clients tell one story. Prints a line now and then, ends with a summary; fails at the
# first violation, keeps what was written down, and prints the command that runs that round again.
#
#   tests/soak.sh [--seconds N] [--seed S] [--chains evm,cosmos,solana] [--epochs N] [--dir DIR]
#
# Wants what tests/run.sh sets up: run that first. All choices come from the seed, how they fall together from the clock.
set -euo pipefail
cd "$(dirname "$0")/.."

export RIG_SECONDS=3600 RIG_SEED="" RIG_CHAINS="" RIG_EPOCHS="" RIG_DIR=""

while (($# > 0)); do
  case $1 in
    --seconds) RIG_SECONDS=$2 ;;
    --seed) RIG_SEED=$2 ;;
    --chains) RIG_CHAINS=$2 ;;
    --epochs) RIG_EPOCHS=$2 ;;
    --dir) RIG_DIR=$2 ;;
    *)
      sed -n '2,9s/^# \{0,1\}//p' "$0" >&2
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
exec cargo test --quiet "${FEATURES[@]}" --test rig -- --ignored --exact --nocapture soak::soak
