// Handle buttons, sliders, keys and files that are dropped.

import { negation, otherSide } from "./counterparts.js";
import { $, ratio, reachable } from "./dom.js";
import { addFiles, choose, closeFilm } from "./films.js";
import { show } from "./panes.js";
import { ask, counterpart, nextAnswer, removeAnswer, step } from "./questions.js";
import { saveDicom, saveJson, savePicture } from "./saving.js";
import { viewer } from "./state.js";
import { status } from "./status.js";
import { fit, panBy, readMiddle, redraw, windowBy, zoomBy, zoomTo } from "./view.js";

export function setOption(name, value) {
  viewer.options[name] = typeof value === "number" ? Math.round(100 * value) / 100 : value; // 0.35, not 0.35000000000000003
  for (const part of ["map", "contour", "peak"]) $(`show-${part}`).checked = viewer.options[part];
  $("opacity-value").textContent = `${Math.round(100 * viewer.options.opacity)} %`;
  $("threshold").value = Math.round(100 * viewer.options.threshold);
  $("threshold-value").textContent = viewer.options.threshold.toFixed(2);
  redraw();
}

function setTool(tool) {
  viewer.tool = tool;
  for (const button of document.querySelectorAll("[data-tool]")) {
    button.setAttribute("aria-pressed", String(button.dataset.tool === tool));
  }
}

const withFilm = (work) => () => {
  if (!viewer.film) return;
  work(viewer.film);
  redraw();
};

const toggle = (name) => () => setOption(name, !viewer.options[name]);
const keys = {
  "/": () => $("sentence").focus(),
  "?": () => $("keys").showModal(),
  ArrowDown: () => nextAnswer(1),
  ArrowUp: () => nextAnswer(-1),
  PageDown: () => viewer.current && choose(step(viewer.films, viewer.current, 1)),
  PageUp: () => viewer.current && choose(step(viewer.films, viewer.current, -1)),
  m: toggle("map"),
  c: toggle("contour"),
  p: toggle("peak"),
  "[": () => setOption("threshold", Math.max(0.01, viewer.options.threshold - 0.05)),
  "]": () => setOption("threshold", Math.min(0.99, viewer.options.threshold + 0.05)),
  "+": () => zoomBy(1.25, viewer.place.x, viewer.place.y),
  "=": () => zoomBy(1.25, viewer.place.x, viewer.place.y),
  "-": () => zoomBy(0.8, viewer.place.x, viewer.place.y),
  0: () => fit(),
  "Shift ArrowLeft": () => panBy(40, 0),
  "Shift ArrowRight": () => panBy(-40, 0),
  "Shift ArrowUp": () => panBy(0, 40),
  "Shift ArrowDown": () => panBy(0, -40),
  w: withFilm(() => windowBy(0, -20)),
  "Shift w": withFilm(() => windowBy(0, 20)),
  l: withFilm(() => windowBy(-20, 0)),
  "Shift l": withFilm(() => windowBy(20, 0)),
  v: withFilm(readMiddle),
  i: withFilm((film) => film.invert()),
  r: withFilm((film) => film.reset()),
  o: () => counterpart(otherSide),
  n: () => counterpart(negation),
};

export function listen() {
  $("open").addEventListener("click", () => $("files").click());
  $("files").addEventListener("change", (event) => {
    addFiles(event.target.files);
    event.target.value = "";
  });
  $("ask").addEventListener("submit", (event) => {
    event.preventDefault();
    ask([$("sentence").value]);
  });
  $("ask-set").addEventListener("submit", (event) => {
    event.preventDefault();
    const names = viewer.sets?.[$("set").value];
    if (names) ask(names.map((finding) => `There is ${finding}`));
    else status("Choose a finding set first", true);
  });
  for (const part of ["map", "contour", "peak"]) {
    $(`show-${part}`).addEventListener("change", (event) => setOption(part, event.target.checked));
  }
  $("opacity").addEventListener("input", (event) => setOption("opacity", event.target.value / 100));
  $("threshold").addEventListener("input", (event) => setOption("threshold", event.target.value / 100));
  for (const button of document.querySelectorAll("[data-tool]")) {
    button.addEventListener("click", () => setTool(button.dataset.tool));
  }
  $("fit").addEventListener("click", () => fit());
  $("actual").addEventListener("click", withFilm(() => zoomTo(1 / ratio())));
  $("invert").addEventListener("click", keys.i);
  $("reset").addEventListener("click", keys.r);
  $("other-side").addEventListener("click", keys.o);
  $("negation").addEventListener("click", keys.n);
  $("clear").addEventListener("click", () => {
    Object.assign(viewer, { asked: [], beside: [], chosen: null });
    for (const entry of viewer.films) entry.answers?.clear();
    show();
  });
  $("remove").addEventListener("click", removeAnswer);
  $("close").addEventListener("click", closeFilm);
  $("help").addEventListener("click", keys["?"]);
  $("save-picture").addEventListener("click", savePicture);
  $("save-json").addEventListener("click", saveJson);
  $("save-dicom").addEventListener("click", saveDicom);
  document.addEventListener("keydown", (event) => {
    const scrolling = event.key.startsWith("Arrow") || event.key.startsWith("Page");
    const scrolled = event.target.closest("aside, #film-notes, #status"); // the key scrolls this part
    if (scrolling && scrolled && !event.target.closest("#answers")) return;
    const sliding = event.target.closest("input[type=range]") && event.key.length > 1; // arrows, Home, Page
    const typing = event.target.closest("input[type=text], select, dialog");
    if (typing || sliding || event.ctrlKey || event.metaKey || event.altKey) return;
    const key = event.key.length > 1 ? event.key : event.key.toLowerCase(); // Caps Lock does not count
    const work = (event.shiftKey && keys[`Shift ${key}`]) || keys[key];
    if (!work) return;
    event.preventDefault();
    work();
  });
  for (const kind of ["dragenter", "dragover"]) {
    document.addEventListener(kind, (event) => {
      event.preventDefault();
      document.body.classList.add("dropping");
    });
  }
  for (const kind of ["dragleave", "drop"]) {
    document.addEventListener(kind, (event) => {
      event.preventDefault();
      document.body.classList.remove("dropping");
    });
  }
  document.addEventListener("drop", (event) => addFiles(event.dataTransfer.files));
  new ResizeObserver(() => {
    if (viewer.fitted) fit();
    else redraw();
    for (const id of ["status", "film-notes"]) reachable($(id));
  }).observe($("panes"));
}
