#!/usr/bin/env bash
# Builds the images and runs the shop of docker-compose.yml with a real engine: pays, stops and kills the gateway, and finds
# the books whole. Not part of tests/run.sh: it compiles everything in release mode, which takes a while.
#
#   tests/container.sh
#
# Wants an engine with Compose (v2, or docker-compose 1.29), curl and python3. As root on Debian it brings what is missing: an
# engine of its own that ends with it, and, where images can't be pulled, base images of the same names made from Debian's
# packages and the Rust toolchain that is here. CONTAINER_DIR keeps that engine's images and build cache for the next run.
set -euo pipefail
cd "$(dirname "$0")/.."

# As the Dockerfile and docker-compose.yml name them.
RUST_IMAGE=rust:1.95-bookworm
RUNTIME_IMAGE=debian:bookworm-slim
RUNTIME_SUITE=bookworm
LEDGER_IMAGE=postgres:17-bookworm
IMAGE_MEBIBYTES_MAX=260
# drain_timeout, and what an engine takes.
STOP_SECONDS_MAX=12

export COMPOSE_PROJECT_NAME=tollhouse-test-$$
engine_dir=
engine_pid=
relay_pid=
shop_is_up=
work=$(mktemp -d)
docker=docker
compose=()
figures=()
passed=0

fail() {
  echo "FAILED: $1" >&2
  exit 1
}

pass() {
  passed=$((passed + 1))
  echo "ok: $1"
}

# expect WORDS GOT WANTED
expect() {
  [[ $2 == "$3" ]] || fail "$1: expected $3, got $2"
  pass "$1"
}

