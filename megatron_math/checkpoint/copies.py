"""Copies of the state on the nodes themselves, so that a lost node costs a few steps.

Every rank's part (parcels.py) lies in a folder of its node (`/dev/shm`, or a disk of its own) and
of the next node, to which its writer hands it while training goes on. A start goes on from the
newest copy of which every part is still held somewhere: each node gets what it lacks from one that
has it, and every rank reads a whole checkpoint from its own node's folder.

The newest two copies stay: the older one goes when a third begins, and by then all hold the other.
"""

import ipaddress
import os
import secrets
import shutil
import socket
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar

import torch.distributed as dist

from megatron_math.base.errors import UserError
from megatron_math.base.files import read_json, write_json
from megatron_math.base.log import log
from megatron_math.checkpoint.folders import Checkpoint, folder_name, seen
from megatron_math.checkpoint.parcels import COPY_NAME, PARTS, part_file, read_table
from megatron_math.checkpoint.writer import write_beside
from megatron_math.device.meeting import own_address
from megatron_math.device.open import Device
from megatron_math.device.start import LOOPBACK, rendezvous

T = TypeVar("T")
Ask = Callable[[dict[str, Any]], dict[str, Any]]
"""Hands an order to this rank's writer, which must be idle, and waits for what it says."""

RUN_FILE = "local_copies.json"
"""In the run's folder: the word that its copies carry. Without it they are nobody's."""


