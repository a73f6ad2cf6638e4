"""Models of one operator that the checks take, with odd attributes, shapes and numbers.

ONNX Runtime's own checks stand between such a model and its native code. Whatever it makes of one,
the process must live.
"""

import numpy as np
from onnx import defs, helper, numpy_helper

from mrnn_runtime.engine.safety import OPERATORS

OPSETS = (11, 17, 21, 23, 24)
SIZES = (0, 1, 1, 2, 2, 3, 4, 7)
WHOLE = (0, 1, 2, 3, 4, -1, -2, 5, 64, 2**31 - 1, -(2**31), 2**40, 2**63 - 1, -(2**63))
REAL = (0.0, 1.0, -1.0, 0.5, 1e-30, 1e30, float("nan"), float("inf"), -float("inf"))
TEXTS = (
    *("", "x", "SAME_UPPER", "VALID", "NOTSET", "reflect", "edge", "wrap", "linear", "cubic"),
    *("nearest", "bidirectional", "reverse", "add", "max", "LEFT", "floor", "DCR", "tanh"),
    *("ij,jk->ik", "ii->i", "...i,...i", "i,i,i,i->", "ij->ji", "a,b->", "->", "i-", "Relu"),
)
DTYPES = {
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(float16)": np.float16,
    "tensor(int8)": np.int8,
    "tensor(uint8)": np.uint8,
    "tensor(int32)": np.int32,
    "tensor(int64)": np.int64,
    "tensor(bool)": np.bool_,
}


def random_model(random):
    """Return a model of one operator, and what it is fed with."""
    name = random.choice(sorted(op.decode() for op in OPERATORS))
    opset = random.choice(OPSETS)
    try:
        schema = defs.get_schema(name, opset)
    except defs.SchemaError:  # it is newer
        opset = OPSETS[-1]
        schema = defs.get_schema(name, opset)
    kinds = {
        one.type_param_str: random.choice([t for t in one.allowed_type_strs if t in DTYPES] or [""])
        for one in schema.type_constraints
    }
    like = _shape(random)
    names, feeds, constants = [], {}, []
    for place, formal in enumerate(_inputs(schema, random)):
        kind = kinds.get(formal.type_str, formal.type_str)
        array = _array(DTYPES.get(kind, np.float32), random, like)
        names.append(f"x{place}")
        if random.random() < 0.5:
            constants.append(numpy_helper.from_array(array, names[-1]))
        else:
            feeds[names[-1]] = array
    attributes = {
        one: value
        for one, schema_of in schema.attributes.items()
        if (schema_of.required or random.random() < 0.4)
        and (value := _attribute(schema_of.type, random)) is not None
    }
    outputs = [f"y{i}" for i in range(max(1, random.randint(schema.min_output, 3)))]
    outputs = outputs[: schema.max_output]
    node = helper.make_node(name, names, outputs, **attributes)
    graph = helper.make_graph(
        [node],
        "g",
        [_value(one, array) for one, array in feeds.items()],
        [helper.make_empty_tensor_value_info(one) for one in outputs],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    return model.SerializeToString(), feeds, f"{name} {opset} {attributes}"


def _inputs(schema, random):
    formals = list(schema.inputs)
    count = random.randint(schema.min_input, max(schema.min_input, min(schema.max_input, 6)))
    return [formals[min(i, len(formals) - 1)] for i in range(count)] if formals else []


def _shape(random):
    return [random.choice(SIZES) for _ in range(random.randint(0, 5))]


def _array(dtype, random, like):
    shape = like if random.random() < 0.5 else _shape(random)
    if random.random() < 0.15:  # sizes, axes, numbers of rows
        shape = random.choice(([], [1], [2], [len(like)], [2 * len(like)]))
    size = int(np.prod(shape))
    with np.errstate(all="ignore"):
        if np.dtype(dtype).kind == "f":
            numbers = [random.choice(REAL) for _ in range(size)]
            return np.array(numbers, np.float64).astype(dtype).reshape(shape)
        if random.random() < 0.7:
            numbers = [random.randint(-1, 4) for _ in range(size)]
        else:
            numbers = [random.choice(WHOLE) for _ in range(size)]
        return np.array(numbers, np.int64).astype(dtype).reshape(shape)


def _attribute(kind, random):
    count = random.randint(0, 5)
    match kind.name:
        case "INT":
            return random.choice(WHOLE)
        case "FLOAT":
            return random.choice(REAL)
        case "STRING":
            return random.choice(TEXTS)
        case "INTS":
            return [random.choice(WHOLE) for _ in range(count)] or None
        case "FLOATS":
            return [random.choice(REAL) for _ in range(count)] or None
        case "STRINGS":
            return [random.choice(TEXTS) for _ in range(count)] or None
        case "TENSOR":
            dtype = random.choice(list(DTYPES.values()))
            return numpy_helper.from_array(_array(dtype, random, [1]))
    return None


def _value(name, array):
    kind = helper.np_dtype_to_tensor_dtype(array.dtype)
    return helper.make_tensor_value_info(name, kind, [None] * array.ndim)
