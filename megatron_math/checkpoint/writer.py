"""A process that puts one rank's part of a checkpoint on disk while the rank trains on.

    python -m megatron_math.checkpoint.writer MEMORY RANK_PROCESS

MEMORY is the number of an open memory file which the rank fills and this process reads. Orders come
as JSON lines on standard input, and a report on what was written goes to standard output:

    {"write": [begin, bytes]}   of a job in the memory, JSON again: {"folder", "rank", "world",
        "iteration", "pieces", "objects", "seal", "copy"}
        -> {"done": iteration} or {"failed": iteration, "reason": words}
    {"remove": [folder, ...]}
    {"listen": {"address", "port", "secret", "folder"}}   for parts from other nodes (parcels.py)
        -> {"listening": port, or null} where port was 0, which is any
    {"send": [{"folder", "rank", "to": [address, port], "secret"}, ...]}   parts that are held here
        -> {"sent": null}, or why not in words

Every rank writes `__<rank>_0.distcp` and then `.parts/<rank>.json`, which says what lies where in
it and its digest. Rank 0's process, which has `seal`, waits until all parts are there, writes what
core wants beside them (`.metadata`, `common.pt`, `metadata.json`) and publishes the folder. The
ranks themselves exchange nothing for it. Without its rank this process ends and publishes nothing.

With `copy` the part is one of a local copy (copies.py): it stays where it is, and goes to a peer.
"""

import base64
import io
import json
import math
import mmap
import os
import pickle
import shutil
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

import torch
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import (
    BytesStorageMetadata,
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    StorageMeta,
    TensorProperties,
    TensorStorageMetadata,
)

from megatron_math.base.errors import EXIT_DONE, EXIT_FAILED
from megatron_math.base.files import read_json, write_json
from megatron_math.checkpoint.folders import publish, seen
from megatron_math.checkpoint.parcels import (
    PARTS,
    Listener,
    leave_only,
    part_file,
    part_table,
    send_part,
    signed,
)
from megatron_math.device.standby import Fork
from megatron_math.device.start import die_with

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
_POLL_SECONDS = 0.02


def write_part(job: Mapping[str, Any], memory: memoryview) -> None:
    """One rank's tensors and objects as one file, and the table of what is where in it."""
    folder, rank = Path(job["folder"]), job["rank"]
    (folder / PARTS).mkdir(parents=True, exist_ok=True)
    path = part_file(folder, rank)
    table = []
    with path.open("wb") as stream:
        for key, values in job["objects"].items():
            begin = stream.tell()
            stream.write(base64.b64decode(values))
            table.append({"key": key, "at": begin, "bytes": stream.tell() - begin})
        for piece in job["pieces"]:
            begin = stream.tell()
            dtype = getattr(torch, piece["dtype"])
            values = torch.frombuffer(
                memory, dtype=dtype, count=math.prod(piece["shape"]), offset=piece["at"]
            )
            torch.save(values.view(piece["shape"]), stream)
            table.append(piece | {"at": begin, "bytes": stream.tell() - begin})
        stream.flush()
        os.fsync(stream.fileno())
    part = {"file": path.name, "seen": seen(path), "table": table}
    if (copy := job.get("copy")) is not None:
        part = signed(part | copy["label"] | {"seal": job["seal"]})
    write_json(part_table(folder, rank), part)


def seal(job: Mapping[str, Any]) -> None:
    """Wait for the parts of all ranks, then make the folder a checkpoint and publish it."""
    folder, world, extras = Path(job["folder"]), job["world"], job["seal"]
    own = part_table(folder, job["rank"])
    waiting = [part_table(folder, rank) for rank in range(world)]
    while waiting := [path for path in waiting if not path.is_file()]:
        time.sleep(_POLL_SECONDS)
        if not own.is_file():  # a rank that could not write its part has removed the folder
            raise RuntimeError(f"no part of rank {waiting[0].stem}, which gave the folder up")
    parts = [read_json(part_table(folder, rank)) for rank in range(world)]
    write_beside(folder, parts, extras)
    for name, source in extras["copies"].items():
        shutil.copytree(source, folder / name)
    shutil.rmtree(folder / PARTS)
    publish(
        folder,
        Path(extras["save"]),
        job["iteration"],
        known={part["file"]: part["seen"] for part in parts},
    )


def write_beside(folder: Path, parts: list[dict[str, Any]], extras: Mapping[str, Any]) -> None:
    """What core wants beside the parts of all ranks, and our own files."""
    with (folder / ".metadata").open("wb") as stream:
        pickle.dump(_metadata(parts), stream)
    (folder / "common.pt").write_bytes(base64.b64decode(extras["common"]))
    backend = {"sharded_backend": "torch_dist", "sharded_backend_version": 1}
    common = {"common_backend": "torch", "common_backend_version": 1}
    (folder / "metadata.json").write_text(json.dumps(backend | common), encoding="utf-8")
    for name, value in extras["files"].items():
        write_json(folder / name, value)


