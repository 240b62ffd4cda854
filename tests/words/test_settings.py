import math

import pytest

from poolscope import ConnectionPoolSettings

CONTRACT = {
    "min_size": (1, 10, 1, 5),
    "max_size": (10, 100, 5, 20),
    "max_idle": (5, 20, 2, 10),
    "max_lifetime": (3600, 1800, 7200, 3600),
    "acquire_timeout": (10.0, 5.0, 30.0, 10.0),
    "idle_timeout": (300.0, 600.0, 1800.0, 300.0),
    "retry_limit": (3, 5, 3, 3),
    "retry_delay": (1.0, 0.1, 1.0, 0.5),
    "validate_on_acquire": (True, False, True, True),
}


@pytest.mark.parametrize("field", CONTRACT)
def test_defaults_and_presets_are_those_of_the_contract(field):
    made = (
        ConnectionPoolSettings(),
        ConnectionPoolSettings.create_aggressive(),
        ConnectionPoolSettings.create_conservative(),
        ConnectionPoolSettings.create_balanced(),
    )
    assert tuple(getattr(settings, field) for settings in made) == CONTRACT[field]


def test_the_fields_of_the_contract_come_first_and_in_its_order():
    assert ConnectionPoolSettings(2, 3, 4, 5, 6.0, 7.0, 8, 9.0, False) == ConnectionPoolSettings(
        **dict(zip(CONTRACT, (2, 3, 4, 5, 6.0, 7.0, 8, 9.0, False), strict=True))
    )


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("min_size", -1),
        ("min_size", 1.0),
        ("min_size", True),
        ("min_size", None),
        ("max_size", 0),
        ("max_size", "10"),
        ("max_idle", -1),
        ("max_waiting", 0),
        ("max_connecting", 0),
        ("retry_limit", -1),
        ("retry_delay", -0.1),
        ("acquire_timeout", math.nan),
        ("acquire_timeout", -1),
        ("acquire_timeout", "10"),
        ("acquire_timeout", None),
        ("max_lifetime", 0),
        ("idle_timeout", 0),
        ("connect_timeout", 0),
        ("validate_timeout", False),
        ("close_timeout", -1),
        ("lifetime_jitter", 1.5),
        ("lifetime_jitter", -0.1),
        ("leak_threshold", 0),
        ("validate_on_acquire", 1),
        ("name", ""),
        ("name", 7),
    ],
)
def test_a_wrong_value_is_refused_when_made_and_when_set(field, value):
    with pytest.raises(ValueError, match=field) as caught:
        ConnectionPoolSettings(**{field: value})
    assert repr(value) in str(caught.value)
    settings = ConnectionPoolSettings()
    before = getattr(settings, field)
    with pytest.raises(ValueError, match=field):
        setattr(settings, field, value)
    assert getattr(settings, field) == before


def test_min_size_above_max_size_is_refused_with_both_values():
    with pytest.raises(ValueError, match=r"min_size=11, max_size=10"):
        ConnectionPoolSettings(min_size=11)


def test_a_field_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match="pool_size is no setting"):
        ConnectionPoolSettings().pool_size = 3


def test_a_pool_keeps_its_own_copy():
    from poolscope import ConnectionPool

    settings = ConnectionPoolSettings.create_balanced()
    settings.max_size = 50
    pool = ConnectionPool(object, settings)
    settings.max_size = 60
    assert pool.settings.max_size == 50


def test_a_pool_refuses_settings_that_were_set_to_contradict_each_other():
    from poolscope import ConnectionPool

    settings = ConnectionPoolSettings()
    settings.min_size = 20
    with pytest.raises(ValueError, match="min_size must not exceed max_size"):
        ConnectionPool(object, settings)


def test_endless_times_are_allowed():
    settings = ConnectionPoolSettings(max_lifetime=math.inf, idle_timeout=math.inf)
    assert settings.max_lifetime == math.inf
