"""The desired state of a host's networking, kept by the root helper and made so: bridges, filter, DHCP, routers."""

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import msgspec

from kilonova.agent.helper import names, nft_rules, validate
from kilonova.agent.helper.run import drop_namespace, ip, ip_try, links, namespaces, nft, run
from kilonova.agent.helper.settings import Settings
from kilonova.agent.helper.verbs import adverts, dhcp, public_interface, routers
from kilonova.agent.helper.verbs.announce import announce
from kilonova.agent.helper.verbs.living import Living
from kilonova.common.errors import KilonovaError, NotFound
from kilonova.common.log import get_logger
from kilonova.objects.netstate import (
    BEHIND,
    Change,
    Document,
    ForwardingState,
    GroupState,
    NetworkState,
    PortState,
    RouterState,
)

log = get_logger(__name__)
Item = tuple[str, str, int, str | None]
_ORDER = {"network": 0, "forwarding": 1, "group": 2, "port": 3, "router": 4}


def _kind(document: Document) -> str:
    return type(document).__name__.removesuffix("State").lower()


class PortUnknown(NotFound):
    """No such port is in force here."""

    code = "port_unknown"


class _Kept(msgspec.Struct):
    documents: list[Document] = []
    slots: dict[str, int] = {}


@dataclass
class _InForce:
    """What the kernel has, as text: chains per port, so that only what changed is written."""

    chains: dict[str, dict[str, list[str]]] = field(default_factory=dict)
    groups: set[str] = field(default_factory=set)


