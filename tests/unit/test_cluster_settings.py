"""Settings: which source wins, where a value came from, what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from enchanted.cluster.errors import SettingsInvalid
from enchanted.cluster.settings_sources import Loaded, load


def loaded(folder: Path, **environment: str) -> Loaded:
    return load(environment=environment, folder=folder)


def test_without_sources_every_value_is_a_default(tmp_path: Path) -> None:
    found = loaded(tmp_path)
    assert found.settings.coders == 2
    assert found.settings.api_port == 8000
    assert found.settings.model.url == "bundled"
    assert {origin for _, _, origin in found.items()} == {"default"}


def test_a_flag_beats_the_environment_and_the_environment_beats_the_file(tmp_path: Path) -> None:
    (tmp_path / "enchanted.toml").write_text("coders = 3\nnats_port = 1111\napi_port = 2222\n")
    environment = {"ENCHANTED_CODERS": "4", "ENCHANTED_NATS_PORT": "3333"}
    found = load({"coders": 5}, environment=environment, folder=tmp_path)
    settings = found.settings
    assert (settings.coders, settings.nats_port, settings.api_port) == (5, 3333, 2222)
    origins = {name: origin for name, _, origin in found.items()}
    assert origins["coders"] == "flag --coders"
    assert origins["nats_port"] == "environment ENCHANTED_NATS_PORT"
    assert origins["api_port"] == str(tmp_path / "enchanted.toml")


def test_a_table_in_pyproject_is_read_when_there_is_no_own_file(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("[tool.other]\nx = 1\n[tool.enchanted.budget]\nseconds = 60\n")
    assert loaded(tmp_path).settings.budget.seconds == 60


def test_the_own_file_wins_over_pyproject(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("[tool.enchanted]\ncoders = 7\n")
    (tmp_path / "enchanted.toml").write_text("coders = 8\n")
    assert loaded(tmp_path).settings.coders == 8


def test_a_role_without_a_model_uses_the_common_one(tmp_path: Path) -> None:
    settings = loaded(
        tmp_path, ENCHANTED_MODEL="vllm:small", ENCHANTED_MODELS__ARCHITECT="openai:http://h/v1#m"
    ).settings
    assert settings.role_model("architect").url == "openai:http://h/v1#m"
    assert settings.role_model("coder").url == "vllm:small"


def test_fields_of_a_model_and_its_url_may_come_from_different_sources(tmp_path: Path) -> None:
    (tmp_path / "enchanted.toml").write_text(
        '[models.coder]\nurl = "vllm:a"\nlabel_selector = { "ray.io/accelerator-type" = "H100" }\n'
    )
    environment = {"ENCHANTED_MODELS__CODER": "vllm:b", "ENCHANTED_MODELS__CODER__NUM_GPUS": "0.5"}
    coder = load(environment=environment, folder=tmp_path).settings.role_model("coder")
    assert (coder.url, coder.num_gpus) == ("vllm:b", 0.5)
    assert coder.label_selector == {"ray.io/accelerator-type": "H100"}


def test_a_url_in_the_file_and_a_field_in_the_environment_make_one_model(tmp_path: Path) -> None:
    (tmp_path / "enchanted.toml").write_text('model = "vllm:a"\n')
    model = loaded(tmp_path, ENCHANTED_MODEL__DEDICATED="true").settings.model
    assert (model.url, model.dedicated) == ("vllm:a", True)


def test_a_variable_may_hold_a_table_as_json(tmp_path: Path) -> None:
    settings = loaded(tmp_path, ENCHANTED_MODEL='{"url": "vllm:a", "label_selector": {"zone": "x"}}').settings
    assert settings.model.label_selector == {"zone": "x"}


def test_an_unknown_variable_names_the_nearest_right_one(tmp_path: Path) -> None:
    with pytest.raises(SettingsInvalid) as raised:
        loaded(tmp_path, ENCHANTED_NAT_PORT="1")
    assert "ENCHANTED_NAT_PORT" in raised.value.cause
    assert raised.value.remedy == "did you mean ENCHANTED_NATS_PORT?"
    assert raised.value.exit_code == 2


def test_an_unknown_key_in_the_file_names_the_nearest_right_one(tmp_path: Path) -> None:
    (tmp_path / "enchanted.toml").write_text("[budget]\nsecond = 1\n")
    with pytest.raises(SettingsInvalid, match=r"did you mean budget\.seconds\?") as raised:
        loaded(tmp_path)
    assert str(tmp_path / "enchanted.toml") in raised.value.cause


@pytest.mark.parametrize("value", ["-1", "65536", "many"])
def test_a_wrong_value_says_where_it_was_set(tmp_path: Path, value: str) -> None:
    with pytest.raises(SettingsInvalid) as raised:
        loaded(tmp_path, ENCHANTED_API_PORT=value)
    assert "api_port" in raised.value.cause
    assert "ENCHANTED_API_PORT" in raised.value.cause


def test_a_broken_file_is_a_settings_error(tmp_path: Path) -> None:
    (tmp_path / "enchanted.toml").write_text("coders =\n")
    with pytest.raises(SettingsInvalid, match="is not TOML"):
        loaded(tmp_path)


def test_the_home_is_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert loaded(tmp_path).settings.home == tmp_path / ".enchanted"
    assert loaded(tmp_path, ENCHANTED_HOME="~/x").settings.home == Path("~/x").expanduser()


def test_the_key_file_of_every_model_is_found_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "enchanted.toml").write_text('model.key_file = "key"\nmodels.coder.key_file = "~/key"\n')
    settings = loaded(tmp_path, ENCHANTED_MODELS__REVIEWER__KEY_FILE="keys/one").settings
    roles = {role: settings.role_model(role).key_file for role in ("architect", "coder", "reviewer")}
    assert roles == {
        "architect": tmp_path / "key",
        "coder": Path("~/key").expanduser(),
        "reviewer": tmp_path / "keys" / "one",
    }
    assert load({"model.key_file": "key"}, environment={}, folder=tmp_path).settings.model.key_file == tmp_path / "key"
    assert loaded(tmp_path / "elsewhere").settings.model.key_file is None


def test_ray_address_is_a_cluster_and_not_a_jobs_api(tmp_path: Path) -> None:
    assert loaded(tmp_path, RAY_ADDRESS="10.0.0.1:6379").settings.ray_address == "10.0.0.1:6379"
    assert loaded(tmp_path, RAY_ADDRESS="http://127.0.0.1:8265").settings.ray_address is None


def test_settings_survive_the_way_to_the_supervisor(tmp_path: Path) -> None:
    settings = loaded(tmp_path, ENCHANTED_MODEL="vllm:a", ENCHANTED_TOKEN_FILE="/t").settings
    assert type(settings).model_validate_json(settings.model_dump_json()) == settings


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        *(("ENCHANTED_CLICKHOUSE_URL", url) for url in ("http://[", "ftp://h/d", "h:8123", "http://", "http://h:x/d")),
        *(("ENCHANTED_NATS_URL", url) for url in ("foo", "http://h:4222", "nats://", "nats://a:4222,b", "nats://h:0")),
        *(("RAY_ADDRESS", address) for address in ("zzz", "zzz:", ":6379", "h:port", "ray://", "a b:1", "h:1/x")),
        *(("ENCHANTED_MODEL", url) for url in ("gpt", "vllm:", "openai:h/v1#m")),
        ("ENCHANTED_NATS_URL", "nats://a:4222,wss://b:443"),
        ("ENCHANTED_NATS_URL", "nats://a:4222,"),
        ("ENCHANTED_BUDGET__SECONDS", "inf"),
        ("ENCHANTED_START_SECONDS", "nan"),
    ],
)
def test_an_address_that_is_none_is_refused_where_it_was_set(tmp_path: Path, variable: str, value: str) -> None:
    with pytest.raises(SettingsInvalid, match=variable) as refused:
        loaded(tmp_path, **{variable: value})
    assert refused.value.exit_code == 2
    assert value in refused.value.cause


def test_addresses_of_every_allowed_form_are_taken(tmp_path: Path) -> None:
    for variable, values in {
        "ENCHANTED_CLICKHOUSE_URL": ("http://u:p@h:8123/d", "https://h/d", "http://[::1]:8123/d"),
        "ENCHANTED_NATS_URL": ("nats://u:p@h:4222", "tls://h", "wss://h:443", "nats://a:4222,nats://b:4222"),
        "RAY_ADDRESS": ("auto", "10.0.0.1:6379", "[::1]:6379", "ray://h:10001", "ray-head.ns.svc:6379"),
        "ENCHANTED_MODEL": ("bundled", "vllm:/models/m", "openai:http://h:8001/v1#m"),
    }.items():
        for value in values:
            assert value in [shown for _, shown, _ in loaded(tmp_path, **{variable: value}).items()]


def test_replicas_need_a_cluster(tmp_path: Path) -> None:
    with pytest.raises(SettingsInvalid, match="nats_url"):
        loaded(tmp_path, ENCHANTED_STREAM__REPLICAS="3")
    cluster = "nats://u:p@a:4222, nats://u:p@b:4222, nats://u:p@c:4222"
    settings = loaded(tmp_path, ENCHANTED_STREAM__REPLICAS="3", ENCHANTED_NATS_URL=cluster).settings
    assert (settings.stream.replicas, settings.nats_url) == (3, cluster)


@pytest.mark.parametrize(
    ("variable", "value", "shown"),
    [
        ("ENCHANTED_CLICKHOUSE_URL", "htp://user:hidden@h:8123/d", "htp://***@h:8123/d"),
        ("ENCHANTED_NATS_URL", "nats://user:hid/den@h:4222", "nats://***@h:4222"),
        ("ENCHANTED_MODEL", "openai:http://user:hidden@h/v1#m", "openai:***@h/v1#m"),
        ("ENCHANTED_MODEL", "openai:http://h/v1?key=hidden#m", "openai:http://h/v1?***#m"),
        ("ENCHANTED_API__ORIGINS", "https://user:hidden@h/path", "https://***@h/path"),
    ],
)
def test_a_refused_address_does_not_show_its_password(tmp_path: Path, variable: str, value: str, shown: str) -> None:
    with pytest.raises(SettingsInvalid) as refused:
        loaded(tmp_path, **{variable: value})
    assert "hid" not in str(refused.value)
    assert shown in str(refused.value)


def test_hosts_and_origins_are_lists_in_a_file_and_commas_in_the_environment(tmp_path: Path) -> None:
    (tmp_path / "enchanted.toml").write_text('[api]\nhosts = ["swarm.example"]\nburst = 9\n')
    found = loaded(tmp_path, ENCHANTED_API__ORIGINS="https://a.example, http://b.example:3000")
    assert found.settings.api.hosts == ("swarm.example",)
    assert found.settings.api.origins == ("https://a.example", "http://b.example:3000")
    assert (found.settings.api.requests_per_second, found.settings.api.burst) == (50, 9)
    assert found.settings.api.max_days == 400


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("ENCHANTED_API__HOSTS", "https://swarm.example"),
        ("ENCHANTED_API__HOSTS", "swarm.example:8000"),
        ("ENCHANTED_API__HOSTS", "*.example"),
        ("ENCHANTED_API__HOSTS", "a/b"),
        ("ENCHANTED_API__ORIGINS", "a.example"),
        ("ENCHANTED_API__ORIGINS", "https://a.example/path"),
        ("ENCHANTED_API__REQUESTS_PER_SECOND", "-1"),
        ("ENCHANTED_API__REQUESTS_PER_SECOND", "nan"),
        ("ENCHANTED_API__BURST", "0"),
        ("ENCHANTED_API__MAX_DAYS", "-1"),
    ],
)
def test_who_may_ask_the_api_is_not_guessed(tmp_path: Path, variable: str, value: str) -> None:
    with pytest.raises(SettingsInvalid, match=variable):
        loaded(tmp_path, **{variable: value})


def test_a_table_in_the_environment_leaves_what_it_does_not_name(tmp_path: Path) -> None:
    (tmp_path / "enchanted.toml").write_text('[model]\nurl = "vllm:/models/m"\nnum_gpus = 2\n')
    found = loaded(tmp_path, ENCHANTED_MODEL='{"num_gpus": 1}')
    origins = {name: origin for name, _, origin in found.items()}
    assert (found.settings.model.url, found.settings.model.num_gpus) == ("vllm:/models/m", 1)
    assert origins["model.url"].endswith("enchanted.toml")
    assert origins["model.num_gpus"] == "environment ENCHANTED_MODEL"


@pytest.mark.parametrize("text", ["tool = 1", "[[tool]]", "[tool]\nother = 1"])
def test_a_project_file_without_our_table_sets_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / "pyproject.toml").write_text(text)
    assert loaded(tmp_path).origins == {}


def test_a_table_of_ours_that_is_none_is_named(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text('[tool]\nenchanted = "x"')
    with pytest.raises(SettingsInvalid, match="is no table"):
        loaded(tmp_path)


def test_variables_of_tests_and_benchmarks_are_no_settings(tmp_path: Path) -> None:
    assert loaded(tmp_path, ENCHANTED_CHROMIUM="/usr/bin/chromium", ENCHANTED_BENCH_SECONDS="9").origins == {}


@pytest.mark.parametrize(
    ("variable", "value"),
    [("ENCHANTED_HOME", "~nobody-has-this-name/x"), ("ENCHANTED_CODERS", "65"), ("ENCHANTED_MODEL", '{"a":' * 100_000)],
)
def test_values_that_cannot_be_used_are_usage_errors(tmp_path: Path, variable: str, value: str) -> None:
    with pytest.raises(SettingsInvalid):
        loaded(tmp_path, **{variable: value})