finish() {
  local code=$?
  trap - EXIT INT TERM
  if [[ -n $shop_is_up ]]; then
    if ((code != 0)); then
      "${compose[@]}" ps || true
      "${compose[@]}" logs --tail=40 || true
    fi
    "${compose[@]}" down --volumes --timeout 10 >/dev/null 2>&1 || true
  fi
  [[ -z $relay_pid ]] || kill "$relay_pid" 2>/dev/null || true
  if [[ -n $engine_pid ]]; then
    kill "$engine_pid" 2>/dev/null || true
    wait "$engine_pid" 2>/dev/null || true
    [[ -n ${CONTAINER_DIR:-} ]] || rm -rf --one-file-system "$engine_dir"
  fi
  rm -rf "$work"
  exit "$code"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# --- engine and base images ---

install_packages() {
  ((EUID == 0)) && command -v apt-get >/dev/null || fail "missing: $*"
  apt-get update -q
  DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "$@"
}

# A command line that can build with BuildKit, if there is one: before 23 it was built in, since then it is a plugin.
choose_client() {
  local candidate version
  docker=docker
  export DOCKER_BUILDKIT=0
  while read -r candidate; do
    version=$("$candidate" version --format '{{.Client.Version}}' 2>/dev/null) || continue
    if "$candidate" buildx version >/dev/null 2>&1 || ((${version%%.*} < 23)); then
      docker=$candidate
      export DOCKER_BUILDKIT=1
      return
    fi
  done < <(type -ap docker)
}

start_engine() {
  command -v dockerd >/dev/null || install_packages docker.io
  ((EUID == 0)) || fail "no container engine runs, and only root can start one"
  engine_dir=${CONTAINER_DIR:-$(mktemp -d /var/tmp/tollhouse-engine.XXXXXX)}
  mkdir -p "$engine_dir"
  export DOCKER_HOST=unix://$engine_dir/docker.sock
  # Builds run below it and give way to others.
  nice -n 15 dockerd --host "$DOCKER_HOST" --data-root "$engine_dir/data" --exec-root "$engine_dir/exec" \
    --pidfile "$engine_dir/dockerd.pid" >"$engine_dir/dockerd.log" 2>&1 &
  engine_pid=$!
  for _ in {1..60}; do
    docker info >/dev/null 2>&1 && return
    kill -0 "$engine_pid" 2>/dev/null || break
    sleep 0.5
  done
  tail "$engine_dir/dockerd.log" >&2
  fail "the engine does not start"
}

have_image() {
  docker image inspect "$1" >/dev/null 2>&1 || docker pull --quiet "$1" 2>/dev/null
}

# Debian as its own installer makes it.
make_runtime_image() {
  command -v debootstrap >/dev/null || install_packages debootstrap
  debootstrap --variant=minbase "$RUNTIME_SUITE" "$work/root" >"$work/debootstrap.log"
  rm -rf "$work"/root/var/cache/apt/archives/*.deb "$work"/root/var/lib/apt/lists/*
  tar -C "$work/root" -c . | docker import - "$RUNTIME_IMAGE" >/dev/null
  rm -rf "$work/root"
}

# The same with a compiler, the Rust toolchain of this machine, and what it trusts and how it reaches crates.
make_rust_image() {
  local container settings=${CARGO_HOME:-$HOME/.cargo}/config.toml
  "$docker" build --quiet --network host --tag "$COMPOSE_PROJECT_NAME-cc" - >/dev/null <<END
FROM $RUNTIME_IMAGE
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates gcc g++ libc6-dev make
ENV CARGO_HOME=/usr/local/cargo
RUN mkdir -p /usr/local/cargo
END
  container=$(docker create "$COMPOSE_PROJECT_NAME-cc" true)
  tar -C "$(rustc --print sysroot)" --exclude=./share --exclude=./lib/rustlib/src -c . | docker cp - "$container":/usr/local/
  docker cp --follow-link /etc/ssl/certs/ca-certificates.crt "$container":/etc/ssl/certs/ca-certificates.crt
  [[ ! -f $settings ]] || docker cp "$settings" "$container":/usr/local/cargo/config.toml
  docker commit "$container" "$RUST_IMAGE" >/dev/null
  docker rm "$container" >/dev/null
}

# A PostgreSQL of Debian's, behind what docker-compose.yml uses of the official image's entrypoint.
make_ledger_image() {
  "$docker" build --quiet --network host --tag "$LEDGER_IMAGE" --file - tests/container >/dev/null <<END
FROM $RUNTIME_IMAGE
RUN apt-get update && apt-get install -y --no-install-recommends postgresql
ENV PGDATA=/var/lib/postgresql/data
RUN install -d -o postgres -g postgres -m 1777 /var/lib/postgresql/data
COPY postgres-entrypoint.sh /postgres-entrypoint.sh
USER postgres
VOLUME /var/lib/postgresql/data
ENTRYPOINT ["/postgres-entrypoint.sh"]
END
}

set_up() {
  command -v curl >/dev/null || install_packages curl
  command -v docker >/dev/null || install_packages docker.io
  docker info >/dev/null 2>&1 || start_engine
  choose_client
  if "$docker" compose version >/dev/null 2>&1; then
    compose=("$docker" compose)
  else
    command -v docker-compose >/dev/null || install_packages docker-compose
    compose=(docker-compose)
  fi
  if ! have_image "$RUNTIME_IMAGE"; then
    [[ -n $engine_pid ]] || fail "can't pull $RUNTIME_IMAGE"
    make_runtime_image
  fi
  if ! have_image "$RUST_IMAGE"; then
    [[ -n $engine_pid ]] || fail "can't pull $RUST_IMAGE"
    make_rust_image
  fi
  if ! have_image "$LEDGER_IMAGE"; then
    [[ -n $engine_pid ]] || fail "can't pull $LEDGER_IMAGE"
    make_ledger_image
  fi
  echo "engine $("$docker" version --format '{{.Server.Version}}'), ${compose[*]} $("${compose[@]}" version --short)"
}

# --- images ---

# build TARGET TAG
build() {
  local started=$SECONDS
  "$docker" build --network host --target "$1" --tag "$2" . >"$work/build.log" 2>&1 || {
    tail -n 40 "$work/build.log" >&2
    fail "the image $2 can't be built"
  }
  figures+=("$2: built in $((SECONDS - started)) s")
}

inspect() {
  docker image inspect --format "$2" "$1"
}

# refused IMAGE COMMAND: the program has no such command.
refused() {
  local code=0
  docker run --rm "$1" "$2" >"$work/out" 2>&1 || code=$?
  ((code == 2)) && grep -q "unrecognized subcommand" "$work/out"
}

check_images() {
  local mebibytes
  expect "the image's user is no root" "$(inspect tollhouse '{{.Config.User}}')" "10001:10001"
  expect "it has one volume" "$(inspect tollhouse '{{json .Config.Volumes}}')" '{"/var/lib/tollhouse":{}}'
  expect "it asks for its own health" "$(inspect tollhouse '{{index .Config.Healthcheck.Test 1}} {{index .Config.Healthcheck.Test 2}}')" \
    "tollhouse health"
  expect "it says what it is" "$(inspect tollhouse '{{index .Config.Labels "org.opencontainers.image.title"}}')" "Tollhouse"
  refused tollhouse dev && refused tollhouse devnet && refused tollhouse cosmos-chain ||
    fail "the production image knows commands of development"
  pass "the production image has no chain of its own"
  docker run --rm tollhouse-dev devnet --help >/dev/null || fail "the dev image has no devnet"
  # The crate of the failpoints reads this variable.
  docker run --rm --entrypoint grep tollhouse -q FAILPOINTS /usr/local/bin/tollhouse && fail "the image has failpoints"
  pass "it has no failpoints"
  mebibytes=$(($(inspect tollhouse '{{.Size}}') / 1048576))
  ((mebibytes <= IMAGE_MEBIBYTES_MAX)) || fail "the image has $mebibytes MiB"
  figures+=("tollhouse: $mebibytes MiB, of them $(($(inspect "$RUNTIME_IMAGE" '{{.Size}}') / 1048576)) MiB $RUNTIME_IMAGE;" \
    "  the program $(docker run --rm --entrypoint stat tollhouse -c %s /usr/local/bin/tollhouse | awk '{print int($1/1048576)}') MiB")
}

# --- the shop ---

free_port() {
  python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

container_of() {
  "${compose[@]}" ps -q "$1"
}

in_gateway() {
  docker exec "$gateway" "$@"
}

wait_healthy() {
  for _ in {1..120}; do
    [[ $(docker inspect --format '{{.State.Health.Status}}' "$gateway") != healthy ]] || return 0
    sleep 0.5
  done
  fail "the gateway does not become healthy"
}

open_shop() {
  local started=$SECONDS
  TOLLHOUSE_PORT=$(free_port)
  TOLLHOUSE_ADMIN_PORT=$(free_port)
  export TOLLHOUSE_PORT TOLLHOUSE_ADMIN_PORT
  shop_is_up=yes
  "${compose[@]}" up -d --no-build >"$work/up.log" 2>&1 || {
    cat "$work/up.log" >&2
    fail "the shop does not open"
  }
  gateway=$(container_of gateway)
  wait_healthy
  figures+=("compose up to a healthy gateway: $((SECONDS - started)) s")
  pass "compose up opens a shop"
  coproc RELAY { exec python3 tests/container/relay.py "$work/relay.log" "$TOLLHOUSE_PORT"; }
  relay_pid=$RELAY_PID
  read -r relay_port <&"${RELAY[0]}"
}

# What the kernel says of the process, not what the configuration asks for.
check_confinement() {
  local status place
  status=$(in_gateway cat /proc/1/status)
  expect "the gateway is process 1" "$(awk '/^Name:/{print $2}' <<<"$status")" tollhouse
  expect "it runs as nobody in particular" "$(awk '/^Uid:/{print $2}' <<<"$status")" 10001
  expect "it has no capability" "$(awk '/^CapEff:/{print $2}' <<<"$status")" 0000000000000000
  expect "it can't gain any" "$(awk '/^NoNewPrivs:/{print $2}' <<<"$status")" 1
  for place in /var/tmp /usr/local/bin /etc/tollhouse /run/secrets /var/lib/tollhouse; do
    in_gateway touch "$place/x" 2>/dev/null && fail "$place can be written"
  done
  pass "it can write nowhere"
}

status_of() {
  curl --silent --output "$work/body" --write-out '%{http_code}' "$@"
}

check_admin() {
  local admin=http://127.0.0.1:$TOLLHOUSE_ADMIN_PORT token
  expect "it is ready" "$(status_of "$admin/readyz")" 200
  expect "metrics are for everybody who reaches them" "$(status_of "$admin/metrics")" 200
  expect "the books want the token" "$(status_of "$admin/payments")" 401
  token=$(in_gateway cat /run/secrets/admin-token)
  expect "and open with it" "$(status_of -H "Authorization: Bearer $token" "$admin/payments")" 200
}

# pay PATH [OPTION…]: from outside, through the relay; leaves the answer in $work/paid.json.
pay() {
  docker run --rm --network host --volumes-from "$(container_of chain)" tollhouse-dev pay --json \
    --key-file /var/lib/tollhouse/payer.key --state-dir "/var/lib/tollhouse/payments-$RANDOM$RANDOM" "${@:2}" \
    "http://127.0.0.1:$relay_port$1" >"$work/paid.json" 2>"$work/paid.err" || {
    cat "$work/paid.json" "$work/paid.err" >&2
    return 1
  }
}

# The last request that was answered 200 for a payment: a field of it.
last_paid() {
  python3 - "$work/relay.log" "$1" <<'END'
import json, sys
lines = [json.loads(line) for line in open(sys.argv[1], encoding="utf-8")]
print([line for line in lines if line["payment"] and line["status"] == 200][-1][sys.argv[2]])
END
}

# Presents the same payment for the same request once more.
replay() {
  status_of -H "Host: $1" -H "PAYMENT-SIGNATURE: $2" "http://127.0.0.1:$TOLLHOUSE_PORT$3"
}

# The books, a line for each payment.
books() {
  in_gateway tollhouse payments list --json --config /etc/tollhouse/gateway.toml >"$work/books.json"
  python3 - "$work/books.json" <<'END'
import json, sys
rows = json.load(open(sys.argv[1], encoding="utf-8"))
for line in sorted(json.dumps(row, sort_keys=True) for row in rows):
    print(line)
END
}

check_payments() {
  local millis
  expect "unpaid there are only terms" "$(status_of "http://127.0.0.1:$TOLLHOUSE_PORT/weather")" 402
  pay /weather || fail "can't pay"
  pass "a payment buys the answer"
  for _ in {1..10}; do pay /weather || fail "can't pay again"; done
  millis=$(python3 - "$work/relay.log" <<'END'
import json, statistics, sys
lines = [json.loads(line) for line in open(sys.argv[1], encoding="utf-8")]
print(round(1000 * statistics.median(line["seconds"] for line in lines if line["payment"])))
END
  )
  figures+=("a paid request takes $millis ms (median of 11), on a chain that makes a block when there is something to put in it")
  host=$(last_paid host)
  payment=$(last_paid payment)
  expect "the same payment is not served twice" "$(replay "$host" "$payment" /weather)" 402
  grep -q payment_already_used "$work/body" || fail "and the reason isn't that it was used: $(cat "$work/body")"
  "${compose[@]}" exec -T chain tollhouse pay --key-file payer.key --network cosmos:grand-1 \
    --grpc-url http://127.0.0.1:9090 http://gateway:8402/weather >"$work/out" 2>&1 || {
    cat "$work/out" >&2
    fail "can't pay on the Cosmos chain"
  }
  pass "a payment on the Cosmos chain buys it too"
}

# check_whole WORDS: the books are those of before, and what was served stays served.
check_whole() {
  wait_healthy
  books >"$work/after"
  cmp "$work/before" "$work/after" || fail "the books are others $1"
  expect "the books are whole $1" "$(wc -l <"$work/after")" "$(wc -l <"$work/before")"
  expect "and the payment is still not served twice" "$(replay "$host" "$payment" /weather)" 402
  pay /weather || fail "can't pay $1"
  pass "and it sells on"
  books >"$work/before"
}

check_stopping() {
  local started paying
  books >"$work/before"
  [[ $(wc -l <"$work/before") == 12 ]] || fail "12 payments were made: $(cat "$work/before")"
  started=$SECONDS
  docker stop --time 30 "$gateway" >/dev/null
  expect "SIGTERM ends the gateway in peace" "$(docker inspect --format '{{.State.ExitCode}}' "$gateway")" 0
  ((SECONDS - started <= STOP_SECONDS_MAX)) || fail "it took $((SECONDS - started)) s"
  docker start "$gateway" >/dev/null
  check_whole "after a stop"

  docker kill --signal KILL "$gateway" >/dev/null
  docker start "$gateway" >/dev/null
  check_whole "after a kill"

  # Five seconds of events, of which the first have come when the gateway is told to end.
  pay /stream &
  paying=$!
  sleep 3
  docker stop --time 30 "$gateway" >/dev/null
  expect "SIGTERM under a request ends in peace too" "$(docker inspect --format '{{.State.ExitCode}}' "$gateway")" 0
  wait "$paying" || fail "the request that ran did not get its answer"
  expect "and the request got the whole of its answer" \
    "$(python3 -c 'import json, sys; print(json.load(sys.stdin)["body"].count("data: "))' <"$work/paid.json")" 5
  docker start "$gateway" >/dev/null
  wait_healthy
  books >"$work/before"

  "${compose[@]}" stop >/dev/null 2>&1
  "${compose[@]}" start >/dev/null 2>&1
  gateway=$(container_of gateway)
  check_whole "after everything was stopped and started"
}

set_up
"${compose[@]}" --profile monitoring config >"$work/config.yml" || fail "the compose file can't be read"
build gateway tollhouse
build dev tollhouse-dev
check_images
open_shop
check_confinement
check_admin
check_payments
check_stopping

echo
printf '%s\n' "${figures[@]}"
echo "$passed passed, 0 failed"
