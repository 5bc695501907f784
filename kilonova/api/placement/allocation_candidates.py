"""GET /allocation_candidates (1.10): what could be claimed, by the engine that the scheduler uses."""

import re
from itertools import islice
from typing import Any

from kilonova.api.placement import common
from kilonova.common.errors import BadRequest
from kilonova.db.engine import Tx
from kilonova.http.microversion import V
from kilonova.http.request import Request, Response
from kilonova.http.routing import Route
from kilonova.placement import classes, loading, traits
from kilonova.placement.candidates import Budget, Candidate, Group, Node, Rules, solve
from kilonova.placement.loading import ProviderRow

_KINDS = ("resources", "required", "member_of", "in_tree")
MOST = 100_000  # candidates at most, whatever the limit: a request must not fill the memory


def _suffix(req: Request) -> str:
    if req.version >= V(1, 33):
        return r"[a-zA-Z0-9_-]{1,64}"
    return r"[1-9][0-9]*" if req.version >= V(1, 25) else r"(?!)"


def _parse(req: Request) -> tuple[list[Group], Rules, int]:
    """Return (groups, rules over them, limit). Raises BadRequest for what this version does not have."""
    v = req.version
    kinds = ["resources"]
    kinds += ["required"] if v >= V(1, 17) else []
    kinds += ["member_of"] if v >= V(1, 21) else []
    kinds += ["in_tree"] if v >= V(1, 31) else []
    wide = {"limit"} if v >= V(1, 16) else set()
    wide |= {"group_policy"} if v >= V(1, 25) else set()
    wide |= {"root_required"} if v >= V(1, 35) else set()
    wide |= {"same_subtree"} if v >= V(1, 36) else set()
    pattern = re.compile(f"({'|'.join(kinds)})({_suffix(req)})?")
    given: dict[str, dict[str, list[str]]] = {}
    allowed, many = set(wide), {"same_subtree"}
    for name in req.query.names():
        if name in wide:
            continue
        found = pattern.fullmatch(name)
        if found is not None:
            allowed.add(name)
            given.setdefault(found[2] or "", {})[found[1]] = req.query.all(name)
            if (found[1] == "member_of" and v >= V(1, 24)) or (
                found[1] == "required" and v >= V(1, 39)
            ):
                many.add(name)
    common.only(req, allowed, many)
    groups = [_group(req, s, parts) for s, parts in sorted(given.items())]
    rules = _rules(req, groups)
    return groups, rules, _limit(req)


def _limit(req: Request) -> int:
    text = req.query.get("limit")
    if text is None:
        return MOST
    if re.fullmatch(r"[1-9][0-9]{0,9}", text) is None:
        raise BadRequest(
            f"Invalid query string parameters: limit must be a positive number, not {text[:40]!r}"
        )
    return min(int(text), MOST)


def _group(req: Request, suffix: str, parts: dict[str, list[str]]) -> Group:
    v = req.version
    required, forbidden = common.required(
        parts.get("required", []), forbidden=v >= V(1, 22), any_of=v >= V(1, 39)
    )
    inside, outside = common.member_of(parts.get("member_of", []), forbidden=v >= V(1, 32))
    if "resources" not in parts and not (v >= V(1, 36) and suffix):
        raise BadRequest(
            "All traits, aggregates and trees must be associated with resources: "
            f"there is no resources{suffix} parameter."
        )
    return Group(
        suffix,
        common.resources(parts["resources"][0]) if "resources" in parts else {},
        required,
        forbidden,
        inside,
        outside,
        common.tree(parts["in_tree"][0]) if "in_tree" in parts else None,
    )


