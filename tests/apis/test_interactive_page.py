"""The page of an inspection, in a real headless browser."""

import base64
import re
import shutil
from itertools import pairwise

import cv2
import decord
import numpy as np
import pytest
from matplotlib import colormaps
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.actions import interaction
from selenium.webdriver.common.actions.action_builder import ActionBuilder
from selenium.webdriver.common.actions.pointer_input import PointerInput
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from mmsifa.apis.inspection import Inspection, LayerAttention
from mmsifa.apis.inspection.interactive_page import exponent_for_halves, to_halves, write_page
from mmsifa.apis.inspection.records import choose_positions, to_pixels

MINUS = '\N{MINUS SIGN}'

# The smallest font and the least contrast of a text on its ground, as WCAG defines it.
LEAST_READABLE = """
const luminance = (colour) => colour.match(/[\\d.]+/g).slice(0, 3).reduce((sum, value, i) => {
  const share = value / 255;
  const linear = share <= 0.03928 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
  return sum + [0.2126, 0.7152, 0.0722][i] * linear;
}, 0);
let [size, contrast] = [Infinity, Infinity];
for (const element of document.querySelectorAll('body *')) {
  const text = [...element.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
  if (!text || !element.checkVisibility() || element.matches('script, option, :disabled')) continue;
  const style = getComputedStyle(element);
  let ground = element;
  const colourBehind = () => getComputedStyle(ground).backgroundColor;
  while (colourBehind() === 'rgba(0, 0, 0, 0)') ground = ground.parentElement;
  const [a, b] = [style.color, colourBehind()].map(luminance);
  size = Math.min(size, parseFloat(style.fontSize));
  contrast = Math.min(contrast, (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05));
}
return {size, contrast};
"""


class View:
    """The page as a reader has it."""

    def __init__(self, driver):
        self.driver = driver

    def __getitem__(self, selector):
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def open(self, page, choice='', width=1280, scheme='light'):
        self.driver.execute_cdp_cmd(
            'Emulation.setDeviceMetricsOverride',
            dict(width=width, height=900, deviceScaleFactor=1, mobile=width < 600),
        )
        feature = dict(name='prefers-color-scheme', value=scheme)
        self.driver.execute_cdp_cmd('Emulation.setEmulatedMedia', dict(features=[feature]))
        self.driver.get('about:blank')
        self.driver.get(f'{page.as_uri()}#{choice}')
        self.until(lambda: not self['#status'].is_displayed())
        self.settle()

    def until(self, met):
        WebDriverWait(self.driver, 10, poll_frequency=0.05).until(lambda _: met())

    def settle(self):
        """Wait until what was asked for is drawn."""
        self.driver.execute_async_script(
            'const done = arguments[0]; requestAnimationFrame(() => requestAnimationFrame(done))'
        )

    def keys(self, selector, *keys):
        """Press keys on what has the focus; reach it by the tabulator alone."""
        focused = 'return document.querySelector(arguments[0]) === document.activeElement'
        for _ in range(20):
            if self.script(focused, selector):
                break
            self.press(Keys.TAB)
        else:
            pytest.fail(f'{selector} cannot be reached by the tabulator')
        assert self.script('return getComputedStyle(document.activeElement).outlineStyle') != 'none'
        self.press(*keys)
        self.settle()

    def press(self, *keys):
        self.driver.switch_to.active_element.send_keys(*keys)

    def hover(self, y, x):
        """Move the mouse to a share of the height and width of frame t."""
        query = self['#query']
        dx, dy = (x - 0.5) * query.rect['width'], (y - 0.5) * query.rect['height']
        ActionChains(self.driver, 0).move_to_element_with_offset(query, dx, dy).perform()
        self.settle()

    def script(self, code, *arguments):
        return self.driver.execute_script(code, *arguments)

    def values(self):
        code = 'return arguments[0].map(id => [id, Number(document.getElementById(id).value)])'
        return dict(self.script(code, ['layer', 'pair', 'head', 'row', 'column']))

    def table(self):
        """Return dy, dx, y, x and weight of every tap, and whether it is in the frame."""
        rows = self.script(
            "return [...document.querySelectorAll('#taps tbody tr')].map("
            "row => [...row.querySelectorAll('td')].map(cell => cell.textContent))"
        )
        read = [
            [float(cell.replace(MINUS, '-').replace('∞', 'inf')) for cell in r[:5]] for r in rows
        ]
        return np.array(read), [row[5] == 'yes' for row in rows]

    def circles(self):
        """Return y, x and radius of the sampling points that are drawn, by tap."""
        code = (
            "return [...document.querySelectorAll('#points .point')].map("
            "point => ['data-tap', 'cy', 'cx', 'r'].map(name => Number(point.getAttribute(name))))"
        )
        return {int(tap): circle for tap, *circle in self.script(code)}

    def canvas(self, figure='now'):
        """Return the pixels of a frame as they are drawn."""
        code = 'return document.querySelector(`#${arguments[0]} canvas`).toDataURL()'
        png = base64.b64decode(self.script(code, figure).split(',')[1])
        return cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]


