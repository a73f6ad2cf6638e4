"""XMP beside a photo: other programs read it, and what they wrote stays."""

import os
import re
import shutil
import subprocess
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mrnn_photos.xmp import MOST_BYTES, caption_of, with_caption

HEAD = (
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF'
    ' xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"'
    ' xmlns:dc="http://purl.org/dc/elements/1.1/" xmlns:xmp="http://ns.adobe.com/xap/1.0/">'
)
TAIL = "</rdf:RDF></x:xmpmeta>"
SUBJECTS = (
    "<dc:subject><rdf:Bag><rdf:li>dog</rdf:li><rdf:li>a &gt; b</rdf:li></rdf:Bag></dc:subject>"
)
# What stands where a caption may stand: nothing, other languages, ours, and odd ways to say it.
ALT = "<dc:description><rdf:Alt>{}</rdf:Alt></dc:description>"
DESCRIPTIONS = {
    "": "",
    "<dc:description/>": "",
    "<dc:description><rdf:Alt/></dc:description>": "",
    ALT.format(""): "",
    ALT.format("<rdf:li xml:lang='x-default'/>"): "",
    ALT.format('<rdf:li xml:lang="de">ein Hund</rdf:li>'): "",
    ALT.format('<rdf:li xml:lang="x-default">my &amp; dog</rdf:li>'): "my & dog",
    ALT.format("<rdf:li xml:lang='de'>ein</rdf:li><rdf:li xml:lang = 'x-default' >a</rdf:li>"): "a",
    "<dc:description>in a simple way</dc:description>": "in a simple way",
}
# Text that XML can hold, as one line.
CAPTIONS = (
    st.text(
        st.characters(
            codec="utf-8", exclude_categories=["Cc", "Cs"], exclude_characters="\ufffe\uffff"
        ),
        min_size=1,
        max_size=60,
    )
    .map(lambda text: " ".join(text.split()))
    .filter(bool)
)


def xmp(description, *, before="", after="", about="", packet=True):
    wrapped = f"{HEAD}{before}<rdf:Description rdf:about='{about}' xmp:Rating='4'>{SUBJECTS}"
    wrapped += f"{description}</rdf:Description>{after}{TAIL}"
    if packet:
        wrapped = f"<?xpacket begin='\ufeff' id='x'?>\n<!-- > -->{wrapped}<?xpacket end='w'?>"
    return wrapped.encode()


def facts(content):
    """All that an XMP file says but for its caption, as it is written."""
    root = ElementTree.fromstring(content)
    said = []
    for element in root.iter():
        if element.tag.endswith("}description"):
            for item in list(element.iter()):
                if item.get("{http://www.w3.org/XML/1998/namespace}lang") not in (
                    None,
                    "x-default",
                ):
                    said.append((item.tag, item.text, tuple(item.items())))
                item.clear()
        elif element.text and element.text.strip():
            said.append((element.tag, element.text))
        elif element.tag.endswith("}Description") and len(element.items()) > 1:
            said.append((element.tag, tuple(sorted(element.items()))))
    return said


@given(
    description=st.sampled_from(list(DESCRIPTIONS)),
    caption=CAPTIONS,
    before=st.sampled_from(["", "<rdf:Description rdf:about='' xmp:Label='a > b &lt; c'/>"]),
    after=st.sampled_from(["", "<rdf:Description><xmp:Nick>é</xmp:Nick></rdf:Description>"]),
    packet=st.booleans(),
)
@settings(max_examples=300, deadline=None)
def test_the_caption_is_put_in_and_all_else_stays(description, caption, before, after, packet):
    content = xmp(description, before=before, after=after, packet=packet)
    assert caption_of(content) == DESCRIPTIONS[description]
    made = with_caption(content, caption)
    assert caption_of(made) == caption
    assert facts(made) == facts(content)
    assert with_caption(made, caption) == made
    assert SUBJECTS.encode() in made
    assert (made[:20], made[-20:]) == (content[:20], content[-20:])


@given(CAPTIONS)
@settings(deadline=None)
def test_a_new_file_has_the_caption_only(caption):
    assert caption_of(with_caption(b"", caption)) == caption


