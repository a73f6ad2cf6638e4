"""Photos, and a bucket of a server that runs here."""

from collections import Counter

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("pyarrow", reason="mrnn-ray is not installed")


@pytest.fixture(scope="session")
def photos(tmp_path_factory):
    """A folder of 30 photos in two folders and one that is broken. All tests share it."""
    folder = tmp_path_factory.mktemp("photos")
    random = np.random.default_rng(0)
    (folder / "more").mkdir()
    for i in range(30):
        pixels = random.integers(0, 256, (24, 32, 3), np.uint8)
        Image.fromarray(pixels).save(folder / ("more" if i % 3 else "") / f"{i:02}.png")
    (folder / "broken.jpg").write_bytes(b"no picture")
    (folder / "empty.jpg").write_bytes(b"")
    (folder / ".hidden.jpg").write_bytes(b"no picture")
    (folder / "notes.md").write_text("no picture\n")
    return folder


@pytest.fixture(scope="session")
def bucket():
    """An S3 server on this machine: ``bucket(path) -> URI``; ``bucket.requests`` counts them."""
    moto_server = pytest.importorskip("moto.server", reason="moto is not installed")
    import boto3

    server = moto_server.ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    client = boto3.client(
        "s3",
        endpoint_url=f"http://{host}:{port}",
        region_name="us-east-1",
        aws_access_key_id="id",
        aws_secret_access_key="secret",
    )
    client.create_bucket(Bucket="bucket")
    client.close()
    query = f"scheme=http&endpoint_override={host}:{port}&region=us-east-1"

    def place(path):
        return f"s3://id:secret@bucket/{path}?{query}"

    def counted(environ, start_response, answer=server._server.app):
        place.requests[environ["REQUEST_METHOD"]] += 1
        return answer(environ, start_response)

    server._server.app, place.requests = counted, Counter()
    yield place
    server.stop()
