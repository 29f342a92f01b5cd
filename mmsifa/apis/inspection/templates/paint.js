// How it is drawn. All drawing is in pixels of the frame, of which whole numbers are centres.

const FRAME_SIDE = 896; // of the longer side of a canvas

const number = (value, digits) => {
  if (Number.isNaN(value)) return 'NaN';
  if (!Number.isFinite(value)) return value < 0 ? '−∞' : '∞';
  return value.toFixed(digits).replace(/^-(?=.*[1-9])/, '−').replace(/^-/, '');
};

// Three significant digits, for values of any size.
const short = (value) => {
  const size = Math.abs(value);
  if (!Number.isFinite(value) || size === 0) return number(value, 0);
  if (size >= 0.001 && size < 100000) {
    return number(value, Math.max(0, 2 - Math.floor(Math.log10(size))));
  }
  return value.toExponential(2).replaceAll('-', '−').replace('+', '');
};

const colourTable = Object.fromEntries(
  Object.entries(data.colours).map(([use, colours]) => [
    use,
    colours.map((colour) => [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16))),
  ]));

// The colour of a share from 0 to 1.
function colourOf(use, share) {
  const table = colourTable[use];
  const at = Math.min(Math.max(share, 0), 1) * (table.length - 1);
  const low = Math.min(Math.floor(at), table.length - 2);
  return table[low].map((value, i) => value + (at - low) * (table[low + 1][i] - value));
}

// The colour wheel of optical flow: hue is the direction, saturation the length from 0 to 1.
function wheelColour(dy, dx, length) {
  const hue = (Math.atan2(dy, dx) / Math.PI) * 3 + 6;
  return [5, 3, 1].map((n) => {
    const k = (n + hue) % 6;
    return 255 * (1 - length * Math.max(0, Math.min(k, 4 - k, 1)));
  });
}

const css = (colour) => `rgb(${colour.map(Math.round).join(' ')})`;
const gradient = (use) => `linear-gradient(to right, ${data.colours[use].join(', ')})`;
const shareOf = (value, { min, max }) => (max > min ? (value - min) / (max - min) : 0.5);

// A canvas of one pixel per cell; null leaves a cell transparent.
function cellsOf(width, height, colourAt) {
  const canvas = Object.assign(document.createElement('canvas'), { width, height });
  const context = canvas.getContext('2d');
  const image = context.createImageData(width, height);
  for (let cell = 0; cell < width * height; cell++) {
    const colour = colourAt(cell);
    if (colour) image.data.set([...colour, 255], cell * 4);
  }
  context.putImageData(image, 0, 0);
  return canvas;
}

// What can be laid over a frame, and the map of the layer that it shows.
const overlays = {
  none: { title: 'None' },
  arrows: { title: 'Offsets: arrows', kind: 'offset' },
  wheel: { title: 'Offsets: colour wheel', kind: 'offset' },
  saliency: { title: 'Motion saliency', kind: 'saliency' },
  entropy: { title: 'Attention entropy', kind: 'entropy' },
};

function paintFrame(canvas, image, opacity, overlay, layer, pair, head) {
  const zoom = Math.max(1, FRAME_SIDE / Math.max(data.width, data.height));
  const [width, height] = [data.width * zoom, data.height * zoom].map(Math.round);
  if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
  const context = canvas.getContext('2d');
  context.setTransform(1, 0, 0, 1, 0, 0);
  context.globalAlpha = 1;
  context.imageSmoothingEnabled = true;
  context.drawImage(image, 0, 0, width, height);
  if (overlay === 'none') return;
  context.globalAlpha = opacity;
  const map = layer.map(overlays[overlay].kind, head);
  if (overlay === 'arrows') {
    context.setTransform(zoom, 0, 0, zoom, zoom / 2, zoom / 2);
    paintArrows(context, layer, pair, map);
    return;
  }
  const first = pair * layer.cells;
  context.imageSmoothingEnabled = false;
  context.drawImage(
    cellsOf(layer.width, layer.height, (cell) => {
      const at = first + cell;
      const value = map.values[at];
      if (!Number.isFinite(value)) return null;
      return overlay === 'wheel'
        ? wheelColour(map.dy[at], map.dx[at], map.max > 0 ? value / map.max : 0)
        : colourOf('map', shareOf(value, map));
    }), 0, 0, width, height);
}

const ARROWS = 28; // along a side; of finer maps every n-th position has one

const arrowStep = (layer) => Math.ceil(Math.max(layer.height, layer.width) / ARROWS);

// The longest arrow spans two arrows' distance, or is to scale if that is longer.
const arrowScale = (layer, map) =>
  (map.max > 0 ? Math.max(1, (2 * arrowStep(layer)) / map.max) : 1);

