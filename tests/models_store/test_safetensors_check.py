import io
import json
import tempfile
from pathlib import Path

import numpy as np
import pytest
import safetensors
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from models_store import errors, safetensors_check
from tests.stored import check_file

SPEC = {
    "conv.weight": ((4, 1, 3, 3), "float32"),
    "head.bias": ((10,), "float32"),
    "norm.num_batches_tracked": ((), "int64"),
}
LIMIT = 1 << 16


def read_file(path, spec, limit):
    check_file(path, spec, limit)
    return safetensors.numpy.load_file(path)


def tensors():
    rng = np.random.default_rng(1)
    return {
        "conv.weight": rng.normal(size=(4, 1, 3, 3)).astype(np.float32),
        "head.bias": rng.normal(size=10).astype(np.float32),
        "norm.num_batches_tracked": np.array(3, np.int64),
    }


def upload(directory, content=None, **changed):
    path = directory / "upload.safetensors"
    found = {name: t for name, t in {**tensors(), **changed}.items() if t is not None}
    path.write_bytes(safetensors.numpy.save(found) if content is None else content)
    return path


def with_header(header, data=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def entry(dtype="F32", shape=(1,), offsets=(0, 4)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def test_a_file_that_fits_is_accepted_and_read(tmp_path):
    path = upload(tmp_path)
    check_file(path, SPEC, LIMIT)
    read = read_file(path, SPEC, LIMIT)
    assert read.keys() == SPEC.keys()
    np.testing.assert_array_equal(read["conv.weight"], tensors()["conv.weight"])


def test_a_dtype_may_be_named_as_torch_or_numpy_names_it(tmp_path):
    spec = {
        **SPEC,
        "head.bias": ((10,), "torch.float32"),
        "conv.weight": ((4, 1, 3, 3), np.dtype("f4")),
    }
    check_file(upload(tmp_path), spec, LIMIT)


@pytest.mark.parametrize("dtype", safetensors_check._ITEM_BYTES)
def test_items_of_a_dtype_have_the_size_that_the_library_says(dtype):
    def taken(read, content):
        try:
            read(content)
        except (errors.NotSafetensors, safetensors.SafetensorError):
            return False
        return True

    def ours(content):
        safetensors_check.read_header(io.BytesIO(content), len(content))

    sizes = range(1, 17)
    contents = [
        with_header({"w": entry(dtype, (3,), (0, 3 * size))}, bytes(3 * size)) for size in sizes
    ]
    fits = [taken(ours, content) for content in contents]
    assert fits == [taken(safetensors.deserialize, content) for content in contents]
    assert sum(fits) == 1


def test_format_metadata_is_allowed(tmp_path):
    content = safetensors.numpy.save(tensors(), metadata={"format": "pt"})
    check_file(upload(tmp_path, content), SPEC, LIMIT)


def test_a_file_above_the_limit_is_refused_before_it_is_read(tmp_path):
    with pytest.raises(errors.UploadTooLarge, match="at most 100"):
        check_file(upload(tmp_path, b"\xff" * 101), SPEC, 100)


@pytest.mark.parametrize(
    ("changed", "reasons"),
    [
        ({"head.bias": None}, ["'head.bias' is missing"]),
        ({"extra": np.zeros(2, np.float32)}, ["'extra' is unexpected"]),
        (
            {"head.bias": np.zeros(11, np.float32)},
            ["'head.bias' has shape [11], expected [10]"],
        ),
        (
            {"head.bias": np.zeros(10, np.float64)},
            ["'head.bias' has dtype F64, expected F32"],
        ),
        (
            {"head.bias": np.array([0.0] * 9 + [np.nan], np.float32)},
            ["'head.bias' holds NaN or infinity"],
        ),
        (
            {"conv.weight": np.full((4, 1, 3, 3), -np.inf, np.float32)},
            ["'conv.weight' holds NaN or infinity"],
        ),
        (
            {"head.bias": np.zeros((10, 1), np.float16), "norm.num_batches_tracked": None},
            [
                "'norm.num_batches_tracked' is missing",
                "'head.bias' has shape [10, 1], expected [10]",
                "'head.bias' has dtype F16, expected F32",
            ],
        ),
    ],
)
def test_every_difference_from_the_architecture_is_named(tmp_path, changed, reasons):
    with pytest.raises(errors.UploadMismatch) as caught:
        check_file(upload(tmp_path, **changed), SPEC, LIMIT)
    assert caught.value.reasons == reasons


def test_not_a_number_is_found_beyond_the_first_piece(tmp_path):
    values = np.zeros(3_000_000, np.float32)
    values[-1] = np.inf
    path = tmp_path / "large.safetensors"
    safetensors.numpy.save_file({"w": values}, path)
    with pytest.raises(errors.UploadMismatch, match="NaN or infinity"):
        check_file(path, {"w": ((3_000_000,), "float32")}, 1 << 30)


@pytest.mark.parametrize(("bits", "finite"), [(0x7F7F, True), (0x7F80, False), (0xFFC0, False)])
def test_bfloat16_is_checked_though_numpy_does_not_know_it(tmp_path, bits, finite):
    path = upload(
        tmp_path, with_header({"w": entry("BF16", (1,), (0, 2))}, bits.to_bytes(2, "little"))
    )
    spec = {"w": ((1,), "bfloat16")}
    if finite:
        check_file(path, spec, LIMIT)
    else:
        with pytest.raises(errors.UploadMismatch):
            check_file(path, spec, LIMIT)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"PK\x03\x04 a zip, as torch.save writes it",
        b"\x80\x04\x95 a pickle",
        with_header({}, length=1 << 60),
        with_header(b"not json"),
        with_header(b"\xff\xfe"),
        with_header(b"[" * 5000),
        with_header([]),
        with_header({"w": 1}, b"1234"),
        with_header({"w": {"dtype": "F32", "shape": [1]}}, b"1234"),
        with_header({"w": {**entry(), "more": 1}}, b"1234"),
        with_header({"w": entry("F31")}, b"1234"),
        with_header({"w": entry(["F32"])}, b"1234"),
        with_header({"w": entry(shape=(True,))}, b"1234"),
        with_header({"w": entry(shape=(-1,))}, b"1234"),
        with_header({"w": entry(shape=(1 << 60, 0))}, b"1234"),
        with_header({"w": entry(shape=[1] * 65)}, b"1234"),
        with_header({"w": entry(offsets=(4, 0))}, b"1234"),
        with_header({"w": entry(offsets=(0, 4, 8))}, b"1234"),
        with_header({"w": entry(offsets=(0, 8))}, b"12345678"),
        with_header({"w": entry(offsets=(4, 8))}, b"12345678"),
        with_header({"w": entry(), "v": entry()}, b"1234"),
        with_header({"w": entry()}, b"123"),
        with_header({"w": entry()}, b"1234 hidden"),
        with_header(b'{"w":%b,"w":%b}' % ((json.dumps(entry()).encode(),) * 2), b"1234"),
        with_header({"__metadata__": {"a": 1}, "w": entry()}, b"1234"),
        with_header({"__metadata__": [], "w": entry()}, b"1234"),
    ],
)
def test_a_malformed_file_is_refused_as_not_safetensors(tmp_path, content):
    with pytest.raises(errors.NotSafetensors, match="Not a usable safetensors file"):
        read_file(upload(tmp_path, content), {"w": ((1,), "float32")}, LIMIT)


