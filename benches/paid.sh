#!/usr/bin/env bash
# Paid requests per second on anvil, with instant and with 1 s blocks, and on a Solana node with 400 ms blocks, at
# concurrency 1, 32 and 64; calls to the node per payment; latency by stage. PAID_MANY and PAID_FEW set how many
# payments, PAID_ONLY="Instant64 Solana32" which settings.
#
#   benches/paid.sh
set -euo pipefail
cd "$(dirname "$0")/.."
[ -x tests/node-tools/node_modules/@foundry-rs/anvil-linux-amd64/bin/anvil ] ||
  npm ci --prefix tests/node-tools --ignore-scripts --loglevel=error
cargo build --quiet --locked --manifest-path tests/solana-node/Cargo.toml --target-dir tests/solana-node/target
exec cargo bench --bench paid
