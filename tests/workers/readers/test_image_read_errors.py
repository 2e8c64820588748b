"""Faults of images, in tables, arrays and folders, are named by their row or file."""

import io
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests.workers.readers.refused_files import PLANTED, at, encode, fail, write_images
from workers import readers
from workers.readers import Columns


@pytest.mark.parametrize(
    ("second", "reason"),
    [
        (encode((5, 4)), "5x4, the first one is 4x4"),
        (None, "image is missing"),
        (b"", "image is missing"),
        (PLANTED.encode(), "cannot be decoded"),
        (encode((4, 4))[:40], "cannot be decoded"),
        (encode((4, 4), format="GIF"), "cannot be decoded"),
        (encode((4, 4), mode="I;16"), "more than eight bits"),
        (encode((7000, 7000), mode="L"), "more than 33554432 pixels"),
    ],
    ids=["size", "null", "empty", "text", "cut", "gif", "deep", "huge"],
)
def test_an_image_that_does_not_fit_is_named_by_its_row(tmp_path, second, reason):
    error = fail(write_images(tmp_path / "x.parquet", [encode((4, 4)), second]))
    assert at(error) == (2, "img")
    assert reason.lower() in str(error).lower()


def test_a_colour_image_among_gray_ones_is_refused(tmp_path):
    path = write_images(tmp_path / "x.parquet", [encode((4, 4), "L"), encode((4, 4))])
    assert at(fail(path)) == (2, "img")


def seen_through(mode):
    image = Image.new("RGBA", (4, 4), (9, 9, 9, 255))
    image.putpixel((1, 1), (9, 9, 9, 250))
    buffer = io.BytesIO()
    if mode == "P":
        image = Image.new("P", (4, 4))
        image.putpixel((1, 1), 1)
        image.save(buffer, "PNG", transparency=0)
    else:
        image.convert(mode).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_an_image_that_is_transparent_in_part_is_refused(tmp_path, mode):
    error = fail(write_images(tmp_path / "x.parquet", [encode((4, 4), "L"), seen_through(mode)]))
    assert at(error) == (2, "img")
    assert "background" in str(error)


@pytest.mark.parametrize("channels", [2, 4])
def test_npz_images_with_an_alpha_channel_in_the_end_are_refused(tmp_path, channels):
    path = tmp_path / "x.npz"
    np.savez(path, x=np.zeros((3, 8, 9, channels), np.uint8), y=np.zeros(3, int))
    error = fail(path)
    assert at(error) == (None, "x")
    assert f"x[..., :{channels - 1}]" in str(error)
    np.savez(path, x=np.zeros((3, channels, 8, 9), np.uint8), y=np.zeros(3, int))
    [chunk] = readers.open_source(path).chunks
    assert chunk.x.shape == (3, channels, 8, 9)


@pytest.mark.parametrize(
    "axes",
    [(8, 8, 5), (5, 8, 8), (8, 8, 8), (3, 8, 3), (4, 5, 3), (1, 28, 1), (3, 3, 3), (8, 3, 8)],
)
def test_npz_images_whose_channels_cannot_be_told_are_refused(tmp_path, axes):
    path = tmp_path / "x.npz"
    np.savez(path, x=np.zeros((3, *axes), np.uint8), y=np.zeros(3, int))
    error = fail(path)
    assert at(error) == (None, "x")
    assert str(axes) in str(error)
    assert "(n, channels, height, width)" in str(error)


@pytest.mark.parametrize(
    ("shape", "layout", "stored"),
    [
        ((3, 7), "table", (7,)),
        ((3, 8, 9), "gray", (1, 8, 9)),
        ((3, 1, 8, 9), "channels_first", (1, 8, 9)),
        ((3, 3, 8, 9), "channels_first", (3, 8, 9)),
        ((3, 8, 9, 1), "channels_last", (1, 8, 9)),
        ((3, 8, 9, 3), "channels_last", (3, 8, 9)),
    ],
)
def test_the_layout_that_was_taken_is_told(tmp_path, shape, layout, stored):
    np.savez(tmp_path / "x.npz", x=np.zeros(shape, np.uint8), y=np.zeros(3, int))
    source = readers.open_source(tmp_path / "x.npz")
    [chunk] = source.chunks
    assert (source.notes.layout, chunk.x.shape[1:]) == (layout, stored)


def test_a_named_image_column_must_hold_images(tmp_path):
    pq.write_table(pa.table({"label": [0], "photo": ["x.png"]}), tmp_path / "x.parquet")
    error = fail(tmp_path / "x.parquet", columns=Columns(image="photo"))
    assert at(error) == (None, "photo")


def test_image_folder_faults(tmp_path):
    root = tmp_path / PLANTED
    assert "no such file" in str(fail(root))
    root.mkdir()
    assert "no rows" in str(fail(root))
    (root / "a").mkdir()
    (root / "a" / "1.png").write_bytes(encode((4, 4)))
    (root / "a" / "2.png").write_bytes(encode((4, 5)))
    assert at(fail(root)) == (2, "file")
    (root / "a" / "2.png").write_bytes(PLANTED.encode())
    assert at(fail(root)) == (2, "file")
    (root / "a" / "deeper").mkdir()
    assert "put the images flat" in str(fail(root))
    shutil.rmtree(root / "a" / "deeper")
    (root / "loose.png").write_bytes(encode((4, 4)))
    assert "directories only" in str(fail(root))


def test_a_link_out_of_an_image_folder_is_refused(tmp_path):
    (tmp_path / "outside.png").write_bytes(encode((4, 4)))
    (tmp_path / "root" / "a").mkdir(parents=True)
    (tmp_path / "root" / "a" / "1.png").symlink_to(tmp_path / "outside.png")
    assert "symbolic link" in str(fail(tmp_path / "root"))
