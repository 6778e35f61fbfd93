// What the reader has set: checked, kept in the address, undone.
const TABS = ["tour", "weights", "outputs", "latents", "circuits", "share"];
const TOUR_STEPS = 5;
const LARGEST_WEIGHT = 100; // of attention that a reader sets
const UNSCALED = "unscaled"; // in an address: the autoencoder's reconstruction as it is
const UNTOUCHED = { cuts: [], mode: "renormalize", digit_weights: null, position_weights: null, patterns: {}, latents: null };
const same = (a, b) => JSON.stringify(a) === JSON.stringify(b);
const isChanged = (state) => Object.entries(UNTOUCHED).some(([key, value]) => key !== "mode" && !same(state[key], value));
const untouched = (mode) => ({ ...structuredClone(UNTOUCHED), mode });
// A step of the film; the autoencoder is of the trained model alone.
const atStep = (step) => (step === null ? { step } : { step, latents: null });

// A digit from what a reader typed; throws a sentence that can be shown.
function parseDigit(text, name, nDigits) {
  const trimmed = String(text).trim();
  if (!/^\d+$/.test(trimmed) || Number(trimmed) >= nDigits) {
    const got = trimmed === "" ? "it is empty" : `“${trimmed}” is not`;
    throw new RangeError(`${name} must be a whole number from 0 to ${nDigits - 1}; ${got}.`);
  }
  return Number(trimmed);
}

function checkWeights(name, weights) {
  const fits = (x) => Number.isFinite(x) && x >= 0 && x <= LARGEST_WEIGHT;
  if (!Array.isArray(weights) || weights.length !== 2 || !weights.every(fits)) {
    throw new RangeError(`${name} must be two numbers from 0 to ${LARGEST_WEIGHT}; got ${JSON.stringify(weights)}.`);
  }
  return [weights[0], weights[1]];
}

// Scales by latent, without those that change nothing; null where SEP stays as it is.
function checkLatents(latents, sae, { model, step }) {
  if (latents === null) return null;
  if (typeof latents !== "object" || Array.isArray(latents)) {
    throw new RangeError(`latents is null, or a scale for each of some latents; got ${JSON.stringify(latents)}.`);
  }
  if (step !== null) throw new RangeError("The autoencoder is of the trained model, not of a step of its training.");
  if (!sae) throw new RangeError(`This page holds no autoencoder of ${model}.`);
  for (const [index, scale] of Object.entries(latents)) {
    if (!/^(0|[1-9]\d*)$/.test(index) || Number(index) >= sae.F) {
      throw new RangeError(`There is no latent “${index}”; there are 0 to ${sae.F - 1}.`);
    }
    if (!(Number.isFinite(scale) && scale >= LOWEST_SCALE && scale <= LARGEST_SCALE)) {
      throw new RangeError(`The scale of latent ${index} must be a number from ${LOWEST_SCALE} to ${LARGEST_SCALE}; got ${scale}.`);
    }
  }
  return Object.fromEntries(Object.entries(latents).filter(([, scale]) => scale !== 1));
}

// A whole state from some of its parts; throws a sentence about the first that does not exist.
function checkState(given, library) {
  const known = ["model", "step", "list", ...Object.keys(UNTOUCHED), "tab", "tour"];
  const unknown = Object.keys(given).find((key) => !known.includes(key));
  if (unknown) throw new RangeError(`A state has no “${unknown}”; it has ${known.join(", ")}.`);
  const state = { model: library.names[0], step: null, tab: "weights", tour: 0, list: null, ...structuredClone(UNTOUCHED), ...given };
  if (!library.names.includes(state.model)) {
    throw new RangeError(`There is no model “${state.model}” here; there are ${library.names.join(", ")}.`);
  }
  if (state.step !== null && !library.steps(state.model).includes(state.step)) {
    throw new RangeError(`The film of ${state.model} has no step ${state.step}.`);
  }
  const model = library.model(state);
  state.list ??= [Math.floor(model.N / 2), Math.floor(model.N / 5)];
  if (!Array.isArray(state.list) || state.list.length !== 2) {
    throw new RangeError(`A list is two digits, not “${String(state.list)}”.`);
  }
  state.list = ["d1", "d2"].map((name, i) => parseDigit(state.list[i], name, model.N));
  for (const edge of state.cuts) {
    if (!model.edges.includes(edge)) {
      throw new RangeError(`Edge “${edge}” cannot reach an output; the edges that can: ${model.edges.join(", ")}.`);
    }
  }
  state.cuts = model.edges.filter((edge) => state.cuts.includes(edge));
  if (!["renormalize", "zero"].includes(state.mode)) {
    throw new RangeError(`The mode of a cut is “renormalize” or “zero”, not “${state.mode}”.`);
  }
  for (const key of ["digit_weights", "position_weights"]) {
    if (state[key] === null || WEIGHT_NAMES.includes(state[key])) continue;
    if (typeof state[key] === "string") {
      throw new RangeError(`${key} is two numbers, ${WEIGHT_NAMES.join(", ")} or null, not “${state[key]}”.`);
    }
    state[key] = checkWeights(key, state[key]);
  }
  const rows = model.choices.map(({ name }) => name).filter((name) => name !== IN_SEP);
  state.patterns = { ...state.patterns };
  for (const [name, weights] of Object.entries(state.patterns)) {
    if (!rows.includes(name)) throw new RangeError(`There is no row “${name}” to set; there are ${rows.join(", ")}.`);
    state.patterns[name] = checkWeights(name, weights);
  }
  state.latents = checkLatents(state.latents, model.sae, state);
  if (!TABS.includes(state.tab)) throw new RangeError(`There is no tab “${state.tab}”; there are ${TABS.join(", ")}.`);
  if (!Number.isInteger(state.tour) || state.tour < 0 || state.tour >= TOUR_STEPS) {
    throw new RangeError(`The tour has steps 1 to ${TOUR_STEPS}, not ${state.tour + 1}.`);
  }
  return state;
}

