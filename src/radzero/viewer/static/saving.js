// Save the picture, the answers and DICOM results.

import * as api from "./api.js";
import { counted, make } from "./dom.js";
import { filmWarnings, ofKept } from "./films.js";
import { show } from "./panes.js";
import { askMissing, shownSentences } from "./questions.js";
import { drawSheet } from "./sheet.js";
import { CHANGED, viewer } from "./state.js";
import { attempt } from "./status.js";

function save(blob, name) {
  const link = make("a", { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

// Return the name for an image's saved files: its own name without a format's suffix; "1.2.840.1" has none.
function stem(entry) {
  const ending = new RegExp(`(${viewer.suffixes.map((suffix) => suffix.replace(".", "\\.")).join("|")})(?=$| \\(\\d+\\)$)`, "i");
  return entry.name.replace(ending, "").replaceAll("/", "-");
}

// Content and name of what is saved are read before any wait, because the user may choose another image meanwhile.
export function savePicture() {
  const name = `${stem(viewer.current)}.png`;
  picture().toBlob((blob) => save(blob, name));
}

export function saveJson() {
  const blob = new Blob([JSON.stringify(asJson(), null, 2)], { type: "application/json" });
  save(blob, `${stem(viewer.current)}.json`);
}

export function saveDicom() {
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
  for (const pane of viewer.panes) pane.draw(); // a change may still wait for the next frame
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
