// What was recorded, unpacked, and what follows from it.

const data = JSON.parse(document.getElementById('data').textContent);

const HALVES = Float64Array.from({ length: 0x10000 }, (_, bits) => {
  const exponent = (bits >> 10) & 31;
  const fraction = bits & 1023;
  let size = exponent ? (1024 + fraction) * 2 ** (exponent - 25) : fraction * 2 ** -24;
  if (exponent === 31) size = fraction ? NaN : Infinity;
  return bits & 0x8000 ? -size : size;
});

async function inflate(base64) {
  const packed = Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream('deflate'));
  return new Uint16Array(await new Response(stream).arrayBuffer());
}

const toPixels = (position, mapSize, frameSize) =>
  ((position + 0.5) * frameSize) / mapSize - 0.5;

// Arrays are flat, in the order of the records: pairs, heads, taps, axes, rows, columns.
class Layer {
  constructor(record) {
    Object.assign(this, record);
    this.cells = this.height * this.width;
    this.taps = this.kernelSize ** 2;
    this.weightColours = this.signed ? 'signed' : 'positive';
    this.cache = new Map();
  }

  // Takes its arrays from halves, beginning at start; returns where they end.
  unpack(halves, start) {
    const places = this.pairs * this.cells;
    const lengths = {
      offset: places * this.taps * 2,
      weights: places * this.heads * this.taps,
      saliency: places,
    };
    for (const [name, length] of Object.entries(lengths)) {
      const scale = 2 ** this.exponents[name];
      const part = halves.subarray(start, (start += length));
      this[name] = Float32Array.from(part, (bits) => HALVES[bits] * scale);
    }
    return start;
  }

  offsetAt(pair, tap, cell) {
    const start = (pair * this.taps + tap) * 2 * this.cells + cell;
    return [this.offset[start], this.offset[start + this.cells]];
  }

  weightAt(pair, head, tap, cell) {
    return this.weights[((pair * this.heads + head) * this.taps + tap) * this.cells + cell];
  }

  // Indices of the heads that are meant: -1 means all.
  headsOf(head) {
    return head < 0 ? [...Array(this.heads).keys()] : [head];
  }

  // What the taps of a position are, in feature pixels and in pixels of the frame, (y, x) each.
  tapsAt(pair, head, row, column) {
    const cell = row * this.width + column;
    const heads = this.headsOf(head);
    const pixel = ([y, x]) => [
      toPixels(y, this.height, data.height),
      toPixels(x, this.width, data.width),
    ];
    return Array.from({ length: this.taps }, (_, k) => {
      const half = (this.kernelSize - 1) / 2;
      const tap = [Math.floor(k / this.kernelSize) - half, (k % this.kernelSize) - half];
      const [tapY, tapX] = tap.map((steps) => steps * this.dilation);
      const [dy, dx] = this.offsetAt(pair, k, cell);
      const [y, x] = [row + tapY + dy, column + tapX + dx];
      const sum = heads.reduce((all, h) => all + this.weightAt(pair, h, k, cell), 0);
      return {
        tap: [tapY, tapX],
        offset: [dy, dx],
        grid: pixel([row + tapY, column + tapX]),
        pixel: pixel([y, x]),
        outside: !(y > -1 && y < this.height && x > -1 && x < this.width),
        weight: sum / heads.length,
      };
    });
  }

  // A map over all pairs with its least and largest finite value, computed once.
  map(kind, head) {
    const key = kind === 'entropy' ? kind + head : kind;
    if (!this.cache.has(key)) {
      const map = this[`${kind}Map`](head);
      let [min, max] = [Infinity, -Infinity];
      for (const value of map.values.filter(Number.isFinite)) {
        min = Math.min(min, value);
        max = Math.max(max, value);
      }
      this.cache.set(key, { ...map, min, max });
    }
    return this.cache.get(key);
  }

  saliencyMap() {
    return { values: this.saliency };
  }

  // The mean over the heads of how evenly their weights are spread.
  entropyMap(head) {
    const heads = this.headsOf(head);
    const values = new Float32Array(this.pairs * this.cells);
    for (let place = 0; place < values.length; place++) {
      const pair = Math.floor(place / this.cells);
      for (const h of heads) {
        values[place] += this.entropyAt(pair, h, place % this.cells) / heads.length;
      }
    }
    return { values };
  }

  entropyAt(pair, head, cell) {
    if (this.taps === 1) return 0;
    let [total, sum] = [0, 0];
    for (let k = 0; k < this.taps; k++) total += Math.abs(this.weightAt(pair, head, k, cell));
    if (!(total > 0)) return 1;
    for (let k = 0; k < this.taps; k++) {
      const share = Math.abs(this.weightAt(pair, head, k, cell)) / total;
      if (share !== 0) sum -= share * Math.log(share);
    }
    return sum / Math.log(this.taps);
  }

  // Mean offset over the taps that have one, (dy, dx) and its length.
  offsetMap() {
    const [values, dy, dx] = Array.from(
      { length: 3 }, () => new Float32Array(this.pairs * this.cells));
    for (let place = 0; place < values.length; place++) {
      const pair = Math.floor(place / this.cells);
      let count = 0;
      for (let k = 0; k < this.taps; k++) {
        const [y, x] = this.offsetAt(pair, k, place % this.cells);
        if (Number.isFinite(y) && Number.isFinite(x)) {
          count++;
          dy[place] += y;
          dx[place] += x;
        }
      }
      dy[place] /= count;
      dx[place] /= count;
      values[place] = Math.hypot(dy[place], dx[place]);
    }
    return { values, dy, dx };
  }
}

async function unpackLayers() {
  const halves = await inflate(data.arrays);
  const layers = data.layers.map((record) => new Layer(record));
  layers.reduce((start, layer) => layer.unpack(halves, start), 0);
  return layers;
}

async function loadFrames() {
  const images = {};
  await Promise.all(Object.entries(data.frames).map(async ([index, source]) => {
    images[index] = new Image();
    images[index].src = source;
    await images[index].decode();
  }));
  return images;
}
