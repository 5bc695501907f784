"""Hosts: each is in one cell, mapped there, and has a resource provider."""

from kilonova.objects.base import encode
from kilonova.objects.host import HostAsk
from kilonova.operations.services import Services
from kilonova.reconcile.finding import Finding, repaired
from kilonova.reconcile.picture import Picture

EVERY_S = 300.0
_AGAIN = "The host is asked to register again."


def look(picture: Picture) -> list[Finding]:
    """Compare host records, mappings and providers."""
    found = []
    mapped, providers = picture.world["hosts"], picture.world["providers"]
    for cell, what in picture.cells.items():
        for host, row in what["hosts"].items():
            mapping = mapped.get(host)
            if mapping is None:
                text = f"Host {host} of cell {cell} is not mapped: no server can be found on it."
                found.append(
                    Finding(
                        kind="host_unmapped", subject=host, where=cell, message=text, repair=_AGAIN
                    )
                )
            elif mapping["cell"] != cell or mapping["host_id"] != row["host_id"]:
                text = f"Host {host} is in cell {cell}, and mapped to {mapping['cell']} with another identity or cell."
                found.append(
                    Finding(kind="host_in_two_cells", subject=host, where=cell, message=text)
                )
            if providers.get(host) != row["uuid"]:
                text = (
                    f"Host {host} has no resource provider of its own: nothing can be placed there."
                )
                found.append(
                    Finding(
                        kind="provider_missing",
                        subject=host,
                        where=cell,
                        message=text,
                        repair=_AGAIN,
                    )
                )
    for host, mapping in mapped.items():
        cell = mapping["cell"]
        if cell in picture.cells and host not in picture.cells[cell]["hosts"]:
            text = f"Host {host} is mapped to cell {cell}, which does not know it."
            found.append(
                Finding(kind="host_missing", subject=host, where=cell, message=text, repair=_AGAIN)
            )
    return found


def mend(services: Services, finding: Finding) -> bool:
    """Ask the host to introduce itself; what is missing is made then."""
    body = encode(HostAsk(host=finding.subject, what="register"))
    services.bus.publish(f"agent.{finding.subject}.state", body)
    return True


def run(services: Services) -> list[Finding]:
    """Look and repair."""
    return repaired(services, look, mend)
