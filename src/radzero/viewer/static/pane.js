// Show the image with one sentence's map on it. All panes share one view (zoom, place) and one window.

import { outline, tint } from "./map.js";
import { viewer } from "./state.js";
import { fit, panBy, point, windowBy, zoomBy } from "./view.js";

const PEAK = "#5aebff";
const SLIP = 10; // page pixels; a finger that moves less counts as resting

export class Pane {
  constructor() {
    this.figure = document.createElement("figure");
    this.canvas = document.createElement("canvas");
    this.canvas.className = "film";
    this.canvas.tabIndex = 0;
    this.canvas.setAttribute("role", "img");
    const caption = document.createElement("figcaption");
    this.said = Object.assign(document.createElement("span"), { className: "said" });
    this.probability = Object.assign(document.createElement("span"), { className: "probability" });
    caption.append(this.said, this.probability);
    this.figure.append(this.canvas, caption);
    this.answer = null;
    this.pointers = new Map();
    this.gesture = null; // tap, drag or pinch
    this.listen();
  }

  show(answer) {
    this.answer = answer;
    this.said.textContent = answer ? answer.sentence : "";
    this.said.title = this.said.textContent;
    this.probability.textContent = answer ? percent(answer.probability) : "";
  }

  size() {
    const ratio = window.devicePixelRatio || 1;
    const [width, height] = [this.canvas.clientWidth, this.canvas.clientHeight].map((v) => Math.max(1, Math.round(v * ratio)));
    if (this.canvas.width !== width) this.canvas.width = width;
    if (this.canvas.height !== height) this.canvas.height = height;
    return { width, height, ratio };
  }

  // Return the part of the image that this canvas shows: image x = (column + 0.5) / zoom + left.
  view() {
    const { zoom, x, y } = viewer.place;
    const { width, height, ratio } = this.size();
    const scale = zoom * ratio;
    const whole = (start) => Math.round(start * scale) / scale; // whole screen pixels: 1:1 shows the image's own
    return { zoom: scale, left: whole(x - width / (2 * scale)), top: whole(y - height / (2 * scale)) };
  }

  draw() {
    const { film, options, colours } = viewer;
    const { width, height, ratio } = this.size();
    const context = this.canvas.getContext("2d");
    const image = context.createImageData(width, height);
    if (!film) {
      context.clearRect(0, 0, width, height);
      this.canvas.setAttribute("aria-label", "no film");
      return;
    }
    const view = this.view();
    film.draw(image, view);
    const map = this.answer?.map;
    if (map && (options.map || options.contour)) {
      const values = map.sample(width, height, view);
      if (options.map) tint(image, values, colours, options.opacity);
      if (options.contour) outline(image, values, options.threshold);
    }
    context.putImageData(image, 0, 0);
    if (map?.peak && options.peak) {
      const [x, y] = map.peak;
      this.drawPeak(context, map.peak, view, ratio, map.at(x + 0.5, y + 0.5) >= options.threshold);
    }
    const said = this.answer ? `${this.answer.sentence}: ${percent(this.answer.probability)}` : "no sentence asked";
    this.canvas.setAttribute("aria-label", `${film.info.film}, ${said}`);
  }

  // Mark where the image fits the sentence best; draw a faint ring where even that is below the threshold.
  drawPeak(context, [x, y], view, ratio, reached) {
    const [px, py] = [(x + 0.5 - view.left) * view.zoom, (y + 0.5 - view.top) * view.zoom];
    const arm = 11 * ratio;
    context.setLineDash(reached ? [] : [3 * ratio, 3 * ratio]);
    for (const [style, line] of reached ? [["#000", 5], [PEAK, 2]] : [[PEAK, 1.5]]) {
      context.strokeStyle = style;
      context.lineWidth = line * ratio;
      context.beginPath();
      context.arc(px, py, 0.55 * arm, 0, 2 * Math.PI);
      for (const [dx, dy] of reached ? [[1, 0], [-1, 0], [0, 1], [0, -1]] : []) {
        context.moveTo(px + 0.55 * arm * dx, py + 0.55 * arm * dy);
        context.lineTo(px + 1.3 * arm * dx, py + 1.3 * arm * dy);
      }
      context.stroke();
    }
    context.setLineDash([]);
  }

