// The page: state in, everything on it drawn again.
const root = document.currentScript.closest(".orderscale-explorer");
const el = Object.fromEntries(
  Array.from(root.querySelectorAll("[data-el]"), (node) => [node.dataset.el, node]),
);
const data = JSON.parse(el.data.textContent);
const circuit = makeCircuit(data);
window.orderscaleExplorer = { compute: circuit.compute };

const UNTOUCHED = { alpha: null, beta: null, cuts: [], mode: "renormalize" };
const SEARCH_TRIES = 20000; // random lists looked at for a wrong one
const SWEEP_STEPS = 100;
const ROWS_SHOWN = 6; // tokens of an output's distribution: both digits and the most likely others
let state = { ...UNTOUCHED, digits: data.examples[0] };

const tokenName = (token) => ({ [circuit.MASK]: "MASK", [circuit.SEP]: "SEP" })[token] ?? String(token);
const weightText = (weight) => weight.toFixed(3);
function percent(share) {
  if (share > 0 && share < 0.001) return "<0.1 %";
  if (share < 1 && share > 0.999) return ">99.9 %";
  return `${(100 * share).toFixed(1)} %`;
}
// Which input a token is: "d1", "d2", "d1 and d2" or nothing.
function roleOf(token) {
  return ["d1", "d2"].filter((_, i) => state.digits[i] === token).join(" and ");
}
const roleClass = (token) => ({ d1: "osx-d1", d2: "osx-d2" })[roleOf(token).slice(0, 2)] ?? "osx-other";

// ---- the information-flow graph -----------------------------------------------------------------
const NAMES = ["d1", "d2", "SEP", "o1", "o2"];
const column = (position) => 68 + 74 * position;
const ROW_Y = [46, 194, 342];
const NODE = { width: 52, height: 32 };
// Where an edge starts and ends: [position, layer, offset from the node's middle].
const EDGE_VIEWS = [
  { edge: "L0 SEP<-d1", from: [0, 0, 0], to: [2, 1, -10], at: 0.27, symbol: "α₁", weight: (r) => r.alpha[0], kind: "d1" },
  { edge: "L0 SEP<-d2", from: [1, 0, 0], to: [2, 1, 10], at: 0.5, symbol: "α₂", weight: (r) => r.alpha[1], kind: "d2" },
  { edge: "L1 o1<-SEP", from: [2, 1, -10], to: [3, 2, 0], at: 0.74, symbol: "", weight: (r) => r.gamma, kind: "read" },
  { edge: "L1 o2<-SEP", from: [2, 1, 10], to: [4, 2, -11], at: 0.45, symbol: "βₛ", weight: (r) => r.beta[0], kind: "read" },
  { edge: "L1 o2<-o1", from: [3, 1, 0], to: [4, 2, 11], at: 0.18, symbol: "βₒ", weight: (r) => r.beta[1], kind: "read" },
];
const LIVE_NODES = ["0 0", "1 0", "2 0", "3 0", "4 0", "2 1", "3 1", "4 1", "3 2", "4 2"]; // position, layer

function edgeSentence(view, weight, isCut) {
  const [layer, query, key] = view.edge.match(/L(\d) (\w+)<-(\w+)/).slice(1);
  const what = `Layer ${Number(layer) + 1}: ${query} reads ${key}`;
  return isCut ? `${what}, cut. Press to restore.` : `${what} with weight ${weightText(weight)}. Press to cut.`;
}

