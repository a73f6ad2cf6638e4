"""What the tests of several packages share: the tiny bundle of ``mrnn_runtime.testing``.

Here is how it was made, and its variants are. The folder ``mrnn_runtime/testing/tiny`` is what
``make_tiny_bundle()`` returns; a test compares the two.
"""

import shutil

import numpy as np
import pytest
from hypothesis import settings
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from mrnn_runtime import testing
from mrnn_runtime.bundle.loading import load_bundle, write_manifest
from mrnn_runtime.engine.golden import GOLDEN, record_golden
from mrnn_runtime.engine.model import load_model

SIDE = 16
SPECIALS = ("<pad>", "<bos>", "<eos>", "<unk>")
WORDS = ("a", "man", "dog", "hat", "runs", "on", "grass", "'s")
VOCABULARY = len(SPECIALS) + len(WORDS)

ENCODER = """
<ir_version: 10, opset_import: ["": 17]>
encoder (uint8[n, 16, 16, 3] image)
    => (float[n, 6] image_term, float[n, 8] reference_feature, float[n, 4] first_memory)
{
    pixels = Cast <to = 1> (image)
    flat = Reshape (pixels, flat_shape)
    centred = Sub (flat, half)
    feature = MatMul (centred, w_feature)
    reference_feature = Tanh (feature)
    image_term = MatMul (reference_feature, v_image)
    first_memory = MatMul (reference_feature, w_memory)
}
"""
CELL = """
<ir_version: 10, opset_import: ["": 17]>
cell (int64[r] token, float[r, 6] image_term, float[r, 5] state, int64[1] k)
    => (float[r, 12] log_probs, float[r, best] best_values, int64[r, best] best_ids,
        float[r, 5] next_state)
{
    word = Gather (word_table, token)
    before = MatMul (state, u_state)
    input = Add (word, before)
    next_state = Relu (input)
    word_term = Gather (multimodal_table, token)
    state_term = MatMul (next_state, v_state)
    sum = Sum (word_term, state_term, image_term)
    multimodal = Tanh (sum)
    products = MatMul (multimodal, v_output)
    logits = Add (products, bias)
    log_probs = LogSoftmax <axis = 1> (logits)
    best_values, best_ids = TopK (log_probs, k)
}
"""
# The cell above its recurrence, for each pair of a prefix and an image.
READOUT = """
<ir_version: 10, opset_import: ["": 17]>
readout (int64[t] token, float[t, 5] state, float[n, 6] image_term)
    => (float[t, n, 12] log_probs)
{
    word_term = Gather (multimodal_table, token)
    state_term = MatMul (state, v_state)
    language = Add (word_term, state_term)
    spread = Unsqueeze (language, second_axis)
    sum = Add (spread, image_term)
    multimodal = Tanh (sum)
    products = MatMul (multimodal, v_output)
    logits = Add (products, bias)
    log_probs = LogSoftmax <axis = 2> (logits)
}
"""
# A second state, which starts from the image: as a stacked or a gated cell might have it.
MEMORY_CELL = (
    CELL.replace("float[r, 5] state,", "float[r, 5] state, float[r, 4] memory,")
    .replace("float[r, 5] next_state)", "float[r, 5] next_state, float[r, 4] next_memory)")
    .replace("image_term)\n    multi", "image_term, memory_term)\n    multi")
    .replace(
        "    sum = ",
        """    faded = MatMul (memory, u_memory)
    next_memory = Tanh (faded)
    memory_term = MatMul (next_memory, v_memory)
    sum = """,
    )
)

# How long an example takes says something about the machine only.
settings.register_profile("mrnn", deadline=None)
settings.load_profile("mrnn")


