// The page: which films, which sentences, what is shown of them.

import * as api from "./api.js";
import { Film } from "./film.js";
import { SimilarityMap } from "./map.js";
import { drawScale, Pane, percent } from "./pane.js";
import { drawSheet } from "./sheet.js";

const $ = (id) => document.getElementById(id);
const MOST_PANES = 4;
const MOST_AT_ONCE = 64; // sentences of one request; the service answers at most 256
const CHANGED = "The file has changed since it was opened: it was read anew";
export const limits = { pixels: 128e6 }; // of all films that the page keeps, about 3.5 bytes each

const viewer = {
  colours: [],
  model: null,
  films: [], // { name, file | library, info, film, answers, changed, failure, loading, asking, seen }
  recent: [], // those read, the last one read or chosen first
  current: null,
  panes: [],
  place: { zoom: 1, x: 0, y: 0 },
  tool: "window",
  options: { map: true, contour: true, peak: true, opacity: 0.6, threshold: 0.5 },
  asked: [], // sentences that every film is asked
  pending: false,
  fitted: true,
  pointed: null, // { pane, x, y } of the page, or { pane, middle: true }: where values are read

  get film() {
    return this.current?.film ?? null;
  },

  // -- view ------------------------------------------------------------------------------------------

  redraw() {
    if (this.pending) return;
    this.pending = true;
    requestAnimationFrame(() => {
      this.pending = false;
      for (const pane of this.panes) pane.draw();
      drawScale($("scale"), this.colours, this.options.threshold);
      this.say();
      this.readOut();
    });
  },

  say() {
    const { film } = this;
    if (!film) return;
    const { centre, width } = film.shown;
    const source = film.window ? "" : " (as the model saw it)";
    const zoom = 100 * this.place.zoom;
    const enlarged = zoom < 1 ? number(zoom) : Math.round(zoom);
    $("window").textContent = `W ${number(width)} L ${number(centre)}${source} · ${enlarged} %`;
    $("invert").setAttribute("aria-pressed", String(film.inverted));
  },

  // At which the whole film is seen.
  get fittingZoom() {
    const { clientWidth, clientHeight } = this.panes[0].canvas;
    return 0.98 * Math.min(Math.max(1, clientWidth) / this.film.width, Math.max(1, clientHeight) / this.film.height);
  },

  fit() {
    const { film } = this;
    if (!film || !this.panes.length) return;
    this.place = { zoom: this.fittingZoom, x: film.width / 2, y: film.height / 2 };
    this.fitted = true; // and stays so when the page changes its size, until somebody zooms or pans
    this.redraw();
  },

  zoomBy(factor, x, y) {
    const { place } = this;
    if (!this.film) return;
    const least = Math.min(0.02, this.fittingZoom / 2); // very wide films are seen whole below 2 %
    const zoom = Math.min(40, Math.max(least, place.zoom * factor));
    const kept = place.zoom / zoom; // the point under the pointer stays where it is
    this.place = { zoom, x: x + (place.x - x) * kept, y: y + (place.y - y) * kept };
    this.fitted = false;
    this.redraw();
  },

  panBy(dx, dy) {
    const { place } = this;
    this.place = { ...place, x: place.x - dx / place.zoom, y: place.y - dy / place.zoom };
    this.fitted = false;
    this.redraw();
  },

  // Right widens, down brightens less: the way of radiology workstations. A screen's width is twice the window.
  windowBy(dx, dy) {
    const { film } = this;
    const { centre, width } = film.shown;
    const step = width / 400;
    film.setWindow(centre + dy * step, width + dx * step);
    this.redraw();
  },

  point(pointed) {
    this.pointed = pointed;
    this.readOut();
  },

  // Says what lies where the pointer is; also when the film, the answer or the view has moved under it.
  readOut() {
    const { film, pointed } = this;
    const pane = this.panes.includes(pointed?.pane) ? pointed.pane : null;
    const at = pane && (pointed.middle ? [this.place.x, this.place.y] : pane.filmAt(pointed));
    const [x, y] = at ? at.map(Math.floor) : [-1, -1];
    if (!film || x < 0 || y < 0 || x >= film.width || y >= film.height) {
      $("cursor").textContent = $("value").textContent = "";
      return;
    }
    const value = film.valueAt(x, y);
    const { map } = pane.answer ?? {};
    $("cursor").textContent = `x ${x}, y ${y}: ${Number.isNaN(value) ? "padding" : number(value)}`;
    $("value").textContent = map ? `similarity ${map.at(x + 0.5, y + 0.5).toFixed(3)}` : "";
  },
};

