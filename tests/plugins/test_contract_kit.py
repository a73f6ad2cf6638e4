"""The kit for plugin authors: who breaks a rule fails the check that is named for it."""

import json
import sys
from dataclasses import replace
from types import ModuleType

import numpy as np
import pytest

import mrnn_runtime.testing
from mrnn_devtools.checking import heavy_imports
from mrnn_devtools.testing import decoders, models, rerankers
from mrnn_runtime import Component, PluginError, UsageError, load_bundle
from mrnn_runtime.bundle.loading import write_manifest
from mrnn_runtime.decoding.beam import Beam
from mrnn_runtime.testing import Check, checks_for, plugin_checks


@pytest.fixture
def broken_rules(monkeypatch):
    """Run all checks of a target; return the names of those that fail."""

    def run(target, kind):
        module = ModuleType("broken_module")
        module.target = target
        monkeypatch.setitem(sys.modules, "broken_module", module)
        checks = checks_for(Component("broken", "broken_module:target", ""), kind)
        return {check.name.removeprefix("broken: ") for check in checks if fails(check)}

    return run


def fails(check):
    try:
        check.run()
    except Exception:
        return True
    return False


def named(rule):
    return rule.__name__.replace("_", " ")


def test_a_check_shows_its_name():
    (first, *_) = checks_for(Component("x", "mrnn_runtime.decoding.beam:Beam", ""), "decoders")
    assert str(first) == first.name == "x: it is a decoder"
    assert str(Check("name", print)) == "name"


class Changed:
    """Beam search with something done to its options before, or to its results after."""

    def __init__(self, before=lambda options: options, after=lambda row, images: row):
        self.before = before
        self.after = after
        self.calls = 0

    def decode(self, model, images, options):
        self.calls += 1
        decoded = Beam().decode(model, images, self.before(options))
        return [self.after(row, images) for row in decoded]


class Forgetful(Changed):
    def decode(self, model, images, options):
        return [row[: 1 + self.calls] for row in super().decode(model, images, options)]


class Strict(Changed):
    def decode(self, model, images, options):
        if not len(images):
            raise ValueError("no images")
        return super().decode(model, images, options)


class Vague(Changed):
    def decode(self, model, images, options):
        try:
            return super().decode(model, images, options)
        except UsageError as error:
            raise IndexError(str(error)) from error


def each(change):
    """Change every candidate."""
    return lambda row, images: [change(one) for one in row]


DECODERS = {
    decoders.it_is_a_decoder: object,
    decoders.every_image_gets_candidates: lambda: Changed(after=lambda row, images: []),
    decoders.the_best_candidate_comes_first: lambda: Changed(after=lambda row, images: row[::-1]),
    decoders.log_probabilities_are_the_models_own: lambda: Changed(
        after=each(lambda one: replace(one, log_prob=one.log_prob - 0.5))
    ),
    decoders.the_same_input_gives_the_same_output: Forgetful,
    decoders.no_image_depends_on_its_neighbours: lambda: Changed(
        after=lambda row, images: row[: 1 + len(images) % 2]
    ),
    decoders.no_images_give_no_candidates: Strict,
    decoders.captions_hold_words_only: lambda: Changed(
        after=each(lambda one: replace(one, tokens=(*one.tokens[:-1], 3)))
    ),
    decoders.lengths_are_kept: lambda: Changed(lambda options: replace(options, min_length=1)),
    decoders.banned_tokens_do_not_occur: lambda: Changed(
        lambda options: replace(options, banned=())
    ),
    decoders.every_caption_starts_with_the_prefix: lambda: Changed(
        lambda options: replace(options, prefix=())
    ),
    decoders.no_ngram_occurs_twice: lambda: Changed(
        lambda options: replace(options, no_repeat_ngram=0)
    ),
    decoders.what_cannot_be_done_is_a_usage_error: Vague,
}


@pytest.mark.parametrize("rule", decoders.CHECKS, ids=named)
def test_a_decoder_that_breaks_a_rule(broken_rules, rule):
    assert named(rule) in broken_rules(DECODERS[rule], "decoders")


def test_a_decoder_that_breaks_none(broken_rules):
    assert broken_rules(Changed, "decoders") == set()


class Scores:
    """A reranker that keeps all rules."""

    def __init__(self, bundle, options):
        self.calls = 0

    def score(self, images, candidates):
        self.calls += 1
        return [
            [self.one(candidate, images, i) for candidate in row]
            for i, row in enumerate(candidates)
        ]

    def one(self, candidate, images, i):
        return float(len(candidate.tokens))


class Infinite(Scores):
    def one(self, candidate, images, i):
        return float("inf")


class Moody(Scores):
    def one(self, candidate, images, i):
        return float(self.calls)


class Relative(Scores):
    def one(self, candidate, images, i):
        return float(images.reference_feature[i, 0] - images.reference_feature.mean())


class Needy(Scores):
    def score(self, images, candidates):
        scores = super().score(images, candidates)
        return [[score - max(row) for score in row] for row in scores if max(row)]


