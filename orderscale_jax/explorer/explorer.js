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
