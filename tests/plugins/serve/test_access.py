"""Who may ask: keys, Host, CORS, and what the command line refuses."""

import pytest

from mrnn_runtime.cli import main
from mrnn_serve.app import Access

KEY = "a long key"


@pytest.fixture(scope="module")
def closed(start, tiny):
    access = Access(api_key=KEY, loopback_only=False, cors_origins=["https://photos.example"])
    with start(tiny, access=access) as server:
        yield server


@pytest.mark.parametrize(
    "header",
    [None, "", "Bearer", "Bearer a long", f"Bearer {KEY}x", KEY, f"Basic {KEY}", "Bearer é"],
)
def test_no_other_key_opens(closed, jpeg, header):
    headers = {} if header is None else {"Authorization": header.encode()}
    for method, path in (("POST", "/v1/caption"), ("GET", "/metrics"), ("GET", "/api/tags")):
        answer = closed.client.request(method, path, headers=headers)
        assert answer.status_code == 401
        assert answer.headers["WWW-Authenticate"] == "Bearer"
        assert KEY not in answer.text


def test_the_key_opens_and_is_not_logged(closed, jpeg):
    headers = {"Authorization": f"Bearer {KEY}"}
    answer = closed.client.post("/v1/caption", content=jpeg, headers=headers)
    assert answer.status_code == 200
    assert KEY not in str(closed.log)


def test_probes_need_no_key(closed):
    for path in ("/healthz", "/readyz"):
        assert closed.client.get(path).status_code == 200


def test_cors_is_for_those_who_were_named(closed, server):
    ask = {
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization",
    }
    named = {"Origin": "https://photos.example", **ask}
    answer = closed.client.options("/v1/caption", headers=named)
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == "https://photos.example"
    for client, origin in ((closed, "https://evil.example"), (server, "https://photos.example")):
        answer = client.client.options("/v1/caption", headers={"Origin": origin, **ask})
        assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "10.0.0.1"]
)
def test_a_name_that_was_made_to_point_here_is_refused(server, host):
    assert server.client.get("/healthz", headers={"Host": host}).status_code == 403


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:1", "127.0.0.1:99", "127.1.2.3", "[::1]:80"]
)
def test_the_machine_itself_is_let_in(server, host):
    assert server.client.get("/healthz", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--host", "0.0.0.0"], "--no-auth"),
        (["--host", "::"], "--no-auth"),
        (["--host", "192.0.2.1"], "--no-auth"),
        (["--host", "photos.example"], "--no-auth"),
        (["--api-key", " key"], "ASCII"),
        (["--api-key", "schlüssel"], "ASCII"),
        (["--photos-folder", "no-such-folder"], "no folder"),
        (["--queue", "3", "--max-photos", "4"], "queue"),
    ],
)
def test_the_command_line_refuses(capsys, monkeypatch, options, said):
    monkeypatch.delenv("MRNN_API_KEY", raising=False)
    with pytest.raises(SystemExit) as stopped:
        main(["serve", *options])
    assert stopped.value.code == 2
    streams = capsys.readouterr()
    assert said in streams.err
    assert streams.out == ""


def test_a_port_that_is_taken_is_said_in_one_line(capsys, server):
    with pytest.raises(SystemExit) as stopped:
        main(["serve", "--port", str(server.port)])
    assert stopped.value.code == 3
    assert f"port {server.port}" in capsys.readouterr().err
