"""Move a running server to another host of its cell: live migration.

place              decide on another host and claim it; the migration keeps what the server held of the old one
check_destination  can that host take the guest, and how is it reached
check_source       can the guest leave, and what has to be copied
reach              inactive bindings of its ports there, a second attachment of each of its volumes
prepare            that host makes disks, taps and metadata ready
migrate            the old host moves the guest: where it runs decides, from its arrival on only forward
switch             the ports' traffic goes to the new host, its volumes' attachments are in use
leave              the old host removes what the guest left
arrive             the new host keeps the guest
release            the old claim and the old attachments go

A host that cannot take it sends it back to ``place``, without that host, unless it was asked for. Until the guest has
arrived all can be taken back; a host that fell silent is looked at, never guessed about (live_moves.py).
"""

import contextlib
from typing import Any

import msgspec

from kilonova.common.context import Context
from kilonova.common.errors import BadRequest, Conflict
from kilonova.common.ids import new_uuid
from kilonova.db import migrations, servers
from kilonova.db.engine import Row, Tx
from kilonova.objects.guest import GuestBuild, GuestBuilt, PowerState
from kilonova.objects.live_orders import (
    GuestLiveAbort,
    GuestLiveArrive,
    GuestLiveCheckDestination,
    GuestLiveCheckSource,
    GuestLiveLeave,
    GuestLiveMigrate,
    GuestLivePrepare,
    GuestLiveRollback,
    LiveDestination,
    LiveMigrated,
    LivePlan,
    LivePrepared,
    LiveSettings,
    LiveWish,
)
from kilonova.objects.order import Answer, Direction, Order, unpack
from kilonova.objects.server import (
    LiveMigrateParams,
)
from kilonova.operations import (
    accept,
    belongings,
    guest_orders,
    host_devices,
    live_moves,
    resizing,
    settling,
    states,
)
from kilonova.operations.accept import Also, Found, check_lock
from kilonova.operations.ask import HostSilent
from kilonova.operations.cleanup import park
from kilonova.operations.live_ends import (
    cell_of,
    decide,
    disks_there,
    place,
    placed,
    ports_of,
    reach,
    row_of,
    source_of,
    target_of,
    unplace,
    unreach,
    wanted,
)
from kilonova.operations.services import Services
from kilonova.saga import journal
from kilonova.saga.definition import (
    Ask,
    NotYet,
    NoUndo,
    Output,
    Retreat,
    Run,
    Saga,
    Step,
    StepFailed,
    register,
)

TRANSITION = states.TRANSITIONS["live_migrate"]
CHECK_S, PREPARE_S, MIGRATE_S, TIDY_S = 60.0, 1800.0, 6 * 3600.0, 300.0
QUEUE = "live_migration"
_encode, _decode = msgspec.json.encode, msgspec.json.decode
_PAST = NoUndo("the guest runs at the destination")
_LOOKS = NoUndo("it only looks")


def start(
    services: Services,
    ctx: Context,
    found: Found,
    *,
    host: str | None = None,
    force: bool = False,
    block: bool | None = None,
    dry: bool = False,
) -> str:
    """Accept a live migration; return the operation's id.

    host: exactly there (force: without asking the filters). block: copy local disks (None: if there are any).
    dry: say at once when no host would do.
    Raises Conflict: the state, a silent source, no valid host; BadRequest: the target.
    """
    check_lock(ctx, found)
    row = accept.startable(found, TRANSITION)
    check_hosts(services, found.id, row["host"], host)
    check_devices(row)
    if dry:
        params = LiveMigrateParams(server_id=found.id, to_host=host, force=force)
        decide(services, found.mapping["cell"], wanted(found.mapping, row, params), {row["host"]})
    migration = new_uuid()
    move = resizing.Move(migration, "live-migration", status="accepted", dest_host=host)

    def remember(tx: Tx, operation: str) -> None:
        resizing.remember(tx, found, row, move, operation=operation, now=services.now())

    return accept.on_server(
        services,
        ctx,
        SAGA,
        found,
        TRANSITION,
        Also(home=remember),
        migration=migration,
        to_host=host,
        force=force,
        block=block,
    )


