"""Ports: the setting's, else the remembered one, else a free one."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from enchanted.cluster.errors import PortTaken
from enchanted.cluster.home import Home
from enchanted.cluster.ports import LOOPBACK, choose
from enchanted.cluster.settings import Settings

FREE = {"api_port": 0, "nats_port": 0, "clickhouse_port": 0, "ray_port": 0, "ray_dashboard_port": 0}


def settings(tmp_path: Path, **changes: object) -> Settings:
    return Settings.model_validate({"home": tmp_path, **FREE, **changes})


def test_free_ports_are_distinct_and_kept_for_the_next_start(tmp_path: Path) -> None:
    first = choose(settings(tmp_path), Home(tmp_path))
    numbers = [getattr(first, name) for name in FREE]
    assert len(set(numbers)) == len(FREE)
    assert choose(settings(tmp_path), Home(tmp_path)) == first


def test_a_remembered_port_that_is_taken_now_is_replaced(tmp_path: Path) -> None:
    first = choose(settings(tmp_path), Home(tmp_path))
    with socket.socket() as other:
        other.bind((LOOPBACK, first.nats_port))
        other.listen()
        assert choose(settings(tmp_path), Home(tmp_path)).nats_port != first.nats_port


@pytest.mark.parametrize("content", ["", "[]", '{"nats_port": 70000}', '{"nats_port": -1}', '{"nats_port": "x"}'])
def test_damaged_notes_about_ports_are_passed_over(tmp_path: Path, content: str) -> None:
    Home(tmp_path).ports.write_text(content)
    assert choose(settings(tmp_path), Home(tmp_path)).nats_port > 0


def test_a_fixed_port_that_is_taken_is_an_error_naming_the_setting(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind((LOOPBACK, 0))
        other.listen()
        taken = other.getsockname()[1]
        with pytest.raises(PortTaken) as raised:
            choose(settings(tmp_path, nats_port=taken), Home(tmp_path))
    assert str(taken) in raised.value.cause
    assert "ENCHANTED_NATS_PORT" in raised.value.remedy
    assert raised.value.exit_code == 2


def test_a_ray_that_is_joined_may_serve_on_the_apis_port_already(tmp_path: Path) -> None:
    with socket.create_server((LOOPBACK, 0)) as other:
        port = other.getsockname()[1]
        joined = settings(tmp_path, api_port=port, ray_address="auto")
        assert choose(joined, Home(tmp_path)).api_port not in (0, port)


def test_an_external_service_needs_no_port(tmp_path: Path) -> None:
    chosen = choose(settings(tmp_path, nats_url="nats://h:4222", ray_address="h:6379"), Home(tmp_path))
    assert (chosen.nats_port, chosen.ray_port, chosen.ray_dashboard_port) == (0, 0, 0)
    assert chosen.clickhouse_port