@dataclass
class Copies:
    """This rank's side. `launch` is a word that all ranks share and no other launch has."""

    folder: Path
    """Of this run, on this node."""
    interval: int
    run_folder: Path
    fingerprint: str
    """Of what decides the run's result."""
    device: Device
    launch: str
    places: list[str]
    """By rank, where its `folder` is: equal words, the same folder of the same machine."""
    failed: tuple[int, str] | None = None
    """The last copy whose part could not be kept here or handed on, and why."""
    listening: dict[str, Any] | None = None
    """What this rank's writer was told, for the next one should it be lost."""
    _complete: str | None = None
    """The newest copy that is held by all who should."""
    _begun: str | None = None
    _is_busy: bool = False
    _has_waited: bool = False
    _word: str | None = None
    _addresses: list[tuple[str, int]] = field(default_factory=list)

    def is_due(self, iteration: int) -> bool:
        """Whether all ranks begin a copy now; not while one of them still writes."""
        if iteration % self.interval:
            return False
        if self._is_busy and not self._has_waited:
            self._has_waited = True
            log.info("no local copy of iteration %d: the writers are busy still", iteration)
        return not self._is_busy

    def begin(self, iteration: int, ask: Ask) -> tuple[str, dict[str, Any]]:
        """The folder of a new copy, and what the writer must know of it. Collective."""
        self._meet(ask)
        rank, peer = self.device.rank, self._peer()
        self._begun, self.failed = f"{folder_name(iteration)}.{self.launch}", None
        word, world = self._run(), self.device.world
        return str(self.folder / self._begun), {
            "label": {"run": word, "copy": self._begun, "rank": rank, "world": world},
            "keep": [name for name in (self._complete, self._begun) if name is not None],
            "to": None if peer is None else self._addresses[peer],
            "secret": self.listening["secret"] if self.listening else None,
        }

    def state(self, *, is_pending: bool) -> list[int]:
        """Of this rank's part, as numbers: the largest of all ranks are for `told`."""
        return [int(is_pending), int(self.failed is not None)]

    def told(self, is_busy: int, has_failed: int) -> None:
        """What became of the copy that was begun last, over all ranks."""
        if self.failed is not None:
            log.warning(
                "the local copy of iteration %d is not whole (%s); training and checkpoints go on",
                *self.failed,
            )
            self.failed = None
        self._is_busy = bool(is_busy)
        if has_failed:
            self._begun = None
        elif not is_busy and self._begun is not None:
            self._complete, self._begun = self._begun, None

    def disown(self) -> None:
        """Nobody goes on from the copies that there are: what comes now does not follow on them.

        To be called on all ranks; none waits for another.
        """
        self._word = self._complete = self._begun = None
        if self.device.rank == 0:
            (self.run_folder / RUN_FILE).unlink(missing_ok=True)

    def remove(self) -> None:
        """All copies of this node. To be called when no writer lives."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def newest(self, behind: int, ask: Ask) -> Checkpoint | None:
        """The newest copy above iteration `behind`, whole in this node's folder. Collective.

        Says in the log why a newer one cannot be used.
        """
        claims: list[dict[str, int]] = _of_all(self._claims(behind))
        worlds = {name: world for claim in claims for name, world in claim.items()}
        for name in sorted(worlds, key=lambda one: (_iteration(one), one), reverse=True):
            why = self._make_whole(name, worlds[name], ask)
            if why is None:
                self._complete = name
                return Checkpoint(self.folder / name, _iteration(name))
            if self.device.rank == 0:
                log.warning("the local copy of iteration %d cannot be used: %s; going back one",
                            _iteration(name), why)  # fmt: skip
        return None

    def _claims(self, behind: int) -> dict[str, int]:
        """Copies of this run that this place holds something of, and of how many parts they are."""
        word, found = self._run(), dict[str, int]()
        for name, rank in self._parts():
            table = read_table(self.folder / name, rank)
            if table is not None and table["run"] == word and _iteration(name) > behind:
                found[name] = table["world"]
        return found

    def _parts(self) -> Iterator[tuple[str, int]]:
        """(copy, rank) of what lies in this place; the first of its ranks looks, the others not."""
        for path in self.folder.glob(f"*/{PARTS}/*.json") if self._is_first_here() else ():
            name = path.parent.parent.name
            if COPY_NAME.fullmatch(name) and path.stem.isdecimal():
                yield name, int(path.stem)

    def _make_whole(self, name: str, world: int, ask: Ask) -> str | None:
        """Make this copy a whole checkpoint in every place; why that cannot be."""
        held: list[list[int]] = _of_all(self._sound(name, world))
        lost = [part for part in range(world) if not any(part in parts for parts in held)]
        if lost:
            return f"no node has the part of rank {', '.join(map(str, lost))}"
        why = self._fetch(name, world, held, ask)
        if why is None and self._is_first_here():
            try:
                tables = [read_table(self.folder / name, part) for part in range(world)]
                write_beside(self.folder / name, tables, tables[0]["seal"])  # type: ignore[arg-type, index]
            except Exception as error:  # noqa: BLE001 - whatever it is, there are checkpoints
                why = f"{self.folder / name}: {type(error).__name__}: {error}"
        return next(filter(None, _of_all(why)), None)

    def _sound(self, name: str, world: int) -> list[int]:
        """Parts of a copy that this place has, with the bytes that were written."""
        found = []
        for rank in sorted(rank for one, rank in self._parts() if one == name):
            table, path = read_table(self.folder / name, rank), part_file(self.folder / name, rank)
            is_there = table is not None and table["world"] == world and path.is_file()
            if is_there and seen(path) == table["seen"]:  # type: ignore[index]
                found.append(rank)
            else:
                log.warning("%s is damaged; another node may have it", path)
        return found

    def _fetch(self, name: str, world: int, held: list[list[int]], ask: Ask) -> str | None:
        """Hand other places what they lack and this one has; why that failed."""
        firsts = [
            rank for rank, place in enumerate(self.places) if rank == self.places.index(place)
        ]
        lacking = [(to, part) for to in firsts for part in range(world) if part not in held[to]]
        if not lacking:
            return None
        self._meet(ask)
        orders = []
        for number, (to, part) in enumerate(lacking):
            holders = [rank for rank in firsts if part in held[rank]]
            if holders[number % len(holders)] == self.device.rank:
                one = {"folder": str(self.folder / name), "rank": part, "to": self._addresses[to]}
                orders.append(one | {"secret": self.listening["secret"]})  # type: ignore[index]
        why = ask({"send": orders}).get("sent", "its writer has gone") if orders else None
        return next(filter(None, _of_all(why)), None)

    def _is_first_here(self) -> bool:
        return self.places.index(self.places[self.device.rank]) == self.device.rank

    def _peer(self) -> int | None:
        """A rank of the next place, as far in it as this one in its own. None: there is none."""
        names, own = list(dict.fromkeys(self.places)), self.places[self.device.rank]
        if len(names) == 1:
            return None
        after = names[(names.index(own) + 1) % len(names)]
        here, there = (
            [rank for rank, place in enumerate(self.places) if place == one] for one in (own, after)
        )
        return there[here.index(self.device.rank) % len(there)]

    def _meet(self, ask: Ask) -> None:
        """Once, where there is another place: all writers listen, and all ranks know where."""
        if self._addresses or len(set(self.places)) == 1:
            return
        try:
            own = own_address(rendezvous()[0])
        except OSError:
            own = LOOPBACK
        elsewhere = [one for one in _of_all(own) if not ipaddress.ip_address(one).is_loopback]
        if elsewhere and ipaddress.ip_address(own).is_loopback:  # here that name means itself
            own = own_address(elsewhere[0])
        secret = self.device.from_first_rank(lambda: secrets.token_hex(32))
        order = {"address": own, "port": 0, "secret": secret, "folder": str(self.folder)}
        port = ask({"listen": order}).get("listening") or 0  # a refusal is told by who would send
        self.listening = order | {"port": port}
        self._addresses = _of_all((own, port))

    def _run(self) -> str:
        """The word that copies of this run carry. Collective when it is not known."""
        if self._word is None:
            self._word = self.device.from_first_rank(self._word_on_disk)
        return self._word

    def _word_on_disk(self) -> str:
        path = self.run_folder / RUN_FILE
        try:
            found = read_json(path)
            if found["fingerprint"] == self.fingerprint:
                return str(found["run"])
        except (OSError, ValueError, KeyError, TypeError):
            pass
        word = secrets.token_hex(16)
        write_json(path, {"run": word, "fingerprint": self.fingerprint})
        return word


def open_copies(
    folder: Path, interval: int, run_folder: Path, fingerprint: str, device: Device, launch: str
) -> Copies:
    """Make this run's folder in `folder` of every node. Collective.

    Raises UserError on all where one of them cannot have it.
    """
    digest = sha256(str(run_folder.resolve()).encode()).hexdigest()[:16]
    own = folder / f"megatron-math-{os.getuid()}-{digest}"
    why, place = None, ""
    try:
        place = _private(own)
    except OSError as error:
        why = f"checkpoint.local.folder: {own} on {socket.gethostname()}: {error}"
    for one in _of_all(why):
        if one is not None:
            raise UserError(f"{one}; give a folder that every node can write to, or leave it out")
    return Copies(own, interval, run_folder, fingerprint, device, launch, _of_all(place))


def _private(folder: Path) -> str:
    """Make a folder that nobody else can look into; a word for it that no other has."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    is_own = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid()
    if not is_own or found.st_mode & 0o077:
        raise OSError("it was there already, and is no folder of yours alone (mode 0700)")
    machine = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return f"{machine} {found.st_dev} {found.st_ino}"


def _iteration(name: str) -> int:
    match = COPY_NAME.fullmatch(name)
    assert match is not None, name
    return int(match.group(1))


def _of_all(value: T) -> list[T]:
    """`value` of every rank, on all. Collective."""
    found: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(found, value)
    return found
