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
