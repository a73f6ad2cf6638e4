"""Photos for a sentence and sentences for a photo: the ranks, the cache, the commands."""

import json
import zipfile
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from PIL import Image

from mrnn_runtime import load
from mrnn_runtime.bundle.loading import read_manifest, write_manifest
from mrnn_runtime.errors import BundleError, UsageError
from mrnn_runtime.plugins.contracts import Encoder
from mrnn_runtime.retrieval import gallery as galleries
from mrnn_runtime.retrieval.gallery import open_gallery
from mrnn_runtime.retrieval.ranking import (
    BACKGROUND,
    find_photos,
    load_background,
    log_mean,
    rank_sentences,
    save_background,
)
from mrnn_runtime.retrieval.scorer import load_scorer
from mrnn_runtime.retrieval.stored import open_stored

SENTENCES = ["a man", "a dog runs on grass", "the man 's hat", "dog"]


@dataclass
class Counting:
    """An encoder that remembers how many images it was given."""

    encoder: Encoder
    sizes: list[int] = field(default_factory=list)

    @property
    def provider(self):
        return self.encoder.provider

    def encode(self, images):
        self.sizes.append(len(images))
        return self.encoder.encode(images)


@pytest.fixture
def captioner(tiny_bundle):
    loaded = load(tiny_bundle, provider="cpu", threads=1)
    return replace(loaded, encoder=Counting(loaded.encoder))


@pytest.fixture
def with_background(tiny_copy):
    """A bundle that holds the image inputs of training photos."""
    captioner = load(tiny_copy, provider="cpu", threads=1)
    images = np.random.default_rng(0).integers(0, 256, (5, 16, 16, 3), np.uint8)
    save_background(captioner.encoder.encode(images), tiny_copy)
    write_manifest(tiny_copy, read_manifest(tiny_copy))
    return tiny_copy


def scores(captioner, gallery, sentences):
    ids = [captioner.vocabulary.encode(sentence) for sentence in sentences]
    return load_scorer(captioner.model, ids).log_probs(gallery.images)


def test_photos_are_ranked_by_the_probability_of_the_sentence(captioner, photos):
    gallery = open_gallery(captioner, [photos])
    matches = find_photos(captioner, SENTENCES[1], gallery)
    expected = scores(captioner, gallery, [SENTENCES[1]])[:, 0]
    assert [match.path for match in matches] == [gallery.paths[i] for i in np.argsort(-expected)]
    assert [match.log_prob for match in matches] == sorted(expected, reverse=True)
    assert {match.sentence for match in matches} == {SENTENCES[1]}


def test_sentences_are_ranked_by_what_the_photo_adds(captioner, photos):
    gallery = open_gallery(captioner, [photos])
    background = captioner.encoder.encode(np.zeros((2, 16, 16, 3), np.uint8))
    ranked = rank_sentences(captioner, SENTENCES, gallery, background=background)
    expected = scores(captioner, gallery, SENTENCES)
    ids = [captioner.vocabulary.encode(sentence) for sentence in SENTENCES]
    prior = np.log(np.exp(load_scorer(captioner.model, ids).log_probs(background)).mean(axis=0))
    for matches, numbers, path in zip(ranked, expected, gallery.paths, strict=True):
        assert [m.score for m in matches] == pytest.approx(sorted(numbers - prior, reverse=True))
        assert {m.path for m in matches} == {path}
        by_sentence = {m.sentence: m.log_prob for m in matches}
        assert [by_sentence[s] for s in SENTENCES] == pytest.approx(list(numbers))


def test_the_mean_does_not_underflow():
    tiny = np.array([[-2000.0, -1.0], [-2000.0, -3.0]])
    assert log_mean(tiny) == pytest.approx([-2000, np.log((np.exp(-1) + np.exp(-3)) / 2)])


def test_the_background_of_the_bundle(with_background, photos):
    captioner = load(with_background, provider="cpu", threads=1)
    background = load_background(captioner.bundle)
    assert len(background) == 5
    gallery = open_gallery(captioner, [photos])
    own = rank_sentences(captioner, SENTENCES, gallery)
    assert own == rank_sentences(captioner, SENTENCES, gallery, background=background)


def test_no_background(captioner, photos):
    with pytest.raises(UsageError, match=BACKGROUND) as caught:
        rank_sentences(captioner, SENTENCES, open_gallery(captioner, [photos]))
    assert "--background" in caught.value.hint


