"""Captions inside of photos: other programs read them, everything else in the photo stays."""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

metadata = pytest.importorskip("mrnn_photos.metadata")
pillow_heif = pytest.importorskip("pillow_heif")
pillow_heif.register_heif_opener()

from mrnn_photos import watching, xmp  # noqa: E402
from mrnn_photos.watching import whole_ones  # noqa: E402
from mrnn_runtime import ImageError  # noqa: E402
from mrnn_runtime.bundle.atomic import replace_file  # noqa: E402
from mrnn_runtime.cli import extensions  # noqa: E402

EXIV2 = ("JPEG", "PNG", "WEBP", "TIFF")
EXIFTOOL = ("HEIF", "AVIF", "GIF")
FOREIGN_XMP = (
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF'
    ' xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '<rdf:Description rdf:about="" xmlns:own="https://a.example/ns/" own:score="0.5"'
    ' xmlns:lr="http://ns.adobe.com/lightroom/1.0/" xmlns:dc="http://purl.org/dc/elements/1.1/">'
    "<lr:hierarchicalSubject><rdf:Bag><rdf:li>pets|dog</rdf:li></rdf:Bag></lr:hierarchicalSubject>"
    "<own:faces><rdf:Seq><rdf:li rdf:parseType='Resource'><own:name>Zoë</own:name></rdf:li>"
    "</rdf:Seq></own:faces>{}</rdf:Description></rdf:RDF></x:xmpmeta>"
)
TRAILER = b"\0\0\0\x18ftypmp42 a film behind the photo"


def pixels_of(content):
    with Image.open(io.BytesIO(content)) as image:
        return np.asarray(image.convert("RGB"))


