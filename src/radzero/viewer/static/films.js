// Keep the list of images: open, read, choose and close them.

import * as api from "./api.js";
import { $, counted, make, reachable, relist, reveal } from "./dom.js";
import { Film } from "./film.js";
import { arrange, show } from "./panes.js";
import { askMissing, listAnswers } from "./questions.js";
import { CHANGED, limits, viewer } from "./state.js";
import { attempt, status } from "./status.js";
import { fit, redraw } from "./view.js";

// Add entries to the list, and open the first that is a radiograph, unless the user chooses another meanwhile.
export async function add(entries, said = "") {
  const taken = new Set(viewer.films.map((entry) => entry.name));
  for (const entry of entries) viewer.films.push(Object.assign(entry, { name: unlike(entry.name, taken) }));
  for (const entry of entries) {
    const opened = await choose(entry, said);
    if (opened || !entry.failure || viewer.current !== entry) return;
  }
}

// Return a name that is not taken, and take it: a browser does not tell which folder a file is in.
function unlike(name, taken) {
  let other = name;
  for (let k = 2; taken.has(other); k++) other = `${name} (${k})`;
  taken.add(other);
  return other;
}

export const addFiles = (files) =>
  add([...files].map((file) => ({ name: file.name, file })), `${counted(files.length, "file")} added`);

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

// Remove the image that is shown from the list; its file stays as it is.
export function closeFilm() {
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

// Show an image, then the given status; return whether it could be read and asked about.
export async function choose(entry, said = "") {
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
  fit();
  describe();
}

// Clear the page, so that no answer, map, fact or value of the image before stands beside the next one's name.
function blank() {
  for (const pane of viewer.panes) pane.show(null);
  $("facts").replaceChildren();
  listWarnings();
  for (const id of ["window", "cursor", "value"]) $(id).textContent = "";
  $("invert").setAttribute("aria-pressed", "false");
  for (const id of ["save-picture", "save-json", "save-dicom", "other-side", "negation"]) $(id).disabled = true;
  listAnswers();
  redraw();
}

const send = (entry) => (entry.file ? api.send(entry.file) : api.openLibrary(entry.library));

// Ask something about an image that the service keeps, and send the image again if the service has dropped it. Return
// null if the file has changed by then: it is read anew, because the question was about another picture.
export async function ofKept(entry, question) {
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

// Read an image; where it is being read already, wait for that, so that it is sent once.
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

// Keep the pixels of the most recently used images only; the others are read again when they are chosen.
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

export const filmWarnings = ({ failure, changed, info }) =>
  [failure, changed && `${CHANGED}.`, ...(info?.warnings ?? [])].filter(Boolean);

// List the warnings of the image beside it for as long as it is shown.
function listWarnings() {
  const warnings = viewer.current ? filmWarnings(viewer.current) : [];
  $("warnings").replaceChildren(...warnings.map((text) => make("li", { textContent: text })));
  $("film-notes").hidden = !warnings.length;
  reachable($("film-notes"));
}
