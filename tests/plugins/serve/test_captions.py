"""Captions, searches and ranks over HTTP are what the runtime says without a server."""

import base64
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mrnn_runtime import Gallery, find_photos
from mrnn_runtime.cli.results import Format, record
from mrnn_runtime.retrieval.ranking import save_background

IMAGE = {"Content-Type": "image/jpeg"}


def test_the_bytes_of_a_photo_give_its_jsonl_record(post, tiny, jpeg):
    answer = post("/v1/caption", content=jpeg, headers=IMAGE)
    assert answer.status_code == 200
    (result,) = answer.json()["results"]
    (expected,) = (json.loads(record(caption, Format.JSONL)) for caption in tiny.caption([jpeg]))
    assert result == expected | {"path": "1"}


def test_multipart_json_and_bytes_say_the_same(post, jpegs, texts):
    parts = [("photo", (f"{place}.jpg", jpeg)) for place, jpeg in enumerate(jpegs)]
    as_form = post("/v1/caption", files=parts).json()["results"]
    images = [base64.b64encode(jpeg).decode() for jpeg in jpegs]
    as_json = post("/v1/caption", json={"images": images}).json()["results"]
    assert [one["caption"] for one in as_form] == [one["caption"] for one in as_json] == texts
    assert [one["path"] for one in as_form] == [f"{place}.jpg" for place in range(len(jpegs))]
    url = f"data:image/jpeg;base64,{images[0]}"
    (single,) = post("/v1/caption", json={"image": url}).json()["results"]
    assert single["caption"] == texts[0]


def test_options_by_name_in_all_three_forms(post, tiny, jpeg, b64):
    options = {"beam_size": 4, "n_best": 3, "max_length": 5, "banned_words": ["dog", "hat"]}
    (expected,) = tiny.caption([jpeg], **options)
    wanted = [candidate.caption for candidate in expected.candidates]
    answers = [
        post("/v1/caption", json={"image": b64, **options}),
        post("/v1/caption", files={"photo": jpeg}, data=options),
        post("/v1/caption", params=options, content=jpeg, headers=IMAGE),
    ]
    for answer in answers:
        (result,) = answer.json()["results"]
        assert [candidate["caption"] for candidate in result["candidates"]] == wanted
    joined = {**options, "banned_words": "dog, hat"}
    (result,) = post("/v1/caption", params=joined, content=jpeg).json()["results"]
    assert result["caption"] == wanted[0]


def test_sampling_is_seeded(post, tiny, jpeg, b64):
    options = {"n_best": 3, "seed": 7, "temperature": 2.0, "top_k": 6, "top_p": 0.9}
    (expected,) = tiny.caption([jpeg], decoder="sample", **options)
    answer = post("/v1/caption", json={"image": b64, "decoder": "sample", **options})
    (result,) = answer.json()["results"]
    assert result["decoder"] == "sample"
    assert result["caption"] == expected.text


def test_a_photo_that_cannot_be_read_does_not_stop_the_others(post, jpeg, texts):
    files = [("photo", ("good.jpg", jpeg)), ("photo", ("bad.jpg", b"no photo"))]
    answer = post("/v1/caption", files=files)
    assert answer.status_code == 200
    good, bad = answer.json()["results"]
    assert good["caption"] == texts[0]
    assert bad.keys() == {"path", "error", "hint"}
    assert bad["error"].startswith("bad.jpg is no image")
    alone = post("/v1/caption", files=files[1:])
    assert alone.status_code == 422
    assert alone.json()["results"] == [bad]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"beam_size": 0}, "beam_size"),
        ({"beam_size": 10**6}, "at most"),
        ({"beam_size": "many"}, "whole number"),
        ({"beam_size": [3]}, "beam_size"),
        ({"length_penalty": "nan"}, "length_penalty"),
        ({"max_length": 2, "min_length": 3}, "min_length"),
        ({"beam": 3}, "unknown option"),
        ({"decoder": "guess"}, "guess"),
        ({"reranker": "consensus-cider"}, "references"),
        ({"prefix": "zebra"}, "zebra"),
        ({"banned_words": ["zebra"]}, "zebra"),
        ({"explain": "perhaps"}, "explain"),
        ({"image": None}, "no photo"),
        ({"images": "text"}, "images"),
        ({"image": 3}, "text"),
        ({"image": "no base64!"}, "base64"),
    ],
)
def test_what_does_not_fit_is_a_400_that_says_so(post, b64, fields, said):
    body = {"image": b64, **fields}
    if "images" in fields:
        del body["image"]
    answer = post("/v1/caption", json=body)
    assert answer.status_code == 400
    assert said in answer.text


