#!/usr/bin/env python3
"""Real x402 clients pay through the real gateway on real nodes; the last line is 'N passed, N failed'.

    tests/e2e/run.py [FILTER]        only the checks whose name contains FILTER

Wants: openssl; `npm ci` done in tests/node-tools and in each tests/e2e/node*; the virtualenvs tests/e2e/python/.venv-1
and .venv-2; `cargo build` done in tests/e2e/rust and tests/solana-node, into their own target folders; and the gateway
built. TOLLHOUSE_BIN names another binary than target/debug/tollhouse. tests/run.sh sees to all of it.
Everything listens on loopback, on free ports, and is stopped by its process id.
"""

import http.client
import pathlib
import signal
import sys
import tempfile
import time

from checks import checks
from harness import Failure
from shop import Shop


def run_check(name, check):
    started = time.monotonic()
    try:
        check()
    except (Failure, OSError, http.client.HTTPException) as failure:
        problem = str(failure) or repr(failure)
    except (KeyError, ValueError, TypeError, IndexError) as malformed:
        # What the gateway or a client answered doesn't have the shape that the check takes apart.
        problem = f"malformed answer: {malformed!r}"
    else:
        print(f"PASS {name} ({time.monotonic() - started:.1f} s)", flush=True)
        return True
    print(f"FAIL {name}\n     {problem}", flush=True)
    return False


def print_logs(shop):
    for process in shop.processes:
        print(f"--- last lines of {process.name} ---")
        print("\n".join(process.text().splitlines()[-80:]), flush=True)


def main():
    wanted = sys.argv[1] if len(sys.argv) > 1 else ""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    passed = failed = 0
    with tempfile.TemporaryDirectory(prefix="tollhouse-e2e-") as directory:
        shop = Shop(pathlib.Path(directory))
        try:
            if run_check("the shop opens", shop.open):
                for name, check in checks(shop):
                    if wanted in name:
                        passed, failed = (passed + 1, failed) if run_check(name, check) else (passed, failed + 1)
            else:
                failed += 1
            if failed:
                print_logs(shop)
        finally:
            shop.close()
    print(f"{passed} passed, {failed} failed")
    # A filter that fits nothing has checked nothing.
    return 0 if failed == 0 and passed > 0 else 1


if __name__ == "__main__":
    sys.exit(main())
