"""A look through a checkpoint file before it is loaded: what it names and how much it claims.

``torch.load(weights_only=True)`` runs no code of a file, but believes its sizes: a short file may
ask it for terabytes, or for memory beyond a record. The scan follows the pickle without building
any of it and refuses what the size of the file does not back.
"""

import io
import mmap
import pickle
import tarfile
import zipfile
from collections import Counter, OrderedDict
from math import prod
from typing import Any, BinaryIO

import torch

from mmsifa.checkpoints.policy import ALLOWED, FUNCTIONS, HISTORY, ITEM_SIZES, NUMBERS

MAX_DEPTH = 100
_Machine: Any = pickle._Unpickler  # Python's own, instruction by instruction
_OPCODES = (
    pickle.PROTO + pickle.STOP + pickle.GLOBAL + pickle.REDUCE + pickle.BUILD + pickle.NEWOBJ
    + pickle.BINPERSID + pickle.MARK + pickle.NONE + pickle.NEWTRUE + pickle.NEWFALSE
    + pickle.BININT + pickle.BININT1 + pickle.BININT2 + pickle.LONG1 + pickle.BINFLOAT
    + pickle.BINUNICODE + pickle.SHORT_BINSTRING
    + pickle.EMPTY_TUPLE + pickle.TUPLE + pickle.TUPLE1 + pickle.TUPLE2 + pickle.TUPLE3
    + pickle.EMPTY_LIST + pickle.APPEND + pickle.APPENDS
    + pickle.EMPTY_DICT + pickle.SETITEM + pickle.SETITEMS
    + pickle.BINGET + pickle.LONG_BINGET + pickle.BINPUT + pickle.LONG_BINPUT
)  # fmt: skip


class NotAllowed(Exception):
    """A file asks for what no checkpoint needs; the message says what."""


def scan(file: BinaryIO) -> None:
    """Refuse a checkpoint that names or claims what it should not; build nothing of it.

    Args:
        file: The checkpoint, open and at its start, where it is left.

    Raises:
        NotAllowed: If it names what is not in :data:`ALLOWED`, or uses it in a way that
            no checkpoint needs.
        Exception: What Python or torch raise on damaged files.

    Example:
        >>> import io
        >>> import torch
        >>> from mmsifa.checkpoints.scan import scan
        >>> file = io.BytesIO()
        >>> torch.save({'weight': torch.zeros(1).expand(2**40)}, file)
        >>> _ = file.seek(0)
        >>> scan(file)  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        mmsifa.checkpoints.scan.NotAllowed: it claims a tensor of 1099511627776 numbers in a ...
    """
    total = file.seek(0, io.SEEK_END)
    file.seek(0)
    if file.read(4) == b'PK\x03\x04':  # as torch.load asks
        _scan_zip(file, total)
    else:
        _scan_legacy(file, total)
    file.seek(0)


def _scan_zip(file: BinaryIO, total: int) -> None:
    with zipfile.ZipFile(file) as archive:
        for entry in archive.infolist():
            if entry.compress_type or entry.compress_size != entry.file_size:
                raise NotAllowed(f'its {entry.filename} is compressed')
            if entry.external_attr & 0x10:  # of a folder: torch would leave its memory unset
                raise NotAllowed(f'its {entry.filename} is a folder')
            folder, *names = entry.filename.split('/')
            if not folder or not names or '..' in (folder, *names):
                raise NotAllowed(f'it names the path {entry.filename}')
        sizes = Counter({entry.filename: entry.file_size for entry in archive.infolist()})
        if sizes.total() > total:
            raise NotAllowed(f'it claims {sizes.total()} bytes in a file of {total}')
        damaged = archive.testzip()
    if damaged:
        raise NotAllowed(f'its {damaged} has a wrong checksum')
    file.seek(0)
    reader = torch._C.PyTorchFileReader(file)  # what torch.load sees, should the two ever differ
    records = {name: _record_size(reader, name) for name in reader.get_all_records()}
    if sum(records.values()) > total:
        raise NotAllowed(f'it claims {sum(records.values())} bytes in {total}')
    if 'data.pkl' not in records or 'constants.pkl' in records:
        raise NotAllowed('it is an archive of something else')
    _Scanner(io.BytesIO(reader.get_record('data.pkl')), total, records).load()


def _record_size(reader: Any, name: str) -> int:
    if hasattr(reader, 'get_record_size'):
        return reader.get_record_size(name)
    return len(reader.get_record(name))  # PyTorch before 2.13 has to read it


