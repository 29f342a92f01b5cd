"""Checkpoint files that lie, each made in a folder; what the refusal says of it."""

import codecs
import copyreg
import io
import os
import pickle
import tarfile
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import torch
from mmengine.logging import HistoryBuffer

MARKER = 'ran'


class Call:
    """Pickles to a call, with a state to set on its result."""

    def __init__(self, function, *args, state=None):
        self.reduced = (function, args) if state is None else (function, args, state)

    def __reduce__(self):
        return self.reduced


def save(content, path):
    torch.save({'state_dict': OrderedDict(), 'message_hub': content}, path)
    return path


def getattr_attack(marker):
    """A file that runs a command when the history is deep-copied, as resuming does."""
    run_code = Call(getattr, Call(getattr, getattr, '__self__'), 'exec')
    code = f"__import__('os').system('echo > {marker}')"
    # copy.deepcopy calls x.__reduce_ex__(4), here the fifth item of a list, then what it returns.
    reduce_ex = Call(getattr, [0, 0, 0, 0, (run_code, (code,))], '__getitem__')
    return {'log_scalars': {'x': history(__reduce_ex__=reduce_ex)}}


def history(**state):
    """A HistoryBuffer as it pickles itself, but for its state."""

    class Forged:
        __class__ = HistoryBuffer

        def __reduce_ex__(self, protocol):
            return copyreg.__newobj__, (HistoryBuffer,), state

    return Forged()


def lists_of_lists(levels=60):
    """Ten references to one list of ten references to one list and so on."""
    content = [0] * 10
    for _ in range(levels):
        content = [content] * 10
    return content


def hex_of_hex(levels=40):
    call = Call(codecs.encode, 'a' * 8, 'latin1')
    for _ in range(levels):
        call = Call(codecs.encode, call, 'hex_codec')
    return call


def views(storage, *args, hooks=None):
    return Call(
        torch._utils._rebuild_tensor_v2, storage, *args, False, hooks or OrderedDict()
    )  # fmt: skip


def with_attribute():
    tensor = torch.ones(2)
    tensor.grad_fn_of_mine = 'text'
    return tensor


STORAGE = torch.zeros(77).storage()

# Named content of a checkpoint of torch's present format; (marker) -> content, and the reason.
CONTENTS = {
    'command': (lambda marker: Call(os.system, f'echo > {marker}'), r'it asks for \w+\.system'),
    'getattr': (getattr_attack, r"it asks for getattr\(builtins.getattr, '__self__'\)"),
    'class-method': (
        lambda _: Call(getattr, HistoryBuffer, '__init__'),
        r"it asks for getattr\(mmengine.*HistoryBuffer, '__init__'\)",
    ),
    'poisoned-history': (
        lambda _: history(statistics_methods={'mean': OrderedDict}),
        'it changes a History',
    ),
    'history-of-nested-lists': (
        lambda _: Call(HistoryBuffer, lists_of_lists(6), lists_of_lists(6)),
        'it calls mmengine.*HistoryBuffer',
    ),
    'forged-memory': (
        lambda _: Call(np.ndarray, (1,), 'O', b'\0' * 8),
        r'it calls numpy.ndarray',
    ),
    'forged-dtype': (
        lambda _: Call(np.dtype, 'O8', False, True, state=(3, '|', None, None, None, -1, -1, 0)),
        r"it asks for arrays of numpy.dtype\('O8'\)",
    ),
    'objects': (lambda _: np.array([{}]), r"it asks for arrays of numpy.dtype\('O8'\)"),
    'bytearray': (lambda _: Call(bytearray, 4 * 10**9), 'it asks for builtins.bytearray'),
    'tensor-class': (lambda _: Call(torch.Tensor, 2**40), 'it calls torch.Tensor'),
    'storage-class': (
        lambda _: Call(torch.UntypedStorage, 2**40),
        'it asks for torch.storage.UntypedStorage',
    ),
    'attributes': (lambda _: with_attribute(), 'it hangs attributes on a tensor'),
    'hex-of-hex': (lambda _: hex_of_hex(), 'it asks for the encoding hex_codec'),
    'text-again-and-again': (
        lambda _: [Call(codecs.encode, text, 'latin1') for text in [10**6 * 'x'] * 5000],
        'it claims more than the file holds',
    ),
    'lists-of-lists': (lambda _: lists_of_lists(), 'its containers hold one another'),
    'expanded-view': (
        lambda _: torch.zeros(1).expand(2**40),
        'it claims a tensor of 1099511627776 numbers in a storage of 1,',
    ),
    'huge-strides': (
        lambda _: views(STORAGE, 0, (2, 2), (2**40, 1)),
        'it claims a tensor of 4 numbers in a storage of 77',
    ),
    'huge-offset': (
        lambda _: views(STORAGE, 2**40, (1,), (1,)),
        'it claims a tensor of 1 numbers in a storage of 77',
    ),
    'negative-stride': (lambda _: views(STORAGE, 2, (3,), (-1,)), 'it claims a size of -1'),
    'hooks': (
        lambda _: views(STORAGE, 0, (1,), (1,), hooks=OrderedDict(x=OrderedDict)),
        'it hangs hooks on a tensor',
    ),
    'shadowed-methods': (
        lambda _: Call(OrderedDict, state={'items': 1}),
        'it changes an? OrderedDict',
    ),
}


