// The page: a state in, everything on it drawn again.
const root = document.currentScript?.closest(".orderscale-explorer") ?? document.querySelector(".orderscale-explorer:not([data-ready])");
root.dataset.ready = "";
const el = Object.fromEntries(Array.from(root.querySelectorAll("[data-el]"), (node) => [node.dataset.el, node]));
const data = JSON.parse(el.data.textContent);
const SWEEP_STEPS = 100;
const ROWS_SHOWN = 6; // tokens of an output's distribution: both digits and the most likely others
const FILM_SECONDS = 0.25; // a frame

const tokenName = (model, token) => ({ [model.MASK]: "MASK", [model.SEP]: "SEP" })[token] ?? String(token);
const weightText = (weight) => weight.toFixed(3);
const formatter = new Intl.NumberFormat("en");
const number = (value) => formatter.format(value);
function percent(share) {
  if (share > 0 && share < 0.001) return "<0.1 %";
  if (share < 1 && share > 0.999) return ">99.9 %";
  return `${(100 * share).toFixed(1)} %`;
}
// Which input a token is: "d1", "d2", "d1 and d2" or nothing.
const roleOf = (state, token) => ["d1", "d2"].filter((_, i) => state.list[i] === token).join(" and ");
const roleClass = (state, token) => ({ d1: "osx-d1", d2: "osx-d2" })[roleOf(state, token).slice(0, 2)] ?? "osx-other";
function element(tag, className, text) {
  const node = document.createElement(tag);
  node.className = className;
  if (text !== undefined) node.textContent = text;
  return node;
}
function button(className, text, press) {
  const node = element("button", className, text);
  node.type = "button";
  node.addEventListener("click", press);
  return node;
}

// ---- the models ---------------------------------------------------------------------------------
const library = (() => {
  const entries = Object.fromEntries(data.models.map((entry) => [entry.name, entry]));
  const filmed = data.film && entries[data.film.model];
  const film = filmed && makeFilm({ ...filmed, ...data.film });
  const made = new Map();
  const bits = (base64) => {
    const of = bytes(base64);
    return Uint8Array.from({ length: 8 * of.length }, (_, i) => (of[i >> 3] >> (i & 7)) & 1);
  };
  const once = (key, make) => {
    if (!made.has(key)) made.set(key, make());
    return made.get(key);
  };
  const whole = ({ logits, scores, ...entry }) =>
    makeModel({ ...entry, logits: floats(logits), scores: scores.map((x) => ({ ...x, values: floats(x.values) })) });
  return {
    names: Object.keys(entries),
    about: (name) => entries[name].about,
    steps: (name) => (film && name === data.film.model ? film.steps : []),
    film,
    model: ({ model, step }) =>
      once(`${model} ${step}`, () => (step === null ? whole(entries[model]) : film.frame(film.steps.indexOf(step)))),
    validation: (name) => once(`lists ${name}`, () => (entries[name].validation ? bits(entries[name].validation) : null)),
    circuits: (name, mode) =>
      once(`circuits ${name} ${mode}`, () => {
        const of = entries[name].circuits?.[mode];
        if (!of) return null;
        const buffer = bytes(of.right).buffer;
        return { ...of, right: of.outputs > 65535 ? new Uint32Array(buffer) : new Uint16Array(buffer) };
      }),
  };
})();

let state = null;
let result = null; // of the state's list
let outcomes = null; // of all lists,
let counts = null; // how many have each,
let answered = null; // and to what state they belong
let playing = null;
const history = makeHistory();
const current = () => library.model(state);
const tour = makeTour();
const flow = makeFlow(el.flow, (edge) => {
  const cuts = state.cuts.includes(edge) ? state.cuts.filter((x) => x !== edge) : [...state.cuts, edge];
  change({ cuts });
});
const map = makeMap(el.map, el.marker, (list, name) => take(list, name));

