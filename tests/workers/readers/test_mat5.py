import numpy as np
import pytest
import scipy.io

from workers.readers import ReadError, mat5


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize(
    "array",
    [
        np.arange(24, dtype=np.uint8).reshape(2, 3, 2, 2),
        np.arange(7.0)[:, None],
        np.array([[1, -2], [300, 70_000]]),
        np.array([[0.1, np.inf]], np.float32),
        np.array([[5]], np.uint8),
        np.zeros((0, 3)),
        np.arange(9, dtype=np.int16).reshape(3, 3).T,
        np.array([[2**40]], np.int64),
    ],
    ids=lambda a: f"{a.dtype}{list(a.shape)}",
)
def test_arrays_that_scipy_writes_read_back(tmp_path, array, compressed):
    path = tmp_path / "x.mat"
    other = {"name": "text", "cell": np.array([1, "a"], object), "large": np.zeros((9, 999))}
    scipy.io.savemat(path, {**other, "wanted": array}, do_compression=compressed)
    found = mat5.read(path, ("wanted", "absent"))
    assert found.keys() == {"wanted"}
    np.testing.assert_array_equal(found["wanted"], scipy.io.loadmat(path)["wanted"])
    np.testing.assert_array_equal(found["wanted"], array)


def test_a_small_element_packed_into_its_tag_is_read(tmp_path):
    path = tmp_path / "x.mat"
    scipy.io.savemat(path, {"v": np.array([[1, 2, 3, 4]], np.uint8)})
    assert mat5.read(path, ("v",))["v"].tolist() == [[1, 2, 3, 4]]


@pytest.mark.parametrize("value", [np.array([[1j]]), np.array([[1, "a"]], object), "text"])
def test_what_is_no_real_number_is_refused(tmp_path, value):
    path = tmp_path / "x.mat"
    scipy.io.savemat(path, {"v": value})
    with pytest.raises(ReadError, match="real numbers"):
        mat5.read(path, ("v",))


def test_other_versions_are_refused_with_what_to_do(tmp_path):
    path = tmp_path / "x.mat"
    scipy.io.savemat(path, {"v": np.ones((2, 2))}, format="4")
    with pytest.raises(ReadError, match="-v7"):
        mat5.read(path, ("v",))


@pytest.mark.parametrize("compressed", [False, True])
def test_a_file_cut_short_anywhere_inside_the_array_is_refused(tmp_path, compressed):
    path = tmp_path / "x.mat"
    array = np.random.default_rng(0).normal(size=(4, 5))
    scipy.io.savemat(path, {"v": array}, do_compression=compressed)
    whole = path.read_bytes()
    for length in range(137, len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(ReadError, match="damaged"):
            mat5.read(path, ("v",))


def test_a_flipped_byte_in_a_compressed_array_is_found(tmp_path):
    path = tmp_path / "x.mat"
    array = np.random.default_rng(0).integers(0, 256, size=(40, 50), dtype=np.uint8)
    scipy.io.savemat(path, {"v": array}, do_compression=True)
    content = bytearray(path.read_bytes())
    content[1000] ^= 1
    path.write_bytes(content)
    with pytest.raises(ReadError, match="damaged"):
        mat5.read(path, ("v",))