def test_names_from_outside_are_shortened_in_messages(tmp_path):
    path = upload(tmp_path, with_header({"x" * 10_000: entry()}, b"1234"))
    with pytest.raises(errors.UploadMismatch) as caught:
        check_file(path, {}, LIMIT)
    assert len(str(caught.value)) < 300


def outcome(content):
    """ "accepted" or the name of the documented error; anything else fails the test."""
    with tempfile.TemporaryDirectory() as directory:
        path = upload(Path(directory), content)
        try:
            read = read_file(path, SPEC, LIMIT)
        except (errors.UploadTooLarge, errors.NotSafetensors, errors.UploadMismatch) as error:
            return type(error).__name__
    assert {n: (t.shape, str(t.dtype)) for n, t in read.items()} == SPEC
    assert all(np.isfinite(t).all() for t in read.values())
    return "accepted"


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=400))
def test_arbitrary_bytes_meet_only_documented_errors(content):
    assert outcome(content) == "NotSafetensors"


@pytest.mark.seconds
@settings(max_examples=250, deadline=None)
@given(st.data())
def test_mutated_files_meet_only_documented_errors(data):
    content = bytearray(safetensors.numpy.save(tensors()))
    for _ in range(data.draw(st.integers(1, 4))):
        position = data.draw(st.integers(0, len(content) - 1))
        content[position] = data.draw(st.integers(0, 255))
    cut = data.draw(st.none() | st.integers(0, len(content)))
    assert outcome(bytes(content[:cut])) in {"accepted", "NotSafetensors", "UploadMismatch"}


