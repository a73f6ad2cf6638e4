"""What a single caption need not wait for."""

import subprocess
import sys

import pytest

from mrnn_runtime.cli import build


@pytest.mark.parametrize("name", ["caption", "models", "verify"])
def test_a_command_of_ours_is_built_alone(only_builtins, name):
    group = build(alone=name)
    assert list(group.commands) == [name]
    everything = build()
    assert set(group.commands) < set(everything.commands)
    there = everything.commands[name]
    assert [p.name for p in group.commands[name].params] == [p.name for p in there.params]


@pytest.mark.parametrize("name", ["doctor", "plugins", "train", "captoin", ""])
def test_the_others_concern_all(only_builtins, name):
    assert list(build(alone=name).commands) == list(build().commands)


def test_a_plugin_cannot_hide_behind_a_command_of_ours(install, mrnn, tiny_bundle):
    install("broken", "raise RuntimeError('out of order')")
    assert "plugin 'broken' of broken-dist" in mrnn("verify", tiny_bundle).err


def test_one_caption_loads_no_rich_and_no_report(photos, tiny_bundle):
    code = (
        "import sys\n"
        "from mrnn_runtime.cli import main\n"
        "try:\n"
        "    main(sys.argv[1:])\n"
        "except SystemExit as end:\n"
        "    print(end.code or 0, *sorted(sys.modules))\n"
    )
    command = [sys.executable, "-c", code, "caption", str(photos / "a.png")]
    command += ["--model", str(tiny_bundle), "--provider", "cpu"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    status, *modules = done.stdout.splitlines()[-1].split()
    assert status == "0"
    assert not {"rich", "mrnn_runtime.reranking.references", "mrnn_runtime.engine.device"} & set(
        modules
    )
