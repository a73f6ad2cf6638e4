"""The command line as a user meets it: results on stdout, the rest on stderr, exit codes."""

import contextlib
import json
import os
import re
import subprocess
import sys

import pytest


def process(*args, **options):
    """Run ``mrnn`` in a process of its own."""
    command = [sys.executable, "-m", "mrnn_runtime", *map(str, args)]
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    return subprocess.run(command, **options)


def summary(*, captioned, failed=0, skipped="0 skipped"):
    """The last line of a run, as the fixture ``caption`` gives it."""
    return f"mrnn: {captioned} captioned, {failed} failed, {skipped}; N images/s\n"


# mrnn caption


def test_text_is_path_tab_caption_in_order(caption, photos):
    result = caption(photos)
    assert (result.code, result.err) == (0, summary(captioned=3))
    lines = [line.split("\t") for line in result.out.splitlines()]
    assert [path for path, _ in lines] == [
        str(photos / name) for name in ("a.png", "b.jpg", "sub/c.png")
    ]
    assert all(text for _, text in lines)


def test_jsonl_has_the_documented_fields(caption, photos):
    result = caption(photos / "a.png", "--format", "jsonl", "--n-best", 3)
    assert (result.code, result.err) == (0, summary(captioned=1))
    (record,) = map(json.loads, result.out.splitlines())
    assert list(record) == [
        "path",
        "caption",
        "log_prob",
        "finished",
        "confidence",
        "candidates",
        "model",
        "provider",
        "decoder",
        "reranker",
    ]
    assert record["path"] == str(photos / "a.png")
    assert isinstance(record["finished"], bool)
    assert record["log_prob"] < 0
    assert 1 < len(record["candidates"]) <= 3
    assert record["candidates"][0] == {
        "caption": record["caption"],
        "log_prob": record["log_prob"],
        "score": record["log_prob"],
    }
    assert record["provider"] == "CPUExecutionProvider"
    assert record["decoder"] == "beam"
    assert record["reranker"] is None
    assert record["confidence"] is None  # this bundle was not calibrated


def test_n_best_text_has_one_line_a_candidate(caption, photos):
    (record,) = map(
        json.loads, caption(photos / "a.png", "--n-best", 3, "--format", "jsonl").out.splitlines()
    )
    lines = caption(photos / "a.png", "--n-best", 3).out.splitlines()
    assert lines == [f"{photos / 'a.png'}\t{one['caption']}" for one in record["candidates"]]


@pytest.mark.parametrize("form", ["text", "jsonl"])
def test_a_broken_image_does_not_stop_the_others(caption, photos, form):
    good = caption(photos, "--format", form)
    (photos / "aa.jpg").write_text("no image")
    result = caption(photos, "--format", form)
    assert result.code == 1
    lines = result.out.splitlines()
    last = summary(captioned=3, failed=1)
    if form == "text":
        assert lines == good.out.splitlines()
        complaint, rest = result.err.split("\n", 1)
        assert complaint.startswith("mrnn: error: ") and "aa.jpg" in complaint
        assert rest == last
    else:
        assert lines[:1] + lines[2:] == good.out.splitlines()
        record = json.loads(lines[1])
        assert list(record) == ["path", "error"]
        assert record["path"] == str(photos / "aa.jpg")
        assert result.err == last


def test_a_pipe_among_the_photos_does_not_stop_the_others(caption, photos):
    good = caption(photos)
    os.mkfifo(photos / "aa.jpg")
    result = caption(photos)
    assert result.code == 1
    assert result.out == good.out
    assert "aa.jpg is missing, or is no ordinary file" in result.err


def test_batch_size_changes_nothing(caption, photos):
    runs = [caption(photos, "--format", "jsonl", "--batch-size", size).out for size in (1, 4, 8)]
    assert runs[0] == runs[1] == runs[2]


def test_options_reach_the_decoder(caption, photos):
    short = caption(photos, "--max-length", 2, "--min-length", 2).out
    assert all(len(line.split("\t")[1].split()) == 2 for line in short.splitlines())
    image = photos / "a.png"
    word = caption(image).out.split("\t")[1].split()[0]
    banned = caption(image, "--ban", word)
    assert word not in banned.out.split("\t")[1].split()
    decoders = {
        json.loads(caption(image, "--format", "jsonl", "--decoder", name).out)["decoder"]
        for name in ("greedy", "beam")
    }
    assert decoders == {"greedy", "beam"}
    one = caption(image, "--beam-size", 1, "--format", "jsonl").out
    greedy = caption(image, "--decoder", "greedy", "--format", "jsonl").out
    assert one.replace('"beam"', '"greedy"') == greedy


