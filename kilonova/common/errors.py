"""The one tree of errors, and which HTTP status each stands for.

KilonovaError
├── BadRequest            400  the body, query or id is wrong; names the field
├── Unauthorized          401  no token, or one that is wrong or expired
├── Forbidden             403  policy says no
│   └── QuotaExceeded     403  (413 where an old microversion says so)
├── NotFound              404  missing, or not yours: answers are alike
├── MethodNotAllowed      405
├── NotAcceptable         406  an unknown microversion
├── Conflict              409  the state does not allow it
│   └── GenerationMismatch     somebody changed the row since it was read
├── Gone                  410
├── TooLarge              413  the body is longer than allowed
├── UnsupportedMedia      415
├── Unprocessable         422  Idempotency-Key used with another body
├── NotImplementedHere    501  a real feature of the API that this cloud cannot do
└── Unavailable           503  a neighbour, a host or a cell does not answer
"""

from http import HTTPStatus
from typing import ClassVar


class KilonovaError(Exception):
    """Base of every error we raise on purpose; anything else is a bug (500).

    ``message`` may be shown to the tenant. ``facts`` is for the log only: host names,
    paths and driver text go there and never into ``message``.
    """

    status: ClassVar[HTTPStatus] = HTTPStatus.INTERNAL_SERVER_ERROR
    code: ClassVar[str] = "internal"
    retryable: ClassVar[bool] = False

    def __init__(self, message: str, **facts: object) -> None:
        super().__init__(message)
        self.message = message
        self.facts = facts


class BadRequest(KilonovaError):
    """The request is wrong; the message names the field and the reason."""

    status, code = HTTPStatus.BAD_REQUEST, "bad_request"


class Unauthorized(KilonovaError):
    """No valid token; says nothing about why a password or token is wrong."""

    status, code = HTTPStatus.UNAUTHORIZED, "unauthorized"


class Forbidden(KilonovaError):
    """The caller is known, and policy does not allow this."""

    status, code = HTTPStatus.FORBIDDEN, "forbidden"


class QuotaExceeded(Forbidden):
    """A quota would be exceeded; the message gives requested, used and limit."""

    code = "quota_exceeded"


class NotFound(KilonovaError):
    """There is no such thing, or the caller may not know that there is."""

    status, code = HTTPStatus.NOT_FOUND, "not_found"


class MethodNotAllowed(KilonovaError):
    """The path exists and does not take this method."""

    status, code = HTTPStatus.METHOD_NOT_ALLOWED, "method_not_allowed"


class NotAcceptable(KilonovaError):
    """A microversion that we do not speak."""

    status, code = HTTPStatus.NOT_ACCEPTABLE, "not_acceptable"


class Conflict(KilonovaError):
    """The state of the thing does not allow this now."""

    status, code = HTTPStatus.CONFLICT, "conflict"


class GenerationMismatch(Conflict):
    """Somebody changed the row since it was read; re-read and try again."""

    code, retryable = "generation_mismatch", True


class Gone(KilonovaError):
    """It was here, or this API version no longer has it."""

    status, code = HTTPStatus.GONE, "gone"


class TooLarge(KilonovaError):
    """The body is longer than we take."""

    status, code = HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "too_large"


class UnsupportedMedia(KilonovaError):
    """The Content-Type is not one that this path takes."""

    status, code = HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "unsupported_media"


class Unprocessable(KilonovaError):
    """The same Idempotency-Key came with another body."""

    status, code = HTTPStatus.UNPROCESSABLE_ENTITY, "unprocessable"


class NotImplementedHere(KilonovaError):
    """A feature of the public API that this cloud, host or driver cannot do."""

    status, code = HTTPStatus.NOT_IMPLEMENTED, "not_implemented"


class Unavailable(KilonovaError):
    """Somebody that we need does not answer; trying again later may work."""

    status, code, retryable = HTTPStatus.SERVICE_UNAVAILABLE, "unavailable", True
