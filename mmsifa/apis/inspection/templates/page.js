// The controls, which hold what is chosen, and what follows from a choice.

const byId = (id) => document.getElementById(id);
const PLAY_INTERVAL = 900; // milliseconds
const SETTLE_TIME = 500; // after the last change, before it is announced

const control = {
  layer: byId('layer'), pair: byId('pair'), head: byId('head'), row: byId('row'),
  column: byId('column'), now: byId('now-overlay'), next: byId('next-overlay'),
  opacity: byId('opacity'),
};
const figures = ['now', 'next'].map((name) => ({
  overlay: control[name],
  canvas: byId(name).querySelector('canvas'),
  which: byId(name).querySelector('.which'),
  legend: byId(name).querySelector('.legend'),
}));

let layers;
let images;
let layer; // the chosen one
let held = false;
let place; // that was last pointed at, in shares of the frame
let playing;
let settling;
let drawing = { frames: false, requested: false };

const clamp = (value, size) => Math.min(Math.max(Math.round(value) || 0, 0), size - 1);
const row = () => clamp(Math.floor(place.y * layer.height), layer.height);
const column = () => clamp(Math.floor(place.x * layer.width), layer.width);
const pair = () => control.pair.valueAsNumber;
const head = () => Number(control.head.value);

// What the user chooses by rows and columns is their middle in the frame.
function moveTo(newRow, newColumn) {
  pointAt((clamp(newRow, layer.height) + 0.5) / layer.height,
    (clamp(newColumn, layer.width) + 0.5) / layer.width);
}

function pointAt(y, x) {
  place = { y, x };
  control.row.value = row();
  control.column.value = column();
  draw();
}

// Draws with the next picture of the screen, however often it is asked before.
function draw({ frames = false } = {}) {
  drawing.frames ||= frames;
  if (drawing.requested) return;
  drawing.requested = true;
  requestAnimationFrame(() => {
    const all = drawing.frames;
    drawing = { frames: false, requested: false };
    if (all) drawFrames();
    drawPoints();
    clearTimeout(settling);
    settling = setTimeout(settle, SETTLE_TIME);
  });
}

function drawFrames() {
  const opacity = control.opacity.valueAsNumber / 100;
  const texts = {
    pair: `${pair() + 1} of ${layer.pairs}`,
    opacity: `${control.opacity.value} %`,
  };
  for (const [name, text] of Object.entries(texts)) {
    byId(`${name}-text`).textContent = text;
    control[name].setAttribute('aria-valuetext', text);
  }
  byId('way').textContent = layer.frames[0] < layer.frames.at(-1) ? '+ 1' : '− 1';
  figures.forEach(({ overlay, canvas, which, legend }, i) => {
    const index = layer.frames[pair() + i];
    const time = data.times ? `, ${data.times[index].toFixed(2)} s` : '';
    which.textContent = `clip frame ${index} of 0 to ${data.length - 1}${time}`;
    paintFrame(canvas, images[index], opacity, overlay.value, layer, pair(), head());
    paintLegend(legend, overlay.value, layer, head());
  });
}

function drawPoints() {
  const taps = layer.tapsAt(pair(), head(), row(), column());
  const largest = Math.max(
    ...taps.map(({ weight }) => Math.abs(weight)).filter(Number.isFinite), 0);
  byId('query').replaceChildren(cellBox(layer, row(), column()));
  byId('query').classList.toggle('held', held);
  byId('held').hidden = !held;
  paintPoints(byId('points'), layer, row(), column(), taps, largest);

  byId('weight-scale').replaceChildren(
    element('span', {}, 'Weight'),
    ...colourBar(layer.weightColours, layer.signed ? -largest : 0, largest));
  byId('taps').tBodies[0].replaceChildren(
    ...taps.map(({ tap, offset, pixel, outside, weight }) => element(
      'tr', outside ? { class: 'outside' } : {},
      element('th', { scope: 'row' }, tap.map((value) => number(value, 0)).join(', ')),
      ...offset.map((value) => element('td', {}, number(value, Math.abs(value) < 100 ? 2 : 0))),
      ...pixel.map((value) => element('td', {}, number(value, Math.abs(value) < 1000 ? 1 : 0))),
      element('td', {}, short(weight)),
      element('td', {}, outside ? 'no' : 'yes'))));
  byId('summary').textContent = summary(taps);
}

function summary(taps) {
  const y = toPixels(row(), layer.height, data.height);
  const x = toPixels(column(), layer.width, data.width);
  const strongest = taps.reduce((best, tap) =>
    (Math.abs(tap.weight) > Math.abs(best.weight) ? tap : best));
  const outside = taps.filter((tap) => tap.outside).length;
  return `Row ${row()}, column ${column()} of a ${layer.height} × ${layer.width} map, ` +
    `y ${number(y, 1)}, x ${number(x, 1)} in pixels. ` +
    `Largest weight ${short(strongest.weight)} at tap ` +
    `${strongest.tap.map((value) => number(value, 0)).join(', ')}. ` +
    (outside ? `${outside} of ${taps.length} points outside of the frame.` : 'All points inside.');
}