// ---- in words -----------------------------------------------------------------------------------
function sepSentence() {
  const [a1, a2] = ["L0 SEP<-d1", "L0 SEP<-d2"].map((edge) => result.weights[edge]);
  const [p1, p2] = result.places;
  const [d1, d2] = state.list;
  const shares = `α₁ = ${weightText(a1)}, α₂ = ${weightText(a2)}`;
  if (Math.abs(a1 - p1) > 1e-9 || Math.abs(a2 - p2) > 1e-9) {
    return `In layer 0 SEP reads the digits with ${weightText(a1)} and ${weightText(a2)}, their positions with ${weightText(p1)} and ${weightText(p2)}.`;
  }
  if (a1 === 0 && a2 === 0) return "In layer 0 SEP reads neither digit.";
  if (a1 === 0 || a2 === 0) return `In layer 0 SEP reads only ${a1 === 0 ? `d2 = ${d2}` : `d1 = ${d1}`} (${shares}).`;
  if (d1 === d2) return `Both digits are ${d1}; SEP reads it twice (${shares}).`;
  if (weightText(a1) === weightText(a2)) return `SEP reads both digits with the same weight (${shares}).`;
  return `In layer 0 SEP reads more of ${a1 > a2 ? `d1 = ${d1}` : `d2 = ${d2}`} (${shares}).`;
}

function outputSentence(i, model) {
  const token = result.predictions[i];
  const role = roleOf(state, token);
  const meaning = role ? `that is ${role}` : "neither digit";
  const sure = percent(softmax(result.logits[i])[token]);
  return `o${i + 1} says ${tokenName(model, token)} (${sure}): ${meaning}, ${token === state.list[i] ? "right" : "wrong"}.`;
}

function verdictSentence(model) {
  const [first, second] = result.predictions.map((token) => tokenName(model, token));
  if (result.outcome === 0) return `${state.list.join(", ")} comes out right.`;
  if (result.outcome === 1) return `${state.list.join(", ")} comes out reversed: ${first}, ${second}.`;
  if (first === second) return `${state.list.join(", ")} comes out as ${first} twice.`;
  return `${state.list.join(", ")} comes out as ${first}, ${second}.`;
}

function allSentence() {
  const [right, reversed] = counts.all;
  return `Of all ${number(outcomes.length)} lists ${number(right)} come out right, ${number(reversed)} reversed.`;
}

function changesSentence(model) {
  if (!isChanged(state)) return "Nothing is changed: this is what the model does.";
  const before = model.compute({ ...UNTOUCHED, list: state.list }).predictions.map((token) => tokenName(model, token));
  return `Without the changes o1 says ${before[0]} and o2 says ${before[1]}.`;
}

function drawWords(model) {
  const lines = [
    [verdictSentence(model), `osx-lead ${result.outcome === 0 ? "" : "osx-wrong"}`],
    [allSentence(), "osx-all"],
    [sepSentence(), "osx-more"],
    [outputSentence(0, model), "osx-more"],
    [outputSentence(1, model), "osx-more"],
    [changesSentence(model), "osx-quiet osx-more"],
  ];
  el.words.replaceChildren(...lines.map(([text, className]) => element("p", className, text)));
  const said = `${verdictSentence(model)} ${allSentence()}`;
  if (el.live.textContent !== said) el.live.textContent = said;
}

// ---- the map ------------------------------------------------------------------------------------
function drawMap(model) {
  const validation = library.validation(state.model);
  map.draw(outcomes, model.N, validation, state.list);
  const total = (of) => of.reduce((a, b) => a + b, 0);
  const columns = [counts.all, counts.different, ...(validation ? [counts.validation] : [])];
  el.mapHead.lastElementChild.hidden = !validation;
  el.mapNote.textContent = validation
    ? "Full colour: lists of the validation set, which were not trained on. Pale: lists of the training set."
    : "";
  el.mapRows.replaceChildren(
    ...OUTCOMES.map((name, i) => {
      const row = element("tr", "");
      const head = element("th", "");
      head.scope = "row";
      head.append(element("span", `osx-swatch osx-swatch-${i}`), name);
      const cells = columns.map((of, j) => element("td", "", j ? percent(of[i] / total(of)) : number(of[i])));
      row.append(head, ...cells);
      return row;
    }),
  );
  el.map.setAttribute(
    "aria-label",
    `Map of all ${number(outcomes.length)} lists, d1 down and d2 across; now ${state.list.join(", ")}, ${OUTCOMES[result.outcome]}. ` +
      "Arrow keys move by one digit, with Shift by ten.",
  );
}

