#!/usr/bin/env bash
# Instructions of one proxied request in user space, through a free route of Tollhouse and through bare pingora: steadier
# than any time on a busy machine, and with `callgrind_annotate` on what this leaves in OUT it says where they go. One
# connection, kept alive; 200 requests warm up, the next ones count.
#
#   benches/instructions.sh [REQUESTS=1000] [OUT=a temporary folder]
#
# Wants valgrind, nginx, curl and python3. Everything listens on loopback and is stopped by pid.
set -euo pipefail
cd "$(dirname "$0")/.."
requests=${1:-1000} out=${2:-}
for tool in valgrind callgrind_control nginx curl python3; do command -v "$tool" >/dev/null || { echo "missing: $tool" >&2; exit 1; }; done

[ -n "${NO_BUILD:-}" ] || cargo build --release --bin tollhouse --example bare_pingora --example bare_pingora_mimalloc
target=$(cargo metadata --format-version 1 --no-deps | python3 -c 'import json,sys; print(json.load(sys.stdin)["target_directory"])')/release
work=$(mktemp -d)
out=${out:-$work}
pids=()
# shellcheck disable=SC2329  # called by the trap
cleanup() {
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
origin=$(free_port)
cat >"$work/origin.conf" <<CONF
daemon off; worker_processes 1; master_process off; pid $work/origin.pid; error_log $work/origin.err;
events { worker_connections 64; }
http { access_log off; keepalive_requests 1000000; client_body_temp_path $work/b; proxy_temp_path $work/p; fastcgi_temp_path $work/f; uwsgi_temp_path $work/u; scgi_temp_path $work/s;
  server { listen 127.0.0.1:$origin; location / { default_type text/plain; return 200 'hello from origin\n'; } } }
CONF
nginx -p "$work" -c "$work/origin.conf" & pids+=($!)

ask() { # PORT COUNT
  python3 - "$1" "$2" <<'PY'
import socket, sys
port, count = int(sys.argv[1]), int(sys.argv[2])
stream = socket.create_connection(("127.0.0.1", port))
stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
for _ in range(count):
    # As wrk asks.
    stream.sendall(f"GET /free HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode())
    answer = b""
    while not answer.endswith(b"hello from origin\n"):
        piece = stream.recv(65536)
        assert piece, answer
        answer += piece
    assert answer.startswith(b"HTTP/1.1 200 "), answer
PY
}
count() { # NAME PORT COMMAND...
  local name=$1 port=$2 pid
  shift 2
  valgrind --tool=callgrind --callgrind-out-file="$out/$name.out" "$@" >"$work/$name.log" 2>&1 & pid=$!
  pids+=("$pid")
  for _ in $(seq 300); do curl -sf -o /dev/null "http://127.0.0.1:$port/free" && break; sleep 0.2; done
  ask "$port" 200
  callgrind_control -z "$pid" >/dev/null 2>&1
  ask "$port" "$requests"
  callgrind_control -d "$pid" >/dev/null 2>&1
  kill -9 "$pid"
  awk -v name="$name" -v requests="$requests" '/^(summary|totals):/ {printf "%-7s %d\n", name, $2 / requests; exit}' "$out/$name.out.1" |
    tee -a "$work/counts"
}
bare=$(free_port) timed=$(free_port) alike=$(free_port) toll=$(free_port)
cat >"$work/gateway.toml" <<CONF
[server]
listen = "127.0.0.1:$toll"
threads = 1
[admin]
listen = "127.0.0.1:$(free_port)"
[log]
level = "warn"
[upstreams.api]
servers = ["127.0.0.1:$origin"]
[routes]
"/free" = "free"
CONF
count bare "$bare" "$target/examples/bare_pingora" "127.0.0.1:$bare" "127.0.0.1:$origin" 1
count timed "$timed" "$target/examples/bare_pingora" "127.0.0.1:$timed" "127.0.0.1:$origin" 1 timeouts
count alike "$alike" "$target/examples/bare_pingora_mimalloc" "127.0.0.1:$alike" "127.0.0.1:$origin" 1 timeouts
count free "$toll" "$target/tollhouse" run --config "$work/gateway.toml"
python3 - "$work/counts" <<'PY'
import sys
counts = {name: int(count) for name, count in (line.split() for line in open(sys.argv[1]))}
for other in ("bare", "timed", "alike"):
    print(f"free/{other}: {counts['free'] / counts[other]:.3f}")
PY
