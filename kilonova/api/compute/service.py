"""The compute API as a mounted service: every noun's routes and rules in one list."""

from collections.abc import Mapping
from typing import Any

from kilonova.api import idempotency
from kilonova.api.compute import (
    aggregates,
    availability_zones,
    compute_services,
    extensions,
    external_events,
    flavor_access,
    flavor_extra_specs,
    flavors,
    hosts,
    hypervisors,
    instance_actions,
    keypairs,
    limits,
    migrations,
    proxies,
    quota_class_sets,
    quota_sets,
    rules,
    server_addresses,
    server_consoles,
    server_evacuate,
    server_fixed_ips,
    server_floating_ips,
    server_groups,
    server_images,
    server_inside,
    server_live,
    server_metadata,
    server_migrate,
    server_queries,
    server_rebuild,
    server_rescue,
    server_resize,
    server_security_groups,
    server_shelve,
    server_state,
    server_tags,
    server_unbuilt,
    server_volumes,
    tenant_usage,
    usage_audit_log,
    versions,
)
from kilonova.api.compute.servers import routes as servers
from kilonova.http import errors as forms
from kilonova.http.policy import Policy
from kilonova.http.service import ID_HEADER, Service

MOUNT = "/compute"
NOUNS: tuple[Any, ...] = (  # each module: ROUTES, RULES
    servers,
    flavors,
    flavor_extra_specs,
    flavor_access,
    keypairs,
    limits,
    quota_sets,
    quota_class_sets,
    tenant_usage,
    usage_audit_log,
    availability_zones,
    aggregates,
    server_groups,
    hypervisors,
    compute_services,
    hosts,
    server_metadata,
    server_tags,
    instance_actions,
    server_addresses,
    server_security_groups,
    server_fixed_ips,
    server_floating_ips,
    server_queries,
    server_volumes,
    migrations,
    external_events,
    extensions,
    server_images,
    server_rebuild,
    server_inside,
    server_live,
    server_shelve,
    server_rescue,
    server_state,
    server_resize,
    server_consoles,
    server_evacuate,
    server_migrate,
    server_unbuilt,
    proxies,
)


def defaults() -> dict[str, str]:
    """Return every rule of the compute API."""
    texts = {**rules.BASE, **rules.SERVERS}
    for noun in NOUNS:
        texts.update(noun.RULES)
    return texts


def service(overrides: Mapping[str, str] | None = None) -> Service:
    """Return the compute API. overrides: a policy file's content."""
    routes = [*versions.ROUTES]
    for noun in NOUNS:
        routes += noun.ROUTES
    return Service(
        name="compute",
        mount=MOUNT,
        routes=tuple(routes),
        policy=Policy(defaults(), overrides),
        render=forms.compute,
        once=idempotency.once,
        exact=True,
        microversions=versions.MICROVERSIONS,
        id_headers=("x-compute-request-id", ID_HEADER),
    )
