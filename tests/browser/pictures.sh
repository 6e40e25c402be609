#!/usr/bin/env bash
# Takes the README's pictures from what the last run of tests/browser/run.mjs left in target/browser.
#
#   tests/browser/pictures.sh [DIR]
set -euo pipefail
cd "$(dirname "$0")/../.."
from=${1:-target/browser}
mkdir -p docs/images
for theme in light dark; do
  cp "$from/dashboard-many-desk-$theme.png" "docs/images/dashboard-$theme.png"
  cp "$from/payment-ready-desk-$theme.png" "docs/images/payment-$theme.png"
done
cp "$from/dashboard-owed-phone-light.png" docs/images/dashboard-phone.png
