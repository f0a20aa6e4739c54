"""Ports for the coordinators of runs of several processes."""

import socket

_held = []


def free_port():
    """Returns a port of this machine that no other program gets while this process runs.

    It stays bound here; a coordinator can still listen on it, as gRPC shares ports.
    """
    held = socket.socket()
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    held.bind(("localhost", 0))
    _held.append(held)
    return held.getsockname()[1]