FLAGS = (
    '--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync '
    '--disable-background-networking --disable-component-update --hide-scrollbars'
)
SIZE = 224
VIDEO = 'a "quoted" </script><b>öß</b> \'$video\'\udcff.mp4'


def smooth(rng, *shape):
    """Random fields that change slowly over the last two dimensions."""
    flat = np.empty((np.prod(shape[:-2]), *shape[-2:]), np.float32)
    for field in flat:
        field[:] = cv2.resize(rng.normal(size=(4, 4)), shape[:-3:-1], interpolation=cv2.INTER_CUBIC)
    return flat.reshape(shape)


def layer(name, side, frames=(2, 6, 10, 14), kernel_size=3, dilation=1, heads=1):
    rng = np.random.default_rng(side)
    pairs, taps = len(frames) - 1, kernel_size**2
    return LayerAttention(
        name=name,
        kernel_size=kernel_size,
        dilation=dilation,
        frames=frames,
        offset=smooth(rng, pairs, taps, 2, side, side) * side / 10,
        weights=smooth(rng, pairs, heads, taps, side, side) * 1e-3,
        saliency=np.abs(smooth(rng, pairs, side, side)),
    )


@pytest.fixture(scope='module')
def inspection(motion_data):
    video = next((motion_data / 'videos_val').glob('*.mp4'))
    clip = decord.VideoReader(str(video), width=SIZE, height=SIZE).get_batch(range(16)).asnumpy()
    layers = [
        layer('layer2.1', 28),
        layer('layer3.1', 14, heads=2),
        layer('layer3.3', 14, kernel_size=5, dilation=2),
        layer('layer4.1', 7),
        layer('layer4_slow.1', 14, frames=(4, 12)),
        layer('one frame', 14, frames=(8,)),
    ]
    layers[0].offset[0, :3, 0, 3, 4] = np.nan, np.inf, -1e6
    names = [f'class {i} <i>&amp;' for i in range(5)]
    scores = list(zip(names, (0.5, 0.25, 0.125, 0.0625, np.nan), strict=True))
    return Inspection(VIDEO, 'sifa_r50_k400', 'epoch_5.pth', clip, layers, scores)


@pytest.fixture(scope='module')
def page(inspection, tmp_path_factory):
    path = tmp_path_factory.mktemp('page') / 'new folder' / 'index.html'
    write_page(inspection, path)
    return path


@pytest.fixture(scope='module')
def browser(tmp_path_factory):
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which('chromium')
    for flag in (*FLAGS.split(), f'--user-data-dir={tmp_path_factory.mktemp("profile")}'):
        options.add_argument(flag)
    options.set_capability('goog:loggingPrefs', {'browser': 'ALL'})
    service = Service(shutil.which('chromedriver'))
    with webdriver.Chrome(options=options, service=service) as driver:
        yield driver


