"""`poolscope stats`, from what is typed to what is printed: real pools behind real servers."""

import asyncio
import json
import signal
import subprocess
from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest

from poolscope.cli import main
from poolscope.cli.stats.address import Address, parse_address
from poolscope.cli.stats.command import Options, run
from poolscope.telemetry.prometheus import start_metrics_server
from tests.cli.pages import Capture, Pages, closed_port, command, page, piped, rows, serving, shown
from tests.support import run as run_async
from tests.telemetry.traffic import (
    Clock,
    drive,
    fail_to_connect,
    fake_source,
    hold,
    make_pool,
    waiter,
)


def watched(capsys: Capture, *pages: str, seconds: float = 2.0) -> list[dict[str, Any]]:
    """What is shown of the only pool, time after time, while the clock is moved by hand."""
    clock = Clock()
    with serving(Pages(*pages)) as server:
        options = Options(addresses=[address(server.port)], watch=seconds, as_json=True)
        assert run(options, times(len(pages), clock), clock) == 0
    return [json.loads(line)["pools"][0] for line in capsys.readouterr().out.splitlines()]


def times(
    count: int, clock: Clock | None = None, between: Callable[[], object] = lambda: None
) -> Callable[[float], None]:
    """A pause that somebody ends with Ctrl-C after so many views."""
    left = count

    def pause(seconds: float) -> None:
        nonlocal left
        left -= 1
        if not left:
            raise KeyboardInterrupt
        if clock is not None:
            clock.now += seconds
        between()

    return pause


def address(port: int) -> Address:
    return parse_address(f"127.0.0.1:{port}")


# Real pools


def test_the_numbers_are_those_of_the_pool(capsys: Capture) -> None:
    async def scenario() -> None:
        clock = Clock()
        async with make_pool("orders", clock, max_waiting=1, acquire_timeout=60) as pool:
            await drive(pool, clock)
            async with pool.connection():
                task = await waiter(pool, clock)
                clock.now += 4
                with start_metrics_server(port=0) as server:
                    document = shown(server.url, capsys=capsys)
                stats = pool.stats()
            await task
        (shown_pool,) = document["pools"]
        assert datetime.fromisoformat(document["time"]).tzinfo
        assert document["problems"] == []
        assert shown_pool == {
            "address": f"127.0.0.1:{server.port}",
            "job": None,
            "instance": None,
            "pool": "orders",
            "trouble": ["saturated"],
            "max": stats.max_size,
            "used": stats.in_use,
            "idle": stats.idle,
            "opening": 0,
            "waiting": 1,
            "oldest_wait_seconds": 4.0,
            "oldest_use_seconds": 4.0,
            "used_peak": 1,
            # The 99th of 100 waits is the longest of 8, 0.92 of the way through 0.5 to 1 s;
            # of 4 uses 3 are in that bucket.
            "wait_p99_seconds": pytest.approx(0.5 + 0.5 * 0.92),
            "use_p99_seconds": pytest.approx(0.5 + 0.5 * 2.96 / 3),
            "requests": 8,
            "requests_per_second": None,
            "errors": 2,
            "timeouts": 1,
            "connect_failures": 0,
            "leaks": 0,
            "saturated_seconds": pytest.approx(stats.saturation_time),
            "interval_seconds": None,
        }

    run_async(scenario())


def test_the_table_marks_the_pool_in_trouble_and_puts_it_first(capsys: Capture) -> None:
    async def scenario() -> None:
        clock = Clock()
        async with make_pool("calm", clock), make_pool("orders", clock) as pool:
            async with pool.connection():
                task = await waiter(pool, clock)
                clock.now += 4
                with start_metrics_server(port=0) as server:
                    assert main(["stats", str(server.port)]) == 0
            await task

    run_async(scenario())
    out, err = capsys.readouterr()
    first, second = rows(out)
    assert first[:4] == ["!", "orders", "1/1", "1"]
    assert first[-1] == "saturated"
    assert second[:3] == ["calm", "0/1", "0"]
    assert "2 pools; p99 and counts since the start" in out
    assert "raise max_size" in out
    assert err == ""


def test_watching_shows_what_happened_since_the_time_before(capsys: Capture) -> None:
    async def scenario() -> None:
        clock, moments = Clock(), Clock()
        loop = asyncio.get_running_loop()
        async with make_pool("orders", clock) as pool:
            for _ in range(3):
                await hold(pool, clock, 100.0)

            async def traffic() -> None:
                for _ in range(4):
                    await hold(pool, clock, 0.02)

            def between() -> None:
                asyncio.run_coroutine_threadsafe(traffic(), loop).result()

            with start_metrics_server(port=0) as server:
                options = Options(addresses=[address(server.port)], watch=2.0, as_json=True)
                pause = times(2, moments, between)
                assert await asyncio.to_thread(run, options, pause, moments) == 0

    run_async(scenario())
    first, second = (json.loads(line)["pools"][0] for line in capsys.readouterr().out.splitlines())
    assert (first["interval_seconds"], second["interval_seconds"]) == (None, 2.0)
    assert (first["requests_per_second"], second["requests_per_second"]) == (None, 2.0)
    assert (first["requests"], second["requests"]) == (3, 7)
    assert first["use_p99_seconds"] > 60
    assert second["use_p99_seconds"] < 0.03