function paintArrows(context, layer, pair, map) {
  const [stepY, stepX] = [data.height / layer.height, data.width / layer.width];
  const every = arrowStep(layer);
  const scale = arrowScale(layer, map);
  const head = 0.25 * every * Math.min(stepY, stepX);
  const path = new Path2D();
  for (let cell = 0; cell < layer.cells; cell++) {
    const at = pair * layer.cells + cell;
    const [row, column] = [Math.floor(cell / layer.width), cell % layer.width];
    if (row % every || column % every || !(map.values[at] > 0)) continue;
    const y = toPixels(row, layer.height, data.height);
    const x = toPixels(column, layer.width, data.width);
    const tipY = y + map.dy[at] * stepY * scale;
    const tipX = x + map.dx[at] * stepX * scale;
    const angle = Math.atan2(tipY - y, tipX - x);
    const size = Math.min(head, Math.hypot(tipY - y, tipX - x) / 2);
    path.moveTo(x, y);
    path.lineTo(tipX, tipY);
    for (const turn of [2.6, -2.6]) {
      path.moveTo(tipX, tipY);
      path.lineTo(tipX + size * Math.cos(angle + turn), tipY + size * Math.sin(angle + turn));
    }
  }
  context.lineCap = 'round';
  const thickness = Math.max(data.width, data.height) / 250;
  for (const [colour, width] of [['#000', 2.2 * thickness], ['#ffe14d', thickness]]) {
    Object.assign(context, { strokeStyle: colour, lineWidth: width });
    context.stroke(path);
  }
}

const element = (tag, attributes = {}, ...children) => {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
};

function colourBar(use, min, max) {
  const bar = element('span', { class: 'bar' });
  bar.style.backgroundImage = gradient(use);
  const middle = use === 'signed' ? [element('span', {}, '0')] : [];
  const numbers = element(
    'span', { class: 'numbers' },
    element('span', {}, short(min)), ...middle, element('span', {}, short(max)));
  return [bar, numbers];
}

function wheel() {
  const side = 96;
  const half = (side - 1) / 2;
  const canvas = cellsOf(side, side, (cell) => {
    const dy = Math.floor(cell / side) - half;
    const dx = (cell % side) - half;
    const length = Math.hypot(dy, dx) / half;
    return length > 1 ? null : wheelColour(dy, dx, length);
  });
  canvas.className = 'wheel';
  canvas.setAttribute('role', 'img');
  canvas.setAttribute('aria-label', 'Colour wheel: the hue is the direction of the offset');
  return canvas;
}

// Puts the legend of an overlay into a box.
function paintLegend(box, overlay, layer, head) {
  const { title, kind } = overlays[overlay];
  if (!kind) return box.replaceChildren();
  const map = layer.map(kind, head);
  if (map.min > map.max) return box.replaceChildren(`${title}: no finite values`);
  if (kind !== 'offset') {
    box.replaceChildren(element('span', {}, title), ...colourBar('map', map.min, map.max));
    return undefined;
  }
  const pixels = map.max * (data.height / layer.height);
  const longest = `Longest ${short(map.max)} feature px, ${short(pixels)} px`;
  if (overlay === 'wheel') {
    const text = `Mean offset: hue is its direction, white none, the rim the longest. ${longest}.`;
    box.replaceChildren(wheel(), element('span', {}, text));
  } else {
    const scale = arrowScale(layer, map);
    const drawn = scale > 1 ? `drawn ${short(scale)} times as long` : 'drawn to scale';
    const every = arrowStep(layer);
    const some = every > 1 ? `, one for ${every} × ${every} positions` : '';
    box.replaceChildren(element('span', {}, `Mean offset. ${longest}, ${drawn}${some}.`));
  }
  return undefined;
}

function svg(tag, attributes) {
  const made = document.createElementNS('http://www.w3.org/2000/svg', tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}

function cellBox(layer, row, column) {
  const [height, width] = [data.height / layer.height, data.width / layer.width];
  return svg('rect', {
    class: 'cell', x: column * width - 0.5, y: row * height - 0.5, width, height,
  });
}

// Where a point is drawn: where it is, or on the border if that is outside of the picture.
const onBorder = (value, side) =>
  (Number.isNaN(value) ? -0.5 : Math.min(Math.max(value, -0.5), side - 0.5));

function paintPoints(target, layer, row, column, taps, largest) {
  const side = Math.max(data.width, data.height);
  const cell = Math.min(data.height / layer.height, data.width / layer.width);
  const radius = Math.min(Math.max(0.55 * cell, side / 70), side / 30);
  const lines = [];
  const dots = [];
  const points = [];
  for (const [k, { grid: [gridY, gridX], pixel, outside, weight }] of taps.entries()) {
    const [y, x] = [onBorder(pixel[0], data.height), onBorder(pixel[1], data.width)];
    if (onBorder(gridY, data.height) === gridY && onBorder(gridX, data.width) === gridX) {
      lines.push(svg('line', { class: 'move', x1: gridX, y1: gridY, x2: x, y2: y }));
      dots.push(svg('circle', { class: 'grid', cx: gridX, cy: gridY, r: side / 150 }));
    }
    if (outside) {
      const r = side / 80;
      const d = `M${x - r} ${y - r}L${x + r} ${y + r}M${x - r} ${y + r}L${x + r} ${y - r}`;
      points.push(svg('path', { class: 'outside', d }));
    } else {
      const share = Number.isFinite(weight) && largest > 0 ? weight / largest : 0;
      const r = radius * (0.3 + 0.7 * Math.sqrt(Math.abs(share)));
      const fill = css(colourOf(
        layer.weightColours, layer.signed ? (share + 1) / 2 : share));
      points.push(svg('circle', { class: 'point', 'data-tap': k, cx: x, cy: y, r, fill }));
    }
  }
  const larger = (a, b) => b.getAttribute('r') - a.getAttribute('r'); // small ones come on top
  target.replaceChildren(
    cellBox(layer, row, column), ...lines, ...dots, ...points.sort(larger));
}
