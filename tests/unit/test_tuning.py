"""What `pooltable tune` tries, and what it makes of what was measured."""

from __future__ import annotations

from pooltable.tuning import Choice, Machine, Score, choices, finalists, verdict

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
