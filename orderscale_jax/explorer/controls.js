// Sliders and choices for the weights of every row that chooses between two keys.
const SOURCES = { null: "as the model computes", swap: "exchanged", reversed: "as in the reversed list", even: "equal" };

// A row of controls for two weights that sum to 1: a slider, and a choice of what the weights are.
function weightControl(title, names, colour, choices) {
  const box = element("div", "osx-control");
  const head = element("div", "osx-control-head");
  const label = element("span", "", title);
  const slider = element("input", colour);
  Object.assign(slider, { type: "range", min: 0, max: 1, step: 0.005 });
  slider.setAttribute("aria-label", `${title}: weight of ${names[0]}, the rest is that of ${names[1]}`);
  const select = element("select", "");
  select.setAttribute("aria-label", `${title}: where the weights come from`);
  for (const [value, text] of Object.entries({ ...choices, hand: "set by hand", differ: "digits and positions differ" })) {
    const option = element("option", "", text);
    option.value = value;
    select.append(option);
  }
  const ends = element("div", "osx-ends");
  ends.append(element("span", ""), element("span", ""), element("span", ""));
  head.append(label, select);
  box.append(head, slider, ends);
  return {
    box,
    slider,
    select,
    // `weights` null: digits and positions have weights of their own. `isCut`: some of the row is cut.
    draw(weights, value, isCut) {
      const source = value === null || typeof value === "string" ? String(value) : "hand";
      const [first, second] = weights ?? [0.5, 0.5];
      slider.value = first;
      slider.style.setProperty("--osx-share", `${100 * Math.min(first, 1)}%`);
      slider.classList.toggle("osx-mixed", !weights);
      const text = weights ? `${names[0]} ${weightText(first)}, ${names[1]} ${weightText(second)}` : "digits and positions differ";
      slider.setAttribute("aria-valuetext", text);
      ends.firstChild.textContent = weights ? `${names[0]} ${weightText(first)}` : "";
      ends.lastChild.textContent = weights ? `${names[1]} ${weightText(second)}` : "";
      ends.children[1].textContent = isCut ? "before the cut" : "";
      select.value = weights ? source : "differ";
      select.lastChild.hidden = weights !== null;
    },
  };
}

function makeControls(el, change) {
  const view = { key: null }; // for what rows they were built, and the controls themselves

  const byHand = (control) => [Number(control.slider.value), 1 - Number(control.slider.value)];
  // `set(value, name)` changes the state; a value is null, a name of weights, or two numbers.
  function listen(control, name, set) {
    control.slider.addEventListener("input", () => set(byHand(control), `slide ${name}`));
    control.select.addEventListener("change", () => {
      const { value } = control.select;
      set(value === "hand" ? byHand(control) : value === "null" ? null : value);
    });
    control.slider.dataset.el = `slider ${name}`;
    control.select.dataset.el = `select ${name}`;
    return control;
  }

  function build(rows) {
    Object.assign(view, { key: [IN_SEP, ...rows.map(({ name }) => name)].join(), parts: {}, rows: {} });
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
      view.parts[part] = listen(control, part, set);
      group.append(control.box);
    }
    const others = element("div", "osx-group");
    others.append(element("h3", "", "Other attention rows"));
    for (const { name, keys, query, layer } of rows) {
      const title = `What ${POSITIONS[query]} reads in layer ${layer}`;
      const control = weightControl(title, keys.map((k) => POSITIONS[k]), "osx-range-beta", { null: SOURCES.null });
      view.rows[name] = listen(control, name, (weights, by) =>
        change(({ patterns: { [name]: _, ...rest } }) => ({ patterns: weights ? { ...rest, [name]: weights } : rest }), by),
      );
      others.append(control.box);
    }
    others.append(el.mode);
    el.controls.replaceChildren(group, others);
  }

  return ({ state, model, result }) => {
    if (view.key !== model.choices.map(({ name }) => name).join()) build(model.choices.filter(({ name }) => name !== IN_SEP));
    const isCut = Object.fromEntries(model.choices.map(({ name, labels }) => [name, labels.some((x) => state.cuts.includes(x))]));
    const { both, digits, positions } = view.parts;
    const isJoint = same(state.digit_weights, state.position_weights);
    both.draw(isJoint ? result.rows[IN_SEP] : null, state.digit_weights, isCut[IN_SEP]);
    digits.draw(result.rows[IN_SEP], state.digit_weights, isCut[IN_SEP]);
    positions.draw(result.placesBefore, state.position_weights, isCut[IN_SEP]);
    for (const [name, control] of Object.entries(view.rows)) {
      control.draw(result.rows[name], state.patterns[name] ?? null, isCut[name]);
    }
    el.renormalize.checked = state.mode === "renormalize";
    el.zero.checked = state.mode === "zero";
  };
}