@pytest.mark.seconds
@settings(max_examples=50, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from([*SPEC, "__metadata__", "w"]),
        st.fixed_dictionaries(
            {
                "dtype": st.sampled_from(["F32", "I64", "BOOL", "F8_E4M3", "", None]),
                "shape": st.lists(st.integers(-1, 4), max_size=4),
                "data_offsets": st.lists(st.integers(-1, 200), min_size=1, max_size=3),
            }
        )
        | st.recursive(st.none() | st.integers() | st.text(max_size=5), st.lists),
    ),
    st.binary(max_size=200),
)
def test_invented_headers_are_never_trusted_more_than_the_library_does(header, body):
    content = with_header(header, body)
    found = outcome(content)
    if found != "NotSafetensors":
        safetensors.deserialize(content)  # whatever passes the layout check is really readable


TIED_SPEC = {"embed.weight": ((8, 4), "float32"), "out.weight": ((8, 4), "float32")}
TIES = [["embed.weight", "out.weight"]]


def tied_file(directory, **named):
    path = directory / "tied.safetensors"
    path.write_bytes(safetensors.numpy.save(named))
    return path


@pytest.mark.parametrize(
    "names", [["embed.weight"], ["out.weight"], ["embed.weight", "out.weight"]]
)
def test_a_tied_tensor_may_be_held_under_one_of_its_names_or_under_each(tmp_path, names):
    values = np.random.default_rng(1).normal(size=(8, 4)).astype(np.float32)
    path = tied_file(tmp_path, **dict.fromkeys(names, values))
    check_file(path, TIED_SPEC, LIMIT, tied=TIES)


def test_tied_names_with_different_values_are_refused_by_name(tmp_path):
    values = np.zeros((8, 4), np.float32)
    other = values.copy()
    other[-1, -1] = 1e-7
    path = tied_file(tmp_path, **{"embed.weight": values, "out.weight": other})
    with pytest.raises(errors.UploadMismatch) as caught:
        check_file(path, TIED_SPEC, LIMIT, tied=TIES)
    assert caught.value.reasons == [
        "'out.weight' and 'embed.weight' are one tensor of this model and hold different values"
    ]


def test_a_difference_of_tied_values_is_found_beyond_the_first_piece(tmp_path):
    values = np.zeros(3_000_000, np.float32)
    other = values.copy()
    other[-1] = 1
    spec = dict.fromkeys(("a", "b"), ((3000000,), "float32"))
    path = tied_file(tmp_path, a=values, b=other)
    with pytest.raises(errors.UploadMismatch, match="different values"):
        check_file(path, spec, 1 << 30, tied=[["a", "b"]])


def test_a_tensor_held_under_none_of_its_names_is_missing(tmp_path):
    path = tied_file(tmp_path, **{"head.bias": np.zeros(10, np.float32)})
    spec = TIED_SPEC | {"head.bias": ((10,), "float32")}
    with pytest.raises(errors.UploadMismatch, match=r"'embed\.weight' is missing"):
        check_file(path, spec, LIMIT, tied=TIES)
