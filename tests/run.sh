#!/usr/bin/env bash
# Sets up what the tests need, then runs all of them: format, lints, documentation, unit and integration tests, contract
# artifacts, the end-to-end tests with real clients on a real node, and the pages in Chromium. Wants Rust, a C compiler and
# cmake; on Debian it installs the rest where it is missing. Each stage prints the minutes it took; the first failure ends
# the run.
#
#   tests/run.sh
set -euo pipefail
cd "$(dirname "$0")/.."

NEXTEST_VERSION=0.9.143
NODE_MAJOR_MIN=18
CARGO_CLIENT=tests/e2e/rust
SOLANA_NODE=tests/solana-node
# Few, so that the compiler leaves room for the tests it runs beside.
CARGO_CLIENT_JOBS=2
# One feature set for everything, so that each dependency is compiled once for checking and once for running.
FEATURES=(--features failpoints,dev-solana)
# The same with the other TLS backend.
OPENSSL_FEATURES=(--no-default-features --features failpoints,dev-solana,openssl)

log_dir=$(mktemp -d)
stage=none
stage_started=$SECONDS
timings=()
# The process groups of the jobs in the background: npm, pip and cargo with what they started.
clients_job=
cargo_client_job=
solana_node_job=

minutes() {
  local tenths=$((($1 + 3) / 6))
  echo "$((tenths / 10)).$((tenths % 10))"
}

begin() {
  stage=$1
  stage_started=$SECONDS
  echo
  echo "== $stage"
}

end() {
  local took
  took=$(minutes $((SECONDS - stage_started)))
  timings+=("$took min  $stage")
  echo "== $stage: $took min"
}