const number = (value) => String(Math.abs(value) >= 100 ? Math.round(value) : Number(value.toPrecision(3)));

function status(text, problem = false) {
  $("status").textContent = text;
  $("status").classList.toggle("problem", problem);
  reachable($("status"));
}

// What has to be scrolled can be scrolled with keys too, and nothing else stops the Tab key.
function reachable(element) {
  if (element.scrollHeight > element.clientHeight) element.tabIndex = 0;
  else element.removeAttribute("tabindex");
}

const make = (tag, properties) => Object.assign(document.createElement(tag), properties);

// Runs something that may fail, and says how it ended. Under another film that was chosen meanwhile nothing is said of
// this one, unless it must be known whatever is shown: then it is said with the film's name.
async function attempt(doing, work, { always = false } = {}) {
  const entry = viewer.current;
  const say = (text, problem = false) => {
    if (viewer.current === entry) status(text, problem);
    else if (always && text) status(`${entry.name}: ${text}`, problem);
  };
  status(doing);
  try {
    say(await work());
    return true;
  } catch (error) {
    say(error.message, true);
    return false;
  }
}

const counted = (count, noun) => `${count} ${noun}${count === 1 ? "" : "s"}`;

// -- films ---------------------------------------------------------------------------------------------

// Opens the first of them that is a film, unless somebody chooses another meanwhile.
async function add(entries, said = "") {
  viewer.films.push(...entries);
  for (const entry of entries) {
    const opened = await choose(entry, said);
    if (opened || !entry.failure || viewer.current !== entry) return;
  }
}

const addFiles = (files) =>
  add([...files].map((file) => ({ name: file.name, file })), `${counted(files.length, "file")} added`);

// Draws a list anew; what had the focus in it has it again.
function relist(list, items) {
  const within = "button, input";
  const focused = [...list.querySelectorAll(within)].indexOf(document.activeElement);
  list.replaceChildren(...items);
  if (focused >= 0) list.querySelectorAll(within)[focused]?.focus();
}

function listFilms() {
  relist($("films"), [
    ...viewer.films.map((entry) => {
      const button = make("button", { type: "button", textContent: entry.name, title: entry.failure ?? "" });
      if (entry.failure) button.append(" ", make("span", { className: "failure", textContent: "cannot be read" }));
      button.setAttribute("aria-current", String(entry === viewer.current));
      button.addEventListener("click", () => choose(entry));
      const item = document.createElement("li");
      item.append(button);
      return item;
    }),
  ]);
  $("empty").hidden = viewer.films.length > 0;
}

// Shows a film, and says this when it is shown. Whether it is one.
async function choose(entry, said = "") {
  viewer.current = entry;
  listFilms();
  reveal($("films"));
  blank();
  const opened = await attempt(`Reading ${entry.name}…`, async () => {
    try {
      if (!entry.film) await load(entry);
      else makeRoom(entry);
    } catch (error) {
      throw Object.assign(error, { message: [said, error.message].filter(Boolean).join("; ") });
    }
    if (viewer.current !== entry) return "";
    present();
    return [said, await askMissing(entry)].filter(Boolean).join("; ");
  });
  listFilms();
  if (viewer.current === entry) {
    listWarnings();
    show();
  }
  return opened;
}

function present() {
  arrange();
  viewer.fit();
  describe();
}

