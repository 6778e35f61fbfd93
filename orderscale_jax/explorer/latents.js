// The latents of an autoencoder that are on in a list, and a slider for the scale of each.
const MOST_LATENTS = 8; // that are listed
const SCALE_STEP = 0.05;
const THUMB = 24; // pixels of a slider's handle, whose middle marks the value
const scaleText = (scale) => scale.toFixed(2);
const signedText = (x) => x.toFixed(2).replace("-0.00", "0.00").replace("-", "−");

// What a latent goes with, of what is known of it.
function detectedBy({ special, digits }, index) {
  if (special.includes(index)) return "order";
  if (!digits[index].length) return "no digit of its own";
  return `digit${digits[index].length === 1 ? "" : "s"} ${digits[index].join(", ")}`;
}

// At which scales the list comes out reversed.
function reversalSentence([d1, d2], value, intervals) {
  if (d1 === d2) return "Both digits are the same: there is nothing to reverse.";
  const said = intervals.map(([from, to]) => `from ${scaleText(from)} to ${scaleText(to)}`).join(" and ");
  if (value === 0) return "Off in this list: it changes only others.";
  return said ? `Comes out reversed ${said}.` : "No scale of it reverses this list.";
}

// Where on a slider a scale is, as CSS has it.
const placeOf = (scale) => `calc(${THUMB / 2}px + (100% - ${THUMB}px) * ${(scale / LARGEST_SCALE).toFixed(6)})`;

// A slider's track: the intervals in the colour of reversed lists.
function trackOf(intervals) {
  const stops = intervals.flatMap(([from, to]) => [
    `var(--osx-read-rest) ${placeOf(from)}`, `var(--osx-map-1) ${placeOf(from)}`, `var(--osx-map-1) ${placeOf(to)}`, `var(--osx-read-rest) ${placeOf(to)}`,
  ]);
  return `linear-gradient(to right, var(--osx-read-rest) 0%, ${[...stops, "var(--osx-read-rest) 100%"].join(", ")})`;
}

// The middle of the widest interval, with few decimals where they do.
function scaleWithin(intervals) {
  const [[from, to]] = [...intervals].sort((a, b) => b[1] - b[0] - (a[1] - a[0]));
  const middle = (from + to) / 2;
  const shorter = [2, 4, 8].map((decimals) => Number(middle.toFixed(decimals)));
  return shorter.find((scale) => scale > from && scale < to) ?? middle;
}

function latentControl(index, detected, set) {
  const box = element("div", "osx-control");
  const head = element("div", "osx-control-head");
  const now = element("span", "osx-scale-now");
  head.append(element("span", "", `Latent ${index}: ${detected}`), now);
  const slider = element("input", "osx-range-latent");
  Object.assign(slider, { type: "range", min: LOWEST_SCALE, max: LARGEST_SCALE, step: SCALE_STEP });
  slider.setAttribute("aria-label", `Scale of latent ${index}, ${detected}`);
  slider.dataset.el = `slider latent ${index}`;
  slider.addEventListener("input", () => set(Number(slider.value), `scale ${index}`));
  const ticks = element("div", "osx-scale-ticks");
  ticks.setAttribute("aria-hidden", "true");
  for (const scale of [LOWEST_SCALE, 1, LARGEST_SCALE]) {
    const tick = element("span", "", String(scale));
    tick.style.left = placeOf(scale);
    ticks.append(tick);
  }
  const about = element("p", "osx-quiet");
  const where = element("span", "");
  let intervals = [];
  const reverse = button("Reverse it", () => set(scaleWithin(intervals)));
  reverse.setAttribute("aria-label", `Reverse the list by latent ${index}`);
  const foot = element("div", "osx-latent-foot");
  foot.append(where, reverse);
  box.append(head, about, slider, ticks, foot);
  return {
    box,
    slider,
    draw({ state, model, result }, value) {
      const scale = state.latents?.[index] ?? 1;
      intervals = model.reversals(state, index);
      now.textContent = scale === 1 ? "× 1, as it is" : `× ${scaleText(scale)}`;
      const on = value ? `activation ${value.toFixed(3)}` : "off in this list";
      about.textContent = `${on}, correlation with α₁ − α₂ ${signedText(model.sae.correlations[index])}`;
      slider.value = scale;
      slider.style.setProperty("--osx-parts", trackOf(intervals));
      const comes = state.latents === null ? "" : `, ${OUTCOMES[result.outcome]}`;
      slider.setAttribute("aria-valuetext", `${scaleText(scale)} times${comes}`);
      where.textContent = reversalSentence(state.list, value, intervals);
      enable(reverse, intervals.length > 0 && value > 0);
    },
  };
}

