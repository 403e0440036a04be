// What the page shows: every field of its state is declared here, and changed by the other modules.

export const MOST_PANES = 4;
export const MOST_AT_ONCE = 64; // sentences of one request; the service answers at most 256
export const CHANGED = "The file has changed since it was opened: it was read anew";
export const limits = { pixels: 128e6 }; // of all films that the page keeps, about 3.5 bytes each

export const viewer = {
  // what the service says
  model: null,
  sets: null, // named finding sets
  colours: [], // of the values 0, 0.001, ... 1
  suffixes: [], // endings of the names of files that may be films

  // films
  films: [], // { name, file | library, info, film, answers, changed, failure, loading, asking, seen }
  recent: [], // those read, the last one read or chosen first
  current: null, // the one that is shown

  // sentences
  asked: [], // that every film is asked
  chosen: null, // whose answer is marked, and shown
  beside: [], // that are shown side by side, where there are several
  revealed: null, // the chosen one that the list was scrolled to

  // view
  panes: [],
  place: { zoom: 1, x: 0, y: 0 }, // the film's point in the middle of every pane
  fitted: true, // whether the whole film is shown, whatever the page's size
  tool: "window",
  options: { map: true, contour: true, peak: true, opacity: 0.6, threshold: 0.5 },
  pointed: null, // { pane, x, y } of the page, or { pane, middle: true }: where values are read
  pending: false, // whether the panes are to be drawn with the next frame

  get film() {
    return this.current?.film ?? null;
  },
};
