"""Finding images, and reading each kind of file rightly or refusing it with one ImageError."""

import gc
import io
import os
import struct
import subprocess
import sys
import threading
import warnings
import weakref
import zlib
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mrnn_runtime import images
from mrnn_runtime.engine.inputs import NamedImage, find_images, read_images
from mrnn_runtime.errors import ImageError, UsageError
from mrnn_runtime.images import MAX_PIXELS, read_image, thumbnail
from mrnn_runtime.types import Preprocess

SQUASH = Preprocess(16, 16)
SAME = Preprocess(20, 30)  # the size of the pictures below: resizing leaves them as they are


@pytest.fixture
def picture():
    """Four quarters, so that a turn or a flip shows: red, green over blue, black."""
    image = Image.new("RGB", (30, 20))
    image.paste("red", (0, 0, 15, 10))
    image.paste("lime", (15, 0, 30, 10))
    image.paste("blue", (0, 10, 15, 20))
    return image


def save(image, path, **options):
    """Save an image; Pillow cannot write HEIC."""
    if path.suffix == ".heic":
        heif = pytest.importorskip("pillow_heif", reason="the extra heif")
        exif = options.pop("exif", Image.Exif()).tobytes()
        heif.from_pillow(image).save(path, exif=exif, **options)
    else:
        image.save(path, **options)


def close(pixels, image, tolerance=0):
    """Check that what was read is that picture, but for what a lossy format changes."""
    wanted = np.asarray(image.convert("RGB")).astype(int)
    assert pixels.shape == wanted.shape
    assert pixels.dtype == np.uint8
    # Away from the edges of the quarters, where JPEG rings.
    rows, columns = np.ix_([4, 15], [7, 22])
    assert np.abs(pixels[rows, columns] - wanted[rows, columns]).max() <= tolerance


def refused(path):
    with pytest.raises(ImageError) as caught:
        read_image(path, SQUASH)
    assert str(path) in caught.value.message
    assert caught.value.hint
    return str(caught.value)