RERANKERS = {
    rerankers.it_is_a_reranker: lambda bundle, options: object(),
    rerankers.every_candidate_gets_a_finite_number: Infinite,
    rerankers.the_same_input_gives_the_same_output: Moody,
    rerankers.no_image_depends_on_its_neighbours: Relative,
    rerankers.nothing_gives_nothing: Needy,
}


@pytest.mark.parametrize("rule", rerankers.CHECKS, ids=named)
def test_a_reranker_that_breaks_a_rule(broken_rules, rule):
    assert named(rule) in broken_rules(RERANKERS[rule], "rerankers")


def test_a_reranker_that_breaks_none(broken_rules):
    assert broken_rules(Scores, "rerankers") == set()


def test_a_model_that_breaks_rules(broken_rules, tiny_copy):
    assert broken_rules(lambda: tiny_copy, "models") == set()
    assert named(models.it_names_the_folder_of_a_bundle) in broken_rules(
        lambda: str(tiny_copy), "models"
    )
    golden = dict(np.load(tiny_copy / "golden.npz"))
    golden["log_probs"] = golden["log_probs"] + np.float32(0.01)
    np.savez(tiny_copy / "golden.npz", **golden)
    write_manifest(tiny_copy, json.loads((tiny_copy / "bundle.json").read_text()))
    broken = broken_rules(lambda: tiny_copy, "models")
    assert broken == {named(models.it_computes_what_it_computed_at_export)}
    (tiny_copy / "encoder.onnx").write_bytes(b"")
    assert len(broken_rules(lambda: tiny_copy, "models")) == len(models.CHECKS)


PLUGIN = """
from mrnn_runtime import Component, hookimpl

@hookimpl
def mrnn_decoders():
    return [Component("one", "mrnn_runtime.decoding.beam:Beam", ""),
            Component("two", "mrnn_runtime.decoding.greedy:Greedy", "")]

@hookimpl
def mrnn_commands(app):
    @app.command()
    def hello():
        "Greet."
"""


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """Write a plugin's module, which nobody installs, and import it."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(code):
        (tmp_path / "loose_plugin.py").write_text(code)
        monkeypatch.delitem(sys.modules, "loose_plugin", raising=False)
        return __import__("loose_plugin")

    yield write
    sys.modules.pop("loose_plugin", None)


@pytest.mark.slow
def test_a_plugin_is_checked_as_a_whole_without_being_installed(plugin):
    checks = plugin_checks(plugin(PLUGIN))
    assert not [str(check) for check in checks if fails(check)]
    assert len(checks) == 2 + 2 * len(decoders.CHECKS)
    assert len(plugin_checks(plugin(PLUGIN), only=("two",))) == 2 + len(decoders.CHECKS)


@pytest.mark.parametrize(
    ("code", "complaint"),
    [
        (PLUGIN + "import numpy", "imports numpy"),
        (PLUGIN.replace("greedy:Greedy", "greedy:Missing"), "Missing"),
        (PLUGIN.replace('"two"', '"beam"'), "claimed by"),
        (PLUGIN.replace("mrnn_commands", "mrnn_command"), "unknown hook 'mrnn_command'"),
        (PLUGIN.replace("def hello", "def caption"), "must not replace"),
        (PLUGIN.replace('"Greet."', "pass"), "has no docstring"),
    ],
)
def test_a_plugin_that_is_not_in_order(plugin, code, complaint):
    whole = [check for check in plugin_checks(plugin(code)) if "loose_plugin" in str(check)]
    with pytest.raises(AssertionError, match=complaint):
        for check in whole:
            check.run()


def test_whatever_a_hook_module_writes(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    code = "import atexit, os; os.write(1, b'\\xff'); atexit.register(print, 'bye'); import numpy"
    (tmp_path / "loud_plugin.py").write_text(code)
    assert heavy_imports("loud_plugin") == ["numpy"]
    (tmp_path / "short_plugin.py").write_text("import os; os._exit(0)")
    with pytest.raises(PluginError, match="ends the process"):
        heavy_imports("short_plugin")


def test_checks_that_are_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "mrnn_exporters.testing.cells", None)
    with pytest.raises(PluginError, match="pip install mrnn-exporters"):
        checks_for(Component("x", "a:b", ""), "cells")
    monkeypatch.setitem(sys.modules, "mrnn_devtools.checking", None)
    with pytest.raises(PluginError, match="pip install mrnn-devtools"):
        plugin_checks(ModuleType("of_commands_alone"))


# the tiny bundle


def test_the_tiny_bundle_is_the_one_that_the_tests_build(tmp_path, make_tiny_bundle):
    folder = tmp_path / "tiny"
    assert mrnn_runtime.testing.tiny_bundle(folder) == folder
    shipped, built = load_bundle(folder), load_bundle(make_tiny_bundle())
    unlike = {"folder": built.folder, "files": built.files}
    assert replace(shipped, **unlike) == built
    assert shipped.files.keys() == built.files.keys()
    with np.load(folder / "golden.npz") as ours, np.load(built.file("golden.npz")) as theirs:
        assert ours.keys() == theirs.keys()
        for name in ours:
            np.testing.assert_allclose(ours[name], theirs[name], atol=1e-5)
