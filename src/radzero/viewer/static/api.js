// Call the service by functions. Every refusal becomes an Error with the service's message.

async function call(path, options = {}) {
  let response;
  try {
    response = await fetch(path, options);
  } catch {
    throw new Error("The service does not answer. Is radzero view still running?");
  }
  if (response.ok) return response;
  let message = `${response.status} ${response.statusText}`;
  try {
    message = (await response.json()).error.message;
  } catch {
    // the answer is not JSON, so its status is the message
  }
  if (response.status === 401) message = "This page has lost its key. Open the link that radzero printed again.";
  const error = new Error(message);
  error.status = response.status;
  throw error;
}

const json = async (path, options) => (await call(path, options)).json();

const post = (path, body) =>
  call(path, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) });

export const model = () => json("v1/model");
export const findings = () => json("v1/findings");
export const library = () => json("v1/library");
export const colours = () => json("colours.json");
export const suffixes = () => json("suffixes.json");
export const openLibrary = (index) => json(`v1/library/${index}`, { method: "POST" });

export async function send(file) {
  const form = new FormData();
  form.append("file", await contentOf(file), file.name);
  return json("v1/films", { method: "POST", body: form });
}

// Read a file before it is sent: the browser knows only its place on the disk, and sending a file that is gone fails as
// if the service did not answer.
async function contentOf(file) {
  try {
    return new Blob([await file.arrayBuffer()]);
  } catch {
    const why = "it is a folder, or was moved, changed or deleted after it was chosen";
    const error = new Error(`${file.name} cannot be read any more: ${why}. Choose it again.`);
    throw Object.assign(error, { unreadable: true });
  }
}

export const pixels = async (id) => (await call(`v1/films/${id}/pixels`)).arrayBuffer();
export const ask = async (id, question) => (await post(`v1/films/${id}/ask`, question)).json();

export async function results(id, question) {
  const answer = await post(`v1/films/${id}/results`, question);
  return { zip: await answer.blob(), leftOut: answer.headers.get("radzero-left-out") };
}
