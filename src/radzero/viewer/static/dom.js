// Find, make and update elements of the page, and write numbers as text.

export const $ = (id) => document.getElementById(id);

export const ratio = () => window.devicePixelRatio || 1; // screen pixels per page pixel
export const number = (value) => String(Math.abs(value) >= 100 ? Math.round(value) : Number(value.toPrecision(3)));

// Let the Tab key reach an element only when it has to be scrolled, so that keys can scroll it.
export function reachable(element) {
  if (element.scrollHeight > element.clientHeight) element.tabIndex = 0;
  else element.removeAttribute("tabindex");
}

export const make = (tag, properties) => Object.assign(document.createElement(tag), properties);

export const counted = (count, noun) => `${count} ${noun}${count === 1 ? "" : "s"}`;

// Fill a list anew, and give the focus back to the button or input at the same place.
export function relist(list, items) {
  const within = "button, input";
  const focused = [...list.querySelectorAll(within)].indexOf(document.activeElement);
  list.replaceChildren(...items);
  if (focused >= 0) list.querySelectorAll(within)[focused]?.focus();
}

// Scroll a list, and nothing else, to its chosen item: where the whole page scrolls, the image must stay in place.
export function reveal(list) {
  const chosen = list.querySelector("[aria-current=true]");
  if (!chosen) return;
  const [box, frame] = [chosen.getBoundingClientRect(), list.getBoundingClientRect()];
  list.scrollTop += Math.min(0, box.top - frame.top) || Math.max(0, box.bottom - frame.bottom);
  list.scrollLeft += Math.min(0, box.left - frame.left) || Math.max(0, box.right - frame.right);
}