def make(kind, **more):
    coarse = np.random.default_rng(3).integers(0, 256, (9, 12, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(coarse).resize((96, 72)).save(file, kind, **more)
    return file.getvalue()


def need(name):
    if shutil.which(name) is None:
        pytest.skip(f"needs {name}")


def exiftool(content, *args):
    """What exiftool says about a photo: by group and tag, bytes as base64."""
    need("exiftool")
    command = ["exiftool", "-json", "-G1", "-a", "-b", "-n", *args, "-"]
    done = subprocess.run(command, input=content, capture_output=True, check=True)
    (said,) = json.loads(done.stdout)
    return {k: v for k, v in said.items() if not k.startswith(("ExifTool:", "System:", "Source"))}


def with_tags(content, *args):
    need("exiftool")
    command = ["exiftool", "-q", "-m", *args, "-o", "-", "-"]
    return subprocess.run(command, input=content, capture_output=True, check=True).stdout


@pytest.fixture(scope="module")
def rich():
    """A JPEG with all sorts of metadata, and bytes behind its end."""
    exif = Image.Exif()
    exif[0x010F] = "A maker"
    exif[0x0112] = 6
    exif.get_ifd(0x8769)[0x927C] = b"MAKER\0" + bytes(range(256)) * 4  # of a maker nobody knows
    exif.get_ifd(0x8769)[0x9286] = b"ASCII\0\0\0a comment of mine"
    exif.get_ifd(0x8825)[1] = "N"
    exif.get_ifd(0x8825)[2] = (47.0, 22.0, 12.5)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    content = make("JPEG", exif=exif, icc_profile=profile, comment="by hand", quality=90)
    with metadata.pyexiv2.ImageData(content) as image:
        image.modify_iptc(
            {"Iptc.Application2.Keywords": ["dog", "pet"], "Iptc.Application2.City": "Zürich"},
            encoding="latin-1",
        )
        image.modify_thumbnail(make("JPEG", quality=10))
        image.modify_raw_xmp(FOREIGN_XMP.format(""))
        content = image.get_bytes()
    return content + TRAILER


@pytest.mark.parametrize("kind", EXIV2 + EXIFTOOL)
def test_every_format_that_can_hold_a_caption(kind):
    if kind in EXIFTOOL:
        need("exiftool")
    before = make(kind)
    assert metadata.caption_of(before) == ""
    after = metadata.with_caption(before, "a dog & a cat")
    assert metadata.caption_of(after) == "a dog & a cat"
    assert metadata.caption_of(metadata.with_caption(after, "another")) == "another"
    np.testing.assert_array_equal(pixels_of(after), pixels_of(before))
    said = exiftool(after)
    assert said["XMP-dc:Description"] == "a dog & a cat"
    if kind != "GIF":
        assert said["IFD0:ImageDescription"] == "a dog & a cat"
    if kind in ("JPEG", "PNG", "TIFF"):
        assert said["IPTC:Caption-Abstract"] == "a dog & a cat"


@pytest.mark.parametrize("kind", EXIV2)
def test_exiv2_reads_it(kind, tmp_path):
    need("exiv2")
    file = tmp_path / "a"
    file.write_bytes(metadata.with_caption(make(kind), "a dog é"))
    shown = subprocess.run(
        ["exiv2", "-PEXkv", file], capture_output=True, check=True, encoding="utf-8"
    ).stdout
    assert 'lang="x-default" a dog é' in shown
    assert shown.count("a dog é") == 2


def test_everything_else_stays(rich):
    after = metadata.with_caption(rich, "a dog in the grass")
    scan = rich.rindex(b"\xff\xc0")  # the frame and its pixels
    assert after.endswith(rich[scan:])
    ours = {
        "XMP-dc:Description",
        "IFD0:ImageDescription",
        "IPTC:Caption-Abstract",
        "File:CurrentIPTCDigest",
        "IFD1:ThumbnailOffset",
    }
    before = exiftool(rich)
    changed = {k for k, v in exiftool(after).items() if before.get(k) != v}
    assert changed | {"IFD1:ThumbnailOffset"} == ours
    assert set(before) <= set(exiftool(after))
    faces = [exiftool(one, "-struct", "-XMP-own:all") for one in (rich, after)]
    assert faces[0] == faces[1]
    assert "Zoë" in str(faces)


def test_what_exiv2_would_lose_is_a_matter_for_exiftool(monkeypatch):
    need("exiftool")
    packet = FOREIGN_XMP.format("<dc:source>a dog&#x27;s life</dc:source>").encode()
    with Image.open(io.BytesIO(make("JPEG"))) as image:
        file = io.BytesIO()
        image.save(file, "JPEG", quality="keep", xmp=packet)
    after = metadata.with_caption(file.getvalue(), "the dog's hat")
    said = exiftool(after)
    assert said["XMP-dc:Source"] == "a dog's life"
    assert said["XMP-dc:Description"] == metadata.caption_of(after) == "the dog's hat"
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ImageError, match="only exiftool"):
        metadata.with_caption(file.getvalue(), "a dog")


def test_it_is_idempotent(rich):
    once = metadata.with_caption(rich, "a dog")
    assert metadata.with_caption(once, "a dog") == once


@pytest.mark.parametrize(
    ("kind", "tag"),
    [
        (kind, tag)
        for kind in ("JPEG", "PNG", "HEIF")
        for tag in ("XMP-dc:Description", "IPTC:Caption-Abstract", "EXIF:ImageDescription")
        if (kind, tag) != ("HEIF", "IPTC:Caption-Abstract")  # HEIC has no IPTC
    ],
)
def test_a_caption_is_read_wherever_it_stands(kind, tag):
    assert metadata.caption_of(with_tags(make(kind), f"-{tag}=my dog")) == "my dog"


@pytest.mark.parametrize("name", ["OLYMPUS DIGITAL CAMERA         ", "SONY DSC", "   "])
def test_the_name_of_a_camera_is_no_caption(name):
    exif = Image.Exif()
    exif[0x010E] = name
    assert metadata.caption_of(make("JPEG", exif=exif)) == ""


def test_other_languages_stay():
    german = '<rdf:Alt><rdf:li xml:lang="de">ein Hund</rdf:li></rdf:Alt>'
    with metadata.pyexiv2.ImageData(make("JPEG")) as image:
        image.modify_raw_xmp(FOREIGN_XMP.format(f"<dc:description>{german}</dc:description>"))
        content = image.get_bytes()
    said = exiftool(metadata.with_caption(content, "a dog"))
    assert (said["XMP-dc:Description"], said["XMP-dc:Description-de"]) == ("a dog", "ein Hund")


class TestIptc:
    """Its encoding is that of all its texts, so one of our own must not change theirs."""

    def read(self, content):
        with metadata.pyexiv2.ImageData(content) as image:
            return image.read_iptc("latin-1")

    def test_a_new_one_is_utf8(self):
        content = metadata.with_caption(make("JPEG"), "ein Hund, schön")
        assert exiftool(content)["IPTC:Caption-Abstract"] == "ein Hund, schön"
        assert exiftool(content)["IPTC:CodedCharacterSet"] == "\x1b%G"

    def test_one_in_another_encoding_is_left_alone(self, rich):
        content = metadata.with_caption(rich, "schön")
        assert self.read(content) == self.read(rich)
        assert exiftool(content)["XMP-dc:Description"] == "schön"


@given(
    st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=60).filter(
        lambda text: xmp.one_line(text) and xmp.one_line(text).upper() not in metadata._OF_CAMERAS
    ),
    st.sampled_from(EXIV2),
)
@settings(max_examples=150)
def test_any_text_comes_back_as_one_line(text, kind):
    content = metadata.with_caption(make(kind), text)
    assert metadata.caption_of(content) == xmp.one_line(text)