@pytest.mark.parametrize(
    "rdf",
    [
        "<RDF xmlns='http://www.w3.org/1999/02/22-rdf-syntax-ns#'/>",
        "<RDF xmlns='http://www.w3.org/1999/02/22-rdf-syntax-ns#'></RDF>",
        "<r:RDF xmlns:r='http://www.w3.org/1999/02/22-rdf-syntax-ns#' a='>' />",
        "\ufeff<?xml version='1.0' encoding='UTF-8'?><r:RDF"
        " xmlns:r='http://www.w3.org/1999/02/22-rdf-syntax-ns#'\n></r:RDF\n>",
    ],
)
def test_empty_rdf_of_any_prefix(rdf):
    assert caption_of(with_caption(rdf.encode(), "a dog < a cat")) == "a dog < a cat"


@pytest.mark.parametrize("about", ["", "uuid:1&amp;2", 'a"b'])
def test_what_is_described_stays_one_thing(about):
    made = with_caption(xmp("", about=about), "a dog")
    names = re.findall(r"rdf:about=(?:'(.*?)'|\"(.*?)\")", made.decode())
    assert len(names) == 2
    assert len({"".join(name).replace("&quot;", '"') for name in names}) == 1


BOMB = "<!DOCTYPE x [<!ENTITY a 'aaaa'><!ENTITY b '&a;&a;'>]>"


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"no XML", "is no XML"),
        (b"<a/>", "is no XMP"),
        (b"\xff\xfe<\x00", "utf-8"),
        (xmp("").decode().encode("utf-16"), "utf-8"),
        (b"<?xml version='1.0' encoding='latin-1'?>\xe9", "utf-8"),
        (b"<a>" * 100_000, "is no XML"),
        ((BOMB + xmp("", packet=False).decode()).encode(), "document type"),
        ((BOMB + xmp("<dc:title>&b;</dc:title>", packet=False).decode()).encode(), "document type"),
        ((HEAD + HEAD + TAIL + TAIL).encode(), "one rdf:RDF"),
        (b" " * (MOST_BYTES + 1), "larger than"),
        # A few MB of either would take a gigabyte, or minutes.
        (xmp("x<a/>" * 100_000), "more than 100000 tags"),
        (
            xmp("<a {}/>".format(" ".join(f"a{i}=''" for i in range(100_000)))),
            "more than 100000 tags",
        ),
    ],
    ids=range(12),
)
def test_what_is_no_xmp_is_refused(content, complaint):
    for ask in (caption_of, lambda content: with_caption(content, "a dog")):
        with pytest.raises(ValueError, match=complaint):
            ask(content)


def test_a_caption_in_an_attribute_is_read_but_not_replaced():
    content = f"{HEAD}<rdf:Description rdf:about='' dc:description='mine'/>{TAIL}".encode()
    assert caption_of(content) == "mine"
    with pytest.raises(ValueError, match="cannot be replaced"):
        with_caption(content, "a dog")


