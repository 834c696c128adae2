"""What can go wrong in an asynchronous store, numbered as in its specification, and the tests that make it go wrong.

Tests of this folder run on asyncio, asyncio with eager tasks (Python 3.12 and later), uvloop and trio, and on every
engine; those that need a process or a loop of their own say which loops they use.
"""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

TESTS = Path(__file__).parent.parent

# Number -> what goes wrong -> where: file of this folder (or path below tests) and names of tests.
FAILURES: dict[str, tuple[str, dict[str, tuple[str, ...]]]] = {
    "1": (
        "cancelled at every checkpoint of a script",
        {"test_lifetime": ("test_cancelled_at_every_checkpoint",)},
    ),
    "2": (
        "move_on_after, fail_after, asyncio.timeout, wait_for, task.cancel; twice, and during the abort",
        {
            "test_lifetime": ("test_a_deadline_that_expires_inside_a_slice",),
            "test_outcomes": (
                "test_native_cancellation_of_asyncio",
                "test_unwinding_keeps_instances_open",
                "test_cancelled_again_while_a_host_function_cleans_up",
            ),
        },
    ),
    "3": (
        "cancelled and closed in one tick, closed twice",
        {"test_outcomes": ("test_cancelling_and_closing_in_one_tick", "test_closing_a_yielded_call_wakes_it")},
    ),
    "4": (
        "a deadline inside a slice, or over at entry",
        {
            "test_lifetime": (
                "test_a_deadline_that_expires_inside_a_slice",
                "test_a_deadline_that_is_over_at_entry_touches_nothing",
            ),
            "test_outcomes": ("test_cancelled_at_entry_nothing_happens",),
        },
    ),
    "5": (
        "an outer scope cancelled while a chain of nested calls waits",
        {"test_groups": ("test_an_outer_cancellation_closes_every_level_once",)},
    ),
    "6": (
        "a queued caller cancelled; the holder cancelled with a hundred queued",
        {
            "test_groups": (
                "test_a_cancelled_waiter_leaves_the_queue_and_the_others_proceed",
                "test_cancelling_the_holder_with_many_queued",
                "test_callers_of_other_members_proceed_when_the_holder_s_instance_is_closed",
            )
        },
    ),
    "7": (
        "host functions that swallow, convert, shield or delay a cancellation, or leave a child that calls back",
        {
            "test_outcomes": (
                "test_a_host_function_that_swallows_cancellation",
                "test_cancelled_again_while_a_host_function_cleans_up",
            ),
            "test_groups": (
                "test_a_background_child_outlives_the_host_call",
                "test_the_outer_call_waits_for_a_nested_one_that_outlives_its_host_call",
            ),
        },
    ),
    "8": (
        "a group of exceptions with a cancellation in it",
        {"test_lifetime": ("test_a_group_of_cancellation_and_errors_of_a_host_s_tasks",)},
    ),
    "9": (
        "closed during a yield, a host function, a start function, in the queue, from inside, when fuel is asked for",
        {
            "test_lifetime": (
                "test_closed_at_every_checkpoint",
                "test_closing_while_the_callback_for_fuel_waits",
            ),
            "test_outcomes": (
                "test_closing_a_yielded_call_wakes_it",
                "test_closing_a_call_in_a_host_await_cancels_the_host_function",
                "test_closing_from_inside_takes_effect_when_the_host_function_returns",
                "test_closing_while_a_start_function_waits",
            ),
        },
    ),
    "10": ("a time of grace that is over", {"test_outcomes": ("test_grace_is_not_exceeded",)}),
    "11": (
        "calls and memory after closing; closed from another thread",
        {"test_outcomes": ("test_memory_after_closing", "test_close_from_another_thread")},
    ),
    "12": (
        "closed when the result is there already",
        {
            "test_outcomes": (
                "test_a_committed_result_stands",
                "test_a_result_stands_when_the_instance_is_closed_before_the_caller_has_it",
            )
        },
    ),
    "13": (
        "nested calls: same task, child, thread, siblings; a child that outlives its host call, a stale token",
        {
            "test_groups": (
                "test_nested_calls_of_all_kinds",
                "test_nesting_is_limited",
                "test_a_background_child_outlives_the_host_call",
                "test_a_caller_can_be_lent_to_another_task",
            )
        },
    ),
    "14": ("a queue worker that waits for its caller", {"test_groups": ("test_a_queue_worker_deadlock_is_reported",)}),
    "15": (
        "nested into another group and back",
        {"test_groups": ("test_calls_nested_through_another_group_and_back",)},
    ),
    "16": (
        "a `def` host function that calls an async export",
        {"test_groups": ("test_a_synchronous_call_cannot_wait",)},
    ),
    "17": (
        "two calls on one shadow stack",
        {"test_groups": ("test_the_shadow_stack_is_safe_unless_interleaving_is_asked_for",)},
    ),
    "D1": (
        "a start function whose host function instantiates",
        {"test_groups": ("test_a_start_function_may_instantiate_and_wait",)},
    ),
    "D2": (
        "modules that import each other",
        {
            "test_groups": ("test_a_start_function_may_instantiate_and_wait",),
            "hostile/test_hostile": ("test_modules_that_import_each_other_fail",),
        },
    ),
    "D3": (
        "a host function that waits for a child, which calls back",
        {"test_groups": ("test_nested_calls_of_all_kinds",)},
    ),
    "D4": (
        "a host function that waits for a worker that calls back",
        {"test_groups": ("test_a_queue_worker_deadlock_is_reported", "test_a_caller_can_be_lent_to_another_task")},
    ),
    "D5": (
        "aclose in one's own host function, or in a child of it",
        {"test_outcomes": ("test_closing_from_inside_takes_effect_when_the_host_function_returns",)},
    ),
    "D6": ("a hook that calls an export", {"test_groups": ("test_close_hooks_that_call_exports_get_exit_errors",)}),
    "D7": ("a limiter that calls an export", {"test_limits": ("test_a_limiter_may_await_and_refuse",)}),
    "D8": (
        "a waiter cancelled at the hand-over",
        {
            "test_groups": (
                "test_a_waiter_cancelled_at_the_hand_over_passes_it_on",
                "test_a_native_cancellation_at_the_hand_over_passes_it_on",
            ),
            "test_gate": ("test_a_baton_handed_to_someone_cancelled_goes_on",),
        },
    ),
    "D9": ("a call dropped in another thread", {"test_lifetime": ("test_a_call_dropped_in_another_thread",)}),
    "D10": (
        "two groups that wait for each other",
        {"test_groups": ("test_two_groups_that_wait_for_each_other_are_found",)},
    ),
    "D11": (
        "a lock of threads around a slice: two loops in two threads, a guest closed from a third",
        {"test_hogs": ("test_two_loops_in_two_threads",), "test_outcomes": ("test_close_from_another_thread",)},
    ),
    "D12": (
        "cleaning up in a cancelled scope",
        {"test_outcomes": ("test_closing_in_a_cancelled_scope_is_bounded_and_does_not_spin",)},
    ),
    "D13": (
        "a group merged while a caller waits for it",
        {"test_groups": ("test_a_waiter_follows_its_group_when_it_is_merged",)},
    ),
    "D14": (
        "a host function that links its caller's group",
        {"test_groups": ("test_a_waiter_follows_its_group_when_it_is_merged",)},
    ),
    "17c": (
        "lost wake-ups, two running in a group, batons not given back: random schedules",
        {
            "test_schedules": ("test_shuffled_schedules_of_asyncio", "test_schedules_of_trio"),
            "test_gate": ("test_a_cancelled_waiter_leaves_and_a_cancelled_holder_hands_over",),
        },
    ),
    "18": (
        "a start function whose host function instantiates, claims its name, calls the half-built instance",
        {
            "test_groups": ("test_a_start_function_may_instantiate_and_wait",),
            "test_lifetime": ("test_an_export_of_a_half_built_instance",),
        },
    ),
    "19": (
        "what host functions raise and return",
        {
            "test_outcomes": (
                "test_an_exception_of_the_host_arrives_unchanged",
                "test_a_base_exception_of_the_host_closes",
                "test_stop_iteration_becomes_a_runtime_error",
                "test_results_of_host_functions_are_checked",
                "test_what_an_async_function_returns_must_be_awaitable",
            )
        },
    ),
    "20": (
        "guests that try to catch host errors, traps, exits",
        {
            "test_outcomes": (
                "test_an_exception_of_the_host_arrives_unchanged",
                "test_exit_closes_with_its_code",
                "test_a_call_into_a_closed_instance_is_not_caught_by_the_guest",
            ),
            "test_limits": ("test_guests_do_not_catch_traps_or_fuel",),
        },
    ),
    "21": (
        "a shadow stack that leaks with each host error",
        {
            "test_groups": ("test_the_stack_pointer_is_put_back_after_host_errors",),
            "test_leaks": ("test_host_errors_leave_no_shadow_stack",),
        },
    ),
    "22": ("engines that count fuel differently", {"native/test_differential": ("test_engines_agree",)}),
    "23": (
        "a trap whose place depends on slices",
        {
            "test_limits": (
                "test_the_trap_point_does_not_depend_on_slices",
                "test_fuel_is_the_same_for_every_slice",
            )
        },
    ),
    "24": (
        "a limit that stops engines at different places",
        {"native/test_differential": ("test_limits_of_fuel_stop_at_the_same_point",)},
    ),
    "25": (
        "bulk operations: lengths of all sizes and of 64 bits, out of bounds, overlapping, unpaid, in chunks",
        {
            "test_limits": (
                "test_bulk_operations_are_charged_after_their_bounds_are_checked",
                "test_a_bulk_operation_that_cannot_be_paid_writes_nothing",
                "test_copies_that_overlap",
                "test_bulk_operations_of_64_bit_memories",
                "test_long_bulk_operations_pause_between_chunks",
            )
        },
    ),
    "26": (
        "huge and endless code: straight lines, br_table, recursion, loops, tail calls, exceptions",
        {
            "hostile/test_hostile": ("test_a_hostile_guest_ends_within_its_limit",),
            "test_hogs": ("test_code_of_megabytes_without_a_branch_pauses",),
        },
    ),
    "27": (
        "fuel added in flight, none, more than there can be, caps within caps",
        {
            "test_limits": (
                "test_refuelling_in_place",
                "test_the_callback_is_asked_exactly_where_the_guest_would_trap",
                "test_extreme_amounts_of_fuel",
                "test_nested_calls_draw_from_the_first_call_s_tanks_and_caps_only_shrink",
            )
        },
    ),
    "28": (
        "guests that spin while others want their turn (how late they are: benchmarks/fairness.py)",
        {
            "test_gate": ("test_guests_take_turns_one_slice_for_each_iteration",),
            "test_hogs": ("test_equal_guests_get_equal_shares",),
        },
    ),
    "29": (
        "guests that only call the host, copy, grow, throw",
        {"test_hogs": ("test_the_loop_goes_on_whatever_a_guest_only_does",)},
    ),
    "30": (
        "worker threads while guests spin (how late they are: benchmarks/fairness.py)",
        {"test_hogs": ("test_worker_threads_go_on_while_guests_spin",)},
    ),
    "31": (
        "many suspended stores (ten thousand instances: benchmarks/scale.py)",
        {"test_hogs": ("test_many_suspended_stores_and_one_that_is_woken",)},
    ),
    "32": (
        "calls that are dropped, garbage at every yield, cycles, a process that ends",
        {
            "test_outcomes": ("test_a_dropped_call_closes_what_it_tore",),
            "test_lifetime": (
                "test_a_call_dropped_in_another_thread",
                "test_collecting_garbage_at_every_yield_changes_nothing",
                "test_a_cycle_of_store_and_host_function_is_collected",
                "test_a_process_that_ends_with_guests_suspended",
            ),
        },
    ),
    "33": (
        "a loop that ends, a task group that crashes",
        {
            "test_lifetime": (
                "test_a_loop_that_ends_with_a_guest_left",
                "test_a_task_that_crashes_takes_its_siblings_guest_along",
            )
        },
    ),
    "34": ("a coroutine that ignores GeneratorExit", {"test_lifetime": ("test_a_loop_that_ends_with_a_guest_left",)}),
    "35": (
        "SIGINT anywhere, and twice",
        {
            "test_lifetime": ("test_an_interrupt_ends_a_spinning_guest", "test_an_interrupt_in_a_host_function"),
            "test_interrupts": ("test_an_interrupt_at_any_line_leaves_nothing",),
        },
    ),
    "36": (
        "signals, faulthandler and tracing while guests run",
        {"test_lifetime": ("test_signals_and_tracing_while_guests_run",)},
    ),
    "37": ("a fork", {"test_lifetime": ("test_a_forked_child_cannot_use_the_store",)}),
    "38": (
        "another loop, another thread",
        {
            "test_gate": (
                "test_a_store_belongs_to_one_loop_and_thread",
                "test_a_store_is_not_used_on_a_second_loop",
                "test_each_loop_has_its_gate",
            ),
            "test_hogs": ("test_two_loops_in_two_threads",),
        },
    ),
    "39": (
        "the last slot of the stack, the guard behind memories",
        {"native/test_engine": ("test_stack_limits_are_logical", "test_behind_memories_lies_a_guard")},
    ),
    "40": (
        "a rounding mode that somebody else has set",
        {"test_lifetime": ("test_the_rounding_mode_of_the_process_is_not_the_guest_s",)},
    ),
    "41": (
        "context variables through host functions",
        {"test_lifetime": ("test_context_variables_flow_in_and_out",)},
    ),
    "42": (
        "a host function that takes long",
        {"test_delays": ("test_a_host_function_that_takes_long_is_named",)},
    ),
    "43": ("nesting as deep as it goes, on Python's own stack", {"test_groups": ("test_nesting_is_limited",)}),
    "44": ("debug mode, warnings as errors", {"test_lifetime": ("test_debug_mode_warns_of_nothing",)}),
}


@cache
def names_in(path: str) -> frozenset[str]:
    file = TESTS / ("" if "/" in path else "store") / f"{path}.py"
    tree = ast.parse(file.read_text(encoding="utf-8"))
    return frozenset(node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


@pytest.mark.parametrize("number", FAILURES)
def test_a_failure_has_its_tests(number: str) -> None:
    _what, places = FAILURES[number]
    assert places
    for path, names in places.items():
        assert names
        assert set(names) <= names_in(path)


def test_no_number_is_left_out() -> None:
    hazards = {f"D{number}" for number in range(1, 15)}
    assert set(FAILURES) == {str(number) for number in range(1, 45)} | {"17c"} | hazards