// What the outputs say of SEP, of its reconstruction, and of this with scaled latents.
function answerRows({ state, model }) {
  const kinds = [["SEP itself", null], ["its reconstruction", {}]];
  if (Object.keys(state.latents ?? {}).length) kinds.push(["the same, scaled", state.latents]);
  return kinds.map(([name, latents]) => {
    const { predictions, logits, outcome } = model.compute({ ...state, latents });
    const row = element("tr", same(latents, state.latents) ? "osx-now" : "");
    const head = element("th", "", name);
    head.scope = "row";
    const cells = predictions.map((token, i) => {
      const cell = element("td", roleClass(state, token), tokenName(model, token));
      cell.append(" ", element("span", "osx-quiet", percent(softmax(logits[i])[token])));
      return cell;
    });
    row.append(head, ...cells, element("td", outcome === 0 ? "" : "osx-wrong", OUTCOMES[outcome]));
    return row;
  });
}

function makeLatents(el, library, change) {
  const controls = new Map(); // by model and index
  let shown = [];
  const [other] = library.withLatents;
  el.latentsOther.textContent = `Show those of ${other}`;
  el.latentsOther.addEventListener("click", () => change({ model: other, step: null, latents: null }));
  el.sae.addEventListener("change", () => change({ latents: el.sae.checked ? {} : null }));

  function control(name, sae, index) {
    const key = `${name} ${index}`;
    if (!controls.has(key)) {
      const set = (scale, by = null) => change(({ latents }) => ({ latents: { ...latents, [index]: scale } }), by);
      controls.set(key, latentControl(index, detectedBy(sae, index), set));
    }
    return controls.get(key);
  }

  // The one that goes most with order, those that are on, the largest first, those that are scaled, and the one
  // that has the focus.
  function listed({ state, model: { sae }, result }, focused) {
    const strength = sae.correlations.map(Math.abs);
    const on = [...result.latents].sort((a, b) => b.value - a.value || a.index - b.index).map(({ index }) => index);
    const scaled = Object.keys(state.latents ?? {}).map(Number);
    const [first, ...rest] = new Set([strength.indexOf(Math.max(...strength)), ...on.slice(0, MOST_LATENTS), ...scaled, ...focused]);
    return { indices: [first, ...rest], hidden: on.filter((index) => ![first, ...rest].includes(index)).length };
  }

  return (view) => {
    const { state, model, result } = view;
    const { sae } = model;
    el.latentsBody.hidden = !sae;
    el.latentsOther.hidden = Boolean(sae) || !other;
    el.latentsWhy.hidden = Boolean(sae);
    if (!sae) {
      el.latentsWhy.textContent = state.step === null || !library.withLatents.includes(state.model)
        ? `This page holds no autoencoder of ${state.model}.`
        : "The autoencoder is of the trained model, not of a step of its training.";
      return;
    }
    el.sae.checked = state.latents !== null;
    el.saeRows.replaceChildren(...answerRows(view));
    const focused = shown.filter((index) => controls.get(`${state.model} ${index}`)?.slider === document.activeElement);
    const { indices, hidden } = listed(view, focused);
    el.latentsTitle.textContent = `Of ${sae.F} latents ${result.latents.length} are on in ${state.list.join(", ")}`;
    el.latentsMore.textContent = hidden ? `${hidden} weaker ones are not listed.` : "";
    const chosen = indices.map((index) => control(state.model, sae, index));
    if (chosen.some(({ box }, i) => el.latentsRows.children[i] !== box) || el.latentsRows.children.length !== chosen.length) {
      el.latentsRows.replaceChildren(...chosen.map(({ box }) => box));
      for (const index of focused) control(state.model, sae, index).slider.focus();
    }
    shown = indices;
    const values = new Map(result.latents.map(({ index, value }) => [index, value]));
    chosen.forEach((row, i) => row.draw(view, values.get(indices[i]) ?? 0));
  };
}