// ---- controls -----------------------------------------------------------------------------------
const SOURCES = { null: "as the model computes", swap: "exchanged", reversed: "as in the reversed list", even: "equal" };

// A row of controls for two weights that sum to 1: a slider, and a choice of what the weights are.
function weightControl(title, names, colour, choices) {
  const box = element("div", "osx-control");
  const head = element("div", "osx-control-head");
  const label = element("span", "", title);
  const slider = element("input", `osx-range ${colour}`);
  Object.assign(slider, { type: "range", min: 0, max: 1, step: 0.005 });
  slider.setAttribute("aria-label", `${title}: weight of ${names[0]}, the rest is that of ${names[1]}`);
  const select = element("select", "");
  select.setAttribute("aria-label", `${title}: where the weights come from`);
  for (const [value, text] of Object.entries({ ...choices, hand: "set by hand" })) {
    const option = element("option", "", text);
    option.value = value;
    select.append(option);
  }
  const ends = element("div", "osx-ends");
  ends.append(element("span", "osx-first"), element("span", "osx-second"));
  head.append(label, select);
  box.append(head, slider, ends);
  return {
    box,
    slider,
    select,
    draw(weights, value) {
      const source = value === null || typeof value === "string" ? String(value) : "hand";
      const [first, second] = weights ?? [0.5, 0.5];
      slider.value = first;
      slider.style.setProperty("--osx-share", `${100 * Math.min(first, 1)}%`);
      slider.classList.toggle("osx-mixed", !weights);
      const text = weights ? `${names[0]} ${weightText(first)}, ${names[1]} ${weightText(second)}` : "digits and positions differ";
      slider.setAttribute("aria-valuetext", text);
      ends.firstChild.textContent = weights ? `${names[0]} ${weightText(first)}` : "";
      ends.lastChild.textContent = weights ? `${names[1]} ${weightText(second)}` : "they differ";
      select.value = source in choices || source === "hand" ? source : "hand";
    },
  };
}

let controls = null; // of the models with the same rows
function buildControls(model) {
  const key = model.choices.map(({ name }) => name).join();
  if (controls?.key === key) return;
  controls = { key, parts: {}, rows: {} };
  const group = element("div", "osx-group");
  group.append(element("h3", "", "What SEP reads in layer 0"));
  const parts = {
    both: ["Digits and positions together (α)", ["α₁", "α₂"], ["digit_weights", "position_weights"]],
    digits: ["Only the digits", ["E[d1]", "E[d2]"], ["digit_weights"]],
    positions: ["Only the positions", ["P₁", "P₂"], ["position_weights"]],
  };
  for (const [part, [title, names, keys]] of Object.entries(parts)) {
    const control = weightControl(title, names, "osx-range-alpha", SOURCES);
    const set = (value, name) => change(Object.fromEntries(keys.map((k) => [k, value])), name);
    const byHand = () => [Number(control.slider.value), 1 - Number(control.slider.value)];
    control.slider.addEventListener("input", () => set(byHand(), `slide ${part}`));
    control.select.addEventListener("change", () => set(control.select.value === "hand" ? byHand() : named(control.select.value)));
    control.slider.dataset.el = `slider ${part}`;
    control.select.dataset.el = `select ${part}`;
    controls.parts[part] = control;
    group.append(control.box);
  }
  const others = element("div", "osx-group");
  others.append(element("h3", "", "Who else chooses"));
  for (const { name, keys } of model.choices.filter((x) => x.name !== "L0 SEP")) {
    const [layer, query] = name.slice(1).split(" ");
    const control = weightControl(`What ${query} reads in layer ${layer}`, keys.map((k) => POSITIONS[k]), "osx-range-beta", {
      null: SOURCES.null,
    });
    const byHand = () => [Number(control.slider.value), 1 - Number(control.slider.value)];
    const set = (weights, by) => {
      const patterns = { ...state.patterns };
      if (weights) patterns[name] = weights;
      else delete patterns[name];
      change({ patterns }, by);
    };
    control.slider.addEventListener("input", () => set(byHand(), `slide ${name}`));
    control.select.addEventListener("change", () => set(control.select.value === "hand" ? byHand() : null));
    control.slider.dataset.el = `slider ${name}`;
    control.select.dataset.el = `select ${name}`;
    controls.rows[name] = control;
    others.append(control.box);
  }
  others.append(el.mode);
  el.controls.replaceChildren(group, others);
}
const named = (value) => (value === "null" ? null : value);

