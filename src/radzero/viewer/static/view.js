// Set the part of the image that is seen and its window, and read the values under the pointer.

import { $, number, ratio } from "./dom.js";
import { drawScale } from "./scale.js";
import { viewer } from "./state.js";
import { status } from "./status.js";

export function redraw() {
  if (viewer.pending) return;
  viewer.pending = true;
  requestAnimationFrame(() => {
    viewer.pending = false;
    for (const pane of viewer.panes) pane.draw();
    drawScale($("scale"), viewer.colours, viewer.options.threshold);
    sayView();
    readOut();
  });
}

function sayView() {
  const { film } = viewer;
  if (!film) return;
  const { centre, width } = film.shown;
  const source = film.changed ? "" : " (as the model saw it)";
  const zoom = 100 * viewer.place.zoom * ratio();
  const enlarged = zoom < 1 ? number(zoom) : Math.round(zoom);
  $("window").textContent = `W ${number(width)} L ${number(centre)}${source} · ${enlarged} %`;
  $("invert").setAttribute("aria-pressed", String(film.inverted));
}

// Return the zoom, in page pixels per image pixel, at which the whole image is seen.
function fittingZoom() {
  const { clientWidth, clientHeight } = viewer.panes[0].canvas;
  return 0.98 * Math.min(Math.max(1, clientWidth) / viewer.film.width, Math.max(1, clientHeight) / viewer.film.height);
}

export function fit() {
  const { film } = viewer;
  if (!film || !viewer.panes.length) return;
  viewer.place = { zoom: fittingZoom(), x: film.width / 2, y: film.height / 2 };
  viewer.fitted = true; // stays true when the page changes its size, until the user zooms or pans
  redraw();
}

export function zoomBy(factor, x, y) {
  const { place } = viewer;
  if (!viewer.film) return;
  const least = Math.min(0.02, fittingZoom() / 2); // very wide images are seen whole only below 2 %
  const zoom = Math.min(40, Math.max(least, place.zoom * factor));
  const kept = place.zoom / zoom; // keeps the point under the pointer in place
  look({ zoom, x: x + (place.x - x) * kept, y: y + (place.y - y) * kept });
}

export function zoomTo(zoom) {
  look({ ...viewer.place, zoom });
}

export function panBy(dx, dy) {
  const { place } = viewer;
  if (viewer.film) look({ ...place, x: place.x - dx / place.zoom, y: place.y - dy / place.zoom });
}

// Keep the middle of the view on the image, so that the image cannot leave the view.
function look({ zoom, x, y }) {
  const { width, height } = viewer.film;
  viewer.place = { zoom, x: Math.min(width, Math.max(0, x)), y: Math.min(height, Math.max(0, y)) };
  viewer.fitted = false;
  redraw();
}

// Move the window's centre by `level` steps and widen it by `wider` steps of 1/400 of its width.
export function windowBy(level, wider) {
  const { film } = viewer;
  const { centre, width } = film.shown;
  const step = width / 400;
  film.setWindow(centre + level * step, width + wider * step);
  redraw();
}

export function point(pointed) {
  viewer.pointed = pointed;
  readOut();
}

// Write the values under the pointer, also when the image, the answer or the view has changed under it.
function readOut() {
  const { film, pointed } = viewer;
  const pane = viewer.panes.includes(pointed?.pane) ? pointed.pane : null;
  const at = pane && (pointed.middle ? [viewer.place.x, viewer.place.y] : pane.filmAt(pointed));
  const [x, y] = at ? at.map(Math.floor) : [-1, -1];
  if (!film || x < 0 || y < 0 || x >= film.width || y >= film.height) {
    $("cursor").textContent = $("value").textContent = "";
    return;
  }
  $("cursor").textContent = valueSaid(film, x, y);
  $("value").textContent = similaritySaid(pane, x, y);
}

function valueSaid(film, x, y) {
  const value = film.valueAt(x, y);
  return `x ${x}, y ${y}: ${Number.isNaN(value) ? "padding" : number(value)}`;
}

function similaritySaid({ answer }, x, y) {
  return answer?.map ? `similarity ${answer.map.at(x + 0.5, y + 0.5).toFixed(3)}` : "";
}

// Read the values at the middle of the view, and write them in the status line too, which is read aloud, with the
// similarities of all sentences that are shown.
export function readMiddle(film) {
  point({ pane: viewer.panes[0], middle: true });
  const [x, y] = [viewer.place.x, viewer.place.y].map(Math.floor);
  if (x >= film.width || y >= film.height) return;
  const similarities = viewer.panes.map((pane) => similaritySaid(pane, x, y)).filter(Boolean);
  status([valueSaid(film, x, y), ...similarities].join("; "));
}