class TestRead:
    @pytest.mark.parametrize(
        ("name", "tolerance"),
        [
            ("x.png", 0),
            ("x.jpg", 4),
            ("x.webp", 16),
            ("x.bmp", 0),
            ("x.gif", 0),
            ("x.tif", 0),
            ("x.ppm", 0),
            ("x.avif", 16),
            ("x.heic", 16),
        ],
    )
    def test_formats(self, tmp_path, picture, name, tolerance):
        save(picture, tmp_path / name)
        close(read_image(tmp_path / name, SAME), picture, tolerance)

    def test_the_name_does_not_matter(self, tmp_path, picture):
        picture.save(tmp_path / "photo", "PNG")
        close(read_image(str(tmp_path / "photo"), SAME), picture)

    @pytest.mark.parametrize("name", ["x.png", "x.tif", "x.jpg", "x.webp", "x.avif", "x.heic"])
    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_exif_orientation(self, tmp_path, picture, orientation, name):
        back = {
            2: Image.Transpose.FLIP_LEFT_RIGHT,
            3: Image.Transpose.ROTATE_180,
            4: Image.Transpose.FLIP_TOP_BOTTOM,
            5: Image.Transpose.TRANSPOSE,
            6: Image.Transpose.ROTATE_90,
            7: Image.Transpose.TRANSVERSE,
            8: Image.Transpose.ROTATE_270,
        }
        stored = picture.transpose(back[orientation]) if orientation in back else picture
        exif = Image.Exif()
        exif[0x0112] = orientation
        save(stored, tmp_path / name, exif=exif, quality=95)
        close(read_image(tmp_path / name, SAME), picture, 0 if name in ("x.png", "x.tif") else 16)

    def test_broken_exif_does_no_harm(self, tmp_path, picture):
        path = tmp_path / "x.jpg"
        picture.save(path, exif=b"Exif\0\0II*\0\x08\0\0\0\x02\0\x12\1\3\0\xff\xff\xff\xff\x06\0")
        close(read_image(path, SAME), picture, 4)

    def test_cmyk(self, tmp_path, picture):
        picture.convert("CMYK").save(tmp_path / "x.jpg")
        close(read_image(tmp_path / "x.jpg", SAME), picture, 8)

    def test_palette(self, tmp_path, picture):
        picture.quantize(4).save(tmp_path / "x.png")
        close(read_image(tmp_path / "x.png", SAME), picture)

    @pytest.mark.parametrize("name", ["x.png", "x.gif"])
    def test_a_transparent_colour_of_a_palette_is_white(self, tmp_path, picture, name):
        indexed = picture.quantize(4)
        indexed.save(tmp_path / name, transparency=indexed.getpixel((7, 4)))
        picture.paste("white", (0, 0, 15, 10))
        close(read_image(tmp_path / name, SAME), picture)

    def test_a_transparent_palette_with_alpha_values(self, tmp_path, picture):
        picture.quantize(4).save(tmp_path / "x.png", transparency=bytes(4))
        assert (read_image(tmp_path / "x.png", SAME) == 255).all()

    def test_alpha_lies_over_white(self, tmp_path, picture):
        alpha = Image.new("L", picture.size, 255)
        alpha.paste(0, (0, 0, 15, 10))
        alpha.paste(51, (15, 10, 30, 20))  # a fifth of black
        picture.putalpha(alpha)
        picture.save(tmp_path / "x.png")
        pixels = read_image(tmp_path / "x.png", SAME)
        assert pixels[4, 7].tolist() == [255, 255, 255]
        assert pixels[4, 22].tolist() == [0, 255, 0]
        assert pixels[15, 22].tolist() == [204, 204, 204]

    def test_grey_with_alpha(self, tmp_path):
        Image.new("LA", (30, 20), (100, 0)).save(tmp_path / "x.png")
        assert (read_image(tmp_path / "x.png", SAME) == 255).all()

    @pytest.mark.parametrize("colour", [(255, 0, 0), 255])
    def test_a_colour_that_stands_for_transparent(self, tmp_path, colour):
        mode = "L" if colour == 255 else "RGB"
        image = Image.new(mode, (30, 20))
        image.paste(colour, (0, 0, 15, 20))
        image.save(tmp_path / "x.png", transparency=colour)
        pixels = read_image(tmp_path / "x.png", SAME)
        assert (pixels[:, :15] == 255).all()
        assert (pixels[:, 15:] == 0).all()

    @pytest.mark.parametrize("mode", ["1", "L"])
    def test_grey(self, tmp_path, mode):
        image = Image.new(mode, (30, 20))
        image.paste(255, (0, 0, 15, 20))
        image.save(tmp_path / "x.png")
        close(read_image(tmp_path / "x.png", SAME), image)

    @pytest.mark.parametrize("name", ["x.png", "x.tif", "x.pgm"])
    def test_sixteen_bits_are_scaled_not_clipped(self, tmp_path, name):
        deep = np.zeros((20, 30), np.uint16)
        deep[:, 10:20], deep[:, 20:] = 32768, 65535
        if name == "x.pgm":
            (tmp_path / name).write_bytes(b"P5 30 20 65535\n" + deep.astype(">u2").tobytes())
        else:
            Image.fromarray(deep).save(tmp_path / name)
        pixels = read_image(tmp_path / name, SAME)
        assert pixels[3, [5, 15, 25]].tolist() == [[0] * 3, [128] * 3, [255] * 3]

    @pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "I;16"])
    def test_a_large_photo_is_converted_in_strips(self, tmp_path, monkeypatch, mode):
        numbers = np.random.default_rng(3).integers(0, 256, (2, 20, 30, 4), np.uint8)
        image = Image.fromarray(numbers[0], "RGBA")
        image = (
            Image.fromarray(numbers[..., 0].astype(np.uint16)[0] * 257) if ";" in mode else image
        )
        image.convert(mode).save(tmp_path / "x.tif")
        whole = read_image(tmp_path / "x.tif", SAME)
        monkeypatch.setattr(images, "_STRIP", 100)
        assert np.array_equal(read_image(tmp_path / "x.tif", SAME), whole)

    def test_numbers_without_a_range_are_refused(self, tmp_path):
        Image.fromarray(np.ones((4, 4), np.float32)).save(tmp_path / "float.tif")
        Image.fromarray(np.full((4, 4), -1, np.int32)).save(tmp_path / "negative.tif")
        assert "8 or 16 bits" in refused(tmp_path / "float.tif")
        assert "8 or 16 bits" in refused(tmp_path / "negative.tif")

    @pytest.mark.parametrize("name", ["x.gif", "x.webp", "x.png", "x.tif"])
    def test_the_first_frame_of_an_animation(self, tmp_path, picture, name):
        other = Image.new("RGB", picture.size, "yellow")
        picture.save(tmp_path / name, save_all=True, append_images=[other, other], lossless=True)
        close(read_image(tmp_path / name, SAME), picture)

    def test_squash_keeps_all_of_the_picture(self, tmp_path, picture):
        picture.save(tmp_path / "x.png")
        pixels = read_image(tmp_path / "x.png", Preprocess(8, 40, "squash", "bilinear"))
        wanted = picture.resize((40, 8), Image.Resampling.BILINEAR)
        assert np.array_equal(pixels, np.asarray(wanted))

    def test_crop_takes_the_middle(self, tmp_path):
        wide = Image.new("RGB", (60, 20), "red")
        wide.paste("blue", (20, 0, 40, 20))
        wide.save(tmp_path / "wide.png")
        wide.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "high.png")
        for name in ("wide.png", "high.png"):
            pixels = read_image(tmp_path / name, Preprocess(10, 10, "crop", "bilinear"))
            assert pixels.shape == (10, 10, 3)
            assert (pixels == (0, 0, 255)).all(axis=2)[1:-1, 1:-1].all()

    def test_interpolation(self, tmp_path, picture):
        picture.save(tmp_path / "x.png")
        bicubic = read_image(tmp_path / "x.png", Preprocess(9, 9, "squash", "bicubic"))
        bilinear = read_image(tmp_path / "x.png", Preprocess(9, 9, "squash", "bilinear"))
        wanted = picture.resize((9, 9), Image.Resampling.BICUBIC)
        assert np.array_equal(bicubic, np.asarray(wanted))
        assert not np.array_equal(bicubic, bilinear)

    @pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1)])
    def test_odd_sizes(self, tmp_path, size):
        Image.new("RGB", size, "red").save(tmp_path / "x.png")
        for resize in ("squash", "crop"):
            pixels = read_image(tmp_path / "x.png", Preprocess(16, 16, resize))
            assert (pixels == (255, 0, 0)).all()


