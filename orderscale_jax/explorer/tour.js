// Five steps from a list to what carries its order. Every number in them is counted on the page.
const NEAR = 0.02; // alphas no further apart than this count as nearly equal,
const FAR = 0.2; // and from here on as far apart

function makeTour(el, library, go) {
  const found = new Map(); // by name of a model: what the steps tell

  // A list that shows what the steps say, and the counts of all; null where no list of the model shows it.
  function study(name) {
    if (!found.has(name)) found.set(name, count(library.trained(name), library.validation(name)));
    return found.get(name);
  }
  function count(model, validation) {
    const { N } = model;
    const under = (changes) => model.outcomes({ ...UNTOUCHED, ...changes });
    const [intact, alphas, places, digits, even] = [
      under({}),
      under({ digit_weights: "swap", position_weights: "swap" }),
      under({ position_weights: "swap" }),
      under({ digit_weights: "swap" }),
      under({ digit_weights: "even" }),
    ];
    const gap = (d1, d2) => Math.abs(2 * model.alpha(d1, d2) - 1);
    const isSame = (d1, d2) => model.alpha(d1, d2) > 0.5 !== model.alpha(d2, d1) > 0.5;
    let list = null;
    let wrong = null;
    const counts = { same: 0, pairs: 0, near: [0, 0], far: [0, 0] };
    for (let d1 = 0; d1 < N; d1++) {
      for (let d2 = 0; d2 < N; d2++) {
        const [at, turned] = [d1 * N + d2, d2 * N + d1];
        const apart = gap(d1, d2);
        const bin = apart < NEAR ? counts.near : apart > FAR ? counts.far : null;
        if (bin && d1 !== d2 && (!validation || validation[at])) {
          bin[1]++;
          if (intact[at] === 0) bin[0]++;
        }
        if (d1 === d2) continue;
        if (d1 < d2) {
          counts.pairs++;
          if (isSame(d1, d2)) counts.same++;
        }
        const shows = intact[at] === 0 && intact[turned] === 0 && alphas[at] > 1 && places[at] === 1;
        const middling = apart > 0.15 && apart < 0.45 && gap(d2, d1) > 0.15;
        if (!list && shows && middling && isSame(d1, d2) && d1 > N / 4) list = [d1, d2];
        // The wrong list with the nearest weights, one that comes out reversed if there is any.
        const closeness = (intact[at] === 1 ? 0 : 1) + apart;
        if (intact[at] !== 0 && (!wrong || closeness < wrong.closeness)) wrong = { list: [d1, d2], closeness };
      }
    }
    const share = (outcomes, of) => {
      const count = countOutcomes(outcomes, N, null).different;
      return count[of] / (N * N - N);
    };
    return list && wrong && counts.near[1] && counts.far[1] && {
      model,
      of: validation ? "validation lists" : "lists",
      list,
      wrong: wrong.list,
      same: counts.same / counts.pairs,
      alphas: share(alphas, 1),
      places: share(places, 1),
      digits: share(digits, 1),
      intact: share(intact, 0),
      even: share(even, 0),
      near: counts.near[0] / counts.near[1],
      far: counts.far[0] / counts.far[1],
    };
  }

  const saying = (model, state) => model.compute({ ...UNTOUCHED, ...state }).predictions.map((x) => tokenName(model, x));

  const STEPS = [
    {
      title: "Two digits go through one token",
      state: ({ list }) => ({ list }),
      text({ model, list: [a, b] }) {
        const first = model.alpha(a, b);
        return [
          `The outputs cannot see the digits, only SEP. SEP reads d1 = ${a} with weight α₁ = ${weightText(first)} and ` +
            `d2 = ${b} with α₂ = ${weightText(1 - first)}, and out come ${a} and ${b}, in order.`,
          "So SEP holds the order, too. The paper says that it is kept in the relative size of the two weights.",
        ];
      },
    },
    {
      title: "Reverse the list",
      state: ({ list }) => ({ list: [...list].reverse() }),
      text({ model, list: [a, b], same }) {
        const [before, after] = [model.alpha(a, b), 1 - model.alpha(b, a)];
        const which = before > 0.5 ? a : b;
        const [was, is] = before > 0.5 ? [before, after] : [1 - before, 1 - after];
        return [
          `Now ${b} stands first. The weight of ${which} was ${weightText(was)} and is ${weightText(is)}: still the larger one.`,
          `So it is for ${percent(same)} of the pairs of digits. Which weight is larger says mostly which digits ` +
            "these are, not which of them comes first.",
        ];
      },
    },
    {
      title: "Exchange α₁ and α₂",
      state: ({ list }) => ({ list, digit_weights: "swap", position_weights: "swap" }),
      text({ model, list, alphas }) {
        const [o1, o2] = saying(model, { list, digit_weights: "swap", position_weights: "swap" });
        return [
          "The first list again. If the order were in these two weights as a whole, exchanging them would turn the list " +
            `round. o1 says ${o1}, o2 says ${o2}: it does not.`,
          `Of all lists of two different digits, ${percent(alphas)} come out reversed (orange on the map). But the exchange ` +
            "also gives the digits weights that hardly any list gives them, so a failure alone proves little.",
        ];
      },
    },
    {
      title: "Exchange the weights of the positions alone",
      state: ({ list }) => ({ list, position_weights: "swap" }),
      text({ model, list, places, digits }) {
        const [o1, o2] = saying(model, { list, position_weights: "swap" });
        return [
          "Each α weighs two vectors at once: that of a digit, E[d], and that of its position, P₁ or P₂. " +
            `Leave the digits as they are and exchange what SEP holds of P₁ and P₂. o1 says ${o1}, o2 says ${o2}: reversed.`,
          `So it is for ${percent(places)} of the lists; exchanging the digits' weights alone reverses ${percent(digits)}.`,
        ];
      },
      more: ["Exchange the digits' weights instead", ({ list }) => ({ list, digit_weights: "swap" })],
    },
    {
      title: "Where it breaks",
      state: ({ wrong }) => ({ list: wrong }),
      text({ model, wrong, of, near, far, even, intact }) {
        const first = model.alpha(...wrong);
        return [
          `Here α₁ = ${weightText(first)} and α₂ = ${weightText(1 - first)}: SEP holds both digits and both positions in nearly ` +
            `equal shares, and the list comes out as ${saying(model, { list: wrong }).join(", ")}. With weights less than ${NEAR} ` +
            `apart ${percent(near)} of the ${of} are right, with more than ${FAR} apart ${percent(far)}.`,
          `The digits' weights count, too: weigh E[d1] and E[d2] equally, and ${percent(even)} of all lists are right ` +
            `(${percent(intact)} before). How the outputs read the one against the other is not known.`,
        ];
      },
      more: ["Weigh the digits equally", ({ list }) => ({ list, digit_weights: "even" })],
    },
  ];

  const stateOf = (make, told) => ({ ...structuredClone(UNTOUCHED), step: null, ...make(told) });
  const isAt = (state, wanted) => Object.entries(wanted).every(([key, value]) => same(state[key], value));
  const shown = (name) => (library.trained(name).L === 2 ? study(name) : null);
  const stateAt = (step, name) => ({ ...stateOf(STEPS[step].state, study(name)), tour: step });

  const press = (node, act) => node.addEventListener("click", () => isOff(node) || act());
  press(el.tourBack, () => go(({ tour, model }) => stateAt(tour - 1, model)));
  press(el.tourNext, () => go(({ tour, model }) => stateAt(tour + 1, model)));
  el.tourAgain.addEventListener("click", () => go(({ tour, model }) => stateAt(tour, model)));
  el.tourMore.addEventListener("click", () => go(({ tour, model }) => stateOf(STEPS[tour].more[1], study(model))));
  const other = library.names.find((name) => library.trained(name).L === 2);
  el.tourOther.textContent = other ? `Show it for ${other}` : "";
  el.tourOther.addEventListener("click", () => go(() => ({ model: other, ...stateAt(0, other) })));

  return {
    exists: Boolean(other),
    shown,
    stateAt,
    draw({ state }) {
      const told = shown(state.model);
      const isTwo = library.trained(state.model).L === 2;
      el.tourWhy.textContent = told
        ? ""
        : isTwo
          ? "No list of this model shows all of the tour's steps."
          : "The tour is about models of two layers.";
      el.tourOther.hidden = isTwo || !other;
      el.tourBody.hidden = !told;
      if (!told) return;
      const { title, text, more } = STEPS[state.tour];
      const isHere = isAt(state, stateAt(state.tour, state.model));
      el.tourTitle.textContent = `${state.tour + 1}. ${title}`;
      el.tourText.replaceChildren(...text(told).map((sentence) => element("p", "", sentence)));
      el.tourText.classList.toggle("osx-quiet", !isHere);
      el.tourChanged.textContent = isHere ? "" : "This is the text of the step as it was; something is changed now.";
      el.tourAgain.hidden = isHere;
      el.tourMore.hidden = !more;
      el.tourMore.textContent = more ? more[0] : "";
      enable(el.tourBack, state.tour > 0);
      enable(el.tourNext, state.tour < STEPS.length - 1);
    },
  };
}
