"""What a run writes, where others write as well, where streams are closed, and in odd encodings."""

import json
import os
import re
import signal
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="asks for file descriptors")


def command(*args):
    return [sys.executable, "-m", "mrnn_runtime", "caption", "--provider", "cpu", *map(str, args)]


def mrnn(*args, shell="", env=None):
    """Run ``mrnn caption`` in a process of its own, with redirections as a shell has them."""
    script = f'exec "$@" {shell}'
    return subprocess.run(
        ["sh", "-c", script, "sh", *command(*args)],
        capture_output=True,
        env={**os.environ, **(env or {})},
        timeout=120,
    )


def make_photos(folder, count):
    random = np.random.default_rng(0)
    for i in range(count):
        pixels = random.integers(0, 256, (16, 16, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{i:03}.png")


class TestTwoWriters:
    @pytest.fixture
    def running(self, tmp_path):
        """A process that holds the lock of out.jsonl until it is killed, and that file."""
        make_photos(tmp_path, 5)
        output = tmp_path / "out.jsonl"
        child = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(output)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert child.stdout.readline() == b"locked\n"
        with child:
            yield child, output
            child.kill()

    @pytest.mark.parametrize("resume", [["--resume"], []])
    def test_the_second_says_who_holds_the_file(self, running, tiny_bundle, tmp_path, resume):
        child, output = running
        output.write_text("precious")
        done = mrnn(tmp_path, "--model", tiny_bundle, "--output", output, *resume)
        assert done.returncode == 3
        assert f"is being written by process {child.pid} on ".encode() in done.stderr
        assert output.read_text() == "precious"

    def test_a_link_to_the_file_is_the_file(self, running, tiny_bundle, tmp_path):
        _, output = running
        (tmp_path / "link.jsonl").symlink_to(output)
        done = mrnn(tmp_path, "--model", tiny_bundle, "--output", tmp_path / "link.jsonl")
        assert done.returncode == 3

    def test_the_lock_ends_with_its_process(self, running, tiny_bundle, tmp_path):
        child, output = running
        child.kill()
        child.wait()
        for _ in range(2):
            done = mrnn(tmp_path, "--model", tiny_bundle, "--output", output, "--resume")
            assert done.returncode == 0, done.stderr
        assert len(output.read_text().splitlines()) == 5
        assert not list(tmp_path.glob(".mrnn-*"))


HOLD = """
import sys
from pathlib import Path
from mrnn_runtime.cli.files import locked

with locked(Path(sys.argv[1])):
    print("locked", flush=True)
    sys.stdin.read()
"""


def test_of_many_writers_at_once_each_photo_is_there_once(tiny_bundle, tmp_path):
    make_photos(tmp_path, 200)
    output = tmp_path / "out.jsonl"
    args = command(tmp_path, "--model", tiny_bundle, "--output", output, "--resume")
    children = [subprocess.Popen(args, stderr=subprocess.PIPE) for _ in range(4)]
    codes = sorted(child.wait() for child in children)
    for child in children:
        child.stderr.close()
    assert set(codes) <= {0, 3}
    assert codes[0] == 0
    paths = [json.loads(line)["path"] for line in output.read_text().splitlines()]
    assert len(paths) == len(set(paths)) == 200


class TestStreams:
    @pytest.fixture
    def photo(self, tmp_path):
        make_photos(tmp_path, 1)
        return tmp_path / "000.png"

    def test_stdin_is_closed(self, tiny_bundle, photo):
        assert mrnn(photo, "--model", tiny_bundle, shell="<&-").returncode == 0
        done = mrnn("-", "--model", tiny_bundle, shell="<&-")
        assert done.returncode == 2
        assert b"stdin is closed" in done.stderr
        assert b"Traceback" not in done.stderr

    def test_stdout_is_closed(self, tiny_bundle, photo, tmp_path):
        done = mrnn(photo, "--model", tiny_bundle, shell=">&-")
        assert done.returncode == 3
        assert b"stdout is closed" in done.stderr
        output = tmp_path / "out.jsonl"
        done = mrnn(photo, "--model", tiny_bundle, "--output", output, shell=">&-")
        assert done.returncode == 0, done.stderr
        assert json.loads(output.read_text())["path"] == str(photo)

    def test_stderr_is_closed(self, tiny_bundle, photo):
        done = mrnn(photo, "--model", tiny_bundle, shell="2>&-")
        assert (done.returncode, len(done.stdout.splitlines())) == (0, 1)
        assert done.stdout.startswith(f"{photo}\t".encode())

    def test_all_are_closed(self, tiny_bundle, photo, tmp_path):
        output = tmp_path / "out.jsonl"
        closed = "<&- >&- 2>&-"
        done = mrnn(photo, "--model", tiny_bundle, "--output", output, shell=closed)
        assert done.returncode == 0
        assert json.loads(output.read_text())["path"] == str(photo)
        assert mrnn(photo, "--model", tiny_bundle, shell=closed).returncode == 3

    @pytest.mark.parametrize("form", ["text", "csv", "jsonl"])
    @pytest.mark.parametrize(
        "env",
        [
            {"PYTHONIOENCODING": "ascii"},
            {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        ],
        ids=["ascii", "C"],
    )
    def test_results_are_utf8_whatever_the_locale_says(self, tiny_bundle, photo, env, form):
        named = photo.rename(photo.with_name("größe 写真.png"))
        wanted = mrnn(named, "--model", tiny_bundle, "--format", form, env={"PYTHONUTF8": "1"})
        done = mrnn(named, "--model", tiny_bundle, "--format", form, env=env)
        assert done.returncode == 0, done.stderr
        if env.get("LC_ALL") and form == "jsonl":  # the name's bytes, as the locale has them
            path = json.loads(done.stdout)["path"]
            assert os.fsencode(path) == os.fsencode(named)
        else:
            assert done.stdout == wanted.stdout


SIGNALS = """
from mrnn_runtime import cli

def run(*args, after=cli._run, **options):
    print("ready", flush=True)
    after(*args, **options)

cli._run = run
cli.main()
"""


@pytest.mark.parametrize("delay", [0, 0.05, 0.1, 0.2, 0.4])
@pytest.mark.parametrize("pair", [(signal.SIGINT, signal.SIGINT), (signal.SIGTERM, signal.SIGINT)])
def test_two_signals_are_130(tiny_bundle, tmp_path, delay, pair):
    """At any moment after the imports, and a second time where the first is still being handled."""
    make_photos(tmp_path, 40)
    names = "\n".join(str(tmp_path / f"{i % 40:03}.png") for i in range(20_000))
    (tmp_path / "names").write_text(names)
    args = command("-", "--model", tiny_bundle, "--workers", 4, "--output", tmp_path / "out.jsonl")
    with (tmp_path / "names").open() as paths:
        child = subprocess.Popen(
            [sys.executable, "-c", SIGNALS, *args[3:]],
            stdin=paths,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            # Who runs the tests in the background has told all its children to ignore Ctrl-C.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
    with child:
        assert child.stdout.readline() == b"ready\n"
        for number, wait in zip(pair, (delay, 0.01), strict=True):
            # The moment is what is tested; a process that ends meanwhile shortens the wait.
            try:
                child.wait(wait)
            except subprocess.TimeoutExpired:
                child.send_signal(number)
        errors = child.stderr.read()
        assert child.wait(20) == 130, errors
    assert b"Traceback" not in errors
    assert b"terminate" not in errors
    output = tmp_path / "out.jsonl"
    text = output.read_text() if output.exists() else ""
    assert not text or text.endswith("\n")
    assert all("caption" in json.loads(line) for line in text.splitlines())


def test_a_signal_that_cannot_interrupt_ends_the_process(tmp_path):
    """A command that is in a long call of the system outlives KeyboardInterrupt, but not us."""
    child = subprocess.Popen(
        [sys.executable, "-c", STUBBORN],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    with child:
        assert child.stdout.readline() == b"ready\n"
        child.send_signal(signal.SIGINT)
        assert child.wait(20) == 130, child.stderr.read()


STUBBORN = """
from mrnn_runtime.cli import stopping

def job():
    print("ready", flush=True)
    while True:
        try:
            while True:
                pass
        except KeyboardInterrupt:
            pass

stopping.run(job, own_process=True)
"""


def test_a_signal_that_meets_a_finaliser_says_nothing():
    """Python loses an exception that is raised there, after a traceback on stderr."""
    done = subprocess.run(
        [sys.executable, "-c", FINALISED], capture_output=True, check=False, timeout=20
    )
    assert (done.returncode, done.stderr) == (130, b"")


FINALISED = """
import os, signal, time
from mrnn_runtime.cli import stopping

class Signalling:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)

def job():
    Signalling()
    time.sleep(20)

stopping.run(job, own_process=True)
"""


def test_the_code_of_a_run_that_is_done_is_its_own(tiny_bundle, tmp_path):
    make_photos(tmp_path, 1)
    done = mrnn(tmp_path / "000.png", "--model", tiny_bundle)
    assert done.returncode == 0
    assert re.search(rb"1 captioned, 0 failed", done.stderr)
    assert mrnn(tmp_path / "none.png", "--model", tiny_bundle).returncode == 2
