"""What somebody sends who means harm: a 4xx, and no more memory than the limits say."""

import base64
import gzip
import io
import resource
import socket
import struct
import tracemalloc
import zlib
from contextlib import suppress

import pytest
from PIL import Image

MIB = 2**20


def raw(server, data):
    """Send bytes as they are, and return what comes back until the server closes."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as sock:
        with suppress(ConnectionError):  # it may close before all is sent
            sock.sendall(data)
            return b"".join(iter(lambda: sock.recv(65536), b""))
        return b""


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def pixel_bomb(width, height):
    """A PNG of a few KB that unpacks to width * height pixels."""
    rows = zlib.compressobj(9)
    body = b"".join(rows.compress(bytes(1 + width // 8)) for _ in range(min(height, 1000)))
    head = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    parts = (chunk(b"IHDR", head), chunk(b"IDAT", body + rows.flush()), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def text_bomb():
    """A PNG whose comment unpacks to 200 MB."""
    good = io.BytesIO()
    Image.new("RGB", (8, 8)).save(good, "PNG")
    data = good.getvalue()
    comment = chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(200 * MIB), 9))
    return data[:33] + comment + data[33:]


def still_well(server, jpeg, texts):
    answer = server.client.post("/v1/caption", content=jpeg)
    assert answer.json()["results"][0]["caption"] == texts[0]
    assert server.service.photos.used == 0


def test_bombs_are_refused_and_cost_no_memory(server, jpeg, texts):
    bombs = [pixel_bomb(50_000, 50_000), pixel_bomb(11_000, 11_000), pixel_bomb(1001, 1000)]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for bomb in [*bombs, text_bomb()]:
        answer = server.client.post("/v1/caption", content=bomb)
        assert answer.status_code == 422
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 * 1024  # KiB
    still_well(server, jpeg, texts)


def test_photos_that_are_decoded_at_a_time_share_a_bound_of_memory(start, tiny, jpeg):
    photo = io.BytesIO()
    Image.new("RGB", (300, 200), (9, 99, 199)).save(photo, "WEBP")  # 18 bytes a pixel
    with start(tiny, memory=10**6) as server:
        refused = server.client.post("/v1/caption", content=photo.getvalue())
        assert refused.status_code == 422
        assert "it takes 2 MB, and 1 MB are allowed" in refused.json()["results"][0]["error"]
        assert server.client.post("/v1/caption", content=jpeg).status_code == 200


def test_base64_of_many_words_takes_little(server, jpeg, texts):
    body = b'{"image": "' + b"ab " * (2 * MIB // 3 - 10) + b'"}'
    headers = {"Content-Type": "application/json"}
    tracemalloc.start()
    try:
        answer = server.client.post("/v1/caption", content=body, headers=headers)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert answer.status_code == 422
    assert most < 10 * len(body)
    still_well(server, jpeg, texts)


def test_sentences_are_few_words(server, jpeg, texts, b64):
    refused = "1000 words at most"
    for sentence, said in (
        ("dog " * 20, "holds no background.npz"),
        ("dog " * 21, refused),
        ("a," * 21, refused),
    ):
        sentences = [sentence] * 50
        answer = server.client.post("/v1/rank", json={"image": b64, "sentences": sentences})
        assert answer.status_code == 400
        assert said in answer.json()["error"]
    still_well(server, jpeg, texts)


def test_compressed_bodies_are_not_unpacked(server, jpeg, texts):
    zipped = gzip.compress(bytes(50 * MIB))
    answer = server.client.post("/v1/caption", content=zipped, headers={"Content-Encoding": "gzip"})
    assert answer.status_code == 415
    still_well(server, jpeg, texts)


def test_a_body_over_the_limit_is_cut_off(server, jpeg, texts):
    large = bytes(2 * MIB + 1)
    assert server.client.post("/v1/caption", content=large).status_code == 413
    assert server.client.post("/v1/caption", content=iter([large])).status_code == 413  # chunked
    for length in ("99999999999999999999", "9" * 4000):
        head = f"POST /v1/caption HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {length}\r\n\r\n"
        assert raw(server, head.encode()).startswith(b"HTTP/1.1 4")
    still_well(server, jpeg, texts)


@pytest.mark.parametrize(
    "data",
    [
        b"\x00\xff\xfe garbage\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"POST /v1/caption HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: -1\r\n\r\n",
        b"POST /v1/caption HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1e3\r\n\r\n",
        b"POST /v1/caption HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 3\r\n"
        b"Content-Length: 4\r\n\r\nabcd",
        b"POST /v1/caption HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX: " + b"a" * 200_000 + b"\r\n\r\n",
        b"GET /\r\nHost: 127.0.0.1\r\nX: a\x00b\r\n\r\n",
        b"GET /v1/models HTTP/1.1\r\nHost: evil.example\r\nHost: 127.0.0.1\r\n\r\n",
    ],
)
def test_broken_http_is_refused(server, jpeg, texts, data):
    answer = raw(server, data)
    assert answer == b"" or answer.startswith(b"HTTP/1.1 4")
    still_well(server, jpeg, texts)


@pytest.mark.parametrize(
    "path",
    [
        "/../../etc/passwd",
        "/..%2f..%2fetc/passwd",
        "/%2e%2e/%2e%2e/etc/passwd",
        "//etc/passwd",
        "/v1/models/..%2f..%2fetc%2fpasswd",
        "/api/v1/vision/caption/../../../../etc/passwd",
        "/%00",
        "/v1/caption/",
        "/" + "a" * 10_000,
    ],
)
def test_paths_lead_nowhere(server, path):
    answer = raw(
        server, f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode()
    )
    assert answer.startswith(b"HTTP/1.1 404") or answer.startswith(b"HTTP/1.1 405")
    assert b"root:" not in answer


def form(*parts, boundary="b"):
    lines = "".join(f"--{boundary}\r\n{head}\r\n\r\n{body}\r\n" for head, body in parts)
    return f"{lines}--{boundary}--\r\n".encode()


FILE = 'Content-Disposition: form-data; name="photo"; filename="a.jpg"'


@pytest.mark.parametrize(
    ("kind", "body", "status"),
    [
        ("multipart/form-data", form((FILE, "x")), 400),  # no boundary
        ("multipart/form-data; boundary=b", b"", 400),
        ("multipart/form-data; boundary=b", b"garbage", 400),
        ("multipart/form-data; boundary=b", form((FILE, "x"))[:60], 400),
        ("multipart/form-data; boundary=b", form(("X: y", "no name")), 400),
        ("multipart/form-data; boundary=b", form(*[(FILE, "x")] * 9), 413),
        ("multipart/form-data; boundary=b", form((f"X: {'a' * 10**6}\r\n{FILE}", "x")), 400),
        ("multipart/form-data; boundary=b", form((f"{FILE}\r\n" + "X: y\r\n" * 10**5, "x")), 400),
        (
            "multipart/form-data; boundary=b",
            form(*[(f'Content-Disposition: form-data; name="a{n}"', "1") for n in range(1000)]),
            413,
        ),
        (
            "multipart/form-data; boundary=b",
            form(('Content-Disposition: form-data; name="prefix"', "a" * 10**6)),
            400,
        ),
        (f"multipart/form-data; boundary={'b' * 10**4}", b"x", 400),
        ("multipart/form-data; boundary=b; charset=\xff", form((FILE, "x")), 422),
        ("application/json", b"{", 400),
        ("application/json", b"\xff\xfe", 400),
        ("application/json", b"[" * 10**6, 400),
        ("application/json", b'{"image":' + b'{"a":' * 9000 + b"1" + b"}" * 9001, 400),
        ("application/json", b'{"image": "", "a": [' + b"[]," * 500_000 + b"[]]}", 400),
        ("application/json", b'{"beam_size": ' + b"9" * 10**5 + b', "image": "YQ=="}', 400),
        ("application/json", b'{"image": "YQ==", "prefix": "\\ud800"}', 400),
        ("application/json", b'{"image": "YQ==", "temperature": NaN}', 400),
        ("application/json", b'{"image": "\\u0000"}', 400),
        ("application/json", b"[]", 400),
        ("application/json", b"null", 400),
        ("text/html", b"<script>", 415),
        ("application/x-www-form-urlencoded", b"image=YQ==", 415),
        ("image/jpeg", b"", 400),
        ("image/svg+xml", b'<svg xmlns:xlink="a"><image xlink:href="/etc/passwd"/></svg>', 422),
    ],
)
def test_bodies_that_are_traps(server, jpeg, texts, kind, body, status):
    headers = {"Content-Type": kind.encode("latin-1")}
    answer = server.client.post("/v1/caption", content=body, headers=headers)
    assert answer.status_code == status, answer.text[:200]
    still_well(server, jpeg, texts)


@pytest.mark.parametrize(
    "path", ["/api/generate", "/api/chat", "/v1/chat/completions", "/v1/responses"]
)
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b'{"model": 3}',
        b'{"model": "tiny", "images": 3}',
        b'{"model": "tiny", "prompt": 3, "images": [3]}',
        b'{"model": "tiny", "images": ["http://127.0.0.1/a.jpg"], "prompt": "x"}',
        b'{"model": "\\ud800"}',
        b'{"model": "tiny", "messages": [3], "input": [3]}',
        b'{"model": "tiny", "messages": {"a": 1}, "input": {"a": 1}}',
        b'{"model": "tiny", "messages": [{"content": [{"type": "image_url"}]}]}',
        b'{"model": "tiny", "messages": [{"role": "user", "images": 3}]}',
        b'{"model": "tiny", "input": [{"content": [{"type": "input_image", "image_url": 3}]}]}',
        b'{"model": "tiny", "n": "many", "text": 3, "format": {}, "prompt": "x"}',
    ],
)
def test_bodies_that_chat_clients_never_send(server, path, body):
    answer = server.client.post(path, content=body)
    assert 200 <= answer.status_code < 500
    assert answer.status_code >= 400 or answer.json().get("done_reason") == "load"
    assert "error" in answer.json() or answer.status_code == 200


def test_the_log_cannot_be_forged(capsys):
    from mrnn_serve.observe import log_json, log_text

    forged = {"path": '/a\nstatus=200 id="x', "client": "1 b=2", "status": 404}
    log_text(forged)
    assert capsys.readouterr().err == ('path="/a\\nstatus=200 id=\\"x" client="1 b=2" status=404\n')
    log_json(forged)
    assert capsys.readouterr().err.count("\n") == 1


def test_nothing_is_written_to_disk(server, tmp_path, monkeypatch, jpeg):
    import tempfile

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    padded = jpeg + bytes(MIB + 10**5)  # Starlette's own parser spools what is over 1 MiB
    answer = server.client.post("/v1/caption", files={"photo": padded})
    assert answer.status_code == 200
    body = {"image": base64.b64encode(jpeg).decode()}
    assert server.client.post("/v1/caption", json=body).status_code == 200
