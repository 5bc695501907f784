"""/join: tokens for hosts (admins), what a host gets for one, and taking it back. Only where credentials are signed."""

from typing import Any

from kilonova.common.errors import BadRequest
from kilonova.http import errors as forms
from kilonova.http.policy import PUBLIC, Policy
from kilonova.http.request import Request, Response
from kilonova.http.routing import Route
from kilonova.http.schema import Schema
from kilonova.http.service import Service
from kilonova.operations.joins import LIFE_S, Joins

RULE = "kilonova:hosts:add"
REVOKE = "kilonova:hosts:revoke"
_NAME = {"type": "string", "minLength": 1, "maxLength": 128}
_ADD = {
    "type": "object",
    "properties": {
        "host": _NAME,
        "cell": _NAME,
        "life_s": {"type": "integer", "minimum": 1, "maximum": 86400},
    },
    "required": ["host", "cell"],
    "additionalProperties": False,
}
_JOIN = {
    "type": "object",
    "properties": {"token": {"type": "string", "minLength": 20, "maxLength": 100}},
    "required": ["token"],
    "additionalProperties": False,
}


class JoinRoutes:
    """Handlers over one deployment's joins."""

    def __init__(self, joins: Joins) -> None:
        self.joins = joins

    def service(self) -> Service:
        """Return the routes as a service of their own."""
        return Service(
            name="join",
            mount="/join",
            routes=(
                Route(
                    *("POST", "/tokens", self.add, RULE, 201, (400, 403)),
                    body=Schema(_ADD),
                ),
                Route(
                    *("DELETE", "/hosts/{host}", self.revoke, REVOKE, 204, (400, 403, 409)),
                ),
                Route(
                    *("POST", "/hosts", self.join, PUBLIC, 200, (400, 403)),
                    body=Schema(_JOIN, secret=True),
                ),
            ),
            policy=Policy({RULE: "role:admin", REVOKE: "role:admin"}),
            render=forms.compute,
        )

    def add(self, req: Request) -> Response:
        """Make a token for a host's name; it is told this once, is good once, and for an hour."""
        body: Any = req.body
        made = self.joins.add(body["host"], body["cell"], float(body.get("life_s", LIFE_S)))
        return Response(body=made, told_once="The token was told once; make another one.")

    def revoke(self, req: Request) -> None:
        """Take a host's credentials on the bus back, at once."""
        self.joins.revoke(req.params["host"])

    def join(self, req: Request) -> Response:
        """Give a host its credentials for a token."""
        body: Any = req.body
        if not isinstance(body, dict):
            raise BadRequest("A token is needed.")
        return Response(body=self.joins.redeem(body["token"]))
