"""A backend that lives in an environment of its own, looked at from outside it."""

from __future__ import annotations

from harness.backends.protocol import Availability
from harness.environments import interpreter, read_lock


def probe_from_outside(environment: str, package: str, device: str) -> Availability:
    """Whether the environment was made; its lock says what is in it.

    Args:
        environment: the name of its lock.
        package: whose version is the backend's.
        device: what it runs on.
    """
    lock = read_lock(environment)
    if interpreter(environment) is None:
        reason = f"not set up; `quantharness setup {environment}` makes its environment"
        return Availability(available=False, reason=f"{reason} ({lock.size})")
    version = lock.version(package)
    return Availability(available=True, version=version, device=device)