def _scan_legacy(file: BinaryIO, total: int) -> None:
    """Scan a file of torch before 1.6: pickles, then the storages, each behind its length."""
    file.seek(0)
    if tarfile.is_tarfile(file):
        raise NotAllowed('it is a tar archive')
    file.seek(0)
    try:
        view: Any = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (io.UnsupportedOperation, ValueError):  # no file of the system, or an empty one
        view = io.BytesIO(file.read())
    with view:
        for number in (torch.serialization.MAGIC_NUMBER, torch.serialization.PROTOCOL_VERSION):
            if _Scanner(view, total, {}).load() != number:
                raise NotAllowed('it starts with other numbers than checkpoints do')
        _Scanner(view, total, {}).load()  # the system that wrote it
        scanner = _Scanner(view, total, None)
        scanner.load()
        for key in _Scanner(view, total, {}).load():
            numel, size = scanner.storages[key]
            if int.from_bytes(view.read(8), 'little') != numel:
                raise NotAllowed(f'its storage {key} has another length than claimed')
            if view.tell() + size > total:
                raise EOFError('a storage is cut off')
            view.seek(size, io.SEEK_CUR)
            del scanner.storages[key]
        if scanner.storages:
            raise EOFError('a storage is missing')


class _Name:
    """A global that the file names, or what cannot be looked into."""

    def __init__(self, name: str):
        self.name = name


class _Storage:
    def __init__(self, numel: int):
        self.numel = numel


class _Tensor:
    """A tensor; also a parameter."""


class _DType:
    pass


class _Array:
    pass


class _History:
    pass


class _Scanner(_Machine):
    """Follows a pickle's instructions with stand-ins for all that they name.

    Args:
        file: Where the pickle starts.
        total: Size of the whole checkpoint in bytes.
        records: Sizes of the records in a zip file; None if storages follow the pickle.
    """

    dispatch = {code: _Machine.dispatch[code] for code in _OPCODES}

    def __init__(self, file: Any, total: int, records: dict[str, int] | None):
        super().__init__(file)
        self.total = total
        self.spent: Counter[str] = Counter()
        self.records = records
        self.storages: dict[str, tuple[int, int]] = {}

    def load(self) -> Any:
        content = super().load()
        _check_nesting(content)
        return content

    def spend(self, kind: str, size: int) -> None:
        """Count what a pickle copies: of a kind not more than a file holds, however often named."""
        self.spent[kind] += size
        if self.spent[kind] > self.total:
            raise NotAllowed('it claims more than the file holds')

    def find_class(self, module: str, name: str) -> _Name:
        full = f'{module.replace("__builtin__", "builtins")}.{name}'
        if full not in ALLOWED:
            raise NotAllowed(f'it asks for {full}')
        return _Name(full)

    def persistent_load(self, pid: Any) -> _Storage:
        kind, storage, key, location, numel, *view = pid
        if kind != 'storage' or any(view) or not (type(location) is str and key.isdecimal()):
            raise NotAllowed('it names a storage as torch does not')
        size = _count(numel) * ITEM_SIZES[storage.name]
        if self.records is None and key not in self.storages:
            self.spend('storages', size)
        if self.storages.setdefault(key, (numel, size)) != (numel, size):
            raise NotAllowed(f'it claims two sizes of storage {key}')
        if self.records is not None and size > (record := self.records[f'data/{key}']):
            raise NotAllowed(f'it claims a storage of {size} bytes in one of {record}')
        return _Storage(numel)

    def load_reduce(self) -> None:
        args = self.stack.pop()
        name = self.stack[-1].name
        call = getattr(self, f'call_{name.split(".")[-1].lstrip("_")}', None)
        if call is None:
            raise NotAllowed(f'it calls {name}')
        self.stack[-1] = call(*args)

    dispatch[pickle.REDUCE[0]] = load_reduce

    def load_newobj(self) -> None:
        args = self.stack.pop()
        name = self.stack.pop().name
        if name != HISTORY or args != ():
            raise NotAllowed(f'it asks for {name}{args}')
        self.append(_History())

    dispatch[pickle.NEWOBJ[0]] = load_newobj

    def load_build(self) -> None:
        state, inst = self.stack.pop(), self.stack[-1]
        if type(inst) is OrderedDict:  # the versions of a state dict's modules
            known = set(state) <= {'_metadata'}
            inst.__dict__.update(state)
        elif type(inst) is _History:
            methods = state.get('statistics_methods', {})
            known = all(method.name == f'{HISTORY}.{key}' for key, method in methods.items())
            known = known and set(state) <= {
                'statistics_methods', 'max_length', '_log_history', '_count_history'
            }  # fmt: skip
        elif type(inst) is _DType:
            known = type(state) is tuple and len(state) > 2 and state[2] is None
        elif type(inst) is _Array:
            _, shape, dtype, _, data = state
            known = type(dtype) is _DType and type(data) in (bytes, str) and type(shape) is tuple
            self.spend('arrays', len(data))
        else:
            known = False
        if not known:
            raise NotAllowed(f'it changes a {type(inst).__name__.lstrip("_")}')

    dispatch[pickle.BUILD[0]] = load_build

    def call_rebuild_tensor(self, storage, offset, size, stride) -> _Tensor:
        last = _count(offset) + 1 + sum(
            (_count(n) - 1) * _count(step) for n, step in zip(size, stride, strict=True)
        )  # fmt: skip
        if prod(size) and max(last, prod(size)) > storage.numel:
            raise NotAllowed(
                f'it claims a tensor of {prod(size)} numbers in a storage of {storage.numel}'
            )
        return _Tensor()

    def call_rebuild_tensor_v2(self, storage, offset, size, stride, requires_grad, hooks):
        self.check_plain(requires_grad, hooks)
        return self.call_rebuild_tensor(storage, offset, size, stride)

    def call_rebuild_parameter(self, tensor, requires_grad, hooks):
        self.check_plain(requires_grad, hooks)
        return self.call_Parameter(tensor)

    def call_Parameter(self, tensor, requires_grad=True) -> _Tensor:
        self.check_plain(requires_grad, None)
        if type(tensor) is not _Tensor:
            raise NotAllowed('it makes a parameter of something else')
        return tensor

    def call_rebuild_from_type_v2(self, rebuild, cls, args, state) -> _Tensor:
        """FSDP leaves a mark on the tensors that it has gathered."""
        if cls.name != 'torch.Tensor' or set(state) - {'_has_been_cloned'}:
            raise NotAllowed('it hangs attributes on a tensor')
        if rebuild.name != 'torch._utils._rebuild_tensor_v2':
            raise NotAllowed(f'it calls {rebuild.name} for a tensor')
        return self.call_rebuild_tensor_v2(*args)

    def check_plain(self, requires_grad, hooks) -> None:
        if type(requires_grad) is not bool or hooks:
            raise NotAllowed('it hangs hooks on a tensor')

    def call_OrderedDict(self, items=()) -> OrderedDict:
        self.spend('items', len(items))
        return OrderedDict(items)

    def call_Counter(self, items=()) -> Counter:
        self.spend('items', len(items))
        return Counter(items)

    def call_set(self, items=()) -> set:
        self.spend('items', len(items))
        return set(items)

    def call_bytes(self) -> bytes:
        return b''

    def call_encode(self, text, encoding) -> bytes:
        if encoding != 'latin1':  # others make more of a text than it has
            raise NotAllowed(f'it asks for the encoding {encoding}')
        self.spend('texts', len(text))  # of which arrays may be made
        return text.encode('latin1')

    def call_getattr(self, owner, name) -> _Name:
        if name not in FUNCTIONS.get(owner.name, ()):
            raise NotAllowed(f'it asks for getattr({owner.name}, {name!r})')
        return _Name(f'{owner.name}.{name}')

    def call_dtype(self, code, *args) -> _DType:
        if not NUMBERS.fullmatch(code):
            raise NotAllowed(f'it asks for arrays of numpy.dtype({code!r})')
        return _DType()

    def call_reconstruct(self, cls, shape, code) -> _Array:
        if cls.name != 'numpy.ndarray':
            raise NotAllowed(f'it asks for an array of class {cls.name}')
        return _Array()

    def call_scalar(self, dtype, data) -> _Name:
        if type(dtype) is not _DType or type(data) is not bytes:
            raise NotAllowed('it asks for a scalar of something else than numbers')
        return _Name('a number')


