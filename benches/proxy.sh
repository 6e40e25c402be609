#!/usr/bin/env bash
# What Tollhouse costs as a proxy, side by side with what else could stand there, in one run on one machine:
#   free    a free route through Tollhouse          402     a priced route through Tollhouse, unpaid
#   bare    the same origin through bare pingora    nginx   the same origin through nginx
#   timed   bare pingora with the timeouts that nginx and Tollhouse have, too
#   alike   the same with Tollhouse's allocator     direct  the origin itself
# Rounds are interleaved, since a machine's speed drifts. Prints requests per second, CPU per request of the proxy process
# (which is steadier), and the ratios of each round with their spread.
#
#   benches/proxy.sh [ROUNDS=7] [SECONDS=4] [CONNECTIONS=32]
#
# On a machine that others disturb, many short rounds of a few: PROXY_ONLY="bare timed free" benches/proxy.sh 40 1.
# Built as docs/deploy.md builds the gateway, or with PROFILE=release.
#
# Wants wrk and nginx (Debian: apt-get install wrk nginx-light). Everything listens on loopback and is stopped by pid.
set -euo pipefail
cd "$(dirname "$0")/.."
rounds=${1:-7} seconds=${2:-4} connections=${3:-32} threads=1 profile=${PROFILE:-lto}
for tool in wrk nginx python3; do command -v "$tool" >/dev/null || { echo "missing: $tool" >&2; exit 1; }; done

