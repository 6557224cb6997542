"""Addresses of Ray clusters, as people write them, and whether anybody listens there."""

import re
import socket
from typing import NamedTuple

FORMS = "auto, HOST:PORT, [IPV6]:PORT or ray://HOST:PORT"
CONNECT = 2.0
"""Seconds that a connection may take; a cluster is near."""


class NoCluster(RuntimeError):
    """The Ray cluster asked for cannot be used; the message is for the person who asked."""


class Address(NamedTuple):
    """Where a cluster is: the host and port of its head, or of its server for clients."""

    host: str
    port: int
    client: bool  # ray://


def parse(address: str) -> Address | None:
    """The parts of an address; None for `auto`, the cluster on this machine. Raises `NoCluster` for anything else."""
    if address == "auto":
        return None
    match = re.fullmatch(r"(ray://)?(\[[0-9A-Fa-f:.]+(?:%\w+)?\]|[\w.-]+):(\d{1,5})", address)
    if not match or not 0 < int(match[3]) < 1 << 16:
        raise NoCluster(f"{address!r} is no address of a Ray cluster; it should be {FORMS}")
    return Address(match[2].strip("[]"), int(match[3]), bool(match[1]))


def reach(address: str) -> None:
    """Connect once and hang up. Raises `NoCluster` in a sentence when nobody listens."""
    where = parse(address)
    if where is None:
        return
    try:
        socket.create_connection((where.host, where.port), CONNECT).close()
    except socket.gaierror:
        raise NoCluster(f"no Ray cluster at {address}: the host name {where.host} is not known") from None
    except TimeoutError:
        raise NoCluster(f"no Ray cluster at {address}: no connection within {CONNECT:.0f} s") from None
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise NoCluster(f"no Ray cluster at {address}: {reason}") from None
