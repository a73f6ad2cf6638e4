"""The manager and real distributions: each rule, and that one plugin hurts no other."""

import subprocess
import sys

import pytest

from mrnn_runtime.errors import PluginError, UsageError
from mrnn_runtime.plugins import hookspecs
from mrnn_runtime.plugins.manager import PluginManager, manager

GOOD = """
from mrnn_runtime import Component, hookimpl

@hookimpl
def mrnn_decoders():
    return [Component("zigzag", "{module}:Zigzag", "a search that turns")]

class Zigzag:
    pass
"""


def report_of(plugins, name):
    (report,) = [report for report in plugins.report() if report.name == name]
    return report


def test_builtins_come_through_the_same_door():
    plugins = PluginManager()
    report = plugins.report()[0]
    assert (report.name, report.dist, report.status) == ("builtin", "mrnn-runtime", "ok")
    assert report.hooks == ("mrnn_decoders", "mrnn_rerankers")
    assert {"beam", "greedy"} <= plugins.components("decoders").keys()
    assert callable(plugins.load("decoders", "beam"))


def test_a_plugin_is_found_with_its_facts(install):
    install("zig", GOOD, version="2.5")
    plugins = PluginManager()
    report = report_of(plugins, "zig")
    assert (report.dist, report.version, report.module) == ("zig-dist", "2.5", "zig_module")
    assert (report.status, report.error) == ("ok", "")
    assert [(kind, one.name) for kind, one in report.components] == [("decoders", "zigzag")]
    assert plugins.load("decoders", "zigzag").__name__ == "Zigzag"


def test_registering_a_component_does_not_import_its_target(install):
    install("zig", GOOD.replace("{module}:", "no_such_module:"))
    plugins = PluginManager()
    assert "zigzag" in plugins.components("decoders")
    with pytest.raises(PluginError, match="no_such_module"):
        plugins.load("decoders", "zigzag")