def _replace(path, old, new):
    """Replace a part of the pickle, so that its length changes; sums are made anew."""
    return _rewrite(path, lambda name, data: data.replace(old, new) if '.pkl' in name else data)


def _rewrite(path, edit, method=zipfile.ZIP_STORED, rename=lambda name: name):
    with zipfile.ZipFile(path) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, 'w', method) as archive:
        for name, data in records.items():
            archive.writestr(rename(name), edit(name, data))


def _storage_beyond_its_record(path):
    torch.save({'state_dict': {'x': torch.zeros(77)}}, path)
    before = path.read_bytes()
    _replace(path, b'cpuq\x08KMt', b'cpuq\x08J\xff\xff\xff\x3ft')
    assert b'J\xff\xff\xff\x3ft' in path.read_bytes(), before[:300]


def _deflated(path):
    torch.save({'x': torch.zeros(2**22)}, path)
    _rewrite(path, lambda _, data: data, zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 2**18


def _records_that_share_bytes(path):
    torch.save({'x': torch.zeros(2**16)}, path)
    with zipfile.ZipFile(path, 'a') as archive:
        record = archive.getinfo(f'{path.stem}/data/0')
        for number in range(1, 1000):
            alias = zipfile.ZipInfo(f'{path.stem}/data/{number}')
            for name in ('file_size', 'compress_size', 'CRC', 'header_offset'):
                setattr(alias, name, getattr(record, name))
            archive.filelist.append(alias)
            archive.NameToInfo[alias.filename] = alias
        archive._didModify = True


def _record_of_a_folder(path):
    """torch reads nothing from such a record, and gives the memory as it was."""
    torch.save({'x': torch.zeros(3)}, path)
    with zipfile.ZipFile(path, 'a') as archive:
        archive.getinfo(f'{path.stem}/data/0').external_attr = 0x10
        archive._didModify = True


def _outside(path):
    torch.save({'x': torch.zeros(3)}, path)
    _rewrite(path, lambda _, x: x, rename=lambda name: name.replace('data/0', '../../../ran'))


def _name_of_many_lines(path):
    torch.save({'x': torch.zeros(3)}, path)
    name = f'{path.stem}/data.pkl'.encode()
    data = path.read_bytes().replace(b'\x80\x02}', b'\x80\x02]', 1)
    path.write_bytes(data.replace(name, name.replace(b'.', b'\n')))


def _byte_order(path):
    torch.save({'x': torch.zeros(3)}, path)
    _rewrite(path, lambda name, data: b'middle' if name.endswith('byteorder') else data)


def _script(path):
    torch.jit.script(torch.nn.Linear(1, 1)).save(path)


def _cut(fraction, legacy=False):
    def write(path):
        torch.save({'x': torch.zeros(999)}, path, _use_new_zipfile_serialization=not legacy)
        path.write_bytes(path.read_bytes()[: int(path.stat().st_size * fraction)])

    return write


def _legacy(content, edit=lambda data: data):
    def write(path):
        torch.save(content(path.parent / MARKER), path, _use_new_zipfile_serialization=False)
        path.write_bytes(edit(path.read_bytes()))

    return write


def _shared_by_many_storages(path):
    class Storages(pickle.Pickler):
        def persistent_id(self, item):
            if type(item) is float:
                return 'storage', torch.ByteStorage, f'{item:.0f}', 'cpu', 10**6, None

    content = io.BytesIO()
    Storages(content, 2).dump([float(number) for number in range(5000)])
    path.write_bytes(MAGIC + content.getvalue() + b'\x80\x02].' + bytes(10**6))


def _bit_flip(path):
    torch.save({'x': torch.zeros(999)}, path)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def _tar(path):
    with tarfile.open(path, 'w') as archive:
        for name in ('storages', 'tensors', 'pickle'):
            entry = tarfile.TarInfo(name)
            entry.size = 4
            archive.addfile(entry, io.BytesIO(pickle.dumps(0, 2)[:4]))


def _written(data):
    return lambda path: path.write_bytes(data)


DEEP = b'\x80\x02' + 10**5 * b']' + (10**5 - 1) * b'a' + b'.'
MAGIC = b''.join(
    pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, 1001, {'little_endian': True})
)
DAMAGED = 'it is damaged or no checkpoint'

