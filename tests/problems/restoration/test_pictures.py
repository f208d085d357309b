"""Files of pictures that are not what they seem: read as they are meant, or refused and why."""

import os
import struct
import sys
import zlib

import numpy as np
import pytest
from PIL import Image

from lmaps_science.io import DataError
from lmaps_science.io.files import atomic_write
from lmaps_science.problems.restoration.pictures import read_picture

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (9, 12, 3), dtype=np.uint8)


def save(path, picture, **options):
    picture = Image.fromarray(picture) if isinstance(picture, np.ndarray) else picture
    with atomic_write(path) as temporary:
        picture.save(temporary, **options)
    return path


def chunk(kind, content):
    return (
        struct.pack(">I", len(content))
        + kind
        + content
        + struct.pack(">I", zlib.crc32(kind + content))
    )


def png(path, width, height, rows, depth=8, colours=2):
    header = struct.pack(">IIBBBBB", width, height, depth, colours, 0, 0, 0)
    content = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in content))
    return path


def tiff(path, values, samples=1, sign=1):
    """One strip of grey or interleaved values; `sign` is 1 without, 2 with, 3 floating-point."""
    bits = 8 * values.itemsize * (1 + 65536 * (samples - 1))  # of one, or of each of two
    tags = [(256, values.shape[1]), (257, values.shape[0]), (258, bits), (259, 1), (262, 1)]
    tags += [(273, 0), (277, samples), (278, values.shape[0]), (279, values.nbytes), (339, sign)]
    start = 8 + 2 + 12 * len(tags) + 4
    tags[5] = (273, start)
    if samples == 2:
        tags.insert(9, (338, 0))  # what the second is remains open
        tags[5] = (273, start + 12)
    kinds = {258: (3, samples), 338: (3, 1)}
    entries = b"".join(
        struct.pack("<HHII", key, *kinds.get(key, (4, 1)), value) for key, value in tags
    )
    head = b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + struct.pack("<I", 0)
    path.write_bytes(head + values.tobytes())
    return path


# ---------------------------------------------------------------- read as they are meant


def test_pictures_of_one_colour_are_no_damaged_files(tmp_path):
    """However few bytes they take."""
    for value, name in ((0, "black.png"), (255, "white.png")):
        path = save(tmp_path / name, np.full((400, 300, 3), value, np.uint8))
        found = read_picture(path)
        assert found.shape == (3, 400, 300)
        assert (found == value / 255).all()


