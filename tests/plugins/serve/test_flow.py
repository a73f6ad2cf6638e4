"""A full queue, clients that leave, deadlines: nothing waits for nobody, nothing is lost."""

import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from uvicorn.protocols.http.h11_impl import H11Protocol

from mrnn_serve.server import READ_BYTES


def ask(server, jpeg, **options):
    return server.client.post("/v1/caption", content=jpeg, **options)


def head_of(length, more=""):
    head = f"POST /v1/caption HTTP/1.1\r\nHost: 127.0.0.1\r\n{more}"
    return f"{head}Content-Length: {length}\r\n\r\n".encode()


def until(condition):
    limit = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < limit, "it did not come about"
        threading.Event().wait(0.005)


def test_a_full_queue_refuses_at_once_and_says_when_to_come_again(start, held, hold, jpeg):
    with start(held, queue=2, photos=2) as server, ThreadPoolExecutor(2) as pool:
        encoder = hold(held)
        accepted = [pool.submit(ask, server, jpeg) for _ in range(2)]
        until(lambda: server.service.photos.used == 2)
        refused = ask(server, jpeg)
        assert refused.status_code == 503
        assert int(refused.headers["Retry-After"]) >= 1
        assert server.client.get("/readyz").status_code == 503
        assert server.client.get("/healthz").status_code == 200
        encoder.open.set()
        assert [answer.result().status_code for answer in accepted] == [200, 200]
        assert server.client.get("/readyz").status_code == 200
        assert ask(server, jpeg).status_code == 200


def test_a_request_that_does_not_fit_the_rest_of_the_queue_is_refused(start, held, hold, jpegs):
    with start(held, queue=3, photos=3) as server, ThreadPoolExecutor(1) as pool:
        encoder = hold(held)
        first = pool.submit(ask, server, jpegs[0])
        until(lambda: server.service.photos.used == 1)
        files = [("photo", jpeg) for jpeg in jpegs[:3]]
        assert server.client.post("/v1/caption", files=files).status_code == 503
        encoder.open.set()
        assert first.result().status_code == 200
        assert server.client.post("/v1/caption", files=files).status_code == 200


def test_who_leaves_costs_nothing(start, held, hold, jpeg):
    with start(held, batch_size=4) as server, ThreadPoolExecutor(1) as pool:
        encoder = hold(held)
        first = pool.submit(ask, server, jpeg)  # occupies the model
        assert encoder.entered.acquire(timeout=30)
        for _ in range(3):
            with socket.create_connection(("127.0.0.1", server.port)) as leaving:
                leaving.sendall(head_of(len(jpeg)) + jpeg)
                until(lambda: len(server.service._model) == 1)
            until(lambda: server.service.photos.used == 1)
        assert server.service.waiting == 0
        encoder.open.set()
        assert first.result().status_code == 200
        assert encoder.batches == [1]
        until(lambda: len(server.log) == 4)  # a line is written after its answer
        assert [line["status"] for line in server.log] == [499, 499, 499, 200]


def test_what_waits_while_the_model_works_becomes_one_batch(start, held, hold, jpegs, texts):
    with start(held, batch_size=8) as server, ThreadPoolExecutor(6) as pool:
        encoder = hold(held)
        first = pool.submit(ask, server, jpegs[0])
        assert encoder.entered.acquire(timeout=30)
        others = [pool.submit(ask, server, jpeg) for jpeg in jpegs[1:]]
        until(lambda: len(server.service._model) == 5)
        encoder.open.set()
        said = [one.result().json()["results"][0]["caption"] for one in [first, *others]]
        assert said == texts
        assert encoder.batches == [1, 5]


def test_an_answer_that_takes_too_long_is_a_503(start, held, hold, jpeg):
    with start(held, timeout=0.2) as server:
        encoder = hold(held)
        answer = ask(server, jpeg)
        encoder.open.set()
        assert answer.status_code == 503
        assert "too long" in answer.json()["error"]
        until(lambda: server.service.photos.used == 0)


def test_a_body_that_takes_too_long_is_a_408(start, tiny):
    with (
        start(tiny, timeout=0.2) as server,
        socket.create_connection(("127.0.0.1", server.port)) as slow,
    ):
        slow.sendall(head_of(9) + b"a")
        assert slow.recv(4096).startswith(b"HTTP/1.1 408")


