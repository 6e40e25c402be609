#!/usr/bin/env bash
# Instructions of one proxied request in user space, through a free route of Tollhouse and through bare pingora: steadier
# than any time on a busy machine, and with `callgrind_annotate` on what this leaves in OUT it says where they go. One
# connection, kept alive: what 100 requests cost is taken from what 100 and REQUESTS more do, so that no handshake counts.
#
#   benches/instructions.sh [REQUESTS=1000] [OUT=a temporary folder]
#
# Over HTTP/1.1, the same over TLS, and HTTP/2; INSTRUCTIONS_OVER="http1 tls http2" takes some of them. Built as
# docs/deploy.md builds the gateway, or with PROFILE=release. Wants valgrind, nginx, curl, openssl, h2load and python3.
# Everything listens on loopback and is stopped by pid.
set -euo pipefail
cd "$(dirname "$0")/.."
requests=${1:-1000} out=${2:-} profile=${PROFILE:-lto}
for tool in valgrind callgrind_control nginx curl openssl h2load python3; do command -v "$tool" >/dev/null || { echo "missing: $tool" >&2; exit 1; }; done

[ -n "${NO_BUILD:-}" ] || cargo build --profile "$profile" --bin tollhouse --example bare_pingora --example bare_pingora_mimalloc
target=$(cargo metadata --format-version 1 --no-deps | python3 -c 'import json,sys; print(json.load(sys.stdin)["target_directory"])')/$profile
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

openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost \
  -addext subjectAltName=DNS:localhost,IP:127.0.0.1 -keyout "$work/key.pem" -out "$work/cert.pem" 2>/dev/null
chmod 600 "$work/key.pem"

ask() { # OVER PORT COUNT
  if [ "$1" = http2 ]; then
    local said
    said=$(h2load -c1 -m1 -n"$3" "https://127.0.0.1:$2/free")
    grep -q "$3 succeeded, 0 failed, 0 errored" <<<"$said" || { printf '%s\n' "$said" >&2; return 1; }
    return
  fi
  python3 - "$@" <<'PY'
import socket, ssl, sys
over, port, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
stream = socket.create_connection(("127.0.0.1", port))
stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
if over == "tls":
    # Its certificate is not what is measured.
    stream = ssl._create_unverified_context().wrap_socket(stream)
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
count() { # NAME OVER PORT COMMAND...
  local name=$1-$2 over=$2 port=$3 scheme=https pid
  shift 3
  [ "$over" = http1 ] && scheme=http
  valgrind --tool=callgrind --callgrind-out-file="$out/$name.out" "$@" >"$work/$name.log" 2>&1 & pid=$!
  pids+=("$pid")
  for _ in $(seq 300); do curl -sfk -o /dev/null "$scheme://127.0.0.1:$port/free" && break; sleep 0.2; done
  ask "$over" "$port" 200
  callgrind_control -z "$pid" >/dev/null 2>&1
  ask "$over" "$port" 100
  callgrind_control -d "$pid" >/dev/null 2>&1
  ask "$over" "$port" $((100 + requests))
  callgrind_control -d "$pid" >/dev/null 2>&1
  kill -9 "$pid"
  awk -v name="$name" -v requests="$requests" '/^(summary|totals):/ {sum[FILENAME] = $2}
    END {printf "%-12s %d\n", name, (sum[ARGV[2]] - sum[ARGV[1]]) / requests}' "$out/$name.out.1" "$out/$name.out.2" |
    tee -a "$work/counts"
}
for over in ${INSTRUCTIONS_OVER:-http1 tls http2}; do
  bare=$(free_port) timed=$(free_port) alike=$(free_port) toll=$(free_port) tls=() secure=
  if [ "$over" != http1 ]; then
    tls=("$work/cert.pem" "$work/key.pem")
    secure='tls = { cert = "cert.pem", key = "key.pem" }'
  fi
  cat >"$work/gateway.toml" <<CONF
[server]
listen = "127.0.0.1:$toll"
$secure
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
  count bare "$over" "$bare" "$target/examples/bare_pingora" "127.0.0.1:$bare" "127.0.0.1:$origin" 1 bare "${tls[@]}"
  count timed "$over" "$timed" "$target/examples/bare_pingora" "127.0.0.1:$timed" "127.0.0.1:$origin" 1 timeouts "${tls[@]}"
  count alike "$over" "$alike" "$target/examples/bare_pingora_mimalloc" "127.0.0.1:$alike" "127.0.0.1:$origin" 1 timeouts "${tls[@]}"
  count free "$over" "$toll" "$target/tollhouse" run --config "$work/gateway.toml"
done
python3 - "$work/counts" <<'PY'
import sys
counts = {tuple(name.split("-")): int(count) for name, count in (line.split() for line in open(sys.argv[1]))}
for over in dict.fromkeys(over for _, over in counts):
    ratios = [f"free/{other} {counts['free', over] / counts[other, over]:.3f}" for other in ("bare", "timed", "alike")]
    print(f"{over}: {', '.join(ratios)}")
PY