function drawControls(model) {
  buildControls(model);
  const { both, digits, positions } = controls.parts;
  const isJoint = same(state.digit_weights, state.position_weights);
  both.draw(isJoint ? result.rows["L0 SEP"] : null, isJoint ? state.digit_weights : [0, 0]);
  digits.draw(result.rows["L0 SEP"], state.digit_weights);
  positions.draw(result.placesBefore, state.position_weights);
  for (const [name, control] of Object.entries(controls.rows)) control.draw(result.rows[name], state.patterns[name] ?? null);
  el.renormalize.checked = state.mode === "renormalize";
  el.zero.checked = state.mode === "zero";
}

// ---- the outputs --------------------------------------------------------------------------------
function bars(model, probabilities) {
  const ranked = Array.from(probabilities.keys()).sort((a, b) => probabilities[b] - probabilities[a] || a - b);
  const digits = new Set(state.list);
  const others = ranked.filter((token) => !digits.has(token)).slice(0, ROWS_SHOWN - digits.size);
  const list = element("ol", "osx-bars");
  for (const token of ranked.filter((x) => digits.has(x) || others.includes(x))) {
    const item = element("li", roleClass(state, token));
    const fill = element("span", "osx-fill");
    fill.style.width = `${100 * probabilities[token]}%`;
    const track = element("span", "osx-track");
    track.append(fill);
    const value = element("span", "osx-value", percent(probabilities[token]));
    item.append(element("span", "osx-token", tokenName(model, token)), element("span", "osx-role", roleOf(state, token)), track, value);
    list.append(item);
  }
  return list;
}

// What comes out for every alpha_1, digits and positions together.
function sweepOfAlpha(model) {
  return Array.from({ length: SWEEP_STEPS + 1 }, (_, step) => {
    const alpha = [step / SWEEP_STEPS, 1 - step / SWEEP_STEPS];
    const { predictions, logits } = model.compute({ ...state, digit_weights: alpha, position_weights: alpha });
    return { alpha1: alpha[0], predictions, probabilities: logits.map(softmax) };
  });
}

function sweepSentence(model, sweep, i) {
  const stretches = [];
  for (const { alpha1, predictions } of sweep) {
    if (stretches.at(-1)?.token !== predictions[i]) stretches.push({ from: alpha1, token: predictions[i] });
  }
  if (stretches.length > 4) return `Over all α₁ the answer changes ${stretches.length - 1} times.`;
  const [first, ...rest] = stretches.map(({ from, token }) => ({ from: from.toFixed(2), name: tokenName(model, token) }));
  if (!rest.length) return `Whatever α₁ is, o${i + 1} says ${first.name}.`;
  return `As α₁ grows from 0, o${i + 1} says ${first.name}, ` + rest.map((x) => `from ${x.from} on ${x.name}`).join(", ") + ".";
}