function drawGraphOnce() {
  const parts = [];
  NAMES.forEach((name, position) => {
    parts.push(`<text class="osx-head" x="${column(position)}" y="18">${name}</text>`);
    parts.push(`<path class="osx-residual" d="M${column(position)} ${ROW_Y[0]}V${ROW_Y[2]}"/>`);
  });
  [["input"], ["after", "layer 1"], ["after", "layer 2"]].forEach((lines, layer) => {
    const top = ROW_Y[layer] + 4 - 7 * (lines.length - 1);
    lines.forEach((line, i) => parts.push(`<text class="osx-row" x="0" y="${top + 14 * i}">${line}</text>`));
  });
  for (const view of EDGE_VIEWS) {
    parts.push(
      `<g class="osx-edge osx-${view.kind}" data-edge="${view.edge.replace("<", "&lt;")}" role="button" tabindex="0">` +
        `<title></title><path class="osx-hit"/><path class="osx-line"/><path class="osx-tip"/>` +
        `<rect class="osx-pill" height="22" rx="11"/><text class="osx-weight"></text></g>`,
    );
  }
  NAMES.forEach((_, position) => {
    ROW_Y.forEach((y, layer) => {
      const x = column(position);
      if (!LIVE_NODES.includes(`${position} ${layer}`)) {
        parts.push(`<circle class="osx-dead" cx="${x}" cy="${y}" r="3"/>`);
        return;
      }
      const box = `x="${x - NODE.width / 2}" y="${y - NODE.height / 2}" width="${NODE.width}" height="${NODE.height}"`;
      parts.push(
        `<g class="osx-node" data-node="${position} ${layer}"><rect ${box} rx="9"/>` +
          (position === 2 && layer === 1 ? `<path class="osx-share-d1"/><path class="osx-share-d2"/>` : "") +
          `<text x="${x}" y="${y + 5}"></text></g>`,
      );
    });
  });
  for (const [i, position] of [3, 4].entries()) {
    parts.push(`<text class="osx-verdict" data-verdict="${i}" x="${column(position)}" y="378"></text>`);
  }
  el.flow.innerHTML = parts.join("");
  for (const group of el.flow.querySelectorAll(".osx-edge")) {
    const toggle = () => {
      const edge = group.dataset.edge;
      const cuts = state.cuts.includes(edge) ? state.cuts.filter((x) => x !== edge) : [...state.cuts, edge];
      change({ cuts });
    };
    group.addEventListener("click", toggle);
    group.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault();
      toggle();
    });
  }
}

function drawEdge(view, result) {
  const group = el.flow.querySelector(`[data-edge="${view.edge}"]`);
  const isCut = state.cuts.includes(view.edge);
  const weight = view.weight(result);
  const [x1, y1] = [column(view.from[0]) + view.from[2], ROW_Y[view.from[1]] + NODE.height / 2];
  const [x2, y2] = [column(view.to[0]) + view.to[2], ROW_Y[view.to[1]] - NODE.height / 2];
  const length = Math.hypot(x2 - x1, y2 - y1);
  const [dx, dy] = [(x2 - x1) / length, (y2 - y1) / length];
  const width = isCut ? 1.5 : 1 + 9 * Math.min(weight, 1);
  const tip = 8 + width / 2;
  const half = 3.5 + width / 2;
  const [bx, by] = [x2 - tip * dx, y2 - tip * dy];
  const label = isCut ? `${view.symbol} ✕ cut` : `${view.symbol} ${weightText(weight)}`;
  const [lx, ly] = [x1 + view.at * (x2 - x1), y1 + view.at * (y2 - y1)];
  const pill = view.symbol ? 64 : 48;
  group.classList.toggle("osx-cut", isCut);
  group.setAttribute("aria-pressed", String(isCut));
  group.setAttribute("aria-label", edgeSentence(view, weight, isCut));
  group.querySelector("title").textContent = edgeSentence(view, weight, isCut);
  group.querySelector(".osx-hit").setAttribute("d", `M${x1} ${y1}L${x2} ${y2}`);
  const line = group.querySelector(".osx-line");
  line.setAttribute("d", `M${x1} ${y1}L${bx} ${by}`);
  line.style.strokeWidth = width;
  group
    .querySelector(".osx-tip")
    .setAttribute("d", `M${x2} ${y2}L${bx - half * dy} ${by + half * dx}L${bx + half * dy} ${by - half * dx}Z`);
  const rect = group.querySelector(".osx-pill");
  rect.setAttribute("x", lx - pill / 2);
  rect.setAttribute("y", ly - 11);
  rect.setAttribute("width", pill);
  const text = group.querySelector(".osx-weight");
  text.setAttribute("x", lx);
  text.setAttribute("y", ly + 4.5);
  text.textContent = label.trim();
}

