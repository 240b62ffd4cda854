import traceback
from dataclasses import replace
from urllib.parse import quote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from poolscope import ConnectionPool, ConnectionPoolSettings
from poolscope.target import Target

CANARY, NUMBER = "can" + "ary", "313" + "37"  # not whole, as a traceback shows lines of source
SHOP = Target("postgresql", "db.internal", 5432, "shop")


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("postgresql://db.internal/shop", SHOP),
        ("postgres://db.internal/shop", SHOP),
        ("postgresql+asyncpg://db.internal/shop", SHOP),
        ("PostgreSQL+psycopg://DB.internal:5432/shop", SHOP),
        ("postgresql://app:secret@db.internal/shop", SHOP),
        ("postgresql://app@db.internal:/shop", SHOP),
        ("postgresql://app:a:b@c,d@db.internal/shop", SHOP),
        ("postgresql://app:a%2Fb%3Fc%23d%40e@db.internal/shop", SHOP),
        ("postgresql://db.internal/shop?sslmode=require&password=secret#x", SHOP),
        ("  postgresql://db.internal/shop\n", SHOP),
        ("postgresql://db.internal:6000/shop", replace(SHOP, port=6000)),
        ("postgresql://db.internal", replace(SHOP, namespace=None)),
        ("postgresql://db.internal/?user=app", replace(SHOP, namespace=None)),
        ("postgresql://db.internal/my%20shop%40home", replace(SHOP, namespace="my shop@home")),
        ("postgresql:///shop", Target("postgresql", None, None, "shop")),
        ("postgresql://app:secret@:6000/shop", Target("postgresql", None, None, "shop")),
        ("postgresql:///shop?host=/run/pg", Target("postgresql", None, None, "shop")),
        ("postgresql://%2Frun%2FPG/shop", Target("postgresql", "/run/PG", None, "shop")),
        ("postgresql://a:b@%2Frun:6000/shop", Target("postgresql", "/run", 6000, "shop")),
        ("postgresql://a:b@[::1]/shop", Target("postgresql", "::1", 5432, "shop")),
        ("postgresql://[fe80::1%25eth0]:6000/", Target("postgresql", "fe80::1%eth0", 6000)),
        ("postgresql://a:b@one:6000,two/shop", Target("postgresql", "one", 6000, "shop")),
        ("postgresql://one,two:6000/shop", Target("postgresql", "one", 5432, "shop")),
        ("mysql+aiomysql://a:b@db/shop", Target("mysql", "db", 3306, "shop")),
        ("mariadb://a:b@db/shop", Target("mariadb", "db", 3306, "shop")),
        (
            "mssql+pyodbc://a:b@db\\one/shop",
            Target("microsoft.sql_server", "db\\one", None, "shop"),
        ),
        ("redis://:secret@db/3", Target("redis", "db", 6379, "3")),
        ("redis://secret@db", Target("redis", "db", 6379, "0")),
        ("rediss://db:6380/?db=3", Target("redis", "db", 6380, None)),
        ("redis://:31337", Target("redis", None, None, "0")),
        ("sqlite://", Target("sqlite")),
        ("sqlite:///:memory:", Target("sqlite", namespace=":memory:")),
        ("sqlite:///data/shop.db?mode=ro", Target("sqlite", namespace="data/shop.db")),
        ("sqlite+aiosqlite:////data/shop.db", Target("sqlite", namespace="/data/shop.db")),
        ("sqlite:///a@b;c=d.db", Target("sqlite", namespace="a@b;c=d.db")),
        ("sqlite+pysqlcipher://:secret@/shop.db", Target("sqlite", namespace="shop.db")),
    ],
)
def test_a_url_names_server_and_database_and_nothing_else(url, target):
    assert Target.from_url(url) == target
    assert ConnectionPoolSettings(target=url).target == target


def refusal(url: str) -> ValueError:
    with pytest.raises(ValueError, match="a target must be a URL such as") as caught:
        ConnectionPoolSettings(target=url)
    error = caught.value
    assert (error.__cause__, error.__context__) == (None, None)
    told = "".join([*traceback.format_exception(error), str(error.args)])
    assert CANARY not in told
    assert NUMBER not in told
    return error


