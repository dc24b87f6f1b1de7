"""Server text, stream settings and what is read back."""

from __future__ import annotations

from pathlib import Path

from enchanted.bus.connection import read_durability
from enchanted.bus.ordered import parse_position
from enchanted.bus.server_config import ClusterNode, render
from enchanted.bus.streams import StreamLimits, differences, stream_configs


def config(**changes: object) -> str:
    given = {
        "port": 4222,
        "store_dir": Path("/x"),
        "user": "u",
        "password": 'p"w',
        "sys_user": "s",
        "sys_password": "q",
    }
    return render(**{**given, **changes})  # type: ignore[arg-type]


def test_the_embedded_server_syncs_before_it_acknowledges() -> None:
    assert "sync_interval: always" in config()
    assert "sync_interval" not in config(sync="default")


def test_the_embedded_server_listens_on_loopback_and_quotes_passwords() -> None:
    assert 'listen: "127.0.0.1:4222"' in config()
    assert 'password: "p\\"w"' in config()


def test_a_server_of_a_cluster_has_its_own_name_and_knows_the_others() -> None:
    node = ClusterNode(server="n1", cluster="c", host="10.0.0.1", port=6222, routes=["10.0.0.2:6222"], password='p"w')
    text = config(cluster=node)
    assert 'server_name: "n1"' in text
    assert 'routes: [ "nats://route:p%22w@10.0.0.2:6222" ]' in text
    assert 'authorization { user: "route", password: "p\\"w" }' in text
    assert "cluster {" not in config()


def test_the_events_stream_is_as_the_contract_says() -> None:
    found = stream_configs(StreamLimits())[0]
    assert found["name"] == "ENCHANTED_SWARM"
    assert found["subjects"] == ["swarm.events.>"]
    assert (found["storage"], found["retention"], found["discard"]) == ("file", "limits", "new")
    assert found["max_age"] == 30 * 86_400 * 10**9
    assert all(found[name] for name in ("deny_delete", "deny_purge", "allow_atomic", "allow_direct"))
    assert found["max_msgs"] == -1, "two limits with discard new have acknowledged without storing"


def test_a_setting_that_is_left_out_counts_as_off() -> None:
    assert differences({"name": "a"}, {"name": "a", "allow_rollup_hdrs": False}) == {}
    assert differences({"name": "a"}, {"name": "a", "deny_purge": True}) == {"deny_purge": (None, True)}
    assert differences({"deny_purge": True}, {"deny_purge": False}) == {"deny_purge": (True, False)}


def test_durability_is_claimed_only_where_the_server_says_so() -> None:
    assert read_durability({"data": {"config": {"sync_always": True}}}).sync_always is True
    assert read_durability({"data": {"config": {"sync_interval": 120_000_000_000}}}).sync_always is False
    assert read_durability({"data": {}}).sync_always is None
    assert read_durability({"error": {"code": 503}}).sync_always is None


def test_the_reply_subject_is_read_in_both_forms() -> None:
    short = parse_position("$JS.ACK.S.C.1.20.3.1700000000123456789.7")
    long = parse_position("$JS.ACK._.hash.S.C.1.20.3.1700000000123456789.7.token")
    assert short == long
    assert (short.num_delivered, short.stream_seq, short.consumer_seq, short.num_pending) == (1, 20, 3, 7)
    assert short.time.microsecond == 123456


def test_a_folder_with_any_letters_is_written_as_it_is() -> None:
    assert 'store_dir: "/hö me/\\\\日本"' in config(store_dir=Path("/hö me/\\日本"))