@pytest.mark.parametrize("how", ["cut", "another shape", "another name", "empty", "nan"])
def test_a_damaged_background(with_background, how):
    file = with_background / BACKGROUND
    arrays = {
        "another shape": {"image_term": np.zeros((5, 7), np.float16)},
        "another name": {"image": np.zeros((5, 6), np.float16)},
        "empty": {"image_term": np.zeros((0, 6), np.float16)},
        "nan": {"image_term": np.full((5, 6), np.nan, np.float16)},
    }
    if how == "cut":
        file.write_bytes(file.read_bytes()[:100])
    else:
        np.savez(file, **arrays[how])
    write_manifest(with_background, read_manifest(with_background))
    bundle = load(with_background, provider="cpu", threads=1).bundle
    with pytest.raises(BundleError, match=BACKGROUND):
        load_background(bundle)


def test_a_member_of_the_background_that_is_no_array(with_background):
    with zipfile.ZipFile(with_background / BACKGROUND, "w") as archive:
        archive.writestr("image_term.npy", b"no mark of an array")
    write_manifest(with_background, read_manifest(with_background))
    bundle = load(with_background, provider="cpu", threads=1).bundle
    with pytest.raises(BundleError, match=BACKGROUND):
        load_background(bundle)


class TestCache:
    def counted(self, captioner, photos, cache):
        captioner.encoder.sizes.clear()
        gallery = open_gallery(captioner, [photos], cache=cache)
        return sum(captioner.encoder.sizes), gallery

    def test_a_second_question_encodes_nothing(self, captioner, photos, tmp_path):
        first, one = self.counted(captioner, photos, tmp_path / "cache")
        second, other = self.counted(captioner, photos, tmp_path / "cache")
        assert (first, second) == (3, 0)
        assert one.paths == other.paths
        for name, array in one.images.inputs.items():
            assert array.tobytes() == other.images.inputs[name].tobytes()

    def test_what_changed_is_encoded_again(self, captioner, photos, tmp_path):
        self.counted(captioner, photos, tmp_path)
        Image.new("RGB", (20, 20), "white").save(photos / "a.png")
        (photos / "b.jpg").unlink()
        Image.new("RGB", (20, 20), "black").save(photos / "new.png")
        again, gallery = self.counted(captioner, photos, tmp_path)
        assert again == 2
        assert [path.name for path in gallery.paths] == ["a.png", "new.png", "c.png"]
        _, fresh = self.counted(captioner, photos, None)
        assert gallery.images.reference_feature.tobytes() == (
            fresh.images.reference_feature.tobytes()
        )

    def test_a_damaged_cache_is_made_again(self, captioner, photos, tmp_path, caplog):
        self.counted(captioner, photos, tmp_path)
        (file,) = tmp_path.glob("*.npz")
        file.write_bytes(file.read_bytes()[:200])
        assert self.counted(captioner, photos, tmp_path)[0] == 3
        assert "damaged" in caplog.text
        assert self.counted(captioner, photos, tmp_path)[0] == 0

    def test_no_byte_of_a_cache_can_end_the_run(self, captioner, photos, tmp_path):
        self.counted(captioner, photos, tmp_path)
        (file,) = tmp_path.glob("*.npz")
        whole = file.read_bytes()
        blank = captioner.encode([])
        kept = galleries._load(file, blank)
        for place in range(0, len(whole), 11):
            for damage in (b"", b"\xff", bytes([whole[place] ^ 1])):
                rest = whole[place + 1 :] if damage else b""
                file.write_bytes(whole[:place] + damage + rest)
                assert galleries._load(file, blank).keys() in (set(), kept.keys())

    @pytest.mark.parametrize(
        ("name", "array"),
        [
            ("names", np.frombuffer(b"[1, 2, 3]", np.uint8)),
            ("names", np.frombuffer(b'{"a": 1}', np.uint8)),
            ("names", np.frombuffer(b"[" * 9999, np.uint8)),
            ("reference_feature", np.zeros((3, 7), np.float32)),
            ("reference_feature", np.zeros((2, 8), np.float32)),
            ("reference_feature", np.zeros((3, 8), np.float64)),
            ("inputs/image_term", np.full((3, 6), np.nan, np.float32)),
            ("inputs/more", np.zeros((3, 6), np.float32)),
        ],
    )
    def test_a_cache_of_something_else_is_made_again(
        self, captioner, photos, tmp_path, name, array
    ):
        _, one = self.counted(captioner, photos, tmp_path)
        (file,) = tmp_path.glob("*.npz")
        with np.load(file) as archive:
            arrays = dict(archive)
        np.savez(file, **{**arrays, name: array})
        again, other = self.counted(captioner, photos, tmp_path)
        assert again == 3
        assert np.array_equal(one.images.reference_feature, other.images.reference_feature)

    def test_another_recipe_has_another_cache(self, captioner, tmp_path):
        Image.linear_gradient("L").rotate(90).resize((40, 16)).save(tmp_path / "wide.png")
        squashed = open_gallery(captioner, [tmp_path], cache=tmp_path / "cache")
        crop = replace(captioner.bundle.preprocess, resize="crop")
        other = replace(captioner, bundle=replace(captioner.bundle, preprocess=crop))
        cropped = open_gallery(other, [tmp_path / "wide.png"], cache=tmp_path / "cache")
        again = open_gallery(other, [tmp_path], cache=tmp_path / "cache")
        features = [g.images.reference_feature[0].tolist() for g in (squashed, cropped, again)]
        assert features[0] != features[1] == features[2]

    def test_another_model_has_another_cache(self, captioner, photos, tmp_path, make_tiny_bundle):
        self.counted(captioner, photos, tmp_path)
        other = load(make_tiny_bundle(seed=1), provider="cpu", threads=1)
        assert self.counted(replace(other, encoder=Counting(other.encoder)), photos, tmp_path)[0]

    def test_a_folder_that_cannot_be_written(self, captioner, photos, tmp_path, caplog):
        (tmp_path / "file").write_text("in the way")
        count, gallery = self.counted(captioner, photos, tmp_path / "file")
        assert (count, len(gallery.paths)) == (3, 3)
        assert "cannot be written" in caplog.text

    def test_a_broken_photo_is_no_reason_to_stop(self, captioner, photos, tmp_path):
        (photos / "a.png").write_bytes(b"no image")
        for _ in range(2):
            _, gallery = self.counted(captioner, photos, tmp_path)
            assert [path.name for path in gallery.paths] == ["b.jpg", "c.png"]
            assert list(gallery.errors) == [photos / "a.png"]

    def test_a_photo_that_takes_too_much_memory_is_refused(self, captioner, photos, monkeypatch):
        monkeypatch.setattr("mrnn_runtime.retrieval.gallery._MEMORY", 10**6)
        Image.new("RGB", (400, 300)).save(photos / "large.png")
        gallery = open_gallery(captioner, [photos / "a.png", photos / "large.png"])
        assert list(gallery.errors) == [photos / "large.png"]
        assert str(gallery.errors[photos / "large.png"]).endswith("are allowed (scale it down)")