finish() {
  local code=$?
  trap - EXIT
  local job
  for job in $clients_job $cargo_client_job $solana_node_job; do
    kill -- "-$job" 2>/dev/null || true
  done
  if ((code != 0)); then
    echo
    echo "FAILED in stage: $stage (exit $code)"
  fi
  rm -rf "$log_dir"
  exit "$code"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

fail() {
  echo "error: $1" >&2
  exit 1
}

# --- tools ---

install_packages() {
  command -v apt-get >/dev/null || fail "missing: $*. Install them and run this again"
  local root=()
  if ((EUID != 0)); then
    sudo -n true 2>/dev/null || fail "missing: $*. Install them as root: apt-get install $*"
    root=(sudo -n)
  fi
  echo "installing $*"
  "${root[@]}" apt-get update -q
  # Debian starts what it installs, unless it is told that the machine is in single-user mode.
  "${root[@]}" env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get install -q -y --no-install-recommends "$@"
}

# The Debian packages of whatever isn't here, one a line.
missing_packages() {
  command -v caddy >/dev/null || echo caddy
  command -v cc >/dev/null || echo gcc libc6-dev
  command -v chromium >/dev/null || echo chromium fonts-dejavu-core
  command -v cmake >/dev/null || echo cmake
  compgen -G '/usr/lib/*/faketime/libfaketime.so.1' >/dev/null || echo libfaketime
  command -v make >/dev/null || echo make
  PATH="$PATH:/usr/sbin" command -v haproxy >/dev/null || echo haproxy
  PATH="$PATH:/usr/sbin" command -v nginx >/dev/null || echo nginx-light
  command -v node >/dev/null || echo nodejs
  command -v npm >/dev/null || echo npm
  command -v openssl >/dev/null || echo openssl
  command -v perl >/dev/null || echo perl
  pkg-config --exists openssl 2>/dev/null || echo libssl-dev pkg-config
  command -v python3 >/dev/null || echo python3
  # Its programs aren't in the path on Debian.
  command -v initdb >/dev/null || compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null || echo postgresql
  python3 -c 'import ensurepip, venv' 2>/dev/null || echo python3-venv
}

check_tools() {
  command -v cargo >/dev/null || fail "no cargo: install Rust (rustup) first"
  cargo fmt --version >/dev/null 2>&1 || rustup component add rustfmt
  cargo clippy --version >/dev/null 2>&1 || rustup component add clippy
  local packages
  read -r -d '' -a packages < <(missing_packages) || true
  if ((${#packages[@]} > 0)); then
    install_packages "${packages[@]}"
  fi
  local node_major
  node_major=$(node -p 'process.versions.node.split(".")[0]')
  ((node_major >= NODE_MAJOR_MIN)) || fail "node $NODE_MAJOR_MIN or newer is wanted, $node_major is here"
  if ! cargo nextest --version >/dev/null 2>&1; then
    cargo install cargo-nextest --locked --version "$NEXTEST_VERSION"
  fi
}

# npm_install DIR: what the committed lock file says, unless it is installed already.
npm_install() {
  local stamp=$1/node_modules/.installed-lock.json
  cmp -s "$1/package-lock.json" "$stamp" && return
  # Nothing here needs an install script.
  npm ci --prefix "$1" --ignore-scripts --loglevel=error
  cp "$1/package-lock.json" "$stamp"
}

# venv_install NAME REQUIREMENTS: a virtualenv with exactly these, unless it is there already.
venv_install() {
  local venv=tests/e2e/python/$1 requirements=tests/e2e/python/$2
  cmp -s "$requirements" "$venv/installed.txt" && return
  rm -rf "$venv"
  python3 -m venv "$venv"
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps -r "$requirements"
  "$venv/bin/python" -m pip check --disable-pip-version-check
  cp "$requirements" "$venv/installed.txt"
}

install_clients() {
  # Each in a folder of its own: they don't agree on the versions of what they share.
  npm_install tests/browser
  npm_install tests/e2e/node
  npm_install tests/e2e/node-cosmjs
  npm_install tests/e2e/node-x402-axios
  npm_install tests/e2e/node-x402-express
  npm_install tests/e2e/node-x402-fetch
  venv_install .venv-2 requirements-x402-2.txt
  venv_install .venv-1 requirements-x402-1.txt
  venv_install .venv-schemathesis requirements-schemathesis.txt
  cargo fetch --quiet --locked --manifest-path "$CARGO_CLIENT/Cargo.toml"
}

build_cargo_client() {
  nice -n 19 cargo build --quiet --locked --jobs "$CARGO_CLIENT_JOBS" \
    --manifest-path "$CARGO_CLIENT/Cargo.toml" --target-dir "$CARGO_CLIENT/target"
}

# 890 packages: some ten minutes of CPU time the first time, none after that.
build_solana_node() {
  nice -n 19 cargo build --quiet --locked --manifest-path "$SOLANA_NODE/Cargo.toml" --target-dir "$SOLANA_NODE/target"
}

# The unit, with a program that is there in place of ours; nothing of it may be unknown, and little of it open.
check_unit() {
  sed 's#^ExecStart=/usr/local/bin/tollhouse.*#ExecStart=/bin/true#' deploy/systemd/tollhouse.service >"$log_dir/tollhouse.service"
  systemd-analyze verify "$log_dir/tollhouse.service"
  systemd-analyze security --offline=true --threshold=20 "$log_dir/tollhouse.service" >"$log_dir/security.log" ||
    { cat "$log_dir/security.log"; return 1; }
}

# --- stages ---

begin "setup"
check_tools
npm_install tests/node-tools
end

# The clients are fetched while cargo compiles; job control gives them a process group of their own.
set -m
install_clients >"$log_dir/clients.log" 2>&1 &
clients_job=$!
# The integration tests wait for it; until then it takes what the gateway's own compilation leaves.
build_solana_node >"$log_dir/solana-node.log" 2>&1 &
solana_node_job=$!
set +m

begin "format"
cargo fmt --check
cargo fmt --check --manifest-path "$SOLANA_NODE/Cargo.toml"
cargo fmt --check --manifest-path "$CARGO_CLIENT/Cargo.toml"
end

begin "lints"
cargo clippy --all-targets "${FEATURES[@]}" -- -D warnings
end

begin "documentation"
# After the lints and with their features: it reads the dependencies' metadata that they left.
RUSTDOCFLAGS="-D warnings" cargo doc --no-deps --lib "${FEATURES[@]}"
end

begin "building the tests"
cargo nextest run --no-run "${FEATURES[@]}"
end

begin "the Solana node"
if ! wait "$solana_node_job"; then
  cat "$log_dir/solana-node.log"
  fail "the Solana node of the tests couldn't be built"
fi
solana_node_job=
end

# Only now, so as not to compete with what everything else waits for.
set -m
build_cargo_client >"$log_dir/cargo-client.log" 2>&1 &
cargo_client_job=$!
set +m

begin "unit and integration tests"
# Each parser is fuzzed for this long, two at a time; the books take so many random steps beside their reference model.
FUZZ_SECONDS=${FUZZ_SECONDS:-20} MODEL_TRANSITIONS=${MODEL_TRANSITIONS:-100000} cargo nextest run "${FEATURES[@]}"
end

begin "examples in the documentation"
cargo test --doc "${FEATURES[@]}"
end

begin "deployment files"
# The containers themselves are tested by tests/container.sh, which takes too long for here.
bash -n tests/container.sh
sh -n deploy/compose/setup.sh
python3 -m json.tool deploy/monitoring/grafana/boards/tollhouse.json >/dev/null
if command -v promtool >/dev/null; then
  (cd deploy/monitoring && promtool check rules alerts.yml && promtool test rules alerts.test.yml)
fi
if docker compose version >/dev/null 2>&1; then
  docker compose --profile monitoring config --quiet
elif command -v docker-compose >/dev/null; then
  docker-compose --profile monitoring config --quiet
fi
if command -v systemd-analyze >/dev/null; then
  check_unit
fi
end

begin "contract artifacts"
node tests/contracts/build.mjs --check
end

begin "end-to-end clients"
if ! wait "$clients_job"; then
  cat "$log_dir/clients.log"
  fail "the x402 clients couldn't be installed"
fi
clients_job=
if ! wait "$cargo_client_job"; then
  cat "$log_dir/cargo-client.log"
  fail "the x402 client from crates.io couldn't be built"
fi
cargo_client_job=
end

begin "end-to-end tests"
# The binary that the tests above built; its last line is 'N passed, N failed'.
python3 tests/e2e/run.py
end

begin "pages in a browser"
# Pictures of every state are left in target/browser.
node tests/browser/run.mjs
end

begin "TLS by OpenSSL"
# Last, since it leaves its own binary in the others' place. All but pingora is compiled already, OpenSSL is the system's, and
# what is compiled once needs no notes for the next time.
OPENSSL_NO_VENDOR=1 CARGO_INCREMENTAL=0 CARGO_PROFILE_DEV_DEBUG=0 cargo nextest run "${OPENSSL_FEATURES[@]}" --test it \
  -E 'test(/^(edge|handshakes|battery::(http2|rfc9113))::/) + test(/^upstreams::origins_are_spoken_to_over_tls/)'
end

echo
echo "All stages passed, $(minutes $SECONDS) min in all:"
printf '  %s\n' "${timings[@]}"
