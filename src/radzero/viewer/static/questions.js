// Ask sentences, and list their answers.

import * as api from "./api.js";
import { $, make, relist } from "./dom.js";
import { ofKept } from "./films.js";
import { SimilarityMap } from "./map.js";
import { percent } from "./pane.js";
import { show } from "./panes.js";
import { CHANGED, MOST_AT_ONCE, MOST_PANES, viewer } from "./state.js";
import { attempt, status } from "./status.js";

// Ask the sentences that an image has not answered yet, but only after running questions, so that none is asked twice.
// Return a text if the file has changed.
export function askMissing(entry) {
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
    if (!viewer.asked.includes(answer.sentence)) return; // the sentence was cleared while it was being answered
    const map = reading.maps ? new SimilarityMap(reading.maps, k, answer.peak) : null;
    entry.answers.set(answer.sentence, { ...answer, map });
  });
}

export async function ask(sentences, { beside = false } = {}) {
  const plain = (text) => text.replace(/\p{Cc}+/gu, " ").trim(); // as the service reads and repeats it
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
  const still = () => wanted.filter((text) => viewer.asked.includes(text)); // those not cleared meanwhile
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

// Return the warnings of an image's answers to these sentences, short enough for the status line.
function warned(entry, sentences) {
  const warnings = sentences.map((text) => entry.answers.get(text)?.warnings ?? []);
  if (sentences.length === 1) return warnings[0].join("; ");
  const count = warnings.filter((said) => said.length).length;
  return count ? `${count} with warnings, see Answers` : "";
}

// Choose the last of these sentences to be shown, or all of them beside those that are shown.
function choosePanes(sentences, beside) {
  viewer.beside = beside ? [...new Set([...shownSentences(), ...sentences])].slice(-MOST_PANES) : [];
  if (!beside || !viewer.chosen) viewer.chosen = sentences.at(-1);
}

export const shownSentences = () => {
  if (viewer.beside.length > 1) return viewer.beside;
  return viewer.chosen ? [viewer.chosen] : [];
};

export function listAnswers() {
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

export function removeAnswer() {
  const text = viewer.chosen;
  const k = viewer.asked.indexOf(text);
  if (k < 0) return;
  viewer.asked = viewer.asked.filter((other) => other !== text);
  viewer.beside = shownSentences().filter((other) => other !== text);
  for (const entry of viewer.films) entry.answers?.delete(text);
  viewer.chosen = viewer.beside.at(-1) ?? viewer.asked[Math.min(k, viewer.asked.length - 1)] ?? null;
  show();
}

export function counterpart(make) {
  const other = viewer.chosen && make(viewer.chosen);
  if (!other) return;
  viewer.beside = [viewer.chosen];
  ask([other], { beside: true });
}

export function step(list, current, by) {
  const k = list.indexOf(current);
  return list[Math.min(list.length - 1, Math.max(0, k + by))];
}

export function nextAnswer(by) {
  if (!viewer.asked.length) return;
  viewer.chosen = step(viewer.asked, viewer.chosen, by);
  viewer.beside = [];
  show();
}
