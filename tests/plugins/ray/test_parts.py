"""How the input of a run is found and cut, and what is left of it to do. No Ray here."""

import io
import json
import tarfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow.fs import LocalFileSystem

from mrnn_ray.command import settings
from mrnn_ray.outputs import Format, Output
from mrnn_ray.parts import File, Part, Source, cut, open_source
from mrnn_ray.recipe import Recipe
from mrnn_ray.worker import Worker, remaining
from mrnn_runtime import UsageError, load
from mrnn_runtime.build import read_manifest, write_manifest

NAMES = st.lists(st.integers(0, 10**6), unique=True, max_size=300).map(
    lambda numbers: [f"{number:07}.jpg" for number in sorted(numbers)]
)


def parts_of(*inputs, size=8, column="bytes", name="path"):
    source, files = open_source([str(one) for one in inputs], column=column, name=name)
    return source, list(cut(files, source, size))


def output_in(folder, form=Format.JSONL):
    return Output(LocalFileSystem(), str(folder), form)


def caption(tiny_bundle, inputs, folder, *, form=Format.JSONL, resume=False, size=8, **options):
    """Do what a cluster does with `mrnn ray caption`; return how many parts there were to do."""
    column = options.pop("column", "bytes")
    source, parts = parts_of(*inputs, size=size, column=column)
    output = output_in(folder, form)
    recipe = Recipe(model=str(tiny_bundle), provider="cpu", **options)
    facts = settings(recipe, recipe.check(), source, output)
    left = remaining(parts, output, output.begin(facts, resume=resume))
    worker = Worker(recipe=recipe, source=source, output=output)
    worker({"part": [part.to_json() for part in left]})
    return len(left)


def lines_of(folder):
    return sorted(line for file in folder.glob("*.jsonl") for line in file.read_text().splitlines())


def alone(tiny_bundle, inputs):
    """Return the lines that `mrnn caption` writes."""
    captioner = load(tiny_bundle, provider="cpu")
    return sorted(json.dumps(one.record()) for one in captioner.caption(list(inputs)))


def tar_of(photos, file, names):
    with tarfile.open(file, "w") as tar:
        for name in names:
            tar.add(photos / name, name)
    return file


# Cutting


@given(NAMES, st.integers(1, 40))
def test_every_file_is_in_one_part(names, size):
    files = [File(name, name, "1") for name in names]
    parts = list(cut(files, Source(), size))
    assert [file for part in parts for file in part.files] == files
    assert all(len(part.files) <= 2 * size for part in parts)
    assert len({part.key for part in parts}) == len(parts)


@given(NAMES.filter(len), st.integers(0, 10**6), st.integers(2, 40))
def test_a_photo_more_leaves_most_parts_as_they_are(names, number, size):
    more = sorted({*names, f"{number:07}.jpg"})
    before, after = (
        {part.key for part in cut([File(n, n, "1") for n in some], Source(), size)}
        for some in (names, more)
    )
    # What follows the new photo falls back into step at the next end that both share.
    assert after - before or len(more) == len(names)
    if more[-1] == f"{number:07}.jpg":
        assert len(after - before) <= 2


def test_a_part_survives_the_way_to_a_worker():
    part = Part((File("a", "/a", "1"), File("b\udcff", "/b\udcff", "2")), 3)
    assert Part.from_json(part.to_json()) == part


@pytest.mark.parametrize("how", ["folder", "slash", "glob", "list", "files"])
def test_names_are_as_the_user_wrote_them(photos, tmp_path, how, monkeypatch):
    monkeypatch.chdir(photos.parent)
    inputs = {
        "folder": [photos.name],
        "slash": [f"{photos.name}/"],
        "glob": [f"{photos.name}/*.*"],
        "files": [f"{photos.name}/more/01.png"],
        "list": [str(tmp_path / "list.txt")],
    }[how]
    (tmp_path / "list.txt").write_text(f"{photos.name}/more\n\n{photos.name}/00.png\n")
    _, files = open_source(inputs, column="bytes", name="path")
    names = [file.name for file in files]
    assert f"{photos.name}/more/01.png" in names
    assert all(name.startswith(f"{photos.name}/") for name in names)
    assert not any("hidden" in name or "notes" in name for name in names if how != "glob")
    assert len(names) == {"folder": 32, "slash": 32, "files": 1, "list": 21}.get(how, len(names))