def test_deep_colours_keep_their_upper_byte_and_opaque_alpha_is_left_out(tmp_path):
    deep = (PIXELS.astype(int) * 256 + 77).astype(">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in deep)
    found = read_picture(png(tmp_path / "deep.png", 12, 9, rows, depth=16))
    np.testing.assert_allclose(found, np.moveaxis(PIXELS, -1, 0) / 255, atol=1e-6)
    opaque = np.dstack([deep, np.full((9, 12), 65535)]).astype(">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in opaque)
    again = read_picture(png(tmp_path / "opaque.png", 12, 9, rows, depth=16, colours=6))
    np.testing.assert_array_equal(again, found)


def test_palettes_bits_and_still_gifs_are_read(tmp_path):
    few = Image.fromarray(PIXELS).quantize(8)
    expected = np.moveaxis(np.asarray(few.convert("RGB")), -1, 0) / np.float32(255)
    for name in ("a.png", "a.gif"):
        np.testing.assert_allclose(read_picture(save(tmp_path / name, few)), expected, atol=1e-6)
    bits = Image.fromarray(PIXELS).convert("1")
    assert set(np.unique(read_picture(save(tmp_path / "b.png", bits)))) == {0, 1}
    unused = save(tmp_path / "c.png", few, transparency=200)  # no pixel has that colour
    np.testing.assert_allclose(read_picture(unused), expected, atol=1e-6)


@pytest.mark.parametrize("turn", range(1, 9))
def test_every_turn_of_a_camera_is_undone(turn, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = turn
    found = read_picture(save(tmp_path / "turned.png", PIXELS, exif=exif))
    upright = np.moveaxis(PIXELS, -1, 0) / np.float32(255)
    ways = {
        1: upright,
        2: upright[..., ::-1],
        3: upright[..., ::-1, ::-1],
        4: upright[..., ::-1, :],
        5: upright.swapaxes(1, 2),
        6: upright.swapaxes(1, 2)[..., ::-1],
        7: upright.swapaxes(1, 2)[..., ::-1, ::-1],
        8: upright.swapaxes(1, 2)[..., ::-1, :],
    }
    np.testing.assert_array_equal(found, ways[turn])


@pytest.mark.parametrize(
    "name", ["a b.png", "-a.png", "ü'\"$;é.png", "a\nb.png", "a", "photograph:1"]
)
def test_names_of_all_kinds_are_read(name, tmp_path):
    path = save(tmp_path / name, PIXELS, format="PNG")
    assert read_picture(path).shape == (3, 9, 12)


def test_the_second_picture_of_a_telephone_is_its_own_copy(tmp_path):
    path = tmp_path / "a.jpg"
    first = Image.fromarray(PIXELS)
    save(path, first, format="MPO", save_all=True, append_images=[first.resize((6, 5))])
    assert Image.open(path).format == "MPO"
    assert read_picture(path).shape == (3, 9, 12)


# ---------------------------------------------------------------- refused


def frames(path, kind):
    pictures = [Image.fromarray(np.roll(PIXELS, k, 0)) for k in range(3)]
    return save(path, pictures[0], format=kind, save_all=True, append_images=pictures[1:])


def header_only(path):
    return png(path, 3000, 3000, b"\0" * 100)


def cut(path):
    whole = save(path, PIXELS, format="PNG").read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    return path


def postscript(path):
    """Pillow would hand it to a program."""
    text = "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n%%EndComments\n" + "%\n" * 4000
    path.write_text(text)
    return path


def folder(path):
    path.mkdir()
    return path


def empty(path):
    path.write_bytes(b"")
    return path


def pipe(path):
    os.mkfifo(path)
    return path


def huge(path):
    return png(path, 100_000, 100_000, b"")


REFUSED = [
    (lambda path: frames(path, "GIF"), "holds several pictures"),
    (lambda path: frames(path, "PNG"), "holds several pictures"),
    (lambda path: frames(path, "TIFF"), "holds several pictures"),
    (lambda path: tiff(path, PIXELS[..., :2].copy(), samples=2), "2 numbers a pixel"),
    (lambda path: tiff(path, PIXELS[..., 0].astype(np.int8), sign=2), "with a sign"),
    (lambda path: tiff(path, PIXELS[..., 0].astype("<i2") - 9, sign=2), "with a sign"),
    (lambda path: tiff(path, PIXELS[..., 0].astype("<u4") * 1000), "numbers from .* to .*16 bits"),
    (lambda path: tiff(path, np.full((4, 4), np.nan, "<f4"), sign=3), "mode F"),
    (lambda path: tiff(path, np.full((4, 4), np.nan, "<f8"), sign=3), "a TIFF file, but of a kind"),
    (header_only, "no picture that can be read.*copy it again"),
    (cut, "no picture that can be read.*copy it again"),
    (postscript, "no picture that can be read: give a PNG"),
    (folder, "is not a file"),
    (empty, "is empty"),
    (huge, "Reduce the picture first"),
]


@pytest.mark.parametrize(("make", "message"), REFUSED)
def test_what_would_be_read_in_part_or_wrongly_is_refused(make, message, tmp_path):
    with pytest.raises(DataError, match=message):
        read_picture(make(tmp_path / "a.png"))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes")
def test_a_pipe_is_not_waited_for(tmp_path):
    with pytest.raises(DataError, match="is not a file"):
        read_picture(pipe(tmp_path / "a.png"))


@pytest.mark.skipif(sys.platform != "linux", reason="names are text elsewhere")
def test_names_that_no_result_could_keep_are_refused(tmp_path):
    path = tmp_path / os.fsdecode(b"\xff.png")
    Image.fromarray(PIXELS).save(path)
    with pytest.raises(DataError, match=r"no UTF-8.*Rename"):
        read_picture(path)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # of tags that are cut
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "WEBP", "BMP", "GIF", "PPM"])
def test_damaged_files_are_read_or_refused(kind, tmp_path):
    """Bytes changed at random: a parser that raises anything else would end a batch."""
    exif = Image.Exif()
    exif[0x0112] = 6
    more = {"exif": exif} if kind in ("PNG", "JPEG", "TIFF", "WEBP") else {}
    whole = save(tmp_path / "whole", Image.fromarray(PIXELS), format=kind, **more).read_bytes()
    rng, path = np.random.default_rng(1), tmp_path / "damaged"
    refused = 0
    for _ in range(60):
        content = bytearray(whole[: rng.integers(1, len(whole) + 1)])
        for place in rng.integers(0, len(content), rng.integers(0, 6)):
            content[place] = rng.integers(256)
        path.write_bytes(content)
        try:
            found = read_picture(path)
        except DataError:
            refused += 1
        else:
            assert np.isfinite(found).all()
            assert 0 <= found.min() <= found.max() <= 1
    assert refused > 10
