"""Whatever a graph gives back, it is a caption or an error that names the graph and the output."""

import shutil
import subprocess
import sys

import numpy as np
import pytest
from lies import outputs, tell
from mutations import PHOTO, copy_bundle, seed_bundle

import mrnn_runtime
from mrnn_runtime.bundle.loading import read_manifest, write_manifest
from mrnn_runtime.errors import BundleError
from mrnn_runtime.retrieval.gallery import open_gallery
from mrnn_runtime.retrieval.scorer import load_scorer


@pytest.fixture(scope="module")
def seed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("seed") / "bundle"
    seed_bundle(folder)
    return folder


def use(folder, photos):
    """Do with a bundle all that asks its graphs for something."""
    captioner = mrnn_runtime.load(folder, provider="cpu", threads=1)
    for decoder in ("greedy", "beam", "sample"):
        assert all(caption.text for caption in captioner.caption(photos, decoder=decoder))
    gallery = open_gallery(captioner, photos)
    assert gallery.images.reference_feature.shape == (2, 8)
    scores = load_scorer(captioner.model, [[4, 5], [6]]).log_probs(gallery.images)
    assert scores.shape == (2, 2)
    assert np.isfinite(scores).all()


def test_every_lie_is_found(seed, tmp_path):
    photos = [tmp_path / "a.ppm", tmp_path / "b.ppm"]
    for photo in photos:
        photo.write_bytes(PHOTO)
    use(seed, photos)
    wrong = []
    for number, (graph, output, lie) in enumerate(outputs(seed)):
        folder = tmp_path / str(number) / "bundle"
        copy_bundle(seed, folder)
        tell(folder, graph, output, lie)
        write_manifest(folder, read_manifest(folder))
        try:
            use(folder, photos)
        except BundleError as error:
            named = graph in str(error) and (output in str(error) or "does not load" in str(error))
            if not named or "\n" in str(error) or not error.hint:
                wrong.append(f"{graph} {output} {lie}: {error}")
        except Exception as error:
            wrong.append(f"{graph} {output} {lie}: {type(error).__name__}: {error}")
        else:
            if output != "first_memory":  # of which this cell makes no use
                wrong.append(f"{graph} {output} {lie} is taken")
        shutil.rmtree(folder.parent)
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("output", "lie"), [("reference_feature", "no rows"), ("image_term", "NaN")]
)
def test_the_command_says_so_and_exits_with_3(seed, tmp_path, output, lie):
    folder = tmp_path / "case" / "bundle"
    copy_bundle(seed, folder)
    tell(folder, "encoder.onnx", output, lie)
    write_manifest(folder, read_manifest(folder))
    (tmp_path / "a.ppm").write_bytes(PHOTO)
    command = [sys.executable, "-m", "mrnn_runtime", "caption", str(tmp_path / "a.ppm")]
    command += ["--model", str(folder), "--provider", "cpu"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (3, "")
    assert f"encoder.onnx: the output {output} gives" in done.stderr