// Nothing of the film before may stand beside the next one's name: no answer, map, fact or value.
function blank() {
  for (const pane of viewer.panes) pane.show(null);
  $("facts").replaceChildren();
  listWarnings();
  for (const id of ["window", "cursor", "value"]) $(id).textContent = "";
  for (const id of ["save-picture", "save-json", "save-dicom", "other-side", "negation"]) $(id).disabled = true;
  listAnswers();
  viewer.redraw();
}

const send = (entry) => (entry.file ? api.send(entry.file) : api.openLibrary(entry.library));

// Asks something about a film that the service keeps; sends it again where the service has made room for others. Null
// when the file holds something else by then: it was read anew, and what was asked was asked of another picture.
async function ofKept(entry, question) {
  try {
    return await question(entry.info.id);
  } catch (error) {
    if (error.status !== 404) throw error;
  }
  const info = await send(entry);
  if (info.sha256 === entry.info.sha256) {
    entry.info = info;
    return question(info.id);
  }
  await read(entry, info);
  if (viewer.current === entry) {
    blank();
    present();
  }
  return null;
}

// Who wants a film that is being read already waits for it: it is sent once.
function load(entry) {
  entry.loading ??= send(entry)
    .then((info) => read(entry, info))
    .catch((error) => {
      if (error.unreadable || [413, 422].includes(error.status)) entry.failure = error.message;
      throw error;
    })
    .finally(() => {
      entry.loading = null;
    });
  return entry.loading;
}

async function read(entry, info) {
  const film = new Film(info, await api.pixels(info.id));
  const other = entry.info && entry.info.sha256 !== info.sha256;
  const answers = other || !entry.answers ? new Map() : entry.answers;
  if (!other && entry.seen) film.see(entry.seen);
  Object.assign(entry, { info, film, answers, changed: entry.changed || other, failure: null });
  makeRoom(entry);
}

// Of many films the page keeps the pixels of those used last; the others are read again when they are chosen.
function makeRoom(entry) {
  viewer.recent = [entry, ...viewer.recent.filter((other) => other !== entry)];
  let pixels = 0;
  for (const kept of viewer.recent) {
    if (!kept.film) continue;
    pixels += kept.film.width * kept.film.height;
    if (pixels <= limits.pixels || kept === entry || kept === viewer.current) continue;
    const { window, inverted } = kept.film;
    Object.assign(kept, { film: null, seen: { window, inverted } });
  }
}

function describe() {
  const { info } = viewer.current;
  const rows = [["File", info.film], ["Size", `${info.size[1]} × ${info.size[0]} pixels`]];
  if (info.spacing) rows.push(["Pixel spacing", `${info.spacing.join(" × ")} mm`]);
  for (const [key, value] of Object.entries(info.dicom ?? {})) rows.push([key.replaceAll("_", " "), value]);
  $("facts").replaceChildren(
    ...rows.flatMap(([name, value]) => [
      make("dt", { textContent: name }),
      make("dd", { textContent: value }),
    ]),
  );
  listWarnings();
}

const filmWarnings = ({ failure, changed, info }) =>
  [failure, changed && `${CHANGED}.`, ...(info?.warnings ?? [])].filter(Boolean);

// What must be known of the film stands beside it for as long as it is shown.
function listWarnings() {
  const warnings = viewer.current ? filmWarnings(viewer.current) : [];
  $("warnings").replaceChildren(...warnings.map((text) => make("li", { textContent: text })));
  $("film-notes").hidden = !warnings.length;
  reachable($("film-notes"));
}

// -- sentences -----------------------------------------------------------------------------------------

// Asks a film whatever it has not answered yet, after what is being asked already, so that nothing is asked twice.
// Says whether its file has changed.
function askMissing(entry) {
  const before = entry.asking ?? Promise.resolve();
  entry.asking = before.catch(() => {}).then(() => askInParts(entry));
  return entry.asking;
}

