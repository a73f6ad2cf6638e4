"""The readers, on small samples in each corpus's real format."""

from __future__ import annotations

import gzip
import io
import itertools
import json
import logging
import sys
import tarfile
from pathlib import Path

import pytest
from PIL import Image

from mrnn_exporters import datasets
from mrnn_exporters.datasets.common import Member, held_out
from mrnn_exporters.datasets.tars import webdataset
from mrnn_runtime.errors import ImageError, UsageError
from mrnn_runtime.images import read_image
from mrnn_runtime.types import Preprocess


def write(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode(encoding))
    return path


def touch(folder: Path, names: list[str]) -> None:
    for name in names:
        write(folder / name, "")


def tokens(names: list[str], captions: int = 2) -> str:
    lines = [f"{name}#{k}\tA dog {k} of {name} ." for name in names for k in range(captions)]
    return "\n".join(lines) + "\n"


@pytest.fixture
def flickr8k(tmp_path: Path) -> Path:
    names = [f"{i}_ab.jpg" for i in range(4)]
    write(tmp_path / "Flickr8k.token.txt", tokens(["9_extra.jpg.1", *names], 5))
    write(tmp_path / "Flickr_8k.trainImages.txt", "2_ab.jpg\n0_ab.jpg\n")
    write(tmp_path / "Flickr_8k.devImages.txt", "1_ab.jpg\r\n")
    write(tmp_path / "Flickr_8k.testImages.txt", "3_ab.jpg")
    touch(tmp_path / "images", names)
    return tmp_path


def test_flickr8k_keeps_the_order_of_its_list_and_of_the_captions(flickr8k: Path) -> None:
    actual = datasets.read("flickr8k", flickr8k, "train")
    assert [e.path.name for e in actual] == ["2_ab.jpg", "0_ab.jpg"]
    assert actual[0].captions == tuple(f"A dog {k} of 2_ab.jpg ." for k in range(5))
    assert [e.path.name for e in datasets.read("flickr8k", flickr8k, "dev")] == ["1_ab.jpg"]


def test_flickr8k_in_the_folders_of_the_official_archives(flickr8k: Path) -> None:
    (flickr8k / "images").rename(flickr8k / "Flicker8k_Dataset")
    (flickr8k / "Flickr8k_text").mkdir()
    for path in flickr8k.glob("*.txt"):
        path.rename(flickr8k / "Flickr8k_text" / path.name)
    assert len(datasets.read("flickr8k", str(flickr8k), "test")) == 1


def test_all_of_flickr8k_are_those_in_no_list_too(flickr8k: Path) -> None:
    touch(flickr8k / "images", ["9_extra.jpg.1"])
    names = [e.path.name for e in datasets.read("flickr8k/all", flickr8k, "train")]
    assert names == ["9_extra.jpg.1", *(f"{i}_ab.jpg" for i in range(4))]
    with pytest.raises(UsageError, match="flickr8k/all has no photo in split dev"):
        datasets.read("flickr8k/all", flickr8k, "dev")
    both = [("flickr8k/all", str(flickr8k)), ("flickr8k", str(flickr8k))]
    assert len(datasets.read_several(both, "train")) == 7
    assert len(datasets.read_several(both, "dev")) == 1


def test_flickr8k_names_file_and_line_of_a_damaged_line(flickr8k: Path) -> None:
    path = flickr8k / "Flickr8k.token.txt"
    write(path, path.read_text() + "\nno caption here\n")
    with pytest.raises(UsageError, match=r"Flickr8k\.token\.txt:27: expected name"):
        datasets.read("flickr8k", flickr8k, "train")


def test_flickr8k_refuses_a_list_of_another_corpus(flickr8k: Path) -> None:
    write(flickr8k / "Flickr_8k.trainImages.txt", "0_ab.jpg\nother.jpg\n")
    with pytest.raises(UsageError, match=r"trainImages\.txt:2: other\.jpg"):
        datasets.read("flickr8k", flickr8k, "train")


def test_a_file_in_another_encoding_is_named_with_its_line(flickr8k: Path) -> None:
    write(flickr8k / "Flickr8k.token.txt", "a.jpg#0\tA dog\nb.jpg#0\tA caf\xe9\n", "latin-1")
    with pytest.raises(UsageError, match=r"Flickr8k\.token\.txt:\d: not utf-8"):
        datasets.read("flickr8k", flickr8k, "train")