def test_an_unknown_model_is_a_404(post, b64):
    answer = post("/v1/caption", json={"image": b64, "model": "large"})
    assert answer.status_code == 404
    assert answer.json() == {"error": "model 'large' not found", "hint": "use tiny"}


def test_search_ranks_the_photos_as_the_runtime_does(post, tiny, jpegs):
    files = [("photo", ("same name.jpg", jpeg)) for jpeg in jpegs]
    answer = post("/v1/search", files=[*files, ("photo", b"none")], data={"sentence": "a dog"})
    assert answer.status_code == 200
    *ranked, unreadable = answer.json()["results"]
    images = tiny.encode(jpegs)
    gallery = Gallery(tuple(Path(str(place)) for place in range(len(jpegs))), images, {})
    expected = find_photos(tiny, "a dog", gallery)
    assert [one["index"] for one in ranked] == [int(match.path.name) for match in expected]
    scores = [match.score for match in expected]
    assert [one["score"] for one in ranked] == pytest.approx(scores, abs=1e-4)
    assert {one["path"] for one in ranked} == {"same name.jpg"}
    assert unreadable["index"] == len(jpegs)
    assert "error" in unreadable


def test_search_without_a_sentence_or_a_photo_is_refused(post, jpeg):
    assert post("/v1/search", files={"photo": jpeg}).status_code == 400
    assert post("/v1/search", data={"sentence": "a dog"}, files={}).status_code == 415
    assert post("/v1/search", files={"photo": b"none"}, data={"sentence": "a"}).status_code == 422
    strange = post("/v1/search", files={"photo": jpeg}, data={"sentence": "zebra"})
    assert strange.status_code == 400
    assert "knows no word" in strange.json()["error"]


def test_rank_needs_a_background_and_ranks_with_one(post, start, tiny, tiny_copy, jpegs):
    fields = {"sentences": ["a dog", "a man on grass"]}
    answer = post("/v1/rank", files={"photo": jpegs[0]}, data=fields)
    assert answer.status_code == 400
    assert "background" in answer.json()["error"]

    from mrnn_runtime import load
    from mrnn_runtime.bundle.loading import write_manifest

    save_background(tiny.encode(jpegs), tiny_copy)
    manifest = json.loads((tiny_copy / "bundle.json").read_text())
    write_manifest(tiny_copy, manifest)
    with start(load(tiny_copy, provider="cpu", threads=1)) as server:
        answer = server.client.post("/v1/rank", files={"photo": jpegs[0]}, data=fields)
    assert answer.status_code == 200
    ranked = answer.json()["results"]
    assert {one["sentence"] for one in ranked} == set(fields["sentences"])
    assert [one["rank"] for one in ranked] == [1, 2]
    assert ranked[0]["score"] >= ranked[1]["score"]


def test_many_clients_get_their_own_captions(server, jpegs, texts):
    def ask(place):
        answer = server.client.post("/v1/caption", content=jpegs[place % len(jpegs)])
        return answer.json()["results"][0]["caption"]

    with ThreadPoolExecutor(8) as pool:
        said = list(pool.map(ask, range(48)))
    assert said == [texts[place % len(texts)] for place in range(48)]