function sweepPlot(sweep, i) {
  const curve = (token) =>
    sweep.map((at, n) => `${n ? "L" : "M"}${200 * at.alpha1} ${(60 - 56 * at.probabilities[i][token]).toFixed(2)}`).join("");
  const here = 200 * Math.min(result.rows["L0 SEP"][0], 1);
  const plot = element("div", "osx-sweep");
  const svg = svgElement("svg", { viewBox: "0 0 200 64", preserveAspectRatio: "none", "aria-hidden": "true" });
  svg.append(
    svgElement("path", { class: "osx-axis", d: "M0 60H200M0 4H200" }),
    svgElement("path", { class: "osx-here", d: `M${here} 0V64` }),
    svgElement("path", { class: "osx-curve osx-d1", d: curve(state.list[0]) }),
    svgElement("path", { class: "osx-curve osx-d2", d: curve(state.list[1]) }),
  );
  const key = element("span", "osx-key");
  key.append(element("b", "osx-d1", "━ d1 "), element("b", "osx-d2", "╍ d2"));
  const ends = element("div", "osx-ends");
  ends.append(element("span", "", "α₁ = 0"), key, element("span", "", "α₁ = 1"));
  plot.append(svg, ends);
  return plot;
}

function drawOutputs(model) {
  const sweep = sweepOfAlpha(model);
  [0, 1].forEach((i) => {
    const title = element("h3", "", `o${i + 1} `);
    title.append(element("span", "osx-quiet", `should say d${i + 1} = ${state.list[i]}`));
    const heading = element("p", "osx-quiet osx-heading", "Probability of each digit for every α₁; the bar marks the present one");
    el[`output${i + 1}`].replaceChildren(
      title, bars(model, softmax(result.logits[i])), heading, sweepPlot(sweep, i), element("p", "osx-quiet", sweepSentence(model, sweep, i)),
    );
  });
}

// ---- circuits -----------------------------------------------------------------------------------
const bitCount = (x) => x.toString(2).replaceAll("0", "").length;

// What the exact table says of the edges that are not cut; null where there is none for this state.
function readTable(model) {
  const table = state.step === null ? library.circuits(state.model, state.mode) : null;
  if (!table) return null;
  const full = 2 ** model.edges.length - 1;
  const kept = model.edges.reduce((mask, edge, i) => mask + (state.cuts.includes(edge) ? 0 : 2 ** i), 0);
  const share = (mask) => percent(table.right[mask] / table.outputs);
  const [nearest] = [...table.minimal].sort((a, b) => bitCount(a ^ kept) - bitCount(b ^ kept));
  const names = (mask) => model.edges.filter((_, i) => mask & (2 ** i)).join(", ").replaceAll("<-", "←");
  const steps = [];
  if (nearest & ~kept) steps.push(`restore ${names(nearest & ~kept)}`);
  if (kept & ~nearest) steps.push(`cut ${names(kept & ~nearest)}`);
  return {
    ...table,
    full,
    kept,
    share,
    names,
    isSufficient: table.right[kept] >= table.right[full] - table.tolerance * table.outputs,
    said:
      `With these ${bitCount(kept)} of ${model.edges.length} edges ${share(kept)} of ${number(table.outputs)} ` +
      `validation outputs are right (intact ${share(full)}).`,
    toNearest: steps.length
      ? `To the nearest minimal circuit: ${steps.join("; ")}.`
      : "This is a minimal circuit: no edge of it can be cut.",
  };
}

function drawCutNote(model) {
  const read = state.cuts.length ? readTable(model) : null;
  el.cutNote.textContent = read ? `${read.said} ${read.toNearest}` : "";
}

function drawCircuits(model) {
  const read = readTable(model);
  if (!read) {
    const isFilm = state.step !== null && library.circuits(state.model, state.mode);
    const why = isFilm ? "The table is of the trained model, not of a step of its training." : "This page holds no table of circuits.";
    el.circuits.replaceChildren(element("p", "", why));
    return;
  }
  const how = { renormalize: "the rest of its row takes its weight over", zero: "its weight is lost" }[state.mode];
  const point = `${100 * read.tolerance} point`;
  const parts = [
    element("p", read.isSufficient ? "osx-lead" : "osx-lead osx-wrong", read.said),
    element("p", "", read.isSufficient
      ? `That is within ${point} of the intact model: these edges are sufficient.`
      : `That is more than ${point} below the intact model: something is missing.`),
    element("p", "", read.toNearest),
    element("p", "osx-quiet", `Of the table of all ${number(read.full + 1)} sets of edges, where an edge is cut and ${how}. It counts cuts only, not changed weights.`),
  ];
  const list = element("ul", "osx-circuits");
  for (const mask of read.minimal) {
    const item = element("li", "");
    const cuts = model.edges.filter((_, i) => !(mask & (2 ** i)));
    const press = button("", "Show", () => change({ ...structuredClone(UNTOUCHED), mode: state.mode, cuts }));
    press.setAttribute("aria-label", `Show the minimal circuit ${read.names(mask)}`);
    press.disabled = mask === read.kept;
    item.append(press, ` ${bitCount(mask)} edges, ${read.share(mask)}: ${read.names(mask)}`);
    list.append(item);
  }
  el.circuits.replaceChildren(...parts, element("h3", "", "Minimal circuits"), list);
}

