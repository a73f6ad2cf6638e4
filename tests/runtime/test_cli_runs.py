"""Runs that people leave alone: formats, resuming, sidecars, stdin, signals, a full disk."""

import csv
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from itertools import count
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mrnn_runtime.captioner import Captioner, load
from mrnn_runtime.cli.files import locked

FORMATS = ("jsonl", "csv")


@pytest.fixture
def many(tmp_path):
    """A folder with twelve photos, of which the third is broken."""
    folder = tmp_path / "many"
    folder.mkdir()
    random = np.random.default_rng(0)
    for i in range(12):
        Image.fromarray(random.integers(0, 256, (20, 20, 3), np.uint8)).save(folder / f"{i:02}.png")
    (folder / "02.png").write_bytes(b"broken")
    return folder


def paths_in(output, form):
    """The paths of the good records, each record once."""
    text = output.read_bytes().decode()
    match form:
        case "text":
            return [line.split("\t")[0] for line in text.splitlines()]
        case "jsonl":
            records = map(json.loads, text.splitlines())
            return [r["path"] for r in records if "error" not in r]
        case "csv":
            return [
                row["path"]
                for row in csv.DictReader(io.StringIO(text, newline=""))
                if not row["error"]
            ]


class TestCsv:
    def test_one_line_an_image(self, caption, many):
        result = caption(many, "--format", "csv", "--n-best", 2)
        rows = list(csv.DictReader(io.StringIO(result.out)))
        records = map(json.loads, caption(many, "--format", "jsonl").out.splitlines())
        for row, expected in zip(rows, records, strict=True):
            assert row["path"] == expected["path"]
            assert row["caption"] == expected.get("caption", "")
            assert row["error"] == expected.get("error", "")
            if "caption" in expected:
                assert float(row["log_prob"]) == expected["log_prob"]
                assert row["finished"] == str(expected["finished"]).lower()

    @pytest.mark.parametrize("name", ['a,"b"\nc.png', "a\rb.png", "a\r\nb.png", '"', "a'b", ","])
    def test_a_path_with_commas_quotes_and_lines(self, caption, many, tmp_path, name):
        odd = many / name
        (many / "00.png").rename(odd)
        output = tmp_path / "out.csv"
        caption(odd, "--format", "csv", "--output", output)
        assert paths_in(output, "csv") == [str(odd)]
        again = caption(odd, "--format", "csv", "--output", output, "--resume")
        assert "1 of 1 images are done" in again.err
        assert paths_in(output, "csv") == [str(odd)]


