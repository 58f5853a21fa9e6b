"""Read the tensors of a pickle that also holds objects of other packages, without executing anything of theirs.

Training scripts save their arguments, configurations and progress beside the weights. Why reading them is safe here:
`torch.load(weights_only=True)` runs PyTorch's own unpickler, which never imports what a file names. It looks names up
in two tables: PyTorch's functions that rebuild tensors, and a table of extra classes. The extra classes given here are
made on the spot and only bear the foreign names; they take any argument and keep nothing, but for dicts and lists of
what is read anyway. So a file can call nothing but PyTorch's rebuilding functions and these.
"""

import pickletools
import warnings
import zipfile
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING  # names of Python 2, in which protocol 2 is written
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any

import torch

_MOST_BYTES = 1 << 27  # of the pickle itself: the tensors lie beside it
_PICKLES = 5  # before version 1.6 torch.save wrote three pickles of versions, the object and the keys of its tensors
_TEXTS = {"BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "UNICODE", "SHORT_BINSTRING", "BINSTRING", "STRING"}
_REDUCING = {"REDUCE", "NEWOBJ", "NEWOBJ_EX", "OBJ"}
# The table of extra classes is one for all threads.
_LOCK = Lock()


@dataclass
class PickleNames:
    """What a pickle names: its texts, among them the names of tensors, and its classes as (module, name)."""

    texts: set[str] = field(default_factory=set)
    classes: set[tuple[str, str]] = field(default_factory=set)
    mappings: set[tuple[str, str]] = field(default_factory=set)  # classes whose objects are filled as a dict is
    sequences: set[tuple[str, str]] = field(default_factory=set)  # likewise as a list is
    complete: bool = True  # False: the file ends within the pickle, or it is damaged

    @property
    def all(self) -> set[str]:
        return self.texts | {".".join(pair) for pair in self.classes}


class Foreign:
    """What stands in the place of an object of another package: nothing of it was kept."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        return object.__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


class _ForeignMapping(Foreign):
    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        return OrderedDict()


class _ForeignSequence(Foreign):
    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        return []


def load_pickle(path: Path) -> Any:
    """Read what `torch.save` wrote, onto the CPU; in the place of foreign objects stand `Foreign` ones.

    Raises:
        pickle.UnpicklingError: the file goes beyond tensors and plain values in a way that cannot be left out.
        Exception: nearly any, if the file is damaged.
    """
    names = pickle_names(path)
    stand_ins = [_stand_in(pair, names) for pair in sorted(names.classes)]
    # As an open file, because by a path's suffix PyTorch may choose another reader.
    with path.open("rb") as file, _LOCK, _extra_classes(stand_ins), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of protocols that it may not read, which it then says by an error
        return torch.load(file, map_location="cpu", weights_only=True)


def pickle_names(path: Path) -> PickleNames:
    """List what the pickle in a file of `torch.save` names. Nothing is executed, and no tensor is read."""
    names = PickleNames()
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                member = next(name for name in archive.namelist() if name.endswith("data.pkl"))
                with archive.open(member) as file:
                    _collect(file.read(_MOST_BYTES), names)
            return names
        with path.open("rb") as file:
            for _ in range(_PICKLES):
                _collect(file, names)
    except Exception:  # of a damaged pickle the standard library raises nearly anything
        names.complete = False
    return names


def _stand_in(pair: tuple[str, str], names: PickleNames) -> type:
    base = _ForeignMapping if pair in names.mappings else _ForeignSequence if pair in names.sequences else Foreign
    module, name = pair
    return type(name, (base,), {"__module__": module, "__qualname__": name})


def _extra_classes(classes: list[type]) -> AbstractContextManager[Any]:
    # PyTorch looks in its own table first, so a stand-in never hides a function that rebuilds tensors.
    safe_globals = getattr(torch.serialization, "safe_globals", None)  # from 2.5 on; older versions refuse the file
    return safe_globals(classes) if classes and safe_globals else nullcontext()


def _collect(content: Any, names: PickleNames) -> None:
    """Add what one pickle names, following its stack so far that the objects which are filled are known."""
    stack: list[Any] = []
    memo: dict[int, Any] = {}
    argument: Any
    for opcode, argument, _ in pickletools.genops(content):
        name = opcode.name
        if name in _TEXTS and isinstance(argument, str):
            names.texts.add(argument)
        if "PUT" in name or name == "MEMOIZE":
            memo[len(memo) if name == "MEMOIZE" else int(argument)] = stack[-1]
            continue
        if "GET" in name:
            stack.append(memo[int(argument)])
            continue
        taken = list(_pop(stack, opcode.stack_before))
        if name in ("GLOBAL", "STACK_GLOBAL"):
            module, _, attribute = argument.partition(" ") if name == "GLOBAL" else (taken[0], "", taken[1])
            pair = NAME_MAPPING.get((module, attribute), (IMPORT_MAPPING.get(module, module), attribute))
            names.classes.add(pair)
            stack.append(pair)
        elif name in _REDUCING:
            stack.append(("object", taken[0]))
        elif name in ("SETITEM", "SETITEMS", "APPEND", "APPENDS", "BUILD"):
            if name != "BUILD" and taken[0][:1] == ("object",):
                (names.mappings if "ITEM" in name else names.sequences).add(taken[0][1])
            stack.append(taken[0])
        else:
            value = argument if name in _TEXTS else ()
            stack.extend([pickletools.markobject if name == "MARK" else value] * len(opcode.stack_after))


def _pop(stack: list[Any], wanted: Iterable[Any]) -> Iterator[Any]:
    """Take what an instruction takes from the stack; of what follows a mark, nothing is returned."""
    wanted = list(wanted)
    if pickletools.markobject in wanted:
        while stack.pop() is not pickletools.markobject:
            pass
        wanted = wanted[: wanted.index(pickletools.markobject)]
    taken = [stack.pop() for _ in wanted]
    return reversed(taken)
