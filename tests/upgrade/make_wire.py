"""Freeze what this release writes: ``python -m tests.upgrade.make_wire`` writes wire-<release>.json, once per release.

Of every type: its version, its fields, and one message as it goes over the wire or rests in a journal; of every kind of
operation: its version and the names of its steps, with its parameters as they are journaled.
"""

import base64
import json
import random
import typing
from pathlib import Path
from typing import Any

from kilonova import __version__
from kilonova.objects.base import encode
from kilonova.operations import registry
from kilonova.saga import definition
from tests.unit.test_objects import OURS, make

FOLDER = Path(__file__).parent


def frozen() -> dict[str, Any]:
    """Return what is kept of this release."""
    registry.load()
    types = {}
    for name, cls in OURS.items():
        value = make(cls, random.Random(f"frozen {name}"))
        types[name] = {
            "version": list(cls.VERSION),
            "fields": sorted(cls.__struct_fields__),
            "message": base64.b64encode(encode(value)).decode(),
        }
    kinds = {
        f"{kind} {version}": {
            "params": saga.params.__name__,
            "steps": [s.name for s in saga.steps],
        }
        for (kind, version), saga in sorted(definition.known().items())
        if saga.params.__name__ in OURS
    }
    return {"release": __version__, "types": types, "operations": kinds}


def manifest_of(kept: dict[str, Any]) -> dict[str, tuple[int, int]]:
    """Return the versions that a kept release reads."""
    return {n: typing.cast(tuple[int, int], tuple(t["version"])) for n, t in kept["types"].items()}


if __name__ == "__main__":
    target = FOLDER / f"wire-{__version__}.json"
    target.write_text(json.dumps(frozen(), indent=1, sort_keys=True) + "\n")
    print(target)