async function askInParts(entry) {
  const missing = () => viewer.asked.filter((text) => !entry.answers.has(text)).slice(0, MOST_AT_ONCE);
  let said = "";
  for (let sentences = missing(); sentences.length; sentences = missing()) {
    const reading = await ofKept(entry, (id) => api.ask(id, { sentences, maps: true }));
    if (reading) keepAnswers(entry, reading);
    else said = CHANGED;
  }
  return said;
}

function keepAnswers(entry, reading) {
  reading.sentences.forEach((answer, k) => {
    if (!viewer.asked.includes(answer.sentence)) return; // cleared while it was being answered
    const map = reading.maps ? new SimilarityMap(reading.maps, k, answer.peak) : null;
    entry.answers.set(answer.sentence, { ...answer, map, warnings: warningsOf(answer.sentence, reading, entry) });
  });
}

// What is said of this sentence: not the film's warnings, the model's, or those that begin with another sentence in
// quotes. It stands beside the sentence, which it need not repeat.
function warningsOf(sentence, reading, entry) {
  const quoting = (text, other) => text.startsWith(`'${other}': `) || text.startsWith(`"${other}": `);
  const others = reading.sentences.map((answer) => answer.sentence).filter((text) => text !== sentence);
  return reading.warnings
    .filter((text) => text !== viewer.model.notice && !entry.info.warnings.includes(text))
    .filter((text) => !others.some((other) => quoting(text, other)))
    .map((text) => (quoting(text, sentence) ? text.slice(sentence.length + 4) : text));
}

async function ask(sentences, { beside = false } = {}) {
  const plain = (text) => text.replace(/\p{Cc}+/gu, " ").trim(); // as the service takes and repeats it
  const wanted = [...new Set(sentences.map(plain).filter(Boolean))];
  if (!wanted.length) {
    status("Write a sentence first, such as: There is left pleural effusion", true);
    return;
  }
  const before = viewer.asked;
  viewer.asked = [...new Set([...before, ...wanted])];
  const { current } = viewer;
  if (!current?.film) {
    status(`${current?.loading ? "Wait for" : "Open"} a film; it will be asked this.`);
    choosePanes(wanted, beside);
    show();
    return;
  }
  const still = () => wanted.filter((text) => viewer.asked.includes(text)); // not cleared meanwhile
  const done = await attempt("Asking…", async () => {
    const started = performance.now();
    const changed = await askMissing(current);
    if (!still().length) return changed;
    const took = `${still().length} answered in ${Math.round(performance.now() - started)} ms`;
    return [changed, took, warned(current, still())].filter(Boolean).join("; ");
  });
  if (!done && viewer.current === current) {
    viewer.asked = viewer.asked.filter((text) => before.includes(text) || !wanted.includes(text));
    show();
    return;
  }
  if (still().length) choosePanes(still(), beside);
  show();
}

// What a film's answers to these sentences are warned of, short enough for the status line.
function warned(entry, sentences) {
  const warnings = sentences.map((text) => entry.answers.get(text)?.warnings ?? []);
  if (sentences.length === 1) return warnings[0].join("; ");
  const count = warnings.filter((said) => said.length).length;
  return count ? `${count} with warnings, see Answers` : "";
}

// Shows the last of these sentences, or all of them beside what is shown.
function choosePanes(sentences, beside) {
  viewer.beside = beside ? [...new Set([...shownSentences(), ...sentences])].slice(-MOST_PANES) : [];
  if (!beside || !viewer.chosen) viewer.chosen = sentences.at(-1);
}

const shownSentences = () => {
  if (viewer.beside?.length > 1) return viewer.beside;
  return viewer.chosen ? [viewer.chosen] : [];
};