BROKEN = {
    "import error": ("import a_package_that_is_not_there", "a_package_that_is_not_there"),
    "exit at import": ("import sys; sys.exit(3)", "SystemExit"),
    "syntax error": ("def", "SyntaxError"),
    "no hook": ("def mrnn_decoders(): return []", "implements no hook"),
    "misspelt hook": (
        "from mrnn_runtime import hookimpl\n@hookimpl\ndef mrnn_decoder(): return []",
        "unknown hook 'mrnn_decoder' (use mrnn_decoders)",
    ),
    "good and misspelt hook": (
        GOOD + "\n@hookimpl\ndef mrnn_modles(): return []",
        "unknown hook 'mrnn_modles' (use mrnn_models)",
    ),
    "wrong signature": (
        GOOD + "\n@hookimpl\ndef mrnn_models(application): return []",
        "application",
    ),
    "raising hook": (
        GOOD + "\n@hookimpl\ndef mrnn_models(): raise ValueError('one\\ntwo')",
        "mrnn_models raised ValueError: one two",
    ),
    "hook without result": (
        GOOD + "\n@hookimpl\ndef mrnn_models(): pass",
        "mrnn_models raised TypeError",
    ),
    "no component": (
        GOOD + "\n@hookimpl\ndef mrnn_models(): return ['flickr8k']",
        "mrnn_models gave 'flickr8k', which is no Component",
    ),
    "newer contract": (
        "MRNN_CONTRACT = 2" + GOOD + "\n@hookimpl\ndef mrnn_newer_hook(): return []",
        "it was written for contract 2, this mrnn-runtime has contract 1"
        " (pip install --upgrade mrnn-runtime)",
    ),
    "contract that is no number": (
        "MRNN_CONTRACT = '1.0'" + GOOD,
        "MRNN_CONTRACT must be a whole number, not '1.0'",
    ),
    "malformed component": (
        GOOD + "\n@hookimpl\ndef mrnn_models(): return [Component('two words', 'a:b', '')]",
        "must be one word",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_plugin_is_recorded_offers_nothing_and_hurts_nobody(install, case):
    code, complaint = BROKEN[case]
    install("bad", code)
    install("zig", GOOD)
    plugins = PluginManager()
    bad = report_of(plugins, "bad")
    assert bad.status == "failed"
    assert complaint in bad.error
    assert "\n" not in bad.error
    assert (bad.hooks, bad.components) == ((), ())
    assert "Traceback (most recent call last)" in bad.traceback
    # Its good hooks are gone as well, so the name that both have belongs to the one that works.
    assert report_of(plugins, "zig").status == "ok"
    assert plugins.load("decoders", "zigzag").__module__ == "zig_module"
    assert {"beam", "greedy"} <= plugins.components("decoders").keys()


@pytest.mark.parametrize("version", [0, 1])
def test_a_plugin_for_this_contract_or_an_older_one_is_welcome(install, version):
    assert hookspecs.CONTRACT == 1
    install("zig", f"MRNN_CONTRACT = {version}" + GOOD)
    assert report_of(PluginManager(), "zig").status == "ok"


def test_strict_makes_every_failure_an_error(install):
    install("bad", BROKEN["misspelt hook"][0])
    with pytest.raises(PluginError, match="plugin 'bad' of bad-dist: unknown hook"):
        PluginManager(strict=True)


def test_two_plugins_that_claim_one_name_are_both_named_when_it_is_used(install):
    install("one", GOOD + EXTRA.format("uno"))
    install("two", GOOD + EXTRA.format("due"))
    plugins = PluginManager()
    with pytest.raises(PluginError, match=r"decoder 'zigzag'.* one-dist .*two-dist "):
        plugins.load("decoders", "zigzag")
    assert "zigzag" not in plugins.components("decoders")
    for name in ("one", "two"):
        report = report_of(plugins, name)
        assert report.status == "conflict"
        assert "one-dist" in report.error and "two-dist" in report.error
    assert callable(plugins.load("rerankers", "uno"))
    assert callable(plugins.load("rerankers", "due"))
    assert callable(plugins.load("decoders", "beam"))
    with pytest.raises(PluginError, match="zigzag"):
        PluginManager(strict=True)


EXTRA = """
@hookimpl
def mrnn_rerankers():
    yield Component("{}", "builtins:len", "a length")
"""


def test_nobody_takes_a_builtin_name_over(install):
    install("zig", GOOD.replace("zigzag", "beam"))
    plugins = PluginManager()
    with pytest.raises(PluginError, match=r"mrnn-runtime .* and zig-dist "):
        plugins.load("decoders", "beam")
    assert callable(plugins.load("decoders", "greedy"))


def test_one_name_in_two_kinds_is_no_clash(install):
    install("zig", GOOD + EXTRA.format("zigzag"))
    assert report_of(PluginManager(), "zig").status == "ok"


def test_results_do_not_depend_on_the_order_of_the_path(install, monkeypatch):
    install("one", GOOD.replace("zigzag", "m"))
    install("two", GOOD.replace("zigzag", "a"))
    install("six", GOOD.replace("zigzag", "z"))
    before = PluginManager()
    monkeypatch.setattr(sys, "path", sys.path[::-1])
    after = PluginManager()
    assert before.report() == after.report()
    names = [report.name for report in after.report()]
    assert names == ["builtin", *sorted(names[1:])]
    assert list(after.components("decoders")) == sorted(after.components("decoders"))


def test_disabled_plugins_are_listed_but_not_imported(install, monkeypatch):
    install("zig", "raise AssertionError('imported')")
    install("zag", "raise AssertionError('imported')")
    monkeypatch.setenv("MRNN_DISABLE_PLUGINS", ", zig,,zag-dist ,")
    plugins = manager()
    assert report_of(plugins, "zig").status == "disabled"
    assert report_of(plugins, "zag").status == "disabled"
    assert report_of(plugins, "builtin").status == "ok"


def test_the_environment_is_read_at_every_call(install, monkeypatch):
    install("zig", "import a_package_that_is_not_there")
    assert manager() is manager()
    assert report_of(manager(), "zig").status == "failed"
    monkeypatch.setenv("MRNN_STRICT_PLUGINS", "1")
    with pytest.raises(PluginError, match="a_package_that_is_not_there"):
        manager()
    monkeypatch.setenv("MRNN_STRICT_PLUGINS", "0")
    assert report_of(manager(), "zig").status == "failed"
    monkeypatch.setenv("MRNN_DISABLE_PLUGINS", "zig")
    assert report_of(manager(), "zig").status == "disabled"


def test_an_unknown_name_gets_close_matches_and_what_there_is(install):
    with pytest.raises(UsageError) as caught:
        PluginManager().load("decoders", "baem")
    assert "unknown decoder 'baem'" in caught.value.message
    assert "did you mean 'beam'?" in caught.value.hint
    assert "greedy" in caught.value.hint


def test_an_unknown_name_points_to_the_plugin_that_failed(install):
    install("bad", "import a_package_that_is_not_there")
    with pytest.raises(UsageError) as caught:
        PluginManager().load("decoders", "zigzag")
    assert "bad" in caught.value.hint


def test_a_target_that_cannot_be_called_is_an_error(install):
    install("zig", GOOD.replace("{module}:Zigzag", "{module}:__name__"))
    with pytest.raises(PluginError, match="cannot be called"):
        PluginManager().load("decoders", "zigzag")


def test_a_plugin_can_fail_later(install):
    install("zig", GOOD)
    plugins = PluginManager()
    plugins.fail(report_of(plugins, "zig"), ValueError("late"))
    report = report_of(plugins, "zig")
    assert (report.status, report.error) == ("failed", "ValueError: late")
    assert "zigzag" not in plugins.components("decoders")


def test_the_manager_is_light():
    script = (
        "import sys; from mrnn_runtime.plugins.manager import PluginManager;"
        "PluginManager(disabled=()).components('decoders');"
        "print(sorted({'numpy', 'onnxruntime', 'PIL', 'torch', 'typer'} & set(sys.modules)))"
    )
    child = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (child.stdout.strip(), child.returncode) == ("[]", 0), child.stderr