class TestResume:
    @pytest.mark.parametrize("form", FORMATS)
    @pytest.mark.parametrize("cut", [0, 1, 5, 40, 90, 100])
    def test_what_is_not_done_is_done(self, caption, many, tmp_path, form, cut):
        output, whole = tmp_path / "out", tmp_path / "whole"
        caption(many, "--format", form, "--output", whole)
        data = whole.read_bytes()
        output.write_bytes(data[: len(data) * cut // 100])
        result = caption(many, "--format", form, "--output", output, "--resume")
        assert result.code == 1, "one photo is still broken"
        assert sorted(paths_in(output, form)) == paths_in(whole, form)
        assert sorted(output.read_text().splitlines()) == sorted(whole.read_text().splitlines())
        assert len(output.read_text().splitlines()) == len(whole.read_text().splitlines())

    @pytest.mark.parametrize("form", FORMATS)
    def test_a_photo_that_was_repaired_is_done_again(self, caption, many, tmp_path, form):
        output = tmp_path / "out"
        caption(many, "--format", form, "--output", output)
        Image.new("RGB", (9, 9), "red").save(many / "02.png")
        result = caption(many, "--format", form, "--output", output, "--resume")
        assert result.code == 0
        assert sorted(paths_in(output, form)) == sorted(map(str, many.iterdir()))
        assert "broken" not in output.read_text()

    @pytest.mark.parametrize("args", [["--format", "text"], []])
    def test_text_is_not_gone_on_with(self, caption, many, tmp_path, args):
        output = tmp_path / "out"
        output.write_text("a\tb\nc\td\n")
        result = caption(many, *args, "--output", output, "--resume")
        assert result.code == 2
        assert "--resume does not go on with text" in result.err
        assert "jsonl" in result.err
        assert output.read_text() == "a\tb\nc\td\n"

    def test_nothing_is_written_twice_where_all_is_done(self, caption, many, tmp_path):
        output = tmp_path / "out"
        (many / "02.png").unlink()
        for _ in range(2):
            caption(many, "--format", "jsonl", "--output", output, "--resume")
        before = output.stat()
        result = caption(many, "--format", "jsonl", "--output", output, "--resume")
        assert result.code == 0
        assert "11 of 11 images are done" in result.err
        assert output.stat().st_mtime_ns == before.st_mtime_ns
        assert output.stat().st_ino == before.st_ino

    @pytest.mark.parametrize(
        ("written", "read"),
        [("text", "jsonl"), ("text", "csv"), ("jsonl", "csv"), ("csv", "jsonl")],
    )
    def test_another_format_is_refused(self, caption, many, tmp_path, written, read):
        output = tmp_path / "out"
        caption(many, "--format", written, "--output", output)
        before = output.read_bytes()
        result = caption(many, "--format", read, "--output", output, "--resume")
        assert result.code == 2
        assert f"no results of --format {read}" in result.err
        assert output.read_bytes() == before

    @pytest.mark.parametrize("form", FORMATS)
    @pytest.mark.parametrize("text", ["precious", '{"key": 1}', "p"])
    def test_what_is_no_result_is_left_alone(self, caption, many, tmp_path, form, text):
        output = tmp_path / "notes"
        output.write_text(text)
        begun = form == "csv" and text == "p"  # as path,caption,... begins
        result = caption(many, "--format", form, "--output", output, "--resume")
        assert result.code == (1 if begun else 2)
        assert begun or output.read_text() == text

    @pytest.mark.parametrize("form", FORMATS)
    @pytest.mark.parametrize("name", ["a\nb.png", "a\tb.png", "é\n,b.png"])
    def test_names_of_several_lines(self, caption, many, tmp_path, form, name):
        (many / "01.png").rename(many / name)
        output, whole = tmp_path / "out", tmp_path / "whole"
        caption(many, "--format", form, "--output", whole)
        data = whole.read_bytes()
        for place in re.finditer(re.escape(name.split("b")[0].encode()), data):
            output.write_bytes(data[: place.end()])
            caption(many, "--format", form, "--output", output, "--resume")
            assert sorted(output.read_bytes()) == sorted(data)

    def test_a_link_and_its_permissions_stay(self, caption, many, tmp_path):
        real, output = tmp_path / "real.jsonl", tmp_path / "out.jsonl"
        output.symlink_to(real)
        caption(many, "--output", output)
        real.chmod(0o600)
        caption(many, "--output", output, "--resume")
        assert output.is_symlink()
        assert real.stat().st_mode & 0o777 == 0o600
        assert len(paths_in(real, "jsonl")) == 11

    def test_it_must_know_what_is_done(self, caption, many, tmp_path):
        result = caption(many, "--resume")
        assert result.code == 2
        assert "--output, --sidecar or --write-metadata" in result.err
        report = ["--report", tmp_path / "r.html", "--output", tmp_path / "o"]
        assert caption(many, "--resume", *report).code == 2

    def test_without_it_the_file_is_written_anew(self, caption, many, tmp_path):
        output = tmp_path / "out"
        output.write_text("something else\n")
        caption(many / "00.png", "--output", output)
        assert paths_in(output, "text") == [str(many / "00.png")]

    @pytest.mark.parametrize(
        "line",
        [
            '{"error": "disk full", "time": 12}',
            '{"path": "x.jpg", "error": "disk full", "time": 12}',
            '{"path": 5, "error": "disk full"}',
            '{"path": "x.jpg", "caption": "a dog"}',
            "[" * 100_000,
            "[1]",
            "7",
            "",
        ],
        ids=lambda line: line[:30],
    )
    def test_a_foreign_line_among_ours_leaves_the_file_alone(self, caption, many, tmp_path, line):
        output = tmp_path / "out.jsonl"
        caption(many, "--output", output)
        text = line + "\n" + output.read_text()
        output.write_text(text)
        result = caption(many, "--output", output, "--resume")
        assert result.code == 2
        assert "holds no results" in result.err
        assert output.read_text() == text

    @pytest.mark.parametrize("end", ["precious", '{"key": 1', "a\tb"])
    def test_a_foreign_end_leaves_the_file_alone(self, caption, many, tmp_path, end):
        output = tmp_path / "out.jsonl"
        caption(many, "--output", output)
        with output.open("a") as file:
            file.write(end)
        before = output.read_text()
        assert caption(many, "--output", output, "--resume").code == 2
        assert output.read_text() == before

    @pytest.mark.parametrize(
        "row", ["a,b", "a,b,c,d,,e", "a,b,-1.5,true,,", "a,b,-1,true,,e", "a,b,,,,"]
    )
    def test_a_foreign_row_leaves_the_file_alone(self, caption, many, tmp_path, row):
        output = tmp_path / "out.csv"
        caption(many / "00.png", "--output", output)
        with output.open("a") as file:
            file.write(row + "\n")
        before = output.read_text()
        is_ours = row == "a,b,-1.5,true,,"
        result = caption(many / "00.png", "--output", output, "--resume")
        assert result.code == (0 if is_ours else 2)
        assert output.read_text() == before

    def test_a_pipe_is_refused(self, caption, many, tmp_path):
        os.mkfifo(tmp_path / "out.jsonl")
        result = caption(many, "--output", tmp_path / "out.jsonl", "--resume")
        assert result.code == 2
        assert "is no file that --resume can read" in result.err


@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("out.jsonl", "jsonl"),
        ("out.NDJSON", "jsonl"),
        ("out.csv", "csv"),
        ("out.txt", "text"),
        ("out", "text"),
    ],
)
def test_the_name_of_the_output_decides_the_format(caption, many, tmp_path, name, form):
    caption(many, "--output", tmp_path / name)
    assert (tmp_path / name).read_text() == caption(many, "--format", form).out
    caption(many, "--output", tmp_path / name, "--format", "text")
    assert (tmp_path / name).read_text() == caption(many).out