function drawNodes(result) {
  const set = (node, text, className) => {
    const group = el.flow.querySelector(`[data-node="${node}"]`);
    group.setAttribute("class", `osx-node ${className}`);
    group.querySelector("text").textContent = text;
  };
  set("0 0", state.digits[0], "osx-d1");
  set("1 0", state.digits[1], "osx-d2");
  set("2 0", "SEP", "");
  set("2 1", "SEP", "osx-sep");
  for (const node of ["3 0", "4 0", "3 1", "4 1"]) set(node, "MASK", "osx-empty");
  // SEP's lower edge shows how much of each digit it holds; the full width is a weight of 1.
  const [left, bottom] = [column(2) - 21, ROW_Y[1] + 13];
  const split = left + 42 * Math.min(result.alpha[0], 1);
  const end = Math.min(split + 42 * result.alpha[1], left + 42);
  const sep = el.flow.querySelector('[data-node="2 1"]');
  sep.querySelector("text").setAttribute("y", ROW_Y[1] + 2);
  sep.querySelector(".osx-share-d1").setAttribute("d", `M${left} ${bottom}H${split}v-7H${left}Z`);
  sep.querySelector(".osx-share-d2").setAttribute("d", `M${split} ${bottom}H${end}v-7H${split}Z`);
  result.predictions.forEach((token, i) => {
    set(`${3 + i} 2`, tokenName(token), `osx-said ${roleClass(token)}`);
    const verdict = el.flow.querySelector(`[data-verdict="${i}"]`);
    const isRight = token === state.digits[i];
    verdict.textContent = isRight ? "✓ right" : "✗ wrong";
    verdict.setAttribute("class", `osx-verdict ${isRight ? "" : "osx-wrong"}`);
  });
}

// ---- in words -----------------------------------------------------------------------------------
function sepSentence(result) {
  const [a1, a2] = result.alpha;
  const [d1, d2] = state.digits;
  const shares = `α₁ = ${weightText(a1)}, α₂ = ${weightText(a2)}`;
  if (a1 === 0 && a2 === 0) return "SEP holds neither digit, so the outputs do not depend on the list.";
  if (a1 === 0 || a2 === 0) {
    const held = a1 === 0 ? `d2 = ${d2}` : `d1 = ${d1}`;
    return `SEP holds only ${held} (${shares}); the other digit cannot reach any output.`;
  }
  if (d1 === d2) return `Both digits are ${d1}; SEP holds it twice (${shares}).`;
  if (weightText(a1) === weightText(a2)) return `In SEP both digits have the same scale (${shares}).`;
  const larger = a1 > a2 ? `d1 = ${d1}` : `d2 = ${d2}`;
  return `In SEP, ${larger} has the larger share (${shares}).`;
}

function outputSentence(i, result, probabilities) {
  const name = `o${i + 1}`;
  const token = result.predictions[i];
  const sure = percent(probabilities[i][token]);
  const role = roleOf(token);
  const isRight = token === state.digits[i];
  const meaning = role ? `that is ${role}` : "neither digit";
  const reads = [result.gamma, result.beta[0]][i] === 0 ? ` It reads nothing of SEP.` : "";
  return `${name} says ${tokenName(token)} (${sure}): ${meaning}, ${isRight ? "right" : "wrong"}.${reads}`;
}

function verdictSentence(result) {
  const [p1, p2] = result.predictions;
  const [d1, d2] = state.digits;
  if (p1 === d1 && p2 === d2) return "Both outputs are right.";
  if (p1 === d2 && p2 === d1) return "The outputs come out reversed.";
  if (p1 === p2) return `Both outputs say ${tokenName(p1)}.`;
  return "The list does not come back.";
}

function changesSentence() {
  if (state.alpha === null && state.beta === null && state.cuts.length === 0) {
    return "Nothing is changed: this is what the model does.";
  }
  const untouched = circuit.compute({ ...UNTOUCHED, digits: state.digits }).predictions.map(tokenName);
  return `Without your changes o1 says ${untouched[0]} and o2 says ${untouched[1]}.`;
}

function drawWords(result, probabilities) {
  const isRight = result.predictions.every((token, i) => token === state.digits[i]);
  const lines = [
    [verdictSentence(result), `osx-lead ${isRight ? "" : "osx-wrong"}`],
    [sepSentence(result), ""],
    [outputSentence(0, result, probabilities), ""],
    [outputSentence(1, result, probabilities), ""],
    [changesSentence(), "osx-quiet"],
  ];
  el.words.replaceChildren(...lines.map(([text, className]) => element("p", className, text)));
}

// ---- the outputs --------------------------------------------------------------------------------
function element(tag, className, text) {
  const node = document.createElement(tag);
  node.className = className;
  if (text !== undefined) node.textContent = text;
  return node;
}

