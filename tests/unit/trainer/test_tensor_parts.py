"""Tensors whose rows several ranks have written are one tensor to whoever reads them."""

from __future__ import annotations

from io import BytesIO
from itertools import pairwise

import pytest
import torch

from finetune_trainer.errors import DataError
from finetune_trainer.merge import SafetensorsFolder
from finetune_trainer.pieces import Piece, fill, whole
from finetune_trainer.tensor_file import read_pieces, tensor_file

TABLE = torch.arange(21.0).reshape(7, 3)
CUTS = {
    "one part": [0, 7],
    "two parts": [0, 4, 7],
    "three, the last one row": [0, 3, 6, 7],
    "more ranks than rows": [0, 1, 2, 3, 4, 5, 6, 7],
}


def parts(bounds):
    return [
        Piece("table", TABLE[first:end].clone(), (7, 3), first) for first, end in pairwise(bounds)
    ]


def stored(pieces):
    return BytesIO(b"".join(tensor_file(pieces, {"step": "3"})))


@pytest.mark.parametrize("bounds", CUTS.values(), ids=CUTS.keys())
@pytest.mark.parametrize("own", CUTS.values(), ids=CUTS.keys())
def test_any_cut_is_filled_from_any_other(bounds, own):
    files = [stored([one]) for one in parts(bounds)]
    targets = [
        Piece("table", torch.full_like(one.tensor, -1), one.shape, one.first) for one in parts(own)
    ]
    for target in targets:
        wanted = {"table": target}
        found = [piece for file in files for piece in read_pieces(_again(file), wanted)]
        fill(wanted, found)
    assert torch.equal(torch.cat([one.tensor for one in targets]), TABLE)


def test_only_pieces_that_share_rows_are_read():
    target = {"table": Piece("table", torch.empty(2, 3), (7, 3), 5)}
    files = [stored([one]) for one in parts([0, 4, 6, 7])]
    assert [len(list(read_pieces(file, target))) for file in files] == [0, 1, 1]


def test_rows_that_nobody_has_written_are_refused():
    with pytest.raises(DataError, match="rows of table are missing"):
        fill({"table": whole("table", torch.empty(7, 3))}, parts([0, 4, 7])[:1])


def test_a_tensor_of_another_shape_is_refused():
    with pytest.raises(DataError, match="has shape"):
        fill({"table": whole("table", torch.empty(8, 3))}, parts([0, 7]))


@pytest.mark.parametrize(
    "dtype", [torch.uint8, torch.int64, torch.bfloat16, torch.float32], ids=str
)
def test_every_type_of_a_state_is_kept_bit_for_bit(dtype):
    tensor = torch.arange(6).to(dtype)
    kept = [whole("state", tensor), whole("step", tensor[3])]
    state, step = read_pieces(stored(kept))
    assert torch.equal(state.tensor, tensor)
    assert torch.equal(step.tensor, tensor[3])


def test_an_export_reads_parts_as_one_tensor(tmp_path):
    for number, piece in enumerate(parts([0, 4, 7])):
        content = stored([piece]).getvalue()
        (tmp_path / f"trainable-{number:05}-of-00002.safetensors").write_bytes(content)
    folder = SafetensorsFolder(tmp_path)
    assert torch.equal(folder["table"], TABLE)
    assert folder.plan("table").shape == (7, 3)


def test_a_file_of_whole_tensors_is_plain_safetensors(tmp_path):
    from safetensors.torch import load

    assert torch.equal(load(stored([whole("table", TABLE)]).getvalue())["table"], TABLE)


def _again(file):
    file.seek(0)
    return file
