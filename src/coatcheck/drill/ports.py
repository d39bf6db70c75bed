"""Ports that stay one listener's own, also while it is dead."""

import secrets
import socket
from typing import Final

# Below what operating systems give to connections (Linux from 32768, macOS from 49152): a port from there could be
# somebody's the moment its process is killed, and the next one could not listen.
_PORTS: Final = range(10_240, 32_768)
_given: Final[set[int]] = set()


def free_port() -> int:
    """Find a port that nobody listens on, and nobody is given again by this process."""
    while True:
        port = secrets.choice(_PORTS)
        if port in _given:
            continue
        try:
            with socket.create_server(("127.0.0.1", port)):
                _given.add(port)
                return port
        except OSError:
            continue
