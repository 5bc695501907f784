"""Where the MACs of this host's networks live: kept per MAC, so that a change of one port costs as much as one port.

A file per network has the whole in its first line and differences below; it is written anew when those outweigh it.
What the kernel and dnsmasq have is changed by the same differences, and compared whole after a start, for a full state,
and where a difference was not taken.
"""

import os
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from kilonova.agent.helper.run import CommandFailed, nft
from kilonova.agent.helper.settings import Settings
from kilonova.agent.helper.verbs import dhcp, tunnels
from kilonova.common.ids import is_uuid
from kilonova.common.log import get_logger
from kilonova.objects.netstate import ForwardingEntry, ForwardingState, NetworkState

log = get_logger(__name__)
OUTWEIGHED = 1000  # entries in differences, at least, before a file is written anew
_LINE = msgspec.json.Decoder(ForwardingState)


@dataclass
class _Network:
    """One network. was: MAC -> what the kernel has of it, of those that changed since; were: peers, likewise.

    named: the domain under which dnsmasq has the names, None: it has to be told all. renamed: MACs since then.
    """

    generation: int = -1
    entries: dict[str, ForwardingEntry] = field(default_factory=dict)
    peers: set[str] = field(default_factory=set)
    written: int = 0  # entries in the differences of its file
    made: tuple[object, ...] | None = None
    was: dict[str, ForwardingEntry | None] = field(default_factory=dict)
    were: set[str] | None = None
    named: str | None = None
    renamed: dict[str, ForwardingEntry | None] = field(default_factory=dict)

    def put(self, mac: str, entry: ForwardingEntry | None) -> None:
        old = self.entries.get(mac)
        if old == entry:
            return
        self.was.setdefault(mac, old)
        self.renamed.setdefault(mac, old)
        if entry is None:
            del self.entries[mac]
        else:
            self.entries[mac] = entry

    def set_peers(self, peers: set[str]) -> None:
        if peers != self.peers:
            self.were = self.peers if self.were is None else self.were
            self.peers = peers

    def take(self, state: ForwardingState) -> None:
        if state.base is None:
            wanted = {e.mac: e for e in state.entries}
            for mac in self.entries.keys() - wanted.keys():
                self.put(mac, None)
            self.set_peers(set(state.peers))
        else:
            for mac in state.gone:
                self.put(mac, None)
            self.set_peers((self.peers | set(state.peers)) - set(state.peers_gone))
        for entry in state.entries:
            self.put(entry.mac, entry)
        self.generation = max(self.generation, state.generation)

    def whole(self, network_id: str) -> ForwardingState:
        return ForwardingState(
            id=network_id,
            generation=self.generation,
            entries=tuple(self.entries.values()),
            peers=tuple(sorted(self.peers)),
        )

    def differences(self) -> list[tunnels.Difference]:
        return [(was, self.entries.get(mac)) for mac, was in self.was.items()]


class Living:
    """Of one host; the caller has a lock."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._networks: dict[str, _Network] = {}
        self._guarded: set[str] | None = None  # who may send to the tunnels
        self._directory = settings.directory_root / "net" / "living"
        for path in self._directory.iterdir() if self._directory.is_dir() else ():
            self._read(path)

    # -- what is known

    def generation(self, network_id: str) -> int | None:
        """Return the generation of what is known of a network, None for nothing."""
        known = self._networks.get(network_id)
        return None if known is None else known.generation

    def lacks(self, state: ForwardingState) -> bool:
        """Tell whether this is a difference to something that is not known here."""
        known = self._networks.get(state.id)
        return state.base is not None and (known is None or known.generation < state.base)

    def take(self, state: ForwardingState) -> ForwardingState:
        """Note a state or difference that does not lack its base; return it without what is kept here."""
        known = self._networks.setdefault(state.id, _Network())
        known.take(state)
        known.written += len(state.entries) + len(state.gone)
        if state.base is None or known.written > max(OUTWEIGHED, len(known.entries)):
            self._write(state.id, known)
        else:
            with (self._directory / state.id).open("ab") as file:
                file.write(msgspec.json.encode(state) + b"\n")
        return ForwardingState(id=state.id, generation=known.generation)

    def forget_others(self, networks: set[str]) -> None:
        """Forget what is known of all but these; their tunnels are swept."""
        for network_id in self._networks.keys() - networks:
            del self._networks[network_id]
            (self._directory / network_id).unlink(missing_ok=True)

    def remove(self, network_id: str) -> None:
        """Forget a network, and remove its tunnel; fine when there is none."""
        self._networks.pop(network_id, None)
        (self._directory / network_id).unlink(missing_ok=True)
        tunnels.remove(self._settings.tag, network_id)

    # -- files

    def _write(self, network_id: str, known: _Network) -> None:
        path = self._settings.directory("net", "living") / network_id
        scratch = path.with_suffix(".new")
        scratch.write_bytes(msgspec.json.encode(known.whole(network_id)) + b"\n")
        os.chmod(scratch, 0o600)
        os.replace(scratch, path)
        known.written = 0

    def _read(self, path: Path) -> None:
        """Read a file as far as it is whole: what a power cut took is told again, for its generation is missing."""
        known = _Network()
        try:
            for line in path.read_bytes().splitlines():
                known.take(_LINE.decode(line))
        except msgspec.MsgspecError as exc:
            log.warning("a file is not whole", extra={"path": str(path), "why": str(exc)})
        if known.generation < 0 or not is_uuid(path.name):
            path.unlink()
            return
        self._write(path.name, known)
        self._networks[path.name] = known

    # -- kernel and names

    def guard(self, *, anew: bool) -> None:
        """Let the hosts that share a network with this one send to its tunnels, and nobody else."""
        peers: set[str] = set().union(*(n.peers for n in self._networks.values()))
        if anew or peers != self._guarded:
            self._guarded = None
            nft(tunnels.guard(self._settings, peers))
            self._guarded = peers

    def tunnel(self, network: NetworkState, *, anew: bool) -> None:
        """Let the kernel have what is known of a network. anew: compare all of it. Raises KilonovaError."""
        known = self._networks.get(network.id)
        underlay = tunnels.underlay_of(self._settings)
        if known is None or underlay is None or network.external:
            tunnels.remove(self._settings.tag, network.id)
            return
        shape = (network.segment, network.external, underlay)
        same, known.made = known.made == shape and not anew, None
        if tunnels.link(self._settings.tag, network, underlay) or not same:
            tunnels.ensure(self._settings.tag, underlay, known.whole(network.id))
        else:
            were = known.peers if known.were is None else known.were
            try:
                tunnels.change(
                    self._settings.tag,
                    underlay,
                    network.id,
                    known.differences(),
                    (were, known.peers),
                )
            except CommandFailed as exc:
                log.warning("entries compared anew", extra={"id": network.id, "why": exc.message})
                tunnels.ensure(self._settings.tag, underlay, known.whole(network.id))
        known.made, known.was, known.were = shape, {}, None

    def names(self, network: NetworkState, *, anew: bool) -> None:
        """Let guests find each other by name across hosts; nothing where no dnsmasq runs."""
        known = self._networks.get(network.id)
        if known is None:
            dhcp.tell_names(self._settings, network, ())
            return
        came = [e for m in known.renamed if (e := known.entries.get(m)) is not None]
        left = any(old is not None and old.hostname for old in known.renamed.values())
        if anew or known.named != network.dns_domain or left:
            told = dhcp.tell_names(self._settings, network, known.entries.values())
        else:
            told = not came or dhcp.add_names(self._settings, network, came)
        known.named = network.dns_domain if told else None
        known.renamed = {}
