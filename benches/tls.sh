#!/usr/bin/env bash
# What Tollhouse costs beside bare pingora where clients speak TLS: HTTP/1.1 (wrk) and HTTP/2 (h2load), a free route, keep-alive,
# the same certificate, one thread each. Rounds are interleaved, and each one starts every proxy anew: where its memory lies
# makes a process faster or slower by some hundredths for as long as it lives. Prints requests per second and the ratios of
# each round.
#
#   benches/tls.sh [ROUNDS=5] [SECONDS=4] [CONNECTIONS=32]
#
# Built as docs/deploy.md builds the gateway, or with PROFILE=release; PROFILE=debug takes the binaries of an ordinary build, to
# try the script. TLS_ONLY="bare free" leaves the others out. Wants wrk, nginx, openssl and h2load (Debian: apt-get install wrk
# nginx-light openssl nghttp2-client). Everything listens on loopback and is stopped by pid.
set -euo pipefail
cd "$(dirname "$0")/.."
rounds=${1:-5} seconds=${2:-4} connections=${3:-32} profile=${PROFILE:-lto}
for tool in wrk nginx python3 openssl h2load; do command -v "$tool" >/dev/null || { echo "missing: $tool" >&2; exit 1; }; done

[ "$profile" = debug ] || [ -n "${NO_BUILD:-}" ] || cargo build --profile "$profile" --bin tollhouse --example bare_pingora --example bare_pingora_mimalloc
target=$(cargo metadata --format-version 1 --no-deps | python3 -c 'import json,sys; print(json.load(sys.stdin)["target_directory"])')/$profile
work=$(mktemp -d)
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
origin=$(free_port) bare=$(free_port) timed=$(free_port) alike=$(free_port) toll=$(free_port) admin=$(free_port)
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost \
  -addext subjectAltName=DNS:localhost,IP:127.0.0.1 -keyout "$work/key.pem" -out "$work/cert.pem" 2>/dev/null
chmod 600 "$work/key.pem"
cat >"$work/origin.conf" <<CONF
daemon off; master_process off; worker_processes 1; pid $work/origin.pid; error_log $work/origin.err;
events { worker_connections 4096; }
http { access_log off; keepalive_requests 1000000; client_body_temp_path $work/b; proxy_temp_path $work/p; fastcgi_temp_path $work/f;
  uwsgi_temp_path $work/u; scgi_temp_path $work/s;
  server { listen 127.0.0.1:$origin; location / { default_type text/plain; return 200 'hello from origin\n'; } } }
CONF
cat >"$work/gateway.toml" <<CONF
[server]
listen = "127.0.0.1:$toll"
tls = { cert = "cert.pem", key = "key.pem" }
threads = 1
[admin]
listen = "127.0.0.1:$admin"
[log]
level = "warn"
[upstreams.api]
servers = ["127.0.0.1:$origin"]
[routes]
"/free" = "free"
CONF
tls=("$work/cert.pem" "$work/key.pem")
nginx -p "$work" -c "$work/origin.conf" & pids+=($!)

proxies=()
start() {
  "$target/examples/bare_pingora" "127.0.0.1:$bare" "127.0.0.1:$origin" 1 bare "${tls[@]}" & proxies+=($!)
  "$target/examples/bare_pingora" "127.0.0.1:$timed" "127.0.0.1:$origin" 1 timeouts "${tls[@]}" & proxies+=($!)
  "$target/examples/bare_pingora_mimalloc" "127.0.0.1:$alike" "127.0.0.1:$origin" 1 timeouts "${tls[@]}" & proxies+=($!)
  "$target/tollhouse" run --config "$work/gateway.toml" & proxies+=($!)
  pids+=("${proxies[@]}")
  local port version answer
  for port in $bare $timed $alike $toll; do
    for version in --http1.1 --http2; do
      answer=
      for _ in $(seq 100); do
        answer=$(curl -sk $version -o /dev/null -w '%{http_code} %{http_version}' "https://localhost:$port/free" || true)
        [ "${answer%% *}" = 200 ] && break
        sleep 0.1
      done
      case "$version $answer" in
        "--http1.1 200 1.1" | "--http2 200 2") ;;
        *) echo "port $port, $version: $answer" >&2; exit 1 ;;
      esac
    done
    # What is done for the first time takes longer.
    h2load -t1 -c"$connections" -m10 -n5000 "https://127.0.0.1:$port/free" >/dev/null
  done
}
stop() {
  # Bare pingora would wait for five minutes.
  kill -9 "${proxies[@]}"
  wait "${proxies[@]}" 2>/dev/null || true
  proxies=()
}

note() { # NAME RATE
  printf '%-10s %10.0f/s\n' "$1" "$2"
  echo "$1 $2" >>"$work/results"
}
http1() { # NAME PORT
  note "$1 h1" "$(wrk -t1 -c"$connections" -d"${seconds}s" "https://127.0.0.1:$2/free" | awk '/Requests\/sec/ {print $2}')"
}
http2() { # NAME PORT
  local said
  said=$(h2load -t1 -c"$connections" -m10 -D"$seconds" "https://127.0.0.1:$2/free")
  grep -q ' 0 failed, 0 errored' <<<"$said" || { grep '^requests' <<<"$said" >&2; }
  note "$1 h2" "$(sed -n 's/^finished in .*, \([0-9.]*\) req\/s.*/\1/p' <<<"$said")"
}
for round in $(seq "$rounds"); do
  echo "round $round"
  start
  for speak in http1 http2; do
    for name in ${TLS_ONLY:-bare timed alike free}; do
      case $name in
        bare) $speak bare "$bare" ;;
        timed) $speak timed "$timed" ;;
        alike) $speak alike "$alike" ;;
        free) $speak free "$toll" ;;
        *) echo "TLS_ONLY: $name is none of bare timed alike free" >&2; exit 1 ;;
      esac
    done
  done
  stop
done
python3 - "$work/results" <<'PY'
import collections, statistics, sys
rates = collections.defaultdict(list)
for line in open(sys.argv[1]):
    name, version, rate = line.split()
    rates[name, version].append(float(rate))
print("\nmedian [min-max] over rounds, throughput")
for version, words in (("h1", "HTTP/1.1 over TLS"), ("h2", "HTTP/2 over TLS")):
    for other in ("bare", "timed", "alike"):
        if not rates["free", version] or not rates[other, version]: continue
        ratio = [a / b for a, b in zip(rates["free", version], rates[other, version])]
        print(f"{words}: free/{other} {statistics.median(ratio):.2f} [{min(ratio):.2f}-{max(ratio):.2f}]")
PY
