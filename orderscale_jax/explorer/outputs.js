// The outputs: how likely each token is, and what would come out for every alpha_1.
const SWEEP_STEPS = 100;
const ROWS_SHOWN = 6; // tokens of an output's distribution: both digits and the most likely others

function bars({ state, model }, probabilities) {
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
function sweepOfAlpha({ state, model }) {
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

function sweepPlot({ state, result }, sweep, i) {
  const curve = (token) =>
    sweep.map((at, n) => `${n ? "L" : "M"}${200 * at.alpha1} ${(60 - 56 * at.probabilities[i][token]).toFixed(2)}`).join("");
  const isJoint = same(state.digit_weights, state.position_weights);
  const here = isJoint ? `M${200 * Math.min(result.rows[IN_SEP][0], 1)} 0V64` : "";
  const plot = element("div", "osx-sweep");
  const svg = svgElement("svg", { viewBox: "0 0 200 64", preserveAspectRatio: "none", "aria-hidden": "true" });
  svg.append(
    svgElement("path", { class: "osx-axis", d: "M0 60H200M0 4H200" }),
    svgElement("path", { class: "osx-here", d: here }),
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

function drawOutputs(el, view) {
  const { state, model, result } = view;
  const sweep = sweepOfAlpha(view);
  const isJoint = same(state.digit_weights, state.position_weights);
  [0, 1].forEach((i) => {
    const title = element("h3", "", `o${i + 1} `);
    title.append(element("span", "osx-quiet", `should say d${i + 1} = ${state.list[i]}`));
    const heading = element("p", "osx-quiet", isJoint
      ? "Probability of d1 and of d2 for every α₁; the bar marks the present one"
      : "Probability of d1 and of d2 for every α₁, if digits and positions had it together");
    el[`output${i + 1}`].replaceChildren(
      title, bars(view, softmax(result.logits[i])), heading, sweepPlot(view, sweep, i), element("p", "osx-quiet", sweepSentence(model, sweep, i)),
    );
  });
}
