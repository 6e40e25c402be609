#!/usr/bin/env bash
# What honest traffic notices of many slow connections: its p50 and p99 before and while they are held, and the gateway's memory.
#
#   benches/slow.sh [CONNECTIONS=10000] [SECONDS=300] [HONEST=16]
#
# HONEST connections ask as fast as they are answered, a tenth of the time before and all the while. BINARY=path takes a binary
# that is there instead of building one. Wants wrk, nginx and python3 (Debian: apt-get install wrk nginx-light python3), and
# descriptors: three for each two slow connections, to each process. Everything listens on loopback and is stopped by pid.
set -euo pipefail
cd "$(dirname "$0")/.."
connections=${1:-10000} seconds=${2:-300} honest=${3:-16} per_address=50
for tool in wrk nginx python3; do command -v "$tool" >/dev/null || { echo "missing: $tool" >&2; exit 1; }; done
ulimit -n $((connections * 3 / 2 + 4096)) || { echo "too few file descriptors: ulimit -Hn" >&2; exit 1; }

if [ -z "${BINARY:-}" ]; then
  cargo build --release --bin tollhouse
  BINARY=$(cargo metadata --format-version 1 --no-deps | python3 -c 'import json,sys; print(json.load(sys.stdin)["target_directory"])')/release/tollhouse
fi
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
origin=$(free_port) toll=$(free_port) admin=$(free_port)
cat >"$work/origin.conf" <<CONF
daemon off; worker_processes 1; worker_rlimit_nofile $((connections + 2048)); pid $work/origin.pid; error_log $work/origin.err crit;
events { worker_connections $((connections + 1024)); }
http { access_log off; keepalive_requests 1000000; client_max_body_size 10m; client_body_timeout 600s; client_body_temp_path $work/b;
  proxy_temp_path $work/p; fastcgi_temp_path $work/f; uwsgi_temp_path $work/u; scgi_temp_path $work/s;
  server { listen 127.0.0.1:$origin backlog=4096; location / { default_type text/plain; return 200 'hello from origin\n'; } } }
CONF
cat >"$work/gateway.toml" <<CONF
[server]
listen = "127.0.0.1:$toll"
limits = { connections = $((connections + 1000)) }
[admin]
listen = "127.0.0.1:$admin"
[log]
level = "warn"
[upstreams.api]
servers = ["127.0.0.1:$origin"]
[routes]
"/free" = "free"
CONF
nginx -p "$work" -c "$work/origin.conf" & pids+=($!)
"$BINARY" run --config "$work/gateway.toml" & pids+=($!); toll_pid=$!
for _ in $(seq 100); do
  [ "$(curl -s -o /dev/null -w '%{http_code}' "http://127.0.0.1:$toll/free")" = 200 ] && break
  sleep 0.1
done

memory() { awk '/VmRSS/ {print $2}' "/proc/$toll_pid/status"; }

measure() { # NAME SECONDS
  wrk -t1 -c"$honest" -d"${2}s" --latency --timeout 10s "http://127.0.0.1:$toll/free" >"$work/$1.wrk"
  python3 - "$1" "$work" "$(memory)" <<'PY'
import json, re, sys
name, work, memory = sys.argv[1:]
text = open(f"{work}/{name}.wrk").read()
unit = {"us": 0.001, "ms": 1.0, "s": 1000.0}
def millis(q):
    number, word = re.search(rf"{q}%\s+([\d.]+)(us|ms|s)", text).groups()
    return float(number) * unit[word]
rate = float(re.search(r"Requests/sec:\s+([\d.]+)", text).group(1))
broken = re.search(r"Socket errors.*|Non-2xx.*", text)
print(f"{name:7} {rate:9.0f}/s  p50 {millis(50):7.2f} ms  p99 {millis(99):7.2f} ms  {int(memory) / 1024:7.1f} MiB", broken.group(0) if broken else "")
json.dump({"p50": millis(50), "p99": millis(99), "memory": int(memory)}, open(f"{work}/{name}.json", "w"))
PY
}

measure before $((seconds / 10 > 5 ? seconds / 10 : 5))
python3 benches/slow.py "$toll" "$connections" "$per_address" $((seconds + 60)) >"$work/slow.log" & pids+=($!); slow_pid=$!
for _ in $(seq 600); do
  grep -q '^held' "$work/slow.log" && break
  kill -0 "$slow_pid" || { echo "the slow clients ended" >&2; exit 1; }
  sleep 0.1
done
cat "$work/slow.log"
measure during "$seconds"
wait "$slow_pid"
tail -n 1 "$work/slow.log"
python3 - "$work" <<'PY'
import json, sys
before, during = (json.load(open(f"{sys.argv[1]}/{name}.json")) for name in ("before", "during"))
print(f"p99 {100 * (during['p99'] / before['p99'] - 1):+.1f} %, memory {(during['memory'] - before['memory']) / 1024:+.1f} MiB")
PY
