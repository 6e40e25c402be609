"""What a check needs, whatever it checks: failures in words, child processes, free ports."""

import contextlib
import http.client
import os
import random
import socket
import subprocess
import time

START_TIMEOUT_SECS = 60


class Failure(Exception):
    """A check that didn't hold, in words."""


def expect(holds, message):
    if not holds:
        raise Failure(message)


def expect_equal(what, actual, expected):
    expect(actual == expected, f"{what}: expected {expected!r}, got {actual!r}")


def same_hex(what, actual, expected):
    expect_equal(what, (actual or "").lower(), expected.lower())


def free_port():
    """A port nobody listens on, below the range that outgoing connections are given theirs from."""
    while True:
        port = random.randrange(10_000, 32_000)
        with socket.socket() as listener, contextlib.suppress(OSError):
            listener.bind(("127.0.0.1", port))
            return port


def child_environment(**extra):
    """This process's environment without proxies: everything here is on loopback."""
    kept = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    return kept | extra


class Process:
    """A child whose output goes to a file, so that a failure can show it."""

    def __init__(self, name, command, log_dir, stdin=subprocess.DEVNULL, **environment):
        self.name = name
        self.log = log_dir / f"{name}.log"
        with self.log.open("wb") as output:
            self.child = subprocess.Popen(
                [str(part) for part in command],
                stdout=output,
                stderr=subprocess.STDOUT,
                stdin=stdin,
                env=child_environment(**environment),
            )

    def wait_until(self, ready):
        deadline = time.monotonic() + START_TIMEOUT_SECS
        while time.monotonic() < deadline:
            if self.child.poll() is not None:
                raise Failure(f"{self.name} ended with {self.child.returncode} before it was ready")
            with contextlib.suppress(OSError, http.client.HTTPException):
                if ready():
                    return
            time.sleep(0.1)
        raise Failure(f"{self.name} wasn't ready within {START_TIMEOUT_SECS} s")

    def terminate(self, timeout_secs=20):
        """Asks it to end, and returns its exit code; None when it had to be killed."""
        if self.child.poll() is None:
            self.child.terminate()
            try:
                self.child.wait(timeout_secs)
            except subprocess.TimeoutExpired:
                self.child.kill()
                self.child.wait()
                return None
        return self.child.returncode

    def text(self):
        return self.log.read_text(errors="replace")
