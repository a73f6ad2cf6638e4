"""mrnn.toml, what is said on stderr, completion, and patterns that a shell left alone."""

import os

import pytest

from mrnn_runtime.cli import build, config


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The user's folder of configurations, which is the current one as well; there is none yet."""
    monkeypatch.delenv("MRNN_CONFIG", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    (tmp_path / "mrnn").mkdir()
    monkeypatch.chdir(tmp_path / "mrnn")
    return tmp_path / "mrnn"


@pytest.fixture
def write(here):
    def write(text, name="mrnn.toml"):
        (here / name).write_text(text, encoding="utf-8")

    return write


def test_options_of_the_file_are_defaults(write, caption, photos):
    write('[caption]\nn-best = 2\nban = ["dog", "hat"]\nformat = "csv"\nexact = true\n')
    result = caption(photos / "a.png")
    assert result.out.startswith("path,caption")
    write('[caption]\nn-best = 2\nban = ["dog", "hat"]')
    lines = caption(photos / "a.png").out.splitlines()
    assert len(lines) == 2
    assert not {"dog", "hat"} & set(" ".join(lines).split())
    assert len(caption(photos / "a.png", "--n-best", 1).out.splitlines()) == 1


def test_a_variable_names_another_file_or_none(write, caption, photos, monkeypatch):
    write("[caption]\nn-best = 2\n")
    write("[caption]\nn-best = 3\n", "other.toml")
    for value, lines in (("other.toml", 3), ("", 1)):
        monkeypatch.setenv("MRNN_CONFIG", value)
        assert len(caption(photos / "a.png").out.splitlines()) == lines
    monkeypatch.setenv("MRNN_CONFIG", "missing.toml")
    result = caption(photos / "a.png")
    assert result.code == 2
    assert "cannot read missing.toml" in result.err


@pytest.mark.parametrize(
    ("text", "said", "hint"),
    [
        ("[caption]\nbeam_size = 2", "mrnn caption has no option --beam_size", "beam-size"),
        ("[caption]\npaths = ['a']", "no option --paths", "hint"),
        ("[caption]\nform = 'csv'", "no option --form", "format"),
        ("[captoin]\nn-best = 2", "there is no command 'captoin'", "caption"),
        ("n-best = 2", "there is no command 'n-best'", "mrnn --help"),
        ("caption = 2", "needs a table [caption]", ""),
        ("[caption", "is no TOML", ""),
        ("a = " + "[" * 100_000, "is no TOML", ""),
        ("\ud800", "is no TOML", ""),
        ("[caption]\nbeam-size = 'many'", "Invalid value for '--beam-size'", ""),
        ("[caption]\nbeam-size = 0", "beam_size", ""),
    ],
)
def test_what_does_not_fit_is_an_error(here, caption, photos, text, said, hint):
    (here / "mrnn.toml").write_bytes(text.encode("utf-8", "surrogatepass"))
    result = caption(photos / "a.png")
    assert result.code == 2
    assert said in result.err
    assert hint in result.err
    assert result.out == ""


def test_tables_of_other_commands_are_theirs(write, caption, photos, mrnn):
    write("[search]\ntop = 2\n[rank]\nno-such-option = 1\n")
    assert caption(photos / "a.png").code == 0
    assert mrnn("rank", photos, "--sentences", "a.txt").code == 2
    write("[plugins.list]\nno-such-option = 1\n")
    assert mrnn("plugins").code == 2


def test_help_needs_no_file(write, mrnn):
    write("[caption")
    assert mrnn("--help").code == 0
    assert mrnn("-V").out == mrnn("--version").out


@pytest.mark.parametrize(
    "table",
    [
        '[caption]\noutput = "precious"',
        '[caption]\nsidecar = "txt"',
        "[caption]\nwrite-metadata = true\noverwrite = true",
        "[caption]\nmodel = 'mine'\nmemory = 1_000_000",
        "[caption",
    ],
)
def test_a_folder_of_photos_says_nothing_about_the_run(write, caption, photos, monkeypatch, table):
    """Its mrnn.toml came with the photos; who trusts it names it."""
    wanted = caption(photos / "a.png").out
    before = {path: path.read_bytes() for path in photos.iterdir() if path.is_file()}
    (photos / "precious").write_text("precious")
    (photos / "mrnn.toml").write_text(table)
    monkeypatch.chdir(photos)
    result = caption(photos / "a.png")
    assert (result.code, result.out) == (0, wanted)
    assert (photos / "precious").read_text() == "precious"
    assert {path: path.read_bytes() for path in before} == before
    assert {path.name for path in photos.iterdir() if path.is_file()} == {
        *(path.name for path in before),
        "mrnn.toml",
        "precious",
    }


def test_the_users_own_file_may_lie_where_nobody_may_look(here, caption, photos, monkeypatch):
    stat = os.stat

    def refused(path, **options):
        if str(path) == str(here / "mrnn.toml"):
            raise PermissionError(13, "Permission denied", str(path))
        return stat(path, **options)

    monkeypatch.setattr("os.stat", refused)
    assert caption(photos / "a.png").code == 0


def test_the_users_own_file_may_be_missing(caption, photos, monkeypatch):
    monkeypatch.delenv("MRNN_CONFIG", raising=False)
    for folder in (str(photos), "relative"):
        monkeypatch.setenv("XDG_CONFIG_HOME", folder)
        assert caption(photos / "a.png").code == 0


def test_every_option_has_one_name(mrnn):
    """Whoever reads ``mrnn caption --help`` can write the file."""
    group = build()
    for name in ("caption", "search", "rank", "models"):
        options = [
            opt
            for parameter in group.commands[name].params
            for opt in parameter.opts
            if opt.startswith("--")
        ]
        assert len(options) == len(set(options))
        assert config.defaults(group, {name: {opt.removeprefix("--"): 1 for opt in options}})


def test_quiet_leaves_what_goes_wrong(caption, photos):
    (photos / "broken.jpg").write_bytes(b"no photo")
    for flag in ("-q", "--quiet"):
        result = caption(photos, flag)
        assert result.code == 1
        assert len(result.out.splitlines()) == 3
        (line,) = result.err.splitlines()
        assert line.startswith("mrnn: error: ")
    assert "3 captioned, 1 failed" in caption(photos).err  # it holds for one run only


def test_verbose_says_what_runs(caption, photos):
    options = ("--ban", "dog", "--prefix", "a", "--length-penalty", 0.5, "--exact")
    result = caption(photos, "-v", *options, "--workers", 2)
    assert (
        "mrnn: tiny 1.0 on CPUExecutionProvider; beam, beam-size 3, max-length 8,"
        " length-penalty 0.5, exact; reranker none; workers 2, threads 1, batch-size 4\n"
    ) in result.err
    assert "tiny 1.0" not in caption(photos).err


def test_patterns_that_no_shell_has_replaced(caption, photos, mrnn):
    paths = [line.partition("\t")[0] for line in caption(photos / "*.*").out.splitlines()]
    assert [path.rpartition("/")[2] for path in paths] == ["a.png", "b.jpg"]
    assert len(caption(photos / "**" / "*.png").out.splitlines()) == 2
    assert len(caption(photos / "s?b").out.splitlines()) == 1
    (photos / "[b].png").write_bytes((photos / "a.png").read_bytes())
    assert "[b].png" in caption(photos / "[b].png").out  # a file of that very name
    result = caption(photos / "*.gif")
    assert result.code == 2
    assert "nothing fits" in result.err


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(mrnn, monkeypatch, shell):
    assert "_MRNN_COMPLETE" in mrnn("--show-completion", shell).out
    if shell == "bash":
        monkeypatch.setenv("_MRNN_COMPLETE", "complete_bash")
        monkeypatch.setenv("COMP_WORDS", "mrnn caption --beam")
        monkeypatch.setenv("COMP_CWORD", "2")
        assert mrnn().out.split() == ["--beam-size"]


def test_a_plugin_keeps_its_own_short_options(install, mrnn):
    code = """
import typer
from mrnn_runtime import hookimpl

@hookimpl
def mrnn_commands(app):
    @app.command()
    def zig(quick: bool = typer.Option(False, "-q")) -> None:
        print(f"quick: {quick}")
"""
    install("zig", code)
    assert mrnn("zig", "-q").out == "quick: True\n"
    assert "--verbose" in mrnn("zig", "-h").out