def test_output_goes_to_a_file(caption, photos, tmp_path):
    expected = caption(photos, "--format", "jsonl").out
    target = tmp_path / "captions.jsonl"
    result = caption(photos, "--format", "jsonl", "--output", target)
    assert (result.code, result.out, result.err) == (0, "", summary(captioned=3))
    assert target.read_text("utf-8") == expected


@pytest.mark.parametrize(
    ("args", "complaint"),
    [
        (["--decoder", "baem"], "unknown decoder 'baem'"),
        (["--reranker", "nobody"], "unknown reranker 'nobody'"),
        (["--provider", "cdua"], "unknown provider 'cdua'"),
        (["--beam-size", "0"], "beam_size"),
        (["--beam-size", "many"], "--beam-size"),
        (["--min-length", "9", "--max-length", "3"], "min_length 9"),
        (["--batch-size", "0"], "batch_size"),
        (["--threads", "-1"], "threads"),
        (["--threads", 2**31], "threads must lie in 0..1024"),
        (["--workers", 2**31], "workers must lie in 1..1000"),
        (["--batch-size", 2**31], "batch_size must lie in 1..1000"),
        (["--beam-size", 2**31], "beam_size must be a whole number in 1..1000"),
        (["--n-best", 2**31], "n_best must be a whole number in 1..1000"),
        (["--max-length", "9" * 400], "max_length must be a whole number in 1..1000"),
        (["--min-length", "9" * 400], "min_length must be a whole number in 1..1000"),
        (["--deadline-ms", "9" * 400], "deadline_ms must be a whole number in 0..86400000"),
        (["--no-repeat-ngram", "9" * 400], "no_repeat_ngram"),
        (["--top-k", "9" * 400], "top_k"),
        (["--seed", "9" * 400], "seed"),
        (["--seed", "9" * 5000], "--seed"),
        (["--length-penalty", "9" * 400], "length_penalty"),
        (["--neighbours", "9" * 400], "k must be a whole number in 1..100000"),
        (["--votes", 2**31], "m must be a whole number in 1..100000"),
        (["--length-penalty", "nan"], "length_penalty"),
        (["--ban", "dgo"], "'dgo'"),
        (["--format", "xml"], "--format"),
        (["--colour", "red"], "--colour"),
        (["--output", "no/such/folder/file"], "cannot write no/such/folder/file"),
        (["missing.jpg"], "missing.jpg does not exist"),
    ],
)
def test_usage_errors_are_2_and_say_what(mrnn, tiny_bundle, photos, args, complaint):
    result = mrnn("caption", photos, "--model", tiny_bundle, *args)
    assert (result.code, result.out) == (2, "")
    assert complaint in result.err


def test_close_matches_are_offered(mrnn, caption, photos, install, tiny_bundle):
    assert "did you mean 'beam'?" in caption(photos, "--decoder", "baem").err
    assert "did you mean" in caption(photos, "--ban", "dgo").err
    install("tiny", MODEL.replace("FOLDER", repr(str(tiny_bundle))))
    result = mrnn("caption", photos, "--model", "tinny")
    assert result.code == 2
    assert "did you mean 'tiny'?" in result.err


def test_a_usage_error_leaves_the_output_file_alone(caption, photos, tmp_path):
    target = tmp_path / "captions"
    target.write_text("precious")
    assert caption(photos, "--decoder", "baem", "--output", target).code == 2
    assert target.read_text() == "precious"


def test_a_damaged_bundle_is_3(mrnn, photos, tiny_copy):
    path = tiny_copy / "encoder.onnx"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    result = mrnn("caption", photos, "--model", tiny_copy)
    assert (result.code, result.out) == (3, "")
    error, hint = result.err.splitlines()
    assert error.startswith("mrnn: error: ") and "encoder.onnx" in error
    assert hint.startswith("hint: ")


@pytest.mark.slow
def test_a_provider_that_is_not_there_is_3(mrnn, photos, tiny_bundle):
    from mrnn_runtime.engine.providers import probe

    if probe("cuda").works:
        pytest.skip("CUDA works here")
    result = mrnn("caption", photos, "--model", tiny_bundle, "--provider", "cuda")
    assert (result.code, result.out) == (3, "")
    assert "CUDAExecutionProvider" in result.err
    assert "hint: " in result.err


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_is_3_without_a_traceback(caption, photos):
    result = caption(photos, "--output", "/dev/full")
    assert result.code == 3
    assert "No space left" in result.err


