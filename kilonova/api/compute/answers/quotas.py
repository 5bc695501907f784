"""What the API answers about limits, quotas and usage of projects."""

from kilonova.api.compute.schemas import quotas as s
from kilonova.http.answer import (
    AMOUNT,
    LINKS,
    NUMBER,
    TEXT,
    TEXT_OR_NULL,
    Field,
    Json,
    array,
    one,
    plain,
    shape,
)
from kilonova.http.microversion import Microversion

_ABSOLUTE = {
    "maxTotalRAMSize": Field(NUMBER),
    "maxTotalInstances": Field(NUMBER),
    "maxTotalCores": Field(NUMBER),
    "maxTotalKeypairs": Field(NUMBER),
    "maxServerMeta": Field(NUMBER),
    "maxServerGroups": Field(NUMBER),
    "maxServerGroupMembers": Field(NUMBER),
    "totalRAMUsed": Field(NUMBER),
    "totalCoresUsed": Field(NUMBER),
    "totalInstancesUsed": Field(NUMBER),
    "totalServerGroupsUsed": Field(NUMBER),
    "maxImageMeta": Field(NUMBER, until=38),
    "maxPersonality": Field(NUMBER, until=56),
    "maxPersonalitySize": Field(NUMBER, until=56),
    **{
        n: Field(NUMBER, until=35)
        for n in (
            "maxTotalFloatingIps",
            "maxSecurityGroups",
            "maxSecurityGroupRules",
            "totalFloatingIpsUsed",
            "totalSecurityGroupsUsed",
        )
    },
}
_NONE: Json = {"type": "array", "maxItems": 0}
LIMITS = one("limits", {"rate": Field(_NONE), "absolute": Field(plain(_ABSOLUTE))})

_PART = {"limit": Field(NUMBER), "in_use": Field(NUMBER), "reserved": Field(NUMBER)}
_SET = (
    {n: Field(NUMBER) for n in s.OWN}
    | {n: Field(NUMBER, until=56) for n in s.FILES}
    | {n: Field(NUMBER, until=35) for n in s.NETWORK}
)
_CLASS = {
    **_SET,
    **{n: Field(NUMBER, since=50) for n in ("server_groups", "server_group_members")},
    **{n: Field(NUMBER, until=49) for n in s.NETWORK},
}
_ID = {"id": Field(TEXT)}
QUOTAS = one("quota_set", {**_ID, **_SET})
QUOTAS_SET = one("quota_set", _SET)
QUOTAS_DETAIL = one(
    "quota_set", {**_ID, **{n: f._replace(schema=plain(_PART)) for n, f in _SET.items()}}
)
QUOTA_CLASS = one("quota_class_set", {**_ID, **_CLASS})
QUOTA_CLASS_SET = one("quota_class_set", _CLASS)

_USED = {
    "hours": Field(AMOUNT),
    "flavor": Field(TEXT),
    "instance_id": Field(TEXT),
    "name": Field(TEXT),
    "tenant_id": Field(TEXT),
    "memory_mb": Field(NUMBER),
    "local_gb": Field(NUMBER),
    "vcpus": Field(NUMBER),
    "started_at": Field(TEXT),
    "ended_at": Field(TEXT_OR_NULL),
    "state": Field(TEXT),
    "uptime": Field(NUMBER),
}
_TOTALS = ("total_local_gb_usage", "total_vcpus_usage", "total_memory_mb_usage", "total_hours")
_USAGE = {
    "tenant_id": Field(TEXT),
    "start": Field(TEXT),
    "stop": Field(TEXT),
    **{n: Field(AMOUNT) for n in _TOTALS},
    "server_usages": Field(array(_USED), always=False),
}


def _usage(v: Microversion) -> Json:
    """A project that used nothing is an empty object."""
    return {"anyOf": [shape(_USAGE, v), {"type": "object", "maxProperties": 0}]}


_MORE = Field(LINKS, since=40, always=False)
USAGES = plain({"tenant_usages": Field(array(_USAGE)), "tenant_usages_links": _MORE})
USAGE = plain({"tenant_usage": Field(_usage), "tenant_usage_links": _MORE})