function listAnswers() {
  const answers = viewer.current?.answers ?? new Map();
  relist($("answers"), [
    ...viewer.asked.map((text) => {
      const answer = answers.get(text);
      const button = make("button", { type: "button", className: "choose" });
      button.setAttribute("aria-current", String(text === viewer.chosen));
      button.append(
        make("span", { textContent: text, title: text }),
        make("strong", { textContent: answer ? percent(answer.probability) : "" }),
      );
      const bar = make("canvas", { className: "bar", width: 200, height: 4 });
      bar.setAttribute("aria-hidden", "true");
      const context = bar.getContext("2d");
      context.fillStyle = "#4a4a54";
      context.fillRect(0, 0, 200, 4);
      context.fillStyle = "#5aebff";
      context.fillRect(0, 0, 200 * (answer?.probability ?? 0), 4);
      button.append(bar);
      for (const warning of answer?.warnings ?? []) {
        button.append(make("span", { className: "warning", textContent: warning }));
      }
      button.addEventListener("click", () => {
        viewer.chosen = text;
        viewer.beside = [];
        show();
      });
      const label = make("label", { className: "beside" });
      const tick = make("input", { type: "checkbox", checked: shownSentences().includes(text) });
      tick.setAttribute("aria-label", `side by side: ${text}`);
      tick.addEventListener("change", () => {
        const shown = shownSentences().filter((other) => other !== text);
        viewer.beside = tick.checked ? [...shown, text].slice(-MOST_PANES) : shown;
        if (!viewer.beside.includes(viewer.chosen)) viewer.chosen = viewer.beside[0] ?? null;
        show();
      });
      label.append(tick);
      const item = document.createElement("li");
      item.append(button, label);
      return item;
    }),
  ]);
}

// -- panes ---------------------------------------------------------------------------------------------

function arrange() {
  const count = Math.max(1, shownSentences().length);
  const changed = viewer.panes.length !== count;
  while (viewer.panes.length > count) viewer.panes.pop().figure.remove();
  while (viewer.panes.length < count) {
    const pane = new Pane(viewer);
    viewer.panes.push(pane);
    $("panes").append(pane.figure);
  }
  $("panes").dataset.count = count;
  return changed;
}

function show() {
  const sized = arrange();
  const answers = viewer.current?.answers ?? new Map();
  const shown = shownSentences();
  viewer.panes.forEach((pane, k) => pane.show(answers.get(shown[k]) ?? null));
  listAnswers();
  const chosen = viewer.chosen && answers.has(viewer.chosen);
  $("other-side").disabled = !chosen || !otherSide(viewer.chosen);
  $("negation").disabled = !chosen || !negation(viewer.chosen);
  $("clear").disabled = !viewer.asked.length;
  for (const id of ["save-picture", "save-json"]) $(id).disabled = !viewer.film;
  $("save-dicom").disabled = !chosen || !viewer.current?.info?.dicom;
  if (viewer.chosen !== viewer.revealed) reveal($("answers"));
  viewer.revealed = viewer.chosen;
  if (sized) viewer.fit();
  else viewer.redraw();
}

// Scrolls a list, and only this, to what is chosen in it: where the whole page scrolls, the film stays where it is.
function reveal(list) {
  const chosen = list.querySelector("[aria-current=true]");
  if (!chosen) return;
  const [box, frame] = [chosen.getBoundingClientRect(), list.getBoundingClientRect()];
  list.scrollTop += Math.min(0, box.top - frame.top) || Math.max(0, box.bottom - frame.bottom);
  list.scrollLeft += Math.min(0, box.left - frame.left) || Math.max(0, box.right - frame.right);
}

// -- counterparts --------------------------------------------------------------------------------------

function otherSide(text) {
  const swapped = text.replace(/\b(left|right)\b/gi, (side) => {
    const other = side.toLowerCase() === "left" ? "right" : "left";
    return side[0] === side[0].toUpperCase() ? other[0].toUpperCase() + other.slice(1) : other;
  });
  return swapped === text ? null : swapped;
}

function negation(text) {
  if (/^there (is|are) no\b/i.test(text)) return text.replace(/^(there (?:is|are)) no\b/i, "$1");
  if (/^there (is|are)\b/i.test(text)) return text.replace(/^(there (?:is|are))\b/i, "$1 no");
  return null;
}