@pytest.fixture(scope='module')
def view(browser):
    return View(browser)


def check_points(view, inspection):
    """Compare what is drawn and what is read with the records; return where it looked."""
    at = view.values()
    record = inspection.layers[at['layer']]
    place = (..., at['row'], at['column'])
    side = record.offset.shape[-1]
    offset = record.offset[at['pair']][place]
    pixels = to_pixels(record.positions()[at['pair']][place], side, SIZE)
    weights = record.weights[at['pair']][place]
    weights = weights.mean(axis=0) if at['head'] < 0 else weights[at['head']]
    inside = ~record.outside()[at['pair']][place]

    table, shown_inside = view.table()
    rounding = np.abs(offset[inside]).max() * 2**-11
    np.testing.assert_allclose(table[inside, :2], offset[inside], rtol=0, atol=0.005 + rounding)
    rounding *= SIZE / side
    np.testing.assert_allclose(table[inside, 2:4], pixels[inside], rtol=0, atol=0.05 + rounding)
    np.testing.assert_allclose(table[:, 4], weights, rtol=0.006, atol=1e-9)
    assert shown_inside == inside.tolist()

    circles = view.circles()
    assert sorted(circles) == np.flatnonzero(inside).tolist()
    drawn = np.array([circles[tap][:2] for tap in sorted(circles)])
    visible = pixels[inside].clip(-0.5, SIZE - 0.5)
    np.testing.assert_allclose(drawn, visible, rtol=0, atol=1e-4 + rounding)
    outside = view.driver.find_elements(By.CSS_SELECTOR, '#points path.outside')
    assert len(outside) == (~inside).sum()
    by_radius = sorted(circles, key=lambda tap: circles[tap][2])
    sizes = np.abs(weights[by_radius])
    assert (np.diff(sizes) >= -sizes.max() * 1e-3).all()
    return drawn


def test_hovering_moves_the_points_to_those_of_the_records(view, page, inspection):
    view.open(page)
    seen = []
    for y, x in ((0.3, 0.6), (0.71, 0.2), (0.99, 0.99), (0.01, 0.01)):
        view.hover(y, x)
        assert (view.values()['row'], view.values()['column']) == (int(y * 28), int(x * 28))
        seen.append(check_points(view, inspection).tolist())
    assert all(a != b for a, b in pairwise(seen))


def test_a_click_holds_the_position_until_the_next(view, page):
    view.open(page)
    view.hover(0.3, 0.6)
    ActionChains(view.driver, 0).click().perform()
    view.hover(0.8, 0.8)
    assert (view.values()['row'], view['#held'].is_displayed()) == (8, True)
    ActionChains(view.driver, 0).click().perform()
    view.hover(0.52, 0.5)
    assert (view.values()['row'], view['#held'].is_displayed()) == (14, False)


def test_a_tap_of_a_finger_moves_the_points(view, page, inspection):
    view.open(page, width=400)
    actions = ActionBuilder(view.driver, mouse=PointerInput(interaction.POINTER_TOUCH, 'finger'))
    finger = actions.pointer_action
    for x, column in ((5, 14), (-90, 7)):
        finger.move_to(view['#query'], x, 100).pointer_down().pointer_up()
        actions.perform()
        view.settle()
        assert view.values()['column'] == column
        check_points(view, inspection)


def test_arrow_keys_and_numbers_move_the_position(view, page, inspection):
    view.open(page, 'row=10&column=10')
    view.keys('#query', Keys.ARROW_DOWN, Keys.ARROW_DOWN, Keys.ARROW_RIGHT, Keys.ARROW_UP)
    assert (view.values()['row'], view.values()['column']) == (11, 11)
    check_points(view, inspection)
    view.keys('#query', *[Keys.ARROW_LEFT] * 30)
    assert view.values()['column'] == 0
    view.keys('#row', Keys.CONTROL + 'a')
    view.keys('#row', '99', Keys.TAB)
    assert view.values()['row'] == 27
    check_points(view, inspection)


