// Hold an image's values before the window, and draw them: a pyramid of means is sampled at the screen's own pixels.

export class Film {
  // info: answer of POST v1/films. buffer: answer of GET v1/films/ID/pixels; docs/service.md describes its format.
  constructor(info, buffer) {
    this.info = info;
    [this.height, this.width] = info.size;
    const count = new DataView(buffer).getUint32(0, true);
    this.values = new Float32Array(buffer, 4, count); // rising; NaN where a level is padding
    const known = (value) => !Number.isNaN(value);
    this.range = [this.values.find(known) ?? 0, this.values.findLast(known) ?? 0];
    this.first = new Uint8Array(buffer, 4 + 4 * count, count);
    const start = 4 + 4 * count + 4 * Math.ceil(count / 4);
    this.levels = new Uint16Array(buffer, start, this.height * this.width);
    this.pyramid = [{ width: this.width, height: this.height, data: this.levels }];
    while (Math.min(this.width, this.height) >> this.pyramid.length > 64) this.pyramid.push(half(this.pyramid.at(-1)));
    this.reset();
  }

  // Return to the file's window: null draws with the service's own table, exactly as the model saw the image.
  reset() {
    this.window = null;
    this.inverted = false;
    this.grey = this.first;
  }

  // Restore the window and inversion with which the image was seen before.
  see({ window, inverted }) {
    Object.assign(this, { window, inverted });
    this.table();
  }

  // Whether the image is shown otherwise than the model saw it.
  get changed() {
    return this.window !== null || this.inverted;
  }

  // Whether low values are bright as the image is shown now.
  get lowIsBright() {
    return this.info.inverted !== this.inverted;
  }

  get shown() {
    return this.window ?? this.info.window ?? this.guess();
  }

  // Return centre and width that come near a VOI LUT, or span the full range of a picture.
  guess() {
    const low = this.first.findIndex((g) => g > 2 && g < 253);
    const high = this.first.findLastIndex((g) => g > 2 && g < 253);
    const [a, b] = low < 0 ? this.range : [this.values[low], this.values[high]]; // padding is black
    return { centre: (a + b) / 2, width: Math.max(1, b - a), function: "LINEAR_EXACT" };
  }

  setWindow(centre, width) {
    const { function: kind } = this.shown;
    const least = kind === "LINEAR" ? 1 : (this.range[1] - this.range[0]) / 4096 || 1e-6; // PS3.3 C.11.2.1.2
    this.window = { centre, width: Math.max(width, least), function: kind };
    this.table();
  }

  invert() {
    this.inverted = !this.inverted;
    this.table();
  }

  table() {
    const flip = this.inverted;
    this.grey = this.first.map((first, k) => {
      if (Number.isNaN(this.values[k])) return 0; // padding is not part of the image: it is black under every window
      if (!this.window) return flip ? 255 - first : first;
      const g = windowed(this.values[k], this.window);
      return Math.round(255 * (this.lowIsBright ? 1 - g : g));
    });
  }

  valueAt(x, y) {
    return this.values[this.levels[y * this.width + x]];
  }

  // Fill RGBA pixels of a canvas: image x = (column + 0.5) / zoom + left, y alike; black beside the image.
  draw(image, view) {
    const { data, width, height } = image;
    const step = Math.max(0, Math.min(this.pyramid.length - 1, Math.floor(Math.log2(1 / view.zoom))));
    const level = this.pyramid[step];
    const columns = axis(width, view.left, view.zoom, this.width, level.width);
    const rows = axis(height, view.top, view.zoom, this.height, level.height);
    const { grey } = this;
    let out = 0;
    for (let j = 0; j < height; j++) {
      const inside = rows.inside[j];
      const first = rows.first[j] * level.width;
      const second = rows.second[j] * level.width;
      const v = rows.weight[j];
      for (let i = 0; i < width; i++, out += 4) {
        let g = 0;
        if (inside && columns.inside[i]) {
          const [a, b, u] = [columns.first[i], columns.second[i], columns.weight[i]];
          const top = level.data[first + a] * (1 - u) + level.data[first + b] * u;
          const bottom = level.data[second + a] * (1 - u) + level.data[second + b] * u;
          g = grey[(top * (1 - v) + bottom * v + 0.5) | 0];
        }
        data[out] = data[out + 1] = data[out + 2] = g;
        data[out + 3] = 255;
      }
    }
  }
}

// Return the display value (0..1) of a value under a window (DICOM PS3.3 C.11.2.1.2 and C.11.2.1.3).
export function windowed(value, { centre, width, function: kind }) {
  if (kind === "SIGMOID") return 1 / (1 + Math.exp((-4 * (value - centre)) / width));
  const [c, w] = kind === "LINEAR_EXACT" ? [centre, width] : [centre - 0.5, width - 1];
  if (w <= 0) return value <= c ? 0 : 1;
  return Math.min(1, Math.max(0, (value - c) / w + 0.5));
}

// Return which of a line's `count` samples each of a line of screen pixels interpolates between, and their weight.
function axis(length, start, zoom, film, count) {
  const inside = new Uint8Array(length);
  const first = new Int32Array(length);
  const second = new Int32Array(length);
  const weight = new Float32Array(length);
  for (let i = 0; i < length; i++) {
    const at = start + (i + 0.5) / zoom;
    inside[i] = at >= 0 && at < film ? 1 : 0;
    const cell = Math.min(count - 1, Math.max(0, (at * count) / film - 0.5));
    first[i] = Math.floor(cell);
    second[i] = Math.min(count - 1, first[i] + 1);
    weight[i] = cell - first[i];
  }
  return { inside, first, second, weight };
}

function half({ width, height, data }) {
  const [w, h] = [width >> 1, height >> 1];
  const out = new Float32Array(w * h);
  for (let y = 0; y < h; y++) {
    for (let x = 0; x < w; x++) {
      const k = 2 * y * width + 2 * x;
      out[y * w + x] = (data[k] + data[k + 1] + data[k + width] + data[k + width + 1]) / 4;
    }
  }
  return { width: w, height: h, data: out };
}