# the other commands

MODEL = """
import pathlib
from mrnn_runtime import Component, hookimpl

@hookimpl
def mrnn_models():
    return [Component("tiny", "{module}:folder", "random words")]

def folder():
    return pathlib.Path(FOLDER)
"""


def test_models(mrnn, install, tiny_bundle):
    empty = mrnn("models")
    assert (empty.code, empty.out) == (0, "")
    assert "pip install" in empty.err
    assert json.loads(mrnn("models", "--json").out) == []


def test_models_that_are_installed(mrnn, install, tiny_bundle):
    install("tiny", MODEL.replace("FOLDER", repr(str(tiny_bundle))), version="2.5")
    result = mrnn("models")
    assert (result.code, result.err) == (0, "")
    assert result.out.splitlines()[1].split() == [
        "tiny",
        "*",
        "1.0",
        "tiny-dist",
        "2.5",
        "fp32",
        "0.0",
        "random",
        "words",
    ]
    assert json.loads(mrnn("models", "--json").out) == [
        {
            "name": "tiny",
            "summary": "random words",
            "dist": "tiny-dist",
            "version": "2.5",
            "default": True,
            "model_version": "1.0",
            "precision": "fp32",
            "megabytes": 0.0,
            "speed": None,
        }
    ]


def test_models_say_what_they_cost(mrnn, install, tiny_copy, tmp_path):
    from mrnn_runtime.bundle.loading import read_manifest, write_manifest

    manifest = read_manifest(tiny_copy) | {"precision": "int8"}
    manifest["training"] = {"quantized": {"speed": 1.6249}}
    write_manifest(tiny_copy, manifest)
    install("quick", MODEL.replace("FOLDER", repr(str(tiny_copy))).replace("tiny", "quick"))
    gone = MODEL.replace("FOLDER", repr(str(tmp_path / "none"))).replace("tiny", "gone")
    install("gone", gone)
    result = mrnn("models")
    assert result.code == 0
    assert "no bundle" in result.err  # and the others are listed
    quick, gone = sorted(json.loads(mrnn("models", "--json").out), key=lambda r: r["speed"] is None)
    assert (quick["precision"], quick["speed"]) == ("int8", 1.6)
    assert (gone["precision"], gone["megabytes"], gone["speed"]) == ("?", None, None)
    assert "int8 x1.6" in result.out


def test_verify(mrnn, tiny_bundle):
    result = mrnn("verify", tiny_bundle)
    assert (result.code, result.err) == (0, "")
    assert "log_probs" in result.out
    assert result.out.splitlines()[-1].startswith("ok")


def test_verify_runs_where_it_is_told(mrnn, tiny_bundle):
    assert "on CPUExecutionProvider" in mrnn("verify", tiny_bundle, "--provider", "cpu").out
    result = mrnn("verify", tiny_bundle, "--provider", "tensorrt")
    assert (result.code, result.out) == (3, "")
    assert "TensorrtExecutionProvider" in result.err


def test_verify_notices_another_result(mrnn, tiny_copy, make_tiny_bundle, tmp_path):
    import numpy as np

    from mrnn_runtime.bundle.loading import write_manifest

    manifest = json.loads((tiny_copy / "bundle.json").read_text())
    golden = dict(np.load(tiny_copy / "golden.npz"))
    golden["log_probs"] = golden["log_probs"] + np.float32(0.01)
    np.savez(tiny_copy / "golden.npz", **golden)
    write_manifest(tiny_copy, manifest)
    result = mrnn("verify", tiny_copy)
    assert result.code == 3
    assert "FAILED" in result.out


def test_verify_of_what_is_no_bundle(mrnn, tmp_path):
    assert mrnn("verify", tmp_path).code == 3
    assert mrnn("verify", "nobody").code == 2


@pytest.mark.slow
def test_doctor(mrnn, install, tiny_bundle):
    install("tiny", MODEL.replace("FOLDER", repr(str(tiny_bundle))))
    install("bad", "import a_package_that_is_not_there")
    text = mrnn("doctor")
    assert text.code == 0
    assert "verdict" in text.out
    facts = json.loads(mrnn("doctor", "--json").out)
    assert facts["ready"] is True
    assert facts["models"] == ["tiny"]
    assert [probe["word"] for probe in facts["providers"]] == ["cpu", "cuda", "tensorrt"]
    assert facts["providers"][0]["works"] is True
    assert any("a_package_that_is_not_there" in problem for problem in facts["problems"])