@pytest.mark.parametrize(
    ("place", "names"),
    [
        ("album [2019]", ["album [2019]/IMG [1].jpg", "album [2019]/b.jpg"]),
        ("album [2019]/", ["album [2019]/IMG [1].jpg", "album [2019]/b.jpg"]),
        ("album [2019]/IMG [1].jpg", ["album [2019]/IMG [1].jpg"]),
        ("album [[]2019]/*.jpg", ["album [2019]/IMG [1].jpg", "album [2019]/b.jpg"]),
        ("y?.jpg", ["y*.jpg", "y1.jpg"]),
        ("y*.jpg", ["y*.jpg"]),
        ("./y[0-9].jpg", ["./y1.jpg"]),
        ("y1.jpg", ["y1.jpg"]),
    ],
)
def test_a_path_that_exists_is_no_glob(tmp_path, monkeypatch, place, names):
    here = tmp_path / "here [1]"
    (here / "album [2019]").mkdir(parents=True)
    for name in ("album [2019]/IMG [1].jpg", "album [2019]/b.jpg", "y1.jpg", "y*.jpg"):
        (here / name).touch()
    monkeypatch.chdir(here)
    _, files = open_source([place], column="bytes", name="path")
    assert [file.name for file in files] == names
    assert [file.path for file in files] == [str(here / name) for name in names]


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        (["missing"], "does not exist"),
        (["*.jpg"], "holds no photos"),
        (["a.jpg", "s3://bucket/b.jpg"], "several file systems"),
        (["nothing://a"], "cannot be opened"),
        (["bad.parquet"], "no Parquet file"),
        (["other.parquet"], "no column 'bytes'"),
    ],
)
def test_what_cannot_be_taken_is_refused(tmp_path, monkeypatch, inputs, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.parquet").write_bytes(b"no")
    pq.write_table(pa.table({"picture": [b""]}), tmp_path / "other.parquet")
    with pytest.raises(UsageError, match=words):
        parts_of(*inputs)


@pytest.mark.parametrize(
    "uri", ["nothing://me:secret@a/b", "s3://me:secret@a/b?nonsense=1", "s3://me:secret@[/b"]
)
def test_an_error_shows_no_password(uri):
    with pytest.raises(UsageError, match="cannot be opened") as caught:
        parts_of(uri)
    assert "secret" not in str(caught.value)


# Captions


def test_records_are_those_of_mrnn_caption(tiny_bundle, photos, tmp_path):
    caption(tiny_bundle, [photos], tmp_path / "out")
    assert lines_of(tmp_path / "out") == alone(tiny_bundle, [photos])


def test_parquet_says_the_same(tiny_bundle, photos, tmp_path):
    caption(tiny_bundle, [photos], tmp_path / "out", form=Format.PARQUET)
    rows = pq.read_table(tmp_path / "out").to_pylist()
    expected = [json.loads(line) for line in alone(tiny_bundle, [photos])]
    for row, record in zip(
        sorted(rows, key=lambda row: row["path"]),
        sorted(expected, key=lambda record: record["path"]),
        strict=True,
    ):
        assert {name: row[name] for name in record if name != "candidates"} == {
            name: value for name, value in record.items() if name != "candidates"
        }
        assert (row["error"] is None) == ("error" not in record)


def test_vectors_are_what_search_encodes(tiny_bundle, photos, tmp_path):
    caption(tiny_bundle, [photos], tmp_path / "out", form=Format.PARQUET, vectors=True)
    captioner = load(tiny_bundle, provider="cpu")
    for row in pq.read_table(tmp_path / "out").to_pylist():
        if row["error"] is not None:
            assert row["image_term"] is row["reference_feature"] is None
            continue
        encoded = captioner.encode(row["path"])
        halves = encoded.inputs["image_term"][0].astype("float16").tolist()
        assert row["image_term"] == halves
        assert len(row["reference_feature"]) == encoded.reference_feature.shape[1]


@pytest.mark.parametrize("kind", ["tar", "parquet", "paths"])
def test_photos_inside_of_files_get_the_same_captions(tiny_bundle, photos, tmp_path, kind):
    names = sorted(str(file.relative_to(photos)) for file in photos.rglob("[!.]*.png"))
    names += ["broken.jpg"]
    source = tmp_path / f"in.{'tar' if kind == 'tar' else 'parquet'}"
    if kind == "tar":
        tar_of(photos, source, names)
        prefix = f"{source}/"
    elif kind == "parquet":
        contents = [(photos / name).read_bytes() for name in names]
        pq.write_table(pa.table({"bytes": contents, "path": names}), source, row_group_size=10)
        prefix = ""
    else:
        places = [str(photos / name) for name in names]
        pq.write_table(pa.table({"place": places}), source, row_group_size=10)
        prefix = f"{photos}/"
    column = "place" if kind == "paths" else "bytes"
    done = caption(tiny_bundle, [source], tmp_path / "out", column=column)
    assert done == (1 if kind == "tar" else 4)
    report = {record["path"]: record for record in map(json.loads, lines_of(tmp_path / "out"))}
    assert sorted(report) == sorted(prefix + name for name in names)
    for line in alone(tiny_bundle, [photos / name for name in names]):
        record = json.loads(line)
        name = prefix + record.pop("path").removeprefix(f"{photos}/")
        if "error" in record:
            assert "error" in report[name]
        else:
            assert report[name] == {"path": name, **record}


@pytest.mark.parametrize("count", [2, 66])
@pytest.mark.parametrize("vectors", [False, True])
def test_a_tar_that_is_cut_keeps_what_it_held(tiny_bundle, photos, tmp_path, count, vectors):
    tar = tar_of(photos, tmp_path / "in.tar", ["00.png", "more/01.png"] * (count // 2) + ["03.png"])
    with tarfile.open(tar) as opened:
        last = opened.getmembers()[-1]
    tar.write_bytes(tar.read_bytes()[: last.offset_data + 100])
    form = Format.PARQUET if vectors else Format.JSONL
    caption(tiny_bundle, [tar], tmp_path / "out", form=form, vectors=vectors)
    (file,) = (tmp_path / "out").glob(f"*.{form}")
    records = (
        pq.read_table(file).to_pylist() if vectors else list(map(json.loads, lines_of(file.parent)))
    )
    assert sum(record.get("caption") is not None for record in records) == count
    (error,) = [record for record in records if record.get("error") is not None]
    assert error["path"] == str(tar)
    assert "copy it again" in error["error"]


def test_a_table_that_breaks_keeps_what_it_held(tiny_bundle, photos, tmp_path):
    content = (photos / "00.png").read_bytes()
    file = tmp_path / "in.parquet"
    pages = {"compression": "none", "use_dictionary": False, "data_page_size": 1}
    table = pa.table({"bytes": [content + bytes([i]) for i in range(200)]})
    pq.write_table(table, file, write_batch_size=1, **pages)
    whole = file.read_bytes()
    start = whole.index(content + bytes([150]))
    file.write_bytes(whole[: start - 40] + b"\xff" * 40 + whole[start:])  # the header of its page
    caption(tiny_bundle, [file], tmp_path / "out")
    records = list(map(json.loads, lines_of(tmp_path / "out")))
    assert sum("caption" in record for record in records) >= 128
    (error,) = [record for record in records if "error" in record]
    assert error["path"] == str(file)


@pytest.mark.parametrize("is_path", [False, True])
@pytest.mark.parametrize("name", ["mine", 0])
def test_photos_of_a_table_have_the_names_that_it_gives(
    tiny_bundle, photos, tmp_path, is_path, name
):
    file, photo = tmp_path / "in.parquet", photos / "00.png"
    content = str(photo) if is_path else photo.read_bytes()
    pq.write_table(pa.table({"bytes": [content] * 2, "path": [name, None]}), file)
    caption(tiny_bundle, [file], tmp_path / "out")
    records = list(map(json.loads, lines_of(tmp_path / "out")))
    names = {str(name), str(photo) if is_path else f"{file}#1"}
    assert {record["path"] for record in records} == names
    assert all(record["caption"] for record in records)


def test_folders_are_no_photos(tiny_bundle, tmp_path):
    pq.write_table(pa.table({"bytes": [str(tmp_path), "", None]}), tmp_path / "in.parquet")
    caption(tiny_bundle, [tmp_path / "in.parquet"], tmp_path / "out")
    records = list(map(json.loads, lines_of(tmp_path / "out")))
    assert len(records) == 3
    assert all("error" in record for record in records)


def test_a_bucket_is_read_and_written(tiny_bundle, photos, bucket):
    from mrnn_ray.parts import open_place

    filesystem, root = open_place(bucket("bucket-photos"))
    for file in photos.rglob("[!.]*.*"):
        with filesystem.open_output_stream(f"{root}/{file.relative_to(photos)}") as stream:
            stream.write(file.read_bytes())
    source, parts = parts_of(bucket("bucket-photos"))
    output = Output(*open_place(bucket("captions")), Format.JSONL)
    present = output.begin({"model": "tiny"}, resume=False)
    recipe = Recipe(model=str(tiny_bundle), provider="cpu")
    worker = Worker(recipe=recipe, source=source, output=output)
    worker({"part": [part.to_json() for part in remaining(parts, output, present)]})
    lines = [json.loads(line) for part in parts for line in _lines(output, part)]
    assert not any("secret" in line["path"] for line in lines)
    prefix = "s3://bucket/bucket-photos/"
    texts = {line["path"].removeprefix(prefix): line.get("caption") for line in lines}
    for line in map(json.loads, alone(tiny_bundle, [photos])):
        assert texts[line["path"].removeprefix(f"{photos}/")] == line.get("caption")
    assert remaining(parts, output, output.begin({"model": "tiny"}, resume=True)) == []


def test_a_name_of_a_bucket_may_hold_the_signs_of_a_glob(bucket):
    from mrnn_ray.parts import open_place

    filesystem, root = open_place(bucket("globs"))
    for name in ("IMG [1].jpg", "b/2.jpg"):
        filesystem.open_output_stream(f"{root}/{name}").close()
    for place, name in (("IMG%20%5B1%5D.jpg", "IMG [1].jpg"), ("b/*.jpg", "b/2.jpg")):
        _, (file,) = open_source([bucket(f"globs/{place}")], column="bytes", name="path")
        assert file.name == f"s3://bucket/globs/{name}"


def test_a_bucket_is_asked_as_seldom_as_the_page_says(photos, bucket, tmp_path):
    from mrnn_ray.parts import open_place

    names = [f"more/{i:02}.png" for i in (1, 2, 4, 5, 7, 8)]
    tar = tar_of(photos, tmp_path / "in.tar", names)
    filesystem, root = open_place(bucket("seldom"))
    for file in (tar, photos / names[0]):
        with filesystem.open_output_stream(f"{root}/{file.name}") as stream:
            stream.write(file.read_bytes())
    assert tar.stat().st_size > 15_000
    for name, count in ((tar.name, len(names)), ("01.png", 1)):
        source, (part,) = parts_of(bucket(f"seldom/{name}"))
        bucket.requests.clear()
        content = [photo.read() for several in source.photos(part) for photo in several]
        assert (len(content), bucket.requests) == (count, {"HEAD": 1, "GET": 1})


def _lines(output, part):
    with output.filesystem.open_input_file(f"{output.folder}/{part.key}.jsonl") as file:
        return io.BytesIO(file.read()).readlines()


# Resuming


@given(st.data())
def test_what_is_done_in_any_order_is_there_once(data):
    """Photos come and change between runs, parts are lost, and others are done twice."""
    import tempfile
    from pathlib import Path

    names = [f"{i:03}.jpg" for i in range(60)]
    with tempfile.TemporaryDirectory() as scratch:
        output = output_in(Path(scratch) / "out")
        present = output.begin({}, resume=False)
        stamps = {}
        for _ in range(3):
            for name in data.draw(st.sets(st.sampled_from(names))):
                stamps[name] = str(data.draw(st.integers(0, 1)))
            files = [File(name, name, stamp) for name, stamp in sorted(stamps.items())]
            left = remaining(list(cut(files, Source(), 5)), output, present)
            done = data.draw(st.lists(st.sampled_from(left))) if left else []
            for part in done:  # perhaps twice
                output.write(part.key, _rows(part))
            present = output.begin({}, resume=True)
        left = remaining(list(cut(files, Source(), 5)), output, present)
        for part in left:
            output.write(part.key, _rows(part))
        records = [json.loads(line) for line in lines_of(Path(scratch) / "out")]
        assert sorted((record["path"], record["error"]) for record in records) == sorted(
            stamps.items()
        )


def _rows(part):
    from mrnn_ray.records import SCHEMA

    rows = [{"path": file.name, "error": file.stamp} for file in part.files]
    return pa.Table.from_pylist(rows, SCHEMA)


def test_a_resumed_run_does_what_is_missing(tiny_bundle, photos, tmp_path):
    parts = caption(tiny_bundle, [photos], tmp_path / "out")
    assert parts > 2
    lost = sorted((tmp_path / "out").glob("*.jsonl"))[1]
    lost.unlink()
    assert caption(tiny_bundle, [photos], tmp_path / "out", resume=True) == 1
    assert caption(tiny_bundle, [photos], tmp_path / "out", resume=True) == 0
    assert lines_of(tmp_path / "out") == alone(tiny_bundle, [photos])


@pytest.mark.parametrize("more", [[], ["c.png"]])
def test_photos_that_changed_are_captioned_anew(tiny_bundle, photos, tmp_path, more):
    names = ["a.png", "b.png", *more]
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes((photos / "00.png").read_bytes())
    caption(tiny_bundle, [tmp_path / "*.png"], tmp_path / "out")
    (tmp_path / "b.png").write_bytes(b"changed")
    for name in more:
        (tmp_path / name).write_bytes((photos / "03.png").read_bytes())
    assert caption(tiny_bundle, [tmp_path / "*.png"], tmp_path / "out", resume=True) == 1
    records = [json.loads(line) for line in lines_of(tmp_path / "out")]
    assert sorted(record["path"][-5:] for record in records) == names
    assert [record["path"][-5:] for record in records if "error" in record] == ["b.png"]


def test_a_file_that_is_written_anew_leaves_nothing_of_the_old_one(tiny_bundle, photos, tmp_path):
    file, out = tmp_path / "in.parquet", tmp_path / "out"
    table = pa.table({"bytes": [(photos / "00.png").read_bytes()] * 40})
    pq.write_table(table, file, row_group_size=10)
    assert caption(tiny_bundle, [file], out) == 4
    pq.write_table(table.slice(0, 30), file, row_group_size=15)
    assert caption(tiny_bundle, [file], out, resume=True) == 2
    names = sorted(json.loads(line)["path"] for line in lines_of(out))
    assert names == sorted(f"{file}#{i}" for i in range(30))
    assert caption(tiny_bundle, [file], out, resume=True) == 0


def test_two_runs_do_not_mix(tmp_path):
    output = output_in(tmp_path / "out")
    output.begin({"model": "one", "options": {}}, resume=True)
    with pytest.raises(UsageError, match="not empty"):
        output.begin({"model": "one", "options": {}}, resume=False)
    with pytest.raises(UsageError, match="another model"):
        output.begin({"model": "two", "options": {}}, resume=True)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").touch()
    with pytest.raises(UsageError, match="holds no run"):
        output_in(tmp_path / "photos").begin({}, resume=True)


def test_a_run_goes_on_with_its_format_its_columns_and_its_model(
    tiny_bundle, make_tiny_bundle, photos, tmp_path
):
    inputs, out = [photos / "00.png"], tmp_path / "out"
    caption(tiny_bundle, inputs, out, form=Format.PARQUET)
    with pytest.raises(UsageError, match="another format"):
        caption(tiny_bundle, inputs, out, resume=True)
    with pytest.raises(UsageError, match="another column"):
        caption(tiny_bundle, inputs, out, form=Format.PARQUET, resume=True, column="jpg")
    retrained = make_tiny_bundle(seed=1)
    with pytest.raises(UsageError, match="another bundle, encoder"):
        caption(retrained, inputs, out, form=Format.PARQUET, resume=True)
    assert caption(tiny_bundle, inputs, out, form=Format.PARQUET, resume=True) == 0


# Galleries


def test_a_gallery_on_disk_ranks_as_one_in_memory(tiny_bundle, photos, tmp_path):
    from mrnn_ray.gallery import write_gallery
    from mrnn_runtime import open_gallery
    from mrnn_runtime.retrieval.ranking import find_photos
    from mrnn_runtime.retrieval.stored import open_stored

    caption(tiny_bundle, [photos], tmp_path / "out", form=Format.PARQUET, vectors=True)
    folder = tmp_path / "gallery"
    assert write_gallery(str(tmp_path / "out"), str(folder), model=str(tiny_bundle)) == 30
    captioner = load(tiny_bundle, provider="cpu")
    matches = find_photos(captioner, "a dog on grass", open_stored(captioner, folder), top=30)
    expected = find_photos(captioner, "a dog on grass", open_gallery(captioner, [photos]))
    assert sorted(match.path for match in matches) == sorted(match.path for match in expected)
    scores = {match.path: match.score for match in expected}
    assert [match.score for match in matches] == pytest.approx(
        [scores[match.path] for match in matches], abs=2e-2
    )
    assert [m.score for m in matches] == sorted((m.score for m in matches), reverse=True)
    with pytest.raises(UsageError, match="not empty"):
        write_gallery(str(tmp_path / "out"), str(folder), model=str(tiny_bundle))
    (folder / "offsets.npy").write_bytes(b"no")
    with pytest.raises(UsageError, match="no gallery that can be read"):
        open_stored(captioner, folder)


def test_a_gallery_belongs_to_its_encoder(make_tiny_bundle, tiny_bundle, photos, tmp_path):
    from mrnn_ray.gallery import write_gallery
    from mrnn_runtime.retrieval.stored import open_stored

    caption(tiny_bundle, [photos], tmp_path / "out", form=Format.PARQUET, vectors=True)
    write_gallery(str(tmp_path / "out"), str(tmp_path / "gallery"), model=str(tiny_bundle))
    with pytest.raises(UsageError, match="another model"):
        open_stored(load(make_tiny_bundle(seed=1), provider="cpu"), tmp_path / "gallery")
    caption(tiny_bundle, [photos], tmp_path / "bare", form=Format.PARQUET)
    with pytest.raises(UsageError, match="--embeddings"):
        write_gallery(str(tmp_path / "bare"), str(tmp_path / "other"), model=str(tiny_bundle))


def test_vectors_of_another_model_make_no_gallery(make_tiny_bundle, tiny_bundle, photos, tmp_path):
    from mrnn_ray.gallery import write_gallery

    caption(tiny_bundle, [photos], tmp_path / "out", form=Format.PARQUET, vectors=True)
    other = make_tiny_bundle(seed=1)
    with pytest.raises(UsageError, match=r"written by tiny 1.*, and not by this tiny 1"):
        write_gallery(str(tmp_path / "out"), str(tmp_path / "gallery"), model=str(other))
    (tmp_path / "out" / "_mrnn.json").unlink()  # as a pipeline of Ray Data writes it
    write_manifest(other, {**read_manifest(other), "name": "other"})
    with pytest.raises(UsageError, match="written by tiny, and not by this other"):
        write_gallery(str(tmp_path / "out"), str(tmp_path / "gallery"), model=str(other))
    assert not (tmp_path / "gallery").exists()
    assert write_gallery(str(tmp_path / "out"), str(tmp_path / "x"), model=str(tiny_bundle)) == 30