def test_every_layer_pair_and_head_is_chosen_by_the_keyboard(view, page, inspection):
    place = np.array([7.5, 20.5]) / 28  # in shares of the frame, and stays there
    view.open(page, 'row=7&column=20')
    options = view.driver.find_elements(By.CSS_SELECTOR, '#layer option')
    assert [option.is_enabled() for option in options] == [True] * 5 + [False]
    for number, record in enumerate(inspection.layers[:5]):
        if number:
            view.keys('#layer', Keys.ARROW_DOWN)
        side = record.offset.shape[-1]
        view.keys('#pair', Keys.HOME)
        for pair in range(len(record.offset)):
            at = view.values()
            assert (at['layer'], at['pair']) == (number, pair)
            assert [at['row'], at['column']] == np.floor(place * side).tolist()
            for figure, frame in (('now', pair), ('next', pair + 1)):
                label = f'clip frame {record.frames[frame]} of 0 to 15'
                assert view[f'#{figure} .which'].text == label
            check_points(view, inspection)
            view.keys('#pair', Keys.ARROW_RIGHT)
        heads = record.weights.shape[1]
        assert view['#head'].is_displayed() == (heads > 1)
        for head in range(heads if heads > 1 else 0):
            view.keys('#head', Keys.ARROW_DOWN)
            assert view.values()['head'] == head
            check_points(view, inspection)


def test_frames_are_those_of_the_clip(view, page, inspection):
    view.open(page, 'layer=4')
    for figure, index in (('now', 4), ('next', 12)):
        drawn = cv2.resize(view.canvas(figure), (SIZE, SIZE), interpolation=cv2.INTER_AREA)
        assert np.abs(drawn - inspection.frames[index].astype(int)).mean() < 3


def test_starts_where_most_moved(view, page, inspection):
    view.open(page)
    (most,) = choose_positions(inspection, inspection.layers[0], count=1)
    shown = [view[f'#{name}'].get_property('value') for name in ('pair', 'row', 'column')]
    assert [int(number) for number in shown] == [*most]


def test_what_has_no_place_is_outside(view, page, inspection):
    view.open(page, 'pair=0&row=3&column=4')
    check_points(view, inspection)
    table, _ = view.table()
    np.testing.assert_array_equal(table[:3, 0], [np.nan, np.inf, -np.inf])
    assert '3 of 9 points outside' in view['#summary'].text


def centres(view, side, figure='now'):
    """Return the colours at the centres of a map's cells."""
    pixels = view.canvas(figure)
    at = (to_pixels(np.arange(side), side, len(pixels)) + 0.5).astype(int)
    return pixels[np.ix_(at, at)].astype(int)


def legend(view, figure='now'):
    text = view[f'#{figure} .legend'].text.replace(MINUS, '-')
    return [float(number) for number in re.findall(r'-?\d[\d.]*(?:e-?\d+)?', text)]