function bars(probabilities) {
  const ranked = Array.from(probabilities.keys()).sort((a, b) => probabilities[b] - probabilities[a] || a - b);
  const digits = new Set(state.digits);
  const others = ranked.filter((token) => !digits.has(token)).slice(0, ROWS_SHOWN - digits.size);
  const list = element("ol", "osx-bars");
  for (const token of ranked.filter((x) => digits.has(x) || others.includes(x))) {
    const item = element("li", roleClass(token));
    const fill = element("span", "osx-fill");
    fill.style.width = `${100 * probabilities[token]}%`;
    const track = element("span", "osx-track");
    track.append(fill);
    const value = element("span", "osx-value", percent(probabilities[token]));
    item.append(element("span", "osx-token", tokenName(token)), element("span", "osx-role", roleOf(token)), track, value);
    list.append(item);
  }
  return list;
}

function sweepOfAlpha() {
  return Array.from({ length: SWEEP_STEPS + 1 }, (_, step) => {
    const alpha1 = step / SWEEP_STEPS;
    const result = circuit.compute({ ...state, alpha: [alpha1, 1 - alpha1] });
    return { alpha1, predictions: result.predictions, probabilities: result.logits.map(circuit.softmax) };
  });
}

function sweepSentence(sweep, i) {
  const stretches = [];
  for (const { alpha1, predictions } of sweep) {
    if (stretches.at(-1)?.token !== predictions[i]) stretches.push({ from: alpha1, token: predictions[i] });
  }
  if (stretches.length > 4) return `Over all α₁ the answer changes ${stretches.length - 1} times.`;
  const [first, ...rest] = stretches.map(({ from, token }) => ({ from: from.toFixed(2), name: tokenName(token) }));
  if (!rest.length) return `Whatever α₁ is, o${i + 1} says ${first.name}.`;
  return `As α₁ grows from 0, o${i + 1} says ${first.name}, ` + rest.map((x) => `from ${x.from} on ${x.name}`).join(", ") + ".";
}

function sweepPlot(sweep, i, result) {
  const curve = (token) =>
    sweep.map((at, n) => `${n ? "L" : "M"}${200 * at.alpha1} ${(60 - 56 * at.probabilities[i][token]).toFixed(2)}`).join("");
  const here = 200 * Math.min(result.alphaBeforeCuts[0], 1);
  const plot = element("div", "osx-sweep");
  plot.innerHTML =
    `<svg viewBox="0 0 200 64" preserveAspectRatio="none" aria-hidden="true"><path class="osx-axis" d="M0 60H200M0 4H200"/>` +
    `<path class="osx-here" d="M${here} 0V64"/><path class="osx-curve osx-d1" d="${curve(state.digits[0])}"/>` +
    `<path class="osx-curve osx-d2" d="${curve(state.digits[1])}"/></svg>` +
    `<div class="osx-ends"><span>α₁ = 0</span><span class="osx-key"><b class="osx-d1">━ d1</b> ` +
    `<b class="osx-d2">╍ d2</b></span><span>α₁ = 1</span></div>`;
  return plot;
}

function drawOutput(i, result, probabilities, sweep) {
  const title = element("h4", "", `o${i + 1} `);
  title.append(element("span", "osx-quiet", `should say d${i + 1} = ${state.digits[i]}`));
  const [s1, s2] = result.scales[i].map(weightText);
  const scales = element("p", "", `d1's vector enters o${i + 1} at scale ${s1}, d2's at ${s2}.`);
  const heading = element("p", "osx-quiet osx-heading", "Probability of each, for every α₁ (the bar marks the present one)");
  const caption = element("p", "osx-quiet", sweepSentence(sweep, i));
  el[`output${i + 1}`].replaceChildren(
    title, bars(probabilities[i]), scales, heading, sweepPlot(sweep, i, result), caption,
  );
}

