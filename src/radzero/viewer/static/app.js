// The page: which films, which sentences, what is shown of them.

import * as api from "./api.js";
import { Film } from "./film.js";
import { SimilarityMap } from "./map.js";
import { drawScale, Pane, percent } from "./pane.js";

const $ = (id) => document.getElementById(id);
const MOST_PANES = 4;
const MOST_AT_ONCE = 64; // sentences of one request; the service answers at most 256
const CHANGED = "The file has changed since it was opened: it was read anew";

const viewer = {
  colours: [],
  model: null,
  films: [], // { name, file | library, info, film, answers, changed, loading, asking }
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
    $("window").textContent = `W ${number(width)} L ${number(centre)}${source} · ${Math.round(100 * this.place.zoom)} %`;
    $("invert").setAttribute("aria-pressed", String(film.inverted));
  },

  fit() {
    const { film } = this;
    if (!film || !this.panes.length) return;
    const { clientWidth, clientHeight } = this.panes[0].canvas;
    const zoom = Math.min(clientWidth / film.width, clientHeight / film.height) * 0.98;
    this.place = { zoom: Math.max(zoom, 0.01), x: film.width / 2, y: film.height / 2 };
    this.fitted = true; // and stays so when the page changes its size, until somebody zooms or pans
    this.redraw();
  },

  zoomBy(factor, x, y) {
    const { place } = this;
    const zoom = Math.min(40, Math.max(0.02, place.zoom * factor));
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
}

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

function add(entries) {
  viewer.films.push(...entries);
  listFilms();
  if (!viewer.current && viewer.films.length) choose(viewer.films[0]);
}

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
      const button = Object.assign(document.createElement("button"), { type: "button", textContent: entry.name });
      button.setAttribute("aria-current", String(entry === viewer.current));
      button.addEventListener("click", () => choose(entry));
      const item = document.createElement("li");
      item.append(button);
      return item;
    }),
  ]);
  $("empty").hidden = viewer.films.length > 0;
}

async function choose(entry) {
  viewer.current = entry;
  listFilms();
  blank();
  await attempt(`Reading ${entry.name}…`, async () => {
    if (!entry.film) await load(entry);
    if (viewer.current !== entry) return "";
    present();
    return [await askMissing(entry), ...entry.info.warnings].filter(Boolean).join("; ");
  });
  if (viewer.current === entry) show();
}

function present() {
  arrange();
  viewer.fit();
  describe();
}

// Nothing of the film before may stand beside the next one's name: no answer, map, fact or value.
function blank() {
  for (const pane of viewer.panes) pane.show(null);
  for (const id of ["facts", "warnings"]) $(id).replaceChildren();
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
  entry.changed = true;
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
    .finally(() => {
      entry.loading = null;
    });
  return entry.loading;
}

async function read(entry, info) {
  const film = new Film(info, await api.pixels(info.id));
  Object.assign(entry, { info, film, answers: new Map() });
}

