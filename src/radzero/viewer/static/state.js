// Declare every field of the page's state; the other modules change them.

export const MOST_PANES = 4;
export const MOST_AT_ONCE = 64; // sentences of one request; the service answers at most 256
export const CHANGED = "The file has changed since it was opened: it was read anew";
export const limits = { pixels: 128e6 }; // pixels of all images that the page keeps, about 3.5 bytes each

export const viewer = {
  // answers of the service
  model: null,
  sets: null, // finding sets by name
  colours: [], // colours of the values 0, 0.001, ... 1
  suffixes: [], // suffixes of files that may be radiographs

  // images
  films: [], // { name, file | library, info, film, answers, changed, failure, loading, asking, seen }
  recent: [], // entries that were read, the most recently read or chosen one first
  current: null, // the entry that is shown

  // sentences
  asked: [], // sentences that are asked about every image
  chosen: null, // the sentence whose answer is marked and shown
  beside: [], // sentences that are shown side by side, where there are several
  revealed: null, // the chosen sentence that the list was last scrolled to

  // view
  panes: [],
  place: { zoom: 1, x: 0, y: 0 }, // page pixels per image pixel, and the image's point in the middle of every pane
  fitted: true, // whether the whole image is shown, whatever the page's size
  tool: "window",
  options: { map: true, contour: true, peak: true, opacity: 0.6, threshold: 0.5 },
  pointed: null, // where values are read: { pane, x, y } in page pixels, or { pane, middle: true }
  pending: false, // whether the next frame draws the panes

  get film() {
    return this.current?.film ?? null;
  },
};