def png_of_size(width, height):
    """A PNG that says how large it is and holds next to nothing."""

    def chunk(kind, data):
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0"))
        + chunk(b"IEND", b"")
    )


class TestRefuse:
    def test_no_file(self, tmp_path):
        assert "missing" in refused(tmp_path / "x.jpg")
        assert "no ordinary file" in refused(tmp_path)

    def test_a_pipe_does_not_hang(self, tmp_path):
        os.mkfifo(tmp_path / "x.jpg")
        assert "no ordinary file" in refused(tmp_path / "x.jpg")

    def test_zero_bytes(self, tmp_path):
        (tmp_path / "x.jpg").write_bytes(b"")
        assert "is empty" in refused(tmp_path / "x.jpg")

    def test_text_with_the_name_of_a_photo(self, tmp_path):
        (tmp_path / "x.jpg").write_text("not a photo")
        assert "no image" in refused(tmp_path / "x.jpg")

    def test_a_format_that_is_not_on_the_list(self, tmp_path, picture):
        picture.save(tmp_path / "x.jpg", "ICO")
        assert "use one of JPEG" in refused(tmp_path / "x.jpg")

    def test_a_heic_photo_without_the_package_for_it(self, tmp_path, picture, monkeypatch):
        save(picture, tmp_path / "x.heic")
        monkeypatch.setitem(sys.modules, "pillow_heif", None)
        assert 'pip install "mrnn-runtime[heif]"' in refused(tmp_path / "x.heic")

    def test_a_heic_photo_that_is_too_large(self, tmp_path, picture, monkeypatch):
        monkeypatch.setattr(images, "MAX_PIXELS", 599)
        save(picture, tmp_path / "x.heic")
        assert "too large" in refused(tmp_path / "x.heic")

    @pytest.mark.parametrize(
        "name", ["x.jpg", "x.png", "x.webp", "x.bmp", "x.tif", "x.avif", "x.heic"]
    )
    def test_truncated(self, tmp_path, name):
        noise = np.random.default_rng(0).integers(0, 256, (50, 50, 3), np.uint8)
        save(Image.fromarray(noise), tmp_path / name)
        content = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(content[: len(content) // 2])
        why = "no image" if name == "x.avif" else "damaged or incomplete"
        assert why in refused(tmp_path / name)

    @pytest.mark.parametrize("size", [(20_000, 20_000), (MAX_PIXELS + 1, 1), (12_000, 11_000)])
    def test_too_many_pixels(self, tmp_path, size):
        (tmp_path / "x.png").write_bytes(png_of_size(*size))
        assert "too large" in refused(tmp_path / "x.png")

    def test_a_caller_may_take_less(self, picture):
        with pytest.raises(ImageError, match=r"at most 0\.0001 million pixels"):
            read_image(picture, SAME, max_pixels=100)

    def test_a_phone_may_have_108_megapixels(self, tmp_path):
        # Above the size at which Pillow warns; the file is refused for being incomplete instead.
        (tmp_path / "x.png").write_bytes(png_of_size(12_000, 9_000))
        assert "damaged or incomplete" in refused(tmp_path / "x.png")

    @given(st.data())
    @settings(max_examples=150, deadline=None)
    def test_damage_is_an_image_error_or_no_harm(self, damaged, data):
        path, content = damaged
        changed = bytearray(content)
        for _ in range(data.draw(st.integers(1, 4))):
            changed[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
        path.write_bytes(changed[: data.draw(st.integers(1, len(content)))])
        try:
            assert read_image(path, SQUASH).shape == (16, 16, 3)
        except ImageError as error:
            assert error.hint


@pytest.fixture(
    scope="module", params=["JPEG", "PNG", "GIF", "TIFF", "WEBP", "BMP", "AVIF", "HEIC"]
)
def damaged(request, tmp_path_factory):
    """The path and the content of a small file, to be written with changes."""
    path = tmp_path_factory.mktemp("damaged") / "x"
    image = Image.radial_gradient("L").resize((24, 24)).convert("P")
    exif = Image.Exif()
    exif[0x0112] = 6
    image = image if request.param in ("PNG", "GIF", "TIFF", "BMP") else image.convert("RGB")
    if request.param == "HEIC":
        save(image, path.with_suffix(".heic"), exif=exif)
        path = path.with_suffix(".heic")
    else:
        image.save(path, request.param, exif=exif)
    return path, path.read_bytes()


class TestWarnings:
    """Pillow warns of what is odd but readable. Nobody asked, and as an error it would stop us."""

    def test_filters_that_the_host_sets_meanwhile_stay(self, tmp_path, picture, monkeypatch):
        path = tmp_path / "x.jpg"
        picture.save(path)
        upright = images._upright
        host = ("error", None, FutureWarning, None, 0)

        def set_a_filter(image):
            warnings.simplefilter("error", FutureWarning)
            return upright(image)

        with warnings.catch_warnings():
            before = list(warnings.filters)
            monkeypatch.setattr(images, "_upright", set_a_filter)
            read_image(path, SAME)
            assert warnings.filters == [host, *before]

    def test_filters_are_as_before_after_threads_overlap(self, tmp_path, picture):
        path = tmp_path / "x.jpg"
        picture.save(path, exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff")
        before = list(warnings.filters)
        interval = sys.getswitchinterval()
        sys.setswitchinterval(1e-6)
        threads = [
            threading.Thread(target=lambda: [read_image(path, SAME) for _ in range(20)])
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        sys.setswitchinterval(interval)
        assert warnings.filters == before

    def test_nothing_on_stderr(self, tmp_path, picture):
        picture.save(tmp_path / "x.jpg", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff")
        (tmp_path / "large.png").write_bytes(png_of_size(12_000, 9_000))
        code = (
            "from mrnn_runtime.images import read_image\n"
            "from mrnn_runtime.errors import ImageError\n"
            "from mrnn_runtime.types import Preprocess\n"
            "for name in ('x.jpg', 'large.png'):\n"
            "    try:\n"
            "        read_image(name, Preprocess(8, 8))\n"
            "    except ImageError:\n"
            "        print('refused', name)\n"
        )
        ran = subprocess.run(
            [sys.executable, "-W", "always", "-c", code],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            text=True,
            check=True,
        )
        assert ran.stdout.split() == ["refused", "large.png"]
        assert "PIL" not in ran.stderr


class TestFind:
    def test_files_in_the_order_given(self, tmp_path):
        for name in ("b.jpg", "a.txt"):
            (tmp_path / name).touch()
        paths = [str(tmp_path / "b.jpg"), tmp_path / "a.txt", tmp_path / "b.jpg"]
        assert find_images(paths) == [tmp_path / "b.jpg", tmp_path / "a.txt", tmp_path / "b.jpg"]
        assert find_images([]) == []

    def test_a_folder_is_walked_and_sorted(self, tmp_path):
        names = ("z.JPG", "a/b.png", "a/a.webp", "B.jpeg", "notes.txt", "a/c/d.tiff", "jpg")
        for name in (*names, ".hidden.jpg", ".cache/x.jpg", "a/.thumbs/x.png"):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).touch()
        files = [path.relative_to(tmp_path).as_posix() for path in find_images([tmp_path])]
        assert files == ["B.jpeg", "a/a.webp", "a/b.png", "a/c/d.tiff", "z.JPG"]

    def test_a_hidden_folder_may_be_named(self, tmp_path):
        (tmp_path / ".photos").mkdir()
        (tmp_path / ".photos" / "x.jpg").touch()
        assert find_images([tmp_path / ".photos"]) == [tmp_path / ".photos" / "x.jpg"]

    def test_links_in_a_circle_end(self, tmp_path):
        (tmp_path / "a").mkdir()
        (tmp_path / "a" / "x.jpg").touch()
        (tmp_path / "a" / "up").symlink_to(tmp_path)
        (tmp_path / "self.jpg").symlink_to(tmp_path / "self.jpg")
        assert find_images([tmp_path]) == [tmp_path / "a" / "x.jpg", tmp_path / "self.jpg"]
        assert "Too many levels" in refused(tmp_path / "self.jpg")

    def test_paths_stay_as_they_were_named(self, tmp_path, monkeypatch):
        (tmp_path / "photos").mkdir()
        (tmp_path / "photos" / "x.jpg").touch()
        monkeypatch.chdir(tmp_path)
        assert [str(path) for path in find_images(["photos"])] == [os.path.join("photos", "x.jpg")]

    @pytest.mark.parametrize(
        ("name", "complaint"),
        [
            ("missing.jpg", "does not exist"),
            ("empty", "holds no images"),
            ("pipe", "neither a file nor a folder"),
            ("loop", "does not exist"),
        ],
    )
    def test_what_cannot_be_found(self, tmp_path, name, complaint):
        (tmp_path / "empty").mkdir()
        (tmp_path / "empty" / "notes.txt").touch()
        os.mkfifo(tmp_path / "pipe")
        (tmp_path / "loop").symlink_to(tmp_path / "loop")
        with pytest.raises(UsageError, match=complaint) as caught:
            find_images([tmp_path / name])
        assert name in caught.value.message
        assert caught.value.hint

    def test_a_folder_that_may_not_be_read(self, tmp_path, monkeypatch):
        # Tests may run as root, whom no permission stops.
        def scandir(place):
            raise PermissionError(13, "Permission denied", str(place))

        monkeypatch.setattr(os, "scandir", scandir)
        with pytest.raises(UsageError, match="cannot be read: Permission denied"):
            find_images([tmp_path])

    def test_what_may_not_be_read_stands_for_itself_and_says_so(self, tmp_path, unprivileged):
        (tmp_path / "tree" / "secret").mkdir(parents=True)
        (tmp_path / "tree" / "a.jpg").touch()
        os.chmod(tmp_path / "tree" / "a.jpg", 0)
        os.chmod(tmp_path / "tree" / "secret", 0)
        with unprivileged(tmp_path):
            assert find_images(["tree"]) == [Path("tree/a.jpg"), Path("tree/secret")]
            for name in ("tree/a.jpg", "tree/secret"):
                assert refused(name).startswith(f"{name} cannot be read: Permission denied")
            with pytest.raises(UsageError, match="Permission denied"):
                find_images(["tree/secret"])
            assert find_images(["tree/secret"], missing_ok=True) == [Path("tree/secret")]
        os.chmod(tmp_path / "tree" / "secret", 0o700)

    def test_a_tree_deeper_than_python_recurses(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        for _ in range(1500):
            os.mkdir("d")
            os.chdir("d")
        Path("x.jpg").touch()
        assert find_images([tmp_path]) == [tmp_path.joinpath(*"d" * 1500, "x.jpg")]
        os.unlink("x.jpg")  # pytest would recurse to remove it
        for _ in range(1500):
            os.chdir("..")
            os.rmdir("d")

    def test_other_files_are_counted_by_suffix(self, tmp_path):
        for name in (
            "a.jpg",
            "a.jpg.txt",
            "a.jpg.json",
            "a.xmp",
            "b.MOV",
            "c.mov",
            "d",
            ".e.mov",
        ):
            (tmp_path / name).touch()
        skipped = Counter()
        assert find_images([tmp_path], skipped=skipped) == [tmp_path / "a.jpg"]
        assert skipped == {".mov": 2, "": 1}


@pytest.fixture
def unprivileged(monkeypatch):
    """Work in a folder as a user whom permissions stop: root is not."""

    @contextmanager
    def work(folder):
        monkeypatch.chdir(folder)
        folder.chmod(0o755)
        user = os.geteuid()
        if user == 0:
            os.seteuid(65534)
        try:
            yield
        finally:
            os.seteuid(user)

    return work


class TestThumbnail:
    def open(self, path, side=16):
        image = Image.open(io.BytesIO(thumbnail(path, side)))
        assert image.format == "JPEG"
        return image

    @pytest.mark.parametrize("name", ["x.png", "x.jpg", "x.gif"])
    @pytest.mark.parametrize(
        ("size", "small"), [((600, 400), (48, 32)), ((400, 600), (32, 48)), ((30, 20), (30, 20))]
    )
    def test_it_fits_and_is_never_enlarged(self, tmp_path, picture, name, size, small):
        picture.resize(size).save(tmp_path / name)
        image = self.open(tmp_path / name, 48)
        assert image.size == small
        red, green, blue = image.getpixel((small[0] // 4, small[1] // 4))
        assert red > 200 and max(green, blue) < 60

    def test_it_is_upright_and_carries_no_metadata(self, tmp_path, picture):
        exif = Image.Exif()
        exif[0x0112] = 6
        exif[0x010E] = "where I live"
        picture.save(tmp_path / "x.jpg", exif=exif, comment=b"where I live", quality=95)
        image = self.open(tmp_path / "x.jpg")
        assert image.size == (11, 16)
        assert not image.getexif()
        assert b"where I live" not in thumbnail(tmp_path / "x.jpg", 16)

    def test_transparency_lies_over_white(self, tmp_path):
        Image.new("RGBA", (30, 20)).save(tmp_path / "x.png")
        assert min(self.open(tmp_path / "x.png").getpixel((5, 5))) > 250

    @pytest.mark.parametrize("content", [b"", b"no image"])
    def test_what_is_no_image_is_refused(self, tmp_path, content):
        (tmp_path / "x.jpg").write_bytes(content)
        with pytest.raises(ImageError, match=r"x\.jpg"):
            thumbnail(tmp_path / "x.jpg", 16)


def test_a_photo_that_is_cut_while_it_is_read_is_refused(tmp_path):
    """In a process of its own: were the file mapped into memory, it would die."""
    code = """
import os, sys
from mrnn_runtime import images
from mrnn_runtime.types import Preprocess
path, upright = sys.argv[1], images._upright
def cut(image):
    image.load()
    os.truncate(path, 100)
    return upright(image)
images._upright = cut
try:
    images.read_image(path, Preprocess(8, 8))
except images.ImageError as error:
    print(error)
"""
    path = tmp_path / "grey.pgm"
    path.write_bytes(b"P5 2000 2000 255\n" + bytes(4_000_000))
    child = subprocess.run(
        [sys.executable, "-c", code, path], capture_output=True, text=True, check=False
    )
    assert child.returncode == 0, child
    assert "was written to while it was read" in child.stdout


class TestReduced:
    """A recipe that decodes a JPEG at a part of its size."""

    @pytest.fixture
    def large(self, tmp_path):
        random = np.random.default_rng(0)
        coarse = Image.fromarray(random.integers(0, 256, (12, 16, 3), np.uint8))
        path = tmp_path / "large.jpg"
        coarse.resize((640, 480), Image.Resampling.BICUBIC).save(path, quality=95)
        return path

    @pytest.mark.parametrize("resize", ["squash", "crop"])
    @pytest.mark.parametrize(("side", "scale"), [(30, 8), (50, 4), (100, 2), (200, 1)])
    def test_both_sides_stay_twice_as_large_as_the_input(
        self, large, monkeypatch, resize, side, scale
    ):
        sizes = []
        shrink = images._resize
        monkeypatch.setattr(
            images, "_resize", lambda image, p: sizes.append(image.size) or shrink(image, p)
        )
        whole = read_image(large, Preprocess(side, side, resize))
        pixels = read_image(large, Preprocess(side, side, resize, reduced=True))
        assert sizes == [(640, 480), (640 // scale, 480 // scale)]
        assert np.abs(pixels.astype(int) - whole).mean() < 4
        assert (pixels == whole).all() == (scale == 1)

    def test_a_photo_that_is_to_be_turned(self, large, tmp_path):
        turned = tmp_path / "turned.jpg"
        exif = Image.Exif()
        exif[0x0112] = 6
        with Image.open(large) as image:
            image.save(turned, exif=exif, quality=95)
        whole = read_image(turned, Preprocess(100, 60))
        pixels = read_image(turned, Preprocess(100, 60, reduced=True))
        assert np.abs(pixels.astype(int) - whole).mean() < 4

    def test_other_formats_are_read_whole(self, large, tmp_path):
        with Image.open(large) as image:
            image.save(tmp_path / "large.png")
        pixels = read_image(tmp_path / "large.png", Preprocess(50, 50, reduced=True))
        assert (pixels == read_image(tmp_path / "large.png", Preprocess(50, 50))).all()


def test_an_error_that_is_kept_keeps_no_pixels(tmp_path, monkeypatch):
    seen = []

    def failing(image):
        image.load()
        seen.append(weakref.ref(image))
        raise OSError("damaged")

    Image.new("RGB", (30, 20)).save(tmp_path / "x.png")
    monkeypatch.setattr(images, "_upright", failing)
    _, errors = read_images([NamedImage("x", tmp_path / "x.png")], SQUASH)
    gc.collect()
    assert "damaged" in str(errors[0])
    assert [reference() for reference in seen] == [None]


CLAIMS = """
import sys
from pathlib import Path
from mrnn_runtime.images import read_image
from mrnn_runtime.types import Preprocess
def most():
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.partition("VmHWM:")[2].split()[0])
claims, before = [], most()
read_image(sys.argv[1], Preprocess(32, 32, reduced=True), claim=claims.append)
print(most() - before, *claims)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="asks Linux for the memory")
@pytest.mark.parametrize(
    ("name", "mode", "options"),
    [
        ("x.jpg", "RGB", {}),
        ("x.jpg", "RGB", {"progressive": True, "subsampling": 0}),
        ("x.png", "RGBA", {"orientation": 6, "compress_level": 1}),
        ("x.tif", "CMYK", {"orientation": 6}),
        ("x.webp", "RGB", {"orientation": 6, "method": 0, "quality": 20}),
    ],
)
def test_reading_takes_no_more_than_it_claims(tmp_path, name, mode, options):
    exif = Image.Exif()
    exif[0x0112] = options.pop("orientation", 1)
    gradient = Image.radial_gradient("L").resize((3000, 2000)).convert(mode)
    gradient.save(tmp_path / name, exif=exif, **options)
    command = [sys.executable, "-c", CLAIMS, tmp_path / name]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    taken, claimed = map(int, ran.stdout.split())
    assert taken <= claimed + 16_000_000, "and the libraries themselves"


class TestMoreThanThePicture:
    """Small pictures, in files that would take gigabytes or minutes."""

    @staticmethod
    def chunk(kind, body):
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    @pytest.mark.parametrize("place", [33, -12], ids=["before the pixels", "behind them"])
    @pytest.mark.parametrize(
        "more",
        [lambda chunk: chunk(b"abCd", bytes(2**24)), lambda chunk: chunk(b"abCd", b"") * 200_000],
        ids=["one", "many"],
    )
    def test_chunks_of_a_png(self, tmp_path, picture, place, more):
        picture.save(tmp_path / "x.png")
        data = (tmp_path / "x.png").read_bytes()
        (tmp_path / "x.png").write_bytes(data[:place] + more(self.chunk) + data[place:])
        assert "its metadata are larger" in refused(tmp_path / "x.png")

    def test_segments_of_a_jpeg(self, tmp_path, picture):
        picture.save(tmp_path / "x.jpg")
        data = (tmp_path / "x.jpg").read_bytes()
        segment = b"\xff\xe1\xff\xffExif\0\0" + bytes(65527)
        (tmp_path / "x.jpg").write_bytes(data[:2] + 200 * segment + data[2:])
        assert "its metadata are larger" in refused(tmp_path / "x.jpg")

    @pytest.mark.parametrize("name", ["x.webp", "x.avif"])
    def test_files_that_are_read_whole(self, tmp_path, picture, name):
        picture.save(tmp_path / name)
        os.truncate(tmp_path / name, 2**26)
        assert "its metadata are larger" in refused(tmp_path / name)

    def test_behind_a_jpeg_anything_may_stand(self, tmp_path, picture):
        picture.paste((128, 128, 128), (0, 0, 30, 20))  # which is looked at more closely
        picture.save(tmp_path / "x.jpg")
        os.truncate(tmp_path / "x.jpg", 2**26)
        close(read_image(tmp_path / "x.jpg", SAME), picture)

    def test_a_tile_of_a_tiff(self, tmp_path):
        side = 4096
        pixels = zlib.compress(bytes(side * side))
        tags = [(256, 16), (257, 16), (258, 8), (259, 8), (262, 1), (277, 1)]
        tags += [(322, side), (323, side), (324, 8), (325, len(pixels))]
        entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
        header = struct.pack("<2sHI", b"II", 42, 8 + len(pixels))
        folder = struct.pack("<H", len(tags)) + entries + bytes(4)
        (tmp_path / "x.tif").write_bytes(header + pixels + folder)
        assert "its tiles are larger than the picture" in refused(tmp_path / "x.tif")

    def test_scans_of_a_jpeg(self, tmp_path, picture):
        picture.save(tmp_path / "x.jpg", progressive=True)
        data = (tmp_path / "x.jpg").read_bytes()
        close(read_image(tmp_path / "x.jpg", SAME), picture, 60)
        last = data[data.rfind(b"\xff\xda") : -2]
        (tmp_path / "x.jpg").write_bytes(data[:-2] + 100 * last + data[-2:])
        assert "more than 100 scans" in refused(tmp_path / "x.jpg")

    def test_a_jpeg_with_a_scan_for_each_colour_claims_memory_for_all(self, tmp_path):
        Image.radial_gradient("L").save(tmp_path / "x.jpg")
        grey = (tmp_path / "x.jpg").read_bytes()
        frame, scan = grey.index(b"\xff\xc0"), grey.index(b"\xff\xda")
        code = grey[scan + 10 : -2]
        colours = b"".join(bytes([i, 0x11, 0]) for i in (1, 2, 3))
        start = b"\xff\xc0\0\x11" + grey[frame + 4 : frame + 9] + b"\x03" + colours
        rest = grey[frame + 13 : scan]
        scans = b"".join(b"\xff\xda\0\x08\1" + bytes([i, 0, 0, 63, 0]) + code for i in (1, 2, 3))
        (tmp_path / "x.jpg").write_bytes(grey[:frame] + start + rest + scans + b"\xff\xd9")
        claims = []
        read_image(tmp_path / "x.jpg", SQUASH, claim=claims.append)
        assert claims == [(5 + 7) * 256 * 256]