def _count(number: Any) -> int:
    if type(number) is not int or not 0 <= number < 2**60:
        raise NotAllowed(f'it claims a size of {number!r}')
    return number


def _check_nesting(content: Any) -> None:
    """Refuse what code that walks through it would not get out of.

    Containers may be shared, but what they come to when each is written out may not explode.
    """
    sizes: dict[int, int] = {}  # of what is written out, by id; 0 while it is being counted
    distinct = 0
    stack = [(content, False)]
    depth = 0
    while stack:
        item, counted = stack.pop()
        children = _children(item)
        if counted:
            depth -= 1
            sizes[id(item)] = 1 + sum(sizes.get(id(child), 1) for child in children)
            continue
        if id(item) in sizes:
            if not sizes[id(item)]:
                raise NotAllowed('it holds a container that holds itself')
            continue
        distinct += 1
        if not children:
            continue
        depth += 1
        if depth > MAX_DEPTH:
            raise NotAllowed(f'it nests containers {MAX_DEPTH} deep')
        sizes[id(item)] = 0
        stack.append((item, True))
        stack += [(child, False) for child in children if type(child) in _CONTAINERS]
    if sizes.get(id(content), 1) > 1000 * (distinct + 1000):
        raise NotAllowed('its containers hold one another over and over')


_CONTAINERS = (dict, OrderedDict, Counter, list, tuple, set)


def _children(item: Any) -> list:
    if isinstance(item, dict):
        return [*item.keys(), *item.values(), *getattr(item, '__dict__', {}).values()]
    return list(item) if type(item) in (list, tuple, set) else []
