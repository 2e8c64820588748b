"""The bytes of stored tensors, held against the safetensors library."""

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from models_store import open_store, tensors

DTYPES = ("?", "u1", "i1", "u2", "<i2", "<f2", "<u4", "<i4", "<f4", "<u8", "<i8", "<f8")
NAMED = st.dictionaries(
    st.text(max_size=6),
    st.sampled_from(DTYPES).flatmap(
        lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, min_side=0, max_side=4))
    ),
    max_size=6,
)


def written(named):
    return b"".join(tensors.Serialized(named).pieces())


@pytest.mark.seconds
@settings(max_examples=200, deadline=None)
@given(NAMED)
def test_tensors_are_written_as_the_library_writes_them(named):
    content = written(named)
    assert content == safetensors.numpy.save(named)
    assert len(content) == tensors.Serialized(named).size_bytes


@pytest.mark.parametrize("named", [{"c": np.ones(2, "c8")}, {"s": np.array(["a"])}])
def test_dtypes_that_the_format_lacks_are_refused_before_anything_is_stored(tmp_path, named):
    with pytest.raises(ValueError, match="safetensors lacks"):
        tensors.save(open_store(tmp_path).blobs, named, {}, kind="checkpoints")
    assert list(tmp_path.iterdir()) == []


def test_a_part_of_a_blob_is_read_by_its_range(tmp_path):
    blobs = open_store(tmp_path).blobs
    saved = tensors.save(blobs, {"w": np.arange(1000.0)}, {}, kind="caches")
    with blobs.open("caches", saved.digest) as stream:
        whole = stream.read()
    assert blobs.size("caches", saved.digest) == len(whole)
    for start, stop in ((0, 1), (7, 4000), (len(whole) - 5, len(whole)), (20, 20)):
        with blobs.open("caches", saved.digest, start, stop) as stream:
            assert stream.read() == whole[start:stop]