@pytest.fixture(scope="session", autouse=True)
def _caches(tmp_path_factory):
    """Keep what is cached apart from what the user has there, and leave the user's options out."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MRNN_CONFIG", "")
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("caches")))
        yield


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory):
    """The folder of a bundle that loads. All tests share it: leave it as it is."""
    return testing.tiny_bundle(tmp_path_factory.mktemp("tiny") / "bundle")


@pytest.fixture
def tiny_copy(tiny_bundle, tmp_path):
    """A copy of the tiny bundle, for one test to damage."""
    return shutil.copytree(tiny_bundle, tmp_path / "bundle")


@pytest.fixture(scope="session")
def make_tiny_bundle(tmp_path_factory):
    """Write a tiny bundle: ``make_tiny_bundle(...) -> folder``.

    seed: of the weights.
    memory: whether the cell has a second state, which starts from the image instead of from zeros.
    tied: whether the last two words always score alike.
    readout: whether the upper half of the cell is there as a graph of its own.
    """

    def make(*, seed=0, memory=False, tied=False, readout=False):
        folder = tmp_path_factory.mktemp("tiny") / "bundle"
        folder.mkdir()
        weights = make_weights(np.random.default_rng(seed), tied=tied)
        save_graph(ENCODER, weights, folder / "encoder.onnx")
        save_graph(MEMORY_CELL if memory else CELL, weights, folder / "cell.onnx", external=True)
        make_tokenizer().save(str(folder / "tokenizer.json"))
        (folder / "MODEL_CARD.md").write_text("# tiny\n\nRandom weights, for tests.\n")
        manifest = make_manifest(memory=memory)
        if readout:
            save_graph(READOUT, weights, folder / "readout.onnx")
            manifest["readout"] = make_readout()
        write_manifest(folder, manifest)
        encoder, model = load_model(load_bundle(folder), "cpu", threads=1)
        images = np.random.default_rng(1).integers(0, 256, (2, SIDE, SIDE, 3), np.uint8)
        tokens = np.array([[1, 1], [4, 4], [5, 6], [8, 8]])
        np.savez(folder / GOLDEN, **record_golden(encoder, model, images, tokens))
        write_manifest(folder, manifest)
        return folder

    return make


def make_weights(random, *, tied):
    def normal(*shape, scale=1.0):
        return (random.standard_normal(shape) * scale).astype(np.float32)

    weights = {
        "flat_shape": np.array([-1, SIDE * SIDE * 3]),
        "second_axis": np.array([1]),
        "half": np.float32([127.5]),
        "w_feature": normal(SIDE * SIDE * 3, 8, scale=1e-3),
        "v_image": normal(8, 6),
        "w_memory": normal(8, 4),
        "word_table": normal(VOCABULARY, 5),
        "u_state": normal(5, 5, scale=0.4),
        "multimodal_table": normal(VOCABULARY, 6),
        "v_state": normal(5, 6),
        "u_memory": normal(4, 4),
        "v_memory": normal(4, 6),
        "v_output": normal(6, VOCABULARY),
        "bias": normal(VOCABULARY),
    }
    if tied:
        weights["v_output"][:, -1] = weights["v_output"][:, -2]
        weights["bias"][-1] = weights["bias"][-2]
    return weights


def save_graph(text, weights, path, *, external=False):
    import onnx

    model = onnx.parser.parse_model(text)
    used = {name for node in model.graph.node for name in node.input}
    model.graph.initializer.extend(
        onnx.numpy_helper.from_array(array, name) for name, array in weights.items() if name in used
    )
    onnx.checker.check_model(model, full_check=True)
    if external:
        beside = f"{path.name}.data"
        onnx.save_model(model, path, save_as_external_data=True, location=beside, size_threshold=0)
    else:
        onnx.save_model(model, path)


def make_tokenizer():
    vocabulary = {word: i for i, word in enumerate((*SPECIALS, *WORDS))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"'s|\w+"), "removed", invert=True)
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.WordPiece(prefix="##", cleanup=False),
            decoders.Fuse(),
            decoders.Replace(" 's", "'s"),
        ]
    )
    tokenizer.add_special_tokens(list(SPECIALS))
    return tokenizer


def tensor(name, dtype, *shape):
    return {"name": name, "dtype": dtype, "shape": list(shape)}


def make_readout():
    return {
        "file": "readout.onnx",
        "inputs": [
            tensor("token", "int64", "t"),
            tensor("state", "float32", "t", 5),
            tensor("image_term", "float32", "n", 6),
        ],
        "outputs": [tensor("log_probs", "float32", "t", "n", VOCABULARY)],
    }


def make_manifest(*, memory):
    image_term = tensor("image_term", "float32", "n", 6)
    more = {
        "inputs": [tensor("memory", "float32", "r", 4)],
        "outputs": [tensor("next_memory", "float32", "r", 4)],
        "state": [{"input": "memory", "output": "next_memory", "init": "first_memory"}],
    }
    if not memory:
        more = {key: [] for key in more}
    return {
        "name": "tiny",
        "version": "1.0",
        "licence": "CC0-1.0",
        "summary": "random weights, for tests",
        "training": {"data": "none"},
        "precision": "fp32",
        "opset": 17,
        "preprocess": {
            "height": SIDE,
            "width": SIDE,
            "resize": "squash",
            "interpolation": "bilinear",
        },
        "encoder": {
            "file": "encoder.onnx",
            "inputs": [tensor("image", "uint8", "n", SIDE, SIDE, 3)],
            "outputs": [
                image_term,
                tensor("reference_feature", "float32", "n", 8),
                tensor("first_memory", "float32", "n", 4),
            ],
        },
        "cell": {
            "file": "cell.onnx",
            "inputs": [
                tensor("token", "int64", "r"),
                image_term,
                tensor("state", "float32", "r", 5),
                *more["inputs"],
                tensor("k", "int64", 1),
            ],
            "outputs": [
                tensor("log_probs", "float32", "r", VOCABULARY),
                tensor("best_values", "float32", "r", "k"),
                tensor("best_ids", "int64", "r", "k"),
                tensor("next_state", "float32", "r", 5),
                *more["outputs"],
            ],
        },
        "image_inputs": ["image_term"],
        "state": [{"input": "state", "output": "next_state", "init": "zeros"}, *more["state"]],
        "tokens": {"pad": 0, "bos": 1, "eos": 2, "unk": 3},
        "vocabulary_size": VOCABULARY,
        "decode": {
            "decoder": "beam",
            "options": {"beam_size": 3, "max_length": 8, "length_penalty": 0.0},
        },
        "rerank": {"reranker": None, "options": {}},
    }
