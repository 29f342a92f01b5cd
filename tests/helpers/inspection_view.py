"""The page of an inspection as its reader in a browser has it."""

import base64

import cv2
import numpy as np
import pytest
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

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
