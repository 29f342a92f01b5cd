"""Any list at all: what is written is read, and any bytes are read or refused."""

from fuzzing import examples
from hypothesis import given
from hypothesis import strategies as st

from mmsifa.datasets import AnnotationError, read_annotations

NAMES = st.text(
    st.characters(codec='utf-8', exclude_categories=('Cc', 'Zs', 'Zl', 'Zp')), min_size=1
).filter(lambda name: name[0] != '\ufeff')


@examples(150)
@given(st.dictionaries(NAMES, st.integers(0, 10**9 - 1), min_size=1))
def test_what_is_written_is_read(tmp_path_factory, labels):
    path = tmp_path_factory.getbasetemp() / 'round_trip.txt'
    path.write_text(''.join(f'{name} {label}\n' for name, label in labels.items()), 'utf-8')
    samples, (largest, line) = read_annotations(path)
    assert {sample['filename']: sample['label'] for sample in samples} == labels
    assert largest == max(labels.values()) == samples[line - 1]['label']


PIECES = [
    *(b'a', b'video.mp4', b'..', b'.', b'/', b'\\', b'C:', b'~', b'//', b'file://'),
    *(b' ', b'  ', b',', b'\t', b'\n', b'\r\n', b'\r', b'\n\n', b'\0', b'\x1b[2J', b'\x7f', b'-'),
    *(b'0', b'1', b'399', b'-1', b'1.5', b'1e3', b'0x1', b'1_0', b'9' * 30, b'nan', b'one'),
    *(b'\xef\xbb\xbf', b'\xff\xfe', b'\xff', b'\xe9', b'\xed\xa0\x80', b'a' * 70000),
    '٢é中\u2028\u202e'.encode(),
]
GOOD = b'class 1/video.mp4,0\nclass 2/video.mp4,1\n'


@st.composite
def nearly_good(draw):
    """A good list with a few bytes changed."""
    content = bytearray(GOOD * draw(st.integers(1, 3)))
    for place in draw(st.lists(st.integers(0, len(content) - 1), max_size=3)):
        content[place] = draw(st.integers(0, 255))
    return bytes(content)


@examples(500)
@given(
    st.lists(st.sampled_from(PIECES) | st.binary(max_size=3), max_size=40).map(b''.join)
    | nearly_good()
    | st.binary(max_size=200),
    st.sampled_from([('filename',), ('frame_dir', 'offset', 'total_frames')]),
    st.sampled_from([None, '', 'videos', '/videos']),
    st.sampled_from([' ', ',', '\t', None]),
    st.booleans(),
    st.sampled_from([None, 2]),
    st.booleans(),
)
def test_any_bytes_are_read_or_refused(
    tmp_path_factory, content, columns, root, delimiter, multi_class, num_classes, labels_required
):
    path = tmp_path_factory.getbasetemp() / 'any.txt'
    path.write_bytes(content)
    try:
        samples, _ = read_annotations(
            path,
            columns,
            root=root,
            delimiter=delimiter,
            multi_class=multi_class,
            num_classes=num_classes,
            labels_required=labels_required,
        )
    except AnnotationError as error:
        lines = str(error).splitlines()
        assert lines[0].startswith(str(path))
        assert all(line.isprintable() for line in lines)
        return
    for sample in samples:
        labels = sample['label'] if multi_class else [sample['label']]
        lowest = 0 if multi_class or labels_required else -1
        assert all(lowest <= label < (num_classes or 10**9) for label in labels)
        if root:
            assert '..' not in sample[columns[0]].replace('\\', '/').split('/')
            assert sample[columns[0]].startswith(f'{root}/')
