// Elements of the page, and texts of numbers.

export const $ = (id) => document.getElementById(id);

export const ratio = () => window.devicePixelRatio || 1; // screen pixels of one of the page's
export const number = (value) => String(Math.abs(value) >= 100 ? Math.round(value) : Number(value.toPrecision(3)));

// What has to be scrolled can be scrolled with keys too, and nothing else stops the Tab key.
export function reachable(element) {
  if (element.scrollHeight > element.clientHeight) element.tabIndex = 0;
  else element.removeAttribute("tabindex");
}

export const make = (tag, properties) => Object.assign(document.createElement(tag), properties);

export const counted = (count, noun) => `${count} ${noun}${count === 1 ? "" : "s"}`;

// Draws a list anew; what had the focus in it has it again.
export function relist(list, items) {
  const within = "button, input";
  const focused = [...list.querySelectorAll(within)].indexOf(document.activeElement);
  list.replaceChildren(...items);
  if (focused >= 0) list.querySelectorAll(within)[focused]?.focus();
}

// Scrolls a list, and only this, to what is chosen in it: where the whole page scrolls, the film stays where it is.
export function reveal(list) {
  const chosen = list.querySelector("[aria-current=true]");
  if (!chosen) return;
  const [box, frame] = [chosen.getBoundingClientRect(), list.getBoundingClientRect()];
  list.scrollTop += Math.min(0, box.top - frame.top) || Math.max(0, box.bottom - frame.bottom);
  list.scrollLeft += Math.min(0, box.left - frame.left) || Math.max(0, box.right - frame.right);
}
