# Two images. `gateway` is for business: no chain of its own, no failpoints, nothing but the program and the certificates
# that it checks others with. `dev` has the chains and the origin of `tollhouse dev` too, for the shop of docker-compose.yml.
#
#   docker build -t tollhouse .
#   docker build -t tollhouse-dev --target dev .
#
# Behind a mirror, name base images of your own that know it: --build-arg RUST_IMAGE=… --build-arg RUNTIME_IMAGE=…
ARG RUST_IMAGE=rust:1.95-bookworm
ARG RUNTIME_IMAGE=debian:bookworm-slim

# --- Everything that others wrote: a layer that lasts until Cargo.lock changes.
FROM ${RUST_IMAGE} AS dependencies
RUN apt-get update \
 && apt-get install -y --no-install-recommends cmake \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /build
COPY Cargo.toml Cargo.lock ./
# A program of nothing with the same dependencies; its own traces go, so that the real one is never taken for built.
RUN mkdir src benches \
 && touch src/lib.rs \
 && echo 'fn main() {}' | tee src/main.rs benches/micro.rs benches/paid.rs benches/bare_pingora.rs \
      benches/bare_pingora_mimalloc.rs > /dev/null \
 && cargo build --locked --profile lto --no-default-features --features tls-rustls --bin tollhouse \
 && rm -rf src target/lto/tollhouse* target/lto/deps/*tollhouse* target/lto/.fingerprint/tollhouse-*

FROM dependencies AS build
COPY src src
RUN cargo build --locked --profile lto --no-default-features --features tls-rustls --bin tollhouse

# --- What both images stand on.
FROM ${RUNTIME_IMAGE} AS runtime
RUN apt-get update \
 && apt-get install -y --no-install-recommends ca-certificates \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt/* \
 && groupadd --gid 10001 tollhouse \
 && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /var/lib/tollhouse --shell /usr/sbin/nologin tollhouse \
 && install -d -o 10001 -g 10001 -m 0700 /var/lib/tollhouse
LABEL org.opencontainers.image.title="Tollhouse" \
      org.opencontainers.image.description="A reverse proxy that charges: x402 payments verified and settled in its own process." \
      org.opencontainers.image.licenses="Apache-2.0"
# A number, so that an orchestrator can see that it isn't root.
USER 10001:10001
# The one place that is written to; the rest of the file system may be read-only.
WORKDIR /var/lib/tollhouse
VOLUME /var/lib/tollhouse
ENTRYPOINT ["tollhouse"]

FROM runtime AS gateway
COPY --from=build /build/target/lto/tollhouse /usr/local/bin/tollhouse
COPY LICENSE /usr/share/doc/tollhouse/LICENSE
EXPOSE 8402
# By address: the configuration on disk may be a newer one than the gateway has taken up.
HEALTHCHECK --interval=10s --timeout=6s --start-period=30s CMD ["tollhouse", "health", "--url", "http://127.0.0.1:8403"]
CMD ["run", "--config", "/etc/tollhouse/gateway.toml"]

# --- With the chains, for trying things out.
FROM build AS build-dev
COPY tests/contracts/artifacts tests/contracts/artifacts
RUN cargo build --locked --profile lto --no-default-features --features dev,tls-rustls --bin tollhouse

FROM runtime AS dev
COPY --from=build-dev /build/target/lto/tollhouse /usr/local/bin/tollhouse
COPY LICENSE /usr/share/doc/tollhouse/LICENSE
CMD ["dev"]

# What `docker build` makes unless another one is asked for.
FROM gateway
