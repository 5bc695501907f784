"""Which test proves which line of the seed on moves between cells (REQUIREMENTS, CC-…); kept complete by itself.

SEED and COMPANION lines bind by what a user or an operator observes. Where ours does it otherwise than the seed, the
line says how.
"""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FAULTS = "tests/operations/test_cross_cell_faults.py::"
STORY = "tests/operations/test_cross_cell.py::"
STATES = "tests/operations/test_cross_cell_states.py::"
COPY = "tests/unit/test_cell_moves.py::"
HTTP = "tests/functional/compute/test_cross_cell.py::"
LIVE = "tests/operations/test_live_cross_cell.py::"
EVACUATE = "tests/operations/test_evacuate_cross_cell.py::"
MATRIX = FAULTS + "test_one_fault_with_local_disks"

CHECKLIST: dict[str, tuple[str, ...]] = {
    # the copy
    "0.1": (COPY + "test_all_of_a_server_goes_along", STORY + "test_all_of_it_goes_along"),
    "0.2": (COPY + "test_every_table_of_a_cell_is_listed",),
    "2.1": (COPY + "test_all_of_a_server_goes_along",),
    "2.2": (COPY + "test_all_of_a_server_goes_along",),
    "2.3": (COPY + "test_all_of_a_server_goes_along",),
    "2.4": (COPY + "test_a_copy_is_repeatable_and_removed_whole",),
    "4.1": (COPY + "test_a_copy_costs_one_statement_per_kind",),
    "4.2": (
        COPY + "test_the_mapping_decides_which_copy_is_seen",
        STATES + "test_states_on_the_way",
    ),
    "4.3": (COPY + "test_a_copy_is_whole_or_nothing",),
    "4.4": (STATES + "test_no_migration_is_forgotten", HTTP + "test_one_migration_is_listed"),
    "4.5": (COPY + "test_a_copy_is_whole_or_nothing", MATRIX),
    "4.6": (COPY + "test_a_copy_is_whole_or_nothing",),
    "4.7": (COPY + "test_all_of_a_server_goes_along",),
    "4.8": (COPY + "test_a_copy_costs_one_statement_per_kind",),
    # tasks and their undo: steps of a journaled saga; an undo that fails is tried again until it works
    "1.1": (MATRIX,),
    "1.2": (STATES + "test_what_an_operator_reads", FAULTS + "test_the_order_of_the_steps"),
    "1.3": (MATRIX,),
    "1.4": (STORY + "test_the_source_has_its_network_and_volumes_back",),
    "1.5": (STORY + "test_a_revert_that_fails_is_told_where_the_server_is_seen",),  # not ERROR
    "1.6": (FAULTS + "test_another_conductor_ends_what_a_killed_one_began",),
    # order, choice of cell and host
    "3.1": (STORY + "test_the_network_must_know_several_bindings",),
    "3.2": (STORY + "test_the_network_must_know_several_bindings",),
    "3.3": (FAULTS + "test_the_order_of_the_steps",),
    "3.4": (FAULTS + "test_a_conductor_that_slept_beyond_its_lease",),  # no context has a target
    "3.5": (STORY + "test_a_host_that_was_asked_for_is_the_only_one_tried",),
    "3.6": (STATES + "test_states_on_the_way",),
    "3.7": (FAULTS + "test_two_faults",),  # nothing is synchronous; waiting is journaled
    "3.8": (HTTP + "test_who_may", STORY + "test_no_host_elsewhere_is_wanted_unless_it_is_better"),
    "3.9": (STORY + "test_no_host_elsewhere_is_wanted_unless_it_is_better",),
    # the destination
    "5.1": (STATES + "test_the_flavor_asked_for_is_claimed",),
    "5.2": (STORY + "test_a_binding_that_fails",),
    "5.3": (FAULTS + "test_one_fault_volume_backed",),
    "5.4": (STORY + "test_another_host_of_the_cell_is_tried",),
    "5.5": (STATES + "test_a_destination_that_does_not_answer",),
    "5.6": (STORY + "test_a_binding_that_fails", MATRIX),
    "5.7": (STORY + "test_all_of_it_goes_along",),
    "5.8": (STORY + "test_all_of_it_goes_along",),
    "5.9": (STORY + "test_all_of_it_goes_along",),
    "5.10": (STATES + "test_states_on_the_way",),
    "5.11": (STORY + "test_no_host_can",),
    "5.12": (
        STORY + "test_another_host_of_the_cell_is_tried",
        STORY + "test_another_cell_is_tried_when_none_of_the_first_can",
    ),
    "5.13": (STATES + "test_the_flavor_asked_for_is_claimed", MATRIX),
    # the source
    "6.1": (STATES + "test_states_on_the_way",),
    "6.2": (STORY + "test_ephemeral_disks_go_along",),  # they too, beyond the seed
    "6.3": (STORY + "test_ephemeral_disks_go_along",),
    "6.4": (STATES + "test_states_on_the_way",),
    "6.5": (STORY + "test_the_source_has_its_network_and_volumes_back",),  # it is started again
    "6.6": (STATES + "test_a_source_that_dies_on_the_way",),
    "6.7": (FAULTS + "test_one_fault_volume_backed",),
    "6.8": (STORY + "test_the_source_has_its_network_and_volumes_back",),
    # the swap
    "7.1": (STATES + "test_states_on_the_way",),
    "7.2": (HTTP + "test_history_is_whole",),
    "7.3": (STORY + "test_all_of_it_goes_along",),
    "7.4": (STORY + "test_the_source_has_its_network_and_volumes_back",),  # not ERROR: it runs
    "7.5": (STORY + "test_all_of_it_goes_along", HTTP + "test_resize_and_confirm"),
    "7.6": (FAULTS + "test_the_order_of_the_steps", HTTP + "test_exactly_one_at_every_instant"),
    "7.7": (STORY + "test_a_swap_that_fails_leaves_no_guest_there",),
    "7.8": (STORY + "test_ephemeral_disks_go_along", STORY + "test_a_stopped_server_stays_off"),
    "7.9": (STORY + "test_a_swap_that_fails_leaves_no_guest_there",),
    "7.10": (STORY + "test_flags_follow_the_mapping",),
    "8.1": (STATES + "test_the_flavor_asked_for_is_claimed", MATRIX),
    "8.2": (STORY + "test_no_host_can",),
    "8.3": (MATRIX, FAULTS + "test_one_fault_volume_backed", FAULTS + "test_one_fault_stopped"),
    "9.1": (STATES + "test_no_migration_is_forgotten",),
    # confirm
    "10.1": (FAULTS + "test_deleted_while_it_waits", STORY + "test_deleted_while_it_waits"),
    "10.2": (HTTP + "test_history_is_whole", STATES + "test_subscribers_are_told_once"),
    "10.3": (STORY + "test_there_and_back_and_there",),
    "10.4": (STORY + "test_all_of_it_goes_along",),
    "10.5": (STORY + "test_confirmed_as_its_guest_is",),
    "10.6": (STORY + "test_a_source_that_dies_in_a_confirm_owes_it",),  # not ERROR: 10.8
    "10.7": (HTTP + "test_nothing_is_left", MATRIX),
    "10.8": (STORY + "test_a_source_that_dies_in_a_confirm_owes_it",),
    "10.9": (STORY + "test_a_confirm_that_the_source_cannot_hear_is_refused",),
    # revert
    "11.1": (STATES + "test_subscribers_are_told_once",),
    "11.2": (COPY + "test_what_came_since_goes_back",),
    "11.3": (STORY + "test_volumes_attached_and_detached_meanwhile",),
    "11.4": (STORY + "test_all_actions_go_back",),
    "11.5": (STATES + "test_no_migration_is_forgotten",),
    "11.6": (STORY + "test_what_its_owner_changed_meanwhile_is_kept",),  # merged
    "11.7": (FAULTS + "test_the_order_of_the_steps", HTTP + "test_exactly_one_at_every_instant"),
    "11.8": (STORY + "test_all_actions_go_back",),
    "11.9": (STORY + "test_a_revert_that_fails_is_told_where_the_server_is_seen",),
    "11.10": (STORY + "test_a_revert_that_fails_is_told_where_the_server_is_seen",),
    "11.11": (STORY + "test_all_actions_go_back",),
    "11.12": (
        STATES + "test_what_an_operator_reads",
        STORY + "test_a_source_that_cannot_start_it_leaves_it_where_it_is",
    ),
    "11.13": (STORY + "test_a_destination_that_dies_in_a_revert_owes_it", MATRIX),
    "11.14": (STORY + "test_confirmed_by_itself_after_a_while",),
    "12.5": (
        "tests/operations/test_cross_cell_unshelve.py::test_all_of_it_is_there",
        EVACUATE + "test_one_fault",
        EVACUATE + "test_never_two_guests",
    ),
    "12.6": (STATES + "test_subscribers_are_told_once",),
    "12.3": (LIVE + "test_one_fault", LIVE + "test_all_of_it_goes_along"),
    "12.2": (STATES + "test_devices_are_claimed_and_released",),
}
NOT_HERE = {
    "12.1": "no port of the embedded network asks for bandwidth",
    "12.4": "disks go by temporary images, not from host to host",
}
LINES = {0: 2, 1: 6, 2: 4, 3: 9, 4: 8, 5: 13, 6: 8, 7: 10, 8: 3, 9: 1, 10: 9, 11: 14, 12: 6}


def test_every_line_has_a_test_or_a_reason() -> None:
    """All of CC-0.1 … CC-12.6."""
    every = {f"{part}.{n}" for part, last in LINES.items() for n in range(1, last + 1)}
    assert every == CHECKLIST.keys() | NOT_HERE.keys() and not CHECKLIST.keys() & NOT_HERE.keys()


@pytest.mark.parametrize("line", CHECKLIST)
def test_the_tests_are_there(line: str) -> None:
    """Renaming one of them without its line here fails."""
    for node in CHECKLIST[line]:
        path, name = node.split("::")
        tree = ast.parse((ROOT / path).read_text())
        assert name in {f.name for f in tree.body if isinstance(f, ast.FunctionDef)}, node
