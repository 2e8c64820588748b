"""Readers of images: parquet columns, image folders, and modes, sizes and orientations."""

import io
import random

import numpy as np
import pytest
from PIL import Image

from tests.workers.reader_files import colour_images, encode, read, write_images
from workers import readers
from workers.readers import Columns


@pytest.mark.parametrize("plain", [False, True])
def test_parquet_image_column_of_the_hugging_face_hub(tmp_path, plain):
    pixels = colour_images(30)
    names = [f"cat/{i}.png" for i in range(30)]
    path = write_images(
        tmp_path / "x.parquet",
        [encode(p) for p in pixels],
        labels=[i % 3 for i in range(30)],
        names=names,
        plain=plain,
    )
    columns = Columns() if plain else Columns(record_id="img.path")
    found, source = read(path, columns=columns)
    assert (source.rows, source.exact) == (30, True)
    np.testing.assert_array_equal(found.x, pixels.transpose(0, 3, 1, 2))
    np.testing.assert_array_equal(found.labels, np.arange(30) % 3)
    assert found.record_ids == (None if plain else names)


def test_parquet_path_beside_the_bytes_is_never_followed(tmp_path):
    secret = tmp_path / "outside.png"
    secret.write_bytes(encode(colour_images(1)[0]))
    path = write_images(tmp_path / "x.parquet", [None], names=[str(secret)])
    with pytest.raises(readers.ReadError, match="image is missing"):
        read(path)


def test_gray_images_have_one_channel_and_become_colour_among_colour_ones(tmp_path):
    pixels = colour_images(2)
    gray = pixels[1, :, :, 0]
    path = write_images(tmp_path / "gray.parquet", [encode(gray)])
    np.testing.assert_array_equal(read(path)[0].x, gray[None, None])
    path = write_images(tmp_path / "mixed.parquet", [encode(pixels[0]), encode(gray)])
    np.testing.assert_array_equal(read(path)[0].x[1], np.stack([gray] * 3))


def test_palette_and_transparent_images_become_rgb(tmp_path):
    pixels = colour_images(1)[0]
    flat = np.broadcast_to(pixels[0, 0], pixels.shape).copy()
    path = write_images(
        tmp_path / "x.parquet", [encode(pixels, mode="RGBA"), encode(flat, mode="P")]
    )
    found, _ = read(path)
    np.testing.assert_array_equal(found.x[0], pixels.transpose(2, 0, 1))
    assert found.x.shape == (2, 3, 5, 4)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_turned_as_their_exif_orientation_says(tmp_path, orientation):
    meant = colour_images(1, size=(5, 4))[0]
    stored = {
        1: meant,
        2: meant[:, ::-1],
        3: meant[::-1, ::-1],
        4: meant[::-1],
        5: meant.swapaxes(0, 1),
        6: np.rot90(meant),
        7: meant[::-1, ::-1].swapaxes(0, 1),
        8: np.rot90(meant, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(stored)).save(buffer, "PNG", exif=exif)
    path = write_images(tmp_path / "x.parquet", [encode(meant), buffer.getvalue()])
    found, source = read(path)
    np.testing.assert_array_equal(found.x[1], meant.transpose(2, 0, 1))
    assert source.notes.images_turned == (orientation != 1)


def test_gray_images_made_colour_are_counted(tmp_path):
    pixels = colour_images(3)
    gray = encode(pixels[1, :, :, 0])
    path = write_images(tmp_path / "x.parquet", [encode(pixels[0]), gray, gray])
    assert read(path)[1].notes.images_coloured == 2


def test_resize_brings_images_to_one_size(tmp_path):
    encoded = [encode(colour_images(1, size)[0]) for size in ((5, 4), (9, 9), (3, 8))]
    path = write_images(tmp_path / "x.parquet", encoded)
    assert read(path, resize=(6, 7))[0].x.shape == (3, 3, 6, 7)


def write_folder(root, images):
    for name, pixels in images.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(encode(pixels, "PNG" if name.endswith("png") else "BMP"))
    return root


def test_image_folder_has_identities_as_labels_and_subjects(tmp_path):
    names = ["n000002/0001_01.png", "n000002/0002_01.png", "n000009/0001_02.bmp", "n000010/a.png"]
    pixels = dict(zip(names, colour_images(4), strict=True))
    shuffled = list(pixels.items())
    random.Random(1).shuffle(shuffled)
    root = write_folder(tmp_path / "train", dict(shuffled))
    (root / ".DS_Store").write_bytes(b"left by a file browser")
    found, source = read(root)
    assert (source.format, source.rows, source.classes) == ("image_folder", 4, 3)
    np.testing.assert_array_equal(found.x, colour_images(4).transpose(0, 3, 1, 2))
    assert found.labels.tolist() == [0, 0, 1, 2]
    assert found.record_ids == names
    assert found.subject_ids == ["n000002", "n000002", "n000009", "n000010"]
