// Draw a picture to save: the panes as they are shown, each under its sentence, above warnings and the model's notice.

import { percent } from "./pane.js";
import { paintScale } from "./scale.js";

// Least width in page pixels; in a narrower picture the texts would take more room than the image.
const LEAST_WIDTH = 640;
const SCALE = { width: 58, height: 420 };
const GROUND = "#101013";
const TEXT = "#f0f0f2";
const MUTED = "#b8b8c2";
const NOTICE = "#ffde8c";

// panes: at least one, all of one size. colours, threshold: those of the scale. warnings: those of the image.
// model: answer of v1/model.
export function drawSheet({ panes, colours, threshold, warnings, model }) {
  const ratio = window.devicePixelRatio || 1;
  const [gap, margin, line] = [4 * ratio, 8 * ratio, 24 * ratio];
  const across = panes.length > 1 ? 2 : 1;
  const { width, height } = panes[0].canvas;
  const scale = document.createElement("canvas");
  Object.assign(scale, { width: SCALE.width * ratio, height: Math.min(SCALE.height * ratio, height) });
  paintScale(scale, colours, threshold, ratio);
  const cell = Math.max(width, Math.floor((LEAST_WIDTH * ratio - scale.width) / across));
  const sheet = document.createElement("canvas");
  sheet.width = across * (cell + gap) + scale.width;
  const context = sheet.getContext("2d");
  const font = `${17 * ratio}px system-ui, sans-serif`;
  context.font = font;
  const heads = panes.map((pane) => headOf(context, pane.answer, cell - 2 * margin));
  const foot = footOf(context, warnings, model, sheet.width - 2 * margin);
  const rows = Array.from({ length: Math.ceil(panes.length / across) }, (_, row) => {
    const lines = heads.slice(row * across, (row + 1) * across).map((head) => head.length);
    return Math.max(1, ...lines) * line + margin; // height above the images of this row
  });
  const startOf = (row) => rows.slice(0, row).reduce((sum, top) => sum + top + height + gap, 0);
  sheet.height = startOf(rows.length) + foot.length * line + margin; // this resets the context's settings
  Object.assign(context, { font, textBaseline: "middle", fillStyle: GROUND });
  context.fillRect(0, 0, sheet.width, sheet.height);
  panes.forEach((pane, k) => {
    const row = Math.floor(k / across);
    const [x, y] = [(k % across) * (cell + gap), startOf(row)];
    write(context, heads[k], x + margin, y + margin / 2, line);
    context.drawImage(pane.canvas, x + Math.floor((cell - width) / 2), y + rows[row]);
  });
  context.drawImage(scale, sheet.width - scale.width, rows[0]);
  write(context, foot, margin, sheet.height - margin / 2 - foot.length * line, line);
  return sheet;
}

const listed = (context, texts, width) => texts.flatMap((text) => wrapped(context, `• ${text}`, width));

const coloured = (colour, lines) => lines.map((text) => ({ text, colour }));

function headOf(context, answer, width) {
  if (!answer) return [];
  return [
    ...coloured(TEXT, wrapped(context, `${percent(answer.probability)}  ${answer.sentence}`, width)),
    ...coloured(NOTICE, listed(context, answer.warnings, width)),
  ];
}

function footOf(context, warnings, model, width) {
  return [
    ...coloured(NOTICE, listed(context, warnings, width)),
    ...coloured(MUTED, wrapped(context, `RadZero ${model.version}, ${model.name}`, width)),
    ...coloured(NOTICE, wrapped(context, model.notice ?? "", width)),
  ];
}

function write(context, lines, x, y, line) {
  lines.forEach(({ text, colour }, k) => {
    context.fillStyle = colour;
    context.fillText(text, x, y + (k + 0.5) * line);
  });
}

// Return a text in lines of at most this width, broken between words where possible.
function wrapped(context, text, width) {
  const lines = [];
  let rest = text;
  while (rest) {
    const count = fitting(context, rest, width);
    if (count === rest.length) return [...lines, rest];
    const space = rest.lastIndexOf(" ", count);
    const end = space > 0 ? space : count;
    lines.push(rest.slice(0, end));
    rest = rest.slice(end).trimStart();
  }
  return lines;
}

// Return how many characters of a text fit in a width, but at least one, so that no line is empty.
function fitting(context, text, width) {
  let [low, high] = [1, text.length];
  while (low < high) {
    const middle = Math.ceil((low + high) / 2);
    if (context.measureText(text.slice(0, middle)).width <= width) low = middle;
    else high = middle - 1;
  }
  return low;
}