def test_n_best_are_in_the_order_of_their_scores(caption, many):
    options = ("--length-penalty", 1, "--n-best", 5, "--format", "jsonl")
    record = json.loads(caption(many / "00.png", *options).out)
    scores = [one["score"] for one in record["candidates"]]
    assert len(scores) > 1
    assert scores == sorted(scores, reverse=True)
    assert scores != [one["log_prob"] for one in record["candidates"]]


def test_what_a_folder_holds_besides_is_counted(caption, many):
    caption(many, "--sidecar", "txt")
    for name in ("a.mov", "b.MOV", "c.cr2", "README", ".hidden.mov", "00.xmp"):
        (many / name).touch()
    err = caption(many, "--format", "jsonl").err
    skipped = "4 skipped (2 .mov, 1 without suffix, 1 .cr2)"
    assert err == f"mrnn: 11 captioned, 1 failed, {skipped}; N images/s\n"


class TestSidecar:
    @pytest.mark.parametrize("length", [242, 243, 250, 251])
    def test_of_a_name_as_long_as_there_can_be(self, caption, many, length):
        photo = many / f"{'x' * (length - 4)}.png"
        (many / "00.png").rename(photo)
        result = caption(photo, "--sidecar", "txt")
        assert (result.code, Path(f"{photo}.txt").read_text()) == (0, result.out.split("\t")[1])

    @pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("precious")])
    def test_a_stranger_cannot_lead_it_elsewhere(self, caption, many, make):
        (many / "precious").write_text("precious")
        make(many / "03.png.txt")
        result = caption(many / "03.png", "--sidecar", "txt")
        assert result.code == 0
        assert (many / "precious").read_text() == "precious"
        assert (many / "03.png.txt").read_text() == result.out.split("\t")[1]
        assert not (many / "03.png.txt").is_symlink()

    def test_text(self, caption, many):
        result = caption(many, "--sidecar", "txt")
        said = dict(line.split("\t") for line in result.out.splitlines())
        assert len(said) == 11
        for path, text in said.items():
            assert Path(f"{path}.txt").read_text() == f"{text}\n"
        assert not (many / "02.png.txt").exists()

    def test_json_and_resume(self, caption, many):
        result = caption(many, "--sidecar", "json", "--format", "jsonl")
        for line in result.out.splitlines():
            record = json.loads(line)
            if "error" not in record:
                assert json.loads(Path(f"{record['path']}.json").read_text()) == record
        (many / "07.png.json").unlink()
        again = caption(many, "--sidecar", "json", "--resume")
        assert "10 of 12 images are done" in again.err
        assert again.out.split("\t")[0] == str(many / "07.png")

    def test_a_place_that_cannot_be_written(self, caption, many):
        (many / "03.png.txt").mkdir()
        result = caption(many / "03.png", many / "04.png", "--sidecar", "txt")
        assert result.code == 1
        assert "03.png.txt cannot be written" in result.err
        assert [Path(line.split("\t")[0]).name for line in result.out.splitlines()] == ["04.png"]
        assert (many / "04.png.txt").is_file()
        assert not [p for p in many.iterdir() if p.name.startswith(".")]

    @pytest.mark.parametrize(
        ("error", "said"),
        [
            (OSError("odd"), "cannot be written: odd (check the folder's permissions)"),
            (ValueError("it is a link"), "cannot be written: it is a link\n"),
        ],
    )
    def test_why_it_cannot_be_written(self, caption, many, monkeypatch, error, said):
        def fail(*_):
            raise error

        monkeypatch.setattr("mrnn_runtime.cli.sidecars.TextFile.keep", fail)
        assert said in caption(many / "03.png", "--sidecar", "txt").err

    def test_one_that_failed_is_made_again(self, caption, many, tmp_path):
        output = tmp_path / "out"
        options = ["--sidecar", "txt", "--format", "jsonl", "--output", output]
        (many / "03.png.txt").mkdir()
        caption(many, *options)
        (many / "03.png.txt").rmdir()
        assert "10 of 12 images are done" in caption(many, *options, "--resume").err
        for path in paths_in(output, "jsonl"):
            assert Path(f"{path}.txt").is_file()


