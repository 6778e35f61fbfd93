// What came out, in words. A view is all that is drawn: state, model, result of its list, outcomes of all lists
// and their counts.
function sepSentence({ state, result }) {
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

const scalesInWords = (latents) => Object.entries(latents).map(([index, scale]) => `latent ${index} at ${scale} times its size`).join(", ");

// What stands in SEP's place.
function latentSentence({ state: { latents } }) {
  const scaled = scalesInWords(latents);
  return `In SEP's place stands what the autoencoder makes of it${scaled ? `, with ${scaled}` : ""}.`;
}

function outputSentence(i, { state, model, result }) {
  const token = result.predictions[i];
  const role = roleOf(state, token);
  const meaning = role ? `that is ${role}` : "neither digit";
  const sure = percent(softmax(result.logits[i])[token]);
  return `o${i + 1} says ${tokenName(model, token)} (${sure}): ${meaning}, ${token === state.list[i] ? "right" : "wrong"}.`;
}

function verdictSentence({ state, model, result }) {
  const list = state.list.join(", ");
  const [first, second] = result.predictions.map((token) => tokenName(model, token));
  if (result.outcome === 0) return `${list} comes out right.`;
  if (result.outcome === 1) return `${list} comes out reversed: ${first}, ${second}.`;
  if (first === second) return `${list} comes out as ${first} twice.`;
  return `${list} comes out as ${first}, ${second}.`;
}

function allSentence({ outcomes, counts }) {
  const [right, reversed] = counts.all;
  return `Of all ${number(outcomes.length)} lists ${number(right)} come out right, ${number(reversed)} reversed.`;
}

const summary = (view) => `${verdictSentence(view)} ${allSentence(view)}`;

function changesSentence({ state, model }) {
  if (!isChanged(state)) {
    const does = state.step === null ? "the model does" : `the model did after ${number(state.step)} steps`;
    return `Nothing is changed: this is what ${does}.`;
  }
  const before = model.compute({ ...UNTOUCHED, list: state.list }).predictions.map((token) => tokenName(model, token));
  return `Without the changes o1 says ${before[0]} and o2 says ${before[1]}.`;
}

function drawWords(el, view) {
  const lines = [
    [verdictSentence(view), `osx-lead ${view.result.outcome === 0 ? "" : "osx-wrong"}`],
    [allSentence(view), ""],
    [sepSentence(view), "osx-more"],
    ...(view.state.latents === null ? [] : [[latentSentence(view), "osx-more"]]),
    [outputSentence(0, view), "osx-more"],
    [outputSentence(1, view), "osx-more"],
    [changesSentence(view), "osx-quiet osx-more"],
  ];
  el.words.replaceChildren(...lines.map(([text, className]) => element("p", className, text)));
  const said = lines[0][0] + " " + lines[1][0];
  if (el.live.textContent !== said) el.live.textContent = said;
}
