// Draw a sentence's map: the patch grid lies on the image exactly as in radzero.images.geometry, with the same colours
// as RadZero's overlays.

export class SimilarityMap {
  // maps: maps of a reading. index: place of the sentence in it. peak: [x, y] in pixels of the image, or null.
  constructor(maps, index, peak) {
    const bytes = Uint8Array.from(atob(maps.values), (c) => c.charCodeAt(0));
    [this.rows, this.columns] = maps.grid;
    this.grid = new Float32Array(bytes.buffer, 4 * index * this.rows * this.columns, this.rows * this.columns);
    this.attention = maps.attention;
    this.place = maps.placement;
    this.peak = peak;
  }

  // Return the grid position of an image coordinate, or null where the model did not see it; kind is 0 for y, 1 for x.
  cell(at, kind) {
    const { original, resized, placed, input, patch } = this.place;
    const position = (at * resized[kind]) / original[kind] + placed[kind];
    if (position < 0 || position > input[kind]) return null;
    return Math.min((kind ? this.columns : this.rows) - 1, Math.max(0, position / patch - 0.5));
  }

  // Return the map's value (0..1) at image coordinates in pixels, whose centres are at .5.
  at(x, y) {
    const [column, row] = [this.cell(x, 1), this.cell(y, 0)];
    return column === null || row === null ? 0 : this.probability(this.between(row, column));
  }

  between(row, column) {
    const { grid, rows, columns } = this;
    const [r, c] = [Math.floor(row), Math.floor(column)];
    const [r2, c2] = [Math.min(r + 1, rows - 1), Math.min(c + 1, columns - 1)];
    const [v, u] = [row - r, column - c];
    const top = grid[r * columns + c] * (1 - u) + grid[r * columns + c2] * u;
    const bottom = grid[r2 * columns + c] * (1 - u) + grid[r2 * columns + c2] * u;
    return top * (1 - v) + bottom * v;
  }

  probability(value) {
    return this.attention ? value / (1 + value) : 1 / (1 + Math.exp(-value));
  }

  // Return the map's value (0..1) at every screen pixel.
  sample(width, height, view) {
    const out = new Float32Array(width * height);
    const columns = Array.from({ length: width }, (_, i) => this.cell(view.left + (i + 0.5) / view.zoom, 1));
    const [filmHeight, filmWidth] = this.place.original;
    for (let j = 0, k = 0; j < height; j++) {
      const y = view.top + (j + 0.5) / view.zoom;
      const row = y < 0 || y >= filmHeight ? null : this.cell(y, 0);
      for (let i = 0; i < width; i++, k++) {
        if (row === null || columns[i] === null) continue;
        const x = view.left + (i + 0.5) / view.zoom;
        if (x >= 0 && x < filmWidth) out[k] = this.probability(this.between(row, columns[i]));
      }
    }
    return out;
  }
}

export const alphaOf = (v, opacity) => opacity * v * v * (3 - 2 * v);

// Blend the colours of values (0..1) into an RGBA image.
export function tint(image, values, colours, opacity) {
  const { data } = image;
  const last = colours.length - 1;
  for (let k = 0, p = 0; k < values.length; k++, p += 4) {
    const v = values[k];
    if (v < 0.02) continue; // the colour is too faint for any screen
    const a = alphaOf(v, opacity);
    const colour = colours[Math.round(v * last)];
    data[p] += a * (colour[0] - data[p]);
    data[p + 1] += a * (colour[1] - data[p + 1]);
    data[p + 2] += a * (colour[2] - data[p + 2]);
  }
}

// Draw a white line with a dark rim along the inner edge of the region whose values reach the threshold.
export function outline(image, values, threshold) {
  const { data, width, height } = image;
  // a region goes on beyond the screen, so that it has no edge there
  const inside = (x, y) => x < 0 || y < 0 || x >= width || y >= height || values[y * width + x] >= threshold;
  const paint = (x, y, g) => {
    if (x < 0 || y < 0 || x >= width || y >= height) return;
    const p = 4 * (y * width + x);
    data[p] = data[p + 1] = data[p + 2] = g;
  };
  const edge = [];
  for (let y = 0, k = 0; y < height; y++) {
    for (let x = 0; x < width; x++, k++) {
      if (values[k] < threshold) continue;
      if (!inside(x - 1, y) || !inside(x + 1, y) || !inside(x, y - 1) || !inside(x, y + 1)) edge.push(x, y);
    }
  }
  for (let k = 0; k < edge.length; k += 2) {
    for (let dy = -2; dy <= 2; dy++) for (let dx = -2; dx <= 2; dx++) paint(edge[k] + dx, edge[k + 1] + dy, 0);
  }
  for (let k = 0; k < edge.length; k += 2) {
    for (let dy = -1; dy <= 1; dy++) for (let dx = -1; dx <= 1; dx++) paint(edge[k] + dx, edge[k + 1] + dy, 255);
  }
}
