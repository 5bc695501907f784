"""The databases of a deployment: made, brought to this release, and filled with first content, before roles start."""

from dataclasses import dataclass
from pathlib import Path

from kilonova.bus.memory import MemoryBus
from kilonova.common.config import Settings
from kilonova.common.deployment import Tables
from kilonova.server import first_content, state
from kilonova.server.configured import plan_of
from kilonova.server.process import Process


class _Seeder(Process):
    """Just the stores and the neighbours, on a bus that nobody hears."""

    def open(self) -> None:
        """Open all databases; their schemas are made on the way."""
        self.open_stores()
        self.open_services(self.plan.public_url or "")


@dataclass(frozen=True)
class First:
    """cacert: of the API, for clouds.yaml. tiny_image: a qcow2 file to seed, None: none (simulated: an empty disk)."""

    cacert: str | None = None
    tiny_image: Path | None = None


def prepare(
    path: Path, settings: Settings, tables: Tables, first: First = First()
) -> dict[str, str]:
    """Make what is missing; return the first projects: name -> id. Safe to repeat."""
    from kilonova import __version__

    plan = plan_of(path, "api", settings, tables)
    plan.bus = MemoryBus(0)
    plan.state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    if state.deployment(plan.state_dir) is None:
        made = state.Deployment(
            driver=plan.driver, version=__version__, cells=len(plan.cell_names), split=True
        )
        state.save_deployment(plan.state_dir, made)
    seeder = _Seeder(plan)
    try:
        seeder.open()
        return first_content.ensure(seeder, first.tiny_image, first.cacert).projects
    finally:
        seeder.stop()