// ---- controls -----------------------------------------------------------------------------------
function drawControls(result) {
  const cutNote = (query) => (state.cuts.some((edge) => edge.includes(query)) ? ", before cuts" : "");
  const source = { null: "as the model computes it", swap: "the model's, swapped" };
  el.alpha.value = result.alphaBeforeCuts[0];
  el.alpha.style.setProperty("--osx-share", `${100 * result.alphaBeforeCuts[0]}%`);
  el.alpha1.textContent = `α₁ ${weightText(result.alphaBeforeCuts[0])}`;
  el.alpha2.textContent = `α₂ ${weightText(result.alphaBeforeCuts[1])}`;
  el.alphaSource.textContent = (source[state.alpha] ?? "set by you") + cutNote("SEP<-");
  el.resetAlpha.disabled = state.alpha === null;
  el.swap.setAttribute("aria-pressed", String(state.alpha === "swap"));
  el.beta.value = result.betaBeforeCuts[0];
  el.beta.style.setProperty("--osx-share", `${100 * result.betaBeforeCuts[0]}%`);
  el.betaS.textContent = `βₛ ${weightText(result.betaBeforeCuts[0])}`;
  el.betaO1.textContent = `βₒ ${weightText(result.betaBeforeCuts[1])}`;
  el.betaSource.textContent = (source[state.beta] ?? "set by you") + cutNote("o2<-");
  el.resetBeta.disabled = state.beta === null;
  el.renormalize.checked = state.mode === "renormalize";
  el.zero.checked = state.mode === "zero";
  el.restore.disabled = state.alpha === null && state.beta === null && state.cuts.length === 0;
}

function draw() {
  const result = circuit.compute(state);
  const probabilities = result.logits.map(circuit.softmax);
  const sweep = sweepOfAlpha();
  EDGE_VIEWS.forEach((view) => drawEdge(view, result));
  drawNodes(result);
  drawWords(result, probabilities);
  drawControls(result);
  [0, 1].forEach((i) => drawOutput(i, result, probabilities, sweep));
}

function change(part) {
  state = { ...state, ...part };
  draw();
}

function show(digits) {
  ["d1", "d2"].forEach((name, i) => {
    el[name].value = digits[i];
    el[name].removeAttribute("aria-invalid");
  });
  say("");
  change({ digits });
}

function say(message) {
  el.message.textContent = message;
  el.body.classList.toggle("osx-stale", message !== "");
}

function readDigits() {
  const problems = [];
  const digits = ["d1", "d2"].map((name) => {
    el[name].removeAttribute("aria-invalid");
    try {
      return circuit.parseDigit(el[name].value, name);
    } catch (problem) {
      el[name].setAttribute("aria-invalid", "true");
      problems.push(problem.message);
      return null;
    }
  });
  if (problems.length) {
    say(`${problems.join(" ")} Below is still the list ${state.digits.join(", ")}.`);
    return;
  }
  say("");
  change({ digits });
}

const randomList = () => [0, 1].map(() => Math.floor(Math.random() * circuit.nDigits));

function showWrongList() {
  for (let tries = 0; tries < SEARCH_TRIES; tries++) {
    const digits = randomList();
    if (circuit.compute({ ...state, digits }).predictions.some((token, i) => token !== digits[i])) return show(digits);
  }
  el.message.textContent = `None of ${SEARCH_TRIES} random lists comes out wrong.`;
}

drawGraphOnce();
for (const name of ["d1", "d2"]) el[name].addEventListener("input", readDigits);
el.random.addEventListener("click", () => show(randomList()));
el.wrong.addEventListener("click", showWrongList);
el.alpha.addEventListener("input", () => change({ alpha: [Number(el.alpha.value), 1 - Number(el.alpha.value)] }));
el.beta.addEventListener("input", () => change({ beta: [Number(el.beta.value), 1 - Number(el.beta.value)] }));
el.resetAlpha.addEventListener("click", () => change({ alpha: null }));
el.resetBeta.addEventListener("click", () => change({ beta: null }));
el.swap.addEventListener("click", () => {
  const exchanged = { null: "swap", swap: null };
  change({ alpha: Array.isArray(state.alpha) ? [state.alpha[1], state.alpha[0]] : exchanged[state.alpha] });
});
el.renormalize.addEventListener("change", () => change({ mode: "renormalize" }));
el.zero.addEventListener("change", () => change({ mode: "zero" }));
el.restore.addEventListener("click", () => change(UNTOUCHED));
if (data.examples.length > 1) {
  el.examples.append("Examples: ");
  for (const digits of data.examples) {
    const button = element("button", "osx-example", digits.join(", "));
    button.type = "button";
    button.addEventListener("click", () => show(digits));
    el.examples.append(button);
  }
}
show(data.examples[0]);