def test_doctor_finds_both_wheels_and_no_onnxruntime(tmp_path):
    # An empty package and two distributions that claim it: what uninstalling one of two leaves.
    (tmp_path / "onnxruntime").mkdir()
    for name in ("onnxruntime", "onnxruntime-gpu"):
        info = tmp_path / f"{name.replace('-', '_')}-9.9.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 9.9\n")
        (info / "RECORD").write_text("onnxruntime/__init__.py,,\n")
        (tmp_path / "onnxruntime" / "__init__.py").write_text("")
    path = os.pathsep.join([str(tmp_path), os.getcwd()])
    child = process("doctor", "--json", env={**os.environ, "PYTHONPATH": path})
    assert child.returncode == 3
    facts = json.loads(child.stdout)
    assert facts["ready"] is False
    assert facts["onnxruntime"] == {"onnxruntime": "9.9", "onnxruntime-gpu": "9.9"}
    assert "onnxruntime and onnxruntime-gpu are both installed" in facts["problems"][0]
    assert "cpu does not work" in facts["problems"][1]


PLUGIN = """
from mrnn_runtime import Component, hookimpl

@hookimpl
def mrnn_decoders():
    return [Component("turn", "{module}:Turn", "a search")]

class Turn:
    pass

@hookimpl
def mrnn_commands(app):
    @app.command()
    def hello(name: str) -> None:
        "Greet somebody."
        print(f"hello {name}")
"""


def test_plugins_lists_what_is_there(mrnn, install):
    install("good", PLUGIN)
    install("bad", "import a_package_that_is_not_there")
    result = mrnn("plugins")
    assert result.code == 0
    assert "decoders: turn; commands: hello" in result.out
    assert len(result.err.splitlines()) == 1
    assert "plugin 'bad' of bad-dist" in result.err
    records = {record["name"]: record for record in json.loads(mrnn("plugins", "--json").out)}
    good = records["good"]
    assert (good["dist"], good["version"], good["status"], good["error"]) == (
        "good-dist",
        "1.0",
        "ok",
        "",
    )
    assert good["hooks"] == ["mrnn_commands", "mrnn_decoders"]
    assert good["commands"] == ["hello"]
    assert good["components"] == [
        {
            "kind": "decoders",
            "name": "turn",
            "target": "good_module:Turn",
            "summary": "a search",
        }
    ]
    assert "traceback" not in good
    assert records["bad"]["status"] == "failed"
    assert "a_package_that_is_not_there" in records["bad"]["error"]


def test_plugins_check_passes_what_is_right(mrnn, install):
    install("good", PLUGIN)
    result = mrnn("plugins", "--check")
    assert (result.code, result.err) == (0, "")


@pytest.mark.parametrize(
    ("code", "complaint"),
    [
        ("import numpy\n" + PLUGIN, "imports numpy"),
        (PLUGIN.replace(":Turn", ":Missing"), "Missing"),
        (PLUGIN.replace("{module}:Turn", "{module}:__name__"), "cannot be called"),
        (PLUGIN.replace('"turn"', '"beam"'), "claimed by mrnn-runtime"),
        ("1/0", "ZeroDivisionError"),
    ],
)
def test_plugins_check_finds_what_is_wrong(mrnn, install, code, complaint):
    install("odd", code)
    result = mrnn("plugins", "--check")
    assert result.code == 3
    assert any(
        line.startswith("odd: ") and complaint in line for line in result.out.splitlines()
    ), result.out


# commands of plugins


def test_a_plugins_command_works(mrnn, install):
    install("good", PLUGIN)
    assert "Greet somebody." in mrnn("--help").out
    result = mrnn("hello", "you")
    assert (result.code, result.out, result.err) == (0, "hello you\n", "")


def test_a_command_hook_may_leave_its_argument_out(mrnn, install):
    install("good", PLUGIN)
    install("shy", "from mrnn_runtime import hookimpl\n@hookimpl\ndef mrnn_commands(): pass")
    assert mrnn("hello", "you").code == 0


