"""Settings that are refused: the key and what was expected are named, and no value is shown."""

import json

import pytest
from pydantic import ValidationError

from nfphasing_bluesky.core import SettingsError, TransportError
from nfphasing_bluesky.streaming.endpoints import check_endpoint, check_local
from nfphasing_bluesky.streaming.settings import WorkerSettings, read_settings

WRONG = {
    'api_key = "s3cret"': "api_key: there is no such key",
    'curve = "s3cret"': "curve: ",
    '[stream]\napi_key = "s3cret"': "stream.api_key",
    '[curve]\nsecret = "a"\nclients = "b"\nkey = "s3cret"': "curve.key",
    '[catalog]\napi_key = "s3cret"': "catalog: Input should be a valid string",
    'heartbeat_s = "s3cret"': "heartbeat_s: Input should be a valid number",
    'catalog = "https://tiled.example/?api_key=s3cret"': "TILED_API_KEY",
    'catalog = "https://me:s3cret@tiled.example"': "TILED_API_KEY",
    'proxy = "tcp://me:s3cret@10.0.0.1:5578"': "tcp://me:***@10.0.0.1:5578",
    'replies = "tcp://me:s3cret@10.0.0.1:5578"': "tcp://me:***@10.0.0.1:5578",
    'catch_up_days = 1\nbackup = "s3cret"': "catch_up_days without catalog",
}


@pytest.mark.parametrize("text", WRONG)
def test_what_is_refused_is_named_and_no_value_of_it_shown(text, tmp_path):
    path = tmp_path / "worker.toml"
    path.write_text(text)
    with pytest.raises(SettingsError) as refused:
        read_settings(str(path))
    said = str(refused.value)
    assert WRONG[text] in said and str(path) in said and "nfphasing serve --help" in said
    assert "s3cret" not in said
    assert refused.value.__cause__ is None


def test_settings_that_come_as_text_are_not_repeated():
    with pytest.raises(SettingsError) as refused:
        read_settings(json.dumps({"api_key": "s3cret", "curve": "s3cret"}))
    assert "s3cret" not in str(refused.value) and "api_key" in str(refused.value)


@pytest.mark.parametrize("wrong", [{"api_key": "s3cret"}, {"curve": "s3cret"}, {"backup": ["s3cret"]}])
def test_settings_made_in_a_program_show_no_value_either(wrong):
    with pytest.raises(ValidationError) as refused:
        WorkerSettings(**wrong)
    assert "s3cret" not in str(refused.value)
    with pytest.raises(ValidationError) as refused:
        WorkerSettings.model_validate_json(json.dumps(wrong))
    assert "s3cret" not in str(refused.value)


@pytest.mark.parametrize("check", [check_local, lambda endpoint: check_endpoint(endpoint, encrypted=True)])
def test_an_address_with_a_password_is_refused_without_it(check):
    with pytest.raises(TransportError, match=r"me:\*\*\*@") as refused:
        check("tcp://me:s3cret@10.0.0.1:5578")
    assert "s3cret" not in str(refused.value)
