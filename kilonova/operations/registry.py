"""Every operation of this release, imported so that the engine knows its saga."""

from importlib import import_module

OPERATIONS = (
    "server_create",
    "server_delete",
    "server_start",
    "server_stop",
    "server_reboot_soft",
    "server_reboot_hard",
    "server_pause",
    "server_unpause",
    "server_suspend",
    "server_resume",
    "server_snapshot",
    "server_snapshot_volumes",
    "server_rebuild",
    "server_soft_delete",
    "server_restore",
    "server_password",
    "server_clear_password",
    "server_crash_dump",
    "server_shelve",
    "server_shelve_offload",
    "server_unshelve",
    "server_rescue",
    "server_unrescue",
    "server_backup",
    "server_resize",
    "server_migrate",
    "confirm_resize",
    "confirm_move",
    "revert_resize",
    "revert_move",
    "server_evacuate",
    "server_resize_cross_cell",
    "confirm_resize_cross_cell",
    "revert_resize_cross_cell",
    "server_unshelve_cross_cell",
    "server_evacuate_cross_cell",
    "live_migrate",
    "live_migrate_cross_cell",
    "interface_attach",
    "interface_detach",
    "volume_attach",
    "volume_detach",
    "volume_swap",
    "host_drain",
)


def load() -> None:
    """Import all operations; a second call does nothing."""
    for name in OPERATIONS:
        import_module(f"kilonova.operations.{name}")