@given(
    st.sampled_from(EXIV2),
    st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 255)), min_size=1, max_size=12),
    st.integers(0, 4000),
)
@example("PNG", [(12, 0)], 0)
@settings(max_examples=300)
def test_damaged_photos_are_refused_or_written(kind, changes, cut):
    content = bytearray(metadata.with_caption(make(kind), "a cat"))
    for place, value in changes:
        content[place % len(content)] = value
    with_caption = bytes(content[: -(cut % len(content)) or None])
    try:
        made = metadata.with_caption(with_caption, "a dog")
    except ValueError:
        return
    assert metadata.caption_of(made) == "a dog"


def test_what_holds_no_metadata_is_refused(monkeypatch):
    with pytest.raises(ValueError, match="Failed to read input data"):
        metadata.with_caption(b"no photo", "a dog")
    need("exiftool")
    with pytest.raises(ValueError, match="exiftool says: Error: Writing of"):
        metadata.with_caption(make("BMP"), "a dog")
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ImageError) as error:
        metadata.with_caption(make("HEIF"), "a dog")
    assert "install exiftool" in error.value.hint


class TestCommand:
    @pytest.fixture
    def caption(self, caption):
        return lambda *args: caption(*args, "--write-metadata")

    def test_captions_go_into_the_photos(self, caption, photos):
        done = caption(photos, "--sidecar", "xmp")
        assert done.code == 0
        for line in done.out.splitlines():
            path, _, said = line.partition("\t")
            assert metadata.caption_of(Path(path).read_bytes()) == said
            assert xmp.caption_of(Path(f"{path}.xmp").read_bytes()) == said
        assert "3 of 3 images are done" in caption(photos, "--resume").err

    def test_a_person_has_the_last_word_unless_asked(self, caption, photos):
        photo = photos / "b.jpg"
        photo.write_bytes(metadata.with_caption(photo.read_bytes(), "my dog"))
        before = photo.read_bytes()
        done = caption(photos)
        assert done.code == 0
        assert "1 photos keep the caption that they have (--overwrite replaces it)" in done.err
        assert photo.read_bytes() == before
        said = caption(photo, "--overwrite").out.partition("\t")[2].strip()
        assert metadata.caption_of(photo.read_bytes()) == said != "my dog"

    @pytest.mark.parametrize("keep", [True, False])
    def test_times_and_modes(self, caption, photos, keep):
        photo = photos / "b.jpg"
        photo.chmod(0o640)
        os.utime(photo, ns=(10**18, 10**18 + 7))
        assert caption(photo, *(["--keep-mtime"] if keep else [])).code == 0
        assert metadata.caption_of(photo.read_bytes())
        assert (photo.stat().st_mtime_ns == 10**18 + 7) is keep
        assert photo.stat().st_mode & 0o777 == 0o640
        assert sorted(os.listdir(photos)) == ["a.png", "b.jpg", "c.png"]

    @pytest.mark.skipif(os.name != "posix", reason="links need rights on Windows")
    def test_a_link_leads_to_no_other_photo(self, caption, photos, tmp_path):
        """In a stranger's folder, it may lead to any photo of the user."""
        before = (photos / "b.jpg").read_bytes()
        (tmp_path / "in").mkdir()
        (tmp_path / "in" / "link.jpg").symlink_to(photos / "b.jpg")
        done = caption(tmp_path / "in", "--overwrite")
        assert done.code == 1
        assert "link.jpg is a link, which may lead anywhere\n" in done.err
        assert (photos / "b.jpg").read_bytes() == before
        assert (tmp_path / "in" / "link.jpg").is_symlink()

    @pytest.mark.skipif(os.name != "posix", reason="there are no pipes on Windows")
    def test_what_is_no_photo_is_not_waited_for(self, caption, photos):
        os.mkfifo(photos / "pipe.jpg")
        (photos / "zero.jpg").symlink_to("/dev/zero")
        for options in (["--resume"], []):
            done = caption(photos, *options)
            assert done.code == 1
            assert "2 failed" in done.err

    def test_a_photo_of_gigabytes_is_not_read_whole(self, caption, photos):
        os.truncate(photos / "b.jpg", 2**36)
        done = caption(photos / "b.jpg")
        assert done.code == 1
        assert "b.jpg is larger than 256 MiB" in done.err

    def test_a_photo_that_takes_none_fails_alone(self, caption, photos):
        (photos / "d.bmp").write_bytes(make("BMP"))
        done = caption(photos)
        assert done.code == 1
        assert "3 captioned, 1 failed" in done.err
        assert "d.bmp cannot be written" in done.err
        assert (photos / "d.bmp").read_bytes() == make("BMP")

    def test_a_full_disk_leaves_the_photo(self, caption, photos, monkeypatch):
        def full(*_):
            raise OSError(28, "No space left on device")

        before = {path: path.read_bytes() for path in photos.iterdir()}
        monkeypatch.setattr(os, "fsync", full)
        done = caption(photos)
        assert done.code == 1
        assert done.err.count("No space left on device") == 3
        assert {path: path.read_bytes() for path in photos.iterdir()} == before

    def test_an_edit_meanwhile_is_not_undone(self, caption, photos, monkeypatch):
        photo = photos / "b.jpg"
        put = metadata.with_caption

        def slowly(content, text):
            photo.write_bytes(content + b"an edit")
            return put(content, text)

        monkeypatch.setattr(metadata, "with_caption", slowly)
        done = caption(photo)
        assert done.code == 1
        assert "somebody changes it" in done.err
        assert photo.read_bytes().endswith(b"an edit")

    def test_keep_mtime_is_for_metadata(self, mrnn, photos):
        assert mrnn("caption", photos, "--keep-mtime").code == 2

    def test_without_the_package_it_says_what_to_install(self, caption, photos, monkeypatch):
        monkeypatch.setitem(sys.modules, "mrnn_photos.metadata", None)
        done = caption(photos)
        assert done.code == 3
        assert "hint: pip install mrnn-photos" in done.err
        assert done.out == ""


