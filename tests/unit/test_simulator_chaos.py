"""The chaos dial: seeded, bounded per key, and no more often than it says."""

from collections import Counter

import msgspec
import pytest

from coatcheck.simulator.chaos import Chaos, Dial, Fault, Weather


def faults_of(dial: Dial, *, keys: int = 500, sends: int = 4) -> dict[str, list[Fault]]:
    chaos = Chaos(dial)
    return {f"k{key}": [chaos.of_sending(f"k{key}").fault for _ in range(sends)] for key in range(keys)}


STORM = Dial(rate_limit_share=0.1, error_before_share=0.2, error_after_share=0.1, drop_after_charge_share=0.3)


def test_calm_weather_touches_nothing() -> None:
    chaos = Chaos(Dial())
    assert chaos.of_sending("k") == Weather()
    assert chaos.of_look_up() == (False, 0.0)


def test_the_same_seed_and_keys_meet_the_same_faults_in_any_order() -> None:
    forward, backward = Chaos(STORM), Chaos(STORM)
    keys = [f"k{number}" for number in range(200)]
    first = {key: forward.of_sending(key) for key in keys}
    assert {key: backward.of_sending(key) for key in reversed(keys)} == first
    other = Chaos(msgspec.structs.replace(STORM, seed=2))
    assert {key: other.of_sending(key) for key in keys} != first


def test_each_fault_comes_as_often_as_the_dial_says() -> None:
    counts = Counter(faults[0] for faults in faults_of(STORM, keys=4000).values())
    expected = {
        Fault.RATE_LIMIT: 0.1,
        Fault.ERROR_BEFORE: 0.2,
        Fault.ERROR_AFTER: 0.1,
        Fault.DROP: 0.3,
        Fault.NONE: 0.3,
    }
    for fault, share in expected.items():
        assert abs(counts[fault] / 4000 - share) < 0.03, fault


def test_a_key_is_left_in_peace_after_its_faults() -> None:
    always = Dial(error_before_share=1, max_faults_per_key=2)
    assert set(map(tuple, faults_of(always, keys=5).values())) == {
        (Fault.ERROR_BEFORE, Fault.ERROR_BEFORE, Fault.NONE, Fault.NONE)
    }


def test_without_a_limit_a_psp_can_be_down_for_good() -> None:
    down = Dial(error_before_share=1, max_faults_per_key=0)
    assert {fault for faults in faults_of(down, keys=5, sends=20).values() for fault in faults} == {Fault.ERROR_BEFORE}


def test_sendings_of_one_key_differ() -> None:
    unlimited = msgspec.structs.replace(STORM, max_faults_per_key=0)
    assert any(len(set(faults)) > 1 for faults in faults_of(unlimited, keys=20).values())


def test_a_decline_belongs_to_the_key_and_not_to_the_sending() -> None:
    chaos = Chaos(Dial(decline_share=0.5))
    verdicts = {f"k{key}": {chaos.of_sending(f"k{key}").declines for _ in range(5)} for key in range(200)}
    assert all(len(verdict) == 1 for verdict in verdicts.values())
    assert 60 < sum(True in verdict for verdict in verdicts.values()) < 140


def test_latency_jitter_and_slowness_add_up() -> None:
    chaos = Chaos(Dial(latency_ms=10, latency_jitter_ms=5, slow_share=0.5, slow_ms=1000))
    weather = [chaos.of_sending(f"k{number}") for number in range(100)]
    assert {one.is_slow for one in weather} == {True, False}
    for one in weather:
        base_s = one.delay_s - (1 if one.is_slow else 0)
        assert 0.0099 <= base_s <= 0.0151
    assert len({one.delay_s for one in weather}) > 50


def test_look_ups_fail_as_often_as_the_dial_says() -> None:
    chaos = Chaos(Dial(look_up_error_share=0.5))
    assert 400 < sum(chaos.of_look_up()[0] for _ in range(1000)) < 600


def test_turning_the_dial_starts_the_counts_again() -> None:
    chaos = Chaos(Dial(error_before_share=1, max_faults_per_key=1))
    assert [chaos.of_sending("k").fault for _ in range(2)] == [Fault.ERROR_BEFORE, Fault.NONE]
    chaos.set(chaos.dial)
    assert chaos.of_sending("k").fault is Fault.ERROR_BEFORE


@pytest.mark.parametrize(
    "setting",
    [
        {"drop_after_charge_share": 1.5},
        {"decline_share": -0.1},
        {"latency_ms": -1},
        {"latency_ms": 1.5},
        {"drop_after_charge_share": 0.6, "error_before_share": 0.6},
        {"no_such_setting": 1},
    ],
)
def test_a_dial_that_cannot_be_is_refused(setting: dict[str, float]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(setting, Dial)
