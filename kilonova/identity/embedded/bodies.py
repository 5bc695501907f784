"""Schemas of request bodies, after Keystone's. Those that carry passwords are secret: a refusal never shows a value."""

from typing import Any

from kilonova.http.schema import Schema

Json = dict[str, Any]
# some text that is not only blanks, and no control characters
_VISIBLE = r"^[^\u0000-\u001f\u007f]*[^\s\u0000-\u001f\u007f][^\u0000-\u001f\u007f]*$"


def name(longest: int = 255) -> Json:
    """Return the schema of a name."""
    return {"type": "string", "minLength": 1, "maxLength": longest, "pattern": _VISIBLE}


ID = {"type": "string", "minLength": 1, "maxLength": 64, "pattern": r"^[a-zA-Z0-9_.-]+$"}
REF = {"type": "string", "minLength": 1, "maxLength": 255}
TEXT = {"type": "string", "maxLength": 65535}
TEXT_OR_NONE = {"type": ["string", "null"], "maxLength": 65535}
BOOL = {"type": "boolean"}
PASSWORD = {"type": "string", "minLength": 1, "maxLength": 4096}
TAG = {"type": "string", "minLength": 1, "maxLength": 255, "pattern": r"^[^,/]*$"}
TAGS = {"type": "array", "items": TAG, "maxItems": 80, "uniqueItems": True}
URL = {
    "type": "string",
    "maxLength": 2048,
    "pattern": r"^[a-zA-Z0-9+.-]+://[^\s\u0000-\u001f\u007f]+$",
}


def _object(properties: Json, required: tuple[str, ...] = (), more: bool = False) -> Json:
    return {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": more,
    }


def wrapped(
    noun: str,
    properties: Json,
    required: tuple[str, ...] = (),
    secret: bool = False,
    more: bool = True,
    least: int = 0,
) -> Schema:
    """Return the schema of ``{noun: {...}}``. more: other attributes are kept beside (Keystone's "extra")."""
    inner = _object(properties, required, more)
    if least:
        inner["minProperties"] = least
    return Schema(_object({noun: inner}, (noun,)), secret=secret)


_DOMAIN = {
    "type": "object",
    "properties": {"id": REF, "name": REF},
    "anyOf": [{"required": ["id"]}, {"required": ["name"]}],
}
_BY_ID_OR_NAME: Json = {
    "anyOf": [{"required": ["id"]}, {"required": ["name", "domain"]}],
}
_USER: Json = {"id": REF, "name": REF, "domain": _DOMAIN}
_SCOPE = {
    "anyOf": [
        {"type": "string", "enum": ["unscoped"]},
        {
            "type": "object",
            "properties": {
                "unscoped": {"type": "object"},
                "project": {
                    "type": "object",
                    "properties": {"id": REF, "name": REF, "domain": _DOMAIN},
                    **_BY_ID_OR_NAME,
                },
                "domain": _DOMAIN,
                "system": {
                    "type": "object",
                    "properties": {"all": {"const": True}},
                    "required": ["all"],
                },
            },
            "additionalProperties": False,
            "minProperties": 1,
            "maxProperties": 1,
        },
    ]
}
AUTH = Schema(
    _object(
        {
            "auth": _object(
                {
                    "identity": {
                        "type": "object",
                        "properties": {
                            "methods": {
                                "type": "array",
                                "items": {"type": "string", "maxLength": 64},
                                "minItems": 1,
                                "maxItems": 8,
                            },
                            "password": _object(
                                {
                                    "user": {
                                        "type": "object",
                                        "properties": {
                                            **_USER,
                                            "password": {**PASSWORD, "minLength": 0},
                                        },
                                        "required": ["password"],
                                        **_BY_ID_OR_NAME,
                                    }
                                },
                                ("user",),
                            ),
                            "token": _object(
                                {"id": {"type": "string", "maxLength": 4096}}, ("id",)
                            ),
                            "application_credential": {
                                "type": "object",
                                "properties": {
                                    "id": REF,
                                    "name": REF,
                                    "secret": PASSWORD,
                                    "user": {
                                        "type": "object",
                                        "properties": _USER,
                                        **_BY_ID_OR_NAME,
                                    },
                                },
                                "required": ["secret"],
                                "anyOf": [{"required": ["id"]}, {"required": ["name", "user"]}],
                            },
                        },
                        "required": ["methods"],
                    },
                    "scope": _SCOPE,
                },
                ("identity",),
            )
        },
        ("auth",),
    ),
    secret=True,
)