WRITER = """
import sys
from pathlib import Path
from mrnn_photos import metadata
from mrnn_runtime.bundle.atomic import replace_file
photo = Path(sys.argv[1])
for number in range(10_000):
    content = metadata.with_caption(photo.read_bytes(), f"caption {number} " + "x" * (number % 50))
    replace_file(photo, content, through=True, keep_mtime=True)
    print(number, flush=True)
"""


@pytest.mark.slow
def test_whoever_is_killed_leaves_a_whole_photo(tmp_path, rich):
    photo = tmp_path / "a.jpg"
    photo.write_bytes(rich)
    pixels = pixels_of(rich)
    for kill in range(6):
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, photo], stdout=subprocess.PIPE, text=True
        ) as process:
            numbers = [process.stdout.readline() for _ in range(1 + 7 * kill)]
            process.kill()
        assert all(numbers)
        content = photo.read_bytes()
        assert metadata.caption_of(content).startswith("caption ")
        assert content.endswith(TRAILER)
        np.testing.assert_array_equal(pixels_of(content), pixels)


class Folder:
    """A folder that a test changes between two ticks, and the seconds that pass meanwhile."""

    def __init__(self, path):
        self.path = path
        self.now = 0.0
        self.changed = False
        self.captioned = set()
        self.looks = 0
        self._rounds = whole_ones(self.look, self._ticks(), clock=lambda: self.now)

    def look(self):
        self.looks += 1
        return [one for one in sorted(self.path.iterdir()) if one.name not in self.captioned]

    def _ticks(self):
        while True:
            yield self.changed
            self.changed = False
            self.now += 1.0

    def next(self):
        """The photos that come next, and when."""
        return [one.name for one in next(self._rounds)], self.now


class TestWholeOnes:
    @pytest.fixture
    def folder(self, tmp_path):
        return Folder(tmp_path)

    def test_what_is_there_comes_when_it_has_settled(self, folder):
        (folder.path / "a.jpg").write_bytes(b"1")
        (folder.path / "b.jpg").write_bytes(b"1")
        assert folder.next() == (["a.jpg", "b.jpg"], 2.0)

    def test_what_grows_is_waited_for(self, folder, tmp_path):
        (tmp_path / "a.jpg").write_bytes(b"1")
        (tmp_path / "b.jpg").write_bytes(b"1")
        look = folder.look

        def grow():
            if folder.now < 5:
                with (tmp_path / "b.jpg").open("ab") as file:
                    file.write(b"more")
            return look()

        folder.look = grow
        rounds = whole_ones(grow, folder._ticks(), clock=lambda: folder.now)
        assert [one.name for one in next(rounds)] == ["a.jpg"]
        folder.captioned.add("a.jpg")
        assert [one.name for one in next(rounds)] == ["b.jpg"]
        assert folder.now == 6.0  # it grew at 4.0 for the last time

    def test_one_that_failed_comes_again_when_it_has_changed(self, folder):
        (folder.path / "a.jpg").write_bytes(b"half")
        assert folder.next()[0] == ["a.jpg"]
        (folder.path / "b.jpg").write_bytes(b"1")
        folder.changed = True
        assert folder.next()[0] == ["b.jpg"]
        folder.captioned.add("b.jpg")
        (folder.path / "a.jpg").write_bytes(b"whole")
        folder.changed = True
        assert folder.next()[0] == ["a.jpg"]

    def test_one_that_vanishes_is_forgotten(self, folder):
        (folder.path / "a.jpg").write_bytes(b"1")
        (folder.path / "b.jpg").symlink_to("nowhere")
        assert folder.next()[0] == ["a.jpg"]

    def test_while_nothing_happens_a_folder_is_looked_at_once_a_minute(self, folder):
        ticks = (False for _ in range(601))
        rounds = whole_ones(folder.look, ticks, clock=lambda: folder._tick())
        folder._tick = lambda: setattr(folder, "now", folder.now + 1) or folder.now
        assert list(rounds) == []
        assert folder.looks == 11