def _rules(req: Request, groups: list[Group]) -> Rules:
    if not any(g.resources for g in groups):
        raise BadRequest(
            "Invalid query string parameters: at least one resources parameter is needed."
        )
    policy = req.query.get("group_policy")
    if policy not in (None, "none", "isolate"):
        raise BadRequest(
            "Invalid query string parameters: group_policy must be 'none' or 'isolate'"
        )
    suffixes = {g.suffix for g in groups}
    subtrees = []
    for text in req.query.all("same_subtree"):
        wanted = frozenset(s.strip() for s in text.split(","))
        if unknown := sorted(wanted - suffixes):
            raise BadRequest(
                f"Real suffixes should be specified in 'same_subtree'; there is no {unknown[0]!r:.70}."
            )
        if "" in wanted:
            raise BadRequest(
                "Empty string (unsuffixed group) can not be specified in 'same_subtree'."
            )
        subtrees.append(wanted)
    named = frozenset().union(*subtrees)
    for g in groups:
        if not g.resources and g.suffix not in named:
            raise BadRequest(
                f"The group {g.suffix!r:.70} has no resources, so it must be named in 'same_subtree'."
            )
    if policy is None and len([g for g in groups if g.suffix and g.resources]) > 1:
        raise BadRequest(
            'The "group_policy" parameter is required when specifying more than one "resources{N}" parameter.'
        )
    wanted_root, unwanted_root = common.required(
        req.query.all("root_required"), forbidden=True, any_of=False
    )
    return Rules(policy, tuple(subtrees), frozenset().union(*wanted_root), unwanted_root)


def list_(req: Request) -> Response:
    """List candidates and a summary of their providers."""
    groups, rules, limit = _parse(req)

    def load(tx: Tx) -> list[ProviderRow]:
        classes.check(tx, {rc for g in groups for rc in g.resources})
        named = {t for g in groups for any_of in g.required for t in any_of}
        named |= (
            {t for g in groups for t in g.forbidden} | rules.root_required | rules.root_forbidden
        )
        traits.check(tx, named)
        return loading.providers(tx, None)

    rows = common.read(req, load)
    found: list[Candidate] = []
    summaries: dict[str, Node] = {}
    budget = Budget(2_000_000)
    seen: set[tuple[Any, ...]] = set()
    for nodes in loading.trees(rows, nested=req.version >= V(1, 29)):
        for c in islice(solve(nodes, groups, rules, budget), limit - len(found)):
            taken = sorted((p, tuple(sorted(a.items()))) for p, a in c.amounts.items())
            key = (tuple(taken), tuple(c.mappings.items()))
            if key in seen:
                continue
            seen.add(key)
            found.append(c)
            involved = c.amounts.keys() | {u for us in c.mappings.values() for u in us}
            trees = {n.root for n in nodes if n.uuid in involved}
            for n in nodes:
                if n.uuid in involved or (req.version >= V(1, 29) and n.root in trees):
                    summaries[n.uuid] = n
        if len(found) >= limit or budget.spent:
            break
    body = {
        "allocation_requests": [_request(req, c) for c in found],
        "provider_summaries": {u: _summary(req, n, groups) for u, n in summaries.items()},
    }
    return common.answer(req, body)


def _request(req: Request, c: Candidate) -> dict[str, Any]:
    if not req.version >= V(1, 12):
        return {
            "allocations": [
                {"resource_provider": {"uuid": p}, "resources": a} for p, a in c.amounts.items()
            ]
        }
    out: dict[str, Any] = {"allocations": {p: {"resources": a} for p, a in c.amounts.items()}}
    if req.version >= V(1, 34):
        out["mappings"] = c.mappings
    return out


def _summary(req: Request, n: Node, groups: list[Group]) -> dict[str, Any]:
    asked = {rc for g in groups for rc in g.resources}
    out: dict[str, Any] = {
        "resources": {
            rc: {"capacity": s.capacity, "used": s.used}
            for rc, s in n.slots.items()
            if req.version >= V(1, 27) or rc in asked
        }
    }
    if req.version >= V(1, 17):
        out["traits"] = sorted(n.traits)
    if req.version >= V(1, 29):
        out |= {"parent_provider_uuid": n.parent, "root_provider_uuid": n.root}
    return out


ROUTES = (
    Route(
        "GET",
        "/allocation_candidates",
        list_,
        "placement:allocation_candidates:list",
        since=V(1, 10),
        errors=(400,),
    ),
)
