"""Virtual environments of backends whose packages do not go with others."""

from harness.backends.environments.lock import Lock, locks, read_lock
from harness.backends.environments.store import (
    VARIABLE,
    folder_of,
    interpreter,
    is_inside,
    launch,
    remove,
    set_up,
    variables,
)

__all__ = [
    "VARIABLE",
    "Lock",
    "folder_of",
    "interpreter",
    "is_inside",
    "launch",
    "locks",
    "read_lock",
    "remove",
    "set_up",
    "variables",
]
