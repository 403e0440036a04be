// The status line, and work that may fail.

import { $, reachable } from "./dom.js";
import { viewer } from "./state.js";

export function status(text, problem = false) {
  $("status").textContent = text;
  $("status").classList.toggle("problem", problem);
  reachable($("status"));
}

// Runs something that may fail, and says how it ended. Under another film that was chosen meanwhile nothing is said of
// this one, unless it must be known whatever is shown: then it is said with the film's name.
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
