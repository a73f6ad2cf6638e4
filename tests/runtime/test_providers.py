"""No silent fallback: a provider that was named runs, or the error says how to fix it.

There is no GPU where these tests run, so a stand-in plays ONNX Runtime with one: good, broken, or
mixed up. What it does is what the real wheels did when they were tried.
"""

import importlib
import logging
import os
import subprocess
import sys
from importlib.machinery import ModuleSpec
from threading import Thread
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from mrnn_runtime.engine import providers
from mrnn_runtime.engine.providers import load_onnxruntime, open_session, probe, resolve, wheels
from mrnn_runtime.errors import BundleError, ProviderError, UsageError

CPU, CUDA, TENSORRT = providers.PROVIDERS.values()


@pytest.fixture(autouse=True)
def forget():
    """Let each test choose anew what ``auto`` is."""
    providers._best.cache_clear()
    yield
    providers._best.cache_clear()


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A place for packages where nothing is installed yet; install with ``install``."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "onnxruntime"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    importlib.invalidate_caches()
    return tmp_path


def install(site, *distributions):
    for name in distributions:
        info = site / f"{name.replace('-', '_')}-1.30.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.30.0\n")
        (info / "top_level.txt").write_text("onnxruntime\n")


class Play:
    """ONNX Runtime as far as we use it, with the behaviour that a test asks for."""

    def __init__(self, *, listed, comes_up, fails=None, fails_with_files=None, says="", adds=2.0):
        self.listed, self.comes_up, self.says, self.adds = listed, comes_up, says, adds
        self.fails, self.fails_with_files = fails, fails_with_files
        self.sessions = []

    def get_available_providers(self):
        return list(self.listed)

    def SessionOptions(self):  # noqa: N802 - the name in ONNX Runtime
        return SimpleNamespace()

    def preload_dlls(self):
        print(self.says, end="")
        if self.says:
            raise RuntimeError("no such directory")

    def InferenceSession(self, model, *, sess_options, providers, enable_fallback):  # noqa: N802
        print("*************** EP Error ***************" if self.says else "", end="")
        if self.fails or (self.fails_with_files and model == b""):
            raise self.fails or self.fails_with_files
        session = PlaySession(self.comes_up, providers, enable_fallback, self.adds)
        self.sessions.append(session)
        return session


class PlaySession:
    def __init__(self, comes_up, asked, enable_fallback, adds):
        self.comes_up, self.asked, self.adds = comes_up, asked, adds
        self.falls_back_at_start, self.falls_back_later = bool(enable_fallback), True

    def get_providers(self):
        return list(self.comes_up)

    def disable_fallback(self):
        self.falls_back_later = False

    def run(self, outputs, feeds):
        return [feeds["x"] * self.adds]


@pytest.fixture
def play(monkeypatch):
    """Put a stand-in in the place of ONNX Runtime: ``play(listed=..., comes_up=...)``."""

    def start(**behaviour):
        actor = Play(**behaviour)
        module = ModuleType("onnxruntime")
        module.__spec__ = ModuleSpec("onnxruntime", None)
        for name in dir(actor):
            if not name.startswith("_"):
                setattr(module, name, getattr(actor, name))
        monkeypatch.setitem(sys.modules, "onnxruntime", module)
        return actor

    return start


TELEMETRY = "ORT_DISABLE_TELEMETRY"
GPU_WHEEL = (TENSORRT, CUDA, CPU)


class TestReal:
    """With the ONNX Runtime that is installed here."""

    def test_the_cpu_works(self):
        assert probe("cpu") == providers.ProbeResult("cpu", listed=True, works=True, detail="")

    def test_nothing_is_kept_or_sent_about_this_machine(self, tmp_path):
        """ONNX Runtime 1.32 writes a number of the machine into the user's cache otherwise."""
        env = {k: v for k, v in os.environ.items() if k not in ("XDG_CACHE_HOME", TELEMETRY)}
        code = "from mrnn_runtime.engine.providers import probe; assert probe('cpu').works"
        env |= {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)}
        subprocess.run([sys.executable, "-c", code], env=env, check=True)
        assert not list(tmp_path.iterdir())

    def test_cuda_is_refused_where_it_is_not(self):
        if CUDA in load_onnxruntime().get_available_providers():
            pytest.skip("this ONNX Runtime has CUDA")
        with pytest.raises(ProviderError, match="CUDAExecutionProvider is not in") as caught:
            open_session(b"", "x.onnx", "cuda", None)
        assert 'pip install "mrnn-runtime[gpu]"' in caught.value.hint
        probed = probe("cuda")
        assert (probed.listed, probed.works) == (False, False)
        assert "mrnn-runtime[gpu]" in probed.detail
        assert resolve("auto") == "cpu"

    def test_wheels(self):
        assert wheels()

    def test_the_probe_is_a_valid_model(self):
        import onnx

        model = onnx.load_from_string(
            providers.small_model("Add", {"x": (1, 1), "z": (1, 1)}, (1, 1))
        )
        onnx.checker.check_model(model, full_check=True)