class TestCommands:
    @pytest.fixture
    def ask(self, mrnn, with_background, tmp_path, monkeypatch):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
        monkeypatch.delenv("MRNN_STRICT_PLUGINS", raising=False)
        return lambda *args: mrnn(*args, "--model", with_background, "--provider", "cpu")

    def test_search(self, ask, photos, tmp_path):
        result = ask("search", "a dog on grass", photos)
        lines = [line.split("\t") for line in result.out.splitlines()]
        assert sorted(path for _, path in lines) == sorted(map(str, photos.rglob("*.*g")))
        assert [float(score) for score, _ in lines] == sorted(
            (float(score) for score, _ in lines), reverse=True
        )
        assert list((tmp_path / "home" / "mrnn" / "search").iterdir())
        assert ask("search", "a dog on grass", photos).out == result.out

    def test_search_writes_json_of_the_best(self, ask, photos, tmp_path):
        result = ask("search", "a dog", photos, "--top", 2, "--json", "--no-cache")
        records = [json.loads(line) for line in result.out.splitlines()]
        assert [record["rank"] for record in records] == [1, 2]
        assert records[0]["log_prob"] >= records[1]["log_prob"]
        assert not (tmp_path / "home").exists()

    @pytest.mark.parametrize("named", ["", "relative"])
    def test_a_user_without_a_home_has_no_cache(self, ask, photos, tmp_path, monkeypatch, named):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("XDG_CACHE_HOME", named)
        monkeypatch.setattr("os.path.expanduser", lambda path: path)  # no HOME, no entry in passwd
        result = ask("search", "a dog", photos)
        assert (result.code, len(result.out.splitlines())) == (0, 3)
        assert {path.name for path in tmp_path.iterdir()} & {"relative", "~"} == set()

    def test_rank(self, ask, photos, tmp_path):
        file = tmp_path / "sentences.txt"
        file.write_text("\n".join([*SENTENCES, "", SENTENCES[0]]))
        result = ask("rank", photos / "a.png", "--sentences", file, "--top", 3)
        lines = [line.split("\t") for line in result.out.splitlines()]
        assert len(lines) == 3
        assert {sentence for *_, sentence in lines} < set(SENTENCES)
        assert (
            ask(
                "rank", photos / "a.png", "--sentences", file, "--background", photos, "--top", 3
            ).out
            != result.out
        )

    def test_words_that_the_model_does_not_know(self, ask, photos):
        result = ask("search", "a zebra", photos)
        assert result.code == 0
        assert "zebra" in result.err
        result = ask("search", "zebra", photos)
        assert (result.code, result.out) == (2, "")
        assert "knows no word of 'zebra'" in result.err

    def test_what_is_wrong_is_said_before_photos_are_encoded(
        self, ask, photos, tmp_path, monkeypatch
    ):
        file = tmp_path / "sentences.txt"
        file.write_text("a dog\nzebra\n")
        monkeypatch.setattr(
            "mrnn_runtime.retrieval.gallery.open_gallery", None
        )  # a call would fail
        for command in (["search", "zebra", photos], ["rank", photos, "--sentences", file]):
            result = ask(*command)
            assert result.code == 2
            assert "knows no word of 'zebra'" in result.err

    def test_broken_photos_of_the_background(self, ask, photos, tmp_path):
        file = tmp_path / "sentences.txt"
        file.write_text("\n".join(SENTENCES))
        others = tmp_path / "others"
        others.mkdir()
        (others / "broken.png").write_bytes(b"no image")
        command = "rank", photos / "b.jpg", "--sentences", file, "--background", others
        result = ask(*command)
        assert (result.code, result.out) == (2, "")
        assert "no background image" in result.err
        (photos / "a.png").rename(others / "a.png")
        result = ask(*command)
        assert (result.code, len(result.out.splitlines())) == (1, len(SENTENCES))
        assert "broken.png" in result.err
        assert "1 of 3 images failed" in result.err

    def test_a_broken_photo_is_named(self, ask, photos):
        (photos / "a.png").write_bytes(b"no image")
        result = ask("search", "a dog", photos)
        assert result.code == 1
        assert len(result.out.splitlines()) == 2
        assert "a.png" in result.err
        assert "1 of 3 images failed" in result.err

    @pytest.mark.parametrize("content", [None, b"", b"\n \n", b"\xff\xfe"])
    def test_sentences_that_cannot_be_read(self, ask, photos, tmp_path, content):
        file = tmp_path / "sentences.txt"
        if content is not None:
            file.write_bytes(content)
        result = ask("rank", photos, "--sentences", file)
        assert result.code == 2
        assert str(file) in result.err
        assert "hint: " in result.err

    def test_options_that_exclude_each_other(self, ask, photos, tmp_path):
        result = ask("search", "a dog", photos, "--cache", tmp_path, "--no-cache")
        assert result.code == 2
        for option in (["--cache", tmp_path], ["--no-cache"]):
            result = ask("search", "a dog", "--gallery", tmp_path, *option)
            assert result.code == 2
            assert "--cache and --no-cache are for PATH" in result.err