def check_devices(row: Row) -> None:
    """Refuse a server that has devices or NUMA nodes of its host: they do not go along live. source: Nova's words."""
    if host_devices.has_some(row["flavor"]):
        raise BadRequest(
            "Migration pre-check error: non-VIF related PCI requests for instance are not allowed for live migration."
        )
    image = guest_orders.system_of(row).image
    if len(host_devices.cells_of(resizing.flavor_of(row["flavor"]), image)) > 1:
        raise BadRequest(
            "Migration pre-check error: a server with several NUMA nodes is not moved live here."
        )


def check_hosts(services: Services, server_id: str, source: str, target: str | None) -> None:
    """Refuse a source that does not answer, and a target that cannot be one. source of the words: Nova's exceptions."""
    if not services.hosts.is_up(source):
        raise Conflict("Service is unavailable at this time.", host=source)
    if target is None:
        return
    if services.hosts.find(target) is None:
        raise BadRequest(f"Compute host {target[:80]} could not be found.")
    if target == source:
        raise BadRequest(f"Unable to migrate instance ({server_id}) to current host ({source}).")
    if not services.hosts.is_up(target):
        raise BadRequest(f"Compute service of {target} is unavailable at this time.")


# -- may it


def order_check_destination(run: Run) -> Order:
    """Ask the new host."""
    payload = GuestLiveCheckDestination(server_id=run.resource, build=_build_here(run))
    return guest_orders.order(run, target_of(run), "guest_live_check_destination", payload, CHECK_S)


def order_check_source(run: Run) -> Order:
    """Ask the old host."""
    payload = GuestLiveCheckSource(
        server_id=run.resource,
        build=_build_here(run),
        destination=_kept(run, "check_destination", LiveDestination),
        block=run.params.block,
    )
    return guest_orders.order(run, source_of(run), "guest_live_check_source", payload, CHECK_S)


def kept(cls: Any) -> Any:
    """Return a receive that keeps an answer's payload of this type."""

    def receive(run: Run, answer: Answer) -> Output:
        return {"answer": _encode(unpack(answer.body, cls)).decode()}

    return receive


def _kept(run: Run, step: str, cls: Any) -> Any:
    return _decode(run.outputs[step]["answer"], type=cls)


def refused(run: Run, answer: Answer) -> None:
    """Try another host, when the one that was chosen is to blame and nobody asked for it."""
    message = answer.message or "The host could not take the server."
    blamed = answer.elsewhere or answer.host == target_of(run)
    if blamed and run.params.to_host is None:
        note = {"host": target_of(run), "why": message}
        raise Retreat(message, to="place", note=note, details=answer.details)
    raise StepFailed(message, details=answer.details)


def _build_here(run: Run) -> GuestBuild:
    """Return the guest as it runs at the source."""
    return guest_orders.build_of(run.services, row_of(run), holder=run.params.migration)


def _build_there(run: Run) -> GuestBuild:
    """Return the guest as it is at the destination: its volumes are reached from there."""
    row = row_of(run)
    return guest_orders.build_of(
        run.services, {**dict(row), "host": target_of(run), "disks": disks_there(run, row)}
    )


# -- the way there


def order_prepare(run: Run) -> Order:
    """Have the destination make ready what the guest will find."""
    source, drive, left = source_of(run), None, None
    with contextlib.suppress(HostSilent):  # the variables come with the guest's memory anyhow
        left = belongings.of_guest(run.services, source, run.resource)
    build = _build_there(run).replace(belongings=left)
    if build.config_drive:
        drive = live_moves.config_drive(run.services, source, run.resource)
    payload = GuestLivePrepare(
        server_id=run.resource,
        build=build,
        config_drive=drive,
        migration=run.params.migration,
        plan=_kept(run, "check_source", LivePlan),
        plug=run.outputs["reach"]["plugged"],
    )
    return guest_orders.order(run, target_of(run), "guest_live_prepare", payload, PREPARE_S)


