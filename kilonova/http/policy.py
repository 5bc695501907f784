"""Who may do what: the rule language and file format of oslo.policy, compiled to closures once.

source: oslo.policy's documentation, "Policy rule expressions": ``role:x``, ``rule:y``, ``project_id:%(project_id)s``,
``is_admin:True``, ``system_scope:all``, constants (``'x':%(y)s``), ``@`` always, ``!`` never, ``not and or ( )``.
An unknown rule is denied; a route cannot be declared without one (deny by default, RELIABILITY S22).
"""

import re
from collections.abc import Callable, Mapping

from kilonova.common.context import Context
from kilonova.common.errors import Forbidden

Target = Mapping[str, object]
Check = Callable[[Context, Target], bool]

_TOKEN = re.compile(r"\(|\)|[^\s()]*%\([^)]*\)s[^\s()]*|[^\s()]+")

PUBLIC = "!public"  # no token is needed: version documents, token issue


class BadRule(ValueError):
    """A rule's text cannot be parsed; names the rule."""


class Policy:
    """Compiled rules. ``overrides`` (a policy file's content) replace defaults by name."""

    def __init__(
        self, defaults: Mapping[str, str], overrides: Mapping[str, str] | None = None
    ) -> None:
        texts = {**defaults, **(overrides or {})}
        self._texts = texts
        self._checks: dict[str, Check] = {}
        for name, text in texts.items():
            self._checks[name] = _Parser(name, text, self._checks).parse()
        for name, text in texts.items():
            for ref in re.findall(r"\brule:([^\s()]+)", text):
                if ref not in texts:
                    raise BadRule(f"policy rule {name}: it refers to {ref}, which does not exist")

    def allows(self, ctx: Context, rule: str, target: Target) -> bool:
        """Tell whether ``ctx`` may do ``rule`` to ``target``; unknown rules say no."""
        check = self._checks.get(rule)
        return check is not None and check(ctx, target)

    def require(self, ctx: Context, rule: str, target: Target) -> None:
        """Raise Forbidden, in Nova's words, unless allowed."""
        if not self.allows(ctx, rule, target):
            raise Forbidden(f"Policy doesn't allow {rule} to be performed.")

    def names(self) -> list[str]:
        """Return the names of all rules."""
        return sorted(self._texts)


class _Parser:
    def __init__(self, name: str, text: str, checks: dict[str, Check]) -> None:
        self.name = name
        self.tokens = _TOKEN.findall(text)
        self.checks = checks
        self.at = 0

    def parse(self) -> Check:
        if not self.tokens:
            return _always
        check = self._either()
        if self.at != len(self.tokens):
            raise BadRule(f"policy rule {self.name}: unexpected {self.tokens[self.at]!r}")
        return check

    def _peek(self) -> str:
        return self.tokens[self.at] if self.at < len(self.tokens) else ""

    def _either(self) -> Check:
        parts = [self._both()]
        while self._peek().lower() == "or":
            self.at += 1
            parts.append(self._both())
        return parts[0] if len(parts) == 1 else _any_of(tuple(parts))

    def _both(self) -> Check:
        parts = [self._single()]
        while self._peek().lower() == "and":
            self.at += 1
            parts.append(self._single())
        return parts[0] if len(parts) == 1 else _all_of(tuple(parts))

    def _single(self) -> Check:
        token = self._peek()
        self.at += 1
        if token == "":
            raise BadRule(f"policy rule {self.name}: it ends too early")
        if token.lower() == "not":
            inner = self._single()
            return lambda c, t: not inner(c, t)
        if token == "(":  # noqa: S105
            inner = self._either()
            if self._peek() != ")":
                raise BadRule(f"policy rule {self.name}: a bracket is not closed")
            self.at += 1
            return inner
        return self._atom(token)

    def _atom(self, token: str) -> Check:
        if token == "@":  # noqa: S105
            return _always
        if token == "!":  # noqa: S105
            return _never
        kind, sep, match = token.partition(":")
        if not sep:
            raise BadRule(f"policy rule {self.name}: {token!r} is not kind:value")
        if kind == "rule":
            checks = self.checks
            return lambda c, t: (r := checks.get(match)) is not None and r(c, t)
        if kind == "role":
            role = match.lower()
            return lambda c, t: role in c.roles
        return _compare(kind, match)


def _always(ctx: Context, target: Target) -> bool:
    return True


def _never(ctx: Context, target: Target) -> bool:
    return False


def _any_of(parts: tuple[Check, ...]) -> Check:
    return lambda c, t: any(p(c, t) for p in parts)


def _all_of(parts: tuple[Check, ...]) -> Check:
    return lambda c, t: all(p(c, t) for p in parts)


def _compare(kind: str, match: str) -> Check:
    def wanted(target: Target) -> str | None:
        if match.startswith("%(") and match.endswith(")s"):
            value = target.get(match[2:-2])
            return None if value is None else str(value)
        return match.strip("'\"")

    def check(ctx: Context, target: Target) -> bool:
        want = wanted(target)
        if kind.startswith(("'", '"')):
            return want is not None and kind.strip("'\"") == want
        have = getattr(ctx, kind, None)
        return have is not None and want is not None and str(have) == want

    return check
