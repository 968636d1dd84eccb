"""Reading checkpoints: what is whole comes back exactly, what is not is refused in one line."""

import os

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from ingest.networks.checkpoints import crc32c, load_exactly, read_checkpoint, tensor_sha256
from tests.ingest.networks.tensorflow_files import crc, write_checkpoint
from warehouse.store import UserError


class Attack:
    """Unpickling this would leave a file behind."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def refusal(action, *arguments) -> str:
    with pytest.raises(UserError) as caught:
        action(*arguments)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.fixture
def tensors():
    generator = torch.Generator().manual_seed(0)
    return {"a.weight": torch.randn(3, 4, generator=generator), "a.bias": torch.randn(3, generator=generator)}


VARIABLES = {
    "net/kernel/.ATTRIBUTES/VARIABLE_VALUE": np.arange(3000, dtype=np.float32).reshape(10, 30, 10),
    "net/kernel_2/.ATTRIBUTES/VARIABLE_VALUE": np.arange(6, dtype=np.float64).reshape(2, 3) / 7,
    "net/steps/.ATTRIBUTES/VARIABLE_VALUE": np.array(41, dtype=np.int64),
    "net/zero/.ATTRIBUTES/VARIABLE_VALUE": np.zeros((0, 3), dtype=np.float32),
}


@pytest.mark.parametrize("kind", ["safetensors", "pt", "bin"])
def test_reads_what_was_written(tmp_path, tensors, kind):
    path = tmp_path / f"net.{kind}"
    if kind == "safetensors":
        save_file(tensors, path)
    else:
        torch.save({"state_dict": tensors} if kind == "pt" else tensors, path)
    found = read_checkpoint(path)
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], tensors[name]) for name in tensors)


def test_reads_tensorflow_variables_of_either_folder(tmp_path):
    write_checkpoint(tmp_path / "variables", VARIABLES)
    for path in (tmp_path, tmp_path / "variables", tmp_path / "variables" / "variables.index"):
        found = read_checkpoint(path)
        assert found.keys() == VARIABLES.keys()
        for name, value in VARIABLES.items():
            assert found[name].numpy().dtype == value.dtype
            np.testing.assert_array_equal(found[name].numpy(), value)


def test_crc32c_equals_the_published_values_and_a_loop_over_bytes():
    assert crc32c(b"") == 0
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(bytes(32)) == 0x8A9136AA  # RFC 3720, B.4
    generator = np.random.default_rng(0)
    for size in (4095, 4096, 4097, 100_003):
        data = generator.bytes(size)
        masked = ((crc32c(data) >> 15 | crc32c(data) << 17) + 0xA282EAD8) & 0xFFFFFFFF
        assert masked == crc(data)


def test_every_truncation_of_tensorflow_files_is_refused(tmp_path):
    folder = write_checkpoint(tmp_path / "variables", VARIABLES)
    for name in ("variables.index", "variables.data-00000-of-00001"):
        whole = (folder / name).read_bytes()
        for size in {0, 1, 47, len(whole) // 3, len(whole) // 2, len(whole) - 49, len(whole) - 1}:
            (folder / name).write_bytes(whole[:size])
            assert str(folder) in refusal(read_checkpoint, folder)
        (folder / name).write_bytes(whole)
    assert read_checkpoint(folder)


def test_every_changed_byte_of_a_tensorflow_index_is_refused_or_harmless(tmp_path):
    folder = write_checkpoint(tmp_path / "variables", {"w": np.arange(4, dtype=np.float32)})
    whole = (folder / "variables.index").read_bytes()
    for position in range(len(whole)):
        (folder / "variables.index").write_bytes(whole[:position] + bytes([whole[position] ^ 0x55]) + whole[position + 1 :])
        try:
            found = read_checkpoint(folder)
        except UserError:
            continue
        assert torch.equal(found["w"], torch.arange(4.0))  # a byte that means nothing: padding, or the metaindex


def test_changed_data_and_a_missing_data_file_are_refused(tmp_path):
    folder = write_checkpoint(tmp_path / "variables", VARIABLES)
    data = folder / "variables.data-00000-of-00001"
    raw = bytearray(data.read_bytes())
    raw[100] ^= 1
    data.write_bytes(raw)
    assert "wrong checksum for net/kernel" in refusal(read_checkpoint, folder)
    data.unlink()
    assert "cannot read the TensorFlow checkpoint" in refusal(read_checkpoint, folder)


def test_truncated_and_empty_safetensors_are_refused(tmp_path, tensors):
    path = tmp_path / "net.safetensors"
    save_file(tensors, path)
    whole = path.read_bytes()
    for size in (0, 7, 20, len(whole) - 1):
        path.write_bytes(whole[:size])
        assert "not a whole safetensors file" in refusal(read_checkpoint, path)


def test_a_pickle_with_code_is_refused_and_not_run(tmp_path):
    path, mark = tmp_path / "net.pt", tmp_path / "ran"
    torch.save({"state_dict": {"a": Attack(mark)}}, path)
    assert "pickled code" in refusal(read_checkpoint, path)
    assert not mark.exists()


def test_truncated_and_empty_torch_files_and_other_content_are_refused(tmp_path, tensors):
    path = tmp_path / "net.pt"
    torch.save(tensors, path)
    whole = path.read_bytes()
    for content in (b"", b"hello", whole[: len(whole) // 2]):
        path.write_bytes(content)
        refusal(read_checkpoint, path)
    for wrong in ([1, 2], {"lr": 0.1}, {}):
        torch.save(wrong, path)
        assert "no state dict" in refusal(read_checkpoint, path)


def test_paths_that_are_no_checkpoints_are_refused(tmp_path):
    assert "no checkpoint at" in refusal(read_checkpoint, tmp_path / "nothing.pt")
    assert "not a TensorFlow checkpoint" in refusal(read_checkpoint, tmp_path)
    (tmp_path / "net.h5").write_bytes(b"x")
    assert "no known kind" in refusal(read_checkpoint, tmp_path / "net.h5")


def test_loads_only_what_fits_exactly():
    module = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    right = {name: tensor + 1 for name, tensor in module.state_dict().items()}
    before = tensor_sha256(module.state_dict())

    missing = {name: tensor for name, tensor in right.items() if not name.startswith("0.")}
    assert "2 missing, first 0.bias" in refusal(load_exactly, module, missing, "x.pt")
    assert "1 unexpected, first 9.extra" in refusal(load_exactly, module, right | {"9.extra": torch.zeros(1)}, "x.pt")
    wrong = refusal(load_exactly, module, right | {"1.weight": torch.zeros(2, 4)}, "x.pt")
    assert wrong.startswith("x.pt does not fit")
    assert "first 1.weight [2, 4] instead of [2, 3]" in wrong
    assert tensor_sha256(module.state_dict()) == before

    load_exactly(module, right, "x.pt")
    assert tensor_sha256(module.state_dict()) == tensor_sha256(right)


def test_the_hash_depends_on_names_types_shapes_and_values_only(tensors):
    reference = tensor_sha256(tensors)
    assert tensor_sha256(dict(reversed(tensors.items()))) == reference
    assert tensor_sha256({name: torch.stack([tensor, tensor], -1)[..., 0] for name, tensor in tensors.items()}) == reference
    changed = [
        {"a.weight": tensors["a.weight"], "b.bias": tensors["a.bias"]},
        tensors | {"a.bias": tensors["a.bias"].double()},
        tensors | {"a.weight": tensors["a.weight"].reshape(4, 3)},
        tensors | {"a.bias": tensors["a.bias"] + 1},
    ]
    assert len({reference, *map(tensor_sha256, changed)}) == 5