IN_A_GROUP = """
import typer
from mrnn_runtime import hookimpl
@hookimpl
def mrnn_commands(app):
    group = typer.Typer()
    @group.command()
    def new(name: str) -> None:
        "Greet a plugin."
        typer.echo(f"{module}: {name}")
    app.add_typer(group, name="plugins")
"""


def test_a_plugin_adds_a_command_to_a_group_of_ours(mrnn, install):
    install("good", IN_A_GROUP)
    assert mrnn("plugins", "new", "you").out == "good_module: you\n"
    (good,) = [r for r in json.loads(mrnn("plugins", "--json").out) if r["name"] == "good"]
    assert good["commands"] == ["plugins new"]
    install("next", IN_A_GROUP)
    result = mrnn("plugins", "new", "you")
    assert (result.code, result.out) == (3, "")
    assert "'plugins new' is claimed by good-dist" in result.err


def test_no_plugin_takes_a_group_of_ours_over(mrnn, install):
    install("bad", PLUGIN.replace("def hello", "def plugins"))
    result = mrnn("plugins")
    assert result.code == 0
    assert "it must not replace the command 'plugins' of mrnn-runtime" in result.err


@pytest.mark.parametrize(
    "code",
    [
        PLUGIN.replace("@app.command()", "1/0"),
        PLUGIN + "    raise RuntimeError('halfway')\n",
        PLUGIN.replace("name: str", "name: int | str"),
        PLUGIN.replace("def hello", "def caption"),
        "raise SystemExit(5)",
    ],
    ids=["broken", "halfway", "bad parameter", "takes caption over", "exit"],
)
def test_a_plugin_whose_commands_fail_adds_none_and_is_named_in_one_line(
    mrnn, install, caption, photos, code
):
    install("bad", code)
    install("good", PLUGIN.replace("def hello", "def greet").replace('"turn"', '"twist"'))
    result = mrnn("--help")
    assert result.code == 0
    assert "hello" not in result.out
    assert "greet" in result.out
    (line,) = result.err.splitlines()
    assert line.startswith("mrnn: warning: plugin 'bad' of bad-dist: ")
    assert caption(photos).code == 0


def test_a_command_of_two_plugins_names_both_when_it_is_used(mrnn, install):
    install("one", PLUGIN.replace('"turn"', '"one"'))
    install("two", PLUGIN.replace('"turn"', '"two"'))
    assert mrnn("--help").code == 0
    result = mrnn("hello", "you", "--shout")
    assert (result.code, result.out) == (3, "")
    assert "'hello' is claimed by one-dist (plugin one) and two-dist (plugin two)" in result.err
    statuses = {r["name"]: r["status"] for r in json.loads(mrnn("plugins", "--json").out)}
    assert (statuses["one"], statuses["two"]) == ("conflict", "conflict")


@pytest.mark.parametrize(
    "code",
    ["import a_package_that_is_not_there", PLUGIN + "    raise RuntimeError('halfway')\n"],
)
def test_strict_mode_makes_a_failed_plugin_3(mrnn, install, monkeypatch, code):
    install("bad", code)
    monkeypatch.setenv("MRNN_STRICT_PLUGINS", "1")
    result = mrnn("--help")
    assert (result.code, result.out) == (3, "")
    # Strict mode is for those who write or test plugins: they see where it failed, and then what.
    assert "bad_module.py" in result.err
    assert "\nmrnn: error: plugin 'bad' of bad-dist: " in result.err


def test_traceback_shows_where_a_plugin_failed_and_goes_on(mrnn, install):
    install("bad", BROKEN_DEEP_DOWN)
    assert len(mrnn("models").err.splitlines()) == 2  # the warning, and that there is no model
    result = mrnn("--traceback", "models", "--json")
    assert (result.code, result.out) == (0, "[]\n")
    assert "in deep_down" in result.err
    assert "plugin 'bad' of bad-dist: ZeroDivisionError" in result.err


BROKEN_DEEP_DOWN = """
def deep_down():
    1 / 0
deep_down()
"""


def test_traceback_shows_where_an_error_arose(mrnn, tmp_path):
    quiet = mrnn("verify", tmp_path)
    result = mrnn("--traceback", "verify", tmp_path)
    assert result.code == quiet.code == 3
    assert "in load_bundle" in result.err
    assert result.err.endswith(quiet.err)
    assert mrnn("verify", "--traceback", tmp_path).code == 2  # it belongs before the command


