"""The caption in an XMP file: read, and put in without touching a byte of what else stands there.

XMP is RDF in XML (ISO 16684-1); a caption is ``dc:description``, whose language is ``x-default``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from xml.parsers import expat

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import NoReturn

MOST_BYTES = 16 << 20
_MOST_TAGS = 100_000
_RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
_DC = "http://purl.org/dc/elements/1.1/"
_LANGUAGE = "http://www.w3.org/XML/1998/namespace lang"
_DESCRIPTION = f"{_DC} description"
_START_TAG = re.compile(rb"""<([^\s/>]+)(?:\s+[^\s=]+\s*=\s*(?:"[^"]*"|'[^']*'))*\s*/?>""")
_NO_TEXT = re.compile("[^\t\n\r\x20-\x7e\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_EMPTY = b"""<?xpacket begin="\xef\xbb\xbf" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/">
 <rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
 </rdf:RDF>
</x:xmpmeta>
<?xpacket end="w"?>
"""


@dataclass(slots=True)
class _Element:
    """An element that matters, and where it stands in the bytes of the file."""

    name: str
    attributes: Mapping[str, str]
    start: int
    tag: bytes = b""  # its name as it is written
    close: int = 0  # where its end tag begins; of <a/> where it begins itself
    end: int = 0
    texts: list[str] = field(default_factory=list)
    children: list[_Element] = field(default_factory=list)


def caption_of(content: bytes) -> str:
    """Return the caption that an XMP file has, or the empty string.

    Raises:
        ValueError: it is no XMP in UTF-8, larger than MOST_BYTES, or declares a document type.
    """
    return _caption(_parse(content))


def with_caption(content: bytes, caption: str) -> bytes:
    """Return an XMP file with another caption; of an empty one, a new file.

    All bytes but those of the caption stay.

    Raises:
        ValueError: as for ``caption_of``, or the file says its caption in a way of its own.
    """
    content = content or _EMPTY
    wanted = one_line(caption)
    made = _put(content, _parse(content), _escape(wanted))
    if caption_of(made) != wanted:
        raise ValueError("its caption stands where it cannot be replaced")
    return made


def one_line(caption: str) -> str:
    """Return a caption without control characters, with single spaces between its words."""
    return " ".join(_NO_TEXT.sub(" ", caption).split())


def _put(content: bytes, rdf: _Element, caption: bytes) -> bytes:
    prefix = rdf.tag[: -len(b"RDF")]
    item = b'<%sli xml:lang="x-default">%s</%sli>' % (prefix, caption, prefix)
    described = _described(rdf)
    if described is None:
        return _add(content, rdf, prefix, item)
    alternatives = next((c for c in described.children if c.name == f"{_RDF} Alt"), None)
    if alternatives is None:  # simple text, which is not as the standard has it, or nothing
        parts = (described.tag, prefix, item, prefix, described.tag)
        whole = b"<%s><%sAlt>%s</%sAlt></%s>" % parts
        return content[: described.start] + whole + content[described.end :]
    default = _default(alternatives)
    if default is not None:
        return content[: default.start] + item + content[default.end :]
    if alternatives.close == alternatives.start:
        whole = b"<%sAlt>%s</%sAlt>" % (prefix, item, prefix)
        return content[: alternatives.start] + whole + content[alternatives.end :]
    first = alternatives.children[0].start if alternatives.children else alternatives.close
    return content[:first] + item + content[first:]


def _add(content: bytes, rdf: _Element, prefix: bytes, item: bytes) -> bytes:
    """Add one more description of what the others describe; XMP takes them as one."""
    about = next((c.attributes.get(f"{_RDF} about", "") for c in rdf.children), "")
    block = (
        b'<%(p)sDescription %(p)sabout="%(a)s" xmlns:dc="%(dc)s">\n'
        b"   <dc:description><%(p)sAlt>%(item)s</%(p)sAlt></dc:description>\n"
        b"  </%(p)sDescription>\n "
    ) % {b"p": prefix, b"a": _escape(about), b"dc": _DC.encode(), b"item": item}
    if rdf.close == rdf.start:
        start = content[rdf.start : rdf.end].rstrip(b">").rstrip(b"/")
        whole = start + b">" + block + b"</" + prefix + b"RDF>"
        return content[: rdf.start] + whole + content[rdf.end :]
    return content[: rdf.close] + b" " + block + content[rdf.close :]


def _escape(text: str) -> bytes:
    """Return text for XML, without references such as &#x27;, which Exiv2 reads as a space."""
    for sign, name in (("&", "amp"), ("<", "lt"), (">", "gt"), ('"', "quot")):
        text = text.replace(sign, f"&{name};")
    return text.encode()


def _caption(rdf: _Element) -> str:
    for description in rdf.children:
        if said := description.attributes.get(_DESCRIPTION, "").strip():
            return said
    described = _described(rdf)
    if described is None:
        return ""
    for alternatives in described.children:
        default = _default(alternatives)
        if default is not None:
            return "".join(default.texts).strip()
    return "".join(described.texts).strip()


def _described(rdf: _Element) -> _Element | None:
    return next(
        (child for node in rdf.children for child in node.children if child.name == _DESCRIPTION),
        None,
    )


def _default(alternatives: _Element) -> _Element | None:
    languages = {child.attributes.get(_LANGUAGE): child for child in alternatives.children}
    return languages.get("x-default")


def _parse(content: bytes) -> _Element:
    """Return rdf:RDF with its descriptions, their properties, and what those hold.

    Raises:
        ValueError: it is no XMP in UTF-8, larger than MOST_BYTES, or declares a document type.
    """
    if len(content) > MOST_BYTES:
        raise ValueError(f"it is larger than {MOST_BYTES >> 20} MB")
    content.decode("utf-8")
    # An element and an attribute of four bytes become objects of some hundred.
    if content.count(b"<") + content.count(b"=") > _MOST_TAGS:
        raise ValueError(f"it holds more than {_MOST_TAGS} tags and attributes")
    parser = expat.ParserCreate("utf-8", " ")
    parser.buffer_text = True
    open_elements: list[_Element] = []
    roots: list[_Element] = []

    def start(name: str, attributes: dict[str, str]) -> None:
        element = _Element(name, attributes, parser.CurrentByteIndex)
        if open_elements:
            open_elements[-1].children.append(element)
        if name == f"{_RDF} RDF":
            roots.append(element)
        open_elements.append(element)

    def end(_: str) -> None:
        element = open_elements.pop()
        tag = _START_TAG.match(content, element.start)
        if tag is None:
            raise ValueError("it is not UTF-8")
        element.tag = tag[1]
        is_empty = tag[0].endswith(b"/>")
        element.close = element.start if is_empty else parser.CurrentByteIndex
        element.end = tag.end() if is_empty else content.index(b">", element.close) + 1

    def text(data: str) -> None:
        open_elements[-1].texts.append(data)

    def refuse(*_: object) -> NoReturn:
        raise ValueError("it declares a document type, which XMP does not")

    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.CharacterDataHandler = text
    parser.StartDoctypeDeclHandler = refuse
    try:
        parser.Parse(content, True)
    except expat.ExpatError as error:
        raise ValueError(f"it is no XML: {error}") from error
    if len(roots) != 1:
        raise ValueError("it is no XMP: it needs one rdf:RDF")
    return roots[0]