def test_flickr30k_splits_by_hash_or_by_lists(tmp_path: Path) -> None:
    names = [f"{i}.jpg" for i in range(60)]
    write(tmp_path / "results_20130124.token", tokens(names))
    touch(tmp_path / "flickr30k-images", names)
    parts = {
        s: [e.path.name for e in datasets.read("flickr30k", tmp_path, s)] for s in datasets.SPLITS
    }
    assert sorted(itertools.chain(*parts.values())) == sorted(names)
    assert len(parts["train"]) > len(parts["dev"]) + len(parts["test"])
    write(tmp_path / "test.txt", "7\n3.jpg\n")
    write(tmp_path / "val.txt", "5\n")
    assert [e.path.name for e in datasets.read("flickr30k", tmp_path, "test")] == ["7.jpg", "3.jpg"]
    assert [e.path.name for e in datasets.read("flickr30k", tmp_path, "dev")] == ["5.jpg"]
    write(tmp_path / "test.txt", "7\nnobody\n")
    with pytest.raises(UsageError, match=r"test\.txt:2: nobody"):
        datasets.read("flickr30k", tmp_path, "test")


@pytest.fixture
def flickr30k(tmp_path: Path) -> list[str]:
    names = [f"{i}.jpg" for i in range(60)]
    write(tmp_path / "results_20130124.token", tokens(names))
    touch(tmp_path / "flickr30k-images", names)
    return names


@pytest.mark.parametrize("there", ["train", "dev", "test"])
def test_a_photo_that_a_list_names_is_in_no_other_split(
    there: str, flickr30k: list[str], tmp_path: Path
) -> None:
    write(tmp_path / f"{there}.txt", "\n".join(flickr30k[:50]))
    parts = {
        s: [e.path.name for e in datasets.read("flickr30k", tmp_path, s)]
        for s in datasets.SPLITS
        if s == there or any(held_out(name) == s for name in flickr30k[50:])
    }
    assert parts[there] == flickr30k[:50]
    others = [name for part in parts.values() for name in part if name not in flickr30k[:50]]
    assert sorted(others) == [n for n in flickr30k[50:] if held_out(n) != there]
    everything = datasets.read("flickr30k/all", tmp_path, "train")
    assert [e.path.name for e in everything] == flickr30k
    write(tmp_path / ("dev.txt" if there == "train" else "train.txt"), "59\n7.jpg\n")
    with pytest.raises(UsageError, match=r"7(\.jpg)? is in the list of (train|dev) as well"):
        datasets.read("flickr30k", tmp_path, "test")


ENG = """<DOC>
<DOCNO>annotations/{n}.eng</DOCNO>
<TITLE>Plaza & church</TITLE>
<DESCRIPTION>{text}</DESCRIPTION>
<NOTES></NOTES>
<LOCATION>Quer\xe9taro</LOCATION>
<DATE>2002</DATE>
<IMAGE>images/{n}.jpg</IMAGE>
<THUMBNAIL>thumbnails/{n}.jpg</THUMBNAIL>
</DOC>
"""


def test_iapr_sentences_end_in_semicolons_and_files_are_latin_1(tmp_path: Path) -> None:
    text = "a caf\xe9 & a church;\ntwo people\n in the foreground; "
    folder = tmp_path / "annotations_complete_eng"
    for n in ("00/25", "01/1000"):
        write(folder / f"{n}.eng", ENG.format(n=n, text=text), "iso-8859-1")
    write(folder / "01/7.eng", ENG.format(n="01/7", text=" "), "iso-8859-1")
    touch(tmp_path / "images", ["00/25.jpg", "01/1000.jpg"])
    write(tmp_path / "train.txt", "00/25\n01/1000\n")
    actual = datasets.read("iapr-tc12", tmp_path, "train")
    assert [e.path for e in actual] == [
        tmp_path / "images" / n for n in ("00/25.jpg", "01/1000.jpg")
    ]
    assert actual[0].captions == ("a caf\xe9 & a church", "two people in the foreground")


def test_iapr_names_the_file_that_lacks_a_tag(tmp_path: Path) -> None:
    path = tmp_path / "annotations_complete_eng/00/1.eng"
    write(path, "<DOC>\n<DESCRIPTION>a dog;</DESCRIPTION>\n</DOC>\n")
    (tmp_path / "images").mkdir()
    with pytest.raises(UsageError, match=r"1\.eng:3: ends without <IMAGE>"):
        datasets.read("iapr-tc12", tmp_path, "train")