// ---- tour, film, take along ---------------------------------------------------------------------
function drawTour(model) {
  const why = tour.why(model) ?? (tour.told(library.model({ ...state, step: null })) ? null : "No list of this model shows all of the tour's steps.");
  el.tourWhy.textContent = why ?? "";
  el.tourBody.hidden = why !== null;
  if (why) return;
  const of = library.model({ ...state, step: null });
  el.tourTitle.textContent = tour.title(state.tour);
  el.tourText.replaceChildren(...tour.text(state.tour, of).map((text) => element("p", "", text)));
  el.tourBack.disabled = state.tour === 0;
  el.tourNext.disabled = state.tour === tour.steps - 1;
  const wanted = { ...tour.state(state.tour, of), step: null };
  el.tourAgain.disabled = Object.entries(wanted).every(([key, value]) => same(state[key], value));
}
function goTo(step) {
  change({ ...tour.state(step, library.model({ ...state, step: null })), step: null, tour: step });
}

function drawFilm() {
  const steps = library.steps(state.model);
  el.film.hidden = !steps.length;
  if (!steps.length) return;
  const at = state.step === null ? steps.length : steps.indexOf(state.step);
  Object.assign(el.filmStep, { max: steps.length, value: at });
  const { accuracy, changed } = library.film;
  const text =
    state.step === null
      ? "trained: the shipped model"
      : `step ${number(state.step)}: ${percent(accuracy[at])} of the validation outputs right`;
  el.filmStep.setAttribute("aria-valuetext", text);
  el.filmText.textContent = text;
  el.filmNote.textContent =
    state.step === null ? "" : `Rounded for the page, which changes an output of ${number(changed[at])} of the ${number(outcomes.length)} lists.`;
  const curve = accuracy.map((y, i) => `${i ? "L" : "M"}${(200 * i) / steps.length} ${(40 - 40 * y).toFixed(1)}`).join("");
  el.filmCurve.setAttribute("d", curve);
  const x = (200 * at) / steps.length;
  el.filmHere.setAttribute("d", `M${x} 0V40`);
  el.filmPlay.textContent = playing ? "❚❚ Pause" : "▶ Play the training";
}
function play() {
  const steps = library.steps(state.model);
  if (playing) return stop();
  let at = state.step === null ? 0 : steps.indexOf(state.step);
  const next = () => {
    if (at >= steps.length) {
      change({ step: null }, "film");
      return stop();
    }
    change({ step: steps[at++] }, "film");
  };
  playing = setInterval(next, 1000 * FILM_SECONDS);
  next();
}
function stop() {
  if (playing) clearInterval(playing);
  playing = null;
  drawFilm();
}

function drawShare() {
  el.link.value = data.address ? location.href.split("#")[0] + toAddress(state) : toAddress(state);
  el.json.value = JSON.stringify(toEvaluate(state), null, 1);
  el.python.value = toPython(state, data.models.length > 1 || data.film !== null);
}
function picture() {
  const style = getComputedStyle(root);
  const [surface, ink] = ["--osx-surface", "--osx-ink"].map((name) => style.getPropertyValue(name).trim());
  const model = current();
  const what = [state.model, ...(state.step === null ? [] : [`step ${state.step}`]), ...state.cuts.map((x) => `cut ${x}`)];
  return pictureOf(el.flow, el.map, [`${verdictSentence(model)} ${allSentence()}`, what.join("; ")], surface, ink);
}