function counterpart(make) {
  const other = viewer.chosen && make(viewer.chosen);
  if (!other) return;
  viewer.beside = [viewer.chosen];
  ask([other], { beside: true });
}

// -- saving --------------------------------------------------------------------------------------------

function save(blob, name) {
  const link = make("a", { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

const stem = (entry) => entry.name.replace(/\.[^.]*$/, "");

// What is saved is taken, with its name, before anything is waited for: another film may be chosen meanwhile.
function savePicture() {
  const name = `${stem(viewer.current)}.png`;
  picture().toBlob((blob) => save(blob, name));
}

function saveJson() {
  const blob = new Blob([JSON.stringify(asJson(), null, 2)], { type: "application/json" });
  save(blob, `${stem(viewer.current)}.json`);
}

function saveDicom() {
  const entry = viewer.current;
  const sentences = shownSentences();
  const { threshold } = viewer.options;
  const work = async () => {
    const results = await ofKept(entry, (id) => api.results(id, { sentences, threshold }));
    if (!results) {
      await askMissing(entry);
      if (viewer.current === entry) show();
      return `${CHANGED}. No DICOM results were written: look at the film and save them again.`;
    }
    const { zip, leftOut } = results;
    save(zip, `${stem(entry)}-dicom.zip`);
    const said = `DICOM results of ${counted(sentences.length, "sentence")} written`;
    return leftOut ? `${said}, but no ${leftOut.replaceAll(",", ", ")}: left-out.txt in the ZIP file says why` : said;
  };
  attempt("Writing DICOM…", work, { always: true });
}

function picture() {
  for (const pane of viewer.panes) pane.draw(); // what is to be drawn may still wait for the next frame
  const { current, panes, colours, options, model } = viewer;
  return drawSheet({ panes, colours, threshold: options.threshold, warnings: filmWarnings(current), model });
}

function asJson() {
  const { current, film, options, model } = viewer;
  const sentences = viewer.asked
    .filter((text) => current.answers.has(text))
    .map((text) => {
      const { sentence, logit, probability, peak, warnings } = current.answers.get(text);
      return { sentence, logit, probability, peak, warnings };
    });
  return {
    film: current.name,
    size: current.info.size,
    model: { name: model.name, sha256: model.sha256, version: model.version },
    notice: model.notice,
    sentences,
    warnings: current.info.warnings,
    view: { window: film.shown, changed: film.window !== null, inverted: film.inverted, threshold: options.threshold },
  };
}

// -- controls ------------------------------------------------------------------------------------------

function setOption(name, value) {
  viewer.options[name] = typeof value === "number" ? Math.round(100 * value) / 100 : value; // 0.35, not 0.35000000000000003
  for (const part of ["map", "contour", "peak"]) $(`show-${part}`).checked = viewer.options[part];
  $("opacity-value").textContent = `${Math.round(100 * viewer.options.opacity)} %`;
  $("threshold").value = Math.round(100 * viewer.options.threshold);
  $("threshold-value").textContent = viewer.options.threshold.toFixed(2);
  viewer.redraw();
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
  viewer.redraw();
};

function step(list, current, by) {
  const k = list.indexOf(current);
  return list[Math.min(list.length - 1, Math.max(0, k + by))];
}

function nextAnswer(by) {
  if (!viewer.asked.length) return;
  viewer.chosen = step(viewer.asked, viewer.chosen, by);
  viewer.beside = [];
  show();
}

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
  "+": () => viewer.zoomBy(1.25, viewer.place.x, viewer.place.y),
  "=": () => viewer.zoomBy(1.25, viewer.place.x, viewer.place.y),
  "-": () => viewer.zoomBy(0.8, viewer.place.x, viewer.place.y),
  0: () => viewer.fit(),
  "Shift ArrowLeft": () => viewer.panBy(40, 0),
  "Shift ArrowRight": () => viewer.panBy(-40, 0),
  "Shift ArrowUp": () => viewer.panBy(0, 40),
  "Shift ArrowDown": () => viewer.panBy(0, -40),
  w: withFilm(() => viewer.windowBy(-20, 0)),
  W: withFilm(() => viewer.windowBy(20, 0)),
  l: withFilm(() => viewer.windowBy(0, -20)),
  L: withFilm(() => viewer.windowBy(0, 20)),
  v: withFilm(() => viewer.point({ pane: viewer.panes[0], middle: true })),
  i: withFilm((film) => film.invert()),
  r: withFilm((film) => film.reset()),
  o: () => counterpart(otherSide),
  n: () => counterpart(negation),
};

function listen() {
  $("open").addEventListener("click", () => $("files").click());
  $("files").addEventListener("change", (event) => {
    addFiles(event.target.files);
    event.target.value = "";
  });
  $("ask").addEventListener("submit", (event) => {
    event.preventDefault();
    ask([$("sentence").value]);
  });
  $("set").addEventListener("change", (event) => {
    const names = viewer.sets[event.target.value];
    if (names) ask(names.map((finding) => `There is ${finding}`));
    event.target.value = "";
  });
  for (const part of ["map", "contour", "peak"]) {
    $(`show-${part}`).addEventListener("change", (event) => setOption(part, event.target.checked));
  }
  $("opacity").addEventListener("input", (event) => setOption("opacity", event.target.value / 100));
  $("threshold").addEventListener("input", (event) => setOption("threshold", event.target.value / 100));
  for (const button of document.querySelectorAll("[data-tool]")) {
    button.addEventListener("click", () => setTool(button.dataset.tool));
  }
  $("fit").addEventListener("click", () => viewer.fit());
  $("actual").addEventListener("click", withFilm(() => Object.assign(viewer, { place: { ...viewer.place, zoom: 1 }, fitted: false })));
  $("invert").addEventListener("click", keys.i);
  $("reset").addEventListener("click", keys.r);
  $("other-side").addEventListener("click", keys.o);
  $("negation").addEventListener("click", keys.n);
  $("clear").addEventListener("click", () => {
    Object.assign(viewer, { asked: [], beside: [], chosen: null });
    for (const entry of viewer.films) entry.answers?.clear();
    show();
  });
  $("help").addEventListener("click", keys["?"]);
  $("save-picture").addEventListener("click", savePicture);
  $("save-json").addEventListener("click", saveJson);
  $("save-dicom").addEventListener("click", saveDicom);
  document.addEventListener("keydown", (event) => {
    const scrolling = event.key.startsWith("Arrow") || event.key.startsWith("Page");
    const scrolled = event.target.closest("aside, #film-notes, #status"); // which the key scrolls
    if (scrolling && scrolled && !event.target.closest("#answers")) return;
    const typing = event.target.closest("input[type=text], select, dialog, input[type=range]");
    if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
    const name = event.shiftKey && event.key.startsWith("Arrow") ? `Shift ${event.key}` : event.key;
    const work = keys[name] ?? keys[name.toLowerCase()];
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
    if (viewer.fitted) viewer.fit();
    else viewer.redraw();
    for (const id of ["status", "film-notes"]) reachable($(id));
  }).observe($("panes"));
}

async function start() {
  listen();
  arrange();
  setOption("map", true);
  await attempt("Starting…", async () => {
    [viewer.model, viewer.sets, viewer.colours] = await Promise.all([api.model(), api.findings(), api.colours()]);
    const { name, method, notice } = viewer.model;
    $("model").textContent = `${method}: ${name}`;
    $("notice").textContent = notice ?? "";
    $("notice").hidden = !notice;
    $("set").append(...Object.keys(viewer.sets).map((set) => make("option", { value: set, textContent: set })));
    const entries = await api.library();
    add(entries.map((name, library) => ({ name, library })));
    return "";
  });
}

start();