def order_rollback(run: Run) -> Order:
    """Have the destination remove it."""
    payload = GuestLiveRollback(server_id=run.resource, ports=ports_of(run))
    return guest_orders.order(
        run, target_of(run), "guest_live_prepare", payload, TIDY_S, Direction.UNDO
    )


def prepared(tx: Tx, run: Run, output: Output) -> None:
    """Show that it stands in line, or runs."""
    migrations.set_status(tx, run.params.migration, "queued", run.services.now())


def order_migrate(run: Run) -> Order:
    """Have the source move the guest; the migration shows whether it has to wait for another one."""
    _show_line(run)
    payload = GuestLiveMigrate(
        server_id=run.resource,
        build=_build_there(run),
        destination=_kept(run, "check_destination", LiveDestination),
        plan=_kept(run, "check_source", LivePlan),
        prepared=_kept(run, "prepare", LivePrepared),
        settings=_settings(run.services),
    )
    return guest_orders.order(run, source_of(run), "guest_live_migrate", payload, MIGRATE_S)


def _settings(services: Services) -> LiveSettings:
    """Return how the operator wants guests to be moved."""
    usual = LiveSettings()
    wanted = {
        name: services.setting(f"live_migration_{name}", getattr(usual, name))
        for name in LiveSettings.__struct_fields__
    }
    return LiveSettings(**wanted)


def _show_line(run: Run) -> None:
    """Say "running" when the source's line is free for it; the engine enters the line again, which changes nothing."""
    services: Services = run.services
    inside = services.engine.queues.enter(QUEUE, source_of(run), (run.home, run.operation))
    if inside:
        now = services.now()
        services.cell(cell_of(run)).write(
            lambda tx: migrations.advance(tx, run.params.migration, "queued", "running", now)
        )


def order_abort(run: Run) -> Order:
    """Have the source be sure that nothing is under way any more."""
    payload = GuestLiveAbort(server_id=run.resource)
    return guest_orders.order(
        run, source_of(run), "guest_live_migrate", payload, TIDY_S, Direction.UNDO
    )


def moved(run: Run, answer: Answer) -> Output:
    """Keep what the source says of the guest."""
    result = unpack(answer.body, LiveMigrated)
    return {
        "power_state": result.power_state,
        "total_ms": result.total_ms,
        "downtime_ms": result.downtime_ms,
    }


def seen(run: Run) -> Output | None:
    """Look where the guest is before anything is taken back; one that still moves is told to stay, and looked at again.

    Raises NotYet.
    """
    services: Services = run.services
    source, target = source_of(run), target_of(run)
    here = live_moves.look(services, source, run.resource)
    there = live_moves.look(services, target, run.resource)
    state = services.hosts.find(target)
    verdict = live_moves.arrived(
        here,
        there,
        source_lost=services.host_is_down(source),
        target_lost=state is None or state.forced_down,
    )
    if verdict is None:
        live_moves.steer(services, source, run.resource, LiveWish.ABORT)
        raise NotYet("Where the guest is cannot be told yet.", after_s=1.0)
    if not verdict:
        return None
    power = 0 if there is None else there.power_state
    return {"power_state": power, "total_ms": 0, "downtime_ms": 0}


def arrived(tx: Tx, run: Run, output: Output) -> None:
    """The record says where the guest runs, in the transaction that makes it final."""
    where, row = run.outputs["place"], servers.find(tx, run.resource)
    if row is not None:
        settling.keep(
            tx,
            run,
            host=where["host"],
            node=where["node"],
            availability_zone=where["zone"],
            disks=disks_there(run, row),
        )
    migrations.set_status(tx, run.params.migration, "post-migrating", run.services.now())


# -- it runs there


def switch(run: Run) -> Output:
    """Lead the ports' traffic to the destination; the new attachments are in use."""
    services: Services = run.services
    target = target_of(run)
    if run.outputs["reach"]["plugged"]:
        services.network.activate_bindings(run.resource, target)
    else:
        services.network.bind_ports(run.resource, target)
    for attachment in run.outputs["reach"]["attachments"].values():
        services.volumes.complete(attachment)
    return {}


