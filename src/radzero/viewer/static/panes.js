// Arrange the panes, and set what each shows.

import { negation, otherSide } from "./counterparts.js";
import { $, reveal } from "./dom.js";
import { Pane } from "./pane.js";
import { listAnswers, shownSentences } from "./questions.js";
import { viewer } from "./state.js";
import { fit, redraw } from "./view.js";

export function arrange() {
  const count = Math.max(1, shownSentences().length);
  const changed = viewer.panes.length !== count;
  while (viewer.panes.length > count) viewer.panes.pop().figure.remove();
  while (viewer.panes.length < count) {
    const pane = new Pane();
    viewer.panes.push(pane);
    $("panes").append(pane.figure);
  }
  $("panes").dataset.count = count;
  return changed;
}

export function show() {
  const sized = arrange();
  const answers = (viewer.film && viewer.current.answers) ?? new Map(); // no image is shown, so no answer is
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
  if (sized && viewer.fitted) fit();
  else redraw();
}