// The state as the fragment of an address, with what differs from the model as it is.
function toAddress(state) {
  const parts = [["model", encodeURIComponent(state.model)]];
  if (state.step !== null) parts.push(["step", state.step]);
  parts.push(["list", state.list.join(",")]);
  if (state.cuts.length) parts.push(["cut", state.cuts.map((edge) => edge.replace(" ", ".").replace("<-", ".")).join(",")]);
  if (state.mode !== UNTOUCHED.mode) parts.push(["mode", state.mode]);
  if (state.digit_weights !== null) parts.push(["digits", String(state.digit_weights)]);
  if (state.position_weights !== null) parts.push(["positions", String(state.position_weights)]);
  for (const [row, weights] of Object.entries(state.patterns)) parts.push([row.replace(" ", "."), weights.join(",")]);
  if (state.latents !== null) {
    const scales = Object.entries(state.latents).map(([index, scale]) => `${index}:${scale}`);
    parts.push(["latents", scales.join(",") || UNSCALED]);
  }
  parts.push(["tab", state.tab]);
  if (state.tab === "tour" || state.tour) parts.push(["tour", state.tour + 1]);
  return `#explorer?${parts.map(([key, value]) => `${key}=${value}`).join("&")}`;
}

function decode(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text; // a percent sign of somebody's own
  }
}

// The parts of a state from such a fragment, or null if it is none; throws a sentence.
function fromAddress(fragment) {
  if (!fragment.startsWith("#explorer?")) return null;
  const numberOf = (text) => (/^\d+(\.\d*)?(e[+-]?\d+)?$/.test(text) ? Number(text) : NaN);
  const numbers = (text) => text.split(",").map(numberOf);
  const weights = (text) => (text.includes(",") ? numbers(text) : text);
  const scales = (text) => {
    const pairs = text.split(",").map((pair) => pair.split(":"));
    const twice = pairs.find(([index], i) => pairs.findIndex((other) => other[0] === index) < i);
    if (twice) throw new RangeError(`The address has latent “${twice[0]}” twice.`);
    return Object.fromEntries(pairs.map(([index, scale = ""]) => [index, numberOf(scale)]));
  };
  const readers = {
    model: (text) => ({ model: text }),
    step: (text) => ({ step: numberOf(text) }),
    list: (text) => ({ list: text.split(",") }),
    cut: (text) => ({ cuts: text.split(",").map((edge) => edge.replace(".", " ").replace(".", "<-")) }),
    mode: (text) => ({ mode: text }),
    digits: (text) => ({ digit_weights: weights(text) }),
    positions: (text) => ({ position_weights: weights(text) }),
    latents: (text) => ({ latents: text === UNSCALED ? {} : scales(text) }),
    tab: (text) => ({ tab: text }),
    tour: (text) => ({ tour: numberOf(text) - 1 }),
  };
  const found = { patterns: {} };
  const seen = new Set();
  for (const part of fragment.slice("#explorer?".length).split("&")) {
    const cut = part.indexOf("=");
    const [key, text] = [part.slice(0, Math.max(cut, 0)), part.slice(cut + 1)].map(decode);
    if (seen.has(key)) throw new RangeError(`The address has “${key}” twice.`);
    seen.add(key);
    if (/^L\d+\.\w+$/.test(key)) found.patterns[key.replace(".", " ")] = numbers(text);
    else if (Object.hasOwn(readers, key)) Object.assign(found, readers[key](text));
    else throw new RangeError(`The address has an unknown part “${part}”.`);
  }
  return found;
}

// The states before and after the present one. Changes that share a name within a second are one.
function makeHistory() {
  let past = [];
  let future = [];
  let last = { name: null, time: 0 };
  return {
    add(state, name) {
      const now = performance.now();
      if (!(name && name === last.name && now - last.time < 1000)) past.push(state);
      last = { name, time: now };
      future = [];
    },
    undo(state) {
      if (!past.length) return null;
      future.push(state);
      last = { name: null, time: 0 };
      return past.pop();
    },
    redo(state) {
      if (!future.length) return null;
      past.push(state);
      last = { name: null, time: 0 };
      return future.pop();
    },
    canUndo: () => past.length > 0,
    canRedo: () => future.length > 0,
  };
}
