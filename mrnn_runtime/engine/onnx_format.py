"""ONNX's protobuf format, read strictly: what is taken here means the same to every parser.

A protobuf message can be written in many ways, and two parsers may read an odd one differently. So
only one is taken: every number in its shortest form, no field that is not known, none twice that
may stand once, none of another type. A test compares what comes out with what protobuf reads. That
package itself is not used, since loading it made a first caption 4 to 9 % slower.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

    Message = Mapping[str, Any]

MOST_FIELDS = 200_000
MOST_LISTED = 2**22  # bytes of numbers in another form than as raw_data

# ONNX's messages, as far as graphs of bundles need them: number and type of each field, * where it
# is repeated, + where such a list may also be packed. int32 and int64 lie in a varint, float and
# double in 4 and 8 bytes. What is marked ! is refused by name, all else that is not here without.
_MESSAGES = {
    "Model": "ir_version 1 int64, producer_name 2 text, producer_version 3 text, domain 4 text,"
    " model_version 5 int64, doc_string 6 text, graph 7 Graph, opset_import 8 Opset*,"
    " metadata_props 14 Entry*, training_info 20 !, functions 25 !",
    "Opset": "domain 1 text, version 2 int64",
    "Entry": "key 1 text, value 2 text",
    "Graph": "node 1 Node*, name 2 text, initializer 5 Tensor*, doc_string 10 text,"
    " input 11 Value*, output 12 Value*, value_info 13 Value*, sparse_initializer 15 !,"
    " metadata_props 16 Entry*",
    "Node": "input 1 text*, output 2 text*, name 3 text, op_type 4 text, attribute 5 Attribute*,"
    " doc_string 6 text, domain 7 text, metadata_props 9 Entry*",
    "Attribute": "name 1 text, f 2 float, i 3 int64, s 4 text, t 5 Tensor, g 6 Graph,"
    " floats 7 float*, ints 8 int64*, strings 9 text*, graphs 11 !, doc_string 13 text,"
    " type 20 int32, sparse_tensor 22 !",
    "Tensor": "dims 1 int64*, data_type 2 int32, float_data 4 float+, int32_data 5 int32+,"
    " string_data 6 text*, int64_data 7 int64+, name 8 text, raw_data 9 raw,"
    " double_data 10 double+, uint64_data 11 int64+, doc_string 12 text, external_data 13 Entry*,"
    " data_location 14 int32, metadata_props 16 Entry*",
    "Value": "name 1 text, type 2 Type, doc_string 3 text, metadata_props 4 Entry*",
    "Type": "tensor_type 1 TensorType, denotation 6 text",
    "TensorType": "elem_type 1 int32, shape 2 Shape",
    "Shape": "dim 1 Dimension*",
    "Dimension": "dim_value 1 int64, dim_param 2 text, denotation 3 text",
}
_WIRE = {"int32": 0, "int64": 0, "double": 1, "float": 5}  # all else lies in a length and bytes
_SIZES = {1: 8, 5: 4}
# Of enumerations: protobuf takes other values for unknown fields.
_LARGEST = {"data_location": 1, "type": 14}
_REFUSED = {
    "functions": "functions of its own",
    "graphs": "a graph inside of a node",
    "sparse_initializer": "sparse weights",
    "sparse_tensor": "sparse weights",
    "training_info": "a training graph",
}


def read_model(data: bytes, *, flattened: bool = False) -> Message:
    """Read a model, strictly.

    Args:
        data: of an ONNX file.
        flattened: whether nodes may hold graphs, in which no node holds one.

    Returns:
        The fields by name: messages as such dicts, texts as bytes, whole numbers as int, raw_data
        and packed numbers as their place in the data, other numbers as None; repeated ones in
        lists.

    Raises:
        ValueError, IndexError: it is no ONNX model, or one that bundles may not have.
    """
    reader = _Reader(data, flattened)
    model = reader.message("Model", 0, len(data))
    if "graph" not in model:
        raise ValueError("it holds no graph")
    return model


class RefusedError(ValueError):
    """A model has something that no bundle needs."""


class _Field(NamedTuple):
    name: str
    kind: str
    wire: int
    repeated: bool


def _fields_of(text: str) -> dict[int, _Field]:
    """Return the fields of a message by their tag, which holds number and wire type."""
    fields = {}
    for part in text.split(", "):
        name, number, kind = part.split()
        repeated, packs, kind = kind[-1] in "*+", kind[-1] == "+", kind.rstrip("*+")
        wire = _WIRE.get(kind, 2)
        fields[int(number) << 3 | wire] = _Field(name, kind, wire, repeated)
        if packs:
            fields[int(number) << 3 | 2] = _Field(name, "packed", 2, repeated)
    return fields


_FIELDS = {name: _fields_of(text) for name, text in _MESSAGES.items()}


class _Reader:
    """Reads one model; counts what it holds."""

    __slots__ = ("_data", "_fields", "_graphs", "_listed")

    def __init__(self, data: bytes, flattened: bool) -> None:
        self._data = data
        self._fields = self._listed = 0
        self._graphs = 2 if flattened else 1  # inside of each other

    def message(self, name: str, at: int, end: int) -> Message:
        """Read the message that lies from ``at`` to ``end``."""
        data, fields = self._data, _FIELDS[name]
        values: dict[str, Any] = {}
        while at < end:
            tag, at = (data[at], at + 1) if data[at] < 128 else read_number(data, at)
            field = fields.get(tag)
            if field is None:
                raise RefusedError(
                    f"a field of {name} that is unknown or of another type (tag {tag})"
                )
            label, kind, wire, repeated = field
            if wire == 2:
                size, at = (data[at], at + 1) if data[at] < 128 else read_number(data, at)
                stop = at + size
                if stop > end:
                    raise ValueError("it is cut")
                value, at = self._part(label, kind, at, stop), stop
            elif wire == 0:
                value, at = read_number(data, at)
                if kind == "int32" and not repeated and value > _LARGEST.get(label, 2**31 - 1):
                    raise RefusedError(f"a {label} of {value}")
            else:
                value, at = None, at + _SIZES[wire]
            if repeated:
                values.setdefault(label, []).append(value)
            elif label in values:
                raise RefusedError(f"more than one {label} in one {name}")
            else:
                values[label] = value
            self._fields += 1
            if self._fields > MOST_FIELDS:
                raise RefusedError(f"more than {MOST_FIELDS} fields")
        if at != end:
            raise ValueError("it is cut")
        return values

    def _part(self, label: str, kind: str, at: int, stop: int) -> object:
        """Return a text, a message, or the place of numbers."""
        match kind:
            case "text":
                return _text(self._data[at:stop])
            case "raw":
                return at, stop
            case "packed":
                self._listed += stop - at
                if self._listed > MOST_LISTED:
                    raise RefusedError(
                        f"more than {MOST_LISTED >> 20} MB of numbers that are not raw"
                    )
                return at, stop
            case "!":
                raise RefusedError(_REFUSED[label])
            case "Graph":
                if not self._graphs:
                    raise RefusedError(_REFUSED["graphs"])
                self._graphs -= 1
                graph = self.message(kind, at, stop)
                self._graphs += 1
                return graph
        return self.message(kind, at, stop)


def _text(value: bytes) -> bytes:
    if not value.isascii():
        try:
            value.decode()
        except UnicodeDecodeError:  # ONNX Runtime takes it, and Python cannot say it
            raise RefusedError("a text that is not UTF-8") from None
    return value


def read_number(data: bytes, at: int) -> tuple[int, int]:
    """Return a number, seven bits a byte, and where it ends."""
    number = 0
    for shift in range(0, 70, 7):
        byte = data[at]
        at += 1
        number |= (byte & 127) << shift
        if byte < 128:
            if (shift and not byte) or number >> 64:
                raise RefusedError("a number that is not in its shortest form")
            return number, at
    raise RefusedError("a number of more than ten bytes")
