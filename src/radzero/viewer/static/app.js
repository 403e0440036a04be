// The page: which films, which sentences, what is shown of them.

import * as api from "./api.js";
import { negation, otherSide } from "./counterparts.js";
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
    const source = film.changed ? "" : " (as the model saw it)";
    const zoom = 100 * this.place.zoom * ratio();
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
    this.look({ zoom, x: x + (place.x - x) * kept, y: y + (place.y - y) * kept });
  },

  zoomTo(zoom) {
    this.look({ ...this.place, zoom });
  },

  panBy(dx, dy) {
    const { place } = this;
    if (this.film) this.look({ ...place, x: place.x - dx / place.zoom, y: place.y - dy / place.zoom });
  },

  // The middle of the view stays on the film, so that it cannot get lost.
  look({ zoom, x, y }) {
    const { width, height } = this.film;
    this.place = { zoom, x: Math.min(width, Math.max(0, x)), y: Math.min(height, Math.max(0, y)) };
    this.fitted = false;
    this.redraw();
  },

  // Of these steps 400 are the window's width: the level's, and how much wider.
  windowBy(level, wider) {
    const { film } = this;
    const { centre, width } = film.shown;
    const step = width / 400;
    film.setWindow(centre + level * step, width + wider * step);
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
    $("cursor").textContent = valueSaid(film, x, y);
    $("value").textContent = similaritySaid(pane, x, y);
  },
};

const ratio = () => window.devicePixelRatio || 1; // screen pixels of one of the page's
const number = (value) => String(Math.abs(value) >= 100 ? Math.round(value) : Number(value.toPrecision(3)));

function valueSaid(film, x, y) {
  const value = film.valueAt(x, y);
  return `x ${x}, y ${y}: ${Number.isNaN(value) ? "padding" : number(value)}`;
}

function similaritySaid({ answer }, x, y) {
  return answer?.map ? `similarity ${answer.map.at(x + 0.5, y + 0.5).toFixed(3)}` : "";
}

// Also in the status line, which is read aloud, with the similarities of all sentences that are shown.
function readMiddle(film) {
  viewer.point({ pane: viewer.panes[0], middle: true });
  const [x, y] = [viewer.place.x, viewer.place.y].map(Math.floor);
  if (x >= film.width || y >= film.height) return;
  const similarities = viewer.panes.map((pane) => similaritySaid(pane, x, y)).filter(Boolean);
  status([valueSaid(film, x, y), ...similarities].join("; "));
}

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
  const taken = new Set(viewer.films.map((entry) => entry.name));
  for (const entry of entries) viewer.films.push(Object.assign(entry, { name: unlike(entry.name, taken) }));
  for (const entry of entries) {
    const opened = await choose(entry, said);
    if (opened || !entry.failure || viewer.current !== entry) return;
  }
}

// A name that is not taken, and is from now on: a browser does not tell which folder a file is in.
function unlike(name, taken) {
  let other = name;
  for (let k = 2; taken.has(other); k++) other = `${name} (${k})`;
  taken.add(other);
  return other;
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
  $("close").disabled = !viewer.films.length;
}

// Takes the film that is shown off the list; the file is left alone.
function closeFilm() {
  const k = viewer.films.indexOf(viewer.current);
  if (k < 0) return;
  const [closed] = viewer.films.splice(k, 1);
  viewer.recent = viewer.recent.filter((entry) => entry !== closed);
  const next = viewer.films[Math.min(k, viewer.films.length - 1)];
  if (next) {
    choose(next, `${closed.name} closed`);
    return;
  }
  viewer.current = null;
  listFilms();
  blank();
  show();
  status(`${closed.name} closed`);
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
  $("invert").setAttribute("aria-pressed", "false");
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
  viewer.recent = [entry, ...viewer.recent.filter((other) => other !== entry)].filter((one) => viewer.films.includes(one));
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
    entry.answers.set(answer.sentence, { ...answer, map });
  });
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
  const answers = (viewer.film && viewer.current.answers) ?? new Map();
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

function removeAnswer() {
  const text = viewer.chosen;
  const k = viewer.asked.indexOf(text);
  if (k < 0) return;
  viewer.asked = viewer.asked.filter((other) => other !== text);
  viewer.beside = shownSentences().filter((other) => other !== text);
  for (const entry of viewer.films) entry.answers?.delete(text);
  viewer.chosen = viewer.beside.at(-1) ?? viewer.asked[Math.min(k, viewer.asked.length - 1)] ?? null;
  show();
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
  const answers = (viewer.film && viewer.current.answers) ?? new Map(); // none beside a film that is not there
  const shown = shownSentences();
  viewer.panes.forEach((pane, k) => pane.show(answers.get(shown[k]) ?? null));
  listAnswers();
  const chosen = viewer.chosen && answers.has(viewer.chosen);
  $("other-side").disabled = !chosen || !otherSide(viewer.chosen);
  $("negation").disabled = !chosen || !negation(viewer.chosen);
  $("clear").disabled = !viewer.asked.length;
  $("remove").disabled = !viewer.asked.includes(viewer.chosen);
  for (const id of ["save-picture", "save-json"]) $(id).disabled = !viewer.film;
  $("save-dicom").disabled = !chosen || !viewer.current?.info?.dicom;
  if (viewer.chosen !== viewer.revealed) reveal($("answers"));
  viewer.revealed = viewer.chosen;
  if (sized && viewer.fitted) viewer.fit();
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

// What a film's files are saved as; of "1.2.840.1" nothing is an ending.
const stem = (entry) => entry.name.replace(/\.(dcm|dicom|png|jpe?g|tiff?)(?=$| \(\d+\)$)/i, "").replaceAll("/", "-");

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
    view: { window: film.shown, changed: film.changed, inverted: film.inverted, threshold: options.threshold },
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
  w: withFilm(() => viewer.windowBy(0, -20)),
  "Shift w": withFilm(() => viewer.windowBy(0, 20)),
  l: withFilm(() => viewer.windowBy(-20, 0)),
  "Shift l": withFilm(() => viewer.windowBy(20, 0)),
  v: withFilm(readMiddle),
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
  $("fit").addEventListener("click", () => viewer.fit());
  $("actual").addEventListener("click", withFilm(() => viewer.zoomTo(1 / ratio())));
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
    const scrolled = event.target.closest("aside, #film-notes, #status"); // which the key scrolls
    if (scrolling && scrolled && !event.target.closest("#answers")) return;
    const sliding = event.target.closest("input[type=range]") && event.key.length > 1; // arrows, Home, Page
    const typing = event.target.closest("input[type=text], select, dialog");
    if (typing || sliding || event.ctrlKey || event.metaKey || event.altKey) return;
    const key = event.key.length > 1 ? event.key : event.key.toLowerCase(); // whatever Caps Lock says
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