class HostState:
    """Everything wanted on this host. One lock: changes are made one after the other."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._file = settings.directory("net") / "desired.json"
        self._documents: dict[tuple[str, str], Document] = {}
        self._slots: dict[str, int] = {}  # port or network id -> 1 … 65534
        self._now = _InForce()
        self._living = Living(settings)
        if self._file.exists():
            kept = msgspec.json.decode(self._file.read_bytes(), type=_Kept)
            self._documents = {(_kind(d), d.id): self._light(d) for d in kept.documents}
            self._slots = kept.slots
        self._living.forget_others({id_ for kind, id_ in self._documents if kind == "network"})

    def _light(self, document: Document) -> Document:
        """Return a document as it is kept here: where MACs live is kept beside, per MAC."""
        if not isinstance(document, ForwardingState):
            return document
        if document.entries or document.peers:  # as earlier releases kept it
            return self._living.take(document)
        return document.replace(generation=self._living.generation(document.id) or 0)

    # -- what clients ask

    def apply(self, change: Change) -> list[Item]:
        """Put a change in force; return (kind, id, generation, error or None) for each document and removal."""
        with self._lock:
            items: list[Item] = []
            taken: list[Document] = []
            for document in change.documents:
                try:
                    validate.check(document)
                except validate.Refused as exc:
                    items.append((_kind(document), document.id, document.generation, exc.message))
                    continue
                known = self._documents.get((_kind(document), document.id))
                if known is not None and known.generation > document.generation:
                    items.append((_kind(document), document.id, known.generation, None))
                    continue
                if isinstance(document, ForwardingState) and self._living.lacks(document):
                    items.append((_kind(document), document.id, document.generation, BEHIND))
                    continue
                taken.append(document)
            gone = self._gone(change)
            items += self._make(taken, gone, change.full)
            items += [(kind, id_, generation, None) for kind, id_, generation in change.removed]
            self._keep()
            return items

    def restore(self) -> None:
        """Make everything that was kept, anew: after a start of the helper or of the machine."""
        with self._lock:
            known = self._documents.values()
            documents: list[Document] = []
            documents += (d for d in known if not isinstance(d, ForwardingState))  # kept beside
            for kind, id_, _, error in self._make(documents, [], True):
                if error is not None:
                    log.warning("not restored", extra={"kind": kind, "id": id_, "why": error})

    def remove_all(self) -> None:
        with self._lock:
            for kind, id_ in sorted(self._documents, key=lambda k: -_ORDER[k[0]]):
                self._remove(kind, id_)
            self._documents.clear()
            self._slots.clear()
            self._reload_filter()
            self._sweep()
            self._keep()

    def plug(self, port_id: str) -> str:
        """Make the port's tap (a link of that name that is there already is taken) and put it into its bridge."""
        with self._lock:
            port = self._documents.get(("port", port_id))
            if not isinstance(port, PortState) or port_id not in self._now.chains:
                raise PortUnknown("the port is not in force on this host")
            network = self._documents.get(("network", port.network_id))
            if not isinstance(network, NetworkState):
                raise PortUnknown("the port's network is not in force on this host")
            ns, tap = names.host_ns(self._settings.tag), names.tap(port_id)
            if tap not in links(ns):
                ip([f"tuntap add dev {tap} mode tap"], ns)
            state = "up" if port.admin_up and network.admin_up else "down"
            bridge = self._bridge(network)
            ip([f"link set {tap} mtu {network.mtu} master {bridge} {state}"], ns)
            return tap

    def unplug(self, port_id: str) -> None:
        with self._lock:
            self._unplug(port_id)

    def _unplug(self, port_id: str) -> None:
        ip_try(f"link delete {names.tap(port_id)}", names.host_ns(self._settings.tag))

    def generations(self) -> list[tuple[str, str, int]]:
        with self._lock:
            return [(kind, id_, d.generation) for (kind, id_), d in self._documents.items()]

    # -- making it so

    def _gone(self, change: Change) -> list[tuple[str, str]]:
        gone = []
        for kind, id_, generation in change.removed:
            known = self._documents.get((kind, id_))
            if known is not None and known.generation <= generation:
                gone.append((kind, id_))
        if change.full:
            wanted = {(_kind(d), d.id) for d in change.documents}
            # Where MACs live may come by itself, after a full state that would be too long with it.
            wanted |= {("forwarding", id_) for kind, id_ in wanted if kind == "network"}
            gone += [key for key in self._documents if key not in wanted]
        return gone

    def _make(self, taken: list[Document], gone: list[tuple[str, str]], full: bool) -> list[Item]:
        touched = self._networks_of(gone)
        for kind, id_ in sorted(set(gone), key=lambda k: -_ORDER[k[0]]):
            self._remove(kind, id_)
        taken = sorted(taken, key=lambda d: _ORDER[_kind(d)])
        arrived = [d for d in taken if isinstance(d, PortState) and self._arrives(d)]
        errors: dict[tuple[str, str], str] = {}
        for document in taken:
            if isinstance(document, ForwardingState) and not self._has_network(document.id):
                errors["forwarding", document.id] = "its network is not in force on this host"
            elif isinstance(document, ForwardingState):
                self._documents["forwarding", document.id] = self._living.take(document)
            else:
                self._documents[_kind(document), document.id] = document
        for document in taken:
            if isinstance(document, NetworkState):
                self._try(errors, document, partial(self._network, document))
                touched.add(document.id)
            elif isinstance(document, PortState):
                touched.add(document.network_id)
        linked = {d.id: d for d in taken if isinstance(d, (NetworkState, ForwardingState))}
        for id_, document in linked.items():  # the forwarding one where both came
            self._try(errors, document, partial(self._tunnel, id_, full))
        self._guard(errors, full)
        self._filter(taken, gone, full, errors)
        for port in arrived:
            self._try(errors, port, partial(self._announce, port))
        for document in taken:
            if isinstance(document, RouterState):
                self._try(errors, document, partial(self._router, document))
        for network_id in sorted(touched):
            network = self._documents.get(("network", network_id))
            if isinstance(network, NetworkState):
                self._try(errors, network, partial(self._dhcp, network))
        for id_, document in linked.items():
            self._try(errors, document, partial(self._names, id_, full))
        if full:
            self._sweep()
        return [(_kind(d), d.id, d.generation, errors.get((_kind(d), d.id))) for d in taken]

    def _networks_of(self, keys: list[tuple[str, str]]) -> set[str]:
        ports = (self._documents.get(key) for key in keys)
        return {port.network_id for port in ports if isinstance(port, PortState)}

    def _try(
        self, errors: dict[tuple[str, str], str], document: Document, do: Callable[[], None]
    ) -> None:
        try:
            do()
        except (KilonovaError, OSError, ValueError) as exc:
            text = str(exc)
            errors[_kind(document), document.id] = text
            log.warning("not applied", extra={"id": document.id, "why": text})

    def _bridge(self, network: NetworkState) -> str:
        return names.EXTERNAL if network.external else names.bridge(network.id)

    def _network(self, network: NetworkState) -> None:
        ns = names.host_ns(self._settings.tag)
        bridge = self._bridge(network)
        lines = []
        if bridge not in links(ns):
            lines.append(f"link add {bridge} type bridge forward_delay 0 stp_state 0")
        if not network.external:
            lines.append(
                f"link set {bridge} mtu {network.mtu} {'up' if network.admin_up else 'down'}"
            )
        ip(lines, ns)

    def _tunnel(self, network_id: str, anew: bool) -> None:
        network = self._documents.get(("network", network_id))
        if isinstance(network, NetworkState):
            self._living.tunnel(network, anew=anew)

    def _guard(self, errors: dict[tuple[str, str], str], anew: bool) -> None:
        try:
            self._living.guard(anew=anew)
        except KilonovaError as exc:
            log.warning("tunnels are not guarded", extra={"why": exc.message})
            for key in (k for k in self._documents if k[0] == "forwarding"):
                errors.setdefault(key, exc.message)

    def _has_network(self, network_id: str) -> bool:
        return ("network", network_id) in self._documents

    def _arrives(self, port: PortState) -> bool:
        """Tell whether a port's traffic comes to this host, which had prepared for it."""
        known = self._documents.get(("port", port.id))
        return isinstance(known, PortState) and port.active and not known.active

    def _announce(self, port: PortState) -> None:
        ns, device = names.host_ns(self._settings.tag), names.bridge(port.network_id)
        announce(ns, device, port.mac, [address for address, _ in port.addresses])

    def _dhcp(self, network: NetworkState) -> None:
        ports = [
            d for d in self._documents.values()
            if isinstance(d, PortState) and d.network_id == network.id and d.active
        ]  # fmt: skip
        dhcp.ensure(self._settings, network, ports)

    def _names(self, network_id: str, anew: bool) -> None:
        network = self._documents.get(("network", network_id))
        if isinstance(network, NetworkState):
            self._living.names(network, anew=anew)

    def _router(self, router: RouterState) -> None:
        routers.ensure(self._settings.tag, router, public_interface.of(self._settings))
        adverts.ensure(self._settings, router)

    def _slot(self, id_: str) -> int:
        slot = self._slots.get(id_)
        if slot is None:
            taken = set(self._slots.values())
            slot = next(n for n in range(1, 65535) if n not in taken)
            self._slots[id_] = slot
        return slot

    def _remove(self, kind: str, id_: str) -> None:
        document = self._documents.pop((kind, id_), None)
        if isinstance(document, PortState):
            self._unplug(id_)
        elif isinstance(document, RouterState):
            adverts.remove(self._settings, id_)
            routers.remove(self._settings.tag, id_)
        elif isinstance(document, ForwardingState):
            self._living.remove(id_)
        elif isinstance(document, NetworkState):
            self._documents.pop(("forwarding", id_), None)
            self._living.remove(id_)
            dhcp.remove(self._settings, id_)
            if not document.external:
                ip_try(f"link delete {names.bridge(id_)}", names.host_ns(self._settings.tag))

    # -- the packet filter

    def _filter(
        self, taken: list[Document], gone: list[tuple[str, str]], full: bool,
        errors: dict[tuple[str, str], str],
    ) -> None:  # fmt: skip
        """Write what changed as one transaction; when the kernel is not as we think, everything anew."""
        wanted = self._wanted(taken, errors)
        if not full:
            lines = self._changed_lines(taken, gone, wanted)
            if not lines:
                return
            try:
                nft("\n".join(lines) + "\n", names.host_ns(self._settings.tag))
            except KilonovaError as exc:
                log.warning("filter written anew", extra={"why": exc.message})
            else:
                self._filter_done(gone, wanted)
                return
        try:
            for port_id in self._reload_filter():
                errors.setdefault(("port", port_id), "its rules are not taken by the packet filter")
        except KilonovaError as exc:
            for document in taken:
                if isinstance(document, (PortState, GroupState)):
                    errors.setdefault((_kind(document), document.id), exc.message)

    def _wanted(
        self, taken: list[Document], errors: dict[tuple[str, str], str]
    ) -> dict[str, dict[str, list[str]]]:
        """Return chains per port for every port that a change touches."""
        networks = {d.id for d in taken if isinstance(d, NetworkState)}
        wanted: dict[str, dict[str, list[str]]] = {}
        for document in list(self._documents.values()):
            if not isinstance(document, PortState):
                continue
            if document not in taken and document.network_id not in networks:
                continue
            try:
                wanted[document.id] = self._chains(document)
            except (ValueError, KilonovaError) as exc:
                errors["port", document.id] = str(exc)
        return wanted

    def _chains(self, port: PortState) -> dict[str, list[str]]:
        network = self._documents.get(("network", port.network_id))
        subnets = network.subnets if isinstance(network, NetworkState) else ()
        servers = tuple(s.dhcp_server for s in subnets if s.dhcp_server is not None)
        return nft_rules.port_chains(port, self._slot(port.id), servers)

    def _changed_lines(
        self, taken: list[Document], gone: list[tuple[str, str]],
        wanted: dict[str, dict[str, list[str]]],
    ) -> list[str]:  # fmt: skip
        lines: list[str] = []
        for document in taken:
            if isinstance(document, NetworkState) and not document.external:
                lines.append(nft_rules.zone_line(document.id, self._slot(document.id)))
            elif isinstance(document, GroupState):
                lines += nft_rules.group_lines(document)
        for port_id, chains in wanted.items():
            port = self._documents["port", port_id]
            if isinstance(port, PortState):
                for group in sorted(nft_rules.groups_of(port) - self._now.groups):
                    lines += nft_rules.group_lines(self._group(group))
            old = self._now.chains.get(port_id)
            if old == chains:
                continue
            if old is not None and old.keys() != chains.keys():
                lines += nft_rules.port_removal(old, port_id, self._slot(port_id))
            lines += nft_rules.port_lines(chains, port_id, self._slot(port_id))
        for kind, id_ in gone:
            if kind == "port" and id_ in self._now.chains:
                lines += nft_rules.port_removal(self._now.chains[id_], id_, self._slot(id_))
        for group in sorted(self._unnamed(gone)):
            lines += nft_rules.group_removal(group)
        return lines

    def _unnamed(self, gone: list[tuple[str, str]]) -> set[str]:
        """Return the groups of ``gone`` whose sets are in force and that no port names."""
        groups = {id_ for kind, id_ in gone if kind == "group"} & self._now.groups
        for document in self._documents.values() if groups else ():
            if isinstance(document, PortState):
                groups -= nft_rules.groups_of(document)
        return groups

    def _filter_done(
        self, gone: list[tuple[str, str]], wanted: dict[str, dict[str, list[str]]]
    ) -> None:
        self._now.chains.update(wanted)
        self._now.groups -= self._unnamed(gone)
        for kind, id_ in gone:
            if kind == "port":
                self._now.chains.pop(id_, None)
            if kind in ("port", "network"):
                self._slots.pop(id_, None)
        for document in self._documents.values():
            if isinstance(document, GroupState):
                self._now.groups.add(document.id)
            elif isinstance(document, PortState):
                self._now.groups |= nft_rules.groups_of(document)

    def _group(self, group_id: str) -> GroupState | str:
        document = self._documents.get(("group", group_id))
        return document if isinstance(document, GroupState) else group_id

    def _reload_filter(self) -> set[str]:
        """Replace the whole filter in one transaction: it also repairs what somebody else removed.

        Returns ports that the kernel does not take: they are left out, which cuts them off and nobody else.
        """
        ports = {d.id: d for d in self._documents.values() if isinstance(d, PortState)}
        chains: dict[str, dict[str, list[str]]] = {}
        bad: set[str] = set()
        for port_id, port in ports.items():
            try:
                chains[port_id] = self._chains(port)
            except (ValueError, KilonovaError) as exc:
                log.warning("a port without rules", extra={"id": port_id, "why": str(exc)})
                bad.add(port_id)
        groups = {d.id for d in self._documents.values() if isinstance(d, GroupState)}
        for port in ports.values():
            groups |= nft_rules.groups_of(port)
        try:
            self._load(chains, groups)
        except KilonovaError:
            refused = {id_ for id_ in chains if not self._loads({id_: chains[id_]}, groups)}
            log.warning("ports left out of the filter", extra={"ports": sorted(refused)})
            bad |= refused
            chains = {id_: of_port for id_, of_port in chains.items() if id_ not in refused}
            self._load(chains, groups)
        self._now = _InForce(chains=chains, groups=groups)
        live = {id_ for _, id_ in self._documents}
        self._slots = {id_: slot for id_, slot in self._slots.items() if id_ in live}
        return bad

    def _whole(self, chains: dict[str, dict[str, list[str]]], groups: set[str]) -> str:
        text = [nft_rules.CLEAR.format("bridge"), nft_rules.CLEAR.format("inet"), nft_rules.BASE]
        for network in self._documents.values():
            if isinstance(network, NetworkState) and not network.external:
                text.append(nft_rules.zone_line(network.id, self._slot(network.id)))
        for group in sorted(groups):
            text += nft_rules.group_lines(self._group(group))
        for port_id, of_port in chains.items():
            text += nft_rules.port_lines(of_port, port_id, self._slot(port_id))
        return "\n".join(text) + "\n"

    def _load(self, chains: dict[str, dict[str, list[str]]], groups: set[str]) -> None:
        nft(self._whole(chains, groups), names.host_ns(self._settings.tag))

    def _loads(self, chains: dict[str, dict[str, list[str]]], groups: set[str]) -> bool:
        text = self._whole(chains, groups)
        try:
            run(["nft", "-c", "-f", "-"], ns=names.host_ns(self._settings.tag), text=text)
        except KilonovaError:
            return False
        return True

    # -- what must not be there

    def _sweep(self) -> None:
        """Remove namespaces, bridges and taps of ours that no document wants."""
        tag, ns = self._settings.tag, names.host_ns(self._settings.tag)
        wanted, keep = {ns}, set()
        for document in self._documents.values():
            if isinstance(document, NetworkState):
                wanted.add(names.dhcp_ns(tag, document.id))
                keep |= {names.bridge(document.id), names.dhcp_link(document.id)}
                keep |= {names.dhcp_dns_link(document.id), names.tunnel(document.id)}
            elif isinstance(document, PortState):
                keep.add(names.tap(document.id))
            elif isinstance(document, RouterState):
                wanted.add(names.router_ns(tag, document.id))
                keep |= {names.router_link(leg.port_id) for leg in document.interfaces}
                if document.gateway is not None:
                    keep.add(names.router_link(document.gateway.port_id))
        routers_here = {id_ for kind, id_ in self._documents if kind == "router"}
        adverts.sweep(self._settings, routers_here)
        for name in namespaces():
            if names.is_ours(name, tag) and name not in wanted:
                drop_namespace(name)
        for link in links(ns):
            if link[:4] in ("kn-b", "kn-t", "kn-r", "kn-x") and link not in keep:
                ip_try(f"link delete {link}", ns)

    def _keep(self) -> None:
        body = msgspec.json.encode(_Kept(list(self._documents.values()), self._slots))
        scratch = self._file.with_suffix(".new")
        scratch.write_bytes(body)
        os.chmod(scratch, 0o600)
        os.replace(scratch, self._file)