class TestStdin:
    def test_paths_one_a_line(self, caption, many, monkeypatch):
        lines = f"{many / '03.png'}\n\n{many / 'none.png'}\r\n{many}\n"
        monkeypatch.setattr("sys.stdin", io.StringIO(lines))
        result = caption(many / "00.png", "-", "--format", "jsonl")
        paths = [Path(json.loads(line)["path"]).name for line in result.out.splitlines()]
        assert paths[:3] == ["00.png", "03.png", "none.png"]
        assert len(paths) == 3 + 12
        assert result.code == 1
        assert "13 captioned, 2 failed" in result.err


def test_a_name_with_a_zero_byte_is_one_record(caption, many, monkeypatch, tmp_path):
    (tmp_path / "x.jsonl").touch()  # it is there, so photos are compared with it
    monkeypatch.setattr("sys.stdin", io.StringIO(f"a\0b.png\n{many / '00.png'}\n"))
    result = caption("-", "--output", tmp_path / "x.jsonl")
    assert result.code == 1
    assert "1 captioned, 1 failed" in result.err


def test_a_name_cannot_command_a_terminal_or_forge_a_line(caption, many, monkeypatch):
    monkeypatch.chdir(many)
    odd = "a\x1b]0;owned\x07\netc\tb\u202e\x9b2J"
    shutil.copy("00.png", f"{odd}1.png")
    shutil.copy("02.png", f"{odd}2.png")  # which is broken
    shown = r"a\x1b]0;owned\x07\netc\tb\u202e\x9b2J"
    result = caption(f"{odd}1.png", f"{odd}2.png")
    assert result.out.startswith(f"{shown}1.png\t")
    assert result.out.count("\n") == 1
    assert f"error: {shown}2.png is no image" in result.err
    assert len(result.err.splitlines()) == 2
    result = caption(f"{odd}.png")
    assert (result.code, len(result.err.splitlines())) == (2, 2)
    assert shown in result.err