def test_overlays_show_the_maps_of_the_records(view, page, inspection):
    choice = 'layer=1&pair=1&head=1&opacity=100'
    view.open(page, choice)
    record = inspection.layers[1]
    seen = [view.canvas()]
    view.keys('#now-overlay')
    mean = record.offset.mean(axis=1)
    lengths = np.hypot(*np.moveaxis(mean, 1, 0))
    for name in ('arrows', 'wheel', 'saliency', 'entropy'):
        view.keys('#now-overlay', Keys.ARROW_DOWN)
        assert view['#now-overlay'].get_property('value') == name
        seen.append(view.canvas())
        if name in ('saliency', 'entropy'):
            maps = record.saliency if name == 'saliency' else record.entropy()[:, 1]
            share = (maps[1] - maps.min()) / np.ptp(maps)
            expected = colormaps['viridis'](share)[..., :3] * 255
            np.testing.assert_allclose(legend(view), [maps.min(), maps.max()], rtol=0.006)
            np.testing.assert_allclose(centres(view, 14), expected, rtol=0, atol=6)
        else:
            assert legend(view)[0] == pytest.approx(lengths.max(), rel=0.006)
    assert all((a != b).any() for i, a in enumerate(seen) for b in seen[:i])

    view.open(page, f'{choice}&now=wheel&next=wheel')
    hue = np.degrees(np.arctan2(mean[1, 0], mean[1, 1])) % 360
    hsv = np.stack([hue, lengths[1] / lengths.max(), np.ones_like(hue)], -1).astype(np.float32)
    expected = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB) * 255
    for figure in ('now', 'next'):
        np.testing.assert_allclose(centres(view, 14, figure), expected, rtol=0, atol=4)


def test_opacity_is_set_by_the_keyboard(view, page):
    view.open(page, 'now=entropy')
    before = view.canvas().astype(int)
    view.keys('#opacity', Keys.HOME)
    bare = view.canvas().astype(int)
    view.keys('#opacity', Keys.ARROW_RIGHT)
    faint = view.canvas().astype(int)
    assert view['#opacity-text'].text == '5 %'
    assert 0 < np.abs(faint - bare).mean() < np.abs(before - bare).mean() / 4
    view.open(page)
    assert (view.canvas() == bare).all()


def test_play_runs_through_the_pairs_and_stops(view, page, inspection):
    view.open(page)
    assert view['#play'].text == 'Play'
    view.keys('#play', Keys.ENTER)
    for pair in (1, 2, 0):
        view.until(lambda pair=pair: view.values()['pair'] == pair)
    view.keys('#play', Keys.SPACE)
    assert view['#play'].text == 'Play'
    stopped = view.values()['pair']
    view.driver.execute_async_script('setTimeout(arguments[0], 1200)')
    assert view.values()['pair'] == stopped
    check_points(view, inspection)
    view.open(page, 'layer=4')
    assert not view['#play'].is_enabled()


def test_the_choice_is_announced_and_kept_in_the_address(view, page):
    view.open(page)
    view.keys('#query', Keys.ARROW_DOWN)
    view.keys('#pair', Keys.END)
    assert view['#live'].get_attribute('aria-live') == 'polite'
    view.until(lambda: view['#live'].get_property('textContent') == view['#summary'].text)
    kept = view.values(), view.circles()
    choice = view.driver.current_url.split('#')[1]
    view.open(page)
    assert (view.values(), view.circles()) != kept
    view.open(page, choice)
    assert (view.values(), view.circles()) == kept


def test_fast_movement_is_drawn_once_a_screen(view, page):
    view.open(page)
    drawn = view.driver.execute_async_script(
        "const done = arguments[0]; const query = document.getElementById('query'); let drawn = 0;"
        'const box = query.getBoundingClientRect();'
        "new MutationObserver(() => drawn++).observe(document.getElementById('summary'), "
        '{childList: true});'
        'for (let i = 0; i < 500; i++) query.dispatchEvent(new PointerEvent("pointermove", '
        '{pointerType: "mouse", clientX: box.left + i % 200, clientY: box.top + i % 170}));'
        'requestAnimationFrame(() => requestAnimationFrame(() => done(drawn)));'
    )
    assert drawn == 1


