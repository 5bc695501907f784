"""/v3/auth: tokens, and what a token can reach."""

from kilonova.common.errors import NotFound, Unauthorized
from kilonova.db.engine import Tx
from kilonova.http.policy import PUBLIC
from kilonova.http.request import Request, Response
from kilonova.http.routing import Route
from kilonova.identity.embedded import bodies, shapes, store
from kilonova.identity.embedded.identity import EmbeddedIdentity
from kilonova.identity.embedded.login import login
from kilonova.identity.embedded.records import domains, projects
from kilonova.identity.embedded.shapes import Json
from kilonova.identity.embedded.standing import Standing

_MAX_BODY = 1 << 16


class Auth:
    """The handlers."""

    def __init__(self, identity: EmbeddedIdentity) -> None:
        self.identity = identity

    def routes(self) -> list[Route]:
        """Return the rows of this noun."""
        tokens = "/v3/auth/tokens"
        return [
            Route(
                "POST",
                tokens,
                self.issue,
                PUBLIC,
                success=201,
                errors=(400, 401, 403, 413, 503),
                body=bodies.AUTH,
                max_body=_MAX_BODY,
            ),
            Route(
                "GET",
                tokens,
                self.show,
                "identity:validate_token",
                errors=(401, 403, 404),
                target=self._subject,
            ),
            Route(
                "DELETE",
                tokens,
                self.revoke,
                "identity:revoke_token",
                success=204,
                errors=(401, 403, 404),
                target=self._subject,
            ),
            Route("GET", "/v3/auth/catalog", self.catalog, "identity:get_auth_catalog"),
            Route("GET", "/v3/auth/projects", self.projects, "identity:get_auth_projects"),
            Route("GET", "/v3/auth/domains", self.domains, "identity:get_auth_domains"),
            Route("GET", "/v3/auth/system", self.system, "identity:get_auth_system"),
        ]

    def _body(self, req: Request, standing: Standing) -> Json:
        if "nocatalog" in req.query:
            return shapes.token(standing, None)
        project = standing.context.project_id
        return shapes.token(standing, self.identity.catalog(project, standing.user.id))

    def issue(self, req: Request) -> Response:
        """Authenticate and get a token."""
        standing = login(self.identity, req.body["auth"])
        token = self.identity.seal(standing)
        return Response(body=self._body(req, standing), headers={"X-Subject-Token": token})

    def _subject(self, req: Request) -> dict[str, object]:
        """What policy is asked about; a token that is none is not found, whoever asks."""
        return {"target.token.user_id": self._asked(req).user.id}

    def _asked(self, req: Request) -> Standing:
        try:
            return self.identity.standing(req.headers.get("x-subject-token"))
        except Unauthorized as exc:
            raise NotFound("Could not find token.") from exc

    def show(self, req: Request) -> Response:
        """Validate the token in X-Subject-Token."""
        standing = self._asked(req)
        return Response(
            body=self._body(req, standing),
            headers={"X-Subject-Token": req.headers["x-subject-token"]},
        )

    def revoke(self, req: Request) -> None:
        """End the token in X-Subject-Token."""
        self.identity.revoke(self._asked(req))

    def catalog(self, req: Request) -> Json:
        """Show the catalog for the caller's token."""
        found = self.identity.catalog(req.ctx.project_id, str(req.ctx.user_id))
        return {"catalog": found, "links": {"self": shapes.link(req, "auth", "catalog")}}

    def projects(self, req: Request) -> Json:
        """List the projects that the caller can scope a token to."""
        return shapes.many(req, "projects", self._reachable_projects(str(req.ctx.user_id)))

    def _reachable_projects(self, user_id: str) -> list[Json]:
        def read(tx: Tx) -> list[Json]:
            ids = store.targets_of(tx, user_id, "project")
            rows = projects.list(tx, {"id": ids, "enabled": 1}) if ids else []
            return [shapes.project(r) for r in rows]

        return self.identity.read(read)

    def domains(self, req: Request) -> Json:
        """List the domains that the caller can scope a token to."""

        def read(tx: Tx) -> list[Json]:
            ids = store.targets_of(tx, str(req.ctx.user_id), "domain")
            rows = domains.list(tx, {"id": ids, "enabled": 1}) if ids else []
            return [shapes.domain(r) for r in rows]

        return shapes.many(req, "domains", self.identity.read(read))

    def system(self, req: Request) -> Json:
        """Say whether the caller can scope a token to the system."""
        held = self.identity.read(
            lambda tx: store.roles_on(tx, str(req.ctx.user_id), "system", "all")
        )
        return {
            "system": [{"all": True}] if held else [],
            "links": {"self": shapes.link(req, "auth", "system")},
        }
