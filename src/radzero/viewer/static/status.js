// Write the status line, and run work that may fail.

import { $, reachable } from "./dom.js";
import { viewer } from "./state.js";

export function status(text, problem = false) {
  $("status").textContent = text;
  $("status").classList.toggle("problem", problem);
  reachable($("status"));
}

// Run something that may fail, and write in the status line how it ended. If another image was chosen meanwhile, write
// nothing, unless `always` is set: then write it with the name of its image.
export async function attempt(doing, work, { always = false } = {}) {
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