# Named files: (path) -> None, and the reason.
FILES = {
    'storage-beyond-its-record': (_storage_beyond_its_record, 'it claims a storage of 4294967292'),
    'deflated': (_deflated, r'its \w+/data.pkl is compressed'),
    'record-of-a-folder': (_record_of_a_folder, r'its \w+/data/0 is a folder'),
    'name-of-many-lines': (_name_of_many_lines, r'its \w+/data\?pkl has a wrong checksum'),
    'records-that-share-bytes': (_records_that_share_bytes, 'it claims [0-9]+ bytes in a file of'),
    'outside-path': (_outside, r'it names the path \w+/../../../ran'),
    'torchscript': (_script, 'its|it is an archive of something else|it names'),
    'cut-at-the-start': (_cut(0.01), DAMAGED),
    'cut-in-the-middle': (_cut(0.5), DAMAGED),
    'cut-at-the-end': (_cut(0.99), DAMAGED),
    'bit-flip': (_bit_flip, 'its .* has a wrong checksum'),
    'legacy-command': (
        _legacy(lambda marker: Call(os.system, f'echo > {marker}')), r'it asks for \w+\.system',
    ),
    'legacy-cut': (_cut(0.9, legacy=True), 'it claims more than the file holds'),
    'legacy-storages-of-the-whole-file': (_shared_by_many_storages, 'it claims more than the file'),
    'legacy-storage-beyond-the-file': (
        _legacy(lambda _: torch.zeros(77), lambda x: x.replace(b'KMN', b'J\xff\xff\xff\x3fN')),
        'it claims more than the file holds',
    ),
    'legacy-other-length': (
        _legacy(lambda _: torch.zeros(77), lambda data: data.replace(b'M\0\0\0\0', b'L\0\0\0\0')),
        'its storage .* has another length than claimed',
    ),
    'other-magic-number': (
        _written(MAGIC.replace(b'\x6c\xfc', b'\x6d\xfc') + b'\x80\x02N.\x80\x02].'),
        'it starts with other numbers than checkpoints do',
    ),
    'unknown-byte-order': (_byte_order, DAMAGED),
    'tar': (_tar, 'it is a tar archive'),
    'deep': (_written(MAGIC + DEEP), 'it nests containers 100 deep'),
    'itself': (_written(MAGIC + b'\x80\x02]q\0h\0a.'), 'it holds a container that holds itself'),
    'huge-text': (_written(MAGIC + b'\x80\x02X\xff\xff\xff\xffabc'), DAMAGED),
    'huge-frame': (_written(b'\x80\x04\x95' + b'\xff' * 7 + b'\x7fabc'), DAMAGED),
    'huge-bytearray': (_written(b'\x80\x05\x96' + b'\0\0\0\0\1\0\0\0'), DAMAGED),
    'page': (_written(b'<html>not found</html>'), DAMAGED),
    'text': (_written(b'hi there'), DAMAGED),
    'empty': (_written(b''), DAMAGED),
    'folder': (Path.mkdir, 'it is a folder'),
}  # fmt: skip


def write(name, path):
    """Write the hostile file of a name; a command of its own would leave ``ran`` beside it."""
    if name in FILES:
        FILES[name][0](path)
    else:
        save(CONTENTS[name][0](path.parent / MARKER), path)


REASONS = {name: reason for name, (_, reason) in {**CONTENTS, **FILES}.items()}
