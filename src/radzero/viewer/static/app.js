// Start the page.

import * as api from "./api.js";
import { listen, setOption } from "./controls.js";
import { $, make } from "./dom.js";
import { add } from "./films.js";
import { arrange } from "./panes.js";
import { viewer } from "./state.js";
import { attempt } from "./status.js";

async function start() {
  listen();
  arrange();
  setOption("map", true);
  await attempt("Starting…", async () => {
    const said = [api.model(), api.findings(), api.colours(), api.suffixes()];
    [viewer.model, viewer.sets, viewer.colours, viewer.suffixes] = await Promise.all(said);
    const { name, method, notice } = viewer.model;
    $("model").textContent = `${method}: ${name}`;
    $("notice").textContent = notice ?? "";
    $("notice").hidden = !notice;
    $("set").append(...Object.keys(viewer.sets).map((set) => make("option", { value: set, textContent: set })));
    const entries = await api.library();
    add(entries.map((name, library) => ({ name, library })));
    return "";
  });
}

start();
