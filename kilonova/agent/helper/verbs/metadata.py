"""The listening socket of the metadata service, opened inside a network's namespace and handed over."""

import socket

from kilonova.agent.helper import names
from kilonova.agent.helper.run import inside, namespaces
from kilonova.agent.helper.validate import uuid_
from kilonova.common.errors import NotFound

ADDRESS = ("169.254.169.254", 80)


class NoNamespace(NotFound):
    """The network has no DHCP namespace on this host."""

    code = "no_namespace"


def open_socket(tag: str, network_id: str) -> socket.socket:
    """Return a socket that listens on 169.254.169.254:80 in the network's namespace; the caller closes its copy.

    Raises NoNamespace, OSError (EADDRINUSE while another process serves it).
    """
    uuid_(network_id, "network_id")
    ns = names.dhcp_ns(tag, network_id)
    if ns not in namespaces():
        raise NoNamespace("the network has no namespace on this host")

    def make() -> socket.socket:
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(ADDRESS)
            sock.listen(128)
        except OSError:
            sock.close()
            raise
        return sock

    return inside(ns, make)