function describe() {
  const { info } = viewer.current;
  const rows = [["File", info.film], ["Size", `${info.size[1]} × ${info.size[0]} pixels`]];
  if (info.spacing) rows.push(["Pixel spacing", `${info.spacing.join(" × ")} mm`]);
  for (const [key, value] of Object.entries(info.dicom ?? {})) rows.push([key.replaceAll("_", " "), value]);
  $("facts").replaceChildren(
    ...rows.flatMap(([name, value]) => [
      Object.assign(document.createElement("dt"), { textContent: name }),
      Object.assign(document.createElement("dd"), { textContent: value }),
    ]),
  );
  $("warnings").replaceChildren(
    ...info.warnings.map((text) => Object.assign(document.createElement("li"), { textContent: text })),
  );
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

// What is said of this sentence: not the film's warnings, the model's, or those that begin with another sentence in quotes.
function warningsOf(sentence, reading, entry) {
  const others = reading.sentences.map((answer) => answer.sentence).filter((text) => text !== sentence);
  return reading.warnings.filter(
    (text) =>
      text !== viewer.model.notice &&
      !entry.info.warnings.includes(text) &&
      !others.some((other) => text.startsWith(`'${other}': `) || text.startsWith(`"${other}": `)),
  );
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
    listAnswers();
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
      const button = Object.assign(document.createElement("button"), { type: "button", className: "choose" });
      button.setAttribute("aria-current", String(text === viewer.chosen));
      button.append(
        Object.assign(document.createElement("span"), { textContent: text }),
        Object.assign(document.createElement("strong"), { textContent: answer ? percent(answer.probability) : "" }),
      );
      const bar = Object.assign(document.createElement("canvas"), { className: "bar", width: 200, height: 4 });
      bar.setAttribute("aria-hidden", "true");
      const context = bar.getContext("2d");
      context.fillStyle = "#4a4a54";
      context.fillRect(0, 0, 200, 4);
      context.fillStyle = "#5aebff";
      context.fillRect(0, 0, 200 * (answer?.probability ?? 0), 4);
      button.append(bar);
      for (const warning of answer?.warnings ?? []) {
        button.append(Object.assign(document.createElement("span"), { className: "warning", textContent: warning }));
      }
      button.addEventListener("click", () => {
        viewer.chosen = text;
        viewer.beside = [];
        show();
      });
      const label = Object.assign(document.createElement("label"), { className: "beside" });
      const tick = Object.assign(document.createElement("input"), { type: "checkbox", checked: shownSentences().includes(text) });
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
  const changed = arrange();
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
  if (changed) viewer.fit();
  else viewer.redraw();
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
  const link = Object.assign(document.createElement("a"), { href: URL.createObjectURL(blob), download: name });
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

// The panes as they are shown, each under its sentence, over the model's name and warning.
function picture() {
  for (const pane of viewer.panes) pane.draw(); // what is to be drawn may still wait for the next frame
  const gap = 4;
  const line = 34;
  const across = viewer.panes.length > 1 ? 2 : 1;
  const [width, height] = [viewer.panes[0].canvas.width, viewer.panes[0].canvas.height];
  const down = Math.ceil(viewer.panes.length / across);
  const sheet = Object.assign(document.createElement("canvas"), {
    width: across * width + (across - 1) * gap + $("scale").width,
    height: down * (height + line + gap) + line,
  });
  const context = sheet.getContext("2d");
  context.fillStyle = "#101013";
  context.fillRect(0, 0, sheet.width, sheet.height);
  context.font = "17px system-ui, sans-serif";
  context.textBaseline = "middle";
  viewer.panes.forEach((pane, k) => {
    const [x, y] = [(k % across) * (width + gap), Math.floor(k / across) * (height + line + gap)];
    context.fillStyle = "#f0f0f2";
    if (pane.answer) {
      const { probability, sentence, warnings } = pane.answer;
      context.fillText([`${percent(probability)}  ${sentence}`, ...warnings].join("; "), x + 8, y + line / 2, width - 16);
    }
    context.drawImage(pane.canvas, x, y + line);
  });
  context.drawImage($("scale"), sheet.width - $("scale").width, line);
  context.fillStyle = viewer.model.notice ? "#ffde8c" : "#b8b8c2";
  const said = [`RadZero ${viewer.model.version}, ${viewer.model.name}`, viewer.model.notice].filter(Boolean).join(". ");
  context.fillText(said, 8, sheet.height - line / 2, sheet.width - 16);
  return sheet;
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
    add([...event.target.files].map((file) => ({ name: file.name, file })));
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
    if (scrolling && event.target.closest("aside") && !event.target.closest("#answers")) return; // the panel scrolls
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
  document.addEventListener("drop", (event) => add([...event.dataTransfer.files].map((file) => ({ name: file.name, file }))));
  new ResizeObserver(() => (viewer.fitted ? viewer.fit() : viewer.redraw())).observe($("panes"));
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
    $("set").append(...Object.keys(viewer.sets).map((set) => Object.assign(document.createElement("option"), { value: set, textContent: set })));
    const entries = await api.library();
    add(entries.map((name, library) => ({ name, library })));
    return "";
  });
}

start();
