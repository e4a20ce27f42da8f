"""The doors by which torch and megatron.core read checkpoints, each with a check in front.

What is read is what was checked: the same bytes in memory, but for `common.pt`, which core opens by
its name right after.
"""

import functools
import io
import pickle
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch.distributed.checkpoint import DefaultLoadPlanner, FileSystemReader, filesystem
from torch.distributed.checkpoint.metadata import Metadata

from megatron_math.base.errors import UserError
from megatron_math.base.files import read_json
from megatron_math.checkpoint.allowed import ARCHIVE, EXTRA_STATE
from megatron_math.checkpoint.pickles import check_metadata, check_pickle, load_metadata, refused

COMMON, METADATA, KIND = "common.pt", ".metadata", "metadata.json"
_BACKENDS = {"sharded_backend": "torch_dist", "common_backend": "torch"}


def read_metadata(folder: Path) -> Metadata:
    """Names, shapes, types and places of a checkpoint's tensors, checked before torch has them."""
    guard_readers()
    return FileSystemReader(folder).read_metadata()


def guard_folder(folder: Path) -> None:
    """Before core loads from `folder`: guard its readers, look at the kind, the list of tensors
    and `common.pt`.

    Raises UnsafePickleError for a hostile file (torch 2.11 would hide the one from its readers),
    UserError for another kind of checkpoint.
    """
    guard_readers()
    for name in (KIND, METADATA):
        if not (folder / name).is_file():
            raise UserError(f"{folder} is not a torch_dist checkpoint: it has no {name}")
    kind = read_json(folder / KIND)
    for name, expected in _BACKENDS.items():
        if kind.get(name, expected) != expected:
            raise UserError(
                f"{folder / KIND} asks for the {name} {kind[name]!r:.80}; "
                f"only {expected} is read here: save it again with a current Megatron-Core"
            )
    check_metadata((folder / METADATA).read_bytes(), str(folder / METADATA))
    if (folder / COMMON).is_file():
        check_archive((folder / COMMON).read_bytes(), str(folder / COMMON))


def check_archive(data: bytes, where: str) -> None:
    """Raise UnsafePickleError unless `data` is a torch archive of plain values and tensors."""
    if not data.startswith(b"PK\3\4"):
        raise refused(where, "it is no archive of torch.save")
    try:
        archive = torch._C.PyTorchFileReader(io.BytesIO(data))  # the one that torch.load uses
        records = archive.get_all_records()
        contents = archive.get_record("data.pkl")
    except RuntimeError as error:
        raise refused(where, f"it is a broken archive ({error!s:.200})") from None
    if "constants.pkl" in records:
        raise refused(where, "it is a TorchScript program")
    check_pickle(contents, ARCHIVE, f"{where} (data.pkl)", has_tensors=True)


def check_extra_state(name: str, value: Any) -> None:
    """Raise UnsafePickleError for FP8 state of a layer that does more than Transformer Engine's."""
    if isinstance(value, io.BytesIO):
        check_archive(value.getvalue(), name)
    elif isinstance(value, torch.Tensor) and value.numel():
        check_pickle(value.detach().cpu().numpy().tobytes(), EXTRA_STATE, name)


@functools.cache
def guard_readers() -> None:
    """From now on torch's readers check what they read, for whoever calls them in this process.

    torch 2.13 reads `.metadata` with plain pickle and objects in `.distcp` files with
    `weights_only=False`.
    """
    assert filesystem.pickle is pickle, "torch reads .metadata in another way than this guards"
    filesystem.pickle = _CheckedPickle  # type: ignore[assignment]
    read_object = DefaultLoadPlanner.load_bytes

    def read_checked(self: DefaultLoadPlanner, read_item: Any, value: io.BytesIO) -> None:
        check_archive(value.getvalue(), f"the object {read_item.dest_index.fqn}")
        written_again = io.BytesIO()
        torch.save(torch.load(value, map_location="cpu", weights_only=True), written_again)
        written_again.seek(0)
        read_object(self, read_item, written_again)

    DefaultLoadPlanner.load_bytes = read_checked  # type: ignore[method-assign]


class _CheckedPickle:
    """In the place of the module pickle, as far as torch's reader and writer use it."""

    dump = staticmethod(pickle.dump)

    @staticmethod
    def load(file: BinaryIO) -> Any:
        return load_metadata(file.read(), str(getattr(file, "name", "the list of tensors")))
