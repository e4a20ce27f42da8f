"""The pickles inside Megatron's format, looked through before anything else reads them. No torch.

A pickle is a program: it names functions and says what to call them with. `.metadata` is one, and
`common.pt`, the objects in `.distcp` files and what Transformer Engine remembers hold more. Each is
walked first, operation by operation, so that none is strange and none claims more memory than there
are bytes. Then it is carried out on stand-ins, which compare what is asked of each name with its
`Rule` and do nothing else. Only then are the same bytes read for what they hold.
"""

import importlib
import io
import pickle
import re
from collections.abc import Mapping
from typing import Any

from blake3 import blake3

from megatron_math.base.errors import UserError
from megatron_math.checkpoint.allowed import ARCHIVE, METADATA, Constant, Made, Name, Rule


class UnsafePickleError(UserError):
    """A pickle that does more than a checkpoint's do. Nothing of it was run."""


def check_pickle(
    data: bytes, rules: Mapping[Name, Rule], where: str, *, has_tensors: bool = False
) -> None:
    """Raise UnsafePickleError unless `data` is one pickle that does nothing outside `rules`.

    has_tensors: it may name tensors' data that lie beside it, as in a torch archive.
    """
    end = _end_of_pickle(data, 0, where)
    if end != len(data):
        raise refused(where, f"{len(data) - end} bytes follow its end")
    _Rehearsal(data, rules, where, has_tensors=has_tensors).check()


_checked: set[bytes] = set()


def check_metadata(data: bytes, where: str) -> None:
    """`check_pickle` of a `.metadata` file; of the same bytes once a process."""
    digest = blake3(data).digest()
    if digest not in _checked:
        check_pickle(data, METADATA, where)
        _checked.add(digest)


def load_metadata(data: bytes, where: str) -> Any:
    """The contents of a `.metadata` file: checked, then read with the real classes."""
    check_metadata(data, where)
    return _Real(io.BytesIO(data)).load()