def coco_file(path: Path, ids: range) -> Path:
    document = {
        "info": {},
        "images": [{"id": i, "file_name": f"{i:012}.jpg", "height": 9, "width": 9} for i in ids],
        "annotations": [
            {"id": 10 * i + k, "image_id": i, "caption": f" Caption {k} of {i}.\n"}
            for k in range(2)
            for i in ids
            if i != ids[-1]
        ],
    }
    return write(path, json.dumps(document))


def test_coco_with_one_file_holds_photos_out(tmp_path: Path) -> None:
    coco_file(tmp_path / "captions.json", range(100, 151))
    touch(tmp_path / "images", [f"{i:012}.jpg" for i in range(100, 151)])
    parts = {s: datasets.read("coco", tmp_path, s) for s in datasets.SPLITS}
    ids = [int(e.path.stem) for part in parts.values() for e in part]
    assert sorted(ids) == list(range(100, 150)), "the photo without captions is left out"
    assert all(held_out(str(int(e.path.stem))) == s for s, part in parts.items() for e in part)
    assert parts["train"][0].captions[1].startswith("Caption 1 of ")


def test_coco_with_both_files_draws_dev_and_test_from_val(tmp_path: Path) -> None:
    coco_file(tmp_path / "annotations/captions_train2014.json", range(11))
    coco_file(tmp_path / "annotations/captions_val2014.json", range(50, 71))
    touch(tmp_path / "train2014", [f"{i:012}.jpg" for i in range(10)])
    touch(tmp_path / "images/val2014", [f"{i:012}.jpg" for i in range(50, 70)])
    parts = {s: datasets.read("coco", tmp_path, s) for s in datasets.SPLITS}
    assert {s: len(part) for s, part in parts.items()} == {"train": 10, "dev": 16, "test": 4}
    assert len({e.path for part in parts.values() for e in part}) == 30


def test_all_of_coco_is_all_of_both_files(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(sys.modules["mrnn_exporters.datasets.coco"], "TEST", 1)
    coco_file(tmp_path / "captions_train2014.json", range(11))
    coco_file(tmp_path / "captions_val2014.json", range(50, 71))
    touch(tmp_path / "images", [f"{i:012}.jpg" for i in (*range(10), *range(50, 70))])
    examples = datasets.read("coco/all", tmp_path, "train")
    assert [int(e.path.stem) for e in examples] == [*range(10), *range(50, 70)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d["annotations"][1].pop("caption"), r"annotations\[1\]: expected image_id"),
        (lambda d: d["annotations"][2].update(image_id=99), r"annotations\[2\]: image_id 99"),
        (lambda d: d["images"][0].update(id="x"), r"images\[0\]: expected id"),
        (lambda d: d.pop("images"), "no list 'images'"),
    ],
)
def test_coco_names_the_damaged_record(tmp_path: Path, change, message: str) -> None:
    path = coco_file(tmp_path / "captions.json", range(6))
    document = json.loads(path.read_text())
    change(document)
    write(path, json.dumps(document))
    with pytest.raises(
        UsageError, match=rf"captions\.json:{message}|captions\.json:1: has {message}"
    ):
        datasets.read("coco", tmp_path, "train")


def test_json_that_is_none_is_named_with_its_line(tmp_path: Path) -> None:
    write(tmp_path / "captions.json", '{"images": [],\n "annotations": [}\n')
    with pytest.raises(UsageError, match=r"captions\.json:2: not JSON"):
        datasets.read("coco", tmp_path, "train")


def karpathy_file(root: Path, sentences: list[dict[str, object]]) -> None:
    images = [
        {"filename": f"{s}.jpg", "filepath": "val2014", "split": s, "sentences": sentences}
        for s in ("train", "restval", "val", "test")
    ]
    write(root / "dataset_coco.json", json.dumps({"images": images, "dataset": "coco"}))
    touch(root / "val2014", [f"{s}.jpg" for s in ("train", "restval", "val", "test")])


def test_karpathy_restval_is_train_and_val_is_dev(tmp_path: Path) -> None:
    karpathy_file(tmp_path, [{"raw": "A dog.", "tokens": ["a", "dog"]}])
    names = {
        s: [e.path.name for e in datasets.read("karpathy", tmp_path, s)] for s in datasets.SPLITS
    }
    assert names == {
        "train": ["train.jpg", "restval.jpg"],
        "dev": ["val.jpg"],
        "test": ["test.jpg"],
    }
    assert datasets.read("karpathy", tmp_path, "dev")[0].captions == ("A dog.",)
    assert len(datasets.read("karpathy/all", tmp_path, "train")) == 4