def _metadata(parts: list[dict[str, Any]]) -> Metadata:
    """The table of contents, in torch's form. Every tensor must be there, whole, and once."""
    tensors: dict[str, TensorStorageMetadata] = {}
    rest: dict[str, BytesStorageMetadata] = {}
    where: dict[MetadataIndex, _StorageInfo] = {}
    for part in parts:
        for entry in part["table"]:
            key, chunk = entry["key"], None
            if "shape" not in entry:
                rest[key] = BytesStorageMetadata()
            else:
                chunk = ChunkStorageMetadata(
                    torch.Size(entry["offset"]), torch.Size(entry["shape"])
                )
                properties = TensorProperties(dtype=getattr(torch, entry["dtype"]))
                size = torch.Size(entry["global_shape"])
                found = tensors.setdefault(key, TensorStorageMetadata(properties, size, []))
                assert (found.size, found.properties) == (size, properties), key
                found.chunks.append(chunk)
            index = MetadataIndex(key, None if chunk is None else chunk.offsets)
            assert index not in where, f"{index} was written twice"
            where[index] = _StorageInfo(part["file"], entry["at"], entry["bytes"])
    for key, tensor in tensors.items():
        there = sum(math.prod(chunk.sizes) for chunk in tensor.chunks)
        assert there == math.prod(tensor.size), f"{key}: {there} values for {tuple(tensor.size)}"
    meta = StorageMeta(save_id="")  # a number by chance would make equal checkpoints differ
    return Metadata({**tensors, **rest}, None, where, meta, version="1.0.0")


def main() -> None:
    """Carry out orders until standard input ends."""
    file, rank_process = map(int, sys.argv[1:])
    die_with(rank_process)()
    serve(file, sys.stdin, sys.stdout)


def serve(file: int, orders: TextIO, reports: TextIO) -> None:
    """Carry out orders until there are no more."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)  # sent to the whole job; the rank decides
    torch.set_num_threads(1)  # the others are the rank's
    memory: mmap.mmap | None = None
    for line in orders:
        order = json.loads(line)
        for folder in order.get("remove", ()):
            shutil.rmtree(folder, ignore_errors=True)
        if "listen" in order:
            port = _listen(order["listen"])
            if order["listen"]["port"] == 0:
                _report(reports, {"listening": port})
        if "send" in order:
            _report(reports, {"sent": _send_all(order["send"])})
        if "write" not in order:
            continue
        if memory is None or len(memory) != os.fstat(file).st_size:
            memory = mmap.mmap(file, 0)
        begin, num_bytes = order["write"]
        job = json.loads(memory[begin : begin + num_bytes])
        _report(reports, carry_out(job, memoryview(memory)))


def _report(reports: TextIO, report: dict[str, Any]) -> None:
    reports.write(json.dumps(report) + "\n")
    reports.flush()


def _listen(order: Mapping[str, Any]) -> int | None:
    """The port; None where this machine does not let us have one."""
    try:
        listener = Listener(**order)
    except OSError:
        return None
    listener.start()
    return listener.port


def _send_all(parts: list[dict[str, Any]]) -> str | None:
    """Hand parts to others; why one could not be, in words."""
    for part in parts:
        try:
            send_part(part["to"], part["secret"], Path(part["folder"]), part["rank"])
        except Exception as error:  # noqa: BLE001 - whatever it is, there are other checkpoints
            return f"rank {part['rank']}'s to {part['to']}: {_reason(error)}"
    return None


class ForkedWriter(Fork):
    """A writer forked from its rank, which spares it the loading of torch (2 s of a core).

    To be made before that rank computes anything or starts a thread.
    """

    def __init__(self) -> None:
        self.memory = os.memfd_create("checkpoint", os.MFD_CLOEXEC)
        orders, stdin = os.pipe()
        stdout, reports = os.pipe()
        bind = die_with(os.getpid())
        pid = os.fork()
        if pid == 0:
            code = EXIT_FAILED
            try:
                bind()
                Path("/proc/self/comm").write_text("writer")
                os.close(stdin)
                os.close(stdout)
                serve(self.memory, os.fdopen(orders), os.fdopen(reports, "w"))
                code = EXIT_DONE
            except BaseException:  # noqa: BLE001 - a fork must not come back from here
                sys.excepthook(*sys.exc_info())
            finally:
                os._exit(code)
        os.close(orders)
        os.close(reports)
        super().__init__(pid)
        self.stdin, self.stdout = os.fdopen(stdin, "w"), os.fdopen(stdout)


def carry_out(job: Mapping[str, Any], memory: memoryview) -> dict[str, Any]:
    """Write this rank's part, and on rank 0 the rest. Returns the report; raises nothing."""
    sums = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)  # there are digests
    copy = job.get("copy")
    try:
        if copy is not None:
            leave_only(Path(job["folder"]).parent, copy["keep"])
        write_part(job, memory)
        if copy is not None and copy["to"] is not None:
            send_part(copy["to"], copy["secret"], Path(job["folder"]), job["rank"])
        if copy is None and job["seal"] is not None:
            seal(job)
    except Exception as error:  # noqa: BLE001 - whatever it is, the rank goes on and says it
        if copy is None:
            shutil.rmtree(job["folder"], ignore_errors=True)
        elif not part_table(Path(job["folder"]), job["rank"]).is_file():
            part_file(Path(job["folder"]), job["rank"]).unlink(missing_ok=True)
        return {"failed": job["iteration"], "reason": _reason(error)}
    finally:
        torch.serialization.set_crc32_options(sums)
    return {"done": job["iteration"]}


def _reason(error: BaseException) -> str:
    """What the system said, where it said something: torch says that a position is unexpected."""
    found: BaseException | None = error
    while found is not None and not isinstance(found, OSError):
        found = found.__cause__ or found.__context__
    said = found or error
    return f"{type(said).__name__}: {said}"


def as_bytes(value: Any) -> str:
    """`value` as torch writes it, for a job."""
    stream = io.BytesIO()
    torch.save(value, stream)
    return base64.b64encode(stream.getvalue()).decode()


if __name__ == "__main__":
    main()