class TestStored:
    @pytest.fixture
    def folder(self, tiny_bundle, captioner, photos, tmp_path):
        folder = tmp_path / "gallery"
        folder.mkdir()
        gallery = open_gallery(captioner, [photos])
        for name, array in gallery.images.inputs.items():
            np.save(folder / f"{name}.npy", array.astype(np.float16))
        lines = [json.dumps(str(path)).encode() + b"\n" for path in gallery.paths]
        np.save(folder / "offsets.npy", np.cumsum([0, *map(len, lines)], dtype=np.int64))
        (folder / "paths.txt").write_bytes(b"".join(lines))
        encoder = captioner.bundle.files[captioner.bundle.encoder.file].sha256
        facts = {"encoder": encoder, "photos": len(lines)}
        (folder / "gallery.json").write_text(json.dumps(facts))
        return folder

    def test_it_is_ranked(self, captioner, folder, photos):
        matches = find_photos(captioner, "a dog", open_stored(captioner, folder))
        expected = find_photos(captioner, "a dog", open_gallery(captioner, [photos]))
        assert {match.path for match in matches} == {match.path for match in expected}

    @pytest.mark.parametrize("change", [None, lambda data: b"", lambda data: data + b"\n"])
    def test_paths_that_are_cut_or_missing(self, captioner, folder, change):
        file = folder / "paths.txt"
        file.write_bytes(change(file.read_bytes())) if change else file.unlink()
        with pytest.raises(UsageError, match=r"no gallery that can be read: .*paths\.txt"):
            open_stored(captioner, folder)

    @pytest.mark.parametrize("byte", [b"x", b"7", b"[", b"\xff"])
    def test_paths_that_are_damaged(self, captioner, folder, byte):
        file = folder / "paths.txt"
        file.write_bytes(byte * file.stat().st_size)
        gallery = open_stored(captioner, folder)
        for damaged in (gallery, gallery):
            with pytest.raises(UsageError, match="line 1 of its paths"):
                damaged.path(0)
            file.unlink(missing_ok=True)
