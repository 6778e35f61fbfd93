// The page: a state in, everything on it drawn again.
const root = document.currentScript?.closest(".orderscale-explorer") ?? document.querySelector(".orderscale-explorer:not([data-ready])");
root.dataset.ready = "";
const el = Object.fromEntries(Array.from(root.querySelectorAll("[data-el]"), (node) => [node.dataset.el, node]));
const data = JSON.parse(el.data.textContent);
const library = makeLibrary(data);
const ADDRESS_SECONDS = 0.12; // browsers limit how often an address may change

let state = null;
let view = null; // of the state: see words.js
let answered = null; // to what question `view.outcomes` is the answer
const history = makeHistory();
const map = makeMap(el.map, el.marker, take);
const flow = makeFlow(el.flow, (edge) => {
  change(({ cuts }) => ({ cuts: cuts.includes(edge) ? cuts.filter((x) => x !== edge) : [...cuts, edge] }));
});
const drawControls = makeControls(el, change);
const tour = makeTour(el, library, change);
const drawLatents = makeLatents(el, library, change);
const player = makePlayer(el, library, change);

// ---- drawing ------------------------------------------------------------------------------------
function look() {
  const model = library.model(state);
  const result = model.compute(state);
  const question = JSON.stringify([state.model, state.step, ...Object.keys(UNTOUCHED).map((key) => state[key])]);
  const validation = library.validation(state.model);
  let { outcomes, counts } = view ?? {};
  if (question !== answered) {
    outcomes = model.outcomes(state);
    counts = countOutcomes(outcomes, model.N, validation);
    answered = question; // other lists and tabs change nothing for all lists
  }
  const table = library.circuits(state.model, state.mode);
  return { state, model, result, outcomes, counts, validation, table };
}

const panels = {
  tour: () => tour.draw(view),
  weights: () => drawControls(view),
  outputs: () => drawOutputs(el, view),
  latents: () => drawLatents(view),
  circuits: (read) => drawCircuits(el, read, view, change),
  share: drawShare,
};

function draw() {
  view = look();
  const read = readTable(view);
  flow.draw(view);
  drawCutNote(el, read, view);
  drawMap(el, map, view);
  drawWords(el, view);
  player.draw(view);
  el.model.value = state.model;
  el.about.textContent = library.about(state.model);
  el.body.dataset.tab = state.tab;
  for (const name of TABS) {
    const isOpen = name === state.tab;
    el[`tab ${name}`].setAttribute("aria-selected", String(isOpen));
    el[`tab ${name}`].tabIndex = isOpen ? 0 : -1;
    el[`panel ${name}`].hidden = !isOpen;
  }
  panels[state.tab](read);
  enable(el.undo, history.canUndo());
  enable(el.redo, history.canRedo());
  enable(el.restore, isChanged(state) || state.step !== null);
  if (data.address) keepAddress();
}

let addressTimer = null;
function keepAddress() {
  clearTimeout(addressTimer);
  addressTimer = setTimeout(() => window.history.replaceState(null, "", toAddress(state)), 1000 * ADDRESS_SECONDS);
}

function drawShare() {
  const checkpoint = library.checkpoint(state.model);
  el.shareLink.hidden = !data.address;
  el.link.value = location.href.split("#")[0] + toAddress(state);
  el.linkNote.textContent =
    location.protocol === "file:" ? "This page lies on your computer. Who has the page too needs only the part from # on." : "";
  el.json.value = JSON.stringify(toEvaluate(state, checkpoint), null, 1);
  el.python.value = toPython(state, checkpoint, library.saeCheckpoint(state.model));
}

function picture() {
  const style = getComputedStyle(root);
  const read = (name) => style.getPropertyValue(name).trim();
  const outcomes = OUTCOMES.map((_, i) => read(`--osx-map-${i}`));
  return pictureOf(el, view, { surface: read("--osx-surface"), ink: read("--osx-ink"), outcomes });
}

// ---- changing -----------------------------------------------------------------------------------
function say(message) {
  el.message.textContent = message;
  el.body.classList.toggle("osx-stale", message !== "");
}

// Shows a state: whoever types a digit now keeps what was typed, if it is that digit.
function show(next) {
  state = next;
  say("");
  ["d1", "d2"].forEach((name, i) => {
    el[name].removeAttribute("aria-invalid");
    if (Number(el[name].value) !== state.list[i] || el[name].value.trim() === "") el[name].value = state.list[i];
  });
  draw();
}

// `part`: what is set, or a function of the state that gives it. Changes with the same `name` that follow one
// another fast are undone together; tabs and steps of the tour are not undone.
function change(part, name = null) {
  const next = checkState({ ...state, ...(typeof part === "function" ? part(state) : part) }, library);
  if (same(next, state)) return say("");
  if (name !== "play" && player.isPlaying() && (next.step !== state.step || next.model !== state.model)) player.stop();
  if (!same({ ...next, tab: null, tour: null }, { ...state, tab: null, tour: null })) history.add(state, name);
  show(next);
}

function take(list, name = null) {
  change({ list }, name);
}

function travel(to) {
  if (to === null) return;
  player.stop();
  show({ ...to, tab: state.tab });
}

function readDigits() {
  const problems = [];
  const list = ["d1", "d2"].map((name) => {
    el[name].removeAttribute("aria-invalid");
    try {
      return parseDigit(el[name].value, name, view.model.N);
    } catch (problem) {
      el[name].setAttribute("aria-invalid", "true");
      problems.push(problem.message);
      return null;
    }
  });
  if (problems.length) say(`${problems.join(" ")} Below is still the list ${state.list.join(", ")}.`);
  else take(list, "type");
}