_project: Json = {
    "name": name(64),
    "description": TEXT_OR_NONE,
    "enabled": BOOL,
    "domain_id": {**ID, "type": ["string", "null"]},
    "parent_id": {**ID, "type": ["string", "null"]},
    "is_domain": {"const": False},
    "tags": TAGS,
    "options": {"type": "object", "maxProperties": 20},
}
PROJECT_CREATE = wrapped("project", _project, ("name",))
PROJECT_UPDATE = wrapped("project", _project)
PROJECT_TAGS = Schema(_object({"tags": TAGS}, ("tags",)))
_domain: Json = {
    "name": name(64),
    "description": TEXT_OR_NONE,
    "enabled": BOOL,
    "explicit_domain_id": {"type": "string", "pattern": "^[0-9a-f]{32}$"},
    "tags": {"type": "array", "maxItems": 0},
    "options": {"type": "object", "maxProperties": 20},
}
DOMAIN_CREATE = wrapped("domain", _domain, ("name",))
DOMAIN_UPDATE = wrapped("domain", _domain)
_user: Json = {
    "name": name(255),
    "description": TEXT_OR_NONE,
    "enabled": BOOL,
    "domain_id": ID,
    "default_project_id": {"type": ["string", "null"], "maxLength": 64},
    "password": {**PASSWORD, "type": ["string", "null"]},
    "email": {"type": ["string", "null"], "maxLength": 255},
    "options": {"type": "object", "maxProperties": 20},
}
USER_CREATE = wrapped("user", _user, ("name",), secret=True)
USER_UPDATE = wrapped("user", _user, secret=True)
PASSWORD_CHANGE = wrapped(
    "user",
    {"password": PASSWORD, "original_password": PASSWORD},
    ("password", "original_password"),
    secret=True,
    more=False,
)
_group: Json = {"name": name(64), "description": TEXT_OR_NONE, "domain_id": ID}
GROUP_CREATE = wrapped("group", _group, ("name",))
GROUP_UPDATE = wrapped("group", _group)
_role: Json = {
    "name": name(255),
    "description": TEXT_OR_NONE,
    "domain_id": {**ID, "type": ["string", "null"]},
    "options": {"type": "object", "maxProperties": 20},
}
ROLE_CREATE = wrapped("role", _role, ("name",))
ROLE_UPDATE = wrapped("role", _role)
_region: Json = {
    "id": {"type": "string", "maxLength": 255},
    "description": TEXT_OR_NONE,
    "parent_region_id": {"type": ["string", "null"], "maxLength": 255},
}
REGION_CREATE = wrapped("region", _region)
REGION_UPDATE = wrapped("region", _region)
_service: Json = {
    "type": name(255),
    "name": {"type": "string", "maxLength": 255},
    "description": TEXT_OR_NONE,
    "enabled": BOOL,
}
SERVICE_CREATE = wrapped("service", _service, ("type",))
SERVICE_UPDATE = wrapped("service", _service)
_endpoint: Json = {
    "service_id": ID,
    "interface": {"enum": ["public", "internal", "admin"]},
    "url": URL,
    "region": {"type": ["string", "null"], "maxLength": 255},
    "region_id": {"type": ["string", "null"], "maxLength": 255},
    "enabled": BOOL,
}
ENDPOINT_CREATE = wrapped("endpoint", _endpoint, ("service_id", "interface", "url"))
ENDPOINT_UPDATE = wrapped("endpoint", _endpoint)
CREDENTIAL_CREATE = wrapped(
    "application_credential",
    {
        "name": name(255),
        "description": TEXT_OR_NONE,
        "secret": {**PASSWORD, "type": ["string", "null"]},
        "expires_at": {"type": ["string", "null"], "maxLength": 64},
        "unrestricted": {"type": ["boolean", "null"]},
        "roles": {
            "type": ["array", "null"],
            "maxItems": 50,
            "items": {
                "type": "object",
                "properties": {"id": REF, "name": REF},
                "anyOf": [{"required": ["id"]}, {"required": ["name"]}],
            },
        },
        "access_rules": {"type": ["array", "null"]},
        "project_id": REF,
    },
    ("name",),
    secret=True,
    more=False,
)