  // -- pointer -----------------------------------------------------------------------------------------

  listen() {
    const { canvas } = this;
    canvas.addEventListener("pointerdown", (event) => this.down(event));
    canvas.addEventListener("pointermove", (event) => this.move(event));
    for (const kind of ["pointerup", "pointercancel"]) canvas.addEventListener(kind, (event) => this.up(event));
    canvas.addEventListener("pointerleave", (event) => {
      if (event.pointerType !== "touch") point(null); // a finger hides its place until it is lifted
    });
    canvas.addEventListener("contextmenu", (event) => event.preventDefault());
    canvas.addEventListener("dblclick", () => fit());
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      const at = this.filmAt(event);
      if (at) zoomBy(Math.exp(-event.deltaY / 500), ...at);
    }, { passive: false });
  }

  // Return the image coordinates of a place on the page, or null beside this pane.
  filmAt({ x, y }) {
    const box = this.canvas.getBoundingClientRect();
    if (x < box.left || y < box.top || x >= box.right || y >= box.bottom) return null;
    const ratio = this.canvas.width / box.width;
    const { zoom, left, top } = this.view();
    return [left + ((x - box.left) * ratio) / zoom, top + ((y - box.top) * ratio) / zoom];
  }

  down(event) {
    this.canvas.setPointerCapture(event.pointerId);
    this.pointers.set(event.pointerId, { x: event.clientX, y: event.clientY, button: event.button });
    this.gesture = this.pointers.size > 1 ? "pinch" : event.pointerType === "touch" ? "tap" : "drag";
    this.canvas.focus({ preventScroll: true });
    point({ pane: this, x: event.clientX, y: event.clientY });
  }

  // After a pinch the last finger does nothing more, because fingers are never lifted at the same moment.
  up(event) {
    this.pointers.delete(event.pointerId);
    if (!this.pointers.size) this.gesture = null;
  }

  move(event) {
    point({ pane: this, x: event.clientX, y: event.clientY });
    const last = this.pointers.get(event.pointerId);
    if (!last || !viewer.film) return;
    const [dx, dy] = [event.clientX - last.x, event.clientY - last.y];
    if (this.gesture === "tap") {
      if (Math.hypot(dx, dy) < SLIP) return;
      this.gesture = "drag"; // it is a drag from here on
    } else if (this.gesture === "pinch") {
      if (this.pointers.size === 2) this.pinch(event, last);
    } else if (last.button !== 0 || event.shiftKey || viewer.tool === "pan") {
      panBy(dx, dy);
    } else if (viewer.tool === "zoom") {
      zoomBy(Math.exp(-dy / 150), viewer.place.x, viewer.place.y);
    } else {
      windowBy(viewer.film.lowIsBright ? -dy : dy, dx); // down darkens every image, right lowers its contrast
    }
    last.x = event.clientX;
    last.y = event.clientY;
  }

  // Pan and zoom so that the part of the image between the fingers stays between them.
  pinch(event, last) {
    const now = { x: event.clientX, y: event.clientY };
    const other = [...this.pointers.entries()].find(([id]) => id !== event.pointerId)[1];
    const apart = (one) => Math.hypot(one.x - other.x, one.y - other.y);
    const middle = (one) => ({ x: (one.x + other.x) / 2, y: (one.y + other.y) / 2 });
    const [from, to] = [middle(last), middle(now)];
    panBy(to.x - from.x, to.y - from.y);
    const at = this.filmAt(to);
    if (at && apart(last) > 0 && apart(now) > 0) zoomBy(apart(now) / apart(last), ...at);
  }
}



export const percent = (p) => (p < 0.001 ? "< 0.1 %" : p > 0.999 ? "> 99.9 %" : `${(100 * p).toFixed(1)} %`);