class _Real(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in METADATA:  # the rehearsal met the same names
            raise UnsafePickleError(_refusal(module, name))
        return getattr(importlib.import_module(module), name)


def refused(where: str, why: str) -> UnsafePickleError:
    return UnsafePickleError(f"{where} is refused, and nothing of it was run: {why}")


def _refusal(module: str, name: str) -> str:
    return (
        f"it asks for {module}.{name}, which no checkpoint needs and which may run code. Take the "
        "file from whom you trust; if a newer megatron-core or torch wrote it, report the name, so "
        "that it can be looked at and allowed"
    )


class _Rehearsal(pickle.Unpickler):
    """Carries a pickle out on stand-ins; whatever a stand-in does not do is refused."""

    def __init__(
        self, data: bytes, rules: Mapping[Name, Rule], where: str, *, has_tensors: bool
    ) -> None:
        super().__init__(io.BytesIO(data))
        self._rules, self._where, self._has_tensors = rules, where, has_tensors
        self._stand_ins: dict[Name, Any] = {}

    def check(self) -> None:
        try:
            self.load()
        except UnsafePickleError as error:
            raise refused(self._where, str(error)) from None
        except Exception as error:  # noqa: BLE001 - hostile bytes raise anything
            why = f"it does what no checkpoint does ({error!s:.200})"
            raise refused(self._where, why) from None

    def find_class(self, module: str, name: str) -> Any:
        rule = self._rules.get((module, name))
        if rule is None:
            raise UnsafePickleError(_refusal(module, name))
        if (module, name) not in self._stand_ins:
            self._stand_ins[module, name] = _stand_in(f"{module}.{name}", rule)
        return self._stand_ins[module, name]

    def persistent_load(self, pid: Any) -> Any:
        """Of a torch archive: ('storage', its class, key, device, number of elements)."""
        is_storage = (
            self._has_tensors
            and type(pid) is tuple
            and [type(part) for part in pid[2:5]] == [str, str, int]
            and pid[0] == "storage"
            and isinstance(pid[1], Constant)
            and pid[5:] in ((), (None,))
            and re.fullmatch(r"\d+", pid[2])
        )
        if not is_storage:
            raise UnsafePickleError(
                f"it names {pid!r:.80} outside of itself, which is no tensor's data"
            )
        return Made()


def _stand_in(name: str, rule: Rule) -> Any:
    if rule.is_constant:
        return Constant()
    known: set[tuple[str, ...]] = set()  # sets of attributes: there are few, and many instances

    def make(cls: type, *arguments: Any) -> Any:
        if not (rule.makes_empty and not arguments) and not _fits(arguments, rule.call):
            given = ", ".join(type(argument).__name__ for argument in arguments)
            raise UnsafePickleError(f"it calls {name} with ({given}), which no checkpoint does")
        if rule.holds_storage:
            _check_oldest_form(arguments[0], name)
        return rule.kind.__new__(cls)

    def fill(self: Any, state: Any) -> None:
        values: dict[str, Any] = state if type(state) is dict else {}
        attributes = tuple(values)
        if type(state) is not rule.state or (
            attributes not in known and not all(map(_is_plain_name, attributes))
        ):
            raise UnsafePickleError(f"it fills {name} with {state!r:.80}, which no checkpoint does")
        known.add(attributes)
        if "relative_path" in attributes:
            _check_file(values["relative_path"])

    methods = {
        "__new__": make,
        "__init__": lambda self, *_: None,
        "__setstate__": fill,
        "__hash__": object.__hash__,
    }
    return type(name, (rule.kind, Made), methods)


def _is_plain_name(attribute: Any) -> bool:
    return type(attribute) is str and not attribute.startswith("__")


def _check_file(name: Any) -> None:
    if type(name) is not str or not re.fullmatch(r"\w[\w.-]*", name):
        raise UnsafePickleError(
            f"it names the file {name!r:.80}, which is not one of the checkpoint's"
        )


def _fits(arguments: tuple[Any, ...], wanted: tuple[Any, ...] | None) -> bool:
    if wanted and wanted[-1] is ...:
        wanted = wanted[:1] * len(arguments)
    if wanted is None or len(arguments) != len(wanted):
        return False
    return all(map(isinstance, arguments, wanted))


_OLDEST_FORM_PICKLES = 5  # magic number, protocol, machine, the object, its keys; then raw numbers


def _check_oldest_form(data: bytes, where: str) -> None:
    begin = 0
    for _ in range(_OLDEST_FORM_PICKLES):
        end = _end_of_pickle(data, begin, where)
        _Rehearsal(data[begin:end], ARCHIVE, where, has_tensors=True).check()
        begin = end


# Operations by the number of bytes that follow them: those that Python's own pickler writes from
# protocol 2 on, but for text forms, extension codes (copyreg), classes with keywords, writable
# buffers, and what only odd programs need (POP, DUP).
_FIXED = {
    0: b"(]})tauebsRNQ\x81\x85\x86\x87\x88\x89\x8f\x90\x91\x93\x94",
    1: b"Kqh",
    2: b"M",
    4: b"Jj",
    8: b"G",
}
_COUNTED = {1: b"C\x8c\x8a", 4: b"BX\x8b", 8: b"\x8d\x8e\x95"}  # bytes of the count of bytes
_STEPS = [0] * 256
for _size, _codes in _FIXED.items():
    for _code in _codes:
        _STEPS[_code] = 1 + _size
_COUNTS = {code: size for size, codes in _COUNTED.items() for code in codes}
_STOP, _GLOBAL, _FRAME, _REMEMBER, _PROTOCOL = b".c\x95r\x80"
_INTEGERS, _MOST_INTEGER_BYTES = b"\x8a\x8b", 1024
_MOST_NAME_BYTES = 256


def _end_of_pickle(data: bytes, begin: int, where: str) -> int:
    """Where the pickle that begins there ends; UnsafePickleError where it is strange or cut off."""

    def strange(at: int, what: str) -> UnsafePickleError:
        return refused(where, f"at byte {at} it {what}")

    at, end, steps = begin, len(data), _STEPS
    while at < end:
        code = data[at]
        step = steps[code]
        if step:
            at += step
            continue
        if code == _STOP:
            return at + 1
        if code in _COUNTS:
            after = at + 1 + _COUNTS[code]
            count = int.from_bytes(data[at + 1 : after], "little")
            if count > end - after:
                raise strange(at, f"claims {count} bytes, and {max(0, end - after)} are left")
            if code in _INTEGERS and count > _MOST_INTEGER_BYTES:
                raise strange(at, f"holds a number of {count} bytes")
            after += 0 if code == _FRAME else count
        elif code == _REMEMBER:
            after = at + 5
            number = int.from_bytes(data[at + 1 : after], "little")
            if number > at:  # a value takes more than a byte
                raise strange(at, f"wants room for {number} remembered values")
        elif code == _PROTOCOL:
            after = at + 2
            if data[at + 1 : after] not in (b"\2", b"\3", b"\4", b"\5"):
                raise strange(at, "is of a protocol that no checkpoint is of")
        elif code == _GLOBAL:
            after = at + 1
            for _ in range(2):
                after = data.find(b"\n", after, after + _MOST_NAME_BYTES) + 1
                if not after:
                    raise strange(at, "names something without an end")
        else:
            raise strange(at, f"has the operation 0x{code:02x}, which no checkpoint has")
        at = after
    raise strange(at, "stops without an end: it is cut off")