@pytest.mark.parametrize("sentences", [[], [{"tokens": ["a"]}], ["A dog."]])
def test_karpathy_without_raw_sentences_is_refused(tmp_path: Path, sentences) -> None:
    karpathy_file(tmp_path, sentences)
    with pytest.raises(UsageError, match=r"dataset_coco\.json:images\[0\]: train\.jpg"):
        datasets.read("karpathy", tmp_path, "train")


def test_folder_with_and_without_splits(tmp_path: Path) -> None:
    records = [{"file": f"p/{i}.jpg", "captions": ["One .", "Two ."]} for i in range(40)]
    touch(tmp_path / "p", [f"{i}.jpg" for i in range(40)])
    write(tmp_path / "captions.jsonl", "\n".join(map(json.dumps, records)))
    assert sum(len(datasets.read("folder", tmp_path, s)) for s in datasets.SPLITS) == 40
    named = [r | {"split": "dev" if i < 3 else "train"} for i, r in enumerate(records)]
    write(tmp_path / "captions.jsonl", "\n".join(map(json.dumps, named)))
    assert len(datasets.read("folder", tmp_path, "dev")) == 3
    with pytest.raises(UsageError, match="no photo in split test"):
        datasets.read("folder", tmp_path, "test")


def test_lines_of_one_file_add_up(tmp_path: Path) -> None:
    said = [("a.jpg", "One"), ("b.jpg", "Two"), ("a.jpg", "Three")]
    records = [{"file": file, "captions": [text], "split": "dev"} for file, text in said]
    touch(tmp_path, ["a.jpg", "b.jpg"])
    write(tmp_path / "captions.jsonl", "\n".join(map(json.dumps, records)))
    captions = {e.path.name: e.captions for e in datasets.read("folder", tmp_path, "dev")}
    assert captions == {"a.jpg": ("One", "Three"), "b.jpg": ("Two",)}
    assert len(datasets.read("folder/all", tmp_path, "train")) == 2
    records[2]["split"] = "test"
    write(tmp_path / "captions.jsonl", "\n".join(map(json.dumps, records)))
    with pytest.raises(UsageError, match=r"captions\.jsonl:3: split must be .* for a file"):
        datasets.read("folder", tmp_path, "dev")


@pytest.mark.parametrize(
    "line",
    [
        '{"file": "b.jpg"}',
        '{"file": "b.jpg", "captions": []}',
        '{"file": "b.jpg", "captions": ["  "]}',
        '{"file": "b.jpg", "captions": ["x"], "split": "val"}',
        '{"file": "b.jpg", "captions": ["x"], "split": "dev"}',
        '["b.jpg"]',
        "{",
    ],
)
def test_folder_names_the_damaged_line(tmp_path: Path, line: str) -> None:
    write(tmp_path / "captions.jsonl", f'{{"file": "a.jpg", "captions": ["A dog"]}}\n\n{line}\n')
    with pytest.raises(UsageError, match=r"captions\.jsonl:3: "):
        datasets.read("folder", tmp_path, "train")


def hundreds(root: Path, there: int) -> Path:
    records = [{"file": f"{i}.jpg", "captions": ["A dog"], "split": "train"} for i in range(200)]
    write(root / "captions.jsonl", "\n".join(map(json.dumps, records)))
    touch(root, [f"{i}.jpg" for i in range(there)])
    return root


def test_few_missing_photos_are_counted_and_named(tmp_path: Path, caplog) -> None:
    with caplog.at_level(logging.WARNING):
        actual = datasets.read("folder", hundreds(tmp_path, 198), "train")
    assert len(actual) == 198
    assert "2 of 200: 198.jpg, 199.jpg" in caplog.text


def test_many_missing_photos_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"3 of 200: 197\.jpg"):
        datasets.read("folder", hundreds(tmp_path, 197), "train")


def test_unknown_names_get_help(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="did you mean flickr8k"):
        datasets.read("flickr8", tmp_path, "train")
    with pytest.raises(UsageError, match="unknown split 'val'"):
        datasets.read("flickr8k", tmp_path, "val")
    with pytest.raises(UsageError, match="no such folder") as error:
        datasets.read("flickr8k", tmp_path / "x", "dev")
    assert "--dataset flickr8k:DIR, or --root DIR" in str(error.value.hint)


@pytest.mark.parametrize("name", datasets.READERS)
def test_a_folder_without_the_files_is_a_usage_error(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError) as caught:
        datasets.read(name, tmp_path, "train")
    assert caught.value.hint