// ---- all together -------------------------------------------------------------------------------
function draw() {
  const model = current();
  result = model.compute(state);
  const asked = JSON.stringify([state.model, state.step, ...Object.keys(UNTOUCHED).map((key) => state[key])]);
  if (asked !== answered) {
    outcomes = model.outcomes(state);
    counts = countOutcomes(outcomes, model.N, library.validation(state.model));
    answered = asked; // other lists and tabs change nothing for all lists
  }
  flow.draw(model, state, result);
  drawCutNote(model);
  drawMap(model);
  drawWords(model);
  drawFilm();
  for (const [i, name] of ["d1", "d2"].entries()) {
    if (document.activeElement !== el[name] || el[name].getAttribute("aria-invalid")) el[name].value = state.list[i];
  }
  el.model.value = state.model;
  el.about.textContent = library.about(state.model);
  for (const name of TABS) {
    const isOpen = name === state.tab;
    el[`tab ${name}`].setAttribute("aria-selected", String(isOpen));
    el[`tab ${name}`].tabIndex = isOpen ? 0 : -1;
    el[`panel ${name}`].hidden = !isOpen;
  }
  ({ tour: drawTour, weights: drawControls, outputs: drawOutputs, circuits: drawCircuits, share: drawShare })[state.tab](model);
  el.undo.disabled = !history.canUndo();
  el.redo.disabled = !history.canRedo();
  el.restore.disabled = !isChanged(state) && state.step === null;
  if (data.address) keepAddress();
}

let addressTimer = null;
function keepAddress() {
  clearTimeout(addressTimer); // browsers limit how often an address may change
  addressTimer = setTimeout(() => window.history.replaceState(null, "", toAddress(state)), 120);
}

function say(message) {
  el.message.textContent = message;
  el.body.classList.toggle("osx-stale", message !== "");
}

function change(part, name = null) {
  const next = checkState({ ...state, ...part }, library);
  if (same(next, state)) return;
  history.add(state, name);
  state = next;
  say("");
  draw();
}

function take(list, name) {
  for (const input of ["d1", "d2"]) el[input].removeAttribute("aria-invalid");
  list.forEach((digit, i) => (el[`d${i + 1}`].value = digit));
  if (same(list, state.list)) say("");
  change({ list }, name);
}

function travel(to) {
  if (to === null) return;
  state = to;
  for (const input of ["d1", "d2"]) el[input].removeAttribute("aria-invalid");
  state.list.forEach((digit, i) => (el[`d${i + 1}`].value = digit));
  say("");
  draw();
}

function readDigits() {
  const problems = [];
  const list = ["d1", "d2"].map((name) => {
    el[name].removeAttribute("aria-invalid");
    try {
      return parseDigit(el[name].value, name, current().N);
    } catch (problem) {
      el[name].setAttribute("aria-invalid", "true");
      problems.push(problem.message);
      return null;
    }
  });
  if (problems.length) say(`${problems.join(" ")} Below is still the list ${state.list.join(", ")}.`);
  else if (same(list, state.list)) say("");
  else change({ list }, "type");
}

function randomOf(wanted) {
  const N = current().N;
  const indices = wanted === null ? Array.from({ length: N * N }, (_, i) => i) : Array.from(outcomes.keys()).filter((i) => wanted(outcomes[i]));
  if (!indices.length) return say("No list comes out wrong now.");
  const at = indices[Math.floor(Math.random() * indices.length)];
  take([Math.floor(at / N), at % N]);
}

function selectModel(name) {
  const of = library.model({ model: name, step: null });
  const list = state.list.map((digit) => Math.min(digit, of.N - 1));
  change({ ...structuredClone(UNTOUCHED), mode: state.mode, step: null, model: name, list });
}

