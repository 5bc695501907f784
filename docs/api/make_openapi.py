"""Write the OpenAPI documents of the compute API at its oldest and newest microversion beside this file.

    .venv/bin/python docs/api/make_openapi.py

Every other microversion, and the other services, are served: GET /compute/openapi.json?version=2.90.
"""

import json
from pathlib import Path

HERE = Path(__file__).resolve().parent
VERSIONS = ("2.1", "2.104")


def texts() -> dict[str, str]:
    """Return file name -> content."""
    from kilonova.api.compute.service import service
    from kilonova.http.microversion import Microversion
    from kilonova.http.openapi import document

    compute = service()
    out = {}
    for version in VERSIONS:
        made = document(compute, Microversion.parse(version))
        text = json.dumps(made, indent=1, ensure_ascii=False, sort_keys=True)
        out[f"openapi-compute-{version}.json"] = text + "\n"
    return out


if __name__ == "__main__":
    for name, content in texts().items():
        (HERE / name).write_text(content)