def order_leave(run: Run) -> Order:
    """Have the source remove what is left of the guest."""
    payload = GuestLiveLeave(server_id=run.resource, ports=ports_of(run))
    return guest_orders.order(run, source_of(run), "guest_live_leave", payload, TIDY_S)


def order_arrive(run: Run) -> Order:
    """Have the destination keep the guest."""
    payload = GuestLiveArrive(
        server_id=run.resource,
        build=guest_orders.build_of(run.services, row_of(run)),
        plug=not run.outputs["reach"]["plugged"],
    )
    return guest_orders.order(run, target_of(run), "guest_live_arrive", payload, TIDY_S)


def left(run: Run, answer: Answer) -> Output:
    """Nothing of it is needed."""
    return {}


def stays(run: Run, answer: Answer) -> Output:
    """Keep what the destination says of the guest."""
    result = unpack(answer.body, GuestBuilt)
    if result.power_state == PowerState.NOSTATE:
        return {}
    return {"power_state": result.power_state, "devices": _encode(result.devices).decode()}


def release(run: Run) -> Output:
    """Give back what was held of the source, and end the attachments there."""
    services: Services = run.services

    def put(tx: Tx) -> None:
        journal.fence_foreign(tx, run.operation, run.fence, run.seq)
        services.scheduling.release(tx, run.params.migration)

    services.world.write(put)
    for attachment in run.outputs["reach"]["attachments"]:
        services.volumes.remove_attachment(attachment_id=attachment)
    if run.outputs["reach"]["plugged"]:
        services.network.delete_bindings(run.resource, source_of(run))
    return {}


def settle(tx: Tx, run: Run, output: Output) -> None:
    """As before, on another host."""
    end(tx, run, TRANSITION)


def end(tx: Tx, run: Run, transition: states.Transition) -> None:
    """Say that it worked, in the cell that has the server's record."""
    result = run.outputs["arrive"]
    columns = {"devices": result["devices"]} if "devices" in result else {}
    power = result.get("power_state") or run.outputs["migrate"]["power_state"] or None
    settling.succeed(tx, run, transition, power_state=power, step="release", **columns)
    migrations.set_status(tx, run.params.migration, "completed", run.services.now())


def status_of(run: Run) -> str:
    """Return how a migration that was unwound stands; failed: nothing had begun to move."""
    return "cancelled" if run.cancelled else "error" if "prepare" in run.outputs else "failed"


def fail(tx: Tx, run: Run) -> None:
    """As before, where it was."""
    migrations.set_status(tx, run.params.migration, status_of(run), run.services.now())
    settling.fail(tx, run, TRANSITION, step="migrate")


SAGA = register(
    Saga(
        kind="live_migrate",
        version=1,
        params=LiveMigrateParams,
        steps=(
            Step("place", place, unplace, 30.0, record=placed),
            Ask(
                "check_destination",
                order_check_destination,
                kept(LiveDestination),
                _LOOKS,
                CHECK_S,
                failed=refused,
            ),
            Ask(
                "check_source", order_check_source, kept(LivePlan), _LOOKS, CHECK_S, failed=refused
            ),
            Step("reach", reach, unreach, 180.0),
            Ask(
                "prepare",
                order_prepare,
                kept(LivePrepared),
                order_rollback,
                PREPARE_S,
                failed=refused,
                record=prepared,
                park_outside=park,
            ),
            Ask(
                "migrate",
                order_migrate,
                moved,
                order_abort,
                MIGRATE_S,
                record=arrived,
                seen=seen,
                park_outside=park,
                queue=QUEUE,
                point_of_no_return=True,
            ),
            Step("switch", switch, _PAST, 60.0),
            Ask("leave", order_leave, left, _PAST, TIDY_S, park_outside=park),
            Ask("arrive", order_arrive, stays, _PAST, TIDY_S, park_outside=park),
            Step("release", release, _PAST, 60.0, record=settle),
        ),
        unwound_record=fail,
    )
)