function firstState() {
  const of = (name) => library.model({ model: name, step: null });
  const name = library.names[0];
  const told = of(name).L === 2 ? tour.told(of(name)) : null;
  const list = told?.list ?? [Math.floor(of(name).N / 2), Math.floor(of(name).N / 5)];
  return checkState({ model: name, list, tab: told && data.models.length > 1 ? "tour" : "weights" }, library);
}

function fromLocation() {
  try {
    const parts = data.address ? fromAddress(location.hash) : null;
    return parts && checkState({ ...parts }, library);
  } catch (problem) {
    el.message.textContent = `The address cannot be read: ${problem.message}`;
    return null;
  }
}

for (const name of library.names) {
  const option = element("option", "", name);
  option.value = name;
  el.model.append(option);
}
el.modelChoice.hidden = library.names.length === 1;
for (const name of ["d1", "d2"]) el[name].addEventListener("input", readDigits);
el.model.addEventListener("change", () => selectModel(el.model.value));
el.random.addEventListener("click", () => randomOf(null));
el.wrong.addEventListener("click", () => randomOf((outcome) => outcome > 0));
el.reverse.addEventListener("click", () => take([...state.list].reverse()));
el.undo.addEventListener("click", () => travel(history.undo(state)));
el.redo.addEventListener("click", () => travel(history.redo(state)));
el.restore.addEventListener("click", () => change({ ...structuredClone(UNTOUCHED), mode: state.mode, step: null }));
el.renormalize.addEventListener("change", () => change({ mode: "renormalize" }));
el.zero.addEventListener("change", () => change({ mode: "zero" }));
el.tourBack.addEventListener("click", () => goTo(state.tour - 1));
el.tourNext.addEventListener("click", () => goTo(state.tour + 1));
el.tourAgain.addEventListener("click", () => goTo(state.tour));
el.filmStep.addEventListener("input", () => {
  const steps = library.steps(state.model);
  const at = Number(el.filmStep.value);
  change({ step: at >= steps.length ? null : steps[at] }, "film");
});
el.filmPlay.addEventListener("click", play);
el.map.addEventListener("osx-redraw", draw);
for (const [i, name] of TABS.entries()) {
  el[`tab ${name}`].addEventListener("click", () => change({ tab: name }, "tab"));
  el[`tab ${name}`].addEventListener("keydown", (event) => {
    const to = { ArrowRight: i + 1, ArrowLeft: i - 1, Home: 0, End: TABS.length - 1 }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    const next = TABS[(to + TABS.length) % TABS.length];
    change({ tab: next }, "tab");
    el[`tab ${next}`].focus();
  });
}
root.addEventListener("keydown", (event) => {
  if (event.key.toLowerCase() !== "z" || !(event.ctrlKey || event.metaKey) || event.target.matches("input[type=text], textarea")) return;
  event.preventDefault();
  travel(event.shiftKey ? history.redo(state) : history.undo(state));
});
el.svg.addEventListener("click", () => download("explorer.svg", asData("image/svg+xml", picture())));
el.png.addEventListener("click", async () => download("explorer.png", await toPng(picture())));
el.saveJson.addEventListener("click", () => download("explorer.json", asData("application/json", el.json.value)));
for (const name of ["link", "json", "python"]) {
  el[`copy ${name}`].addEventListener("click", async () => {
    el[name].select();
    try {
      await navigator.clipboard.writeText(el[name].value);
    } catch {
      document.execCommand("copy"); // pages from a file may not use the clipboard otherwise
    }
    el.copied.textContent = "Copied.";
  });
}
if (data.address) {
  window.addEventListener("hashchange", () => {
    const found = fromLocation();
    if (found && !same(found, state)) travel(found);
  });
}
state = fromLocation() ?? firstState();
const problem = el.message.textContent;
travel(state);
if (problem) el.message.textContent = problem;
root.explorer = {
  compute: (given) => {
    const whole = checkState(given, library);
    return library.model(whole).compute(whole);
  },
  outcomes: (given) => {
    const whole = checkState(given, library);
    return Array.from(library.model(whole).outcomes(whole));
  },
  change,
  state: () => structuredClone(state),
  library,
};