def test_a_name_that_is_too_long_is_one_record(caption, many, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{'a' * 300}\n{many / '03.png'}\n"))
    result = caption("-", "--format", "jsonl")
    assert result.code == 1
    assert ["error" in json.loads(line) for line in result.out.splitlines()] == [True, False]


@pytest.mark.skipif(sys.platform != "linux", reason="the limit is Linux's")
def test_a_folder_beyond_the_longest_path_is_one_record(caption, many, tmp_path, monkeypatch):
    monkeypatch.chdir(many)
    for _ in range(20):
        os.mkdir("d" * 240)
        os.chdir("d" * 240)
    result = caption(many, "--format", "jsonl")
    records = list(map(json.loads, result.out.splitlines()))
    assert result.code == 1
    assert "11 captioned, 2 failed" in result.err
    assert "File name too long" in records[-1]["error"]
    assert len(os.fsencode(records[-1]["path"])) > 4096


class TestTargets:
    def test_a_photo_is_not_written_over(self, caption, many, tmp_path):
        before = (many / "00.png").read_bytes()
        os.link(many / "00.png", tmp_path / "link.jsonl")
        for option in ("--output", "--report"):
            for path in (many / "00.png", tmp_path / "link.jsonl"):
                result = caption(many, option, path)
                assert result.code == 2
                assert f"{option} names the photo" in result.err
        assert (many / "00.png").read_bytes() == before

    @pytest.mark.parametrize("exists", [True, False])
    def test_output_and_report_are_two_files(self, caption, many, tmp_path, exists):
        if exists:
            (tmp_path / "x").write_text("precious")
        result = caption(many, "--output", tmp_path / "x", "--report", tmp_path / "." / "x")
        assert result.code == 2
        assert "both name" in result.err
        assert not exists or (tmp_path / "x").read_text() == "precious"

    def test_a_report_goes_where_a_link_leads(self, caption, many, tmp_path):
        (tmp_path / "link.html").symlink_to(tmp_path / "real.html")
        caption(many, "--report", tmp_path / "link.html")
        assert (tmp_path / "link.html").is_symlink()
        assert (tmp_path / "real.html").read_text().startswith("<!doctype html>")

    @pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
    def test_a_report_leaves_a_device_a_device(self, caption, many):
        result = caption(many, "--report", "/dev/full")
        assert result.code == 3
        assert "cannot write /dev/full: No space left" in result.err
        assert Path("/dev/full").is_char_device()
        assert caption(many, "--report", "/dev/null").code == 1
        assert Path("/dev/null").is_char_device()

    @pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("precious")])
    def test_a_stranger_cannot_lead_the_lock_elsewhere(self, caption, many, tmp_path, make):
        (tmp_path / "precious").write_text("precious")
        with locked(tmp_path / "x.csv"):
            (place,) = tmp_path.glob(".mrnn-*.lock")
        make(place)
        result = caption(many, "--output", tmp_path / "x.csv")
        assert result.code == 1
        assert "cannot be locked" in result.err
        assert len((tmp_path / "x.csv").read_text().splitlines()) == 13
        assert (tmp_path / "precious").read_text() == "precious"

    @pytest.mark.parametrize("option", ["--output", "--report", ""])
    def test_a_sidecar_takes_the_place_of_no_other_file(self, caption, many, option):
        place = many / "00.png.txt"
        shutil.copy(many / "01.png", place)  # of --output, it would be truncated
        args = [option, place] if option else [place]
        result = caption(many / "00.png", *args, "--sidecar", "txt")
        assert (result.code, result.out) == (2, "")
        assert f"--sidecar would write over {place}" in result.err
        assert place.read_bytes() == (many / "01.png").read_bytes()

    def test_nothing_is_left_behind(self, caption, many, tmp_path):
        caption(many, "--output", tmp_path / "a.csv", "--report", tmp_path / "b.html")
        assert {path.name for path in tmp_path.iterdir()} == {"many", "a.csv", "b.html"}


def test_workers_and_threads(caption, many):
    outputs = {caption(many, "--workers", n, "--batch-size", b).out for n in (1, 3) for b in (1, 5)}
    assert len(outputs) == 1
    assert caption(many, "--workers", 0).code == 2


@pytest.mark.parametrize(
    ("given", "workers", "threads"), [((), 4, 1), ((0,), 1, 0), ((2,), 2, 2), ((4,), 1, 4)]
)
def test_no_more_threads_than_cores(mrnn, tiny_bundle, many, monkeypatch, given, workers, threads):
    seen = {}

    def watched(self, images, **options):
        seen["workers"] = options["workers"]
        return captions(self, images, **options)

    def watched_load(model, **options):
        seen["threads"] = options["threads"]
        return load(model, **{**options, "threads": 1})

    captions = Captioner.caption
    monkeypatch.setattr(Captioner, "caption", watched)
    monkeypatch.setattr("mrnn_runtime.captioner.load", watched_load)
    monkeypatch.setattr("mrnn_runtime.engine.sessions.cores", lambda: 4)
    options = [part for number in given for part in ("--threads", number)]
    mrnn("caption", many, "--model", tiny_bundle, "--provider", "cpu", *options)
    assert seen == {"workers": workers, "threads": threads}