def test_the_real_flickr8k(flickr8k_root: Path) -> None:
    parts = {s: datasets.read("flickr8k", flickr8k_root, s) for s in datasets.SPLITS}
    assert {s: len(p) for s, p in parts.items()} == {"train": 6000, "dev": 1000, "test": 1000}
    assert {len(e.captions) for part in parts.values() for e in part} == {5}
    assert len({e.path for part in parts.values() for e in part}) == 8000


def tar_of(path: Path, files: dict[str, str] | dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, said in files.items():
            content = said.encode() if isinstance(said, str) else said
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def test_tars_hold_photos_and_what_is_on_them(tmp_path: Path) -> None:
    both = {"x/a.jpg": "", "x/a.txt": "A dog .\nA cat .\n", "../b.PNG": "", "../b.json": ""}
    both["../b.json"] = json.dumps({"captions": ["A hat ."], "url": "somewhere"})
    tar_of(tmp_path / "one.tar", both)
    tar_of(tmp_path / "two.tar", {"c.jpg": "", "c.json": '{"caption": "A man ."}', "c.cls": "3"})
    examples = [e for split in datasets.SPLITS for e in webdataset(tmp_path, split)]
    captions = {e.path.name: e.captions for e in examples}
    assert captions == {
        "a.jpg": ("A dog .", "A cat ."),
        "b.PNG": ("A hat .",),
        "c.jpg": ("A man .",),
    }
    assert {path.name for path in tmp_path.iterdir()} == {"one.tar", "two.tar"}


def test_photos_of_tars_are_read_where_they_lie(tmp_path: Path) -> None:
    content = io.BytesIO()
    Image.new("RGB", (40, 30), "red").save(content, "PNG")
    files = {f"{i}{suffix}": b"" for i in range(30) for suffix in (".txt", ".png")}
    files = {name: b"A square ." if name.endswith("t") else content.getvalue() for name in files}
    tar_of(tmp_path / "one.tar", files | {"9.png": b"no photo"})
    examples = [
        e for split in datasets.SPLITS for e in datasets.read("webdataset", tmp_path, split)
    ]
    assert len(examples) == 30
    for example in examples:
        if example.path.name == "9.png":
            with pytest.raises(ImageError, match=r"9\.png"):
                read_image(example.image, Preprocess(height=3, width=4))
        else:
            pixels = read_image(example.image, Preprocess(height=3, width=4))
            assert pixels[0, 0].tolist() == [255, 0, 0]


def test_names_in_tars_are_whole(tmp_path: Path) -> None:
    """Folders are part of them, and so are the dots of the tar."""
    places = [f"{folder}/{i}" for folder in "xy" for i in range(3)]
    files = {f"{place}{s}": f"At {place}" for place in places for s in (".jpg", ".txt")}
    tar_of(tmp_path / "cc3m-0.1.tar", files)
    everything = datasets.read("webdataset/all", tmp_path, "train")
    assert [e.captions for e in everything] == [(f"At {place}",) for place in places]
    for example, place in zip(everything, places, strict=True):
        assert isinstance(example.path, Member)
        assert example.path.read().decode() == f"At {place}"
    write(tmp_path / "dev.txt", "cc3m-0.1/x/2\ncc3m-0.1/y/0.jpg\n")
    dev = datasets.read("webdataset", tmp_path, "dev")
    assert [e.captions for e in dev] == [("At x/2",), ("At y/0",)]


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"a.jpg": ""}, "says what is on it"),
        ({"a.jpg": "", "a.txt": "\n"}, "no captions"),
        ({"a.jpg": "", "a.json": "[]"}, "no captions"),
        ({"a.jpg": "", "a.json": '{"caption": 3}'}, "no captions"),
        ({"a.jpg": "", "a.json": '{"captions": "a dog"}'}, "must be a list"),
        (None, "no whole tar"),
        ("gz", "no whole tar"),
        ("cut", "no whole tar"),
    ],
)
def test_a_tar_that_is_not_one_of_those_is_named(
    tmp_path: Path, files: dict[str, str] | str | None, words: str
) -> None:
    with pytest.raises(UsageError, match="holds no tar"):
        webdataset(tmp_path, "train")
    if files is None:
        (tmp_path / "one.tar").write_bytes(b"no tar" * 200)
    elif isinstance(files, str):
        content = tar_of(tmp_path / "one.tar", {"a.txt": "A .", "a.jpg": "-" * 5000}).read_bytes()
        other = gzip.compress(content) if files == "gz" else content[:4000]
        (tmp_path / "one.tar").write_bytes(other)
    else:
        tar_of(tmp_path / "one.tar", files)
    with pytest.raises(UsageError, match=words):
        for split in datasets.SPLITS:
            webdataset(tmp_path, split)