def test_a_head_that_takes_too_long_closes_the_connection(start, tiny, monkeypatch):
    monkeypatch.setattr("mrnn_serve.server.HEAD_SECONDS", 0.1)
    with start(tiny) as server:
        for sent in (b"", b"POST /v1/caption HTTP/1.1\r\nHost:"):
            with socket.create_connection(("127.0.0.1", server.port), timeout=30) as slow:
                slow.sendall(sent)
                assert slow.recv(4096) == b""
        assert server.client.get("/healthz").status_code == 200


def test_who_reads_no_answers_is_dropped(start, tiny, monkeypatch):
    monkeypatch.setattr("mrnn_serve.server.READ_SECONDS", 0.1)
    asked = b"GET /openapi.json HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    with start(tiny) as server, socket.socket() as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.settimeout(30)
        deaf.connect(("127.0.0.1", server.port))
        with pytest.raises(ConnectionError):
            for _ in range(100_000):
                deaf.sendall(asked * 100)
        assert server.client.get("/healthz").status_code == 200


def test_no_connection_is_parsed_for_long_at_once(start, tiny, monkeypatch):
    sizes = []
    parse = H11Protocol.data_received

    def count(self, data):
        sizes.append(len(data))
        parse(self, data)

    monkeypatch.setattr(H11Protocol, "data_received", count)
    with start(tiny) as server:
        assert server.client.post("/nowhere", content=bytes(10**6)).status_code == 404
    assert sum(sizes) > 10**6
    assert max(sizes) <= READ_BYTES


def test_who_is_refused_while_sending_sees_why(start, held, hold, jpeg):
    with start(held, queue=1, photos=1) as server, ThreadPoolExecutor(1) as pool:
        encoder = hold(held)
        accepted = pool.submit(ask, server, jpeg)
        until(lambda: server.service.photos.used == 1)
        length = 10**6
        with socket.create_connection(("127.0.0.1", server.port), timeout=30) as refused:
            refused.sendall(head_of(length, "Connection: close\r\n"))
            assert refused.recv(65536).startswith(b"HTTP/1.1 503")  # at once
            refused.sendall(bytes(length))  # it would be reset where the server had closed
            while refused.recv(65536):
                pass
        encoder.open.set()
        assert accepted.result().status_code == 200


def test_bodies_share_a_budget(start, held, hold, jpeg):
    with start(held, body=2000 + len(jpeg), bodies=1900 + 2 * len(jpeg)) as server:
        encoder = hold(held)
        with ThreadPoolExecutor(1) as pool:
            first = pool.submit(ask, server, jpeg)
            until(lambda: server.service.photos.used == 1)
            refused = ask(server, jpeg + bytes(2000))
            assert refused.status_code == 503
            encoder.open.set()
            assert first.result().status_code == 200
        assert ask(server, jpeg + bytes(2000)).status_code == 200


@pytest.mark.parametrize("path", ["/v1/caption", "/nowhere"])
def test_one_log_line_and_one_count_a_request(start, tiny, jpeg, path):
    with start(tiny) as server:
        answer = server.client.post(path, content=jpeg, headers={"X-Request-ID": "my-id.1"})
        assert answer.headers["X-Request-ID"] == "my-id.1"
        forged = server.client.post(path, content=jpeg, headers={"X-Request-ID": "a b"})
        assert forged.headers["X-Request-ID"] != "a b"
        until(lambda: len(server.log) == 2)  # a line is written after its answer
        figures = server.client.get("/metrics").text
    first = server.log[0]
    assert len(server.log) == 3
    native = path == "/v1/caption"
    assert first["id"] == "my-id.1"
    status = 200 if native else 404
    assert (first["path"], first["status"], first["photos"]) == (path, status, native)
    label = path if native else "other"
    count = f'mrnn_requests_total{{path="{label}",status="{first["status"]}"}} 2.0'
    assert count in figures
    if native:
        assert 'mrnn_photos_total{result="ok"} 2.0' in figures
        assert "mrnn_batch_photos_count 3.0" in figures  # one warmed up