class TestWords:
    @pytest.mark.parametrize("word", ["cpu", "cuda", "tensorrt"])
    def test_a_named_provider_stays_what_it_is(self, word):
        assert resolve(word) == word

    @pytest.mark.parametrize(
        ("word", "hint"),
        [("gpu", "cpu"), ("CUDA", "did you mean cuda?"), ("x", "use one of auto, cpu, cuda")],
    )
    def test_unknown_words(self, word, hint):
        with pytest.raises(UsageError, match="unknown provider") as caught:
            resolve(word)
        assert hint in caught.value.hint


class TestInstallation:
    def test_none(self, site):
        with pytest.raises(ProviderError, match="is not installed") as caught:
            load_onnxruntime()
        assert "mrnn-runtime[cpu]" in caught.value.hint
        assert wheels() == ()
        probed = probe("cpu")
        assert (probed.listed, probed.works) == (False, False)
        assert "mrnn-runtime[cpu]" in probed.detail

    def test_an_empty_folder_is_left(self, site):
        (site / "onnxruntime" / "capi").mkdir(parents=True)
        with pytest.raises(ProviderError, match="empty folder") as caught:
            load_onnxruntime()
        assert "pip uninstall -y onnxruntime onnxruntime-gpu" in caught.value.hint

    def test_it_does_not_load(self, site):
        (site / "onnxruntime").mkdir()
        code = "raise ImportError('libstdc++.so.6: version not found')\n"
        (site / "onnxruntime" / "__init__.py").write_text(code)
        with pytest.raises(ProviderError, match=r"does not load: libstdc\+\+") as caught:
            load_onnxruntime()
        assert "Visual C++" in caught.value.hint

    def test_both_wheels(self, site, play):
        install(site, "onnxruntime", "onnxruntime-gpu")
        play(listed=[CPU], comes_up=[CPU])
        assert wheels() == ("onnxruntime", "onnxruntime-gpu")
        with pytest.raises(ProviderError, match="is not in the ONNX Runtime") as caught:
            open_session(b"", "x.onnx", "cuda", None)
        assert "onnxruntime and onnxruntime-gpu overwrite each other" in caught.value.hint

    def test_a_wheel_for_another_device(self, site, play):
        install(site, "onnxruntime-directml")
        play(listed=["DmlExecutionProvider", CPU], comes_up=[CPU])
        with pytest.raises(ProviderError) as caught:
            open_session(b"", "x.onnx", "cuda", None)
        assert "mrnn-runtime[gpu]" in caught.value.hint