def test_a_caption_that_could_not_be_written_is_waited_for(caption, photos, monkeypatch):
    rounds = []

    def arrivals(folders, look):
        for _ in range(3):
            rounds.append([one.name for one in look()])
            yield look()
            if (photos / "b.jpg.xmp").is_dir():
                (photos / "b.jpg.xmp").rmdir()

    (photos / "b.jpg.xmp").mkdir()
    monkeypatch.setattr(watching, "arrivals", arrivals)
    assert caption("--watch", photos, "--sidecar", "xmp").code == 1
    assert rounds == [["a.png", "b.jpg", "c.png"], ["b.jpg"], []]


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="SIGTERM stops a process at once on Windows")
def test_watching_survives_a_restart(photos, tmp_path, tiny_bundle):
    inbox, output = tmp_path / "inbox", tmp_path / "captions.jsonl"
    inbox.mkdir()
    command = [
        sys.executable,
        "-m",
        "mrnn_runtime",
        "caption",
        "--watch",
        inbox,
        "--write-metadata",
    ]
    options = ["--model", tiny_bundle, "--provider", "cpu", "--output", output]
    for number, name in enumerate(("a.png", "b.jpg", "c.png"), 1):
        with subprocess.Popen([*command, *options], stderr=subprocess.PIPE, text=True) as process:
            try:
                assert "watching" in process.stderr.readline()
                shutil.copy(photos / name, inbox / name)
                wait_for_lines(output, number, process)
                process.send_signal(signal.SIGTERM)
                assert process.wait(60) == 130
                assert "stopped after 1 images" in process.stderr.read()
            finally:
                process.kill()
        records = [json.loads(line) for line in output.read_text().splitlines()]
        assert [Path(one["path"]).name for one in records] == ["a.png", "b.jpg", "c.png"][:number]
    for record in records:
        assert metadata.caption_of(Path(record["path"]).read_bytes()) == record["caption"]


def wait_for_lines(file, count, process):
    """Wait until a file has so many whole lines, a minute at most."""
    for _ in range(6000):
        if file.exists() and file.read_text().count("\n") >= count:
            return
        assert process.poll() is None, process.stderr.read()
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.01)
    raise AssertionError(f"{file} has no {count} lines")


@pytest.mark.parametrize("what", ["file", "nothing", "stdin", "report"])
def test_only_folders_are_watched(mrnn, photos, what):
    path = {"file": photos / "b.jpg", "nothing": photos / "no", "stdin": "-"}.get(what, photos)
    more = ["--report", photos / "a.html"] if what == "report" else []
    assert mrnn("caption", "--watch", path, *more).code == 2


@pytest.mark.parametrize("kind", ["text", "pipe"])
def test_an_output_that_watching_cannot_go_on_with(mrnn, photos, tmp_path, kind):
    output = tmp_path / ("c.txt" if kind == "text" else "c.jsonl")
    if kind == "pipe":
        os.mkfifo(output)
    result = mrnn("caption", "--watch", photos, "--output", output, "--model", tmp_path)
    assert result.code == 2  # before the model, which is none, is loaded
    assert "--watch" in result.err
    assert "--resume" not in result.err


def test_optional_names_the_package():
    with pytest.raises(extensions.PluginError) as error:
        extensions.optional("mrnn_nothing_of_ours.part")
    assert error.value.hint == "pip install mrnn-nothing-of-ours"


def test_new_files_are_not_kept_back_for_the_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", None)  # only what replaces a file has to be there first
    replace_file(tmp_path / "a.txt", b"a")
    assert (tmp_path / "a.txt").read_bytes() == b"a"
