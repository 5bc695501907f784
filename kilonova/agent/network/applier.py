"""The network of a real host: documents go to the root helper, reports to the network service."""

from kilonova.agent.network.fake import FakeFaults, FakeHostNetwork
from kilonova.agent.network.interface import HostNetwork, PlugFailed, PortNotReady

__all__ = ["FakeFaults", "FakeHostNetwork", "HostNetwork", "PlugFailed", "PortNotReady"]
