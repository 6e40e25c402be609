#!/usr/bin/env bash
# What honest traffic notices of many slow connections: its p50 and p99 before and while they are held, and the gateway's memory.
#
#   benches/slow.sh [CONNECTIONS=10000] [SECONDS=300] [RATE=500]
#
# Honest traffic is RATE requests a second, on 16 connections, half of them to an origin that answers at once and half to one that
# takes 20 ms: a fifth of the time before and all the while. As many as to either of them go straight to the second, past the
# gateway: what these notice is the machine's. With ELSEWHERE=1 a second gateway holds the slow ones, so that honest traffic shares
# the processors with them and nothing else: what it notices then is the machine's, too. The gateway is built as docs/deploy.md says;
# BINARY=path takes one that is there. Wants h2load, nginx,
# python3 and chrt (Debian: apt-get install nghttp2-client nginx-light python3 util-linux), and descriptors: three for each two slow
# connections, to each process. Everything listens on loopback and is stopped by pid.
set -euo pipefail
cd "$(dirname "$0")/.."
connections=${1:-10000} seconds=${2:-300} rate=${3:-500} per_address=50
for tool in chrt h2load nginx python3; do command -v "$tool" >/dev/null || { echo "missing: $tool" >&2; exit 1; }; done
ulimit -n $((connections * 3 / 2 + 4096)) || { echo "too few file descriptors: ulimit -Hn" >&2; exit 1; }

if [ -z "${BINARY:-}" ]; then
  cargo build --profile lto --bin tollhouse
  BINARY=$(cargo metadata --format-version 1 --no-deps | python3 -c 'import json,sys; print(json.load(sys.stdin)["target_directory"])')/lto/tollhouse
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
origin=$(free_port) worker=$(free_port) toll=$(free_port) admin=$(free_port) second=$(free_port) second_admin=$(free_port)
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
[upstreams.worker]
servers = ["127.0.0.1:$worker"]
[routes]
"/free" = { price = "free", upstream = "api" }
"/work" = { price = "free", upstream = "worker" }
CONF
cat >"$work/worker.py" <<'PY'
import asyncio, sys
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\ndone\n"
async def serve(reader, writer):
    try:
        while await reader.readuntil(b"\r\n\r\n"):
            await asyncio.sleep(0.02)
            writer.write(ANSWER)
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()
async def main():
    async with await asyncio.start_server(serve, "127.0.0.1", int(sys.argv[1])) as server:
        await server.serve_forever()
asyncio.run(main())
PY
# A folder of its own: each gateway has a ledger.
mkdir "$work/second"
sed "s/:$toll\"/:$second\"/; s/:$admin\"/:$second_admin\"/" "$work/gateway.toml" >"$work/second/gateway.toml"
python3 "$work/worker.py" "$worker" & pids+=($!)
nginx -p "$work" -c "$work/origin.conf" & pids+=($!)
"$BINARY" run --config "$work/gateway.toml" & pids+=($!); toll_pid=$!
slow=$toll
if [ -n "${ELSEWHERE:-}" ]; then
  "$BINARY" run --config "$work/second/gateway.toml" & pids+=($!)
  slow=$second
fi
for path in free work; do
  for _ in $(seq 100); do
    [ "$(curl -s -o /dev/null -w '%{http_code}' "http://127.0.0.1:$toll/$path")" = 200 ] && break
    sleep 0.1
  done
done

memory() { awk '/VmRSS/ {print $2}' "/proc/$toll_pid/status"; }

measure() { # NAME SECONDS
  local path port loads=()
  for path in free work direct; do
    port=$toll
    [ "$path" != direct ] || port=$worker
    h2load --h1 -c8 --rps="$(python3 -c "print($rate / 16)")" -D"$2" --log-file="$work/$1.$path" \
      "http://127.0.0.1:$port/$path" >"$work/$1.$path.out" &
    loads+=($!)
  done
  wait "${loads[@]}"
  python3 - "$1" "$work" "$(memory)" "$2" <<'PY'
import json, sys
name, work, memory, seconds = sys.argv[1:]
found = {"memory": int(memory)}
for path, origin in (("free", "at once"), ("work", "20 ms"), ("direct", "20 ms, past the gateway")):
    rows = [line.split() for line in open(f"{work}/{name}.{path}")]
    times = sorted(int(row[2]) / 1000 for row in rows)
    failed = sum(row[1] != "200" for row in rows)
    p50, p99 = (times[int(len(times) * share)] for share in (0.5, 0.99))
    found[path] = p99
    print(f"{name:7} origin {origin:23} {len(rows) / float(seconds):6.0f}/s  p50 {p50:7.2f} ms  p99 {p99:7.2f} ms  max {times[-1]:7.2f} ms"
          f"  {failed} failed  {int(memory) / 1024:6.1f} MiB")
json.dump(found, open(f"{work}/{name}.json", "w"))
PY
}

measure before $((seconds / 5 > 10 ? seconds / 5 : 10))
# Elsewhere in service: what they cost themselves is not to be taken from the gateway, so that they run when nobody else would.
chrt --idle 0 python3 benches/slow.py "$slow" "$connections" "$per_address" $((seconds + 60)) >"$work/slow.log" & pids+=($!); slow_pid=$!
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
for path, origin in (("free", "at once"), ("work", "20 ms"), ("direct", "20 ms, past the gateway")):
    print(f"origin {origin}: p99 {during[path] - before[path]:+.2f} ms, {100 * (during[path] / before[path] - 1):+.1f} %")
print(f"memory {(during['memory'] - before['memory']) / 1024:+.1f} MiB")
PY
