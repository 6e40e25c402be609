#!/bin/bash
# What docker-compose.yml uses of the entrypoint of the official image `postgres`, for the stand-in that tests/container.sh makes
# of Debian's packages where images can't be pulled.
set -euo pipefail
bin=$(echo /usr/lib/postgresql/*/bin)
if [[ ! -s $PGDATA/PG_VERSION ]]; then
  "$bin/initdb" --pgdata "$PGDATA" --username "$POSTGRES_USER" --pwfile "$POSTGRES_PASSWORD_FILE" \
    --auth-local trust --auth-host scram-sha-256 --encoding UTF8 --locale C.UTF-8
  "$bin/pg_ctl" --pgdata "$PGDATA" --options "-c listen_addresses=''" --wait start
  [[ $POSTGRES_DB == "$POSTGRES_USER" ]] && owned=$POSTGRES_USER || owned=$POSTGRES_DB
  psql --host /var/run/postgresql --username "$POSTGRES_USER" --dbname postgres --command "CREATE DATABASE $owned"
  "$bin/pg_ctl" --pgdata "$PGDATA" --mode fast --wait stop
  echo "host all all all scram-sha-256" >>"$PGDATA/pg_hba.conf"
fi
exec "$bin/postgres" -D "$PGDATA" -c listen_addresses='*'