@pytest.mark.parametrize(
    "url",
    [
        "",
        CANARY,
        f"host=db user=app password={CANARY}",
        f"app:{CANARY}@db/shop",
        f"//app:{CANARY}@db/shop",
        f"postgresql:app:{CANARY}@db/shop",
        f"postgresql:/app:{CANARY}@db/shop",
        f"postgresql:{CANARY}",
        f"{CANARY}://db/shop",
        f"jdbc:postgresql://db/shop?password={CANARY}",
        # An address that ends within the password.
        f"postgresql://app:{CANARY}/x@db/shop",
        f"postgresql://app:{NUMBER}/x@db/shop",
        f"postgresql://app:1?{CANARY}@db/shop",
        f"postgresql://app:1#{CANARY}@db/shop",
        f"postgresql://app@corp:1/{CANARY}@db/shop",
        f"postgresql://app@corp:{NUMBER}?x@db/shop",
        f"postgresql://app@corp:{NUMBER}#x@db/shop",
        f"sqlite+pysqlcipher://:/{CANARY}@/shop.db",
        f"sqlite+pysqlcipher://:x@/{CANARY}@/shop.db",
        # No address at all.
        f"postgresql://app:{CANARY}",
        f"postgresql://app:a,{CANARY}:1",
        f"redis://:{CANARY}",
        f"redis://:1/{CANARY}",
        f"sqlite://{CANARY}/shop.db",
        # An address that cannot be one.
        f"postgresql://[{CANARY}]/shop",
        f"postgresql://app[{CANARY}/shop",
        f"postgresql://app%3A{CANARY}%40db/shop",
        f"postgresql://db:{CANARY}/shop",
        f"postgresql://db:{NUMBER}0/shop",
        "postgresql://db:0/shop",
        f"mssql://db;password={CANARY}/shop",
        f"redis://db:6379,password={CANARY}",
        # A database that cannot be one.
        f"mysql://db/shop;password={CANARY}",
        f"mysql://db/shop&password={CANARY}",
        f"postgresql://db/shop password={CANARY}",
        f"redis://db/{CANARY}",
        f"postgresql://db/shop?password=1@{CANARY}",
    ],
)
def test_what_could_hold_a_secret_in_the_wrong_place_is_refused_without_a_word_of_it(url):
    assert "quoted" in str(refusal(url))


def is_refused(url: str) -> bool:
    try:
        Target.from_url(url)
    except ValueError:
        pass
    else:
        return False
    return bool(refusal(url))


secrets = st.lists(
    st.sampled_from([CANARY, NUMBER, *"/?#@:,;=&%[]\\ +\t℀"]), min_size=1, max_size=8
).map("".join)


@given(
    user=secrets | st.just(""), password=secrets, host=st.sampled_from(["db", "db:6000", "[::1]"])
)
@example(user="app@corp", password=f"{NUMBER}/x", host="db")
@example(user="app", password=f"{NUMBER}?x", host="db")
def test_an_unquoted_secret_is_refused_or_changes_nothing(user, password, host):
    meant = Target.from_url(f"postgresql://{quote(user, '')}:{quote(password, '')}@{host}/shop")
    url = f"postgresql://{user}:{password}@{host}/shop"
    assert is_refused(url) or Target.from_url(url) == meant


@given(password=secrets, place=st.sampled_from(["?password=", "?sslmode=x&password=", "#"]))
def test_an_unquoted_secret_among_the_options_is_refused_or_left_out(password, place):
    url = f"postgresql://db.internal/shop{place}{password}"
    assert is_refused(url) or Target.from_url(url) == SHOP


def test_settings_and_what_is_made_of_them_show_no_secret():
    settings = ConnectionPoolSettings(target=f"postgresql://app:{CANARY}@db.internal/shop")
    pool = ConnectionPool(object, settings)
    assert settings.target == settings.copy().target == pool.settings.target == SHOP
    for shown in (settings, settings.copy(), settings.target, pool.settings, pool, pool.stats()):
        assert CANARY not in repr(shown)


def test_a_setting_set_later_is_read_the_same_way():
    settings = ConnectionPoolSettings()
    settings.target = "postgresql://db.internal/shop"
    assert settings.target == SHOP
    with pytest.raises(ValueError, match="a target must be a URL"):
        settings.target = f"postgresql://app:1/{CANARY}@db/shop"
    assert settings.target == SHOP


def test_what_is_neither_url_nor_target_is_refused_by_its_type_alone():
    dsn = f"postgresql://app:{CANARY}@db/shop".encode()
    with pytest.raises(ValueError, match="target must be a URL or a Target: got a bytes") as caught:
        ConnectionPoolSettings(target=dsn)
    assert CANARY not in "".join(traceback.format_exception(caught.value))