def test_connects_that_begin_to_fail_are_trouble(capsys: Capture) -> None:
    async def scenario() -> None:
        loop, moments = asyncio.get_running_loop(), Clock()
        clock = Clock()
        async with make_pool("orders", clock, error=ConnectionRefusedError()) as pool:
            await fail_to_connect(pool)

            def between() -> None:
                clock.now += 60  # the pool is to try at once
                asyncio.run_coroutine_threadsafe(fail_to_connect(pool), loop).result()

            with start_metrics_server(port=0) as server:
                options = Options(addresses=[address(server.port)], watch=2.0)
                pause = times(2, moments, between)
                assert await asyncio.to_thread(run, options, pause, moments) == 0

    run_async(scenario())
    first, second = capsys.readouterr().out.split("\n\n", 1)
    assert "!" not in first
    assert rows(second)[0][0] == "!"
    assert rows(second)[0][-2:] == ["connects", "fail"]
    assert "the database is down" in second


def test_several_workers_are_one_table(capsys: Capture) -> None:
    with (
        fake_source("orders"),
        start_metrics_server(port=0) as one,
        start_metrics_server(port=0) as two,
    ):
        assert main(["stats", one.url, two.url, one.url]) == 0
    named = [word for row in rows(capsys.readouterr().out) for word in row if ":" in word]
    assert sorted(named) == sorted(f"127.0.0.1:{server.port}" for server in (one, two))


def test_a_worker_that_is_away_does_not_hide_the_others(capsys: Capture) -> None:
    with fake_source("orders"), start_metrics_server(port=0) as server:
        gone = closed_port()
        assert main(["stats", server.url, f"127.0.0.1:{gone}"]) == 1
    out, err = capsys.readouterr()
    assert len(rows(out)) == 1
    assert err.startswith(f"poolscope stats: 127.0.0.1:{gone}: nothing listens there; start")
    assert err.count("\n") == 1


def test_it_is_a_command_of_the_package() -> None:
    with fake_source("orders"), start_metrics_server(port=0) as server:
        done = subprocess.run(
            command(server.port, "--json"), capture_output=True, text=True, timeout=30
        )
    assert (done.returncode, done.stderr) == (0, "")
    assert [pool["pool"] for pool in json.loads(done.stdout)["pools"]] == ["orders"]


# Watching


def test_failed_connects_are_trouble_while_they_rise(capsys: Capture) -> None:
    pages = [page(max=4, used=0, connects_failed=count) for count in (3, 4, 4, 1)]
    # The last one is a program that has started again.
    assert [pool["trouble"] for pool in watched(capsys, *pages)] == [
        [], ["connects_fail"], [], ["connects_fail"],
    ]  # fmt: skip


def test_after_a_restart_the_counts_begin_at_zero(capsys: Capture) -> None:
    before = page(max=4, to_10_ms=100, to_1_s=100, waits=100)
    after = page(max=4, to_10_ms=0, to_1_s=20, waits=20)
    _, pool = watched(capsys, before, after)
    assert pool["requests_per_second"] == 10.0
    assert pool["wait_p99_seconds"] > 0.9


def test_without_requests_there_is_no_quantile_of_the_interval(capsys: Capture) -> None:
    text = page(max=4, to_10_ms=100, to_1_s=100, waits=100)
    first, second = watched(capsys, text, text)
    assert first["wait_p99_seconds"] == pytest.approx(0.0099)
    assert second["wait_p99_seconds"] is None
    assert second["requests_per_second"] == 0.0


def test_a_pool_that_is_new_is_shown_since_its_start(capsys: Capture) -> None:
    new = page("orders", max=4, waits=5)
    clock = Clock()
    with serving(Pages(page("users", max=4), page("users", max=4) + new)) as server:
        options = Options(addresses=[address(server.port)], watch=2.0, as_json=True)
        run(options, times(2, clock), clock)
    last = json.loads(capsys.readouterr().out.splitlines()[1])["pools"]
    assert {pool["pool"]: pool["interval_seconds"] for pool in last} == {
        "orders": None,
        "users": 2.0,
    }


def test_watching_goes_on_when_an_address_goes_and_comes_back(capsys: Capture) -> None:
    clock = Clock()
    good = [page(max=4, waits=count) for count in (10, 30)]
    with serving(Pages(good[0], "", good[1])) as server:
        options = Options(addresses=[address(server.port)], watch=2.0)
        assert run(options, times(3, clock), clock) == 0
    out, err = capsys.readouterr()
    first, gone, back = out.strip().split("\n\n")
    assert "1 pool; p99 and counts since the start" in first
    assert "0 pools" in gone
    assert f"! 127.0.0.1:{server.port}: it shows no open pool" in gone
    # What happened meanwhile is not lost: 20 requests in 4 s.
    assert "requests/s of the last 4.0 s" in back
    assert "5.0" in rows(back)[0]
    assert err == ""


def test_watching_does_not_begin_where_nothing_is(capsys: Capture) -> None:
    def never(_: float) -> None:
        raise AssertionError("it waited")

    options = Options(addresses=[address(closed_port())], watch=2.0)
    assert run(options, never) == 1
    assert "nothing listens there" in capsys.readouterr().err


def test_ctrl_c_ends_watching_lines_with_success() -> None:
    with (
        fake_source("orders"),
        start_metrics_server(port=0) as server,
        piped(server.port, "--watch", "60", "--json") as process,
    ):
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["pools"]
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (0, "")
