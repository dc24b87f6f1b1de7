"""What a deployment tells a person, and in which order it is taken away."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import ray
from ray import serve

from enchanted.cluster import deploy
from enchanted.cluster.deploy import crowded
from enchanted.cluster.settings import IngestSettings, Settings
from enchanted.cluster.state import Endpoints


def test_several_workers_on_the_embedded_store_are_warned_of_with_the_remedy() -> None:
    (note,) = crowded(Settings(ingest=IngestSettings(workers=3)))

    assert note.startswith("3 ingest workers")
    assert "set ingest.workers to 1, or clickhouse_url" in note


@pytest.mark.parametrize(
    "settings",
    [
        Settings(),
        Settings(ingest=IngestSettings(workers=3), clickhouse_url="http://user:password@host:8123/database"),
    ],
    ids=["one worker", "a store of others"],
)
def test_one_worker_or_a_server_of_others_is_not_warned_of(settings: Settings) -> None:
    assert crowded(settings) == []


@pytest.fixture
def done(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is done to a Ray that goes on, in order; one of two ingest actors is there."""
    done: list[str] = []

    def get_actor(name: str) -> str:
        if name != "ingest-1":
            raise ValueError(name)
        return name

    monkeypatch.setattr(deploy.registry, "registered", lambda: None)
    monkeypatch.setattr(deploy.registry, "unregister", lambda _: done.append("unregistered"))
    monkeypatch.setattr(deploy, "drain_ingest", lambda _: done.append("drained"))
    monkeypatch.setattr(ray, "get_actor", get_actor)
    monkeypatch.setattr(ray, "kill", lambda actor: done.append(f"{actor} killed"))
    monkeypatch.setattr(serve, "delete", lambda name: done.append(f"{name} deleted"))
    monkeypatch.setattr(serve, "status", lambda: SimpleNamespace(applications={"another": None}))
    return done


NOWHERE = Path("/nowhere")
ENDPOINTS = Endpoints(
    nats_url="", clickhouse_url="", api_url="", ray_address="", ray_dashboard_url="", token_file=NOWHERE, home=NOWHERE
)


def test_ingest_is_drained_and_ended_before_the_application_takes_the_time_there_is(done: list[str]) -> None:
    deploy.remove(ENDPOINTS, Settings(ingest=IngestSettings(workers=2)))

    assert done == ["unregistered", "drained", "ingest-1 killed", "enchanted deleted"]


def test_a_home_that_was_refused_takes_nothing_of_the_one_that_has_the_ray(
    done: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    other = replace(ENDPOINTS, home=Path("/elsewhere"))
    monkeypatch.setattr(deploy.registry, "registered", lambda: other)
    deploy.remove(ENDPOINTS, Settings(ingest=IngestSettings(workers=2)))
    assert done == []


def test_ingest_is_ended_also_where_it_cannot_be_drained(done: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: Settings) -> None:
        raise ConnectionError("Ray is gone")

    monkeypatch.setattr(deploy, "drain_ingest", fail)
    with pytest.raises(ConnectionError):
        deploy.remove(ENDPOINTS, Settings(ingest=IngestSettings(workers=2)))

    assert done == ["unregistered", "ingest-1 killed"]
