"""Settings are checked before anything is served."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest

from api.settings import COUNTS, LIMITS, Settings, is_loopback, parse_weights
from embedstore.errors import BadInput, UnknownBackbone

STORE = Path("genes.store")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.2", "node7.example.org", ""])
def test_without_keys_no_other_machine_is_served(host):
    with pytest.raises(BadInput, match="EMBEDSTORE_API_KEYS"):
        Settings(store=STORE, host=host)
    assert Settings(store=STORE, host=host, api_keys=("k",)).host == host
    assert Settings(store=STORE, host=host, allow_no_keys=True).host == host


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_loopback_needs_no_key(host):
    assert is_loopback(host)
    assert Settings(store=STORE, host=host).api_keys == ()


def test_keys_and_limits_come_from_the_environment():
    environment = {
        "EMBEDSTORE_API_KEYS": " one, two,,",
        "EMBEDSTORE_MAX_RESPONSE_BYTES": "1000",
        "EMBEDSTORE_MAX_SEQUENCES": "7",
        "EMBEDSTORE_MAX_LETTERS": "",
        "UNRELATED": "x",
    }
    settings = Settings.from_environment(environment, store=STORE, port=0)
    assert settings.api_keys == ("one", "two")
    assert (settings.max_response_bytes, settings.max_sequences) == (1000, 7)
    assert settings.max_letters == Settings(store=STORE).max_letters
    assert settings.port == 0


@pytest.mark.parametrize("value", ["many", "-1", "0", "1.5", "²"])
def test_a_limit_that_is_no_count_is_refused_by_name(value):
    with pytest.raises(BadInput, match="EMBEDSTORE_MAX_LETTERS"):
        Settings.from_environment({"EMBEDSTORE_MAX_LETTERS": value}, store=STORE)


@pytest.mark.parametrize("key", ["with space", "schlüssel", "new\nline"])
def test_a_key_that_no_header_carries_is_refused(key):
    with pytest.raises(BadInput, match="EMBEDSTORE_API_KEYS"):
        Settings(store=STORE, api_keys=(key,))


def test_settings_are_frozen_and_hide_their_keys():
    settings = Settings(store=STORE, api_keys=("very-secret",))
    assert "very-secret" not in repr(settings)
    with pytest.raises(FrozenInstanceError):
        settings.port = 1  # type: ignore[misc]


@pytest.mark.parametrize("port", [-1, 65_536])
def test_a_port_that_does_not_exist_is_refused(port):
    with pytest.raises(BadInput, match="--port"):
        Settings(store=STORE, port=port)


def test_a_probes_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(BadInput, match="--probes"):
        Settings(store=STORE, probes=tmp_path / "nowhere")


def test_weights_are_given_by_short_name_or_hub_id():
    given = ["esm2-8m=a/b", "facebook/esm2_t12_35M_UR50D=x=y"]
    assert parse_weights(given) == {"esm2-8m": Path("a/b"), "esm2-35m": Path("x=y")}


@pytest.mark.parametrize(
    "given", [["esm2-8m"], ["esm2-8m="], ["one-hot-mrna=x"], ["esm2-8m=a"] * 2]
)
def test_weights_that_make_no_sense_are_refused(given):
    with pytest.raises(BadInput, match=r"weights"):
        parse_weights(given)


def test_weights_of_an_unknown_backbone_are_refused():
    with pytest.raises(UnknownBackbone, match="esm2-8m"):
        parse_weights(["esm2-8n=a"])


def test_every_setting_of_the_environment_has_its_own_name_in_capitals():
    environment = {f"EMBEDSTORE_{name.upper()}": "7" for name in COUNTS}
    settings = Settings.from_environment(environment, store=STORE)
    assert {getattr(settings, name) for name in COUNTS} == {7}
    assert settings.max_request_bytes == 7


@pytest.mark.parametrize("name", COUNTS)
def test_limits_are_at_least_one_and_the_rest_may_be_off(name):
    if name in LIMITS:
        with pytest.raises(BadInput, match=f"EMBEDSTORE_{name.upper()}"):
            Settings(store=STORE, **{name: 0})
    else:
        assert getattr(Settings(store=STORE, **{name: 0}), name) == 0
    with pytest.raises(BadInput, match=f"EMBEDSTORE_{name.upper()}"):
        Settings(store=STORE, **{name: -1})


@pytest.mark.parametrize("text, value", [("1", True), ("TRUE", True), ("no", False), ("", False)])
def test_writing_back_is_switched_by_a_word(text, value):
    environment = {"EMBEDSTORE_WRITE_BACK": text}
    assert Settings.from_environment(environment, store=STORE).write_back is value


@pytest.mark.parametrize(
    "name, text",
    [
        ("WRITE_BACK", "perhaps"),
        ("LOG_FORMAT", "xml"),
        ("CORS_ORIGINS", "lab.example"),
        ("CORS_ORIGINS", "https://lab.example/path"),
    ],
)
def test_words_that_mean_nothing_are_refused_by_name(name, text):
    with pytest.raises(BadInput, match=f"EMBEDSTORE_{name}"):
        Settings.from_environment({f"EMBEDSTORE_{name}": text}, store=STORE)


def test_origins_are_listed_with_commas():
    environment = {"EMBEDSTORE_CORS_ORIGINS": "https://a.example, http://127.0.0.1:3000,"}
    origins = Settings.from_environment(environment, store=STORE).cors_origins
    assert origins == ("https://a.example", "http://127.0.0.1:3000")


def test_workers_are_at_least_one():
    with pytest.raises(BadInput, match="--workers"):
        Settings(store=STORE, workers=0)
