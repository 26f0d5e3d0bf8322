"""Waiting for what another thread or process does, and ports for it."""

import random
import socket
import time

PORTS = range(20_000, 32_000)
"""Below those that Linux gives to whoever asks for any: nobody but a test binds one of these."""


def until(condition, timeout_s=240.0):
    """Wait for a condition; returns what it gave last."""
    deadline = time.monotonic() + timeout_s
    while not (value := condition()) and time.monotonic() < deadline:
        time.sleep(0.02)
    return value


def free_port():
    """A port that nothing listens on, and that nothing is likely to take before it is used."""
    for port in random.SystemRandom().sample(PORTS, 100):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) and _binds(port):
                return port
    raise AssertionError("a hundred ports are taken")


def _binds(port):
    with socket.socket() as probe:
        try:
            probe.bind(("0.0.0.0", port))
        except OSError:
            return False
        return True