@pytest.mark.parametrize('scheme', ['light', 'dark'])
@pytest.mark.parametrize('width', [1280, 400])
def test_is_readable(width, scheme, view, page, inspection):
    view.open(page, 'layer=2&now=wheel&next=arrows', width, scheme)
    for choice in ('layer=0&row=3&column=4&now=saliency', 'layer=1&now=arrows&next=entropy'):
        view.script('location.hash = arguments[0]', choice)
        view.settle()
        assert view.script('return document.scrollingElement.scrollWidth') <= width
        table, card = view['#taps'].rect, view['#readout'].rect
        assert card['x'] < table['x'] < table['x'] + table['width'] < card['x'] + card['width']
    for control in view.driver.find_elements(By.CSS_SELECTOR, 'select, input, button'):
        assert control.is_displayed()
        assert 0 <= control.rect['x'] <= control.rect['x'] + control.rect['width'] <= width
        assert control.rect['height'] >= (44 if width == 400 else 36)
        assert control.accessible_name, control.get_attribute('outerHTML')
    texts = view.script(LEAST_READABLE)
    assert texts['size'] >= 12
    assert texts['contrast'] >= 4.5
    tops = [view[f'#{name}'].rect['y'] for name in ('now', 'next', 'readout')]
    assert tops == sorted(tops)
    assert (len(set(tops)) == 1) == (width == 1280)


def test_names_are_shown_as_they_are(view, page, inspection):
    view.open(page)
    shown = [dd.get_property('textContent') for dd in view['dl'].find_elements(By.TAG_NAME, 'dd')]
    assert shown == [VIDEO.replace('\udcff', '?'), 'sifa_r50_k400', 'epoch_5.pth']
    rows = view['#scores'].find_elements(By.TAG_NAME, 'tr')
    names, scores = zip(*(row.text.rsplit(' ', 1) for row in rows), strict=True)
    assert list(names) == [name for name, _ in inspection.scores]
    assert scores == ('0.500', '0.250', '0.125', '0.062', 'nan')


def test_nothing_went_wrong_and_nothing_was_asked_of_a_network(view, page):
    """Last: the log holds what all tests above left."""
    view.open(page)
    assert view.driver.get_log('browser') == []
    names = view.script('return performance.getEntriesByType("resource").map(({name}) => name)')
    assert [name for name in names if not name.startswith('data:')] == []
    policy = view['meta[http-equiv=Content-Security-Policy]'].get_attribute('content')
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert 'unsafe' not in policy
    assert set(re.findall(r'\w+://[^\s\'"]+', page.read_text())) == {'http://www.w3.org/2000/svg'}


def test_packing_keeps_eleven_bits_of_every_size():
    rng = np.random.default_rng(0)
    values = rng.normal(size=1000) * 10.0 ** rng.uniform(-4, 0, size=1000)
    for scale in (1e-30, 1.0, 1e30):
        array = np.append(values * scale, [0, np.nan, np.inf, -np.inf])
        exponent = exponent_for_halves(array)
        back = np.ldexp(to_halves(array, exponent).astype(float), exponent)
        np.testing.assert_allclose(back, array, rtol=2**-11)
    assert exponent_for_halves(np.array([np.nan])) == exponent_for_halves(np.zeros(3))


def test_long_clips_of_large_maps_fit(tmp_path):
    sides = [56, 28, *[14] * 9, 7, 7]
    frames = np.random.default_rng(0).integers(0, 256, (64, SIZE, SIZE, 3), np.uint8)
    frames = np.stack([cv2.GaussianBlur(frame, (0, 0), 2) for frame in frames])
    layers = [layer('layer', side, range(2, 64, 4)) for side in sides]
    path = tmp_path / 'index.html'
    write_page(Inspection('a.mp4', 'swin', 'a.pth', frames, layers), path)
    assert path.stat().st_size < 15 * 2**20


def test_a_clip_without_pairs_is_refused_and_an_old_page_kept(tmp_path, inspection):
    path = tmp_path / 'index.html'
    path.write_text('old')
    alone = Inspection('a.mp4', 'a', 'a.pth', inspection.frames, inspection.layers[-1:])
    with pytest.raises(ValueError, match='one pair of frames, got 1 layers without any'):
        write_page(alone, path)
    assert path.read_text() == 'old'
    assert [file.name for file in tmp_path.iterdir()] == ['index.html']
