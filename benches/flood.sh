#!/usr/bin/env bash
# What unpaid requests cost besides CPU: 402s for a while, and whether memory grows, a node is called or the ledger is
# written on their account. The same time without a request is measured first, since a gateway looks at its chain and at
# its gas payer now and then anyhow. Fails if memory grew by more than 10 % after the first quarter, if the ledger was
# written, or if a node was called more often than without requests (by more than one call of each kind).
#
#   benches/flood.sh [SECONDS=60] [CONNECTIONS=64]
#
# Wants wrk. Everything listens on loopback and is stopped by pid.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${1:-60} connections=${2:-64}
for tool in wrk curl python3; do command -v "$tool" >/dev/null || { echo "missing: $tool" >&2; exit 1; }; done
anvil=tests/node-tools/node_modules/@foundry-rs/anvil-linux-amd64/bin/anvil
[ -x "$anvil" ] || npm ci --prefix tests/node-tools --ignore-scripts --loglevel=error

[ -n "${NO_BUILD:-}" ] || cargo build --release --bin tollhouse
target=$(cargo metadata --format-version 1 --no-deps | python3 -c 'import json,sys; print(json.load(sys.stdin)["target_directory"])')/release
work=$(mktemp -d)
pids=()
# shellcheck disable=SC2329  # called by the trap
cleanup() {
  for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
  wait 2>/dev/null || true
  rm -rf "$work"
}
trap cleanup EXIT

free_port() {
  python3 -c 'import random,socket
while True:
    port = random.randrange(10000, 32000)
    try:
        with socket.socket() as s: s.bind(("127.0.0.1", port))
    except OSError: continue
    print(port); break'
}
node=$(free_port) toll=$(free_port) admin=$(free_port)
cat >"$work/gateway.toml" <<CONF
[server]
listen = "127.0.0.1:$toll"
[admin]
listen = "127.0.0.1:$admin"
[log]
level = "warn"
[upstreams.api]
servers = ["127.0.0.1:$(free_port)"]
[networks.base-sepolia]
rpc_url = "http://127.0.0.1:$node"
signer = { env = "BENCH_SIGNER" }
pay_to = "0x209693Bc6afc0C5328bA36FaF03C514EF312287C"
[routes]
"GET /paid" = "\$0.01"
CONF
"$anvil" --chain-id 84532 --host 127.0.0.1 --port "$node" --silent --block-time 1 --mixed-mining & pids+=($!)
python3 - "$node" <<'PY'
import json, sys, time, urllib.request
url = f"http://127.0.0.1:{sys.argv[1]}"
def call(method, *params):
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode()
    return json.load(urllib.request.urlopen(urllib.request.Request(url, body, {"content-type": "application/json"})))
for _ in range(100):
    try: call("eth_chainId"); break
    except OSError: time.sleep(0.05)
code = json.load(open("tests/contracts/artifacts/TestUSDC.json"))["deployedBytecode"]
call("anvil_setCode", "0x036CbD53842c5426634e7929541eC2318f3dCF7e", code)
PY
# Account 0 of anvil's published development mnemonic.
BENCH_SIGNER=0xac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80 \
  "$target/tollhouse" run --config "$work/gateway.toml" & pids+=($!); gateway=$!
status() { curl -s -o /dev/null -w '%{http_code}' "http://127.0.0.1:$toll/paid" || true; }
for _ in $(seq 100); do [ "$(status)" = 402 ] && break; sleep 0.1; done
[ "$(status)" = 402 ] || { echo "no 402 from the gateway" >&2; exit 1; }

rss() { awk '/^VmRSS/ {print $2}' "/proc/$gateway/status"; }
# Calls to the node and operations on the ledger so far, one metric a line, and the ledger's files as they are.
counts() {
  curl -s "http://127.0.0.1:$admin/metrics" | grep -E '^tollhouse_(rpc_calls_total|ledger_seconds_count)' | sort || true
  for file in "$work"/tollhouse.db*; do echo "bytes{${file##*/}} $(sha256sum <"$file" | cut -c1-15 | sed 's/^/0x/')"; done
}
sleep 3
echo "idle memory: $(rss) KiB"
counts >"$work/0"
sleep "$seconds"
counts >"$work/1"
echo "402s for $seconds s over $connections connections; memory in KiB every few seconds:"
wrk -t1 -c"$connections" -d"${seconds}s" --latency "http://127.0.0.1:$toll/paid" >"$work/wrk" & wrk_pid=$!
while kill -0 "$wrk_pid" 2>/dev/null; do
  sleep "$(python3 -c "print($seconds / 20)")"
  rss | tee -a "$work/rss" | tr '\n' ' '
done
wait "$wrk_pid"
echo
counts >"$work/2"
grep -E 'requests in|Requests/sec|99%|Socket errors' "$work/wrk"
[ "$(status)" = 402 ] || { echo "no 402 at the end" >&2; exit 1; }
python3 - "$work" <<'PY'
import sys
work = sys.argv[1]
def read(name):
    return {key: int(value, 0) for key, value in (line.rsplit(" ", 1) for line in open(f"{work}/{name}"))}
start, idle, flood = (read(str(number)) for number in range(3))
bad = []
for key in sorted(flood):
    quiet, busy = idle.get(key, 0) - start.get(key, 0), flood[key] - idle.get(key, 0)
    if key.startswith("bytes"):
        print(f"{key}: {'unchanged' if busy == 0 else 'CHANGED'} by the 402s")
        if busy: bad.append(key)
    elif quiet or busy:
        print(f"{key}: {quiet} without requests, {busy} with 402s")
        if key.startswith("tollhouse_rpc") and busy > quiet + 1: bad.append(key)
samples = [int(line) for line in open(f"{work}/rss")]
first, rest = samples[: len(samples) // 4], samples[len(samples) // 4 :]
print(f"memory: {max(first)} KiB at most in the first quarter, {max(rest)} after it")
if max(rest) > max(first) * 1.1: bad.append("memory")
if bad:
    sys.exit(f"not as promised: {', '.join(bad)}")
PY