class TestNamed:
    def test_cuda_that_works(self, play):
        actor = play(listed=GPU_WHEEL, comes_up=[CUDA, CPU])
        session = open_session(b"", "x.onnx", "cuda", None)
        assert session.asked == [(CUDA, {"use_tf32": "0"}), CPU]
        assert not session.falls_back_at_start
        assert not session.falls_back_later
        assert actor.sessions == [session]
        assert probe("cuda").works

    def test_tensorrt_that_works(self, play):
        play(listed=GPU_WHEEL, comes_up=[TENSORRT, CUDA, CPU])
        session = open_session(b"", "x.onnx", "tensorrt", None)
        assert session.asked == [(TENSORRT, {}), (CUDA, {"use_tf32": "0"}), CPU]

    def test_cuda_libraries_are_missing(self, play, capsys):
        play(listed=GPU_WHEEL, comes_up=[CPU], says="Failed to load libcublas.so.12\n")
        with pytest.raises(ProviderError) as caught:
            open_session(b"", "x.onnx", "cuda", None)
        assert "took CPUExecutionProvider" in caught.value.message
        assert "Failed to load libcublas.so.12 no such directory" in caught.value.message
        assert "onnxruntime-gpu[cuda,cudnn]" in caught.value.hint
        assert capsys.readouterr().out == ""
        probed = probe("cuda")
        assert (probed.listed, probed.works) == (True, False)
        assert "libcublas" in probed.detail

    def test_tensorrt_that_turns_into_cuda(self, play):
        play(listed=GPU_WHEEL, comes_up=[CUDA, CPU])
        with pytest.raises(ProviderError, match="took CUDAExecutionProvider") as caught:
            open_session(b"", "x.onnx", "tensorrt", None)
        assert "TensorRT" in caught.value.hint

    def test_a_provider_that_cannot_start(self, play):
        play(listed=GPU_WHEEL, comes_up=[CUDA], fails=RuntimeError("CUDA failure 100:\n no device"))
        with pytest.raises(ProviderError, match="cuda does not work: CUDA failure 100: no device"):
            open_session(b"", "x.onnx", "cuda", None)

    def test_a_model_that_cannot_load_is_not_the_provider(self, play):
        class NotImplementedHere(Exception):  # noqa: N818 - as ONNX Runtime's, beneath Exception
            pass

        failure = NotImplementedHere("no kernel for TopK")
        play(listed=GPU_WHEEL, comes_up=[CUDA], fails_with_files=failure)
        with pytest.raises(BundleError, match=r"x\.onnx does not load on cuda: no kernel"):
            open_session(b"", "x.onnx", "cuda", None)

    def test_a_device_that_computes_nonsense(self, play):
        play(listed=GPU_WHEEL, comes_up=[CUDA], adds=np.nan)
        probed = probe("cuda")
        assert not probed.works
        assert "1 + 1 is nan" in probed.detail

    def test_what_other_threads_print_meanwhile_goes_where_it_should(self, play, capsys):
        def talkative(*args, **options):
            print("from ONNX Runtime")
            host = Thread(target=lambda: print("from the host"))
            host.start()
            host.join()
            return actor.InferenceSession(*args, **options)

        actor = play(listed=GPU_WHEEL, comes_up=[CUDA, CPU])
        sys.modules["onnxruntime"].InferenceSession = talkative
        open_session(b"", "x.onnx", "cuda", None)
        assert capsys.readouterr().out == "from the host\n"


class TestAuto:
    def resolved(self, caplog):
        """Resolve twice, as two graphs do; return the word and the warnings."""
        with caplog.at_level(logging.WARNING, "mrnn_runtime"):
            words = {resolve("auto"), resolve("auto")}
        assert {record.name for record in caplog.records} <= {"mrnn_runtime"}
        return words, [record.getMessage() for record in caplog.records]

    def test_cuda_where_it_works(self, play, caplog):
        play(listed=GPU_WHEEL, comes_up=[CUDA, CPU])
        assert self.resolved(caplog) == ({"cuda"}, [])

    def test_the_cpu_wheel_is_nothing_to_talk_about(self, site, play, caplog):
        install(site, "onnxruntime")
        play(listed=["AzureExecutionProvider", CPU], comes_up=[CPU])
        assert self.resolved(caplog) == ({"cpu"}, [])

    def test_cuda_that_does_not_come_up_is_said_once(self, play, caplog):
        play(listed=GPU_WHEEL, comes_up=[CPU], says="Failed to load libcublas.so.12\n")
        words, (warning,) = self.resolved(caplog)
        assert words == {"cpu"}
        assert "libcublas" in warning
        assert "onnxruntime-gpu[cuda,cudnn]" in warning

    def test_both_wheels_are_said_once(self, site, play, caplog):
        install(site, "onnxruntime", "onnxruntime-gpu")
        play(listed=[CPU], comes_up=[CPU])
        words, (warning,) = self.resolved(caplog)
        assert words == {"cpu"}
        assert "overwrite each other" in warning

    def test_it_needs_an_onnx_runtime(self, site):
        with pytest.raises(ProviderError, match="is not installed"):
            resolve("auto")
