#!/bin/sh
# Makes the secrets of the shop of docker-compose.yml in its volume, where they aren't yet.
set -eu
umask 077
cd /var/lib/tollhouse

# random FILE: 32 bytes that nobody can guess, as a word.
random() {
  [ -s "$1" ] && return
  head -c 32 /dev/urandom | od -An -v -tx1 | tr -d ' \n' > "$1.new"
  mv "$1.new" "$1"
}

random admin-token
random ledger-password
(printf 'postgres://tollhouse:' && cat ledger-password && printf '@ledger/tollhouse') > ledger-url.new
mv ledger-url.new ledger-url

# The database's server is another user: it may come in, and read the one file that is for it.
chmod 0711 .
chmod 0444 ledger-password