def test_a_deadline(caption, many, monkeypatch):
    ticks = count()
    monkeypatch.setattr("time.monotonic", lambda: next(ticks) * 10.0)
    result = caption(many, "--min-length", 5, "--deadline-ms", 500, "--format", "jsonl")
    records = [json.loads(line) for line in result.out.splitlines()]
    assert [len(r["caption"].split()) for r in records if "caption" in r] == [1] * 11
    assert not any(r["finished"] for r in records if "caption" in r)


def test_a_photo_that_cannot_be_opened(caption, many):
    (many / "03.png").unlink()
    (many / "03.png").symlink_to(many / "nowhere.png")
    result = caption(many, "--format", "jsonl")
    errors = [r for r in map(json.loads, result.out.splitlines()) if "error" in r]
    assert [Path(r["path"]).name for r in errors] == ["02.png", "03.png"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
def test_a_full_disk(caption, many):
    result = caption(many, "--output", "/dev/full")
    assert result.code == 3
    assert "cannot write /dev/full: No space left" in result.err
    assert "hint: make room\n" in result.err  # a device cannot be resumed


@pytest.mark.parametrize(
    ("form", "hint"), [("jsonl", "make room, then go on with --resume"), ("text", "make room")]
)
def test_a_disk_that_fills_up_leaves_whole_records(
    caption, many, tmp_path, monkeypatch, form, hint
):
    """Half a record is written, then there is no room."""
    output, write, calls = tmp_path / "out", os.write, []

    def full(file, data):
        calls.append(len(data))
        if len(calls) == 5:
            return write(file, data[: len(data) // 2])
        if len(calls) == 6:
            raise OSError(28, "No space left on device")
        return write(file, data)

    monkeypatch.setattr("os.write", full)
    result = caption(many, "--format", form, "--output", output)
    monkeypatch.undo()
    assert result.code == 3
    assert f"hint: {hint}\n" in result.err
    text = output.read_text()
    assert (text.count("\n"), text[-1]) == (4, "\n")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--output", "out.jsonl"], "; --resume goes on"),
        (["--output", "out.jsonl", "--report", "out.html"], ""),
        (["--output", "out.txt"], ""),
        (["--output", "out.txt", "--sidecar", "txt"], ""),
        (["--sidecar", "txt"], "; --resume goes on"),
        ([], ""),
    ],
)
def test_who_stops_a_run_hears_of_resume_where_it_works(
    caption, many, tmp_path, monkeypatch, options, said
):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("mrnn_runtime.cli.targets.Targets._write_one", stop)
    result = caption(many, *options)
    assert result.code == 130
    assert f"stopped after 0 of 12 images{said}\n" in result.err


def test_a_folder_of_the_output_that_is_missing(caption, many, tmp_path):
    result = caption(many, "--output", tmp_path / "no" / "out.jsonl")
    assert result.code == 2
    assert "hint: make the folder first, or choose another --output\n" in result.err


def test_a_signal_before_the_first_image(mrnn, many, monkeypatch, tiny_bundle):
    monkeypatch.setattr(
        "mrnn_runtime.captioner.load_bundle", lambda _: os.kill(os.getpid(), signal.SIGTERM)
    )
    before = signal.getsignal(signal.SIGTERM)
    assert mrnn("caption", many, "--model", tiny_bundle).code == 130
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_whole_records(tiny_bundle, many, tmp_path, sent):
    output = tmp_path / "out.jsonl"
    names = "\n".join(str(many / f"{i % 12:02}.png") for i in range(20_000))
    command = [sys.executable, "-m", "mrnn_runtime", "caption", "-", "--model", str(tiny_bundle)]
    command += ["--format", "jsonl", "--output", str(output), "--workers", "2"]
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Who runs the tests in the background has told all its children to ignore Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as child:
        child.stdin.write(names)
        child.stdin.close()
        while child.poll() is None and not (output.exists() and output.stat().st_size > 5000):
            with suppress(subprocess.TimeoutExpired):
                child.wait(0.02)
        child.send_signal(sent)
        message = child.stderr.read()
        assert child.wait(60) == 130, message
    assert "Traceback" not in message
    assert "--resume" in message
    data = output.read_text()
    assert data.endswith("\n")
    assert 0 < len([json.loads(line) for line in data.splitlines()]) < 20_000
