"""What `pooltable tune` tries, and what it makes of what was measured."""

from __future__ import annotations

from pooltable.tuning import Choice, Machine, Score, choices, finalists, hopeless_below, pays_from, verdict

NOW = Choice(4, 1)


def test_every_way_to_share_the_cores_is_tried_and_what_is_set_now_first():
    found = choices(NOW, Machine(cores=4), largest=1)
    assert found[0] == NOW
    assert set(found) == {Choice(1, 1), Choice(1, 4), Choice(2, 1), Choice(2, 2), Choice(4, 1)}


def test_more_workers_than_cores_are_tried_only_where_calls_wait():
    assert max(choice.processes for choice in choices(NOW, Machine(4), largest=1)) == 4
    assert max(choice.processes for choice in choices(NOW, Machine(4, waits=True), largest=1)) == 16


def test_no_more_workers_are_tried_than_fit_into_the_memory_but_for_what_is_set_now():
    found = choices(NOW, Machine(4, waits=True, most=2), largest=1)
    assert {choice.processes for choice in found} == {1, 2, 4}


def test_devices_and_not_cores_give_the_number_of_workers():
    found = choices(Choice(2, 8), Machine(16, devices=2), largest=1)
    assert {choice.processes for choice in found} == {2, 4, 8}


def test_batches_are_tried_up_to_the_largest_and_what_is_given_is_not_varied():
    found = choices(Choice(1, 1, 32), Machine(4), largest=128, processes=1, threads=1)
    assert set(found) == {Choice(1, 1, size) for size in (128, 32, 8, 2)}


def test_the_promising_ones_and_what_is_set_now_are_measured_again():
    rates = {Choice(1, 1): 10.0, Choice(2, 2): 95.0, Choice(2, 1): 100.0, NOW: 40.0, Choice(8, 1): 70.0}
    again = finalists([Score(choice, [rate]) for choice, rate in rates.items()], NOW)
    assert again == [Choice(2, 1), Choice(2, 2), NOW]


def test_of_choices_that_are_alike_the_one_that_takes_less_is_best():
    scores = [Score(NOW, [50.0, 50.0]), Score(Choice(8, 1), [101.0, 101.0]), Score(Choice(2, 2), [100.0, 100.0])]
    found = verdict(scores, NOW)
    assert found is not None
    assert (found.best.choice, found.gain, found.keeps) == (Choice(2, 2), 2.0, False)


def test_a_gain_within_the_noise_is_none():
    found = verdict([Score(NOW, [80.0, 100.0, 120.0]), Score(Choice(2, 2), [110.0, 112.0, 114.0])], NOW)
    assert found is not None
    assert found.keeps


def test_one_lucky_round_does_not_win_over_three():
    lucky = Score(Choice(8, 1), [1000.0])
    found = verdict([lucky, Score(NOW, [50.0] * 3), Score(Choice(2, 2), [100.0] * 3)], NOW)
    assert found is not None
    assert found.best.choice == Choice(2, 2)


def test_a_choice_that_failed_is_never_best():
    failed = Score(Choice(8, 1), [1000.0], failure="worker 7 was killed by SIGKILL")
    found = verdict([failed, Score(Choice(2, 2), [10.0])], NOW)
    assert found is not None
    assert (found.best.choice, found.gain) == (Choice(2, 2), None)
    assert verdict([failed], NOW) is None


def scored(choice: Choice, rate: float, start: float) -> Score:
    return Score(choice, [rate] * 3, [start] * 3)


MANY = scored(Choice(8, 1), 100.0, 6.0)
FEW = scored(Choice(1, 1), 25.0, 0.5)
SET = scored(NOW, 50.0, 2.0)


def test_the_start_of_the_workers_decides_how_many_rows_a_choice_pays_for():
    assert SET.seconds_for(100) == 4.0
    assert pays_from(MANY, SET) == 401
    assert (MANY.seconds_for(400), SET.seconds_for(400)) == (10.0, 10.0)
    assert pays_from(scored(Choice(2, 2), 60.0, 2.0), SET) == 1
    assert pays_from(SET, MANY) is None
    assert pays_from(MANY, MANY) is None


def test_rows_that_do_not_keep_all_workers_busy_take_one_call():
    assert FEW.seconds_for(1) == 0.5 + 1 / 25
    assert MANY.seconds_for(1) == MANY.seconds_for(8) == 6.0 + 8 / 100


def test_the_best_choice_for_few_rows_is_not_the_one_for_many():
    scores = [MANY, FEW, SET]
    chosen = {rows: verdict(scores, NOW, rows) for rows in (20, 200, 5000, None)}
    assert {rows: found.best for rows, found in chosen.items() if found} == {20: FEW, 200: SET, 5000: MANY, None: MANY}
    assert {rows: found.later for rows, found in chosen.items() if found} == {
        20: MANY, 200: MANY, 5000: None, None: None,
    }  # fmt: skip


def test_a_gain_is_one_of_time_where_the_number_of_rows_is_known():
    found = verdict([MANY, SET], NOW, 1000)
    assert found is not None
    assert found.gain == (2.0 + 1000 / 50) / (6.0 + 1000 / 100)


def test_who_is_good_for_few_rows_is_neither_cut_nor_left_out():
    assert hopeless_below([MANY], start=0.5) == 50.0
    # In twice the seconds that the best needs for 20 rows, with 0.5 s to start.
    assert hopeless_below([MANY], start=0.5, rows=20) == 20 / (2 * MANY.seconds_for(20) - 0.5)
    assert finalists([MANY, FEW, SET], NOW, 20) == [FEW.choice, SET.choice]
    assert hopeless_below([], start=0.5, rows=20) == 0.0