class TestCommand:
    @pytest.fixture
    def photo(self, photos):
        return photos / "a.png"

    @pytest.fixture
    def beside(self, photo):
        return photo.with_name("a.png.xmp")

    def test_a_new_file_and_what_it_says(self, caption, photo, beside):
        said = caption(photo, "--sidecar", "xmp").out.rstrip("\n").split("\t")[1]
        assert caption_of(beside.read_bytes()) == said
        assert "1 of 1 images are done" in caption(photo, "--sidecar", "xmp", "--resume").err

    def test_a_caption_that_a_person_wrote_stays_unless_asked(self, caption, photo, beside):
        content = xmp(ALT.format('<rdf:li xml:lang="x-default">my dog</rdf:li>'))
        beside.write_bytes(content)
        result = caption(photo, "--sidecar", "xmp")
        assert (result.code, beside.read_bytes()) == (0, content)
        assert "1 photos keep the caption that they have (--overwrite replaces it)" in result.err
        result = caption(photo, "--sidecar", "xmp", "--overwrite")
        assert caption_of(beside.read_bytes()) == result.out.rstrip("\n").split("\t")[1]
        assert SUBJECTS.encode() in beside.read_bytes()

    def test_a_file_named_without_the_suffix_is_read_and_left_alone(self, caption, photo, beside):
        other = photo.with_suffix(".xmp")
        other.write_bytes(xmp(""))
        caption(photo, "--sidecar", "xmp")
        assert SUBJECTS.encode() in beside.read_bytes()
        assert other.read_bytes() == xmp("")
        beside.unlink()
        other.write_bytes(xmp("<dc:description>mine</dc:description>"))
        assert "1 photos keep" in caption(photo, "--sidecar", "xmp").err
        assert not beside.exists()

    def test_a_hostile_file_fails_one_photo(self, caption, photos, beside):
        content = (BOMB + xmp("", packet=False).decode()).encode()
        beside.write_bytes(content)
        result = caption(photos, "--sidecar", "xmp")
        assert result.code == 1
        assert "2 captioned, 1 failed" in result.err
        assert "document type" in result.err
        assert beside.read_bytes() == content

    def test_a_pipe_in_its_place_fails_one_photo(self, caption, photo, beside):
        os.mkfifo(beside)
        result = caption(photo, "--sidecar", "xmp")
        assert result.code == 1
        assert "is no ordinary file" in result.err

    @pytest.mark.parametrize("name", ["a.png.xmp", "a.xmp"])
    def test_a_link_brings_no_other_file_here(self, caption, photo, name):
        secret = photo.parent / "secret.xmp"
        secret.write_bytes(xmp("<dc:creator>a secret</dc:creator>"))
        link = photo.with_name(name)
        link.symlink_to(secret)
        result = caption(photo, "--sidecar", "xmp", "--overwrite")
        assert result.code == 1
        assert f"{name} is a link" in result.err
        assert {path.name for path in photo.parent.glob("a*")} == {"a.png", name}
        assert link.is_symlink()

    def test_overwrite_is_for_xmp(self, caption, photo):
        assert caption(photo, "--sidecar", "txt", "--overwrite").code == 2


def tool(name, *args):
    if shutil.which(name) is None:
        pytest.skip(f"needs {name}")
    done = subprocess.run([name, *map(str, args)], capture_output=True, text=True, check=True)
    return done.stdout.strip()


class TestOtherPrograms:
    """What they read of files that they wrote and we changed."""

    def test_exiftool(self, tmp_path):
        file = tmp_path / "a.jpg.xmp"
        tool(
            "exiftool", "-q", "-XMP:Subject=dog", "-XMP:Rating=3", "-XMP-dc:Title=é <b>", "-o", file
        )
        file.write_bytes(with_caption(file.read_bytes(), 'a dog & "cat" é 写'))
        shown = tool("exiftool", "-s3", "-XMP-dc:Description", "-XMP:Subject", "-XMP:Rating", file)
        assert shown.splitlines() == ['a dog & "cat" é 写', "dog", "3"]
        assert tool("exiftool", "-s3", "-XMP-dc:Title", file) == "é <b>"
        assert tool("exiftool", "-validate", "-warning", "-s3", file) in ("", "OK")
        tool("exiftool", "-q", "-overwrite_original", "-XMP-dc:Description=another", file)
        assert caption_of(file.read_bytes()) == "another"

    @pytest.mark.parametrize("description", DESCRIPTIONS)
    def test_exiv2(self, tmp_path, description):
        file = tmp_path / "a.xmp"
        file.write_bytes(with_caption(xmp(description), "the dog's hat & a cat é"))
        shown = tool("exiv2", "-K", "Xmp.dc.description", "-P", "v", file)
        assert 'lang="x-default" the dog\'s hat & a cat é' in shown
        assert tool("exiv2", "-K", "Xmp.xmp.Rating", "-P", "v", file) == "4"
        tool("exiv2", "-M", "set Xmp.dc.description lang=x-default another", file)
        assert caption_of(file.read_bytes()) == "another"

    def test_a_new_file(self, tmp_path):
        file = tmp_path / "a.xmp"
        file.write_bytes(with_caption(b"", "a dog"))
        assert tool("exiftool", "-s3", "-XMP-dc:Description", file) == "a dog"
        assert 'lang="x-default" a dog' in tool("exiv2", "-K", "Xmp.dc.description", "-Pv", file)