// Announces what is shown and keeps it in the address.
function settle() {
  if (!playing) byId('live').textContent = byId('summary').textContent;
  const choice = Object.entries(control).map(([name, { value }]) => [name, value]);
  history.replaceState(null, '', `#${new URLSearchParams(choice)}`);
}

function restore() {
  const choice = new URLSearchParams(location.hash.slice(1));
  const take = (name) => {
    const before = control[name].value;
    if (choice.has(name)) control[name].value = choice.get(name);
    if (control[name].value === '') control[name].value = before;
  };
  take('layer');
  chooseLayer();
  Object.keys(control).filter((name) => name !== 'layer').forEach(take);
  moveTo(control.row.valueAsNumber, control.column.valueAsNumber);
}

// Fits the other controls to the chosen layer and stays at the same place of the frame.
function chooseLayer() {
  layer = layers[control.layer.value];
  control.pair.max = layer.pairs - 1;
  control.row.max = layer.height - 1;
  control.column.max = layer.width - 1;
  byId('play').disabled = layer.pairs < 2;
  if (layer.pairs < 2) stop();

  const chosen = control.head.value === '' ? -1 : head();
  byId('head-label').hidden = layer.heads === 1;
  control.head.replaceChildren(
    new Option('Mean of all', -1),
    ...Array.from({ length: layer.heads }, (_, h) => new Option(`${h + 1}`, h)));
  control.head.value = chosen < layer.heads ? chosen : -1;
  if (place) pointAt(place.y, place.x);
  draw({ frames: true });
}

function stop() {
  clearInterval(playing);
  playing = undefined;
  byId('play').textContent = 'Play';
}

function play() {
  byId('play').textContent = 'Stop';
  playing = setInterval(() => {
    control.pair.value = (pair() + 1) % layer.pairs;
    draw({ frames: true });
  }, PLAY_INTERVAL);
}

function follow({ clientX, clientY }) {
  const box = byId('query').getBoundingClientRect();
  pointAt((clientY - box.top) / box.height, (clientX - box.left) / box.width);
}

function listen() {
  const query = byId('query');
  query.addEventListener('pointermove', (event) => {
    if (event.pointerType === 'mouse' ? !held : event.buttons) follow(event);
  });
  query.addEventListener('click', (event) => {
    held = !held && event.pointerType === 'mouse';
    follow(event);
  });
  const steps = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
  query.addEventListener('keydown', (event) => {
    const step = steps[event.key];
    if (!step || event.ctrlKey || event.altKey || event.metaKey) return;
    event.preventDefault();
    moveTo(row() + step[0], column() + step[1]);
  });

  control.layer.addEventListener('change', chooseLayer);
  for (const name of ['pair', 'head', 'now', 'next', 'opacity']) {
    control[name].addEventListener('input', () => draw({ frames: true }));
  }
  for (const name of ['row', 'column']) {
    control[name].addEventListener('input', () => {
      if (control[name].value === '') return;
      moveTo(control.row.valueAsNumber, control.column.valueAsNumber);
    });
    control[name].addEventListener('change', () => pointAt(place.y, place.x));
  }
  byId('controls').addEventListener('submit', (event) => event.preventDefault());
  byId('play').addEventListener('click', () => (playing ? stop() : play()));
  addEventListener('hashchange', restore);
}

async function start() {
  [layers, images] = await Promise.all([unpackLayers(), loadFrames()]);
  for (const [index, { name, height, width, kernelSize, dilation, pairs }] of layers.entries()) {
    const window = `${kernelSize} × ${kernelSize}${dilation > 1 ? `, dilation ${dilation}` : ''}`;
    const text = `${height} × ${width}: ${name} (taps ${window}${pairs ? '' : ', no pair'})`;
    control.layer.add(Object.assign(new Option(text, index), { disabled: !pairs }));
  }
  control.layer.value = layers.findIndex(({ pairs }) => pairs);
  for (const { overlay } of figures) {
    overlay.replaceChildren(
      ...Object.entries(overlays).map(([name, { title }]) => new Option(title, name)));
  }
  for (const target of ['query', 'points']) {
    byId(target).setAttribute('viewBox', `-0.5 -0.5 ${data.width} ${data.height}`);
    byId(target).parentElement.style.aspectRatio = `${data.width} / ${data.height}`;
  }
  control.pair.value = 0;
  chooseLayer();
  control.pair.value = data.start.pair; // where most moved
  moveTo(data.start.y, data.start.x);
  restore();
  listen();
  for (const id of ['controls', 'view']) byId(id).hidden = false;
  byId('status').hidden = true;
}

start().catch((error) => {
  byId('status').textContent =
    `This page could not be shown: ${error.message}. It needs a browser of 2023 or later.`;
  throw error;
});
