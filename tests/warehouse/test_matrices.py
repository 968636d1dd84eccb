"""Matrices in one file and in parts, read alike."""

from itertools import pairwise

import numpy as np
import pytest

from warehouse.matrices import Matrix, joint_sha256, open_matrix, part_name, write_matrix
from warehouse.store import sha256_file

VALUES = np.random.default_rng(0).normal(size=(7, 30)).astype(np.float16)


def in_parts(folder, values=VALUES, ends=(0, 8, 16, 30)):
    folder.mkdir()
    for first, end in pairwise(ends):
        np.save(folder / part_name(first), values[:, first:end])
    return folder


@pytest.fixture(params=["one file", "parts"])
def matrix(request, tmp_path):
    if request.param == "parts":
        return open_matrix(in_parts(tmp_path / "0001-layer.mean"))
    np.save(tmp_path / "0001-layer.mean.npy", VALUES)
    return open_matrix(tmp_path / "0001-layer.mean.npy")


@pytest.mark.parametrize(
    "key",
    [
        2, -1, slice(1, 4), slice(None), slice(None, None, 2), slice(4, 4), [3, 0, 3], np.array([True, False] * 3 + [True]), np.zeros(0, dtype=int),
        (2, 17), (2, slice(5, 20)), (slice(1, 4), -1), (slice(None), slice(None)), (slice(2, 5), slice(15, 3, -2)), (slice(None), [29, 0, 8, 7, 8]),
        (slice(None), np.arange(30) % 3 == 0), (slice(None), np.zeros(0, dtype=int)), (slice(None), np.zeros(30, dtype=bool)), ([3, 0], slice(4, 11)),
        ([3, 0], 9), (3, [9, 2]),
    ],
)  # fmt: skip
def test_it_is_indexed_as_an_array_is(matrix, key):
    found = matrix[key]
    np.testing.assert_array_equal(found, VALUES[key])
    assert (found.dtype, np.shape(found)) == (VALUES.dtype, np.shape(VALUES[key]))


def test_it_is_an_array_to_numpy(matrix):
    assert (matrix.shape, matrix.dtype, matrix.ndim, len(matrix)) == ((7, 30), np.float16, 2, 7)
    np.testing.assert_array_equal(np.asarray(matrix), VALUES)
    np.testing.assert_array_equal(np.asarray(matrix, dtype=np.float64), VALUES.astype(np.float64))
    np.testing.assert_array_equal(np.isfinite(matrix).all(axis=0), np.ones(30, dtype=bool))
    copied = np.array(matrix)
    copied[:] = 0
    np.testing.assert_array_equal(list(matrix), VALUES)


@pytest.mark.parametrize(("values", "sizes"), [(1, [1] * 7), (60, [2, 2, 2, 1]), (10**6, [7])])
def test_blocks_are_the_whole_in_pieces_of_bounded_size(matrix, values, sizes):
    found = list(matrix.blocks(values))
    assert [rows.stop - rows.start for rows, _ in found] == sizes
    for rows, block in found:
        np.testing.assert_array_equal(block, VALUES[rows])
        assert block.flags.writeable  # in memory


@pytest.mark.parametrize("key", [7, -8, (0, 30), (slice(None), [30]), (slice(None), np.ones(29, dtype=bool)), ([0, 1], [2, 3])])
def test_what_is_not_there_and_pairs_are_refused(matrix, key):
    with pytest.raises(IndexError):
        matrix[key]


def test_a_folder_that_lacks_a_part_or_has_another_kind_is_refused(tmp_path):
    folder = in_parts(tmp_path / "parts")
    (folder / part_name(8)).unlink()
    with pytest.raises(ValueError, match="no part of it begins with clip 8"):
        open_matrix(folder)
    for other in (VALUES[:6, :8], VALUES[:, :8].astype(np.float32)):
        np.save(folder / part_name(8), other)
        with pytest.raises(ValueError, match=r"00000008\.npy is float(16|32) of [67] neurons, beside others float16 of 7"):
            open_matrix(folder)
    np.save(folder / part_name(8), VALUES[0])
    with pytest.raises(ValueError, match="an array of 1 axes"):
        open_matrix(folder)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="without parts"):
        open_matrix(tmp_path / "empty")


def test_many_parts_hold_no_file_open(tmp_path):
    folder = in_parts(tmp_path / "parts", VALUES, range(31))
    matrix = open_matrix(folder)
    (folder / part_name(29)).unlink()
    with pytest.raises(FileNotFoundError):  # what was mapped would still be there
        matrix[:]
    np.testing.assert_array_equal(matrix[:, :29], VALUES[:, :29])


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_what_is_written_in_blocks_is_what_numpy_writes(tmp_path, dtype):
    values = np.asfortranarray(VALUES.astype(dtype))
    digest = write_matrix(tmp_path / "blocks.npy", values.shape, values.dtype, (values[start : start + 2] for start in range(0, 7, 2)))
    np.save(tmp_path / "numpy.npy", np.ascontiguousarray(values))
    assert (tmp_path / "blocks.npy").read_bytes() == (tmp_path / "numpy.npy").read_bytes()
    assert digest == sha256_file(tmp_path / "blocks.npy")
    assert joint_sha256([digest]) != digest
    np.testing.assert_array_equal(Matrix([tmp_path / "blocks.npy"])[:], values)