@pytest.mark.parametrize(
    ("command", "dist"),
    [
        *((name, "mrnn-exporters") for name in ("train", "export", "evaluate", "index")),
        ("bench", "mrnn-devtools"),
        ("plugins new", "mrnn-devtools"),
        ("serve", "mrnn-serve"),
        ("ray", "mrnn-ray"),
    ],
)
def test_commands_that_are_not_installed_say_what_to_install(mrnn, command, dist):
    words = command.split()
    result = mrnn(*words, "somewhere", "--output", "there", "-x")
    assert (result.code, result.out) == (3, "")
    assert f"pip install {dist}" in result.err
    assert dist in mrnn(*words, "--help").out


def test_a_plugin_replaces_a_stub(mrnn, install):
    install("good", PLUGIN.replace("def hello", "def train"))
    assert mrnn("train", "me").out == "hello me\n"


def test_an_interrupt_is_130(mrnn, install):
    install("stop", PLUGIN.replace("print(", "raise KeyboardInterrupt("))
    assert mrnn("hello", "you").code == 130


# the program as a whole


def test_an_unknown_command_gets_close_matches(mrnn):
    result = mrnn("captoin", "a.jpg")
    assert (result.code, result.out) == (2, "")
    assert "caption" in result.err


def test_version_and_help(mrnn):
    assert mrnn("--version").out.startswith("mrnn ")
    help_text = mrnn("--help")
    assert help_text.code == 0
    for command in ("caption", "models", "plugins", "doctor", "verify", "train", "export"):
        assert command in help_text.out
    assert mrnn("caption", "-h").out == mrnn("caption", "--help").out
    assert mrnn().code == 2


@pytest.mark.slow
def test_a_process_keeps_stdout_pure_and_returns_the_codes(photos, tiny_bundle):
    options = ("--model", tiny_bundle, "--provider", "cpu", "--format", "jsonl")
    good = process("caption", photos, *options)
    assert good.returncode == 0
    assert re.fullmatch(rb"mrnn: 3 captioned, 0 failed, 0 skipped; [\d.]+ images/s\n", good.stderr)
    assert [json.loads(line)["path"] for line in good.stdout.splitlines()]
    (photos / "aa.jpg").write_bytes(b"")
    assert process("caption", photos, *options).returncode == 1
    assert process("caption", "missing.jpg", *options).returncode == 2
    assert process("verify", photos).returncode == 3


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
@pytest.mark.parametrize("stdout_is_terminal", [False, True])
def test_a_terminal_gets_a_progress_bar_and_results_stay_whole(
    caption, photos, tiny_bundle, stdout_is_terminal
):
    expected = caption(photos).out.splitlines()
    master, terminal = os.openpty()
    child = process(
        *("caption", photos, "--model", tiny_bundle, "--provider", "cpu", "--threads", 1),
        stdout=terminal if stdout_is_terminal else subprocess.PIPE,
        stderr=terminal,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "500"},
    )
    os.close(terminal)
    shown = b""
    with contextlib.suppress(OSError):  # Linux reports a closed terminal as an error
        while chunk := os.read(master, 65536):
            shown += chunk
    os.close(master)
    assert child.returncode == 0, shown
    assert b"3/3" in shown
    if stdout_is_terminal:
        assert all(line.expandtabs().encode() in shown for line in expected), (shown, expected)
    else:
        assert child.stdout.decode().splitlines() == expected


@pytest.mark.skipif(sys.platform != "linux", reason="other file systems refuse such names")
@pytest.mark.parametrize("form", ["text", "jsonl"])
def test_file_names_that_are_no_text_pass_through(photos, tiny_bundle, form):
    name = os.fsencode(photos) + b"/b\xff.png"
    os.rename(os.fsencode(photos / "a.png"), name)
    options = ("--model", tiny_bundle, "--provider", "cpu", "--format", form)
    child = process("caption", os.fsdecode(name), *options, env={**os.environ, "PYTHONUTF8": "1"})
    assert child.returncode == 0, child.stderr
    path = child.stdout.split(b"\t")[0]
    if form == "jsonl":
        path = os.fsencode(json.loads(child.stdout)["path"])
    assert path == name


def test_a_closed_pipe_is_quiet(photos, tiny_bundle):
    command = [sys.executable, "-m", "mrnn_runtime", "caption", photos]
    command += ["--model", tiny_bundle, "--provider", "cpu", "--batch-size", "1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        child.stdout.close()
        assert child.stderr.read() == b""
        assert child.wait() != 0