function takeRandom(isWanted) {
  const { N } = view.model;
  const found = Array.from(view.outcomes.keys()).filter((at) => isWanted(view.outcomes[at]));
  if (!found.length) return say("No list comes out wrong now.");
  const at = found[Math.floor(Math.random() * found.length)];
  take([Math.floor(at / N), at % N]);
}

// Another model with the same list, cuts and weights, as far as it has them.
function selectModel(name) {
  const { N, edges, choices } = library.trained(name);
  const rows = choices.map((row) => row.name);
  const list = state.list.map((digit) => Math.min(digit, N - 1));
  const cuts = state.cuts.filter((edge) => edges.includes(edge));
  const patterns = Object.fromEntries(Object.entries(state.patterns).filter(([row]) => rows.includes(row)));
  const atTour = state.tab === "tour" && tour.shown(name) ? tour.stateAt(state.tour, name) : {};
  change({ step: null, model: name, list, cuts, patterns, latents: null, ...atTour });
}

function firstState() {
  const [name] = library.names;
  const told = tour.shown(name);
  const { N } = library.trained(name);
  const list = told?.list ?? [Math.floor(N / 2), Math.floor(N / 5)];
  return checkState({ model: name, list, tab: told && data.address ? "tour" : "weights" }, library);
}

// The state of the address, null if it has none or a bad one; then it says so.
function fromLocation() {
  try {
    const parts = data.address ? fromAddress(location.hash) : null;
    return parts && checkState(parts, library);
  } catch (problem) {
    el.message.textContent = `The address cannot be read: ${problem.message}`;
    return null;
  }
}

// ---- the controls -------------------------------------------------------------------------------
for (const name of library.names) {
  const option = element("option", "", name);
  option.value = name;
  el.model.append(option);
}
el.modelChoice.hidden = library.names.length === 1;
el["tab tour"].hidden = !tour.exists;
el["tab latents"].hidden = !library.withLatents.length;
const actions = {
  random: () => takeRandom(() => true),
  wrong: () => takeRandom((outcome) => outcome > 0),
  reverse: () => take([...state.list].reverse()),
  undo: () => travel(history.undo(state)),
  redo: () => travel(history.redo(state)),
  restore: () => change({ ...untouched(state.mode), step: null }),
  filmPlay: () => (player.isPlaying() ? player.stop() : player.play(state)),
  svg: () => download("explorer.svg", asData("image/svg+xml", picture())),
  png: async () => download("explorer.png", await toPng(picture())),
  saveJson: () => download("explorer.json", asData("application/json", el.json.value)),
};
for (const [name, act] of Object.entries(actions)) el[name].addEventListener("click", () => isOff(el[name]) || act());
for (const name of ["d1", "d2"]) el[name].addEventListener("input", readDigits);
for (const mode of ["renormalize", "zero"]) el[mode].addEventListener("change", () => change({ mode }));
el.model.addEventListener("change", () => selectModel(el.model.value));
el.filmStep.addEventListener("input", () => {
  const step = library.steps(state.model)[Number(el.filmStep.value)] ?? null;
  change(atStep(step), "film");
});
el.map.addEventListener("osx-look", draw);
const group = `orderscale-mode-${Math.random()}`; // of this section alone
for (const mode of ["renormalize", "zero"]) el[mode].name = group;
const tabs = TABS.filter((name) => !el[`tab ${name}`].hidden);
for (const [i, name] of tabs.entries()) {
  el[`tab ${name}`].addEventListener("click", () => change({ tab: name }));
  el[`tab ${name}`].addEventListener("keydown", (event) => {
    const to = { ArrowRight: i + 1, ArrowLeft: i - 1, Home: 0, End: -1 }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    const next = tabs[(to + tabs.length) % tabs.length];
    change({ tab: next });
    el[`tab ${next}`].focus();
  });
}
root.addEventListener("keydown", (event) => {
  if (event.key.toLowerCase() !== "z" || !(event.ctrlKey || event.metaKey)) return;
  if (event.target.matches("input[type=text], textarea")) return;
  event.preventDefault();
  travel(event.shiftKey ? history.redo(state) : history.undo(state));
});
for (const name of ["link", "json", "python"]) {
  el[`copy ${name}`].addEventListener("click", async () => {
    el[name].select();
    try {
      await navigator.clipboard.writeText(el[name].value);
    } catch {
      document.execCommand("copy"); // where a page may not use the clipboard otherwise
    }
    el.copied.textContent = "Copied.";
  });
}
if (data.address) {
  window.addEventListener("hashchange", () => {
    const found = fromLocation();
    if (found) change(found);
  });
}

state = fromLocation();
const problem = el.message.textContent;
show(state ?? firstState());
if (problem) el.message.textContent = problem;

function answer(parts, ask) {
  const whole = checkState(parts, library);
  return ask(library.model(whole), whole);
}
root.explorer = {
  compute: (parts) => answer(parts, (model, whole) => model.compute(whole)),
  outcomes: (parts) => answer(parts, (model, whole) => Array.from(model.outcomes(whole))),
  reversals: (parts, index) => answer(parts, (model, whole) => model.reversals(whole, index)),
  change,
  state: () => structuredClone(state),
};
