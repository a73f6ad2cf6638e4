"""``mrnn serve`` as a process: SIGTERM under load, and what it writes."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest


@pytest.fixture
def process(tiny_bundle):
    environment = {key: value for key, value in os.environ.items() if key != "MRNN_API_KEY"}
    with subprocess.Popen(
        [sys.executable, "-m", "mrnn_runtime", "serve", "--model", tiny_bundle, "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def url_of(process):
    """Wait until the server says where it is."""
    line = process.stderr.readline()
    (url,) = re.findall(r"http://127\.0\.0\.1:\d+", line)
    return url


@pytest.mark.skipif(os.name != "posix", reason="SIGTERM stops a process at once on Windows")
@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_a_stop_under_load_loses_nothing_that_was_accepted(process, jpegs, name):
    url = url_of(process)
    answered = threading.Semaphore(0)
    files = [("photo", jpeg) for jpeg in jpegs * 4]

    def ask(client_number):
        """Ask until the server is gone; return the ids of what it answered."""
        ids = []
        with httpx.Client(base_url=url, timeout=30, trust_env=False) as client:
            while True:
                request_id = f"{client_number}-{len(ids)}"
                headers = {"X-Request-ID": request_id}
                try:
                    answer = client.post("/v1/caption", files=files, headers=headers)
                except httpx.TransportError:
                    return ids, request_id
                assert answer.status_code == 200
                assert len(answer.json()["results"]) == len(files)
                ids.append(request_id)
                answered.release()

    with ThreadPoolExecutor(6) as pool:
        asking = [pool.submit(ask, number) for number in range(6)]
        for _ in range(6):
            assert answered.acquire(timeout=60)
        process.send_signal(getattr(signal, name))
        results = [one.result() for one in asking]
    output, log = process.communicate(timeout=60)
    assert process.returncode == 0
    assert output == ""
    received = {request_id for ids, _ in results for request_id in ids}
    refused = {request_id for _, request_id in results}
    logged = dict(re.findall(r" id=(\S+) .* status=(\d+) ", log))
    assert set(logged) == received
    assert not set(logged) & refused
    assert set(logged.values()) == {"200"}
    assert "Traceback" not in log


@pytest.mark.skipif(os.name != "posix", reason="SIGTERM stops a process at once on Windows")
def test_a_stop_waits_for_a_body_that_still_arrives(process, jpeg):
    url = httpx.URL(url_of(process))
    head = f"POST /v1/caption HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(jpeg)}\r\n\r\n"
    with socket.create_connection((url.host, url.port), timeout=60) as sock:
        sock.sendall(head.encode() + jpeg[:100])
        httpx.get(f"{url}/healthz", trust_env=False)  # by now the head has been read
        process.send_signal(signal.SIGTERM)
        with pytest.raises(httpx.TransportError):  # no new ones are let in
            while True:
                httpx.get(f"{url}/healthz", trust_env=False)
        sock.sendall(jpeg[100:])
        assert sock.recv(65536).startswith(b"HTTP/1.1 200")
    process.communicate(timeout=60)
    assert process.returncode == 0