[ -n "${NO_BUILD:-}" ] || cargo build --profile "$profile" --bin tollhouse --example bare_pingora --example bare_pingora_mimalloc
target=$(cargo metadata --format-version 1 --no-deps | python3 -c 'import json,sys; print(json.load(sys.stdin)["target_directory"])')/$profile
work=$(mktemp -d)
pids=()
# shellcheck disable=SC2329  # called by the trap
cleanup() {
  for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
  # Bare pingora would wait for five minutes.
  sleep 1
  for pid in "${pids[@]}"; do kill -9 "$pid" 2>/dev/null || true; done
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
origin=$(free_port) nginx=$(free_port) bare=$(free_port) timed=$(free_port) alike=$(free_port) toll=$(free_port) admin=$(free_port)

nginx_conf() { # FILE HTTP-BLOCK
  cat >"$1" <<CONF
daemon off; worker_processes 1; pid $1.pid; error_log $1.err;
events { worker_connections 4096; }
http { access_log off; keepalive_requests 1000000; client_body_temp_path $work/b; proxy_temp_path $work/p; fastcgi_temp_path $work/f; uwsgi_temp_path $work/u; scgi_temp_path $work/s; $2 }
CONF
}
nginx_conf "$work/origin.conf" "server { listen 127.0.0.1:$origin; location / { default_type text/plain; return 200 'hello from origin\n'; } }"
nginx_conf "$work/proxy.conf" "upstream o { server 127.0.0.1:$origin; keepalive 256; } server { listen 127.0.0.1:$nginx; location / { proxy_pass http://o; proxy_http_version 1.1; proxy_set_header Connection ''; } }"
cat >"$work/gateway.toml" <<CONF
[server]
listen = "127.0.0.1:$toll"
threads = $threads
[admin]
listen = "127.0.0.1:$admin"
[log]
level = "warn"
[upstreams.api]
servers = ["127.0.0.1:$origin"]
[networks.base-sepolia]
rpc_url = "http://127.0.0.1:$(free_port)"
signer = { env = "BENCH_SIGNER" }
pay_to = "0x209693Bc6afc0C5328bA36FaF03C514EF312287C"
[routes]
"/free" = "free"
"GET /paid" = "\$0.01"
CONF
# The 402 needs an open network: a node that answers.
anvil=tests/node-tools/node_modules/@foundry-rs/anvil-linux-amd64/bin/anvil
[ -x "$anvil" ] || npm ci --prefix tests/node-tools --ignore-scripts --loglevel=error
node_port=$(free_port)
"$anvil" --chain-id 84532 --host 127.0.0.1 --port "$node_port" --silent --block-time 1 --mixed-mining & pids+=($!)
sed -i "s#^rpc_url = .*#rpc_url = \"http://127.0.0.1:$node_port\"#" "$work/gateway.toml"
python3 - "$node_port" <<'PY'
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

nginx -p "$work" -c "$work/origin.conf" & pids+=($!); origin_pid=$!
nginx -p "$work" -c "$work/proxy.conf" & pids+=($!); nginx_pid=$!
"$target/examples/bare_pingora" "127.0.0.1:$bare" "127.0.0.1:$origin" $threads & pids+=($!); bare_pid=$!
"$target/examples/bare_pingora" "127.0.0.1:$timed" "127.0.0.1:$origin" $threads timeouts & pids+=($!); timed_pid=$!
"$target/examples/bare_pingora_mimalloc" "127.0.0.1:$alike" "127.0.0.1:$origin" $threads timeouts & pids+=($!); alike_pid=$!
# Account 0 of anvil's published development mnemonic.
BENCH_SIGNER=0xac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80 \
  "$target/tollhouse" run --config "$work/gateway.toml" & pids+=($!); toll_pid=$!
for _ in $(seq 100); do
  [ "$(curl -s -o /dev/null -w '%{http_code}' "http://127.0.0.1:$toll/paid")" = 402 ] && break
  sleep 0.1
done
[ "$(curl -s -o /dev/null -w '%{http_code}' "http://127.0.0.1:$toll/paid")" = 402 ] || { echo "no 402 from the gateway" >&2; exit 1; }

# CPU ticks of a process and its children.
ticks() { local sum=0 p; for p in "$1" $(pgrep -P "$1" || true); do sum=$((sum + $(awk '{print $14+$15}' "/proc/$p/stat"))); done; echo "$sum"; }

measure() { # NAME URL PID
  local before after result
  before=$(ticks "$3")
  result=$(wrk -t1 -c"$connections" -d"${seconds}s" --latency "$2")
  after=$(ticks "$3")
  python3 - "$1" "$((after - before))" "$work/results" <<PY
import re, sys
name, ticks, path = sys.argv[1], int(sys.argv[2]), sys.argv[3]
text = """$result"""
rate = float(re.search(r"Requests/sec:\s+([\d.]+)", text).group(1))
total = int(re.search(r"(\d+) requests in", text).group(1))
p50, p99 = (re.search(rf"{q}%\s+([\d.]+\w+)", text).group(1) for q in (50, 99))
# wrk counts answers that are not 2xx or 3xx, which every 402 is; only what is said of sockets is an error here.
broken = re.search(r"Socket errors.*", text)
print(f"{name:7} {rate:10.0f}/s  p50 {p50:>8}  p99 {p99:>8}  {ticks * 10_000 / max(total, 1):6.1f} us CPU", broken.group(0) if broken else "")
open(path, "a").write(f"{name} {rate} {ticks * 10_000 / max(total, 1)}\n")
PY
}

for round in $(seq "$rounds"); do
  echo "round $round"
  for name in ${PROXY_ONLY:-direct nginx bare timed alike free 402}; do
    case $name in
      direct) measure direct "http://127.0.0.1:$origin/free" "$origin_pid" ;;
      nginx) measure nginx "http://127.0.0.1:$nginx/free" "$nginx_pid" ;;
      bare) measure bare "http://127.0.0.1:$bare/free" "$bare_pid" ;;
      timed) measure timed "http://127.0.0.1:$timed/free" "$timed_pid" ;;
      alike) measure alike "http://127.0.0.1:$alike/free" "$alike_pid" ;;
      free) measure free "http://127.0.0.1:$toll/free" "$toll_pid" ;;
      402) measure 402 "http://127.0.0.1:$toll/paid" "$toll_pid" ;;
      *) echo "PROXY_ONLY: $name is none of direct nginx bare timed alike free 402" >&2; exit 1 ;;
    esac
  done
done
python3 - "$work/results" <<'PY'
import collections, statistics, sys
rates, cpu = collections.defaultdict(list), collections.defaultdict(list)
for line in open(sys.argv[1]):
    name, rate, us = line.split()
    rates[name].append(float(rate)); cpu[name].append(float(us))
def spread(values):
    # Of many rounds the middle half.
    low, high = (statistics.quantiles(values, n=4)[::2] if len(values) >= 20 else (min(values), max(values)))
    return f"{statistics.median(values):.2f} [{low:.2f}-{high:.2f}]"
print("\nmedian [min-max, or the middle half of 20 rounds and more]")
for name in rates:
    print(f"{name:7} {statistics.median(rates[name]):10.0f}/s  {statistics.median(cpu[name]):6.1f} us CPU per request")
for one, other in (("free", "bare"), ("free", "timed"), ("free", "alike"), ("free", "nginx"), ("402", "free"), ("402", "bare")):
    if one not in rates or other not in rates:
        continue
    ratio = [a / b for a, b in zip(rates[one], rates[other])]
    print(f"throughput {one}/{other}: {spread(ratio)}   CPU {one}/{other}: {spread([a / b for a, b in zip(cpu[one], cpu[other])])}")
PY
awk '/VmRSS/ {print "gateway memory after the run: " $2 " KiB"}' "/proc/$toll_pid/status"
