"""Photo applications: requests as their sources make them, answers as their sources read them."""

import os

import pytest

from mrnn_serve.api.librephotos import read_below
from mrnn_serve.limits import Refusal

VISION = "/api/v1/vision/caption"


@pytest.mark.parametrize("path", [VISION, f"{VISION}/tiny", f"{VISION}/tiny/latest"])
def test_photoprism_reads_the_caption(post, b64, texts, path):
    # As NewApiRequestImages in internal/ai/vision/api_request.go makes it, FileScheme data.
    request = {
        "id": "3487da77-246e-4b4c-9437-67507177bcd7",
        "suffix": "",
        "stream": False,
        "images": [f"data:image/jpeg;base64,{b64}"],
    }
    answer = post(path, json=request)
    assert answer.status_code == 200
    # As ApiResponse in internal/ai/vision/api_response.go reads it.
    body = answer.json()
    assert body["id"] == request["id"]
    assert body["code"] == 200
    assert body["model"]["name"] == "tiny"
    caption = body["result"]["caption"]
    assert caption["text"] == texts[0]
    assert caption["source"] == "image"
    assert 0 < caption["confidence"] <= 1


def test_photoprism_is_told_what_is_wrong(post, b64):
    link = post(VISION, json={"id": "1", "url": "https://a.example/dl/1"})
    assert link.status_code == 400
    assert link.json()["code"] == 400
    assert "not followed" in link.json()["error"]
    assert post(VISION, json={"images": ["https://a.example/dl/1"]}).status_code == 400
    assert post(VISION, json={"images": []}).status_code == 400
    assert post(f"{VISION}/large", json={"images": [b64]}).status_code == 404


def test_photoprism_speaks_ollama_too(post, b64, texts):
    # As NewApiRequestOllama makes it: plain base64, no stream.
    request = {
        "id": "3487da77",
        "model": "tiny:latest",
        "system": "",
        "prompt": "Describe the image.",
        "suffix": "",
        "stream": False,
        "images": [b64],
        "options": {"temperature": 0.1, "num_predict": 512},
    }
    body = post("/api/generate", json=request).json()
    assert body["response"] == texts[0]
    assert body["done"] is True
    assert body["model"] == "tiny:latest"


@pytest.fixture
def library(tmp_path, jpegs):
    """A folder of photos, and what must not be read beside it."""
    folder = tmp_path / "photos"
    (folder / "2026").mkdir(parents=True)
    (folder / "2026" / "dog.jpg").write_bytes(jpegs[0])
    (folder / "hat.jpg").write_bytes(jpegs[1])
    (tmp_path / "secret.jpg").write_bytes(jpegs[2])
    (tmp_path / "photos-of-others").mkdir()
    (tmp_path / "photos-of-others" / "a.jpg").write_bytes(jpegs[2])
    (folder / "link.jpg").symlink_to(tmp_path / "secret.jpg")
    (folder / "inner.jpg").symlink_to(folder / "hat.jpg")
    (folder / "out").symlink_to(tmp_path)
    os.mkfifo(folder / "pipe.jpg")
    return folder


def test_librephotos_names_photos_below_a_folder(start, tiny, library, texts):
    with start(tiny, photos_folder=library) as server:
        # As generate_caption in service/image_captioning/main.py reads and answers it.
        for path in (library / "2026" / "dog.jpg", "2026/dog.jpg"):
            request = {"image_path": str(path), "prompt": "Describe this image."}
            answer = server.client.post("/generate-caption", json=request)
            assert answer.status_code == 201
            assert answer.json() == {"caption": texts[0]}


def test_without_a_folder_no_path_is_read(post, library):
    answer = post("/generate-caption", json={"image_path": str(library / "hat.jpg")})
    assert answer.status_code == 404
    assert "--photos-folder" in answer.json()["hint"]


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("{folder}/../secret.jpg", 403),
        ("../secret.jpg", 403),
        ("2026/../../secret.jpg", 403),
        ("{folder}-of-others/a.jpg", 403),
        ("/etc/passwd", 403),
        ("/", 403),
        ("", 403),
        (".", 403),
        ("{folder}", 403),
        ("hat.jpg\0.txt", 403),
        ("link.jpg", 404),
        ("inner.jpg", 404),
        ("out/secret.jpg", 404),
        ("{folder}/out/secret.jpg", 404),
        ("pipe.jpg", 404),
        ("2026", 404),
        ("hat.jpg/more", 404),
        ("missing.jpg", 404),
        ("a" * 300, 404),
        ("\ud800", 404),
        ("..%2fsecret.jpg", 404),
    ],
)
def test_no_path_leads_out_of_the_folder(library, path, status):
    with pytest.raises(Refusal) as refused:
        read_below(library, path.replace("{folder}", str(library)), 10**6)
    assert refused.value.status == status
    assert "secret" not in refused.value.message


def test_a_file_that_is_too_large_is_not_read(library):
    with pytest.raises(Refusal) as refused:
        read_below(library, "hat.jpg", 10)
    assert refused.value.status == 413
